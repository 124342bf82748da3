"""What holds for upsampled losses alone; what every operator must do is asked in registered/."""

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.utils.checkpoint import checkpoint

from seqca.loss_type import Loss
from seqca.losses import MultiTaskLoss
from seqca.ops import upsampled_loss, use_backend
from seqca.ops.shared.dispatch import refusal
from seqca.ops.shared.operator import OPERATORS, Call
from seqca.ops.shared.sample import Sample
from seqca.ops.verification.draws import judged
from seqca.ops.verification.judge import cotangents, evaluate, judge, rounded

from .layouts import FAR_ELEMENTS, far_apart

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OPERATOR = OPERATORS["upsampled_loss"]
FUSED = [name for name in ("aten", "triton") if refusal(OPERATOR, name, Call(DEVICE, torch.float32, 3, 9)) is None]
LOSSES = {
    "classes": Loss("cross_entropy", ignore=255),
    "values": Loss("l1", ignore=255),
    "unit vectors": Loss("unit_l1", ignore=255),
    "fixed weight": Loss("balanced_bce", positive_weight=0.95),
    "counted weight": Loss("balanced_bce", ignore=255),
    "two classes": Loss("two_class", ignore=255),
}
SIZES = {  # cells, pixels
    "one cell": ((1, 1), (5, 3)),
    "as it is": ((4, 6), (4, 6)),
    "strides 4 and 8": ((3, 4), (12, 32)),
    "no integers": ((3, 7), (10, 16)),
    "one pixel more": ((5, 6), (6, 7)),
    "far apart": ((2, 3), (19, 40)),
}


def example(loss: Loss, cells: tuple[int, int], pixels: tuple[int, int], channels: int = 5, batch: int = 2) -> Sample:
    """Random arguments; every fifth label is ignored where the loss ignores any."""
    generator = Generator().manual_seed(0)
    channels = 2 if loss.kind == "two_class" else channels
    prediction = torch.randn(batch, channels, *cells, generator=generator, dtype=torch.float64)
    noise = torch.randn(batch, channels, *pixels, generator=generator)
    target = {
        "cross_entropy": lambda: noise.argmax(1),
        "l1": lambda: noise,
        "unit_l1": lambda: F.normalize(noise, dim=1),
        "balanced_bce": lambda: (noise > 0.7).float(),
        "two_class": lambda: (noise[:, :1] > 0.7).float(),
    }[loss.kind]()
    if loss.ignore is not None:
        target[..., ::5] = loss.ignore
    return Sample({"prediction": prediction, "target": target, "loss": loss}, ("prediction",))


def assert_agrees(sample: Sample, backend: str) -> None:
    """Loss and gradient, by the tolerance rule."""
    sample = rounded(sample, torch.float32, DEVICE)
    gradients = cotangents(OPERATOR, sample, Generator().manual_seed(1))
    with use_backend(backend):
        results = evaluate(upsampled_loss, sample, gradients)
    for verdict in judge(OPERATOR, sample, gradients, results):
        assert verdict.ok, str(verdict)


def gradient_of(prediction: Tensor, target: Tensor, loss: Loss, backend: str) -> tuple[Tensor, Tensor]:
    """The loss and its gradient."""
    prediction = prediction.detach().requires_grad_()
    with use_backend(backend):
        value = upsampled_loss(prediction, target, loss)
    return value.detach(), torch.autograd.grad(value, prediction)[0]


@pytest.mark.processor
@pytest.mark.parametrize("backend", FUSED)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", LOSSES)
def test_upsamples_by_any_ratio_per_axis(name: str, size: str, backend: str) -> None:
    batch = 16 if size == "one cell" else 2  # numbers enough to measure an error by
    assert_agrees(example(LOSSES[name], *SIZES[size], batch=batch), backend)


@pytest.mark.parametrize("name", LOSSES)
def test_an_image_of_many_slices_is_the_sum_of_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    implementation = OPERATOR.implementation("aten")
    monkeypatch.setattr(implementation, "_ROWS", 20)
    monkeypatch.setitem(implementation._LOGITS, DEVICE, 128 * 20 * 8)
    channels = 40 if name in ("classes", "unit vectors") else 8
    assert_agrees(example(LOSSES[name], (40, 50), (150, 300), channels, batch=1), "aten")


