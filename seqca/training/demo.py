"""What `make demo` runs: train a network, score it on scenes it has not seen, and draw what it says about one."""

import logging
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from seqca.inference.panel import save_panel
from seqca.metrics import best_constant
from seqca.tasks import Score

from .callbacks import draw_sample
from .cli import SeqcaCLI, statuses_of_signals

SHOWN = 0  # the test scene of the panel


def main(arguments: Sequence[str]) -> int:
    """Train by `seqca fit` with these arguments, score, print the table and write the panel."""
    with statuses_of_signals("fit"), errors_alone():
        cli = SeqcaCLI(["fit", *arguments])
        cli.trainer.test(cli.model, cli.datamodule, verbose=False)
        batches = list(cli.datamodule.test_dataloader())
    constants: dict[str, float] = {}
    for task, channels in cli.datamodule.tasks.items():
        constants |= {
            f"{task}/{key}": value
            for key, value in best_constant(task, batches, channels, cli.model.primary[task]).items()
        }
    print("\n" + table(cli.model.primary, cli.model.scores, constants) + "\n")
    batch = batches[0]
    predictions = cli.model.network.predict(batch["image"])
    path = Path(cli.trainer.log_dir or ".") / "panel.png"
    save_panel(draw_sample(batch, predictions, SHOWN, cli.datamodule.class_names), path)
    print(f"What it predicts for an unseen room: {path}")
    return 0


@contextmanager
def errors_alone() -> Iterator[None]:
    """Lightning says what goes wrong and nothing else, since the package may be seen for the first time."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        logger.setLevel(level)


def table(primary: Mapping[str, Score], scores: Mapping[str, float], constants: Mapping[str, float]) -> str:
    """Rows of a task's primary score: the best constant prediction's, the network's."""
    rows = [("task", "score", "better", "best constant", "this network")]
    for task, score in primary.items():
        key = f"{task}/{score.name}"
        direction = "higher" if score.higher_is_better else "lower"
        unit = f" {score.unit}" if score.unit else ""
        rows.append((task, score.name, direction, f"{constants[key]:.3f}{unit}", f"{scores[key]:.3f}{unit}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
