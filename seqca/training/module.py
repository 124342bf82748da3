"""The network, its objective and its scores as a LightningModule."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning import LightningModule
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from seqca.losses import LossOutput, MultiTaskLoss
from seqca.metrics import MultiTaskMetric, delta_m
from seqca.metrics.stored import rounded_down, to_size
from seqca.models import SequentialCrossAttentionNet
from seqca.protocols import DEFAULT, get_protocol
from seqca.tasks import Score, get_task, primary_scores

from .checkpoints import AtomicCheckpointIO
from .restoring import LoadsWeightsOnly, broken_numbers, check_training_state, fit_state
from .step import CapturedStep, Compilation, Objective, check_settings, check_trainer, compiled

ADVICE = "a lower learning rate or gradient clipping may help"
SMALLEST_SCORE = 1e-3  # where the logarithm of a score stops falling


class MultiTaskModule(LoadsWeightsOnly, LightningModule):  # type: ignore[misc]  # on purpose, see there
    """Trains and scores a `SequentialCrossAttentionNet`.

    Batches are flat dicts: "image" (B, 3, H, W), normalised, and a label for each task and auxiliary task.

    Args:
        tasks: {name: output channels}, in order.
        auxiliary: likewise, tasks that are used for deep supervision only.
        weights: weights by task that replace those of the registry.
        backbone: a timm model.
        pretrained: ImageNet weights of the backbone: true downloads them, a path reads a file.
        drop_path: rate of the shifted window-attention blocks.
        cross_task: whether tasks exchange features.
        cross_scale: whether the scales of a task exchange features.
        optimizer: makes the optimiser from the parameters; Adam with the protocol's settings by default.
        decay_power: the learning rate is lr · (1 − t/T)^decay_power at t of a run of length T; not negative.
        decay_interval: what t and T count, "step" or "epoch"; the protocol's by default.
        channels_last: keep images and weights in memory pixel by pixel instead of channel by channel.
        single_task_scores: JSON files with the scores of single-task runs, {"task/score": value} in each, as `seqca
            validate` writes them. With them the run is judged by Δm.
        class_names: {task: names of its classes}; they are kept in the checkpoint, for legends.
        scores: {task: how it is scored on this data set}, where it is not the task's own way.
        protocol: whose losses and evaluation hold, "mtinet" or "invpt".
        compile: compile network and losses of training as one graph; "reduce-overhead" is a mode of torch.compile.
        cuda_graph: capture a training step, forward pass, losses and backward pass, as a CUDA graph.
    """

    given: ClassVar = {
        "optimizer": None,
        "pretrained": False,
        "single_task_scores": None,
        "scores": None,
        "compile": False,
        "cuda_graph": False,
    }

    def __init__(
        self,
        tasks: dict[str, int],
        auxiliary: dict[str, int] | None = None,
        weights: dict[str, float] | None = None,
        backbone: str = "hrnet_w18_small_v2",
        pretrained: bool | Path = False,
        drop_path: float = 0.2,
        cross_task: bool = True,
        cross_scale: bool = True,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
        decay_power: float = 0.9,
        decay_interval: Literal["step", "epoch"] | None = None,
        channels_last: bool = False,
        single_task_scores: list[Path] | None = None,
        class_names: dict[str, list[str]] | None = None,
        scores: dict[str, Score] | None = None,
        protocol: str = DEFAULT,
        compile: Compilation = False,
        cuda_graph: bool = False,
    ) -> None:
        super().__init__()
        check_settings(compile, cuda_graph)
        if (
            isinstance(decay_power, bool)
            or not isinstance(decay_power, (int, float))
            or not 0 <= decay_power < math.inf
        ):
            raise ValueError(f"decay_power: got {decay_power!r}, expected a finite number, not negative")
        # What is left out is no plain data or, once the weights are in the checkpoint, of no use to its reader.
        self.save_hyperparameters(ignore=[*self.given])
        self.network = SequentialCrossAttentionNet(
            tasks, auxiliary, backbone, pretrained, drop_path, cross_task=cross_task, cross_scale=cross_scale
        )
        if channels_last:
            self.network.to(memory_format=torch.channels_last)
        self.criterion = MultiTaskLoss(tasks, weights, auxiliary or (), protocol)
        self.primary = primary_scores(tasks, scores)
        self.protocol = get_protocol(protocol)
        self.val_metric = MultiTaskMetric(tasks, self.primary, protocol, quick=True)
        self.test_metric = MultiTaskMetric(tasks, self.primary, protocol)
        schedule = self.protocol.schedule
        self.make_optimizer = optimizer or partial(
            torch.optim.Adam, lr=schedule.learning_rate, weight_decay=schedule.weight_decay
        )
        self.decay_power, self.decay_interval = decay_power, decay_interval or schedule.decay_interval
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.single_task_scores = (
            None if single_task_scores is None else read_scores(single_task_scores, self.primary, protocol)
        )
        self.compilation, self.cuda_graph = compile, cuda_graph
        self._step: Objective = self._losses

    def setup(self, stage: str) -> None:
        # Where the trainer was not made by the command line, it has Lightning's own, which runs code from addresses.
        if type(self.trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            self.trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        if stage == "fit":
            check_trainer(self.trainer, self.compilation, self.cuda_graph)
            step: Objective = self._losses
            if self.compilation:
                rank_zero_info("torch.compile works in the first step, for minutes (docs/training.md)")
                step = compiled(step, self.compilation)
            self._step = CapturedStep(step, self) if self.cuda_graph else step

    def teardown(self, stage: str) -> None:
        self._step = self._losses  # a graph keeps memory, and reads the weights where they lay in this run

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        fit_state(checkpoint, self.network.tasks | self.network.auxiliary, self.state_dict(), self.protocol.name)
        if self._trainer is not None and self._trainer.state.fn == "fit":
            check_training_state(checkpoint)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # A step can make them so when no loss will be looked at any more, and a good checkpoint would be replaced.
        if (broken := broken_numbers(checkpoint)) is not None:
            raise FloatingPointError(
                f"{broken}: got a number that is not finite after step {checkpoint['global_step']} (epoch "
                f"{checkpoint['epoch']}), expected finite ones; no checkpoint is written; {ADVICE}"
            )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = self.make_optimizer(self.parameters())
        steps: float = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise ValueError(
                "max_steps: got a run without an end, expected max_epochs or max_steps: the learning rate decays"
            )
        unit = self._steps_of_an_epoch() if self.decay_interval == "epoch" else 1
        length = max(math.ceil(steps / unit), 1)
        decay = LambdaLR(optimizer, lambda t: max(1 - t / length, 0.0) ** self.decay_power)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": decay, "interval": self.decay_interval}}

    def _steps_of_an_epoch(self) -> int:
        self.trainer.fit_loop.setup_data()  # which counts the batches
        return max(math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches), 1)

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        image = batch["image"].contiguous(memory_format=self.memory_format)
        targets = {task: batch[task] for task in (*self.criterion.tasks, *self.criterion.auxiliary) if task in batch}
        losses = self._step(image, targets)
        self._refuse_broken(losses.parts)
        size = len(image)
        self.log("loss", losses.total, prog_bar=True, batch_size=size)
        for task in (*self.criterion.tasks, *self.criterion.auxiliary):
            part = losses.parts[task if task in self.criterion.tasks else f"{task}/deep0"]
            self.log(f"loss/{task}", part, prog_bar=True, batch_size=size)
        return losses.total

    def _losses(self, images: Tensor, targets: Mapping[str, Tensor]) -> LossOutput:
        return self.criterion(self.network(images), targets)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        if isinstance(self._step, CapturedStep):
            self._step.set_gradients()
        else:
            super().backward(loss, *args, **kwargs)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        self.log("learning_rate", optimizer.param_groups[0]["lr"])

    def _refuse_broken(self, parts: Mapping[str, Tensor]) -> None:
        finite = torch.stack([part.detach() for part in parts.values()]).isfinite()
        if not finite.all():
            bad = [f"{name} = {part.item()}" for name, part in parts.items() if not part.isfinite()]
            raise FloatingPointError(
                f"loss: got {', '.join(bad)} at step {self.global_step} (epoch {self.current_epoch}), "
                f"expected finite numbers; {ADVICE}"
            )

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Tensor]:
        return self._evaluate(self._validation_metric(), batch)

    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Tensor]:
        return self._evaluate(self.test_metric, batch)

    def _validation_metric(self) -> MultiTaskMetric:
        """Quick while training; `seqca validate` takes its time."""
        alone = self._trainer is not None and self._trainer.state.fn == "validate"
        return self.test_metric if alone else self.val_metric

    def _evaluate(self, metric: MultiTaskMetric, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        predictions = self.network.predict(batch["image"].contiguous(memory_format=self.memory_format))
        # Mixed precision: scores are sums over many pixels.
        predictions = {task: p.float() if p.is_floating_point() else p for task, p in predictions.items()}
        if "original" in batch:
            self._evaluate_at_original_size(metric, predictions, batch)
            return predictions
        # Several processes take the same number of batches, filled up with samples that do not count.
        counted = batch.get("counted", slice(None))
        evaluated = {task: prediction[counted] for task, prediction in predictions.items()}
        # Where samples are resized and their originals are not there, nothing is written to files.
        evaluated = evaluated if self.protocol.resizes else self._stored(evaluated)
        metric.update(evaluated, {task: batch[task][counted] for task in predictions})
        return predictions

    def _evaluate_at_original_size(
        self, metric: MultiTaskMetric, predictions: Mapping[str, Tensor], batch: Mapping[str, Any]
    ) -> None:
        """One image at a time, as sizes differ."""
        for index, labels in enumerate(batch["original"]):
            if not batch["counted"][index]:
                continue
            resized = {
                task: to_size(prediction[index : index + 1], get_task(task).kind, labels[task].shape[-2:])
                for task, prediction in predictions.items()
            }
            metric.update(self._stored(resized), {task: labels[task][None] for task in predictions})

    def _stored(self, predictions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Predictions as they come back from the files that the protocol writes before it evaluates."""
        return {
            task: rounded_down(prediction, get_task(task).kind) if task in self.protocol.stored else prediction
            for task, prediction in predictions.items()
        }

    def on_validation_epoch_end(self) -> None:
        self._report("val", self._validation_metric())

    def on_test_epoch_end(self) -> None:
        self._report("test", self.test_metric)

    def _report(self, stage: str, metric: MultiTaskMetric) -> None:
        self.scores = {key: float(value) for key, value in metric.compute().items()}
        metric.reset()
        # The scores are those of all processes together; sync_dist averages equal numbers.
        self.log_dict({f"{stage}/{key}": value for key, value in self.scores.items()}, sync_dist=True)
        self.log(f"{stage}/score", self.overall(self.scores), prog_bar=True, sync_dist=True)

    def overall(self, scores: Mapping[str, float]) -> float:
        """One number for a run, higher is better: Δm in percent where single-task scores are known, else the sum of
        the tasks' log-scores, `summed_log_scores`."""
        if self.single_task_scores is not None:
            return delta_m(scores, self.single_task_scores, self.primary)
        return summed_log_scores(scores, self.primary)


