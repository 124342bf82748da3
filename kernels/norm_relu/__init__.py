"""`norm_relu` on Triton: batch norms by kernels that read maps of any strides, between torch's convolutions.

Forward a map is read twice, for its statistics and to be normalised; backward once to be normalised again, once for the
sums and once for the gradient. What sums are merged into, each program of the next kernel merges for its channels, so
that a norm takes two launches forward and three backward, of however many batches. A program works on tiles of channels
× pixels of one image: one channel and many pixels where pixels are neighbours in memory, many channels where these are.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from seqca.ops.shared import norm_block
from seqca.ops.shared.norm_block import Norm, Normalised, NormGradients
from seqca.ops.shared.synchronisation import merged_moments
from seqca.ops.shared.synchronisation import summed as over_processes

from ..launch import launch
from .backward import norm_relu_backward_input, norm_relu_backward_sums
from .forward import norm_relu_forward_output, norm_relu_forward_statistics

_TILE = 1024
"""Elements of a tile."""

_PROGRAMS = 1056
"""That share out a map: eight for each multiprocessor of an H200. Of a channels-last one half as many: a run of its
pixels is one of all channels, and each program merges all runs."""

_ROWS = 32
"""Of sums of runs of pixels, which are merged at once."""


class _Tiling(NamedTuple):
    """How a map (B, C, H, W) is shared out: programs, blocks of channels, and runs of the pixels of an image."""

    flat: bool
    block: int
    """Channels of a tile."""
    tile: int
    """Pixels of a tile."""
    parts: int
    """Runs of an image."""
    span: int
    """Pixels of a run."""

    @classmethod
    def of(cls, maps: Sequence[Tensor]) -> "_Tiling":
        """That of maps of one shape; the first decides whether pixels or channels are neighbours in memory."""
        images, channels, height, width = maps[0].shape
        pixels = height * width
        if maps[0].stride(1) == 1 and channels > 1:
            block = min(triton.next_power_of_2(channels), 64)
            tile, programs = _TILE // block, _PROGRAMS // 2
        else:
            tile, programs = min(triton.next_power_of_2(pixels), _TILE), _PROGRAMS
            block = min(triton.next_power_of_2(channels), _TILE // tile)
        tiles = triton.cdiv(pixels, tile)
        of_run = triton.cdiv(tiles, triton.cdiv(programs, images * triton.cdiv(channels, block)))
        flat = all(x.stride(2) == width * x.stride(3) or height == 1 for x in maps)
        return cls(flat, block, tile, triton.cdiv(tiles, of_run), of_run * tile)


class _Passes:
    def __init__(self, batches: int) -> None:
        """Of maps of so many batches, one after the other in the images."""
        self._batches = batches

    def forward(
        self,
        y: Tensor,
        weight: Tensor,
        bias: Tensor,
        running: tuple[Tensor, Tensor] | None,
        eps: float,
        group: str,
        addend: Tensor | None,
        rectify: bool,
    ) -> Normalised:
        """See `norm_block.Passes`."""
        if running is None:
            moments = self._partial(y, 3)
            self._run(norm_relu_forward_statistics, y, {"y": y}, {"moments": moments, "rows": moments.shape[2]})
            moments = _of_processes(moments, self._tokens(y), group)
        else:
            mean, variance = (x.float() for x in running)
            moments = torch.stack([torch.ones_like(mean), mean, variance])[None, :, None]  # as of a single pixel
        mean, variance, inverse = (weight.new_empty(self._batches * len(weight)) for _ in range(3))
        output = torch.empty_like(y)
        maps = {"y": y, "addend": y if addend is None else addend, "output": output}
        vectors = {"mean": mean, "variance": variance, "inverse": inverse, "weight": weight, "bias": bias}
        others = {"moments": moments, "rows": moments.shape[2], "eps": eps, "ROWS": _ROWS, **vectors}
        self._run(norm_relu_forward_output, y, maps, others, MERGE=True, ADD=addend is not None, RECTIFY=rectify)
        return Normalised(output, mean, variance, inverse)

    def again(self, y: Tensor, norm: Norm, addend: Tensor | None, rectify: bool) -> Tensor:
        """See `norm_block.Passes`."""
        output = torch.empty_like(y)
        maps = {"y": y, "addend": y if addend is None else addend, "output": output}
        unread = {"moments": norm.mean, "variance": norm.mean, "rows": 1, "eps": 0.0, "ROWS": _ROWS}
        others = {**norm._asdict(), **unread}
        self._run(norm_relu_forward_output, y, maps, others, MERGE=False, ADD=addend is not None, RECTIFY=rectify)
        return output

    def backward(
        self,
        grad: Tensor,
        y: Tensor,
        norm: Norm,
        addend: Tensor | None,
        result: Tensor | None,
        rectify: bool,
        training: bool,
        group: str,
    ) -> NormGradients:
        """See `norm_block.Passes`; a result at hand is not read, since it follows from y, which is."""
        add = addend is not None and rectify
        rectified = torch.empty_like(y) if add else grad
        sums, tokens = self._partial(y, 2), self._tokens(y)
        maps = {"grad": grad, "y": y, "addend": y if addend is None else addend, "rectified": rectified}
        others = {**norm._asdict(), "sums": sums, "rows": sums.shape[2]}
        self._run(norm_relu_backward_sums, y, maps, others, ADD=add, RECTIFY=rectify)
        own = None
        if training and group:
            own = sums.sum(2, dtype=torch.float64)
            total, shifts, scales = over_processes(tokens, *own.unbind(1), group)
            sums = (torch.stack([shifts, scales], 1) * (tokens / total)).float()[:, :, None]
        gradient, d_weight, d_bias = torch.empty_like(y), torch.empty_like(norm.weight), torch.empty_like(norm.bias)
        maps = {"grad": rectified, "y": y, "gradient": gradient}
        of_norm = {"sums": sums, "rows": sums.shape[2], "d_weight": d_weight, "d_bias": d_bias, "share": 1 / tokens}
        others = {**norm._asdict(), **of_norm, "batches": self._batches, "ROWS": _ROWS}
        self._run(norm_relu_backward_input, y, maps, others, RECTIFY=rectify and not add, TRAINING=training)
        if own is not None:
            d_weight, d_bias = (own[:, 1] * norm.inverse.view(self._batches, -1)).sum(0), own[:, 0].sum(0)
        return NormGradients(rectified, gradient, d_weight, d_bias)

    def _run(
        self, kernel: Any, y: Tensor, maps: Mapping[str, Tensor], others: Mapping[str, Any], **constants: bool
    ) -> None:
        """Starts a kernel on maps of the shape of y, one of them."""
        tiling = _Tiling.of([y, *maps.values()])
        images, channels, height, width = y.shape
        shares = {"channels": channels, "parts": tiling.parts, "span": tiling.span, "pixels": height * width}
        sizes = {"FLAT": tiling.flat, "CHANNELS": tiling.block, "PIXELS": tiling.tile}
        strides = {f"{name}_strides": x.stride() for name, x in maps.items()}
        grid = (images * tiling.parts * triton.cdiv(channels, tiling.block),)
        of_batch = {"images": images // self._batches, "width": width}
        arguments = {**maps, **others, **strides, **shares, **of_batch, **constants, **sizes}
        launch(kernel, grid, y.device, arguments, num_warps=4)

    def _partial(self, y: Tensor, numbers: int) -> Tensor:
        """For so many numbers of each run of pixels and channel, (batches, numbers, rows of a batch, channels)."""
        rows = y.shape[0] // self._batches * _Tiling.of([y]).parts
        return y.new_empty(self._batches, numbers, rows, y.shape[1], dtype=torch.float32)

    def _tokens(self, y: Tensor) -> int:
        """Pixels of the images of a batch."""
        return y.numel() // y.shape[1] // self._batches


def _of_processes(moments: Tensor, tokens: int, group: str) -> Tensor:
    """Moments of runs of pixels, or under a process group those of all processes as of one run of each batch."""
    if not group:
        return moments
    counts, means, deviations = moments.double().unbind(1)
    mean = (counts * means).sum(1, keepdim=True) / tokens
    squares = (deviations + counts * (means - mean).square()).sum(1, keepdim=True)
    total, mean, squares = merged_moments(tokens, mean, squares, group)
    return torch.stack([torch.ones_like(mean) * total, mean, squares], 1).float()


def forward(
    maps: Sequence[Tensor],
    weights: Sequence[Tensor],
    norm_weights: Sequence[Tensor],
    norm_biases: Sequence[Tensor],
    residual: Tensor | None,
    strides: Sequence[int],
    projection: bool,
    batches: int,
    running_means: Sequence[Tensor],
    *rest: Any,
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    """See `norm_block.forward`."""
    layers = (maps, weights, norm_weights, norm_biases, residual, strides, projection, batches, running_means)
    return norm_block.forward(_Passes(1 if running_means else batches), *layers, *rest)


def backward(*arguments: Any) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor], Tensor]:
    """See `norm_block.backward`."""
    *_, batches, training, _ = arguments
    return norm_block.backward(_Passes(batches if training else 1), *arguments)
