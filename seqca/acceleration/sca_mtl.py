"""The code of the paper's authors, https://github.com/kimsunkyung/SCA_MTL: cross attention between tasks and scales.

`MultiTaskDistillationModule` is CTAM. There each ordered pair of tasks is a block of attention called by itself, and
what each gathered is concatenated with one copy of the target's map for every source. Here all pairs of a scale are one
call of `seqca.ops.cross_attention`, and the basic block behind them reads the target's map once, by the sum of the
weights: a convolution that reads a map several times is one with the sum.

`HighResolutionHead` is CSAM and the aggregation of a task. There the queries of a scale are computed once for each
coarser one, and everything is upsampled and concatenated. Here all sources of a scale are one call of
`seqca.ops.cross_attention`, and the rest is one of `seqca.ops.aggregation_head`: a 1×1 convolution commutes with
upsampling.

`WindowAttention` of the self-attention in front is left: no operator is fused for windows.

`MTINet` upsamples what its heads predict; its fused forward hands on a `LazyMap`.

Batch norms keep their modules: those whose arithmetic an operator does have their running statistics updated as often
as there. Where some of a module's norms are in training and others in evaluation mode, the original forward runs.
"""

from typing import Any

import torch
from torch import Tensor, nn

from seqca.nn.conv_norm import ConvNorm, conv_norm_relu, fusable
from seqca.nn.cross_attention import attend_joined, parameters_read_once
from seqca.nn.cross_scale import aggregate
from seqca.ops import from_coarser

from .blocks import against_block, block_layers
from .joined_attention import Exchange, Layer, against_blocks, against_layers, alike, key_rows, query_rows
from .layers import against_head
from .lazy import upsampled_lazily
from .replacement import Replacement, leave, register


class FusedDistillation(nn.Module):
    """Attention between all pairs of tasks at one scale, in one call."""

    def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        """{"features_<task>": (B, C, H, W)} → {task: (B, C, H, W)}."""
        module: Any = self
        exchange, block = _exchange(module), module.dimensionality_reduction
        fused = alike(exchange.layers) and fusable(block_layers(block), block.relu)
        return _distilled(module, x, exchange) if fused else super().forward(x)


class FusedHead(nn.Module):
    """Attention from every scale to the coarser ones, and the prediction from all, in four calls."""

    def forward(self, x: list[Tensor]) -> Tensor:
        """Four maps (B, C_k, H_k, W_k), finest first → (B, out, H_0, W_0)."""
        exchanges = [_layers_from_coarser(self, k) for k in range(3)]
        finest = all(m.shape[2] <= x[0].shape[2] and m.shape[3] <= x[0].shape[3] for m in x)
        return _predicted(self, x, exchanges) if finest and all(map(alike, exchanges)) else super().forward(x)


class LazyNetwork(nn.Module):
    """Full-size predictions that are made when somebody reads them."""

    def forward(self, x: Tensor) -> dict[str, Any]:
        """(B, 3, H, W) → {task: (B, C, H, W)}, and under "deep_supervision" what each scale predicts."""
        return _network(self, x)


def _exchange(module: Any) -> Exchange:
    every = module.cross_attention.items()
    return Exchange.of({(target, source): block for target, blocks in every for source, block in blocks.items()})


def _distilled(module: Any, x: dict[str, Tensor], exchange: Exchange) -> dict[str, Tensor]:
    own = {task: x[f"features_{task}"] for task in module.auxilary_tasks}
    attended = exchange.gathered(own)
    layers = block_layers(module.dimensionality_reduction)
    parameters = parameters_read_once(layers, len(own) - 1)
    maps = [
        x
        for task in module.tasks
        for x in (own[task], *(attended[task, other] for other in reversed(own) if other != task))
    ]
    batches = len(module.tasks)
    reduced = conv_norm_relu(maps, layers, projection=True, parameters=parameters, batches=batches).chunk(batches)
    return {task: own[task] + x for task, x in zip(module.tasks, reduced, strict=True)}


def _layers_from_coarser(head: Any, k: int) -> list[Layer]:
    """Those of the queries of a scale, then of each coarser one, its projection in front."""
    block = getattr(head, f"cross_scale_attention{k}")
    rows = query_rows(block)
    for j in range(k + 1, 4):
        rows += [ConvNorm(*getattr(head, f"upsample{j}{k}")), *key_rows(block)]
    return [[one] for one in rows]


