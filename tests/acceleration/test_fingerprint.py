"""A fingerprint tells what a method does, not how it is written."""

from pathlib import Path

import pytest
import torch
from torch import nn

from seqca.acceleration import fingerprint, matches
from seqca.acceleration.__main__ import main
from seqca.acceleration.fingerprint import file_fingerprint, source_fingerprint

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


def test_a_forward_that_was_put_in_place_of_another_is_another() -> None:
    class Patched(Parent):
        pass

    known = [fingerprint(Patched)]
    Patched.forward = lambda self, x: x + 1
    assert not matches(Patched(), "Patched", known)


def test_a_forward_that_was_wrapped_matches_nothing_though_its_inner_source_is_known() -> None:
    class Wrapped(Parent):
        pass

    known = [fingerprint(Wrapped)]
    Wrapped.forward = torch.no_grad()(Parent.forward)
    assert not matches(Wrapped(), "Wrapped", known)
    with pytest.raises(TypeError, match=r"Parent\.forward: got a method in a wrapper"):
        fingerprint(Wrapped)


class Decorated(nn.Module):
    @torch.no_grad()
    def forward(self, x: int) -> int:
        return x


def test_a_decorated_forward_is_known_with_its_decorator(capsys: pytest.CaptureFixture) -> None:
    main(__file__, "Decorated")
    assert capsys.readouterr().out.strip() == fingerprint(Decorated)


def test_a_decorated_forward_that_was_wrapped_once_more_matches_nothing() -> None:
    class Wrapped(Decorated):
        forward = torch.inference_mode()(Decorated.forward)

    with pytest.raises(TypeError, match="got a method in a wrapper"):
        fingerprint(Wrapped)


def test_the_command_prints_the_fingerprint_of_a_file(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    main(__file__, "Parent", "forward", "twice")
    assert capsys.readouterr().out.strip() == fingerprint(Parent, "forward", "twice")
    (tmp_path / "half.py").write_text("class")
    for file in ("half.py", "none.py"):
        with pytest.raises(SystemExit, match=rf"{file}: got no readable Python file, expected one: .*"):
            main(str(tmp_path / file), "Parent")
    with pytest.raises(SystemExit, match="no class Nobody"):
        main(__file__, "Nobody")
    with pytest.raises(SystemExit, match="no method backward of Parent"):
        main(__file__, "Parent", "backward")


def test_methods_that_a_class_of_a_file_inherits_are_found_there_and_in_files_beside_it(tmp_path: Path) -> None:
    known = fingerprint(Child, "forward", "twice")
    assert file_fingerprint(Path(__file__), "Child", "forward", "twice") == known
    (tmp_path / "base.py").write_text("class Base(Other):\n    def forward(self, x):\n        return self.twice(x)\n")
    child = "from .base import Base\nclass Child(Base):\n    def twice(self, x):\n        return 3 * x\n"
    (tmp_path / "child.py").write_text(child)
    assert file_fingerprint(tmp_path / "child.py", "Child", "forward", "twice") == known
