"""A run that is killed again and again, at whatever moment, ends as an uninterrupted run does."""

import multiprocessing
import random
import signal
from pathlib import Path

import torch

from seqca.models.checkpoint import read_checkpoint
from tests.training import tiny_runs

KILLS = 10
MOMENTS = 16  # from which the fatal one is drawn; a whole run has a few times as many


def run(folder: Path, fatal: int | None = None) -> int | None:
    """The run in `folder`, from where it is, in a process of its own; returns how that ended."""
    context = multiprocessing.get_context("forkserver")  # which imports once, and starts every process fresh
    context.set_forkserver_preload(["tests.training.tiny_runs"])
    resume = ["--ckpt_path", str(tiny_runs.last(folder))] if tiny_runs.last(folder).exists() else []
    process = context.Process(target=tiny_runs.run, args=(tiny_runs.arguments(folder, *resume), fatal))
    process.start()
    process.join()
    return process.exitcode


def test_ten_kills_at_random_moments_change_nothing(tmp_path):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    unbroken.mkdir()
    broken.mkdir()
    assert run(unbroken) == 0
    generator = random.Random(0)
    for _ in range(KILLS):
        assert run(broken, fatal=generator.randint(1, MOMENTS)) == -signal.SIGKILL
        for path in broken.rglob("*.ckpt"):
            read_checkpoint(path)  # whole, whenever the process died
    assert run(broken) == 0
    expected, found = read_checkpoint(tiny_runs.last(unbroken)), read_checkpoint(tiny_runs.last(broken))
    assert found["global_step"] == expected["global_step"] == 9
    for key, value in expected["state_dict"].items():
        assert torch.equal(found["state_dict"][key], value), key
    best = [read_checkpoint(tiny_runs.last(folder).with_name("best.ckpt")) for folder in (unbroken, broken)]
    assert all(torch.equal(best[1]["state_dict"][key], value) for key, value in best[0]["state_dict"].items())
    folders = [path.name for path in (broken / "rooms").iterdir()]
    kept = sorted(path.name for path in tiny_runs.last(broken).parent.iterdir())
    assert "version_0" in folders and kept == ["best.ckpt", "last.ckpt"], "nothing unfinished is left"
