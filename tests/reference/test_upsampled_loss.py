"""The losses of upsampled predictions against formulas written out in NumPy."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from seqca.loss_type import KINDS, Loss
from seqca.reference.upsampled_loss import upsampled_loss

IGNORE = 255
LOSSES = {
    "cross_entropy": Loss("cross_entropy", ignore=IGNORE),
    "l1": Loss("l1", ignore=IGNORE),
    "unit_l1": Loss("unit_l1", ignore=IGNORE),
    "balanced_bce, fixed": Loss("balanced_bce", positive_weight=0.95),
    "balanced_bce, counted": Loss("balanced_bce"),
    "balanced_bce, ignoring": Loss("balanced_bce", ignore=IGNORE),
    "two_class, counted": Loss("two_class", ignore=IGNORE),
    "two_class, fixed": Loss("two_class", ignore=IGNORE, positive_weight=0.8),
}
CHANNELS = {"cross_entropy": 5, "l1": 2, "unit_l1": 3, "balanced_bce": 1, "two_class": 2}


def example(loss: Loss, size: tuple[int, int] = (7, 11), low: tuple[int, int] = (3, 5)) -> tuple[Tensor, Tensor]:
    """A float64 prediction and a label in which some pixels are ignored, if the loss ignores any."""
    generator = torch.Generator().manual_seed(KINDS.index(loss.kind))
    channels = CHANNELS[loss.kind]
    prediction = torch.randn(2, channels, *low, generator=generator, dtype=torch.float64)
    noise = torch.randn(2, channels, *size, generator=generator, dtype=torch.float64)
    target = {
        "cross_entropy": lambda: noise.argmax(1),
        "l1": lambda: noise,
        "unit_l1": lambda: F.normalize(noise, dim=1),
        "balanced_bce": lambda: (noise > 0.5).double(),
        "two_class": lambda: (noise[:, :1] > 0.5).double(),
    }[loss.kind]()
    if loss.ignore is not None:
        hidden = torch.rand(2, *size, generator=generator) < 0.3
        target[hidden if target.ndim == 3 else hidden[:, None].expand_as(target)] = IGNORE
    return prediction, target


def upsample(values: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Linear interpolation along an axis between the centres of its cells, constant beyond the outermost."""
    cells = values.shape[axis]
    centre = np.clip((np.arange(size) + 0.5) * cells / size - 0.5, 0, cells - 1)
    below = np.floor(centre).astype(int)
    above = np.minimum(below + 1, cells - 1)
    share = (centre - below).reshape([-1 if a == axis else 1 for a in range(values.ndim)])
    return values.take(below, axis) * (1 - share) + values.take(above, axis) * share


def by_hand(prediction: Tensor, target: Tensor, loss: Loss) -> float:
    """The loss, pixel by pixel."""
    z, y = prediction.numpy(), target.numpy()
    z = upsample(upsample(z, y.shape[-2], 2), y.shape[-1], 3).transpose(0, 2, 3, 1).reshape(-1, z.shape[1])
    y = (y[:, None] if y.ndim == 3 else y).transpose(0, 2, 3, 1)
    y = y.reshape(-1, y.shape[-1])
    valid = [n for n in range(len(y)) if loss.ignore is None or y[n, 0] != loss.ignore]
    positives = sum(y[n, 0] >= 0.5 for n in valid)
    w = loss.positive_weight if loss.positive_weight is not None else 1 - positives / len(valid)
    total = 0.0
    for n in valid:
        if loss.kind == "cross_entropy":
            total += np.log(np.exp(z[n]).sum()) - z[n, y[n, 0]]
        elif loss.kind == "l1":
            total += np.abs(z[n] - y[n]).mean()
        elif loss.kind == "unit_l1":
            total += np.abs(z[n] / np.sqrt((z[n] ** 2).sum()) - y[n]).mean()
        else:
            p = 1 / (1 + np.exp(-z[n, 0])) if loss.kind == "balanced_bce" else np.exp(z[n, 1]) / np.exp(z[n]).sum()
            total += -w * np.log(p) if y[n, 0] >= 0.5 else -(1 - w) * np.log(1 - p)
    return total / len(valid)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("size", [(7, 11), (12, 20), (3, 5)], ids=["uneven", "times four", "same size"])
