"""ATRC, https://github.com/brdav/atrc (Brüggemann et al., "Exploring Relational Context …", ICCV 2021).

`GlobalContextAttentionBlock` is one pair of `seqca.ops.cross_attention`: queries and keys are
softplus(BN(W₂ relu(BN(W₁ x)))), values relu(BN(W x)), and S q / max(z·q, 10⁻¹²) is what is gathered. In `ATRCModule`
all of them are one call, and the other blocks are called as there: `LocalContextAttentionBlock` looks at windows,
`LabelContextAttentionBlock` is normalised by a softmax over its keys.

`RelationalContextHead` concatenates the upsampled maps of all scales. Its auxiliary predictions are a 1×1 convolution,
batch norm, ReLU and a 1×1 convolution of that, detached: `seqca.ops.aggregation_head`. The 3×3 convolutions that read
the same concatenation do not commute with upsampling, so that it is still made, for them.

With ``outputs="lazy"`` heads hand on all predictions as lazy maps; losses that take them are in `.atrc_losses`. Into
auxiliary predictions −∞ is written where the image is ignored. Upsampled that is −∞ or NaN, and losses add it up in one
way here and in another there: so those are upsampled in the head.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqca.nn.cross_scale import aggregate

from .fingerprint import matches
from .joined_attention import FINGERPRINTS, Exchange, against_blocks, alike
from .layers import against_norm, against_pointwise, against_relu
from .lazy import upsampled_lazily
from .replaced import original_class
from .replacement import Replacement, leave, register

Predictions = dict[str, dict[str, Any]]


class FusedAttention(nn.Module):
    """What a target gathers from a source."""

    def forward(self, target_task_feats: Tensor, source_task_feats: Tensor, **kwargs: Any) -> Tensor:
        """(B, C, H, W), (B, C, H', W') → (B, C_out, H, W)."""
        exchange = Exchange.of({("target", "source"): self})
        if not alike(exchange.layers):
            return super().forward(target_task_feats, source_task_feats, **kwargs)
        return exchange.gathered({"target": target_task_feats, "source": source_task_feats})["target", "source"]


class FusedExchange(nn.Module):
    """What all tasks gather from each other: blocks of global context in one call, others as they are."""

    def forward(
        self, task_specific_feats: dict[str, Tensor], aux_pred: dict[str, Tensor], image: Tensor
    ) -> dict[str, Tensor]:
        """Features (B, C, H, W) by task, auxiliary predictions and the image → features by task."""
        module: Any = self
        blocks = _global_blocks(module)
        exchange = Exchange.of(blocks)
        if not alike(exchange.layers):
            return super().forward(task_specific_feats, aux_pred, image)
        probabilities = _normalised(module)(aux_pred, image)
        attended = exchange.gathered(task_specific_feats)
        related = {}
        for target in module.tasks:
            own = task_specific_feats[target]
            said = [
                attended[target, source]
                if (target, source) in attended
                else block(
                    target_task_feats=own,
                    source_task_feats=task_specific_feats[source],
                    target_aux_prob=probabilities.get(target),
                    source_aux_prob=probabilities.get(source),
                )
                for source, block in module.cp_blocks[target].items()
            ]
            distilled = torch.cat([own, module.out_proj[target](torch.cat(said, 1))], 1) if said else own
            related[target] = module.bottleneck[target](distilled)
        return related


class FusedHead(nn.Module):
    """The head, with its auxiliary predictions from the maps themselves."""

    def forward(self, inp: list[Tensor], inp_shape: tuple[int, int], image: Tensor, **kwargs: Any) -> Predictions:
        """Maps of all scales, the size and the image → "final" and "aux", by task, of full size."""
        return _predictions(self, inp, inp_shape, image, {})


class LazyHead(nn.Module):
    """`FusedHead`, whose predictions are upsampled when they are read."""

    def forward(self, inp: list[Tensor], inp_shape: tuple[int, int], image: Tensor, **kwargs: Any) -> Predictions:
        """Maps of all scales, the size and the image → "final" and "aux", by task."""
        return _predictions(self, inp, inp_shape, image, {}, lazy=True)


class FusedSearchHead(nn.Module):
    """The head that searches a genotype, with its auxiliary predictions from the maps themselves."""

    def forward(
        self, inp: list[Tensor], inp_shape: tuple[int, int], image: Tensor, gumbel_temp: float, mode: str = "gumbel"
    ) -> Predictions:
        """Maps of all scales, the size and the image → "final" and "aux", by task, of full size."""
        return _predictions(self, inp, inp_shape, image, {"gumbel_temp": gumbel_temp, "mode": mode})


class LazySearchHead(nn.Module):
    """`FusedSearchHead`, whose predictions are upsampled when they are read."""

    def forward(
        self, inp: list[Tensor], inp_shape: tuple[int, int], image: Tensor, gumbel_temp: float, mode: str = "gumbel"
    ) -> Predictions:
        """Maps of all scales, the size and the image → "final" and "aux", by task."""
        return _predictions(self, inp, inp_shape, image, {"gumbel_temp": gumbel_temp, "mode": mode}, lazy=True)


class LazyFCNHead(nn.Module):
    """The baseline's head, whose predictions are upsampled when they are read."""

    def forward(self, inp: list[Tensor], inp_shape: tuple[int, int], **kwargs: Any) -> Predictions:
        """Maps of all scales and the size → "final", by task."""
        head: Any = self
        joined = head._transform_inputs(inp)
        final = {task: head.final_logits[task](head.bottleneck[task](joined)) for task in head.tasks}
        return {"final": {task: upsampled_lazily(self, x, inp_shape) for task, x in final.items()}}


