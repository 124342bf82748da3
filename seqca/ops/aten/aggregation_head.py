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
from .rectifier import through_relu
from .scatter import Scatter, packed, packed_length, unpacked


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
    """Prediction, mean and unbiased variance of y, and for backward 1/σ, `excess` (C,) and moments of the maps.

    The moments are m (Σ c_i,) and behind it what `packed_length` keeps of the scatter T · K, in float64.
    """
    head = _Head(maps, order, weight)
    own_bias, kept = 0 if bias is None else bias.double(), []
    if running_mean is None or running_var is None:
        average = head.mean()
        centre = head.centre(average)
        own = head.of(average) + own_bias
        scatter = head.scatter(centre)
        total, mean, squares = merged_moments(head.tokens, own, head.squares(scatter, average - centre), group)
        inverse, variance = (squares / total + eps).rsqrt(), squares / (total - 1)
        if packed_length(maps):
            kept.append(packed(scatter))
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
    moments = torch.cat([average, *kept])
    return output, mean.to(head.wide, copy=True), variance.to(head.wide, copy=True), inverse, excess, moments


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
    moments: Tensor,
    training: bool,
    group: str,
) -> tuple[list[Tensor], Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the maps, the weight, its bias, γ, β, and of the last layer's weight and bias, in their dtypes."""
    head = _Head(maps, order, weight)
    average, kept = moments.tensor_split([len(head.weight)])
    centre = head.centre(average) if training else average.to(head.wide)
    scale = norm_weight * inverse
    last = prediction_weight.flatten(1).to(head.wide)
    d_last, d_offset = last.new_zeros(last.shape), grad.sum((0, 2, 3), dtype=head.wide)
    products = average.new_zeros(len(weight))
    scaled, shift = head.concatenation.by_level(head.weight * scale), excess * scale
    adjoint = Adjoint(scaled)
    # In training s is passed on less a constant, its mean if all tiles were as active as the first: what all tokens
    # have in common cancels in the end, and would leave what was rounded of it. Of few bits: sums of it are exact.
    common = None if training else shift.new_zeros(shift.shape)
    gradients = []
    active, s = shift.new_empty(0), shift.new_empty(0)
    for gradient, levels in zip(grad, head.images(centre), strict=True):
        adjoint.start(levels)
        for tile, normalised in sums(levels, scaled, shift):
            g = gradient[:, tile.rows, tile.columns].permute(1, 2, 0).to(head.wide).flatten(0, 1)
            torch.add(normalised, norm_bias, out=active.resize_(normalised.shape)).relu_()
            d_last += torch.mm(g.T, active)
            torch.mm(g, last, out=s.resize_(normalised.shape))
            through_relu(s, active, out=s)
            products += normalised.mul_(s).sum(0)
            if common is None:
                common = (torch.mv(last.T, d_offset / head.tokens) * active.sign().mean(0)).bfloat16().to(s.dtype)
            adjoint.add(tile, s.sub_(common) if training else s)
        gradients.append(adjoint.finish())
    assert common is not None  # there is an image
    rest, of_common = average - centre, head.tokens * common.double()
    d_joined, d_shift = adjoint.weight(), adjoint.shift() + of_common
    d_scale = (d_joined * head.weight).sum(0, dtype=torch.float64) + of_common * head.of(rest) + d_shift * excess
    d_scale = d_scale * inverse
    # R ⊙ W cancels where y varies little beside x. Sums of s times γ (y − mean) / σ do not, unless γ makes them so
    # small that their last digits are lost.
    almost_zero = norm_weight.abs() < torch.finfo(head.wide).tiny ** (1 / 3)
    d_scale = torch.where(almost_zero, d_scale, products / norm_weight).to(head.wide)
    d_joined, d_bias = d_joined * scale, (d_shift * scale).to(head.wide)
    if training:
        # What is taken from γ/σ · s everywhere is constant + slope · W (x − centre), by the sums of all processes.
        total, shifts, scales = summed(head.tokens, d_shift, d_scale, group)
        slope = scale * scales * inverse / total
        constant = scale * (shifts / total - common).to(head.wide) + slope * excess
        head.subtract_affine(gradients, centre, constant, slope)
        scatter = unpacked(kept, len(head.weight)) if len(kept) else head.scatter(centre)
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
        self._last: tuple[int, Tensor, list[Tensor]] | None = None

    def images(self, centre: Tensor) -> Iterator[list[Tensor]]:
        """The levels of each image less the centre, (h_l, w_l, c_l).

        The last one's are kept: a single image's are made once for all passes over it.
        """
        for image in range(len(self.maps[0])):
            if self._last is None or self._last[0] != image or self._last[1] is not centre:
                self._last = image, centre, self._levels(image, centre)
            yield self._last[2]

    def _levels(self, image: int, centre: Tensor) -> list[Tensor]:
        return image_levels(self.maps, image, self.concatenation, self.concatenation.by_level(centre))

    def mean(self) -> Tensor:
        """The mean of the tokens, m (Σ c_i,), in float64."""
        means = []
        for level, members in enumerate(self.concatenation.members):
            rows, columns = self._resampling.coverage(level)
            pixels = rows[:, None] * columns
            means += [(self.maps[i] * pixels.to(self.wide)).sum((0, 2, 3), dtype=torch.float64) for i in members]
        return torch.cat(means) / self.tokens

    def centre(self, mean: Tensor) -> Tensor:
        """The mean of the tokens, of which every x is to be less: a multiple of the last place of the largest |x|.

        Then the difference is exact where |x| is large, and elsewhere rounded one way as often as the other. With more
        digits of the mean it would be rounded alike for all x between two powers of two, and the mean of all is known
        to be 0: where y varies little beside x, that is most of the error of its mean.
        """
        members = [i for level in self.concatenation.members for i in level]
        largest = torch.cat([self.maps[i].abs().amax((0, 2, 3)) for i in members])
        _, exponent = torch.frexp(largest.to(self.wide))
        unit = torch.ldexp(torch.full_like(mean, torch.finfo(self.wide).eps), exponent - 1)
        return ((mean / unit).round() * unit).to(self.wide)

    def of(self, token: Tensor) -> Tensor:
        """W of a token (Σ c_i,), in float64."""
        return torch.mv(self.weight.T.double(), token.double())

    def scatter(self, centre: Tensor) -> Tensor:
        """Σ (x − centre)(x − centre)ᵀ, (Σ c_i, Σ c_i).

        In float64: W K Wᵀ cancels where y varies little, by the square of what W x does.
        """
        scatter = Scatter(self.concatenation.level_channels(), centre.device)
        for image in range(len(self.maps[0])):
            levels = self._levels(image, centre.double())
            for i, level in enumerate(levels):
                for j in range(i + 1):
                    scatter.add(j, i, self._resampling(levels[j], j, i).flatten(0, 1), level.flatten(0, 1))
        return scatter.sums

    def squares(self, scatter: Tensor, rest: Tensor) -> Tensor:
        """Sums of the squared deviations of y from its mean, (C,), by sums about a centre, `rest` below it."""
        weight, channels = self.weight.double(), self.concatenation.level_channels()
        about_centre, first = weight.new_zeros(weight.shape[1]), 0
        for own in weight.split(channels):  # of the symmetric blocks between two levels, one
            rows, first = scatter[first : first + len(own)], first + len(own)
            product = torch.mm(rows[:, first - len(own) : first], own)
            product.addmm_(rows[:, first:], weight[first:], alpha=2)
            about_centre += product.mul_(own).sum(0)
        return about_centre.sub_(self.tokens * self.of(rest).square()).clamp_(min=0)

    def subtract_affine(self, gradients: list[list[Tensor]], centre: Tensor, constant: Tensor, slope: Tensor) -> None:
        """Take constant + slope · W (x − centre) from the gradient of y, in those of the levels."""
        between = [
            self.concatenation.by_level(columns.T)
            for columns in self.concatenation.by_level(torch.mm(self.weight * slope, self.weight.T))
        ]
        constants = self.concatenation.by_level(torch.mv(self.weight, constant))
        for results, levels in zip(gradients, self.images(centre), strict=True):
            for tile, affine in sums(levels, between[0], constants[0]):
                results[0][tile.rows, tile.columns] -= tile.image(affine)
            for i in range(1, len(levels)):
                rows, columns = self._resampling.coverage(i)
                results[i] -= (rows[:, None] * columns).to(self.wide)[..., None] * constants[i]
                tokens = results[i].view(-1, len(constants[i]))
                for j, level in enumerate(levels):
                    tokens.addmm_(self._resampling(level, j, i).flatten(0, 1), between[i][j], alpha=-1)