@pytest.mark.parametrize("name", LOSSES)
def test_agrees_at_the_size_of_a_training_image(name: str) -> None:
    sample = example(LOSSES[name], (120, 160), (480, 640), channels=8, batch=1)
    if name == "unit vectors":  # away from zero, where a direction has no limit and one pixel's error can be any
        sample.arguments["prediction"][:, 0] += 6
    assert_agrees(sample, "aten")


@pytest.mark.parametrize("seed", [pytest.param(0, marks=pytest.mark.processor), 2, 3])
@pytest.mark.parametrize("name", ["fixed weight", "unit vectors"])
def test_no_rounding_is_common_to_all_pixels(name: str, seed: int) -> None:
    generator = Generator().manual_seed(seed)
    channels = 3 if name == "unit vectors" else 1
    prediction = torch.randn(1, channels, 120, 160, generator=generator, dtype=torch.float64)
    if name == "unit vectors":
        prediction[:, 0] += 6
        target = F.normalize(torch.randn(1, channels, 480, 640, generator=generator), dim=1)
    else:
        target = (torch.rand(1, channels, 480, 640, generator=generator) < 0.1).float()
    arguments = {"prediction": prediction, "target": target, "loss": LOSSES[name]}
    sample = rounded(Sample(arguments, ("prediction",)), torch.float32, DEVICE)
    gradients = [torch.ones((), device=DEVICE)]
    with use_backend("aten"):
        results = evaluate(upsampled_loss, sample, gradients)
    for verdict in judge(OPERATOR, sample, gradients, results):
        # The reference has such roundings, of the weight and of z / ‖z‖, which makes the bound wide.
        assert verdict.ok and verdict.found.channel <= verdict.bound.channel / 3, str(verdict)


@pytest.mark.parametrize("backend", FUSED)
@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.ignore is not None])
def test_a_batch_without_valid_pixels_has_loss_and_gradients_zero(name: str, backend: str) -> None:
    loss = LOSSES[name]
    sample = rounded(example(loss, (2, 3), (8, 12)), torch.float32, DEVICE)
    target = torch.full_like(sample.arguments["target"], int(loss.ignore))
    value, gradient = gradient_of(sample.arguments["prediction"], target, loss, backend)
    assert value == 0
    assert not gradient.any()


@pytest.mark.parametrize("backend", FUSED)
@pytest.mark.parametrize("classes", [1, 2, 17, 200])
def test_agrees_for_any_number_of_classes(classes: int, backend: str) -> None:
    assert_agrees(example(LOSSES["classes"], (2, 3), (8, 12), classes), backend)


@pytest.mark.parametrize("backend", FUSED)
def test_agrees_where_the_greatest_logits_of_neighbouring_cells_are_hundreds_apart(backend: str) -> None:
    sample = example(LOSSES["classes"], (3, 4), (12, 16))
    sample.arguments["prediction"] *= 200  # between the cells, exp(logit − greatest of the cells) is 0 for all classes
    assert_agrees(sample, backend)


@pytest.mark.parametrize("label", [5, -1, 254, 2**40])
def test_a_label_that_is_no_class_is_named_with_its_position_on_a_cpu(label: int) -> None:
    target = torch.zeros(2, 8, 8, dtype=torch.int64)
    target[1, 3, 6] = label
    with pytest.raises(ValueError, match=f"target: got {label} at image 1, row 3, column 6"):
        gradient_of(torch.zeros(2, 5, 2, 2), target, LOSSES["classes"], "aten")


@pytest.mark.parametrize("backend", ["reference", "aten"])
def test_without_an_ignored_value_the_one_of_torch_is_no_class_either(backend: str) -> None:
    target = torch.zeros(1, 8, 8, dtype=torch.int64)
    target[0, 3, 6] = -100
    with pytest.raises(ValueError, match="target: got -100 at image 0, row 3, column 6"):
        gradient_of(torch.zeros(1, 5, 2, 2), target, Loss("cross_entropy"), backend)


