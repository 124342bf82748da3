"""The whole network: published numbers, shapes, modes, bad input."""

import pytest
import torch

from seqca.models import SequentialCrossAttentionNet, from_published_state
from tests.golden import GOLDEN, assert_published_predictions, close, load
from tests.golden.published_state import published_state

CHANNELS = {"semseg": 40, "depth": 1, "normals": 3, "edge": 1}


def small_net(**options):
    torch.manual_seed(0)
    return SequentialCrossAttentionNet({"semseg": 5, "depth": 1}, **options)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.processor
def test_network_with_published_weights_gives_the_published_numbers(count):
    golden = load(f"net_{count}tasks")
    net = SequentialCrossAttentionNet({task: CHANNELS[task] for task in list(CHANNELS)[:count]})
    net.load_state_dict(from_published_state(published_state(GOLDEN / f"published_keys_{count}tasks.json")))
    net.eval()
    with torch.no_grad():
        for k, x in enumerate(net.backbone(golden["image"])):
            close(x, golden[f"backbone_{k}"], f"backbone_{k}")
        output = net(golden["image"])
    assert_published_predictions(output, golden)


@pytest.mark.parametrize(("count", "parameters"), [(2, 25_763_645), (3, 39_969_255), (4, 56_372_655)])
def test_network_has_the_published_number_of_parameters(count, parameters):
    with torch.device("meta"):
        net = SequentialCrossAttentionNet({task: CHANNELS[task] for task in list(CHANNELS)[:count]})
    unused = [buffer for name, buffer in net.named_buffers() if "unused" in name]
    assert sum(x.numel() for x in [*net.parameters(), *unused]) == parameters


def test_every_parameter_gets_a_gradient_and_every_batch_norm_counts_its_calls():
    net = small_net(auxiliary={"edge": 1})
    output = net(torch.randn(2, 3, 64, 96))
    sum(x.square().mean() for group in (output.final, *output.deep) for x in group.values()).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []
    calls = {name: int(b) for name, b in net.named_buffers() if name.endswith("num_batches_tracked")}
    for name, count in calls.items():
        shared_by = {0: 3, 1: 2, 2: 1}  # a cross-scale attention serves every coarser scale
        parts = name.split(".")
        if parts[0] == "heads" and parts[2:4] == ["attention", "attention"]:
            assert count == shared_by[int(parts[4])], name
        elif ".reduction." in name and parts[0] == "cross_task":
            assert count == 3, name  # one for every target task
        else:
            assert count == 1, name


def test_tasks_of_the_coarsest_scale_read_one_map():
    net, read = small_net(), []
    net.features[3].register_forward_pre_hook(lambda _, inputs: read.extend(inputs[0].values()))
    net(torch.randn(2, 3, 64, 64))
    assert len(read) == 2 and len({id(x) for maps in read for x in maps}) == 1


def test_auxiliary_tasks_take_part_and_have_no_final_prediction():
    net = small_net(auxiliary={"edge": 1}).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        output = net(images)
        assert list(output.final) == ["semseg", "depth"]
        assert [list(deep) for deep in output.deep] == [["semseg", "depth", "edge"]] * 4
        for parameter in net.features[3].refinement["edge"].parameters():
            parameter.mul_(2)
        assert not torch.equal(net(images).final["semseg"], output.final["semseg"])


def test_a_single_task_has_nothing_to_exchange():
    net = SequentialCrossAttentionNet({"depth": 1})
    assert list(net.cross_task.parameters()) == []
    output = net(torch.randn(2, 3, 64, 64))
    assert output.final["depth"].shape == (2, 1, 16, 16)


