"""Drop path in the self-attention stage."""

import pytest
import torch

from seqca.nn.window_self_attention import WindowBlock


@pytest.fixture
def block() -> WindowBlock:
    torch.manual_seed(0)
    return WindowBlock(channels=6, heads=2, window=7, shift=3, drop_path=0.25)


def test_drop_path_leaves_out_whole_samples_and_scales_the_others_up(block):
    x = torch.randn(1, 7, 7, 6).expand(64, -1, -1, -1)
    update = block.eval()(x) - x
    trained = block.train()(x) - x
    dropped = (trained == 0).flatten(1).all(1)
    assert 0 < dropped.sum() < 32, "a quarter of 64 samples, on average"
    torch.testing.assert_close(trained[~dropped], update[~dropped] / 0.75)


def test_no_sample_is_left_out_in_evaluation(block):
    x = torch.randn(1, 7, 7, 6).expand(64, -1, -1, -1)
    y = block.eval()(x)
    assert (y != x).flatten(1).any(1).all()
    assert torch.equal(y, block(x))