def test_every_loss_is_what_its_formula_says(name: str, size: tuple[int, int]) -> None:
    prediction, target = example(LOSSES[name], size)
    value = upsampled_loss(prediction, target, LOSSES[name])
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(by_hand(prediction, target, LOSSES[name]), rel=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    prediction, target = example(LOSSES[name])
    assert torch.autograd.gradcheck(lambda p: upsampled_loss(p, target, LOSSES[name]), prediction.requires_grad_())


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.ignore is not None])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_if_all_pixels_are_ignored_loss_and_gradients_are_zero(name: str, dtype: torch.dtype) -> None:
    prediction, target = example(LOSSES[name])
    prediction = prediction.to(dtype).requires_grad_()
    value = upsampled_loss(prediction, target.fill_(IGNORE), LOSSES[name])
    value.backward()
    assert value.item() == 0
    assert torch.equal(prediction.grad, torch.zeros_like(prediction))


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.ignore is not None])
def test_predictions_at_ignored_pixels_have_no_say(name: str) -> None:
    prediction, target = example(LOSSES[name], low=(7, 11))
    expected = upsampled_loss(prediction, target, LOSSES[name])
    ignored = (target if target.ndim == 4 else target[:, None])[:, :1] == IGNORE
    moved = (prediction + 3 * ignored).requires_grad_()
    value = upsampled_loss(moved, target, LOSSES[name])
    value.backward()
    torch.testing.assert_close(value, expected, rtol=1e-14, atol=0)
    assert moved.grad[ignored.expand_as(moved)].abs().max() == 0
    assert moved.grad.abs().max() > 0


@pytest.mark.parametrize("kind", ["balanced_bce", "two_class"])
def test_ignored_pixels_do_not_count_as_negatives_either(kind: str) -> None:
    prediction, target = example(Loss(kind, ignore=IGNORE))
    expected = upsampled_loss(prediction, target, Loss(kind, ignore=IGNORE))
    target[target == IGNORE] = -1
    assert upsampled_loss(prediction, target, Loss(kind, ignore=-1)).item() == expected.item()


