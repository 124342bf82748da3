"""A fault that several tests plant."""

from typing import Any

import pytest
from torch import Tensor

from seqca.ops.shared.branches import branches_of, layers_of
from seqca.ops.shared.operator import OPERATORS


def drop_gradient(of: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `cross_attention` on aten forget the gradient of the layers of "queries", "keys" or "values"."""
    implementation = OPERATORS["cross_attention"].implementation("aten")
    backward = implementation.backward

    def without(grads: list[Tensor], maps: list[Tensor], *arguments: Any) -> tuple[list[Tensor], ...]:
        d_maps, d_weights, *others = backward(grads, maps, *arguments)
        branches = branches_of(arguments[3])
        for branch, place in zip(branches, layers_of(branches), strict=True):
            if of == "values":
                if place.values is not None:
                    d_weights[place.values].zero_()
                continue
            for layer in (place.hidden, place.features):
                rows = branch.queries * len(d_weights[layer]) // (branch.queries + branch.keys)
                d_weights[layer][slice(rows) if of == "queries" else slice(rows, None)] = 0
        return d_maps, d_weights, *others

    monkeypatch.setattr(implementation, "backward", without)
