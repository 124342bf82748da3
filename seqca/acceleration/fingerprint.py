"""A fingerprint of what methods do: of their source, without what does not change its meaning.

Hashed is the syntax tree, in a notation of its own. `ast.dump` writes another one in every version of Python, with
fields that are new, and with empty ones or without; the trees of code that Python 3.10 can read differ in nothing else.
Formatting, comments, docstrings and annotations do not count; decorators do.

`python -m seqca.acceleration.fingerprint file.py Class [method ...]` prints the fingerprint of a class, whose file is
parsed and not imported.
"""

import ast
import inspect
import sys
from collections.abc import Collection, Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any, cast
from weakref import WeakKeyDictionary

from torch import nn

_remembered: WeakKeyDictionary[type, dict[tuple[str, ...], str]] = WeakKeyDictionary()

_WITHOUT_MEANING = {"annotation", "returns", "type_comment", "type_params", "kind"}
"""Fields of nodes; `kind` tells u"" from ""."""


def fingerprint(cls: type, *methods: str) -> str:
    """Of methods of a class, inherited ones included.

    Args:
        cls: the class.
        methods: names, in the order in which they are hashed; `forward` alone, if there are none.

    Returns:
        16 hexadecimal digits, the same on every supported version of Python.

    Raises:
        AttributeError: a method that is not there.
        OSError: the source cannot be read, as of a class that was typed in.
        SyntaxError, TypeError: what is there is no function, or the middle of an expression.
    """
    known = _remembered.setdefault(cls, {})
    if methods not in known:
        known[methods] = source_fingerprint(
            *(inspect.getsource(getattr(cls, name)) for name in methods or ("forward",))
        )
    return known[methods]


def source_fingerprint(*sources: str) -> str:
    """`fingerprint` of functions whose source is given, indented or not."""
    return _hashed(map(_function, sources))


def matches(
    module: nn.Module, class_name: str, fingerprints: Collection[str], methods: tuple[str, ...] = ("forward",)
) -> bool:
    """Whether a module is of a class of this name whose methods have one of the fingerprints."""
    if type(module).__name__ != class_name:
        return False
    try:
        return fingerprint(type(module), *methods) in fingerprints
    except (AttributeError, OSError, SyntaxError, TypeError):
        return False


def _function(source: str) -> ast.stmt:
    indented = source[:1].isspace()  # as a method is; it cannot be dedented, since text in it may start at the margin
    (statement,) = ast.parse(f"if True:\n{source}" if indented else source).body
    return cast(ast.If, statement).body[0] if indented else statement


def _hashed(functions: Iterable[ast.stmt]) -> str:
    return sha256("\n".join(map(_notation, functions)).encode()).hexdigest()[:16]


def _notation(value: Any) -> str:
    """A node, a list of nodes, or what a node holds, in ASCII: what is printable depends on the version."""
    if isinstance(value, list):
        return f"[{' '.join(map(_notation, value))}]"
    if not isinstance(value, ast.AST):
        return ascii(value)
    fields = []
    for name, inner in ast.iter_fields(value):
        if name == "body" and isinstance(value, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            inner = _without_docstring(inner)
        if name not in _WITHOUT_MEANING and inner is not None and inner != []:
            fields.append(f"{name}={_notation(inner)}")
    return f"{type(value).__name__}({' '.join(sorted(fields))})"


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0]
    is_text = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    return body[1:] if is_text else body


def main(path: str, class_name: str, *methods: str) -> None:
    """Prints the fingerprint of methods that a class of a file defines."""
    for node in ast.walk(ast.parse(Path(path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            defined = {each.name: each for each in node.body if isinstance(each, ast.FunctionDef)}
            print(_hashed(defined[name] for name in methods or ("forward",)))
            return
    sys.exit(f"{path}: got no class {class_name}, expected one")


if __name__ == "__main__":
    main(*sys.argv[1:])
