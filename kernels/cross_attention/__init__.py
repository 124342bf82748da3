"""Cross attention on Triton: branches of one shape, and all blocks of their layers, share every launch.

Forward: moments of the maps, by which the layers that read them are folded (`folding`); those layers; statistics of the
second layers; queries and keys; states of the sources; outputs of the targets. Backward makes all of that again but the
statistics and states, and then goes back through it, gradients taking the places of what they are gradients of.

Products take weights as they are; means, γ/σ and β enter in fp32 after them. Sums are fp32 over a program's tokens,
those of the moments of fp32 maps fp64. Their sums, like all that lies between the passes, are fp64. Each is taken in an
order that depends on shapes alone.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from seqca.ops.shared.synchronisation import merged_covariance, summed

from .activation_gradients import ActivationGradients
from .activations import Activations
from .fused_activations import FusedActivations
from .fused_gradients import FusedGradients
from .gradients import ParameterGradients, StateGradient
from .groups import branch_groups
from .problem import Problem
from .stacks import MapMoments
from .statistics import LayerStatistics


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
    problem = Problem(maps, weights, scales, shifts, branches, pairs)
    training = not running_means
    if training:
        statistics = LayerStatistics.empty(weights)
        moments = [_moments(problem, i, group) for i in range(len(problem.stacks))]
    else:
        statistics = LayerStatistics.running(running_means, running_vars, norm_eps)
        moments = None
    activations: list[Activations | FusedActivations] = []
    for each in branch_groups(problem):
        of_maps = None if moments is None else each.moments_of(moments[problem.stacks.index(each.stack)])
        computed = FusedActivations if each.fused else Activations
        activations.append(computed(each, statistics, not training, of_maps, norm_eps))
        if training:
            activations[-1].normalise(group)
    sums = {i: state for x in activations if x.group.keys for i, state in x.states().items()}
    attended = {i: output for x in activations if x.group.queries for i, output in x.outputs(sums, eps).items()}
    return (
        [attended[i] for i in problem.targets()],
        statistics.means,
        statistics.variances,
        _kept(problem, moments),
        statistics.inverses,
        [sums[i] for i in problem.sources()],
    )


def _moments(problem: Problem, stack: int, group: str) -> MapMoments:
    """Moments of the maps of a stack, of all processes together."""
    x = problem.stacks[stack]
    own = MapMoments(x.moments(), x.tokens)
    if not group:
        return own
    of_maps = zip(own.mean, own.covariance, strict=True)
    totals, means, covariances = zip(*(merged_covariance(x.tokens, *of_map, group) for of_map in of_maps), strict=True)
    return MapMoments(torch.cat([torch.stack(means)[:, None], torch.stack(covariances)], 1), totals[0])


def _kept(problem: Problem, moments: list[MapMoments] | None) -> list[Tensor]:
    """Moments as backward takes them: by map, mean and below it covariance; zeros in evaluation."""
    if moments is None:
        return [x.new_zeros(x.shape[1] + 1, x.shape[1], dtype=torch.float64) for x in problem.maps]
    by_stack = [torch.split_with_sizes_copy(x.values, [1] * len(x.values)) for x in moments]
    return [by_stack[stack][place][0] for stack, place in (problem.place[i] for i in range(len(problem.maps)))]


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
    problem = Problem(maps, weights, scales, shifts, branches, pairs)
    statistics = LayerStatistics(means, means, inverse)
    stacked = zip(problem.stacked(moments), problem.stacks, strict=True)
    kept = [MapMoments(values, stack.tokens) for values, stack in stacked]
    passes: list[ActivationGradients | FusedGradients] = []
    for each in branch_groups(problem):
        of_maps = each.moments_of(kept[problem.stacks.index(each.stack)]) if training else None
        if each.fused:
            passes.append(FusedGradients(FusedActivations(each, statistics, True, of_maps)))
        else:
            passes.append(ActivationGradients(Activations(each, statistics, True, of_maps)))
    by_target = dict(zip(problem.targets(), grads, strict=True))
    by_source = dict(zip(problem.sources(), sums, strict=True))
    of_states: dict[tuple[int, int], list[StateGradient]] = {}
    for x in passes:
        if x.group.queries:
            d_states = x.from_targets(by_target, by_source, eps)
            for i, (*_, pair) in enumerate(x.group.pairs):
                of_states.setdefault((pair.source, pair.key), []).append((d_states, i))
    added = {block: _added(states) for block, states in of_states.items()}
    d_maps = [x.new_empty(x.shape) for x in maps]
    parameters = ParameterGradients(problem)
    for x in passes:
        if x.group.keys:
            x.from_states(added)
        x.through_layers(d_maps, parameters, group)
    if training and problem.dtype == torch.float32:
        _centre(d_maps, group)
    return d_maps, *parameters.like(weights, scales, shifts)


def _centre(d_maps: list[Tensor], group: str) -> None:
    """Takes from gradients of maps their mean over tokens, of which batch norms leave nothing but rounding errors."""
    for x in d_maps:
        mean = x.mean((0, 2, 3), dtype=torch.float64)
        if group:
            own = x.numel() // x.shape[1]
            tokens, total, _ = summed(own, mean * own, mean, group)
            mean = total / tokens
        x -= mean[:, None, None]


def _added(states: list[StateGradient]) -> StateGradient:
    """The sum of the gradients of a state by all its pairs."""
    if len(states) == 1:
        return states[0]
    return torch.stack([x[i] for x, i in states]).sum(0), 0