@pytest.mark.skipif("triton" not in FUSED, reason="the CPU raises, so only a kernel shows what a GPU does")
@pytest.mark.parametrize("label", [5, -1, 2**40])
def test_a_label_that_is_no_class_makes_the_loss_nan_in_a_kernel(label: int) -> None:
    target = torch.zeros(2, 8, 16, dtype=torch.int64, device=DEVICE)
    target[1, 3, 15] = label
    value, gradient = gradient_of(torch.zeros(2, 5, 2, 4, device=DEVICE), target, LOSSES["classes"], "triton")
    assert value.isnan()
    assert gradient[1, :, :, 3].isnan().all()
    assert gradient[0].isfinite().all()
    assert gradient[1, :, :, :2].isfinite().all()


@pytest.mark.parametrize("backend", FUSED)
@pytest.mark.parametrize("name", LOSSES)
def test_a_prediction_that_is_nan_shows_in_the_loss(name: str, backend: str) -> None:
    sample = rounded(example(LOSSES[name], (2, 3), (8, 12)), torch.float32, DEVICE)
    prediction = sample.arguments["prediction"].detach()
    prediction[1, 0, 1, 2] = torch.nan
    assert gradient_of(prediction, sample.arguments["target"], LOSSES[name], backend)[0].isnan()


@pytest.mark.parametrize(
    ("prediction", "target", "error"),
    [
        (torch.zeros(2, 5, 2, 2), torch.zeros(3, 8, 8, dtype=torch.int64), ValueError),
        (torch.zeros(2, 5, 2, 2), torch.zeros(2, 1, 8, 8, dtype=torch.int64), ValueError),
        (torch.zeros(2, 5, 9, 2), torch.zeros(2, 8, 8, dtype=torch.int64), ValueError),
        (torch.zeros(2, 5, 2, 2), torch.zeros(2, 8, 8), TypeError),
        (torch.zeros(2, 5, 2, 2, dtype=torch.int64), torch.zeros(2, 8, 8, dtype=torch.int64), TypeError),
        (torch.zeros(2, 5, 2, 2, dtype=torch.float8_e4m3fn), torch.zeros(2, 8, 8, dtype=torch.int64), TypeError),
    ],
)
def test_what_does_not_fit_is_refused_at_the_door(prediction: Tensor, target: Tensor, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^(prediction|target)"):
        upsampled_loss(prediction, target, LOSSES["classes"])


def test_what_is_no_loss_is_named() -> None:
    prediction, target = torch.zeros(2, 5, 2, 2), torch.zeros(2, 8, 8, dtype=torch.int64)
    with pytest.raises(TypeError, match="loss: got str, expected a Loss"):
        upsampled_loss(prediction, target, "cross_entropy")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="target: got list, expected a Tensor"):
        upsampled_loss(prediction, [target], LOSSES["classes"])  # type: ignore[arg-type]


@pytest.mark.processor
@pytest.mark.parametrize("backend", FUSED)
def test_weighted_accumulated_and_scaled_losses_have_the_gradients_of_the_reference_in_half_precision(
    backend: str,
) -> None:
    samples = {name: rounded(example(LOSSES[name], (4, 4), (12, 12)), torch.float16, DEVICE) for name in LOSSES}

    def accumulated(backend: str, predictions: Sequence[Tensor]) -> dict[str, Tensor]:
        leaves = [prediction.detach().requires_grad_() for prediction in predictions]
        for step in (1, 2):
            total = torch.zeros((), device=DEVICE)
            for weight, prediction, sample in zip((1, 2, 10, 50, 5, 1), leaves, samples.values(), strict=True):
                with use_backend(backend):
                    part = upsampled_loss(prediction, sample.arguments["target"], sample.arguments["loss"])
                total = total + step * weight * part
            (total * 2.0**10).backward()  # as torch.amp.GradScaler does
        return {name: leaf.grad for name, leaf in zip(samples, leaves, strict=True)}

    predictions = [sample.arguments["prediction"] for sample in samples.values()]
    results = accumulated(backend, predictions)
    assert all(result.dtype == torch.float16 for result in results.values())
    for verdict in judged(partial(accumulated, "reference"), predictions, results, channel_axis=1):
        assert verdict.ok, str(verdict)


