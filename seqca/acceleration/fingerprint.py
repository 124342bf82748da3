"""A fingerprint of what methods do: of their source, without what does not change its meaning.

Hashed is the syntax tree, in a notation of its own. `ast.dump` writes another one in every version of Python, with
fields that are new, and with empty ones or without; the trees of code that Python 3.10 can read differ in nothing else.
Formatting, comments, docstrings and annotations do not count; decorators do.
"""

import ast
import inspect
from collections.abc import Collection, Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any, cast
from weakref import WeakKeyDictionary

from torch import nn

_remembered: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
"""The notations of functions, which are what is hashed: a class may be given other ones."""

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
        SyntaxError, TypeError: what is there is no function, or the middle of an expression, or a function that was put
            around the one of the class.
    """
    return _hashed(_notation_of(getattr(cls, name)) for name in methods or ("forward",))


def source_fingerprint(*sources: str) -> str:
    """`fingerprint` of functions whose source is given, indented or not."""
    return _hashed(_notation(_function(source)) for source in sources)


def file_fingerprint(path: Path, class_name: str, *methods: str) -> str:
    """`fingerprint` of methods of a class of a file, which is parsed and not imported.

    Inherited ones are found where the base class is in the same file, or imported from one beside it by its name alone,
    as in ``from .base import Base``.

    Raises:
        ValueError: names the class or the method that is not there.
    """
    defined = _methods(path, class_name)
    if defined is None:
        raise ValueError(f"{path}: got no class {class_name}, expected one")
    if missing := [name for name in methods or ("forward",) if name not in defined]:
        raise ValueError(f"{path}: got no method {missing[0]} of {class_name}, expected it to be defined there")
    return _hashed(_notation(defined[name]) for name in methods or ("forward",))


def _methods(path: Path, class_name: str) -> dict[str, ast.FunctionDef] | None:
    """Those of a class by name, or None if a file has no such class."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    found = next((each for each in nodes if isinstance(each, ast.ClassDef) and each.name == class_name), None)
    if found is None:
        return None
    beside = {
        alias.name: path.with_name(f"{each.module}.py")
        for each in nodes
        if isinstance(each, ast.ImportFrom) and each.level == 1
        for alias in each.names
    }
    methods: dict[str, ast.FunctionDef] = {}
    for base in reversed(found.bases):
        if isinstance(base, ast.Name) and base.id != class_name:
            file = beside.get(base.id, path)
            methods |= (_methods(file, base.id) if file.is_file() else None) or {}
    return methods | {each.name: each for each in found.body if isinstance(each, ast.FunctionDef)}


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


def _notation_of(method: Any) -> str:
    if method not in _remembered:
        function = _function(inspect.getsource(method))
        # `getsource` reads what is inside.
        if _wrappings(method) > len(getattr(function, "decorator_list", ())):
            raise TypeError(f"{method.__qualname__}: got a method in a wrapper, expected the one of its class")
        _remembered[method] = _notation(function)
    return _remembered[method]


def _wrappings(method: Any) -> int:
    """How many functions were put around each other; decorators that do not say so are not counted."""
    return 1 + _wrappings(method.__wrapped__) if hasattr(method, "__wrapped__") else 0


def _function(source: str) -> ast.stmt:
    indented = source[:1].isspace()  # as a method is; it cannot be dedented, since text in it may start at the margin
    (statement,) = ast.parse(f"if True:\n{source}" if indented else source).body
    return cast(ast.If, statement).body[0] if indented else statement


def _hashed(notations: Iterable[str]) -> str:
    return sha256("\n".join(notations).encode()).hexdigest()[:16]


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
