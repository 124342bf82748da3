"""Checkpoint files are whole or not there."""

import pytest
import torch

from seqca.training.checkpoints import AtomicCheckpointIO, LastCheckpoint


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
    with pytest.raises(ValueError, match="every_n_steps must be positive, got 0"):
        LastCheckpoint(every_n_steps=0)