def _predicted(head: Any, x: list[Tensor], exchanges: list[list[Layer]]) -> Tensor:
    maps: list[Tensor] = []
    for k, layers in enumerate(exchanges):
        coarser = 3 - k
        updates = [coarser, coarser, *[1] * (4 * coarser)]  # there the queries are computed once for each source
        eps = getattr(head, f"cross_scale_attention{k}").eps
        (gathered,) = attend_joined(x[k:4], layers, *from_coarser(1, coarser), eps=eps, updates=updates)
        maps += [m for attended in gathered.chunk(coarser, 1) for m in (x[k], attended)]
    conv, bn, _, prediction = head.last_layer
    return aggregate([*maps, x[3]], conv, bn, prediction)


def _network(net: Any, images: Tensor) -> dict[str, Any]:
    maps = net.backbone(images)
    stages = (net.swTransform1, net.swTransform2, net.swTransform3, net.swTransform4)
    features = [torch.cat([stage(m)[0], m], 1) for stage, m in zip(stages, maps, strict=True)]
    predicted: dict[int, Any] = {}
    exchanged: dict[int, Any] = {}
    propagated: tuple[Any, ...] = ()
    for k in reversed(range(4)):
        predicted[k] = getattr(net, f"scale_{k}")(features[k], *propagated)
        exchanged[k] = getattr(net, f"distillation_scale_{k}")(predicted[k])
        if k:
            propagated = (getattr(net, f"fpm_scale_{k}")(exchanged[k]),)
    final = {}
    for task in net.tasks:
        coarse = net.heads[task]([exchanged[k][task] for k in range(4)])
        final[task] = upsampled_lazily(net, coarse, images.shape[2:])
    return {"deep_supervision": {f"scale_{k}": predicted[k] for k in range(4)}, **final}


def _against_exchange(module: Any) -> str | None:
    tasks, auxiliary = list(module.tasks), list(module.auxilary_tasks)
    exchange = {target: list(sources) for target, sources in module.cross_attention.items()}
    if len(auxiliary) < 2 or exchange != {t: [a for a in auxiliary if a != t] for t in tasks if t in auxiliary}:
        return f"exchanges {exchange}, and every task of {tasks} with each other one of {auxiliary} alone is fused"
    blocks = {
        f"cross_attention.{target}.{source}": block
        for target, sources in module.cross_attention.items()
        for source, block in sources.items()
    }
    return against_blocks(blocks) or _against_reduction(module.dimensionality_reduction)


def _against_reduction(block: Any) -> str | None:
    reason = against_block(block) or ("has no downsample" if block.downsample is None else None)
    return f"dimensionality_reduction {reason}" if reason else None


def _against_head(head: Any) -> str | None:
    for k in range(3):
        block = {f"cross_scale_attention{k}": getattr(head, f"cross_scale_attention{k}")}
        projections = {f"upsample{j}{k}": getattr(head, f"upsample{j}{k}") for j in range(k + 1, 4)}
        for name, projection in projections.items():
            if type(projection) is not nn.Sequential or len(projection) != 2:
                return f"{name} is no Sequential of a convolution and a norm"
        layers = {name: [ConvNorm(*projection)] for name, projection in projections.items()}
        reason = against_blocks(block) or against_layers(layers | {"queries": query_rows(*block.values())})
        if reason:
            return reason
    return against_head("last_layer", head.last_layer)


DISTILLATION = register(
    Replacement(
        kind="sca_mtl.cross_task",
        class_name="MultiTaskDistillationModule",
        fingerprints=("f91d2cee428c9823",),
        fused=FusedDistillation,
        refusal=_against_exchange,
    )
)

HEAD = register(
    Replacement(
        kind="sca_mtl.head",
        class_name="HighResolutionHead",
        fingerprints=("c0f97fc81a0d575a",),
        fused=FusedHead,
        refusal=_against_head,
    )
)

NETWORK = register(
    Replacement(
        kind="sca_mtl.network",
        class_name="MTINet",
        fingerprints=("562685647dbe9866",),
        fused=LazyNetwork,
        calls=("*",),
        lazy=True,
        hands_lazy=True,
    )
)

WINDOW_ATTENTION = leave(
    "sca_mtl.window_attention",
    "WindowAttention",
    ("63be1167ead4324d",),
    "attends inside windows, for which there is no fused operator",
)
