"""Cross attention between maps, from their pixels to what each gathered: projections, batch norms and attention.

Every backend's module offers, with layers = (weights, scales, shifts, branches, pairs),

    forward(maps, *layers, running_means, running_vars, norm_eps, eps, group)
        -> (attended, means, variances, moments, inverse, states)
    backward(grads, maps, *layers, means, moments, inverse, states, eps, training, group)
        -> (gradients of maps, of weights, of scales, of shifts)

Maps come once each, branches and pairs as lists of numbers (`shared/branches.py`), running statistics as empty lists in
training. Means, unbiased variances and 1/σ are those of all layers one after the other, in float64; moments are by map
(C_m + 1, C_m) in float64, the mean above the covariance; states by branch with keys (keys, B, C + 1, C) in float32, S
above z. The group is a process group by its name, "" for none.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from seqca.pairs import Branch, Pair
from seqca.reference.cross_attention import cross_attention as reference

from .samples.cross_attention import SAMPLES
from .shared.arguments import distinct_maps
from .shared.autocast import to_autocast_dtype
from .shared.branch_checks import check_layers, checked_structure
from .shared.branches import branches_of, flattened, layers_of, pairs_of
from .shared.checks import check_alike, check_constant, check_list, check_positive
from .shared.custom import custom_operator
from .shared.dispatch import resolve
from .shared.operator import (
    Call,
    Operator,
    call_fused,
    kernel_scope,
    refuse_forward_mode,
    refuse_second_derivative,
    register,
)
from .shared.remembered import remembered
from .shared.synchronisation import check_group, group_name, refusals_of

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class CrossAttentionResult(NamedTuple):
    """What `cross_attention` returns."""

    attended: list[Tensor]
    """By branch that has queries, (B, n·C, H, W): what its n pairs gathered, in the order of the pairs."""
    means: list[Tensor]
    """By layer, (rows,): mean of what its batch norm normalises, over all images and pixels, without gradient."""
    variances: list[Tensor]
    """By layer, (rows,): unbiased, as running variances take it: divided by T − 1 for T pixels in all."""


def cross_attention(
    maps: Sequence[Tensor],
    weights: Sequence[Tensor],
    scales: Sequence[Tensor],
    shifts: Sequence[Tensor],
    branches: Sequence[Branch],
    pairs: Sequence[Pair],
    *,
    running_means: Sequence[Tensor] | None = None,
    running_vars: Sequence[Tensor] | None = None,
    norm_eps: float = 1e-5,
    eps: float = 1e-12,
    group: "ProcessGroup | None" = None,
) -> CrossAttentionResult:
    """What maps gather from maps by linear attention, from the maps themselves to the attended ones.

    With q, k = softplus(BN(W₂ relu(BN(W₁ x)))) and v = relu(BN(W x)), a pair gathers S q_m / max(z·q_m, eps) at the
    pixel m of its target, S = Σ_n v_n k_nᵀ and z = Σ_n k_n over the pixels of its source, image by image (Kim et al.
    2022, section 2.2). All pairs of a scale are one call, in blocks of C channels: of tasks with each other, every
    ordered pair with layers of its own, or of a map with coarser ones, whose layers read a projection.

    No query, key, value or normalised map is kept: backward computes them again from the maps, which with the
    statistics of the batch norms and one (C + 1) × C state per image and block of keys are all that is kept (the
    algebra is in docs/cross_attention.md). On the backend `reference` this is `seqca.reference.cross_attention`.

    Args:
        maps: (B, C_m, H_m, W_m), any strides, any sizes; a map may stand several times. float32, bfloat16, float16 or
            float64. Under autocast maps and weights are cast to its dtype.
        weights: of the layers of all branches, one branch after the other: projection (C, C_m, 1, 1) if it is
            projected, hidden (n·C, C_in, 1, 1), features (n·C, C, 1, 1) in n groups, values (keys·C, C_in, 1, 1) if it
            has keys, where n = queries + keys and C_in is C behind a projection, else C_m. Queries stand in front of
            keys. A layer may stand several times: each use has statistics of its own.
        scales, shifts: γ and β of the batch norms, layer by layer, (rows,), in the dtype of the maps or float32.
        branches: what is computed from maps, see `Branch`; each map is read.
        pairs: which queries attend to which keys, see `Pair`; each block takes part. Blocks may serve several pairs.
        running_means, running_vars: layer by layer, (rows,), in the dtype of the maps or float32: what layers are
            normalised by (evaluation). Without them they are normalised by the mean and variance of the batch
            (training), which are returned. They are not updated.
        norm_eps: added to variances, positive.
        eps: lower bound of the denominators, positive. Where it is active, no gradient flows into z·q.
        group: processes over which means and variances are taken (synchronised batch norm), each with its own images.
            Gradients of parameters are each process's share of their sum.

    Returns:
        Attended maps, contiguous, in the dtype of the maps; means and variances, with running statistics these
        themselves.

    Raises:
        TypeError: if an argument is no tensor or list of tensors, or dtypes do not fit or are not supported.
        ValueError: if shapes, devices or lengths of lists do not fit, a map is empty, an index is of nothing, a map or
            block has no use, or the mean is to be taken of a single pixel.
        BackendUnavailable: if a forced backend cannot run the call; `reference` cannot with a group.
        NotImplementedError: from a second derivative, a forward-mode one, or a transform of `torch.func` (`grad`,
            `vmap`, …), except on the backend `reference`.
    """
    distinct, order = distinct_maps(maps)
    lists = {"weights": weights, "scales": scales, "shifts": shifts}
    if (running_means is None) != (running_vars is None):
        raise ValueError("running_means, running_vars: got one of them, expected both or neither")
    if running_means is not None and running_vars is not None:
        lists |= {"running_means": running_means, "running_vars": running_vars}
        if group is not None:
            raise ValueError("group: got a process group beside running statistics, expected None")
    for name, tensors in lists.items():
        check_list(name, tensors)
    distinct, weights = to_autocast_dtype(distinct), to_autocast_dtype(weights)
    lists["weights"] = weights
    check_group(group)
    alone = running_means is None and (group is None or group.size() == 1)
    checked = _checked(distinct, order, list(lists.values()), branches, pairs, alone, norm_eps, eps)
    for name in ("running_means", "running_vars"):
        for i, x in enumerate(lists.get(name, ())):
            check_constant(f"{name}[{i}]", x)
    backend = resolve(OPERATOR, checked.call, refusals_of(group))
    if backend == "reference":
        result = reference(
            distinct,
            weights,
            scales,
            shifts,
            checked.branches,
            checked.pairs,
            running_means=running_means,
            running_vars=running_vars,
            norm_eps=norm_eps,
            eps=eps,
        )
        return CrossAttentionResult(*result)
    refuse_forward_mode("cross_attention", *distinct, *weights, *scales, *shifts)
    running = ([], []) if running_means is None or running_vars is None else (list(running_means), list(running_vars))
    layers = (weights, list(scales), list(shifts))
    attended, flat_means, flat_variances, *_ = call_fused(
        "cross_attention",
        _forward,
        distinct,
        *layers,
        *checked.numbers,
        *running,
        float(norm_eps),
        float(eps),
        group_name(group),
        backend,
    )
    if running_means is not None and running_vars is not None:
        return CrossAttentionResult(attended, list(running_means), list(running_vars))
    rows = [len(weight) for weight in weights]
    wide = torch.promote_types(distinct[0].dtype, torch.float32)
    means, variances = (list(x.to(wide).split(rows)) for x in (flat_means, flat_variances))
    return CrossAttentionResult(attended, means, variances)


@custom_operator("cross_attention")
def _forward(
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
    backend: str,
) -> tuple[list[Tensor], Tensor, Tensor, list[Tensor], Tensor, list[Tensor]]:
    layers = (weights, scales, shifts, branches, pairs, running_means, running_vars)
    with kernel_scope(maps[0]):
        return OPERATOR.implementation(backend).forward(maps, *layers, norm_eps, eps, group)


@custom_operator("cross_attention_backward")
def _backward(
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
    states: Sequence[Tensor],
    eps: float,
    training: bool,
    group: str,
    backend: str,
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    layers = (weights, scales, shifts, branches, pairs)
    kept = (means, moments, inverse, states)
    with kernel_scope(maps[0]):
        return OPERATOR.implementation(backend).backward(grads, maps, *layers, *kept, eps, training, group)


@_forward.register_fake
def _(
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
    backend: str,
) -> tuple[list[Tensor], Tensor, Tensor, list[Tensor], Tensor, list[Tensor]]:
    structure, first = branches_of(branches), maps[0]
    channels = weights[layers_of(structure)[0].features].shape[1]
    wide = torch.promote_types(first.dtype, torch.float32)
    attended = []
    for i, branch in enumerate(structure):
        if branch.queries:
            x, count = maps[branch.map], sum(pair.target == i for pair in pairs_of(pairs))
            attended.append(x.new_empty(x.shape[0], count * channels, *x.shape[2:]))
    rows = sum(weight.shape[0] for weight in weights)
    means, variances, inverse = (first.new_empty(rows, dtype=torch.float64) for _ in range(3))
    moments = [x.new_empty(x.shape[1] + 1, x.shape[1], dtype=torch.float64) for x in maps]
    states = [
        first.new_empty(branch.keys, first.shape[0], channels + 1, channels, dtype=wide)
        for branch in structure
        if branch.keys
    ]
    return attended, means, variances, moments, inverse, states


@_backward.register_fake
def _(
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
    states: Sequence[Tensor],
    eps: float,
    training: bool,
    group: str,
    backend: str,
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    d_maps, d_weights, d_scales, d_shifts = (
        [x.new_empty(x.shape) for x in tensors] for tensors in (maps, weights, scales, shifts)
    )
    return d_maps, d_weights, d_scales, d_shifts


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    maps, weights, scales, shifts, ctx.branches, ctx.pairs, running_means, _, _, ctx.eps, ctx.group, ctx.backend = (
        inputs
    )
    attended, means, variances, moments, inverse, states = output
    ctx.mark_non_differentiable(means, variances, *moments, inverse, *states)
    ctx.set_materialize_grads(False)  # no zeros in place of gradients of the statistics
    ctx.training = not running_means
    ctx.no_gradients = [None] * len(running_means)
    ctx.counts = [len(x) for x in (maps, weights, scales, shifts, moments, states)]
    ctx.channels = [x.shape[1] for x in attended]
    ctx.save_for_backward(*maps, *weights, *scales, *shifts, *moments, *states, means, inverse)


def _differentiate(ctx: Any, grads: Sequence[Tensor | None], *_: Any) -> tuple[Any, ...]:
    *saved, means, inverse = ctx.saved_tensors
    remaining = iter(saved)
    maps, weights, scales, shifts, moments, states = ([next(remaining) for _ in range(n)] for n in ctx.counts)
    targets = [maps[branch.map] for branch in branches_of(ctx.branches) if branch.queries]
    given = [
        x.new_zeros(x.shape[0], n, *x.shape[2:]) if g is None else g
        for g, x, n in zip(grads, targets, ctx.channels, strict=True)
    ]
    layers = (weights, scales, shifts, ctx.branches, ctx.pairs)
    rest = (means, moments, inverse, states, ctx.eps, ctx.training, ctx.group, ctx.backend)
    gradients = call_fused("cross_attention", _backward, given, maps, *layers, *rest)
    return (*gradients, None, None, ctx.no_gradients, ctx.no_gradients, *[None] * 4)


_forward.register_autograd(_differentiate, setup_context=_keep)
refuse_second_derivative(_backward, "cross_attention")


def _check_pixels(maps: Sequence[Tensor]) -> None:
    for i, x in enumerate(maps):
        if x.numel() == x.shape[1]:
            raise ValueError(f"maps[{i}]: got a single pixel in all, expected at least two to take a variance of")


def _call(maps: Sequence[Tensor], weights: Sequence[Tensor], *_: Any, branches: Iterable[Branch], **__: Any) -> Call:
    read = [maps[Branch(*branch).map] for branch in branches]
    channels = max(weight.shape[1] for weight in weights)
    return Call(maps[0].device.type, maps[0].dtype, channels, sum(x.numel() // x.shape[1] for x in read))


class _Checked(NamedTuple):
    """A call whose arguments are right."""

    branches: list[Branch]
    """Of the distinct maps."""
    pairs: list[Pair]
    numbers: tuple[list[int], list[int]]
    """Branches and pairs as the schema has them."""
    call: Call


_LISTS = ("weights", "scales", "shifts", "running_means", "running_vars")


@remembered
def _checked(
    distinct: Sequence[Tensor],
    order: Sequence[int],
    layers: Sequence[Sequence[Tensor]],
    branches: Sequence[Branch],
    pairs: Sequence[Pair],
    alone: bool,
    norm_eps: float,
    eps: float,
) -> _Checked:
    """What checks find out, `layers` being the first of _LISTS; `alone` if variances are taken of these maps alone."""
    branches, pairs = checked_structure(branches, pairs, len(order))
    maps = [distinct[i] for i in order]
    check_alike(maps)
    if alone:
        _check_pixels(maps)
    check_layers(maps, dict(zip(_LISTS, layers, strict=False)), branches)
    check_positive(norm_eps=norm_eps, eps=eps)
    branches = [branch._replace(map=order[branch.map]) for branch in branches]
    call = _call(distinct, layers[0], branches=branches)
    return _Checked(branches, pairs, (flattened(branches), flattened(pairs)), call)


OPERATOR = register(
    Operator(
        name="cross_attention",
        function=cross_attention,
        reference=reference,
        samples=SAMPLES,
        describe=_call,
        backends=("aten", "triton"),
        channel_axis=1,
    )
)
