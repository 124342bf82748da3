"""Tensors in what steps take and return: mappings, lists, tuples, dataclasses."""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import Tensor

from .lazy import LazyMap


def branches(tree: Any) -> dict[str, Any]:
    """What a tree consists of, by what is written behind it to get there; nothing, if it is none."""
    if isinstance(tree, Mapping):
        return {f"[{key}]": value for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return {f".{name}": value for name, value in zip(tree._fields, tree, strict=True)}
    if isinstance(tree, (list, tuple)):
        return {f"[{i}]": value for i, value in enumerate(tree)}
    if is_dataclass(tree) and not isinstance(tree, type):
        return {f".{field.name}": getattr(tree, field.name) for field in fields(tree)}
    return {}


def named_tensors(name: str, tree: Any) -> dict[str, Tensor]:
    """The floating tensors of a tree that are not empty, by the expression that leads to them."""
    if isinstance(tree, LazyMap):
        tree = tree.full()
    if isinstance(tree, Tensor):
        return {name: tree} if tree.is_floating_point() and tree.numel() else {}
    return {k: x for step, branch in branches(tree).items() for k, x in named_tensors(name + step, branch).items()}


def mapped(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """The same tree with each floating tensor passed through a function; mappings become dicts."""
    if isinstance(tree, Tensor):
        return function(tree) if tree.is_floating_point() and tree.numel() else tree
    if isinstance(tree, Mapping):
        return {key: mapped(function, value) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(mapped(function, value) for value in tree))
    if isinstance(tree, (list, tuple)):
        return type(tree)(mapped(function, value) for value in tree)
    if is_dataclass(tree) and not isinstance(tree, type):
        return replace(tree, **{field.name: mapped(function, getattr(tree, field.name)) for field in fields(tree)})
    return tree