def test_two_class_loss_is_the_class_weighted_cross_entropy_over_all_valid_pixels() -> None:
    prediction, target = example(LOSSES["two_class, counted"])
    valid = target[:, 0] != IGNORE
    w = (target[:, 0] == 0).sum() / valid.sum()
    upsampled = F.interpolate(prediction, target.shape[-2:], mode="bilinear")
    expected = F.cross_entropy(
        upsampled, target[:, 0].long(), torch.stack([1 - w, w]).double(), ignore_index=IGNORE, reduction="sum"
    )
    value = upsampled_loss(prediction, target, LOSSES["two_class, counted"])
    torch.testing.assert_close(value, expected / valid.sum(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("value, loss", [(1.0, 0.0), (0.0, 0.0)], ids=["positive", "negative"])
def test_a_batch_of_one_label_has_no_loss_if_it_is_balanced_by_counts(value: float, loss: float) -> None:
    # All positive: w = N_neg/N = 0. All negative: the weight 1 − w of negatives is 0.
    prediction, target = example(LOSSES["balanced_bce, counted"])
    assert upsampled_loss(prediction, torch.full_like(target, value), Loss("balanced_bce")).item() == loss


@pytest.mark.parametrize("name", ["balanced_bce, fixed", "two_class, fixed", "cross_entropy"])
def test_huge_logits_neither_overflow_nor_lose_their_gradient(name: str) -> None:
    prediction, target = example(LOSSES[name])
    prediction = (prediction.float() * 1e4).requires_grad_()
    value = upsampled_loss(prediction, target.float() if target.is_floating_point() else target, LOSSES[name])
    value.backward()
    assert value.isfinite() and value > 1
    assert prediction.grad.isfinite().all() and prediction.grad.abs().max() > 1e-3


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bit_predictions_give_a_float32_loss_that_does_not_overflow(name: str, dtype: torch.dtype) -> None:
    # 200 × 300 pixels with losses around 3: their sum is beyond the largest float16, 65504.
    prediction, target = example(LOSSES[name], (200, 300), (50, 75))
    prediction = (3 * prediction).to(dtype)
    value = upsampled_loss(prediction, target, LOSSES[name])
    assert value.dtype in (torch.float32, torch.float64)
    expected = upsampled_loss(prediction.double(), target, LOSSES[name]).item()
    assert value.item() == pytest.approx(expected, rel=100 * torch.finfo(dtype).eps / 256)


def test_a_class_out_of_range_is_refused_with_its_position() -> None:
    prediction, target = example(LOSSES["cross_entropy"])
    for label in (5, -1, 254):
        bad = target.clone()
        bad[1, 6, 2] = label
        with pytest.raises(
            ValueError, match=f"target: got {label} at image 1, row 6, column 2.*classes 0 to 4, or 255"
        ):
            upsampled_loss(prediction, bad, LOSSES["cross_entropy"])


def test_without_an_ignore_value_no_label_is_ignored() -> None:
    prediction, target = example(LOSSES["cross_entropy"])
    target[target == IGNORE] = 0
    value = upsampled_loss(prediction, target, Loss("cross_entropy")).item()
    assert value == pytest.approx(by_hand(prediction, target, Loss("cross_entropy")), rel=1e-12)
    target[0, 1, 2] = IGNORE
    with pytest.raises(ValueError, match="image 0, row 1, column 2"):
        upsampled_loss(prediction, target, Loss("cross_entropy"))


@pytest.mark.parametrize(
    "kind, prediction, target, error, message",
    [
        ("cross_entropy", torch.zeros(2, 5, 4, 4), torch.zeros(1, 8, 8, dtype=torch.int64), ValueError, r"\(2, H ≥ 4"),
        ("cross_entropy", torch.zeros(2, 5, 4, 4), torch.zeros(2, 1, 8, 8, dtype=torch.int64), ValueError, "target"),
        (
            "cross_entropy",
            torch.zeros(2, 5, 4, 4),
            torch.zeros(2, 8, 8),
            TypeError,
            "target: got torch.float32, expected torch.int64",
        ),
        ("cross_entropy", torch.zeros(5, 4, 4), torch.zeros(8, 8, dtype=torch.int64), ValueError, "prediction"),
        ("l1", torch.zeros(2, 1, 4, 4, dtype=torch.int64), torch.zeros(2, 1, 8, 8), TypeError, "prediction"),
        ("l1", torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 8, 8, dtype=torch.int64), TypeError, "target"),
        ("l1", torch.zeros(2, 1, 4, 4), torch.zeros(2, 3, 8, 8), ValueError, r"\(2, 1, H ≥ 4, W ≥ 4\)"),
        ("l1", torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 8, 3), ValueError, r"got shape \(2, 1, 8, 3\)"),
        (
            "two_class",
            torch.zeros(2, 1, 4, 4),
            torch.zeros(2, 1, 8, 8),
            ValueError,
            "prediction: got 1 channels, expected 2",
        ),
        ("l1", torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 8, 8, device="meta"), ValueError, "meta"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    kind: str, prediction: Tensor, target: Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        upsampled_loss(prediction, target, Loss(kind))


@pytest.mark.parametrize(
    "arguments", [{"kind": "l2"}, {"kind": "l1", "positive_weight": 0.5}, {"kind": "two_class", "positive_weight": 2}]
)
def test_a_loss_that_makes_no_sense_cannot_be_named(arguments: dict) -> None:
    with pytest.raises(ValueError, match=r"^(kind|positive_weight): got"):
        Loss(**arguments)


def kept_bytes(function, inputs: list[Tensor]) -> int:
    """Bytes of the distinct storages that autograd keeps, inputs left out."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
    for tensor in inputs:
        storages.pop(tensor.untyped_storage().data_ptr(), None)
    del result
    return sum(storages.values())


def plain_torch(prediction: Tensor, target: Tensor, loss: Loss) -> Tensor:
    """The loss in the fewest of torch's own calls."""
    upsampled = F.interpolate(prediction, target.shape[-2:], mode="bilinear")
    if loss.kind == "cross_entropy":
        return F.cross_entropy(upsampled, target, ignore_index=IGNORE)
    if loss.kind in ("l1", "unit_l1"):
        valid = target != IGNORE
        upsampled = F.normalize(upsampled, dim=1) if loss.kind == "unit_l1" else upsampled
        return F.l1_loss(torch.where(valid, upsampled, target), target, reduction="sum") / valid.sum()
    if loss.kind == "two_class":
        weight = torch.tensor([0.2, 0.8])
        return F.cross_entropy(upsampled, target[:, 0].long(), weight, ignore_index=IGNORE, reduction="sum")
    positive = (target >= 0.5).float()
    return F.binary_cross_entropy_with_logits(upsampled, positive, torch.where(target >= 0.5, 0.95, 0.05))


@pytest.mark.parametrize("name", LOSSES)
def test_no_more_is_kept_for_backward_than_by_plain_torch(name: str) -> None:
    prediction, target = example(LOSSES[name], (48, 64), (12, 16))
    prediction = prediction.float().requires_grad_()
    target = target.float() if target.is_floating_point() else target
    kept = kept_bytes(lambda: upsampled_loss(prediction, target, LOSSES[name]), [prediction, target])
    # Scalars, as the number of valid pixels, are let pass.
    assert kept <= kept_bytes(lambda: plain_torch(prediction, target, LOSSES[name]), [prediction, target]) + 64
