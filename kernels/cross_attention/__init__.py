"""Cross attention on Triton: branches of one shape, and all blocks of their layers, share every launch.

Forward: moments of the maps, by which the layers that read them are folded (`folding`); those layers; statistics of the
second layers; queries and keys; states of the sources; outputs of the targets. Backward makes all of that again but the
statistics and states, and then goes back through it, gradients taking the places of what they are gradients of.

Products take weights as they are; means, γ/σ and β enter in fp32 after them. Sums are fp32 over a program's tokens,
and their sums, like all that lies between the passes, fp64. Each is taken in an order that depends on shapes alone.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from seqca.ops.shared.synchronisation import merged_covariance, summed

from .folding import Moments
from .groups import Call
from .passes import Activations, Gradients, State
from .statistics import Statistics


def forward(
    maps: Sequence[Tensor],
    weights: Sequence[Tensor],
    scales: Sequence[Tensor],
    shifts: Sequence[Tensor],
    branches: Sequence[int],
    pairs: Sequence[int],
    running_means: Sequence[Tensor],
    running_vars: Sequence[Tensor],
    norm_eps: float,
    eps: float,
    group: str,
) -> tuple[list[Tensor], Tensor, Tensor, list[Tensor], Tensor, list[Tensor]]:
    """Attended maps; means, unbiased variances, and for backward moments of the maps, 1/σ, and states."""
    call = Call(maps, weights, scales, shifts, branches, pairs)
    training = not running_means
    if training:
        statistics = Statistics(call)
        moments = [_moments(call, i, group) for i in range(len(call.stacks))]
    else:
        statistics = Statistics.running(call, running_means, running_vars, norm_eps)
        moments = None
    activations = []
    for each in call.groups():
        of_maps = None if moments is None else moments[call.stacks.index(each.stack)].of(each)
        activations.append(Activations(each, None if training else statistics, of_maps, norm_eps))
        if training:
            activations[-1].normalise(statistics, group)
        activations[-1].feature_maps()
    sums = {i: state for x in activations if x.group.keys for i, state in x.states().items()}
    attended = {i: output for x in activations if x.group.queries for i, output in x.outputs(sums, eps).items()}
    return (
        [attended[i] for i in call.targets()],
        torch.cat(statistics.means),
        torch.cat(statistics.variances),
        _kept(call, moments),
        torch.cat(statistics.inverses),
        [sums[i] for i in call.sources()],
    )


def _moments(call: Call, stack: int, group: str) -> Moments:
    """Of the maps of a stack, of all processes together."""
    x = call.stacks[stack]
    mean, covariance = x.moments()
    if group:
        merged = [merged_covariance(x.tokens, *of_map, group) for of_map in zip(mean, covariance, strict=True)]
        mean, covariance = map(torch.stack, zip(*merged, strict=True))
    return Moments(mean, covariance)


def _kept(call: Call, moments: list[Moments] | None) -> list[Tensor]:
    """By map, mean and below it covariance; zeros in evaluation."""
    if moments is None:
        return [x.new_zeros(x.shape[1] + 1, x.shape[1], dtype=torch.float64) for x in call.maps]
    by_stack = [
        torch.split_with_sizes_copy(torch.cat([x.mean[:, None], x.covariance], 1), [1] * len(x.mean)) for x in moments
    ]
    return [by_stack[stack][place][0] for stack, place in (call.place[i] for i in range(len(call.maps)))]


def backward(
    grads: Sequence[Tensor],
    maps: Sequence[Tensor],
    weights: Sequence[Tensor],
    scales: Sequence[Tensor],
    shifts: Sequence[Tensor],
    branches: Sequence[int],
    pairs: Sequence[int],
    means: Tensor,
    moments: Sequence[Tensor],
    inverse: Tensor,
    sums: Sequence[Tensor],
    eps: float,
    training: bool,
    group: str,
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    """Gradients of the maps, of the weights, of γ and of β, contiguous, in their dtypes."""
    call = Call(maps, weights, scales, shifts, branches, pairs)
    statistics = Statistics.kept(call, means, inverse)
    kept = [Moments(x[:, 0], x[:, 1:]) for x in call.stacked(moments)]
    activations = []
    for each in call.groups():
        of_maps = kept[call.stacks.index(each.stack)].of(each) if training else None
        activations.append(Activations(each, statistics, of_maps))
        activations[-1].feature_maps()
        activations[-1].prepare_gradients()
    by_target = dict(zip(call.targets(), grads, strict=True))
    by_source = dict(zip(call.sources(), sums, strict=True))
    of_states: dict[tuple[int, int], list[State]] = {}
    for x in activations:
        if x.group.queries:
            d_states = x.from_targets(by_target, by_source, eps)
            for i, (*_, pair) in enumerate(x.group.pairs):
                of_states.setdefault((pair.source, pair.key), []).append((d_states, i))
    added = {block: _added(states) for block, states in of_states.items()}
    gradients = Gradients(maps, weights, scales, shifts)
    for x in activations:
        if x.group.keys:
            x.from_states(added)
        x.through_layers(gradients, group)
    if training and call.dtype == torch.float32:
        _centre(gradients.maps, group)
    return gradients.maps, gradients.weights, gradients.scales, gradients.shifts


def _centre(gradients: list[Tensor], group: str) -> None:
    """Takes from gradients of maps their mean over tokens, of which batch norms leave nothing but rounding errors."""
    for x in gradients:
        total = x.sum((0, 2, 3), dtype=torch.float64)
        tokens, total, _ = summed(x.numel() // x.shape[1], total, total, group)
        x -= (total / tokens).float()[:, None, None]


def _added(states: list[State]) -> State:
    """The sum of the gradients of a state by all its pairs."""
    if len(states) == 1:
        return states[0]
    return torch.stack([x[i] for x, i in states]).sum(0), 0
