"""`seqca fit`, `seqca validate` and `seqca test`: Lightning's command line with this package's parts."""

from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from .callbacks import ImagePanels, ScoresFile
from .checkpoints import AtomicCheckpointIO, LastCheckpoint
from .datamodule import DenseDataModule, RoomsDataModule
from .module import MultiTaskModule
from .randomness import ResumableRandomness


class SeqcaCLI(LightningCLI):
    """The tasks are given once, to the data (`--data.tasks`); the model learns them, their channels and the names of
    their classes from there. `--ckpt_path` of a run's `last.ckpt` goes on in that run's folder."""

    def __init__(self, arguments: Sequence[str], run: bool = True) -> None:
        super().__init__(
            MultiTaskModule,
            DenseDataModule,
            subclass_mode_data=True,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={
                "logger": {
                    "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
                    "init_args": {"save_dir": "runs", "name": "rooms"},
                },
                "callbacks": [ResumableRandomness(), ScoresFile(), LearningRateMonitor("step")],
                "plugins": [AtomicCheckpointIO()],
                "max_epochs": 20,
                "log_every_n_steps": 10,
            },
            args=list(arguments),
            run=run,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        names = ("fit", "validate", "test")
        return {name: arguments for name, arguments in LightningCLI.subcommands().items() if name in names}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.set_defaults({"data": {"class_path": f"{RoomsDataModule.__module__}.{RoomsDataModule.__name__}"}})
        for argument in ("tasks", "auxiliary", "class_names"):
            parser.link_arguments(f"data.{argument}", f"model.{argument}", apply_on="instantiate")
        parser.add_lightning_class_args(ModelCheckpoint, "best")
        parser.set_defaults({
            "best.monitor": "val/score",
            "best.mode": "max",
            "best.filename": "best",
            "best.enable_version_counter": False,
        })  # fmt: skip
        parser.add_lightning_class_args(LastCheckpoint, "last")
        parser.add_lightning_class_args(ImagePanels, "panels")


def main(arguments: Sequence[str]) -> int:
    SeqcaCLI(arguments)
    return 0