def test_backbone_batch_norms_move_slowly_and_fuse_bilinearly():
    backbone = small_net().backbone
    assert {m.momentum for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {0.01}
    assert {m.mode for m in backbone.modules() if isinstance(m, torch.nn.Upsample)} == {"bilinear"}


def test_batch_norms_have_the_published_momentum():
    net = small_net()
    for name, module in net.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            slow = name.startswith("backbone.") or (name.startswith("cross_task.") and ".reduction.bn" in name)
            assert module.momentum == (0.01 if slow else 0.1), name
            assert module.eps == 1e-5


def test_drop_path_is_on_the_shifted_blocks_only():
    net = small_net(drop_path=0.3)
    assert [[b.drop_path.drop_prob for b in stage.blocks] for stage in net.self_attention] == [[0.0, 0.3]] * 4
    assert [b.drop_path.drop_prob for f in net.propagation for b in f.attention.blocks] == [0.0] * 3


@pytest.mark.parametrize("size", [(64, 96), (61, 75), (20, 33), (1, 1)])
def test_predict_takes_any_size_and_leaves_the_mode_alone(size):
    net = small_net()
    net.backbone.eval()
    predictions = net.predict(torch.randn(2, 3, *size))
    assert predictions["semseg"].shape == (2, *size) and predictions["semseg"].dtype == torch.int64
    assert predictions["depth"].shape == (2, 1, *size) and (predictions["depth"] >= 0).all()
    assert net.training and net.heads.training and not net.backbone.training


def test_predict_changes_nothing_in_the_network():
    net = small_net()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    net.predict(torch.randn(2, 3, 32, 32))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_network_runs_in_double_precision():
    output = small_net().double()(torch.randn(2, 3, 32, 64, dtype=torch.float64))
    assert all(x.dtype == torch.float64 for x in output.final.values())


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 64, 64), r"images: got shape \(3, 64, 64\), expected \(B, 3, H, W\)"),
        (torch.zeros(1, 4, 64, 64), r"images: got shape \(1, 4, 64, 64\)"),
        (torch.zeros(1, 3, 64, 65), r"images: got 64×65 pixels, expected multiples of 32 \(predict takes any size\)"),
        (torch.zeros(1, 3, 0, 64), r"images: got shape \(1, 3, 0, 64\)"),
    ],
)
def test_forward_refuses_other_images(images, message):
    with pytest.raises(ValueError, match=message):
        small_net()(images)


@pytest.mark.parametrize("use", [lambda net, images: net(images), lambda net, images: net.predict(images)])
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "images: got torch.uint8, expected a floating-point tensor"),
        (torch.zeros(1, 3, 64, 64).double(), "images: got torch.float64, expected torch.float32 as of the weights"),
    ],
)
def test_images_of_another_dtype_are_refused(images, message, use):
    with pytest.raises(TypeError, match=message):
        use(small_net(), images)


@pytest.mark.parametrize("images", [torch.zeros(3, 8, 8), torch.zeros(1, 4, 8, 8)])
def test_predict_refuses_what_are_no_images(images):
    with pytest.raises(ValueError, match=r"^images: got .*, expected"):
        small_net().predict(images)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({},), "tasks: got none, expected at least one"),
        (({"depth": 1}, {"depth": 1}), "auxiliary: got depth, expected none of tasks"),
        (({"a.b": 1},), "tasks: got 'a.b', expected the name of a task, an identifier"),
        (({"depth": 1}, {"train": 1}), "auxiliary: got 'train', expected a name that torch.nn.ModuleDict does not use"),
        (({"depth": 0},), r"tasks\['depth'\]: got 0 channels, expected a positive integer"),
    ],
)
def test_constructor_refuses_other_tasks(arguments, message):
    with pytest.raises(ValueError, match=message):
        SequentialCrossAttentionNet(*arguments)


def test_constructor_wants_the_channels_of_tasks():
    with pytest.raises(TypeError, match="tasks: got list, expected a mapping from names to channels"):
        SequentialCrossAttentionNet(["depth"])


def test_predict_of_an_unknown_task_says_which_there_are():
    net = SequentialCrossAttentionNet({"unheard_of": 2})
    with pytest.raises(ValueError, match="unheard_of"):
        net.predict(torch.zeros(1, 3, 32, 32))
