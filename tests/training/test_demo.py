"""The demonstration, with less of everything."""

import logging
import signal
import warnings
from pathlib import Path

import pytest
from lightning.pytorch.utilities.exceptions import SIGTERMException

from seqca.tasks import primary_scores
from seqca.training.demo import main, table

RECIPE = Path(__file__).parents[2] / "configs" / "demo.yaml"


def test_the_demonstration_ends_with_a_table_and_names_its_panel(tmp_path, capsys):
    less = ["tasks=[semseg, depth]", "size=[32, 32]", "train_length=2", "batch_size=2", "test_length=2"]
    arguments = ["--config", str(RECIPE), f"--trainer.logger.save_dir={tmp_path}", "--trainer.max_epochs=1"]
    arguments.append("--model.weights={depth: 3}")
    heard = logging.getLogger("lightning.pytorch").level, list(warnings.filters)
    assert main([*arguments, *(f"--data.{setting}" for setting in less)]) == 0
    *_, header, _, semseg, depth, panel = filter(str.strip, capsys.readouterr().out.splitlines())
    assert header.split() == ["task", "score", "better", "best", "constant", "this", "network"]
    assert semseg.split()[:3] == ["semseg", "mIoU", "higher"]
    assert depth.split()[:3] == ["depth", "rmse", "lower"] and depth.endswith(" m")
    assert Path(panel.split(": ")[1]).is_file()
    assert (logging.getLogger("lightning.pytorch").level, warnings.filters) == heard, "other runs say as much as before"


def test_the_table_has_a_row_for_each_task_with_direction_and_unit():
    scores, constants = {"depth/rmse": 0.51234, "edge/pixel_f": 0.6}, {"depth/rmse": 1.25, "edge/pixel_f": 0.25}
    assert table(primary_scores(["depth", "edge"]), scores, constants).splitlines() == [
        "task   score    better  best constant  this network",
        "---------------------------------------------------",
        "depth  rmse     lower   1.250 m        0.512 m",
        "edge   pixel_f  higher  0.250          0.600",
    ]


def test_a_demonstration_that_is_stopped_ends_with_the_signals_status(tmp_path, monkeypatch):
    def stop(*_: object) -> None:
        raise SIGTERMException  # which is an exit with 0

    monkeypatch.setattr("seqca.training.demo.SeqcaCLI", stop)
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 128 + signal.SIGTERM
