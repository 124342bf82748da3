"""The step as a whole: compiled as one graph, captured as a CUDA graph, it trains to the very weights."""

import copy
import math
import signal
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor
from torch.fx import GraphModule

from seqca.losses import LossOutput
from seqca.models import SequentialCrossAttentionNet
from seqca.training import module
from seqca.training.cli import main
from seqca.training.module import MultiTaskModule
from seqca.training.step import CapturedStep, check_trainer, compiled
from tests.training import graphs
from tests.training.tiny_runs import TinyNet, arguments, last

COMPILED, CAPTURED = "--model.compile=true", "--model.cuda_graph=true"


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SequentialCrossAttentionNet", TinyNet)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[GraphModule]:
    """The graphs that are to be compiled, and run as they are."""
    found: list[GraphModule] = []

    def note(graph: GraphModule, inputs: list[Tensor]) -> Any:
        found.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=note))
    return found


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[graphs.Graph]:
    """The graphs that are captured, on a CPU as if it were a GPU."""
    monkeypatch.setattr(module, "check_trainer", lambda *_: None)
    return graphs.pretend(monkeypatch)


def fit(folder: Path, *more: str) -> dict[str, Any]:
    """The state in which a run ends: three epochs of three steps, with a validation after each."""
    folder.mkdir(exist_ok=True)
    try:
        main(arguments(folder, "--trainer.gradient_clip_val=1", *more))
    except SystemExit as end:
        assert end.code == 128 + signal.SIGTERM
    return torch.load(last(folder), weights_only=True)


def assert_same(state: dict[str, Any], other: dict[str, Any]) -> None:
    assert state["global_step"] == other["global_step"]
    assert list(state["state_dict"]) == list(other["state_dict"])
    for key, value in other["state_dict"].items():
        assert torch.equal(state["state_dict"][key], value), key


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("how", [COMPILED, CAPTURED])
def test_a_run_comes_to_the_same_weights(how, precision, traced, captured, tmp_path):
    plain = fit(tmp_path / "plain", f"--trainer.precision={precision}")
    assert not traced and not captured
    whole = fit(tmp_path / "whole", f"--trainer.precision={precision}", how)
    assert (len(traced), len(captured)) == {COMPILED: (1, 0), CAPTURED: (0, 1)}[how], "once for nine steps"
    assert_same(whole, plain)
    assert whole["hyper_parameters"] == plain["hyper_parameters"], "how steps are run is no property of a network"


@pytest.mark.parametrize("how", [COMPILED, CAPTURED])
def test_a_run_that_was_broken_off_goes_on_to_the_same_weights(how, traced, captured, tmp_path):
    key = "--trainer.callbacks"
    signalled = [
        f"{key}+=tests.training.interruptions.SignalAt", f"{key}.signal_number={int(signal.SIGTERM)}",
        f"{key}.epoch=1", f"{key}.batch=0",
    ]  # fmt: skip
    assert fit(tmp_path / "broken", how, *signalled)["global_step"] == 4
    resumed = fit(tmp_path / "broken", how, f"--ckpt_path={last(tmp_path / 'broken')}")
    assert_same(resumed, fit(tmp_path / "unbroken", how))


def test_scores_need_no_graph(tmp_path):
    fit(tmp_path)
    main(["validate", *arguments(tmp_path)[1:], CAPTURED, f"--ckpt_path={last(tmp_path)}"])


def in_a_run(trained: MultiTaskModule) -> MultiTaskModule:
    trained._trainer = SimpleNamespace(global_step=17, current_epoch=3)
    trained.log = lambda *_, **__: None
    return trained.train()


@pytest.fixture
def trained() -> MultiTaskModule:
    torch.manual_seed(0)
    return in_a_run(MultiTaskModule({"depth": 1}))


