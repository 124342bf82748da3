"""Aggregation heads on Triton: y = Σ up(X_i) W_i is made by tiles, four times, and never written to memory.

Forward: the operands (`pyramid`), mean and squared deviations of y, then predictions. Backward: sums over all tokens,
by which the gradients of the norm and of the last layer follow, then the gradient of y of some images at a time, from
which plain products and a gather make those of the maps and of the weight.

The statistics are those of y as it is normalised, with all that has been rounded on the way, and γ/σ and the mean enter
in fp32 after the product: nothing is folded into operands that are rounded.
"""

from typing import Any

import torch
import triton
from torch import Tensor

from seqca.ops.shared.synchronisation import merged_moments, summed

from ..launch import launch
from ..pyramid import Pyramid
from ..pyramid.geometry import GROUPS
from .backward import aggregation_head_backward_sums, aggregation_head_backward_tokens
from .forward import aggregation_head_forward_prediction, aggregation_head_forward_statistics

_PROGRAMS = 264
"""Runs of tiles that are summed by a program each: two for each multiprocessor of an H200."""


def forward(
    maps: list[Tensor],
    order: list[int],
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    prediction_weight: Tensor,
    prediction_bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    eps: float,
    group: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Prediction, mean and unbiased variance of y, and for backward 1/σ and mean less bias (C,).

    The last result, in the contract the mean of the maps, is 0: nothing here needs it.
    """
    head = _Head(maps, order, weight, prediction_weight, running_mean is None)
    own_bias = 0 if bias is None else bias.double()
    if running_mean is None or running_var is None:
        own, squares = head.moments()
        total, mean, squares = merged_moments(head.tokens, own + head.pyramid.lost + own_bias, squares, group)
        inverse, variance = (squares / total + eps).rsqrt(), squares / (total - 1)
    else:
        mean, variance = running_mean.double(), running_var.double()
        inverse = (variance + eps).rsqrt()
    centre, inverse = (mean - head.pyramid.lost - own_bias).float(), inverse.float()
    prediction = head.prediction(head.vectors(centre, norm_weight * inverse, norm_bias), prediction_bias)
    average = torch.zeros(sum(x.shape[1] for x in maps), dtype=torch.float64, device=weight.device)
    return prediction, mean.float(), variance.float(), inverse, centre, average


def backward(
    grad: Tensor,
    maps: list[Tensor],
    order: list[int],
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    prediction_weight: Tensor,
    prediction_bias: Tensor | None,
    inverse: Tensor,
    excess: Tensor,
    average: Tensor,
    training: bool,
    group: str,
) -> tuple[list[Tensor], Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the maps, the weight, its bias, γ, β, and of the last layer's weight and bias, in their dtypes."""
    head = _Head(maps, order, weight, prediction_weight, training)
    scale = norm_weight * inverse
    d_shift, d_scale, d_last = head.sums(grad, head.vectors(excess, scale, norm_bias))
    d_scale = d_scale * inverse
    d_bias = d_shift * scale
    constant = slope = torch.zeros_like(scale)
    if training:
        total, shifts, scales = summed(head.tokens, d_shift, d_scale, group)
        constant, slope = (scale * shifts / total).float(), (scale * scales * inverse / total).float()
        d_bias -= constant * head.tokens  # 0 where there is one process, as is the mean of y less that of all processes
    vectors = head.vectors(excess, scale, norm_bias, constant, slope)
    of_images = []

    def fill(gradient: Tensor, images: slice) -> None:
        head.gradient(grad, vectors, gradient, images)
        if training and group:
            of_images.append(gradient.sum(0, dtype=torch.float32))

    d_maps, d_weight = head.pyramid.adjoint(fill)
    if of_images:
        d_bias = torch.stack(of_images).sum(0)[: len(weight)]
    return (
        d_maps,
        d_weight,
        d_bias.to(weight.dtype),
        d_scale.to(norm_weight.dtype),
        d_shift.to(norm_bias.dtype, copy=True),
        d_last.to(prediction_weight.dtype).contiguous().view(prediction_weight.shape),
        grad.sum((0, 2, 3), dtype=torch.float32).to(prediction_weight.dtype),
    )


class _Head:
    """The operands of a call, and its launches.

    Tensor cores cut off what they add up, towards 0. The mean of a batch takes from y what is alike in the errors of
    all its pixels; running statistics do not, and there products of float32 are taken without tensor cores.
    """

    def __init__(
        self, maps: list[Tensor], order: list[int], weight: Tensor, prediction_weight: Tensor, training: bool
    ) -> None:
        self.pyramid = p = Pyramid(maps, order, weight)
        self._arguments = p.arguments()
        if not training and self._arguments["PRECISION"] == "tf32x3":
            self._arguments["PRECISION"] = "ieee"
        self.channels, self.outputs = len(weight), len(prediction_weight)
        self.tokens = p.images * p.geometry.height * p.geometry.width
        self._device = weight.device
        self._block = min(max(16, triton.next_power_of_2(self.outputs)), p.tile_sizes.outputs)
        outputs = -(-self.outputs // self._block) * self._block
        self._last = weight.new_zeros(outputs, p.padded)
        self._last[: self.outputs, : self.channels] = prediction_weight.flatten(1)
        self._span = -(-p.tiles // _PROGRAMS)
        self._programs = -(-p.tiles // self._span)

    def vectors(self, *by_channel: Tensor) -> Tensor:
        """Mean of y, scale, shift and so on (C,), side by side in fp32, 0 for the channels that pad."""
        rows = torch.zeros(len(by_channel), self.pyramid.padded, device=self._device)
        torch.stack([x.float() for x in by_channel], out=rows[:, : self.channels])
        return rows

    def _launch(self, kernel: Any, grid: tuple[int, ...], arguments: dict[str, Any]) -> None:
        warps = self.pyramid.tile_sizes.warps
        launch(kernel, grid, self._device, self._arguments | arguments, num_warps=warps)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Means of y without bias, and sums of the squared deviations from them, (C,), in fp64."""
        means, squares = torch.empty(2, self._programs * GROUPS, self.pyramid.padded, device=self._device)
        counts = means.new_empty(self._programs * GROUPS)
        sizes = {"tiles": self.pyramid.tiles, "span": self._span}
        arguments = {"means": means, "squares": squares, "counts": counts, **sizes}
        self._launch(aggregation_head_forward_statistics, (self._programs,), arguments)
        means, squares, counts = (x.double() for x in (means[:, : self.channels], squares[:, : self.channels], counts))
        mean = torch.mv(means.T, counts) / self.tokens
        return mean, squares.sum(0) + torch.mv((means - mean).square().T, counts)

    def prediction(self, vectors: Tensor, bias: Tensor | None) -> Tensor:
        """(B, outputs, H, W)."""
        g = self.pyramid.geometry
        offset = torch.zeros(len(self._last), device=self._device)
        if bias is not None:
            offset[: self.outputs] = bias
        prediction = self._last.new_empty(self.pyramid.images, self.outputs, g.height, g.width)
        tensors = {"vectors": vectors, "last": self._last, "offset": offset, "prediction": prediction}
        arguments = {**tensors, "outputs": self.outputs, "OUTPUTS": self._block}
        grid = (self.pyramid.tiles, len(self._last) // self._block)
        self._launch(aggregation_head_forward_prediction, grid, arguments)
        return prediction

    def _of_gradient(self, grad: Tensor, vectors: Tensor) -> dict[str, Any]:
        return {
            "vectors": vectors,
            "last": self._last,
            "grad": grad,
            "outputs": self.outputs,
            **dict(zip(("from_b", "from_c", "from_y", "from_x"), grad.stride(), strict=True)),
            "OUTPUTS": self._block,
            "MANY": self.outputs > self._block,
        }

    def sums(self, grad: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Σ s, Σ s (y − mean), (C,), and Σ gᵀ h (outputs, C), in fp32."""
        blocks = len(self._last) // self._block
        sums = torch.empty(blocks, self._programs, 2, GROUPS, self.pyramid.padded, device=self._device)
        of_last = torch.empty(self._programs, self.outputs, self.pyramid.padded, device=self._device)
        sizes = {"tiles": self.pyramid.tiles, "span": self._span}
        arguments = {**self._of_gradient(grad, vectors), "sums": sums, "of_last": of_last, **sizes}
        self._launch(aggregation_head_backward_sums, (self._programs, blocks), arguments)
        shifts, scales = sums[0].sum((0, 2), dtype=torch.float64).float()[:, : self.channels]
        return shifts, scales, of_last.sum(0)[:, : self.channels]

    def gradient(self, grad: Tensor, vectors: Tensor, gradient: Tensor, images: slice) -> None:
        """Writes the gradient of y of some images."""
        per_image = self.pyramid.tiles // self.pyramid.images
        place = {"gradient": gradient, "start_tile": images.start * per_image}
        arguments = {**self._of_gradient(grad, vectors), **place}
        grid = ((images.stop - images.start) * per_image,)
        self._launch(aggregation_head_backward_tokens, grid, arguments)