def summed_log_scores(scores: Mapping[str, float], primary: Mapping[str, Score]) -> float:
    """Σ ± ln(primary score) over the tasks of `primary`, + where higher is better.

    The logarithm makes metres, degrees and ratios comparable: as in Δm, one percent more of any score weighs the
    same, whatever its unit. Scores below 0.001 count as 0.001.
    """
    total = 0.0
    for task, score in primary.items():
        value = math.log(max(scores[f"{task}/{score.name}"], SMALLEST_SCORE))
        total += value if score.higher_is_better else -value
    return total


def read_scores(files: Iterable[Path], primary: Mapping[str, Score], protocol: str = DEFAULT) -> dict[str, float]:
    """{"task/score": value} for the tasks of `primary`, from JSON files of that form, of one run or of several.

    Raises:
        ValueError: a file is none of that form or says that its scores are of another protocol, two files have the same
            score, or the primary score of a task is in none.
    """
    found: dict[str, float] = {}
    for file in files:
        content = read_json(file)
        about = content.get("about")
        other = about.get("protocol", protocol) if isinstance(about, dict) else protocol
        if other != protocol:
            raise ValueError(f"single_task_scores: got {file} of protocol {other}, expected one of {protocol}")
        scores = {key: value for key, value in content.items() if "/" in key}
        if wrong := [key for key, value in scores.items() if not isinstance(value, (int, float))]:
            raise ValueError(f"single_task_scores: got {scores[wrong[0]]!r} as {wrong[0]} in {file}, expected a number")
        if twice := found.keys() & scores.keys():
            raise ValueError(
                f"single_task_scores: got {', '.join(sorted(twice))} in {file} and in another file, expected each once"
            )
        found |= scores
    for task, score in primary.items():
        if f"{task}/{score.name}" not in found:
            raise ValueError(f"single_task_scores: got {', '.join(found)}, expected {task}/{score.name} as well")
    return found


def read_json(file: Path) -> dict[str, Any]:
    """What `seqca validate` wrote into a file."""
    try:
        content = json.loads(Path(file).read_text())
    except OSError as error:
        raise ValueError(f"single_task_scores: got {file}, {error.strerror}, expected a file of scores") from error
    except ValueError as error:
        raise ValueError(f"single_task_scores: got {file}, expected JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f'single_task_scores: got {file}, expected {{"task/score": value}} in it')
    return content
