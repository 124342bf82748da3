"""The passes of `norm_relu` over its layers, the same for all backends, which compute the batch norms.

Kept are the maps, the outputs of the convolutions that are costly, and the statistics. What lies between two
convolutions is a function of the output of the one and the statistics, and is computed again.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from . import channel_sums

KEPT_FROM = 128
"""Products behind an element of a convolution's output, from which on backward does not compute it again."""


class Norm(NamedTuple):
    """A batch norm on a map, at least in float32: weight · (y − mean) · inverse + bias."""

    mean: Tensor
    """(batches · C,), of so many batches, one after the other in the images of the map."""
    inverse: Tensor
    """1/√(variance + ε), likewise."""
    weight: Tensor
    """(C,)."""
    bias: Tensor


class Normalised(NamedTuple):
    """A normalised map, and by what, in (batches · C,)."""

    output: Tensor
    mean: Tensor
    variance: Tensor
    """Unbiased where it is of the batch."""
    inverse: Tensor


class NormGradients(NamedTuple):
    """Gradients behind and in front of a batch norm."""

    rectified: Tensor
    """That of the norm's output, which is that of what is added to it. Where nothing is, it is not defined."""
    input: Tensor
    weight: Tensor
    bias: Tensor


class Passes(Protocol):
    """What a backend computes of one batch norm, of maps that lie in memory without gaps, in one of torch's formats.

    Statistics are of each of the batches, of which it knows how many there are; with running ones there is one. Under a
    process group (by its name, "" for none) they are those of all processes.
    """

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
        """BN(y) + addend, of any strides, behind a ReLU or not; mean and variance of the batch or running ones."""

    def again(self, y: Tensor, norm: Norm, addend: Tensor | None, rectify: bool) -> Tensor:
        """The output of `forward`, to the same bits."""

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
        """From the gradient of the output, of any strides; `result` is the output if it is at hand.

        Gradients of weight and bias are those of all batches together.
        """


def memory_format(maps: Sequence[Tensor]) -> torch.memory_format:
    """In which a call computes: channels-last if all its maps are, otherwise contiguous.

    On a CPU channels-last in float32 wherever its batch norms can: oneDNN's convolutions of few channels are faster so.
    """
    dense = all(not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last) for x in maps)
    return torch.channels_last if dense or channel_sums.applies(maps[0]) else torch.contiguous_format


