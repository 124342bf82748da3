"""Cases of `linear_attention`: the pairs of the network, and sweeps over tokens, channels and tasks."""

from collections.abc import Iterator
from itertools import product
from typing import Any

from torch import Generator, Tensor
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import softplus

from seqca.ops.shared.operator import OPERATORS, Call

from ..harness.case import DTYPES, Cost
from ..harness.operator_case import Arguments, OperatorCase, normal
from .shapes import CHANNELS, CaseSet, Dataset, tokens_per_scale


def cases(wanted: CaseSet) -> Iterator[OperatorCase]:
    """The cases of a set, the most telling first."""
    for data, scale, dtype, direction in product(wanted.datasets, wanted.scales, wanted.dtypes, wanted.directions):
        yield task_pairs(data, scale, len(data.tasks), dtype, direction, wanted)
    for scale in wanted.scales[:-1]:
        yield across_scales(wanted.datasets[0], scale, wanted)
    for scale, tasks in product(wanted.task_sweep_scales, wanted.task_sweep):
        yield task_pairs(wanted.datasets[0], scale, tasks, wanted.sweep_dtype, "both", wanted, sweep=True)
    for tokens in wanted.token_sweep:
        yield stacked(f"tokens/{tokens}", wanted.sweep_leading, tokens, 36, wanted)
    for channels in wanted.channel_sweep:
        yield stacked(f"channels/{channels}", wanted.sweep_leading, 4800, channels, wanted)


def task_pairs(
    data: Dataset, scale: int, tasks: int, dtype: str, direction: str, wanted: CaseSet, sweep: bool = False
) -> OperatorCase:
    """All ordered pairs of tasks at one scale, as the network calls it: a list of maps (B, C, H, W) seen as tokens."""
    channels, tokens, pairs = CHANNELS[scale], tokens_per_scale(data)[scale], tasks * (tasks - 1)
    swept = f"tasks/{tasks}" if scale == 0 else f"tasks-scale{scale}/{tasks}"
    shape = swept if sweep else f"{data.name}-scale{scale}-tasks{tasks}"

    def draw(generator: Generator) -> Arguments:
        def maps(positive: bool) -> list[Tensor]:
            drawn = [normal((data.batch, channels, tokens), dtype, generator).mT for _ in range(pairs)]
            return [softplus(x) for x in drawn] if positive else drawn

        values = {"q": maps(True), "k": maps(True), "v": maps(False)}
        return Arguments(values, ("q", "k", "v"), maps(False))

    sizes = {"tokens": tokens, "keys": tokens, "channels": channels, "tasks": tasks, "leading": data.batch * pairs}
    return _case(shape, dtype, direction, wanted, sizes, draw, wanted.modes(sweep))


def across_scales(data: Dataset, scale: int, wanted: CaseSet) -> OperatorCase:
    """A map (B, C, H, W) of one task gathers from the next coarser one."""
    channels, dtype = CHANNELS[scale], wanted.dtypes[0]
    tokens, keys = tokens_per_scale(data)[scale : scale + 2]

    def draw(generator: Generator) -> Arguments:
        lengths = (tokens, keys, keys, tokens)
        q, k, v, gradient = (normal((data.batch, channels, n), dtype, generator).mT for n in lengths)
        return Arguments({"q": softplus(q), "k": softplus(k), "v": v}, ("q", "k", "v"), [gradient])

    sizes = {"tokens": tokens, "keys": keys, "channels": channels, "leading": data.batch}
    return _case(f"{data.name}-scale{scale}-from-coarser", dtype, "both", wanted, sizes, draw, wanted.modes())


def stacked(shape: str, leading: int, tokens: int, channels: int, wanted: CaseSet) -> OperatorCase:
    """Contiguous tokens (leading, N, C) in one tensor."""
    dtype = wanted.sweep_dtype

    def draw(generator: Generator) -> Arguments:
        q, k, v, gradient = (normal((leading, tokens, channels), dtype, generator) for _ in range(4))
        return Arguments({"q": softplus(q), "k": softplus(k), "v": v}, ("q", "k", "v"), [gradient])

    sizes = {"tokens": tokens, "keys": tokens, "channels": channels, "leading": leading}
    return _case(shape, dtype, "both", wanted, sizes, draw, wanted.modes(sweep=True))


def _case(
    shape: str, dtype: str, direction: str, wanted: CaseSet, sizes: dict[str, int], draw: Any, modes: tuple[str, ...]
) -> OperatorCase:
    leading, tokens, keys, channels = (sizes[name] for name in ("leading", "tokens", "keys", "channels"))
    return OperatorCase(
        operator="linear_attention",
        shape=shape,
        dtype=dtype,
        direction=direction,
        device=wanted.device,
        sizes=sizes,
        draw=draw,
        reference=entrywise,
        least_cost=cost(leading, tokens, keys, channels, channels, DTYPES[dtype].itemsize, direction),
        call=Call(wanted.device, DTYPES[dtype], channels, leading * tokens),
        modes=modes,
        compiled_baselines={"flex_attention": by_flex_attention} if wanted.device == "cuda" else {},
        refusals={} if wanted.device == "cuda" else {"flex_attention": "it has no backward pass on a CPU"},
    )


def entrywise(q: Any, k: Any, v: Any) -> Any:
    """The reference, on lists too."""
    reference = OPERATORS["linear_attention"].reference
    return reference(q, k, v) if isinstance(q, Tensor) else list(map(reference, q, k, v))


def by_flex_attention(q: Any, k: Any, v: Any) -> Any:
    """The same by torch's `flex_attention`, all N² of q·k in tiles: softmax of log(q·k) is q·k over its sum."""
    if not isinstance(q, Tensor):
        return list(map(by_flex_attention, q, k, v))
    q, k, v = (x[:, None] for x in (q, k, v))  # of one head
    return flex_attention(q, k, v, score_mod=lambda score, *_: score.log(), scale=1.0)[:, 0]


def cost(leading: int, queries: int, keys: int, d: int, e: int, itemsize: int, direction: str) -> Cost:
    """What linear attention cannot avoid, per pass.

    Forward reads q, k, v and writes o; its products are S = Σ v kᵀ, z = Σ k, S q and z·q. Backward reads q, k,
    v and the gradient of o and writes three gradients, the small S and z being kept; its products are dS = Σ dn qᵀ,
    dz, dS k, dSᵀ v and Sᵀ dn, which also gives g·o = (Sᵀ dn)·q. There is no exponential in it.
    """
    forward = Cost(
        itemsize * leading * (queries * d + keys * d + keys * e + queries * e),
        leading * (2 * keys * d * e + keys * d + 2 * queries * d * e + 2 * queries * d),
        0,
    )
    backward = Cost(
        itemsize * leading * (2 * queries * d + 2 * keys * d + 2 * keys * e + queries * e),
        leading * (4 * queries * d * e + 4 * keys * d * e + 6 * queries * d),
        0,
    )
    return Cost.of(direction, forward, backward)
