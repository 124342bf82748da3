"""A fingerprint tells what a method does, not how it is written."""

import pytest
from torch import nn

from seqca.acceleration import fingerprint, matches
from seqca.acceleration.fingerprint import main, source_fingerprint

PLAIN = """
def forward(self, x, *maps, scale=2, **others):
    if x is None or not maps:
        raise ValueError(f"got {len(maps)!r:>{scale}} é maps" "and nothing")
    out = {k: v[..., ::2] for k, v in others.items() if k != -1}
    with self.scope as scope, open("x"):
        for i in range(3):
            out[i] = lambda y, /, z=1.5e-3: y @ z + 1j
    return out, scope, b"\\n", (yield), ..., None, True
""".strip()

WRITTEN_OTHERWISE = '''
def forward(
    self, x: "Tensor", *maps: list[int], scale: int = 2, **others
) -> "Tensor":
    """Says what
it does, at the margin."""
    # A comment.
    if (x is None) or (not maps): raise ValueError(f'got {len(maps)!r:>{scale}} é maps' 'and nothing')
    out = {k: v[..., ::2] for (k, v) in others.items() if k != -1}
    with self.scope as scope, open('x'):
        for i in range(3):

            out[i] = (lambda y, /, z=0.0015: y @ z + 1j)
    return (out, scope, b"\\n", (yield), ..., None, True)
'''.strip()


def indented(source: str) -> str:
    return source.replace("\n", "\n    ").replace("    def", "def", 0).join(["    ", "\n"])


def test_formatting_comments_docstrings_and_annotations_do_not_count() -> None:
    assert source_fingerprint(PLAIN) == source_fingerprint(WRITTEN_OTHERWISE) == source_fingerprint(indented(PLAIN))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("scale=2", "scale=3"),
        ("is None or", "is None and"),
        ("::2", "::1"),
        ("!= -1", "!= 1"),
        ("1.5e-3", "1.5e-4"),
        ("range(3)", "range(True)"),
        ("!r", "!s"),
        ("y, /, z", "y, z"),
        ("self.scope", "self.scopes"),
        ("def forward", "@no_grad\ndef forward"),
        ("def forward", "async def forward"),
        ("None, True", "None, False"),
    ],
)
def test_everything_else_counts(old: str, new: str) -> None:
    changed = PLAIN.replace(old, new)
    if "async" in new:
        changed = changed.replace("(yield), ", "")
        assert source_fingerprint(changed) != source_fingerprint(PLAIN.replace("(yield), ", ""))
    else:
        assert changed != PLAIN and source_fingerprint(changed) != source_fingerprint(PLAIN)


def test_it_is_the_same_on_every_version_of_python() -> None:
    assert source_fingerprint(PLAIN) == "20b070a98ff11977"


class Parent(nn.Module):
    def forward(self, x: int) -> int:
        return self.twice(x)

    def twice(self, x: int) -> int:
        return 2 * x


class Child(Parent):
    def twice(self, x: int) -> int:
        return 3 * x


def test_inherited_methods_count_and_so_do_the_others_that_are_named() -> None:
    assert fingerprint(Child) == fingerprint(Parent) == fingerprint(Parent, "forward")
    assert fingerprint(Child, "forward", "twice") != fingerprint(Parent, "forward", "twice")


def test_a_module_matches_by_name_and_source() -> None:
    known = [fingerprint(Parent)]
    assert matches(Parent(), "Parent", known)
    assert not matches(Child(), "Parent", known) and not matches(Parent(), "Parent", ["0"])
    assert not matches(Parent(), "Parent", known, ("backward",))


def test_a_class_without_source_matches_nothing() -> None:
    space: dict = {"nn": nn}
    exec("class Typed(nn.Module):\n    def forward(self, x):\n        return x", space)
    with pytest.raises(OSError):
        fingerprint(space["Typed"])
    assert not matches(space["Typed"](), "Typed", ["0"])


def test_the_command_prints_the_fingerprint_of_a_file(capsys: pytest.CaptureFixture) -> None:
    main(__file__, "Parent", "forward", "twice")
    assert capsys.readouterr().out.strip() == fingerprint(Parent, "forward", "twice")
    with pytest.raises(SystemExit, match="no class Nobody"):
        main(__file__, "Nobody")
