"""Reasons against layers whose arithmetic a fused `forward` takes over: what operators do not compute."""

from typing import Any

from torch import nn


def against_pointwise(name: str, conv: Any) -> str | None:
    """Why a layer is no plain 1×1 convolution, or None.

    Args:
        name: of the layer, for the reason.
        conv: the layer.
    """
    if type(conv) is not nn.Conv2d:
        return f"{name} is a {type(conv).__name__}, and Conv2d alone is fused"
    if conv.kernel_size != (1, 1) or conv.stride != (1, 1) or conv.groups != 1 or conv.padding not in ((0, 0), "valid"):
        return f"{name} is no plain 1×1 convolution: {conv}"
    return None


def against_norm(name: str, norm: Any) -> str | None:
    """Why a layer is no batch norm that operators compute, or None."""
    if type(norm) not in (nn.BatchNorm2d, nn.SyncBatchNorm):
        return f"{name} is a {type(norm).__name__}, and BatchNorm2d and SyncBatchNorm alone are fused"
    return None if norm.affine else f"{name} has neither weight nor bias"


def against_relu(name: str, activation: Any) -> str | None:
    """Why a layer is no ReLU, or None."""
    return None if type(activation) is nn.ReLU else f"{name} is a {type(activation).__name__}, and ReLU alone is fused"


def against_head(name: str, layers: Any) -> str | None:
    """Why layers are not 1×1 convolution, batch norm, ReLU, 1×1 convolution, which `aggregation_head` computes.

    Args:
        name: of what holds them.
        layers: an `nn.Sequential`.
    """
    if type(layers) is not nn.Sequential or len(layers) != 4:
        return f"{name} is no Sequential of four layers"
    conv, norm, activation, prediction = layers
    return (
        against_pointwise(f"{name}[0]", conv)
        or against_norm(f"{name}[1]", norm)
        or against_relu(f"{name}[2]", activation)
        or against_pointwise(f"{name}[3]", prediction)
    )
