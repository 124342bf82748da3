"""Sums over the processes of a group; tests of the operators run two processes."""

import pytest
import torch

from seqca.ops.shared.synchronisation import merged_moments


def test_a_group_that_this_process_does_not_know_is_named() -> None:
    with pytest.raises(ValueError, match="group: got 'other', expected a process group of this process"):
        merged_moments(2, torch.zeros(3), torch.zeros(3), "other")
