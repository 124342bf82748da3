"""Checkpoint files are whole or not there."""

import errno
import fcntl
import multiprocessing
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from seqca.files import hold, let_go
from seqca.training.checkpoints import AtomicCheckpointIO, BestCheckpoint, LastCheckpoint


class Unpicklable:
    def __reduce__(self):
        raise RuntimeError("the disk is full")


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one_and_nothing_else(tmp_path):
    path = tmp_path / "run" / "last.ckpt"
    writer = AtomicCheckpointIO()
    writer.save_checkpoint({"weights": torch.ones(3)}, path)
    with pytest.raises(RuntimeError, match="the disk is full"):
        writer.save_checkpoint({"weights": torch.zeros(3), "more": Unpicklable()}, path)
    assert torch.equal(writer.load_checkpoint(path)["weights"], torch.ones(3))
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


def test_a_checkpoint_is_not_seen_before_it_is_complete(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    seen = []
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda *arguments: (seen.append(path.exists()), save(*arguments)))
    AtomicCheckpointIO().save_checkpoint({"weights": torch.ones(3)}, path)
    assert seen == [False] and path.exists()


def test_steps_between_checkpoints_must_be_positive():
    with pytest.raises(ValueError, match="every_n_steps: got 0, expected at least 1"):
        LastCheckpoint(every_n_steps=0)


def test_what_a_killed_run_left_is_removed_by_the_next_and_nothing_else(tmp_path):
    left = [".last.ckpt.999999", f".best.ckpt.{os.getpid()}", ".last.ckpt.7-1"]
    others = ["best.ckpt", ".last.ckpt", ".last.ckpt.old", ".notes.7", "last.ckpt.7"]
    for name in (*left, *others, ".being-written.ckpt.8"):
        (tmp_path / name).write_bytes(b"unfinished")
    with (tmp_path / ".being-written.ckpt.8").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as the process that writes it has it
        AtomicCheckpointIO().save_checkpoint({"weights": torch.ones(3)}, tmp_path / "last.ckpt")
        assert {path.name for path in tmp_path.iterdir()} == {*others, "last.ckpt", ".being-written.ckpt.8"}


def test_a_file_that_is_being_written_is_no_leftover(tmp_path, monkeypatch):
    seen = []
    save = torch.save

    def watched(content: object, file: object) -> None:
        monkeypatch.setattr(torch, "save", save)
        AtomicCheckpointIO().save_checkpoint({}, tmp_path / "other.ckpt")
        seen.append(sorted(path.name for path in tmp_path.iterdir()))
        save(content, file)

    monkeypatch.setattr(torch, "save", watched)
    AtomicCheckpointIO().save_checkpoint({"weights": torch.ones(3)}, tmp_path / "last.ckpt")
    assert seen == [[f".last.ckpt.{os.getpid()}", "other.ckpt"]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "other.ckpt"]


@pytest.mark.parametrize("tensors", [10, 10_000_000])
def test_a_full_disk_is_called_so_whatever_torch_makes_of_it(tmp_path, monkeypatch, tensors):
    writer, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    writer.save_checkpoint({"weights": torch.ones(3)}, path)
    save = torch.save

    def save_on_a_full_disk(content: object, file: object) -> None:
        with Path("/dev/full").open("wb") as full:
            save(content, full)

    monkeypatch.setattr(torch, "save", save_on_a_full_disk)
    with pytest.raises(OSError, match=r"No space left on device") as error:
        writer.save_checkpoint({"weights": torch.zeros(tensors)}, path)
    assert error.value.errno == errno.ENOSPC and error.value.filename == str(path)
    assert torch.equal(writer.load_checkpoint(path)["weights"], torch.ones(3))
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def best_checkpoint(folder: Path, **settings: object) -> BestCheckpoint:
    callback = BestCheckpoint(monitor="val/score", mode="max", filename="best", **settings)
    callback.dirpath = str(folder)
    return callback


def keep(folder: Path, **scores: float) -> None:
    """Checkpoints that were kept for their scores, and the newest one, which is always there."""
    for name, score in {**scores, "last": 9.0}.items():
        state = {"current_score": torch.tensor(score), "best_k_models": {f"elsewhere/{name}.ckpt": torch.tensor(score)}}
        torch.save({"callbacks": {best_checkpoint(folder).state_key: state}}, folder / f"{name}.ckpt")


