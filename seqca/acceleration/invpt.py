"""InvPT and TaskPrompter, https://github.com/prismformore/Multi-Task-Transformer (Ye and Xu, ECCV 2022 and ICLR 2023).

Attention where no later layer reads the scores:

- `Attention` of the ViT behind InvPT is softmax attention: torch's `scaled_dot_product_attention`, which keeps no
  scores. With dropout of the scores it is left, since other random numbers would be drawn.
- Blocks of `TaskPrompter` return their scores, from which the network takes features of tasks, but only after the
  blocks of ``select_list`` and the last one. The others are computed by `scaled_dot_product_attention` too. The
  attention between channels there has no other result than scores, and is not computed in blocks whose scores nobody
  reads.

`SelfAttention` of InvPT's decoder is left: the scores of a stage are mixed into those of the next one. So is the Swin
variant of TaskPrompter, whose windows return scores that are merged between stages.

With ``outputs="lazy"`` the networks hand on their predictions, final and intermediate ones, as lazy maps. The losses
are those of ATRC (`.atrc_losses`), which they were taken from.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .fingerprint import matches
from .lazy import upsampled_lazily
from .replacement import Replacement, leave, register


class FusedAttention(nn.Module):
    """Softmax attention of a ViT."""

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, C) → the same."""
        module: Any = self
        return module.proj_drop(module.proj(_attended(module, x)))


class FusedTaskPrompter(nn.Module):
    """The ViT with prompts, without the scores that nobody reads."""

    def forward(self, x: Tensor) -> tuple[dict[str, Any], dict[str, Any]]:
        """Images (B, 3, H, W) → features by task, at a quarter of their size, and what `cal_task_feature` passes on."""
        network: Any = self
        tasks, depth = network.p.TASKS.NAMES, len(network.blocks)
        x = network.pos_drop(network.patch_embed(x) + network.pos_embed[:, 1:])
        prompts = network.task_prompts[None].expand(x.shape[0], -1, -1)
        features: dict[str, Any] = dict.fromkeys(tasks, 0)
        info: dict[str, Any] = {}
        layer = 0
        for i, block in enumerate(network.blocks, 1):
            if not _read(network, i):
                x, prompts = _without_scores(block, x, prompts)
                continue
            x, scores, prompts = block(x, prompts)
            if i in network.select_list:
                own, info = network.cal_task_feature(x, scores, layer, info)
                features = {task: features[task] + own[task] for task in tasks}
                layer += 1
            if i == depth:
                own, info = network.cal_task_feature(network.norm(x), scores, network.num_layers - 1, info)
                features = {task: features[task] + own[task] for task in tasks}
        return {task: F.interpolate(y, scale_factor=4, mode="bilinear") for task, y in features.items()}, info


class LazyTransformerNet(nn.Module):
    """InvPT, whose predictions are upsampled when they are read."""

    def forward(self, x: Tensor) -> dict[str, Any]:
        """Images (B, 3, H, W) → predictions by task, and "inter_preds"."""
        network: Any = self
        size = x.shape[-2:]
        _, selected = network.backbone(x)
        features, intermediate = network.multi_task_decoder(selected)
        final = {task: upsampled_lazily(self, network.heads[task](features[task]), size) for task in network.tasks}
        early = {task: upsampled_lazily(self, y, size) for task, y in intermediate.items()}
        return features | final | {"inter_preds": early}


class LazyTaskPrompter(nn.Module):
    """TaskPrompter, whose predictions are upsampled when they are read."""

    def forward(self, x: Tensor) -> dict[str, Any]:
        """Images (B, 3, H, W) → predictions by task."""
        network: Any = self
        size = x.shape[-2:] if network.target_size is None else network.target_size
        features, _ = network.backbone(x)
        predictions = {task: network.heads[task](features[task]) for task in network.tasks}
        return {task: y if task == "3ddet" else upsampled_lazily(self, y, size) for task, y in predictions.items()}


def _attended(attention: Any, x: Tensor) -> Tensor:
    """Tokens (B, N, C) of all heads side by side, in front of the last projection."""
    q, k, v = attention.qkv(x).unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v, scale=attention.scale).transpose(1, 2).flatten(2)


