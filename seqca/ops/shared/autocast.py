"""Autocast, for the public functions.

A rule registered with torch.library has one fixed dtype, while autocast has the user's, so the public
functions cast before they call the custom operator.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_DEVICES = tuple(filter(torch.amp.is_autocast_available, ("cpu", "cuda", "mps", "xpu", "hpu", "mtia", "maia", "xla")))
"""Device types that have an autocast. Asked at import, as the compiler of torch 2.11 cannot trace the question."""


def to_autocast_dtype(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Floating tensors in the dtype of the autocast of their device; unchanged outside autocast.

    Like torch's own rules it leaves float64 alone. What stands several times does so afterwards too.
    """
    if not [device for device in _DEVICES if torch.is_autocast_enabled(device)]:
        return list(tensors)
    found = {id(tensor): _cast(tensor) for tensor in tensors}
    return [found[id(tensor)] for tensor in tensors]


def autocasts(device: str) -> bool:
    """Whether autocast is on for a device type."""
    return device in _DEVICES and torch.is_autocast_enabled(device)


def _cast(tensor: Tensor) -> Tensor:
    device = tensor.device.type
    if not autocasts(device):
        return tensor
    if not tensor.is_floating_point() or tensor.dtype == torch.float64:
        return tensor
    return tensor.to(torch.get_autocast_dtype(device))