@pytest.fixture
def needs(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each call asks the backend `aten` for a gradient."""
    implementation = OPERATOR.implementation("aten")
    forward, seen = implementation.forward, []

    def noting(*args: Any) -> Any:
        seen.append(args[-1])
        return forward(*args)

    monkeypatch.setattr(implementation, "forward", noting)
    return seen


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_the_gradient_is_computed_only_where_it_will_be_needed(compiled: bool, needs: list[bool]) -> None:
    torch.compiler.reset()
    function = torch.compile(upsampled_loss, fullgraph=True, backend="aot_eager") if compiled else upsampled_loss
    prediction, target, loss = torch.zeros(2, 5, 2, 3), torch.zeros(2, 8, 12, dtype=torch.int64), LOSSES["classes"]
    with use_backend("aten"):
        function(prediction, target, loss)
        function(prediction.requires_grad_(), target, loss).backward()
        with torch.no_grad():
            function(prediction, target, loss)
        with torch.inference_mode():
            function(prediction, target, loss)
    assert needs == [False, True, False, False]


def test_reentrant_checkpoints_compute_the_gradient_the_second_time(needs: list[bool]) -> None:
    prediction, target = torch.randn(2, 5, 2, 3, requires_grad=True), torch.zeros(2, 8, 12, dtype=torch.int64)
    with use_backend("aten"):
        checkpoint(upsampled_loss, prediction, target, LOSSES["classes"], use_reentrant=True).backward()
    assert needs == [False, True]
    assert torch.equal(prediction.grad, gradient_of(prediction, target, LOSSES["classes"], "aten")[1])


def test_a_training_step_keeps_no_prediction_of_full_size() -> None:
    channels = {"semseg": 40, "depth": 1, "normals": 3, "edge": 1}
    tall, wide = 96, 128
    targets = {
        "semseg": torch.randint(40, (2, tall, wide), device=DEVICE),
        "depth": torch.rand(2, 1, tall, wide, device=DEVICE),
        "normals": F.normalize(torch.randn(2, 3, tall, wide, device=DEVICE), dim=1),
        "edge": torch.rand(2, 1, tall, wide, device=DEVICE).round(),
    }

    def kept(backend: str) -> tuple[int, int]:
        """Bytes that the losses keep for backward beside the labels, and those of the predictions."""
        levels = [
            {
                name: torch.randn(2, c, tall // s, wide // s, device=DEVICE).requires_grad_()
                for name, c in channels.items()
            }
            for s in (4, 4, 8, 16, 32)
        ]
        predictions = [prediction for level in levels for prediction in level.values()]
        storages = {}

        def pack(tensor: Tensor) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with use_backend(backend), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            MultiTaskLoss(channels)(SimpleNamespace(final=levels[0], deep=levels[1:]), targets)
        labels = {target.untyped_storage().data_ptr() for target in targets.values()}
        return sum(n for at, n in storages.items() if at not in labels), sum(p.nbytes for p in predictions)

    for backend in FUSED:
        if backend == "triton" and DEVICE == "cpu":
            continue  # the same tensors as on aten, for minutes in the interpreter
        bytes_kept, low = kept(backend)
        assert bytes_kept <= 2 * low + 2**12  # predictions and their gradients, and a few scalars
    assert kept("reference")[0] > 5 * 4 * 40 * 2 * tall * wide


@pytest.mark.parametrize("backend", FUSED)
@pytest.mark.parametrize("axis", [-1, -2, -3])
def test_reaches_labels_past_two_to_the_31(backend: str, axis: int) -> None:
    buffer = torch.empty(FAR_ELEMENTS, dtype=torch.float16, device=DEVICE)
    sample = example(LOSSES["unit vectors"], (2, 3), (4, 7), 3)
    target = far_apart(sample.arguments["target"].half().to(DEVICE), axis, buffer, 0)
    assert_agrees(Sample({**sample.arguments, "target": target}, sample.differentiable), backend)


@pytest.mark.parametrize("backend", FUSED)
@pytest.mark.parametrize("name", ["classes", "values", "unit vectors"])
def test_labels_may_have_any_strides(name: str, backend: str) -> None:
    sample = rounded(example(LOSSES[name], (2, 3), (7, 9)), torch.float32, DEVICE)
    prediction, target, loss = sample.arguments.values()
    strided = torch.stack([target.mT.contiguous(), target.mT], -1)[..., 0].mT
    expected = gradient_of(prediction, target, loss, backend)
    for one, other in zip(gradient_of(prediction, strided, loss, backend), expected, strict=True):
        assert torch.equal(one, other)