def _read(network: Any, block: int) -> bool:
    """Whether the scores of a block, counted from 1, are read."""
    return block in network.select_list or block == len(network.blocks)


def _without_scores(block: Any, x: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
    """What a block makes of tokens and prompts. Random numbers are drawn in the order in which it draws them."""
    attention = block.attn
    x_in, prompts_in = block.norm1(x), block.norm1(prompts)
    joined = attention.proj_drop(attention.proj(_attended(attention, torch.cat([prompts_in, x_in], 1))))
    of_prompts, of_x = joined[:, : -attention.pixel_no], joined[:, -attention.pixel_no :]
    of_prompts = of_prompts + attention.token_trans1(attention.token_trans(prompts_in))
    x = x + block.drop_path(of_x)
    x = x + block.drop_path(block.mlp(block.norm2(x)))
    prompts = prompts + block.drop_path(of_prompts)
    return x, prompts + block.drop_path(block.mlp(block.norm2(prompts)))


def _attention_refusal(attention: Any) -> str | None:
    drop = attention.attn_drop
    if type(drop) is not nn.Dropout or drop.p:
        return f"drops scores ({drop}), only attention that does not is fused"
    return None


def _prompter_refusal(network: Any) -> str | None:
    unread = [block for i, block in enumerate(network.blocks, 1) if not _read(network, i)]
    if not unread:
        return "reads the scores of all blocks, and only those that nobody reads can be saved"
    if not _bilinear(network):
        return _NOT_BILINEAR
    for block in unread:
        if not matches(block, "Block", FINGERPRINTS["Block"]) or not matches(
            block.attn, "Attention", FINGERPRINTS["Attention"]
        ):
            return f"a block is {type(block).__name__} of a source that is not the public one"
        if reason := _attention_refusal(block.attn):
            return reason
    return None


def _upsampling_refusal(network: Any) -> str | None:
    return None if _bilinear(network) else _NOT_BILINEAR


def _bilinear(network: Any) -> bool:
    """Whether the file of the class says so, since its forward does not."""
    mode: Mapping[str, Any] = type(network).forward.__globals__
    return mode.get("INTERPOLATE_MODE") == "bilinear"


_NOT_BILINEAR = "does not upsample bilinearly, only that is known"

FINGERPRINTS = {"Block": ("4d9b4b96a8f0df37",), "Attention": ("6723be1745c181b9",)}
"""Of TaskPrompter's classes."""

ATTENTION = register(
    Replacement(
        kind="invpt.attention",
        class_name="Attention",
        fingerprints=("129a91299e719f71",),
        fused=FusedAttention,
        refusal=_attention_refusal,
        calls=("qkv", "proj", "proj_drop"),
        torch_functions=("scaled_dot_product_attention",),
    )
)
PROMPTER = register(
    Replacement(
        kind="invpt.prompter",
        class_name="TaskPrompter",
        fingerprints=("37ac43021e0ca3e6",),
        fused=FusedTaskPrompter,
        refusal=_prompter_refusal,
        calls=("patch_embed", "pos_drop", "norm", "fea_*", "ctr_attn_conv"),
        torch_functions=("scaled_dot_product_attention",),
    )
)
TRANSFORMER_NET, TASK_PROMPTER = (
    register(
        Replacement(
            kind="invpt.predictions",
            class_name=class_name,
            fingerprints=(fingerprint,),
            fused=fused,
            refusal=_upsampling_refusal,
            calls=("*",),
            lazy=True,
            hands_lazy=True,
        )
    )
    for class_name, fingerprint, fused in (
        ("TransformerNet", "3baebf031181938a", LazyTransformerNet),
        ("TaskPrompterWrapper", "1a6b8270a7be9f18", LazyTaskPrompter),
    )
)
DECODER_ATTENTION = leave(
    "invpt.attention",
    "SelfAttention",
    ("9c28a5a92d5da4e0",),
    "hands its scores on to the attention of the next stage",
)
WINDOW_ATTENTION = leave(
    "invpt.attention",
    "WindowAttention",
    ("3b75fb1a7ce20c73",),
    "gives its scores to the network, which makes features of them",
)
