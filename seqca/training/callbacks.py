"""What a run leaves behind for people: pictures in TensorBoard, scores in a file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from torch import Tensor

from seqca.data.normalise import denormalise
from seqca.inference.panel import draw_panel, to_array

from .provenance import about


class ImagePanels(Callback):
    """Draws predictions beside the labels for the first validation samples, the same ones every time, in TensorBoard.

    Args:
        samples: how many, at most one batch of them; 0 draws none.
    """

    def __init__(self, samples: int = 3) -> None:
        if samples < 0:
            raise ValueError(f"samples: got {samples}, expected at least 0")
        self.samples = samples

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Mapping[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch_idx > 0 or trainer.sanity_checking or not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                for index in range(min(self.samples, len(batch["image"]))):
                    panel = to_array(draw_sample(batch, outputs, index, pl_module.hparams["class_names"]))
                    logger.experiment.add_image(
                        f"val/{batch['name'][index]}", panel, trainer.global_step, dataformats="HWC"
                    )


def draw_sample(
    batch: Mapping[str, Any], predictions: Mapping[str, Tensor], index: int, class_names: Mapping[str, list[str]] | None
) -> Figure:
    """The panel of one sample of a batch, predictions above labels."""
    return draw_panel(
        denormalise(batch["image"][index].cpu()),
        {task: prediction[index].cpu().numpy() for task, prediction in predictions.items()},
        {task: batch[task][index].cpu().numpy() for task in predictions},
        class_names,
    )


class ScoresFile(Callback):
    """`seqca validate` and `seqca test` write their scores, {"task/score": value}, and what they are of, "about", to
    val_scores.json and test_scores.json in the run's folder."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "validate":
            write_scores(trainer, pl_module, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        write_scores(trainer, pl_module, "test")


def write_scores(trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
    folder = trainer.log_dir  # asks all processes
    if folder is None or not trainer.is_global_zero:
        return
    path = Path(folder) / f"{stage}_scores.json"
    temporary = path.with_suffix(".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_text(
        json.dumps({**cast(dict[str, float], pl_module.scores), "about": about(trainer, pl_module)}, indent=2) + "\n"
    )
    temporary.replace(path)
    print(f"The scores are in {path}")