def output_sizes(
    size: tuple[int, int], weights: Sequence[Tensor], strides: Sequence[int], projection: bool
) -> list[tuple[int, int]]:
    """Height and width behind each layer, from those of the maps."""
    if not weights:
        return [size]
    sizes: list[tuple[int, int]] = []
    last = len(weights) - projection
    for layer, stride in enumerate(strides):
        height, width = size if layer in (0, last) else sizes[-1]
        sizes.append(((height - 1) // stride + 1, (width - 1) // stride + 1))
    return sizes


def kept_layers(weights: Sequence[Tensor], projection: bool) -> list[int]:
    """The layers whose convolution's output is kept; the projection's never is."""
    products = [weight.shape[1] * weight.shape[2] * weight.shape[3] for weight in weights[: len(weights) - projection]]
    return [layer for layer, number in enumerate(products) if number >= KEPT_FROM]


def forward(
    passes: Passes,
    maps: Sequence[Tensor],
    weights: Sequence[Tensor],
    norm_weights: Sequence[Tensor],
    norm_biases: Sequence[Tensor],
    residual: Tensor | None,
    strides: Sequence[int],
    projection: bool,
    batches: int,
    running_means: Sequence[Tensor],
    running_vars: Sequence[Tensor],
    eps: float,
    group: str,
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    """Output; by layer mean, variance and 1/σ as of `passes`; the convolutions' outputs that are kept."""
    block = _Block(maps, weights, norm_weights, norm_biases, strides, projection, batches)
    statistics: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def normalise(layer: int, y: Tensor, addend: Tensor | None, rectify: bool) -> Tensor:
        running = (running_means[layer], running_vars[layer]) if running_means else None
        output, *found = passes.forward(y, *block.affine(layer), running, eps, group, addend, rectify)
        statistics[layer] = (found[0], found[1], found[2])
        return output

    kept, keep = [], kept_layers(weights, projection)
    if projection:
        residual = normalise(block.last + 1, block.convolved(block.last + 1, block.input), None, False)
    hidden = block.input
    for layer in range(block.last + 1):
        y = block.convolved(layer, hidden)
        if layer in keep:
            kept.append(y)
        hidden = normalise(layer, y, residual if layer == block.last else None, True)
    means, variances, inverses = ([statistics[i][j] for i in sorted(statistics)] for j in range(3))
    return hidden, means, variances, inverses, kept


def backward(
    passes: Passes,
    grad: Tensor,
    maps: Sequence[Tensor],
    weights: Sequence[Tensor],
    norm_weights: Sequence[Tensor],
    norm_biases: Sequence[Tensor],
    residual: Tensor | None,
    means: Sequence[Tensor],
    inverses: Sequence[Tensor],
    kept: Sequence[Tensor],
    strides: Sequence[int],
    projection: bool,
    batches: int,
    training: bool,
    group: str,
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor], Tensor]:
    """Gradients of the maps, weights, norms' weights and biases, and of the residual, in their dtypes."""
    block = _Block(maps, weights, norm_weights, norm_biases, strides, projection, batches)
    norms = [
        Norm(*statistics, *block.affine(layer)) for layer, statistics in enumerate(zip(means, inverses, strict=True))
    ]
    d_weights = [weight.new_empty(0) for weight in weights]
    d_norm_weights, d_norm_biases = ([x.new_empty(0) for x in tensors] for tensors in (norm_weights, norm_biases))

    def through(layer: int, found: NormGradients, x: Tensor) -> Tensor:
        """Puts the gradients of a layer's parameters in their places; returns that of its input."""
        d_norm_weights[layer] = found.weight.to(norm_weights[layer].dtype)
        d_norm_biases[layer] = found.bias.to(norm_biases[layer].dtype)
        if not weights:
            return found.input
        d_x, d_weights[layer] = block.differentiated(layer, found.input, x)
        return d_x

    remaining, keep = iter(kept), kept_layers(weights, projection)
    convolved: list[Tensor] = []
    inputs = [block.input]
    for layer in range(block.last + 1):
        convolved.append(next(remaining) if layer in keep else block.convolved(layer, inputs[-1]))
        if layer < block.last:
            inputs.append(passes.again(convolved[-1], norms[layer], None, True))
    addend, projected = residual, None
    if projection:
        projected = block.convolved(block.last + 1, block.input)
        addend = passes.again(projected, norms[-1], None, False)
    found = passes.backward(grad, convolved.pop(), norms[block.last], addend, None, True, training, group)
    rectified, d_x = found.rectified, through(block.last, found, inputs[-1])
    for layer in reversed(range(block.last)):
        found = passes.backward(d_x, convolved.pop(), norms[layer], None, inputs.pop(), True, training, group)
        d_x = through(layer, found, inputs[-1])
    if projected is not None:
        found = passes.backward(rectified, projected, norms[-1], None, None, False, training, group)
        d_x = d_x.add_(through(block.last + 1, found, block.input))
    d_residual = grad.new_empty(0) if residual is None else rectified  # a schema has no optional results
    d_weights = _converted(d_weights, [weight.dtype for weight in weights], torch.contiguous_format)
    return block.separated(d_x), d_weights, d_norm_weights, d_norm_biases, d_residual


class _Block:
    """Layers, and the concatenation that they start from, of the maps of each batch, one batch after the other."""

    def __init__(
        self,
        maps: Sequence[Tensor],
        weights: Sequence[Tensor],
        norm_weights: Sequence[Tensor],
        norm_biases: Sequence[Tensor],
        strides: Sequence[int],
        projection: bool,
        batches: int,
    ) -> None:
        self._format = memory_format(maps)
        self._maps, self._strides, self._batches = maps, strides, batches
        self._weights = _converted(weights, [maps[0].dtype] * len(weights), self._format)
        self._norm_weights, self._norm_biases = norm_weights, norm_biases
        self.input = _joined(maps, batches, self._format)
        self.last = len(norm_weights) - 1 - projection
        """The layer to whose norm the residual is added."""

    def affine(self, layer: int) -> tuple[Tensor, Tensor]:
        """Weight and bias of a norm, without gaps, at least in float32."""
        wide = torch.promote_types(self.input.dtype, torch.float32)
        return self._norm_weights[layer].to(wide).contiguous(), self._norm_biases[layer].to(wide).contiguous()

    def convolved(self, layer: int, x: Tensor) -> Tensor:
        """What a layer normalises."""
        if not self._weights:
            return x
        weight = self._weights[layer]
        y = F.conv2d(x, weight, stride=self._strides[layer], padding=weight.shape[2] // 2)
        return y.contiguous(memory_format=self._format)

    def differentiated(self, layer: int, grad: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of the input and of the weight of a convolution."""
        weight, stride = self._weights[layer], self._strides[layer]
        padding = weight.shape[2] // 2
        d_x, d_weight, _ = torch.ops.aten.convolution_backward(
            grad, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, [True, True, False]
        )
        return d_x.contiguous(memory_format=self._format), d_weight

    def separated(self, grad: Tensor) -> list[Tensor]:
        """The gradient of the concatenation, map by map."""
        if len(self._maps) == 1:
            return [grad]
        channels = [x.shape[1] for x in self._maps[: len(self._maps) // self._batches]]
        parts = (part for batch in grad.chunk(self._batches) for part in batch.split(channels, 1))
        return [part.clone(memory_format=self._format) for part in parts]


def _joined(maps: Sequence[Tensor], batches: int, layout: torch.memory_format) -> Tensor:
    """Maps of a batch side by side in the channels, batches in the images; a single map where it lies, if it can."""
    first, count = maps[0], len(maps) // batches
    if len(maps) == 1:
        return first.contiguous(memory_format=layout)
    shape = (batches * first.shape[0], sum(x.shape[1] for x in maps[:count]), *first.shape[2:])
    result = torch.empty(shape, dtype=first.dtype, device=first.device, memory_format=layout)
    for i, batch in enumerate(result.chunk(batches)):
        torch.cat(list(maps[i * count : (i + 1) * count]), 1, out=batch)
    return result


def _converted(tensors: Sequence[Tensor], dtypes: Sequence[torch.dtype], layout: torch.memory_format) -> list[Tensor]:
    """Tensors of four axes in other dtypes and a memory format; those that have to be copied are copied at once."""
    results = list(tensors)
    which = [
        i
        for i, (x, dtype) in enumerate(zip(tensors, dtypes, strict=True))
        if x.dtype != dtype or not x.is_contiguous(memory_format=layout)
    ]
    if which:
        copies = [torch.empty_like(tensors[i], dtype=dtypes[i], memory_format=layout) for i in which]
        torch._foreach_copy_(copies, [tensors[i] for i in which])
        for i, copy in zip(which, copies, strict=True):
            results[i] = copy
    return results
