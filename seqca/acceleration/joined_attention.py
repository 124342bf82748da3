"""`seqca.ops.cross_attention` on the blocks of attention of other code bases, joined on the fly.

`GlobalContextAttentionBlock` (Brüggemann et al., "Exploring Relational Context for Multi-Task Dense Prediction", ICCV
2021; Kim et al. 2022) is a pair of the operator: queries and keys are softplus(BN(W₂ relu(BN(W₁ x)))), values
relu(BN(W x)), and S q / max(z·q, eps) is what is gathered. There every pair of maps has a block and is a call of its
own; here all that reads one map is one layer, whose rows are those of the blocks one after the other.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from seqca.nn.batch_norm import synchronised_over, uses_batch_statistics
from seqca.nn.conv_norm import ConvNorm
from seqca.nn.cross_attention import attend_joined
from seqca.ops import Branch, Pair

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


class Exchange(NamedTuple):
    """Blocks of attention as one call, a branch for each map."""

    maps: list[str]
    """Names, in the order in which the call takes them."""
    layers: list[Layer]
    branches: list[Branch]
    pairs: list[Pair]
    eps: float

    @classmethod
    def of(cls, blocks: Mapping[tuple[str, str], Any]) -> "Exchange":
        """Of blocks by the names of target and source, all of one eps."""
        maps = list(dict.fromkeys(name for pair in blocks for name in pair))
        asking = {name: [pair for pair in blocks if pair[0] == name] for name in maps}
        asked = {name: [pair for pair in blocks if pair[1] == name] for name in maps}
        layers: list[Layer] = []
        for name in maps:
            queries = [query_rows(blocks[pair]) for pair in asking[name]]
            keys = [key_rows(blocks[pair]) for pair in asked[name]]
            layers += [[rows[i] for rows in (*queries, *keys)] for i in range(2)]
            layers += [[rows[2] for rows in keys]] if keys else []
        branches = [Branch(i, len(asking[name]), len(asked[name])) for i, name in enumerate(maps)]
        pairs = [
            Pair(maps.index(pair[0]), asking[pair[0]].index(pair), maps.index(pair[1]), asked[pair[1]].index(pair))
            for pair in blocks
        ]
        return cls(maps, layers, branches, pairs, next(iter(blocks.values())).eps)

    def gathered(self, features: Mapping[str, Tensor]) -> dict[tuple[str, str], Tensor]:
        """By target and source, what the one gathers from the other."""
        attended = attend_joined(
            [features[name] for name in self.maps], self.layers, self.branches, self.pairs, eps=self.eps
        )
        asking = [branch for branch in self.branches if branch.queries]
        parts = [part for branch, x in zip(asking, attended, strict=True) for part in x.chunk(branch.queries, 1)]
        named = [(self.maps[pair.target], self.maps[pair.source]) for pair in sorted(self.pairs)]
        return dict(zip(named, parts, strict=True))


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
