"""`seqca.ops.cross_attention` on the blocks of attention of other code bases, joined on the fly.

`GlobalContextAttentionBlock` (Brüggemann et al., "Exploring Relational Context for Multi-Task Dense Prediction", ICCV
2021; Kim et al. 2022) is a pair of the operator: queries and keys are softplus(BN(W₂ relu(BN(W₁ x)))), values
relu(BN(W x)), and S q / max(z·q, eps) is what is gathered. There every pair of maps has a block and is a call of its
own; here all that reads one map is one layer, whose rows are those of the blocks one after the other.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from seqca.nn.batch_norm import synchronised_over, uses_batch_statistics
from seqca.nn.conv_norm import ConvNorm

from .fingerprint import matches
from .layers import against_norm, against_pointwise, against_relu

FINGERPRINTS = {"GlobalContextAttentionBlock": ("12c31203eb99d8a8",), "ConvBNReLU": ("b95b3b9be97d6f0c",)}
"""By class, of the public code."""


Layer = Sequence[ConvNorm]
"""What reads the same map, joined to one layer of the operator."""


def query_rows(block: Any) -> list[ConvNorm]:
    """Of the hidden layer and the features of a block's queries."""
    hidden, features, _ = block.query_project
    return [ConvNorm(layer.conv, layer.bn) for layer in (hidden, features)]


def key_rows(block: Any) -> list[ConvNorm]:
    """Of the hidden layer, the features and the values of a block's keys."""
    hidden, features, _ = block.key_project
    return [ConvNorm(layer.conv, layer.bn) for layer in (hidden, features, block.value_project)]


def alike(layers: Iterable[Layer]) -> bool:
    """Whether the batch norms of one call all use statistics of the batch, over the same processes, or none does."""
    norms = [rows.bn for layer in layers for rows in layer]
    return len({(uses_batch_statistics(bn), synchronised_over(bn)) for bn in norms}) == 1


def against_blocks(blocks: Mapping[str, Any]) -> str | None:
    """Why blocks of attention, by their names, cannot take part in one call, or None."""
    for name, block in blocks.items():
        if reason := _against_block(name, block):
            return reason
    if len({block.eps for block in blocks.values()}) > 1:
        return "its blocks of attention have several eps, and one alone is fused"
    return against_layers({name: [*query_rows(block), *key_rows(block)] for name, block in blocks.items()})


def against_layers(layers: Mapping[str, Layer]) -> str | None:
    """Why convolutions and batch norms cannot take part in one call, or None."""
    for name, layer in layers.items():
        for conv, bn in layer:
            reason = against_pointwise(f"a convolution of {name}", conv) or against_norm(f"a norm of {name}", bn)
            if reason or conv.bias is not None:
                return reason or f"a convolution of {name} has a bias, and one without alone is fused"
    if len({rows.bn.eps for layer in layers.values() for rows in layer}) > 1:
        return "its batch norms have several eps, and one alone is fused"
    return None


def _against_block(name: str, block: Any) -> str | None:
    if not _known(block, "GlobalContextAttentionBlock"):
        return f"{name} is a {type(block).__name__} that does something else than the one that is known"
    reasons = (
        _against_features(f"{name}.query_project", block.query_project),
        _against_features(f"{name}.key_project", block.key_project),
        _against_layer(f"{name}.value_project", block.value_project, activated=True),
    )
    return next((reason for reason in reasons if reason), None)


def _against_features(name: str, layers: Any) -> str | None:
    if type(layers) is not nn.Sequential or len(layers) != 3:
        return f"{name} is no Sequential of two layers and Softplus"
    hidden, features, softplus = layers
    if type(softplus) is not nn.Softplus or softplus.beta != 1 or softplus.threshold < 20:
        return f"{name}[2] is {softplus}, and Softplus as torch has it by default alone is fused"
    return _against_layer(f"{name}[0]", hidden, activated=True) or _against_layer(
        f"{name}[1]", features, activated=False
    )


def _against_layer(name: str, layer: Any, activated: bool) -> str | None:
    if not _known(layer, "ConvBNReLU"):
        return f"{name} is a {type(layer).__name__} that does something else than the one that is known"
    if not layer.use_norm:
        return f"{name} has no norm"
    if layer.use_activation != activated:
        return f"{name} has {'no' if activated else 'an'} activation"
    return against_relu(f"{name}.activation", layer.activation) if activated else None


def _known(module: Any, name: str) -> bool:
    return matches(module, name, FINGERPRINTS[name])
