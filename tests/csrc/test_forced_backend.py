"""Forcing the backend `cuda` where it cannot run raises the reason."""

import pytest
import torch

import seqca
from seqca.ops import linear_attention
from seqca.ops.shared.dispatch import BackendUnavailable


def test_cpu_tensors_raise_that_the_extension_is_missing_or_needs_a_gpu() -> None:
    q = torch.ones(1, 4, 18)
    reason = r"seqca._C is not built|needs CUDA tensors, these are on cpu"
    with seqca.use_backend("cuda"), pytest.raises(BackendUnavailable, match=reason):
        linear_attention(q, q, q)


def test_too_many_channels_are_a_reason() -> None:
    from seqca.ops.cuda.linear_attention import MAX_CHANNELS, limit
    from seqca.ops.shared.operator import Call

    assert limit(Call("cuda", torch.float32, MAX_CHANNELS, 100)) is None
    assert "at most 72 channels, these are 73" in str(limit(Call("cuda", torch.float32, MAX_CHANNELS + 1, 100)))
