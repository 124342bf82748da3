"""An aggregation head in torch operators, in one pass forward and one backward, tile by tile.

Neither pass needs to have seen y = Σ up(X_i) W_i + b before. Its statistics are those of the maps: with x a token of
all levels, upsampled and side by side, m its mean and K its covariance, y has mean W m + b and variance diag(W K Wᵀ),
and K is made of products at the levels' own resolutions, since up_j(X_j)ᵀ up_i(X_i) = (up_iᵀ up_j X_j)ᵀ X_i.

Backward, with σ² = variance + ε, s the gradient of the normalised y less its shift, r = Σ s, R = Σ s (x − m)ᵀ and T
tokens (Ioffe and Szegedy 2015): dγ = (rowsum(R ⊙ W) + r (W m + b − mean)) / σ, dβ = r, and the gradient of y is
γ/σ (s − r/T − (y − mean) dγ/(T σ)). What it has beside s is an affine function of the maps, whose share of their
gradients and of the weight's follows from W and K alone, after the pass.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..shared.concatenation import Concatenation
from ..shared.synchronisation import merged_moments, summed
from .pyramid import Adjoint, Resampling, image_levels, image_maps, sums


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
    """Prediction, mean and unbiased variance of y, and for backward 1/σ and `excess` (C,) and m (Σ c_i,) in float64."""
    head = _Head(maps, order, weight)
    own_bias = 0 if bias is None else bias.double()
    if running_mean is None or running_var is None:
        average = head.mean()
        centre = average.to(head.wide)
        own = head.of(average) + own_bias
        total, mean, squares = merged_moments(head.tokens, own, head.squares(centre), group)
        inverse, variance = (squares / total + eps).rsqrt(), squares / (total - 1)
    else:
        average = head.weight.new_zeros(len(head.weight), dtype=torch.float64)
        centre = average.to(head.wide)
        own, mean, variance = average.new_zeros(len(weight)) + own_bias, running_mean.double(), running_var.double()
        inverse = (variance + eps).rsqrt()
    # y − mean = W (x − centre) + excess
    excess, inverse = (own - mean + head.of(centre - average)).to(head.wide), inverse.to(head.wide)
    scale = norm_weight * inverse
    last = prediction_weight.flatten(1).to(head.wide).T
    offset = last.new_zeros(last.shape[1]) if prediction_bias is None else prediction_bias.to(head.wide)
    output = weight.new_empty(len(maps[0]), last.shape[1], *head.concatenation.sizes[0])
    for place, levels in zip(output, head.images(centre), strict=True):
        for tile, hidden in sums(levels, head.concatenation.by_level(head.weight * scale), excess * scale + norm_bias):
            predicted = torch.addmm(offset, hidden.relu_(), last)
            place[:, tile.rows, tile.columns] = tile.image(predicted).permute(2, 0, 1)
    return output, mean.to(head.wide, copy=True), variance.to(head.wide, copy=True), inverse, excess, average


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
    head = _Head(maps, order, weight)
    centre = average.to(head.wide)
    scale = norm_weight * inverse
    last = prediction_weight.flatten(1).to(head.wide)
    d_last, d_offset = last.new_zeros(last.shape), grad.sum((0, 2, 3), dtype=head.wide)
    scaled, shift = head.concatenation.by_level(head.weight * scale), excess * scale + norm_bias
    adjoint = Adjoint(scaled)
    # In training s is passed on less a constant, its mean if all tiles were as active as the first: what all tokens
    # have in common cancels in the end, and would leave what was rounded of it. Of few bits: sums of it are exact.
    common = None if training else shift.new_zeros(shift.shape)
    gradients = []
    for gradient, levels in zip(grad, head.images(centre), strict=True):
        adjoint.start(levels)
        for tile, hidden in sums(levels, scaled, shift):
            g = gradient[:, tile.rows, tile.columns].permute(1, 2, 0).to(head.wide).flatten(0, 1)
            active = hidden.relu_()
            d_last += torch.mm(g.T, active)
            s = torch.mm(g, last).mul_(active.sign_())
            if common is None:
                common = (torch.mv(last.T, d_offset / head.tokens) * active.mean(0)).bfloat16().to(s.dtype)
            adjoint.add(tile, s.sub_(common) if training else s)
        gradients.append(adjoint.finish())
    assert common is not None  # there is an image
    rest, of_common = average - centre, head.tokens * common.double()
    d_joined, d_shift = adjoint.weight(), adjoint.shift() + of_common
    d_scale = (d_joined * head.weight).sum(0, dtype=torch.float64) + of_common * head.of(rest) + d_shift * excess
    d_scale = d_scale.to(head.wide) * inverse
    d_joined, d_bias = d_joined * scale, (d_shift * scale).to(head.wide)
    if training:
        # What is taken from γ/σ · s everywhere is constant + slope · W (x − centre), by the sums of all processes.
        total, shifts, scales = summed(head.tokens, d_shift, d_scale, group)
        slope = scale * scales * inverse / total
        constant = scale * (shifts / total - common).to(head.wide) + slope * excess
        scatter = head.subtract_affine(gradients, centre, constant, slope)
        d_joined -= torch.mm(scatter, (head.weight * slope).double()).to(head.wide)
        d_joined -= torch.outer(rest.to(head.wide), head.tokens * constant)
        # The mean of y less that of all processes is 0 where there is one process.
        d_bias = (d_shift - head.tokens / total * shifts).to(head.wide) * scale
        if group:
            d_bias -= head.tokens * slope * (excess + head.of(rest).to(head.wide))
    d_joined += torch.outer(centre, d_bias)
    results = [x.new_empty(x.shape) for x in maps]
    for image, levels in enumerate(gradients):
        image_maps(levels, image, head.concatenation, results)
    return (
        results,
        head.concatenation.unmerged(d_joined, weight),
        d_bias.to(weight.dtype),
        d_scale.to(norm_weight.dtype),
        d_shift.to(norm_bias.dtype, copy=True),
        d_last.view(prediction_weight.shape).to(prediction_weight.dtype),
        d_offset.to(prediction_weight.dtype),
    )


class _Head:
    """The maps and the weight of a call: W (Σ c_i, C), the weights of all levels one below the other."""

    def __init__(self, maps: list[Tensor], order: list[int], weight: Tensor) -> None:
        self.wide = torch.promote_types(weight.dtype, torch.float32)
        self.maps = maps
        self.concatenation = Concatenation.of(maps, order)
        self.weight = self.concatenation.merged(weight, self.wide)
        self.tokens = len(maps[0]) * self.concatenation.sizes[0][0] * self.concatenation.sizes[0][1]
        self._resampling = Resampling(self.concatenation.sizes, weight.device)

    def images(self, centre: Tensor) -> Iterator[list[Tensor]]:
        """The levels of each image less the centre, (h_l, w_l, c_l)."""
        for image in range(len(self.maps[0])):
            yield image_levels(self.maps, image, self.concatenation, self.concatenation.by_level(centre))

    def mean(self) -> Tensor:
        """The mean of the tokens, m (Σ c_i,), in float64."""
        means = []
        for level, members in enumerate(self.concatenation.members):
            rows, columns = self._resampling.coverage(level)
            pixels = rows[:, None] * columns
            means += [(self.maps[i] * pixels.to(self.wide)).sum((0, 2, 3), dtype=torch.float64) for i in members]
        return torch.cat(means) / self.tokens

    def of(self, token: Tensor) -> Tensor:
        """W of a token (Σ c_i,), in float64."""
        return torch.mv(self.weight.T.double(), token.double())

    def squares(self, centre: Tensor) -> Tensor:
        """Sums of the squared deviations of y from its mean, (C,).

        In float64: W K Wᵀ cancels where y varies little, by the square of what W x does.
        """
        scatter, weight = _Scatter(self, torch.float64), self.weight.double()
        for levels in ([x.double() for x in image] for image in self.images(centre)):
            for i, level in enumerate(levels):
                for j in range(i + 1):
                    scatter.add(j, i, self._resampling(levels[j], j, i), level)
        return (torch.mm(scatter.sums, weight) * weight).sum(0).clamp_(min=0)

    def subtract_affine(self, gradients: list[list[Tensor]], centre: Tensor, constant: Tensor, slope: Tensor) -> Tensor:
        """Take constant + slope · W (x − centre) from the gradient of y, in those of the levels; returns T · K."""
        scatter = _Scatter(self, torch.float64)
        between = [
            self.concatenation.by_level(columns.T)
            for columns in self.concatenation.by_level(torch.mm(self.weight * slope, self.weight.T))
        ]
        constants = self.concatenation.by_level(torch.mv(self.weight, constant))
        for results, rounded in zip(gradients, self.images(centre), strict=True):
            for tile, affine in sums(rounded, between[0], constants[0]):
                results[0][tile.rows, tile.columns] -= tile.image(affine)
            levels = [x.double() for x in rounded]
            scatter.add(0, 0, levels[0], levels[0])
            for i in range(1, len(levels)):
                rows, columns = self._resampling.coverage(i)
                results[i] -= (rows[:, None] * columns).to(self.wide)[..., None] * constants[i]
                tokens = results[i].view(-1, len(constants[i]))
                for j, level in enumerate(levels):
                    moved = self._resampling(level, j, i)
                    tokens.addmm_(moved.flatten(0, 1).to(self.wide), between[i][j], alpha=-1)
                    if j <= i:
                        scatter.add(j, i, moved, levels[i])
        return scatter.sums


class _Scatter:
    """Σ (x − centre)(x − centre)ᵀ over the tokens, (Σ c_i, Σ c_i), block by block."""

    def __init__(self, head: _Head, dtype: torch.dtype) -> None:
        channels = len(head.weight)
        self.sums = head.weight.new_zeros(channels, channels, dtype=dtype)
        self._blocks = [
            block.split(head.concatenation.level_channels(), 1) for block in head.concatenation.by_level(self.sums)
        ]

    def add(self, j: int, i: int, moved: Tensor, level: Tensor) -> None:
        """Add level j, moved to the size of level i, times level i: a block, and the one that mirrors it."""
        product = torch.mm(moved.flatten(0, 1).T, level.flatten(0, 1))
        self._blocks[j][i].add_(product)
        if i != j:
            self._blocks[i][j].add_(product.T)
