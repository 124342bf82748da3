"""Published checkpoints are read and written back without loss, and refused when they are not whole."""

import pytest
import torch

from seqca.models import (
    SequentialCrossAttentionNet,
    from_published_state,
    published_tasks,
    to_published_state,
)
from tests.golden import GOLDEN
from tests.golden.published_state import published_state


@pytest.fixture(scope="module")
def published():
    return published_state(GOLDEN / "published_keys_2tasks.json")


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) and a[key].dtype == b[key].dtype for key in a)


def test_a_published_state_survives_the_way_there_and_back(published):
    assert equal(to_published_state(from_published_state(published)), published)


def test_three_tasks_survive_the_way_there_and_back():
    state = published_state(GOLDEN / "published_keys_3tasks.json")
    assert equal(to_published_state(from_published_state(state)), state)


def test_a_state_of_the_network_survives_the_way_there_and_back():
    net = SequentialCrossAttentionNet({"depth": 1}, {"edge": 1, "normals": 3})
    state = net.state_dict()
    written = to_published_state(state)
    assert published_tasks(written) == ({"depth": 1}, {"edge": 1, "normals": 3})
    assert equal(from_published_state(written), state)


def test_a_single_task_survives_the_way_there_and_back():
    state = SequentialCrossAttentionNet({"normals": 3}).state_dict()
    assert equal(from_published_state(to_published_state(state)), state)


@pytest.mark.parametrize("form", ["wrapped", "prefixed", "both", "file", "wrapped file"])
def test_a_published_checkpoint_may_be_wrapped_prefixed_or_a_file(published, form, tmp_path):
    state = published
    if form in ("prefixed", "both"):
        state = {f"module.{key}": value for key, value in state.items()}
    if form in ("wrapped", "both", "wrapped file"):
        state = {"model": state}
    if "file" in form:
        torch.save(state, tmp_path / "checkpoint.pth.tar")
        state = tmp_path / "checkpoint.pth.tar"
    assert equal(from_published_state(state), from_published_state(published))


def test_differences_are_refused_with_the_whole_list(published):
    state = dict(published)
    del state["fpm_scale_2.se.depth.squeeze.0.bias"]
    state["surplus"] = torch.zeros(2)
    state["scale_1.decoders.depth.bias"] = torch.zeros(7)
    with pytest.raises(ValueError, match="3 differences") as error:
        from_published_state(state)
    assert "missing: fpm_scale_2.se.depth.squeeze.0.bias (9,)" in str(error.value)
    assert "unknown: surplus (2,)" in str(error.value)
    assert "shape of scale_1.decoders.depth.bias: (7,), expected (1,)" in str(error.value)


def test_differences_are_refused_when_writing_too():
    state = dict(SequentialCrossAttentionNet({"depth": 1}).state_dict())
    del state["propagation.0.attention.embedding.bias"]
    with pytest.raises(ValueError, match=r"missing: propagation\.0\.attention\.embedding\.bias"):
        to_published_state(state)


def test_a_wrong_relative_position_index_is_refused(published):
    key = "swTransform1.layers.0.blocks.0.attn.relative_position_index"
    with pytest.raises(ValueError, match="relative_position_index"):
        from_published_state({**published, key: published[key].flip(0)})


def test_pairs_that_counted_differently_are_refused(published):
    key = "distillation_scale_0.cross_attention.depth.semseg.value_project.bn.num_batches_tracked"
    state = published_state(GOLDEN / "published_keys_3tasks.json")
    with pytest.raises(ValueError, match="in the pairs behind it, expected one and the same"):
        from_published_state({**state, key: torch.tensor(3)})


def test_the_order_of_tasks_can_be_given_where_keys_were_sorted(published):
    keys = dict(sorted(published.items()))
    assert list(published_tasks(keys)[0]) == ["depth", "semseg"]
    assert list(published_tasks(keys, ("semseg", "depth"))[0]) == ["semseg", "depth"]
    assert equal(from_published_state(keys, ("semseg", "depth")), from_published_state(published))
    with pytest.raises(ValueError, match="order of"):
        from_published_state(keys, ("semseg",))


@pytest.mark.parametrize("state", [{"weight": 3}, [1, 2], {"a": torch.zeros(1)}])
def test_what_is_no_checkpoint_is_refused(state):
    with pytest.raises(ValueError):
        from_published_state(state)