def _global_blocks(module: Any) -> dict[tuple[str, str], Any]:
    """Blocks that the operator computes, by target and source."""
    return {
        (target, source): block
        for target in module.tasks
        for source, block in module.cp_blocks[target].items()
        if matches(block, "GlobalContextAttentionBlock", FINGERPRINTS["GlobalContextAttentionBlock"])
    }


def _called(module: Any) -> tuple[str, ...]:
    """All children of an exchange but the blocks that the operator computes."""
    fused = _global_blocks(module)
    others = (
        f"cp_blocks.{target}.{source}"
        for target, blocks in module.cp_blocks.items()
        for source in blocks
        if (target, source) not in fused
    )
    return "out_proj.*", "bottleneck.*", *others


def _normalised(module: nn.Module) -> Any:
    """The function that makes probabilities over pixels of auxiliary predictions, in the file of the original class."""
    return original_class(module).forward.__globals__["utils_heads"].spatial_normalize_pred


def _predictions(
    head: Any, maps: list[Tensor], size: tuple[int, int], image: Tensor, search: dict[str, Any], lazy: bool = False
) -> Predictions:
    joined = head._transform_inputs(maps)
    features = {task: head.bottleneck[task](joined) for task in head.tasks}
    chosen = [maps[i].detach() for i in head.in_index]  # no gradient flows from auxiliary predictions into the maps
    auxiliary = {task: _auxiliary(head, task, chosen, joined) for task in head.aux_logits}
    related = head.atrc_module(features, auxiliary, image, **search)
    final = {task: head.final_logits[task](related[task]) for task in head.tasks}
    upsample = upsampled_lazily if lazy else _upsampled
    ignored = lazy and any(bool(x.isinf().any()) for x in auxiliary.values())
    upsample_auxiliary = _upsampled if ignored else upsample
    return {
        "final": {task: upsample(head, x, size) for task, x in final.items()},
        "aux": {task: upsample_auxiliary(head, x, size) for task, x in auxiliary.items()},
    }


def _auxiliary(head: Any, task: str, maps: list[Tensor], joined: Tensor) -> Tensor:
    hidden, logits = head.aux_conv[task], head.aux_logits[task]
    if any(m.shape[2] > maps[0].shape[2] or m.shape[3] > maps[0].shape[3] for m in maps):
        return logits(hidden(joined.detach()))
    return aggregate(maps, hidden.conv, hidden.bn, logits)


