"""InvPT's and TaskPrompter's modules, replaced: the same numbers, and what is left says why."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seqca.acceleration import LazyMap, Report, accelerate, atrc_losses, fingerprint, invpt

from . import invpt as theirs
from . import task_prompter
from .atrc import BalancedBinaryCrossEntropyLoss
from .losses import compare_lazy
from .teaching import taught

KINDS = (
    (invpt.ATTENTION, theirs.Attention),
    (invpt.DECODER_ATTENTION, theirs.SelfAttention),
    (invpt.WINDOW_ATTENTION, task_prompter.WindowAttention),
    (invpt.PROMPTER, task_prompter.TaskPrompter),
    (invpt.TRANSFORMER_NET, theirs.TransformerNet),
    (invpt.TASK_PROMPTER, task_prompter.TaskPrompterWrapper),
    (atrc_losses.FLOAT_CROSS_ENTROPY, task_prompter.CrossEntropyLoss),
    (atrc_losses.BINARY, BalancedBinaryCrossEntropyLoss),
    (atrc_losses.L1, task_prompter.L1Loss),
)


@pytest.fixture(autouse=True)
def recognised(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, stand_in in (("Block", task_prompter.Block), ("Attention", task_prompter.Attention)):
        monkeypatch.setitem(invpt.FINGERPRINTS, name, (fingerprint(stand_in),))
    with taught(*KINDS):
        yield


def images() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def seeded(make: type[nn.Module], *arguments: Any, **named: Any) -> Any:
    torch.manual_seed(0)
    return make(*arguments, **named)


def paths(report: Report) -> set[str]:
    return {each.path for each in report.replaced}


def reasons(report: Report) -> dict[str, str]:
    return {each.path: each.reason for each in report.left}


def test_attention_of_the_backbone_gives_the_same_numbers_without_its_scores() -> None:
    model = seeded(theirs.TransformerNet)
    report = accelerate(model, sample=(images(),))
    assert paths(report) == {"model.backbone.attention.0", "model.backbone.attention.1"}
    assert report.kept is not None and report.kept.after < report.kept.before
    assert all(each.operators == ("scaled_dot_product_attention (torch)",) for each in report.replaced)


def test_attention_that_drops_scores_is_left() -> None:
    with pytest.raises(ValueError, match="drops scores"):
        accelerate(seeded(theirs.TransformerNet, attn_drop=0.1))


def test_predictions_final_and_intermediate_give_the_same_numbers_lazily() -> None:
    model = seeded(theirs.TransformerNet)
    report = accelerate(model, sample=(images(),), outputs="lazy")
    assert "model" in paths(report)
    output = model(images())
    assert isinstance(output["semseg"], LazyMap)
    assert isinstance(output["inter_preds"]["depth"], LazyMap)


def test_blocks_whose_scores_are_not_read_do_not_keep_them() -> None:
    model = seeded(task_prompter.TaskPrompterWrapper)
    report = accelerate(model, sample=(images(),))
    assert paths(report) == {"model.backbone"}
    assert report.kept is not None and report.kept.after < report.kept.before
    assert report.replaced[0].operators == ("scaled_dot_product_attention (torch)",)


def test_random_numbers_are_drawn_in_the_order_in_which_they_were() -> None:
    model = seeded(task_prompter.TaskPrompterWrapper)
    for block in model.backbone.blocks:
        block.drop_path, block.attn.proj_drop = nn.Dropout(0.3), nn.Dropout(0.2)
    original = copy.deepcopy(model)
    accelerate(model)
    outputs = [(torch.manual_seed(0), network(images())["depth"])[1] for network in (model, original)]
    torch.testing.assert_close(*outputs)


def test_a_network_that_reads_all_scores_is_left() -> None:
    with pytest.raises(ValueError, match="reads the scores of all blocks"):
        accelerate(seeded(task_prompter.TaskPrompterWrapper, select_list=(1, 2, 3, 4)))


@pytest.mark.parametrize("target_size", [None, (24, 20)])
def test_predictions_of_the_wrapper_give_the_same_numbers_lazily(target_size: tuple[int, int] | None) -> None:
    model = seeded(task_prompter.TaskPrompterWrapper, (*theirs.TASKS, "3ddet"), target_size)
    accelerate(model, sample=(images(),), outputs="lazy")
    output = model(images())
    assert isinstance(output["depth"], LazyMap)
    assert output["depth"].shape[2:] == (target_size or (16, 16))
    assert isinstance(output["3ddet"], Tensor)


def test_networks_that_upsample_otherwise_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (theirs, task_prompter):
        monkeypatch.setattr(module, "INTERPOLATE_MODE", "nearest")
    report = accelerate(seeded(theirs.TransformerNet), outputs="lazy")
    assert "does not upsample bilinearly" in reasons(report)["model"]
    with pytest.raises(ValueError, match="does not upsample bilinearly"):
        accelerate(seeded(task_prompter.TaskPrompterWrapper), outputs="lazy")


def test_blocks_of_another_source_are_left() -> None:
    model = seeded(task_prompter.TaskPrompterWrapper)

    class Block(task_prompter.Block):
        def forward(self, x: Tensor, task_prompts: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
            return super().forward(2 * x, task_prompts)

    model.backbone.blocks[0] = Block()
    with pytest.raises(ValueError, match="a block is Block of a source"):
        accelerate(model)


def test_state_keys_stay() -> None:
    for network in (theirs.TransformerNet, task_prompter.TaskPrompterWrapper):
        model = seeded(network)
        before = list(model.state_dict())
        accelerate(model, outputs="lazy")
        assert list(model.state_dict()) == before


def test_losses_of_taskprompter_are_computed_from_lazy_predictions() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = {
        "semseg": torch.randint(5, (2, 1, 16, 16), generator=generator).float(),
        "depth": torch.rand(2, 1, 16, 16, generator=generator).round(decimals=1),
    }
    losses = {"semseg": task_prompter.CrossEntropyLoss(), "depth": task_prompter.L1Loss()}
    criterion = task_prompter.MultiTaskLoss(losses)
    model = seeded(task_prompter.TaskPrompterWrapper)
    report = accelerate(model, criterion, sample=(images(), labels), outputs="lazy")
    assert paths(report) == {"model", "model.backbone", "criterion.loss_ft.semseg", "criterion.loss_ft.depth"}
    operators = [each.operators for each in report.replaced if each.kind == "atrc.loss"]
    assert operators == 2 * [("upsampled_loss (aten)",)]
    assert report.compared_in == ("float32", "float64")
    assert report.not_in_float64 == ("loss[semseg]", "loss[semseg] in evaluation")


@pytest.mark.parametrize(
    ("loss", "channels"),
    [
        (task_prompter.L1Loss(), 1),
        (task_prompter.L1Loss(ignore_index=-1), 1),
        (task_prompter.L1Loss(ignore_invalid_area=False), 1),
        (task_prompter.L1Loss(normalize=True, ignore_index=-1), 3),
        (task_prompter.L1Loss(normalize=True, ignore_invalid_area=False), 3),
        (BalancedBinaryCrossEntropyLoss(pos_weight=0.95), 1),
    ],
)
@pytest.mark.parametrize("valid", ["some", "no"])
def test_losses_ignore_the_pixels_that_they_ignored(loss: nn.Module, channels: int, valid: str) -> None:
    """Labels have zeros, ones and the ignored value, in some of their channels or everywhere."""
    ignored = getattr(loss, "ignore_index", 1)
    generator = torch.Generator().manual_seed(1)
    drawn, where = (torch.rand(2, channels, 16, 16, generator=generator) for _ in range(2))
    label = drawn.round().masked_fill(where < (0.2 if valid == "some" else 1), ignored)
    compare_lazy(copy.deepcopy(loss), channels, label)


@pytest.mark.parametrize(
    ("attention", "reason"),
    [
        (theirs.SelfAttention, "attention of the next stage"),
        (task_prompter.WindowAttention, "makes features of them"),
    ],
)
def test_attention_whose_scores_later_layers_read_is_left(attention: type[nn.Module], reason: str) -> None:
    model = nn.ModuleDict({"backbone": theirs.Attention(), "decoder": attention()})
    report = accelerate(model)
    assert paths(report) == {"model.backbone"}
    assert reason in reasons(report)["model.decoder"]
