"""How many launches a training step of the network takes, and that they become no more."""

import re
from pathlib import Path

import pytest

from benchmarks import launches
from benchmarks.__main__ import main
from benchmarks.launches import TASKS, share

PAGE = Path(__file__).resolve().parents[2] / "docs" / "launches.md"


@pytest.mark.parametrize("tasks", TASKS)
def test_a_training_step_takes_no_larger_share_of_the_published_launches_than_the_page_tells(tasks: int) -> None:
    (row,) = re.findall(r"^\| `seqca` \|(.*)\|$", PAGE.read_text(), re.MULTILINE)
    told = [float(x) for x in re.findall(r"\((.*?)×\)", row)][list(TASKS).index(tasks)]
    # Other versions of torch take other operators for the same, in both networks.
    assert share("auto", tasks) <= told + 0.01, "python -m benchmarks launches > docs/launches.md"


def test_the_command_prints_the_page(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(launches, "page", lambda: "the page")
    assert main(["launches"]) == 0
    assert capsys.readouterr().out == "the page\n"