def _upsampled(_: nn.Module, x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def _attention_refusal(block: Any) -> str | None:
    return against_blocks({"block": block})


def _exchange_refusal(module: Any) -> str | None:
    blocks = _global_blocks(module)
    if not blocks:
        return "has no blocks of global context, which alone are fused"
    sources = {
        target: [source for source in module.tasks if module.atrc_genotype[target][source]] for target in module.tasks
    }
    if sources != {target: list(module.cp_blocks[target]) for target in module.tasks}:
        return "its blocks are not those of its genotype, in the order of its tasks"
    return against_blocks({f"cp_blocks.{target}.{source}": block for (target, source), block in blocks.items()})


def _head_refusal(head: Any) -> str | None:
    if not len(head.aux_logits):
        return "has no auxiliary predictions, which are all that is fused"
    return _auxiliary_refusal(head)


def _auxiliary_refusal(head: Any) -> str | None:
    if not isinstance(head.in_index, (list, tuple)):
        return f"in_index is {head.in_index}, only several scales are fused"
    for task, logits in head.aux_logits.items():
        if reason := _hidden_refusal(head.aux_conv[task]) or against_pointwise(f"aux_logits.{task}", logits):
            return reason
    return None


def _hidden_refusal(layer: Any) -> str | None:
    if not matches(layer, "ConvBNReLU", FINGERPRINTS["ConvBNReLU"]) or not layer.use_norm or not layer.use_activation:
        return "an auxiliary prediction does not begin with a convolution, a batch norm and ReLU as they are known"
    return (
        against_pointwise("a convolution", layer.conv)
        or against_norm("a norm", layer.bn)
        or against_relu("an activation", layer.activation)
    )


ATTENTION = register(
    Replacement(
        kind="atrc.attention",
        class_name="GlobalContextAttentionBlock",
        fingerprints=("12c31203eb99d8a8",),
        fused=FusedAttention,
        refusal=_attention_refusal,
    )
)
EXCHANGE = register(
    Replacement(
        kind="atrc.exchange",
        class_name="ATRCModule",
        fingerprints=("d12ac12613067413",),
        fused=FusedExchange,
        refusal=_exchange_refusal,
        calls=_called,
    )
)
HEAD, SEARCH_HEAD, LAZY_HEAD, LAZY_SEARCH_HEAD = (
    register(
        Replacement(
            kind="atrc.predictions" if lazy else "atrc.head",
            class_name=class_name,
            fingerprints=(fingerprint,),
            fused=fused,
            refusal=_auxiliary_refusal if lazy else _head_refusal,
            methods=("forward", "_transform_inputs"),
            calls=("bottleneck.*", "atrc_module", "final_logits.*"),
            lazy=lazy,
            hands_lazy=lazy,
        )
    )
    for class_name, fingerprint, fused, lazy in (
        ("RelationalContextHead", "faa9a392a247d048", FusedHead, False),
        ("RelationalContextSearchHead", "e240298e4282e2b6", FusedSearchHead, False),
        ("RelationalContextHead", "faa9a392a247d048", LazyHead, True),
        ("RelationalContextSearchHead", "e240298e4282e2b6", LazySearchHead, True),
    )
)
LAZY_FCN_HEAD = register(
    Replacement(
        kind="atrc.predictions",
        class_name="FCNHead",
        fingerprints=("fd09746081619347",),
        fused=LazyFCNHead,
        methods=("forward", "_transform_inputs"),
        calls=("*",),
        lazy=True,
        hands_lazy=True,
    )
)
LOCAL = leave(
    "atrc.attention",
    "LocalContextAttentionBlock",
    ("d7c9b0fc83f11b9d",),
    "attends to windows by a kernel of its own",
)
LABEL = leave(
    "atrc.attention",
    "LabelContextAttentionBlock",
    ("24b8ae1fcc0b6487",),
    "is normalised by a softmax over its keys, which linear attention is not",
)