def saved_state(folder: str) -> dict:
    """What a checkpoint from before the first validation says, of a run in `folder`."""
    return {
        "monitor": "val/score", "best_model_score": None, "best_model_path": "", "current_score": None,
        "dirpath": folder, "best_k_models": {}, "kth_best_model_path": "", "kth_value": torch.tensor(-torch.inf),
        "last_model_path": "",
    }  # fmt: skip


@pytest.mark.parametrize("before", ["runs/rooms/version_0/checkpoints", "/elsewhere/checkpoints", "C:\\runs"])
def test_a_run_that_goes_on_knows_the_best_score_wherever_its_folder_was(tmp_path, before):
    keep(tmp_path, best=-15.7)
    callback = best_checkpoint(tmp_path)
    callback.load_state_dict(saved_state(before))
    assert callback.best_model_score == torch.tensor(-15.7)
    assert callback.best_model_path == callback.kth_best_model_path == str(tmp_path / "best.ckpt")
    alone = SimpleNamespace(strategy=SimpleNamespace(reduce_boolean_decision=bool))
    assert not callback.check_monitor_top_k(alone, torch.tensor(-17.6)), "a worse one would replace it"
    assert callback.check_monitor_top_k(alone, torch.tensor(-15.0))


def test_without_the_best_checkpoint_the_next_one_is_the_best(tmp_path):
    keep(tmp_path)
    (tmp_path / "notes.ckpt").write_text("no checkpoint")
    callback = best_checkpoint(tmp_path)
    callback.load_state_dict(saved_state("runs"))
    assert callback.best_model_score is None and callback.check_monitor_top_k(None, torch.tensor(-17.6))


@pytest.mark.parametrize(("mode", "kept"), [("max", "cb"), ("min", "da")])
def test_of_several_best_ones_no_more_count_than_are_kept(tmp_path, mode, kept):
    keep(tmp_path, a=2.0, b=3.0, c=4.0, d=1.0)
    callback = best_checkpoint(tmp_path, save_top_k=2)
    callback.mode = mode
    for path in tmp_path.glob("*.ckpt"):
        content = torch.load(path)
        torch.save({"callbacks": {callback.state_key: next(iter(content["callbacks"].values()))}}, path)
    callback.load_state_dict(saved_state("runs"))
    assert {Path(path).stem for path in callback.best_k_models} == set(kept)
    assert Path(callback.best_model_path).stem == kept[0] and Path(callback.kth_best_model_path).stem == kept[1]


def test_a_copy_of_the_best_checkpoint_is_its_owners_and_never_removed_for_a_better_one(tmp_path):
    keep(tmp_path, best=-15.7)
    for name in ("aaa.ckpt", "zzz.ckpt"):
        (tmp_path / name).write_bytes((tmp_path / "best.ckpt").read_bytes())
    callback = best_checkpoint(tmp_path)
    callback.load_state_dict(saved_state("runs"))
    assert [*callback.best_k_models] == [str(tmp_path / "best.ckpt")]


def test_how_often_it_is_written_may_change_on_the_way(tmp_path):
    assert best_checkpoint(tmp_path).state_key == best_checkpoint(tmp_path, every_n_epochs=3).state_key


def try_to_hold(folder: Path, said: multiprocessing.SimpleQueue) -> None:
    try:
        said.put(hold(folder) is not None)
    except BlockingIOError:
        said.put(False)


def held_by_another(folder: Path) -> bool:
    """Whether a new process finds the folder held."""
    context = multiprocessing.get_context("spawn")
    said = context.SimpleQueue()
    process = context.Process(target=try_to_hold, args=(folder, said))
    process.start()
    free: bool = said.get()
    process.join()
    return not free


def test_a_folder_is_held_by_one_process_until_it_lets_go_or_ends(tmp_path):
    held = hold(tmp_path)
    assert held is not None and held_by_another(tmp_path)
    let_go(held)
    assert not held_by_another(tmp_path), "nor after that process has ended"
    assert not held_by_another(tmp_path)


@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_process_that_was_forked_holds_nothing_on(tmp_path):
    held = hold(tmp_path)
    assert held is not None
    ready, go = os.pipe(), os.pipe()
    if (child := os.fork()) == 0:  # as a worker that loads data, which may outlive a training process that is killed
        os.write(ready[1], b"1")
        os.read(go[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    let_go(held)
    try:
        assert not held_by_another(tmp_path)
    finally:
        os.write(go[1], b"1")
        os.waitpid(child, 0)
        for end in (*ready, *go):
            os.close(end)
