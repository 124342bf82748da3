"""`seqca fit`, `seqca validate` and `seqca test`: Lightning's command line with this package's parts."""

import importlib
import inspect
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError
from lightning import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from seqca.messages import shortened, without_noise
from seqca.models.checkpoint import CheckpointError, read_checkpoint, settings_of

from .archives import NYUDv2DataModule, PASCALContextDataModule
from .callbacks import ImagePanels, ScoresFile
from .checkpoints import CHECKPOINTS, AtomicCheckpointIO, BestCheckpoint, LastCheckpoint, say
from .datamodule import DenseDataModule, RoomsDataModule
from .module import MultiTaskModule
from .randomness import ResumableRandomness
from .restoring import blamed

DATA_MODULES = (RoomsDataModule, NYUDv2DataModule, PASCALContextDataModule)  # known by their bare names
FROM_SCHEDULER = "hpc"  # names what a cluster's scheduler saved, instead of a file
LINKED = ("tasks", "auxiliary", "class_names", "scores", "protocol")  # the model has them from the data
FROM_CHECKPOINT = inspect.signature(MultiTaskModule).parameters.keys() - {*LINKED, *MultiTaskModule.given}
VERSION = "pytorch-lightning_version"


class SeqcaCLI(LightningCLI):
    """The tasks are given once, to the data (`--data.tasks`); the model learns them, their channels and the names of
    their classes from there. A run whose length is not given has that of the data's protocol. With `--ckpt_path` a run
    goes on, and scores are written, in the checkpoint's own run folder."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.data_class = named_data(arguments) or RoomsDataModule
        without_noise()
        errors = {"exit_on_error": False}  # so that no page of usage stands in front of them
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
                "log_every_n_steps": 10,
            },
            parser_kwargs={**errors, **{name: dict(errors) for name in self.subcommands()}},
            args=list(arguments),
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_args(args)  # without Lightning's warning where they are not the process's own

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        skipped = LightningCLI.subcommands()
        return {name: skipped[name] | {"weights_only"} for name in ("fit", "validate", "test")}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        # The class that is named, so that its defaults hold: those of another class would be taken for given values.
        parser.set_defaults({"data": {"class_path": class_path(self.data_class)}})
        for argument in LINKED:
            parser.link_arguments(f"data.{argument}", f"model.{argument}", apply_on="instantiate")
        parser.add_lightning_class_args(BestCheckpoint, "best")
        parser.set_defaults({
            "best.monitor": "val/score",
            "best.mode": "max",
            "best.filename": "best",
            "best.enable_version_counter": False,
        })  # fmt: skip
        parser.add_lightning_class_args(LastCheckpoint, "last")
        parser.add_lightning_class_args(ImagePanels, "panels")

    def _parse_ckpt_path(self) -> None:
        # Instead of Lightning's, which takes every setting out of the file, those that lead to other files and hosts
        # too. Lightning's "best" and "last" name checkpoints of a run under way, and none when the command begins.
        config = self.config[self.config.subcommand]
        if config.ckpt_path is None and self.config.subcommand != "fit":
            say(f"seqca {self.config.subcommand}: without --ckpt_path the network is untrained", file=sys.stderr)
        if config.ckpt_path is None or config.ckpt_path == FROM_SCHEDULER:
            return
        checkpoint = read_checkpoint(config.ckpt_path, mmap=True)
        if missing := [key for key in (VERSION, "hyper_parameters", "state_dict") if key not in checkpoint]:
            raise CheckpointError(
                f"checkpoint: got {config.ckpt_path} without {', '.join(missing)}, expected a checkpoint of seqca fit"
            )
        try:
            stored = settings_of(checkpoint, ("tasks", "auxiliary"))
        except CheckpointError as error:
            raise CheckpointError(f"{config.ckpt_path}: {error}") from error
        settings = {name: stored[name] for name in stored if name in FROM_CHECKPOINT}
        try:
            self.config = self.parser.parse_object({self.config.subcommand: {"model": settings}}, self.config)
        except ArgumentError as error:
            wrong = {name: value for name, value in settings.items() if f'"model.{name}"' in str(error)} or settings
            found = f"hyper_parameters: got {wrong!r:.80}, expected settings of seqca fit"
            raise CheckpointError(f"{config.ckpt_path}: {found}") from error

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            super()._run_subcommand(subcommand)
        except Exception as error:
            path = self.trainer.ckpt_path  # the file, where the command line says "hpc"
            if path is None or (found := blamed(error, path)) is None:
                raise
            raise found from error

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        return {**super()._prepare_subcommand_kwargs(subcommand), "weights_only": True}

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        given = self.config_init[self.subcommand].trainer
        if given.max_epochs is None and given.max_steps == -1:
            schedule = self.model.protocol.schedule
            option = "max_steps" if schedule.decay_interval == "step" else "max_epochs"
            kwargs[option] = self.config[self.subcommand].trainer[option] = schedule.length
        return super().instantiate_trainer(**kwargs)

    def before_instantiate_classes(self) -> None:
        self.save_config_kwargs["config_filename"] = f"{self.subcommand}.yaml"
        config = self.config[self.subcommand]
        logger = config.trainer.logger
        if config.ckpt_path is None or not getattr(logger, "class_path", "").endswith(TensorBoardLogger.__name__):
            return
        folder = Path(config.ckpt_path).absolute().parent
        if folder.name == CHECKPOINTS:
            run = folder.parent
            # As a number where it is one, since the progress bar shows the last four letters of a name.
            version = int(run.name.removeprefix("version_")) if re.fullmatch(r"version_\d+", run.name) else run.name
            for key, value in {"save_dir": str(run.parent), "name": "", "version": version}.items():
                logger.init_args[key] = value


def named_data(arguments: Sequence[str]) -> type[DenseDataModule] | None:
    """The data module that a command line names last, itself or in its files; None if none or one that is not there,
    which is told when the command line is read."""
    named = None
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        option, _, value = argument.partition("=")
        value = value or following
        if option in ("--data", "--data.class_path"):
            named = named_class(value, Path()) or named
        elif option in ("--config", "-c"):
            content, folder = content_of(value, Path())
            named = named_class(content.get("data") if isinstance(content, Mapping) else None, folder) or named
    return find_data(named) if named else None


def named_class(value: object, folder: Path) -> str | None:
    """The class that a value of `data` names: its name, a file or text with {class_path: name}, or that mapping."""
    if isinstance(value, str):
        value, _ = content_of(value, folder)
    if isinstance(value, Mapping):
        value = value.get("class_path")
    return value if isinstance(value, str) else None


def content_of(value: str, folder: Path) -> tuple[object, Path]:
    """What is in a file of settings, or in a text of them, None if it is neither; and the folder from which the paths
    in it lead: that of the file, or else `folder`."""
    path = folder / os.path.expanduser(value)
    try:
        text, folder = (path.read_text(), path.parent) if is_file(path) else (value, folder)
        return yaml.safe_load(text), folder
    except (OSError, ValueError, yaml.YAMLError):
        return None, folder


def is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a text that is too long for a path, or that none can have
        return False


def find_data(name: str) -> type[DenseDataModule] | None:
    module, _, attribute = name.rpartition(".")
    if not module:
        return by_name(DenseDataModule, name)  # type: ignore[type-abstract]
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError):
        return None
    return found if isinstance(found, type) and issubclass(found, DenseDataModule) else None


def by_name(kind: type[DenseDataModule], name: str) -> type[DenseDataModule] | None:
    """The subclass of that name, of those that are imported."""
    for subclass in kind.__subclasses__():
        if found := subclass if subclass.__name__ == name else by_name(subclass, name):
            return found
    return None


def class_path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns 0 when it is done.

    Raises:
        SystemExit: 2 for wrong usage; 128 + the signal's number when a signal ended it, as shells have it.
    """
    try:
        with statuses_of_signals(arguments[0]):
            SeqcaCLI(arguments)
    except ArgumentError as error:
        lines = shortened(str(error).splitlines())
        print("\n".join([f"seqca {arguments[0]}: wrong usage, --help lists the options", *lines]), file=sys.stderr)
        raise SystemExit(2) from error
    except ValueError as error:
        if error.__cause__ is not None and "Union subtypes" in str(error):  # jsonargparse hides what a class raised
            raise error.__cause__ from None
        raise
    return 0


@contextmanager
def statuses_of_signals(command: str) -> Iterator[None]:
    """Makes of what Lightning raises after a signal the exit with that signal's status."""
    try:
        yield
    except SIGTERMException:
        raise stopped(command, signal.SIGTERM) from None
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):  # which Lightning turns into a 1
            raise stopped(command, signal.SIGINT) from None
        raise


def stopped(command: str, number: signal.Signals) -> SystemExit:
    """The end of a command that a signal stopped, after a word about it."""
    lost = ", without scores" if command in ("validate", "test") else ""
    say(f"seqca {command}: stopped by {number.name}{lost}", file=sys.stderr)
    return SystemExit(128 + number)
