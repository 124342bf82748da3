"""Products and convolutions of float32 in float32, whatever torch's switches say."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from operator import attrgetter

import torch
from torch import backends

_SWITCHES = [
    attrgetter(name)(backends) for name in ("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv")
]


@contextmanager
def without_tf32() -> Iterator[None]:
    """Where results under judgement, and those that they are judged by, are computed.

    Torch by default lets cuDNN's convolutions take TF32. Its older switches, which are one for all convolutions and one
    for all products, cannot be read where those by backend say something else. Both families are set, so that whoever
    asks inside is told the same.
    """
    by_backend = [switch.fp32_precision for switch in _SWITCHES]
    products, convolutions = None, None
    with suppress(RuntimeError):
        products = torch.get_float32_matmul_precision()
    with suppress(RuntimeError):
        convolutions = backends.cudnn.allow_tf32
    _set("highest", False, ["ieee"] * len(_SWITCHES))
    try:
        yield
    finally:
        _set(products, convolutions, by_backend)


def _set(products: str | None, convolutions: bool | None, by_backend: list[str]) -> None:
    if products is not None:
        torch.set_float32_matmul_precision(products)
    if convolutions is not None:
        backends.cudnn.allow_tf32 = convolutions
    for switch, precision in zip(_SWITCHES, by_backend, strict=True):
        switch.fp32_precision = precision
