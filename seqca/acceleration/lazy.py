"""Full-size predictions that are made when somebody reads them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class LazyMap:
    """A map that is upsampled bilinearly (align_corners=False) when it is read.

    Functions of torch, methods, operators and indices read it; shape, dtype and device do not. It is no `Tensor` for
    `isinstance`. A criterion that upsamples by itself takes `coarse`, unless the map has
    `changed`.
    """

    coarse: Tensor
    """(B, C, h, w)."""
    to_size: tuple[int, int]
    """(H, W)."""

    def full(self) -> Tensor:
        """The map (B, C, H, W), made once, with the gradient that the network would have given it."""
        made: Tensor | None = vars(self).get("_full")
        if made is None:
            with torch.set_grad_enabled(self.coarse.requires_grad):
                made = F.interpolate(self.coarse, self.to_size, mode="bilinear", align_corners=False)
            vars(self)["_full"] = made
        return made

    @property
    def changed(self) -> bool:
        """Whether the full map was written into, or may have been: then it is no longer what `coarse` becomes."""
        made: Tensor | None = vars(self).get("_full")
        return made is not None and (made.is_inference() or made._version > 0)

    @property
    def shape(self) -> torch.Size:
        """(B, C, H, W)."""
        return torch.Size((*self.coarse.shape[:-2], *self.to_size))

    @property
    def dtype(self) -> torch.dtype:
        """Of the coarse map, and so of the full one."""
        return self.coarse.dtype

    @property
    def device(self) -> torch.device:
        """Of both."""
        return self.coarse.device

    def size(self, dim: int | None = None) -> Any:
        """The shape, or one side of it."""
        return self.shape if dim is None else self.shape[dim]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("coarse", "to_size"):  # of an object that is being copied
            raise AttributeError(name)
        return getattr(self.full(), name)

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: Any,
        arguments: Sequence[Any],
        keywords: Mapping[str, Any] | None = None,
    ) -> Any:
        return function(*_full(arguments), **_full(keywords or {}))


def upsampled_lazily(module: nn.Module, coarse: Tensor, size: Sequence[int]) -> LazyMap:
    """What a fused `forward` returns in place of a full-size prediction.

    Args:
        module: whose `forward` it is.
        coarse: (B, C, h, w).
        size: (H, W).

    Raises:
        RuntimeError: the module is a replica of `nn.DataParallel`, which could not gather it.
    """
    if getattr(module, "_is_replica", False):
        raise RuntimeError("lazy predictions cannot be gathered by nn.DataParallel; use accelerate(…, outputs='full')")
    height, width = size
    return LazyMap(coarse, (height, width))


def _full(tree: Any) -> Any:
    """A tree of arguments, its lazy maps read."""
    if isinstance(tree, LazyMap):
        return tree.full()
    if isinstance(tree, Mapping):
        return {key: _full(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(map(_full, tree)) if not hasattr(tree, "_fields") else type(tree)(*map(_full, tree))
    return tree


def _operator(name: str) -> Callable[..., Any]:
    def apply(self: LazyMap, *others: Any) -> Any:
        return getattr(self.full(), name)(*map(_full, others))

    return apply


_OPERATORS = (
    *("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "floordiv", "rfloordiv", "mod", "rmod"),
    *("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow"),  # write into the full map, see `changed`
    *("pow", "rpow", "matmul", "rmatmul", "neg", "abs", "invert", "eq", "ne", "lt", "le", "gt", "ge"),
    *("getitem", "setitem", "len", "iter", "bool", "float", "int"),
)

for _name in _OPERATORS:  # Python looks them up on the class alone
    setattr(LazyMap, f"__{_name}__", _operator(f"__{_name}__"))
