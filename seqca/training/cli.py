"""`seqca fit`, `seqca validate` and `seqca test`: Lightning's command line with this package's parts."""

import sys
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

from .callbacks import ImagePanels, ScoresFile
from .checkpoints import CHECKPOINTS, AtomicCheckpointIO, LastCheckpoint
from .datamodule import DenseDataModule, RoomsDataModule
from .module import MultiTaskModule
from .randomness import ResumableRandomness


class SeqcaCLI(LightningCLI):
    """The tasks are given once, to the data (`--data.tasks`); the model learns them, their channels and the names of
    their classes from there. With `--ckpt_path` a run goes on, and scores are written, in the checkpoint's own run
    folder."""

    def __init__(self, arguments: Sequence[str]) -> None:
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
                    "class_path": class_path(TensorBoardLogger),
                    "init_args": {"save_dir": "runs", "name": "rooms", "default_hp_metric": False},
                },
                "callbacks": [ResumableRandomness(), ScoresFile()],
                "plugins": [{"class_path": class_path(AtomicCheckpointIO)}],
                "max_epochs": 40,
                "log_every_n_steps": 10,
            },
            # Lightning takes the command line itself where it is the process's own, and warns where it is not.
            args=None if list(arguments) == sys.argv[1:] else list(arguments),
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {name: LightningCLI.subcommands()[name] for name in ("fit", "validate", "test")}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.set_defaults({"data": {"class_path": class_path(RoomsDataModule)}})
        for argument in ("tasks", "auxiliary", "class_names", "scores"):
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

    def before_instantiate_classes(self) -> None:
        self.save_config_kwargs["config_filename"] = f"{self.subcommand}.yaml"
        config = self.config[self.subcommand]
        logger = config.trainer.logger
        if config.ckpt_path is None or not getattr(logger, "class_path", "").endswith(TensorBoardLogger.__name__):
            return
        folder = Path(config.ckpt_path).absolute().parent
        if folder.name == CHECKPOINTS:
            run = folder.parent
            for key, value in {"save_dir": str(run.parent), "name": "", "version": run.name}.items():
                logger.init_args[key] = value


def class_path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def main(arguments: Sequence[str]) -> int:
    SeqcaCLI(arguments)
    return 0