def batch(images: int = 2, side: int = 64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (images, 1, side, side)
    return {
        "image": torch.randn(images, 3, side, side, generator=generator),
        "depth": torch.rand(shape, generator=generator) + 1,
        "normals": torch.nn.functional.normalize(torch.randn(images, 3, side, side, generator=generator), dim=1),
    }


def step(trained: MultiTaskModule, batch: dict[str, Tensor]) -> list[Tensor]:
    """Loss and gradients of a step."""
    torch.manual_seed(0)
    loss = trained.training_step(batch, 0)
    trained.zero_grad()
    trained.backward(loss)
    return [loss.detach().clone(), *(parameter.grad.clone() for parameter in trained.parameters())]


def test_a_smaller_batch_is_compiled_on_its_own(trained, traced):
    expected = [step(copy.deepcopy(trained), batch(images)) for images in (2, 1)]
    buffers = copy.deepcopy(list(trained.buffers()))
    trained._step = compiled(trained._losses, True)
    for images, results in zip((2, 1), expected, strict=True):
        for buffer, value in zip(trained.buffers(), buffers, strict=True):
            buffer.copy_(value)
        assert all(torch.equal(one, two) for one, two in zip(step(trained, batch(images)), results, strict=True))
    assert len(traced) == 2


def test_a_captured_step_refuses_a_batch_of_another_shape(trained, captured):
    trained._step = CapturedStep(trained._losses, trained)
    step(trained, batch(2))
    with pytest.raises(ValueError, match=r"^batch: got {'image': \(1, 3, 64, 64\), .*, expected {'image': \(2, 3, 64"):
        step(trained, batch(1))


def test_a_captured_backward_pass_is_outside_of_autocast_as_a_trainer_s_is(trained, captured):
    seen: list[bool] = []
    next(trained.parameters()).register_hook(lambda _: seen.append(torch.is_autocast_enabled("cpu")))
    images, depth, _ = batch().values()
    with torch.autocast("cpu", torch.bfloat16):
        CapturedStep(trained._losses, trained)(images, {"depth": depth})
    assert seen and not any(seen)


def test_a_captured_loss_that_is_no_finite_number_stops_before_the_weights_change(trained, captured):
    trained._step = CapturedStep(trained._losses, trained)
    step(trained, batch())
    broken = batch()
    broken["image"][1, 0, 3, 4] = math.nan
    with pytest.raises(FloatingPointError, match=r"loss: got depth = nan, .* at step 17 \(epoch 3\)"):
        trained.training_step(broken, 0)


def test_the_whole_network_is_replayed_on_another_batch(captured, monkeypatch):
    monkeypatch.setattr(module, "SequentialCrossAttentionNet", SequentialCrossAttentionNet)
    torch.manual_seed(0)
    network = MultiTaskModule({"depth": 1, "normals": 3})
    plain, whole = in_a_run(network), in_a_run(copy.deepcopy(network))
    whole._step = CapturedStep(whole._losses, whole)
    for sample in (batch(side=32), {name: x.flip(-1) for name, x in batch(side=32).items()}):
        for one, two in zip(step(whole, sample), step(plain, sample), strict=True):
            assert torch.equal(one, two)
    assert len(captured) == 1


def test_what_cannot_be_in_one_graph_is_an_error():
    def objective(images: Tensor, targets: dict[str, Tensor]) -> LossOutput:
        total = images.sum() if images.mean() > 0 else images.mean()
        return LossOutput(total, {})

    with pytest.raises(RuntimeError, match=r"(?i)data-dependent"):
        compiled(objective, True)(torch.ones(1, 3, 2, 2), {})


@pytest.mark.parametrize(("compilation", "mode"), [(True, None), ("reduce-overhead", "reduce-overhead")])
def test_a_mode_is_torch_s(compilation, mode, monkeypatch):
    given: dict[str, Any] = {}
    monkeypatch.setattr(torch, "compile", lambda function, **options: given.update(options))
    compiled(lambda images, targets: LossOutput(images.sum(), {}), compilation)
    assert given == {"fullgraph": True, "dynamic": False, "mode": mode}


def trainer(**facts: Any) -> SimpleNamespace:
    """One that could capture steps, but for the facts that are given."""
    gpu = SingleDeviceStrategy(torch.device("cuda", 0))
    return SimpleNamespace(
        **{"strategy": gpu, "scaler": None, "precision": "bf16-mixed", "accumulate_grad_batches": 1, **facts}
    )


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"strategy": SingleDeviceStrategy(torch.device("cpu"))}, "got True on the device cpu, expected a CUDA GPU"),
        ({"strategy": SingleDeviceStrategy(torch.device("mps", 0))}, "got True on the device mps:0, expected a CUDA"),
        ({"strategy": DDPStrategy()}, "got True with DDPStrategy, expected one process"),
        ({"scaler": object(), "precision": "16-mixed"}, "got True with precision=16-mixed, expected bf16-mixed"),
    ],
)
def test_a_run_whose_steps_cannot_be_captured_is_refused_with_the_reason(facts, reason):
    check_trainer(trainer(), False, True)
    with pytest.raises(ValueError, match=f"^cuda_graph: {reason}"):
        check_trainer(trainer(**facts), False, True)
    check_trainer(trainer(**facts), True, False)


@pytest.mark.parametrize(
    ("settings", "name"), [((False, True), "cuda_graph"), (("reduce-overhead", False), "compile=reduce-overhead")]
)
def test_gradients_that_replays_overwrite_are_not_accumulated(settings, name):
    check_trainer(trainer(), *settings)
    accumulating = trainer(accumulate_grad_batches=2)
    with pytest.raises(ValueError, match=f"^accumulate_grad_batches: got 2 with {name}, expected 1"):
        check_trainer(accumulating, *settings)
    check_trainer(accumulating, True, False)


def test_a_run_on_a_cpu_that_is_to_capture_steps_ends_with_the_reason(tmp_path):
    with pytest.raises(ValueError, match="cuda_graph: got True on the device cpu, expected a CUDA GPU"):
        main(arguments(tmp_path, CAPTURED))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"compile": "max"}, "compile: got 'max', expected True, False or 'reduce-overhead'"),
        ({"cuda_graph": 1}, "cuda_graph: got 1, expected True or False"),
        (
            {"compile": "reduce-overhead", "cuda_graph": True},
            "cuda_graph: got True with compile='reduce-overhead', expected one of them",
        ),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        MultiTaskModule({"depth": 1}, **settings)
