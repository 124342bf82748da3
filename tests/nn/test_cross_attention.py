"""What cross attention keeps for backward."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness.quantities import kept_bytes
from seqca.nn import CrossAttention, CrossTaskAttention
from seqca.ops import use_backend

TASKS = ("semseg", "depth", "normals")


@pytest.mark.parametrize("module", [CrossAttention(6), CrossTaskAttention(TASKS, 6)], ids=lambda m: type(m).__name__)
def test_cross_attention_keeps_no_argument_of_softplus(
    module: CrossAttention | CrossTaskAttention, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = {task: torch.randn(2, 6, 8, 10) for task in TASKS}
    arguments = [maps] if isinstance(module, CrossTaskAttention) else [maps["semseg"], maps["depth"]]
    seen: list[int] = []

    def noting(x: Tensor) -> Tensor:
        seen.append(x.nbytes)
        return F.softplus(x)

    def kept() -> int:
        with use_backend("aten"):
            return kept_bytes(lambda: module(*arguments), [*module.parameters(), *module.buffers()])

    found = kept()
    monkeypatch.setattr("seqca.nn.cross_attention.softplus", noting)
    assert found == kept() - sum(seen)
    pairs = 6 if isinstance(module, CrossTaskAttention) else 1
    assert sum(seen) == 2 * pairs * maps["depth"].nbytes
