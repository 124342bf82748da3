"""Loading data: every draw is a function of seed, epoch and position."""

import itertools

import pytest
import torch
from torch.utils.data import Dataset
from torchvision.transforms.v2 import RandomHorizontalFlip

from seqca.training.loader import EvaluationSampler, ResumableLoader, SampleRequest, Samples, TrainingSampler


class Depths(Dataset):
    """Image k is full of k; the depth of one pixel may be broken."""

    def __init__(self, length: int, broken: dict[int, float] | None = None) -> None:
        self.length, self.broken, self.asked = length, broken or {}, []

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        self.asked.append(index)
        depth = torch.full((1, 2, 4), 1.0 + index)
        depth[0, 1, 3] = self.broken.get(index, 2.0)
        return {"image": torch.full((3, 2, 4), float(index)), "depth": depth, "name": f"folder/{index}.png"}


def loader(epoch: int = 0, rank: int = 0, processes: int = 1, num_workers: int = 0) -> ResumableLoader:
    samples = Samples(Depths(11), {"depth": 1}, RandomHorizontalFlip(0.5), seed=3)
    sampler = TrainingSampler(samples, processes, rank, shuffle=True, seed=3, drop_last=True)
    sampler.set_epoch(epoch)
    return ResumableLoader(
        samples, batch_size=2, sampler=sampler, drop_last=True, num_workers=num_workers, generator=torch.Generator()
    )


def contents(batches) -> list[tuple]:
    return [(tuple(batch["name"]), batch["depth"].tolist()) for batch in batches]


def test_an_epoch_is_the_same_whatever_was_drawn_before_and_whoever_loads_it():
    expected = contents(loader(epoch=4))
    torch.rand(7)
    assert contents(loader(epoch=4)) == expected
    assert contents(loader(epoch=4, num_workers=1)) == expected


def test_epochs_differ_in_order_and_in_augmentation():
    order = [[name for names, _ in contents(loader(epoch)) for name in names] for epoch in range(3)]
    assert len({tuple(names) for names in order}) == 3
    samples = loader().dataset
    flips = {
        tuple(samples[SampleRequest(index, epoch)]["depth"][0, 1, 0].item() for index in range(11))
        for epoch in range(3)
    }
    assert len(flips) == 3


def test_processes_share_out_an_epoch_without_overlap():
    names = [[name for batch in loader(processes=2, rank=rank) for name in batch["name"]] for rank in range(2)]
    assert len(names[0]) == len(names[1]) == 4
    assert not set(names[0]) & set(names[1])


@pytest.mark.parametrize("taken", [0, 1, 3, 5])
def test_a_loader_goes_on_behind_the_batches_it_had_handed_out(taken):
    first = loader(epoch=2)
    begun = contents(itertools.islice(first, taken))
    second = loader(epoch=2)
    second.load_state_dict(first.state_dict())
    assert begun + contents(second) == contents(loader(epoch=2))
    second.sampler.set_epoch(3)
    assert contents(second) == contents(loader(epoch=3)), "only the pass that was broken off starts late"


def test_a_state_of_a_finished_epoch_does_not_shorten_the_next():
    first = loader(epoch=2)
    list(itertools.islice(first, 3))  # as with limit_train_batches
    second = loader(epoch=3)
    second.load_state_dict(first.state_dict())
    assert contents(second) == contents(loader(epoch=3))


@pytest.mark.parametrize(("length", "processes"), [(5, 1), (5, 2), (4, 3), (1, 3)])
def test_evaluation_counts_every_sample_once_and_gives_all_processes_as_many(length, processes):
    shares = [list(EvaluationSampler(Depths(length), processes, rank, shuffle=False)) for rank in range(processes)]
    assert len({len(share) for share in shares}) == 1
    assert all(len(EvaluationSampler(Depths(length), processes, 0, shuffle=False)) == len(share) for share in shares)
    counted = [draw.sample for share in shares for draw in share if draw.counted]
    assert sorted(counted) == list(range(length))


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_label_outside_its_range_is_refused_with_the_file_and_the_value(value):
    samples = Samples(Depths(3, broken={1: value}), {"depth": 1})
    assert samples[SampleRequest(0)]["counted"]
    with pytest.raises(ValueError, match=rf"folder/1\.png.*depth.*{value}"):
        samples[SampleRequest(1)]


def test_a_cache_asks_for_every_sample_once_and_changes_nothing():
    data = Depths(3)
    cached = Samples(data, {"depth": 1}, RandomHorizontalFlip(0.5), seed=3, cache=True)
    plain = Samples(Depths(3), {"depth": 1}, RandomHorizontalFlip(0.5), seed=3)
    for epoch, index in itertools.product(range(4), range(3)):
        assert torch.equal(cached[SampleRequest(index, epoch)]["depth"], plain[SampleRequest(index, epoch)]["depth"])
    assert data.asked == [0, 1, 2]


@pytest.mark.parametrize(
    ("label", "error", "message"),
    [
        (
            torch.ones(1, 4, 4),
            ValueError,
            r"depth: got a label of \(1, 4, 4\), expected \(2, 4\) pixels as of the image",
        ),
        (torch.ones(1, 2, 4).long(), TypeError, "depth: got a label in torch.int64, expected torch.float32 or"),
        (torch.ones(1, 2, 4).bfloat16(), TypeError, "depth: got a label in torch.bfloat16, expected torch.float32 or"),
        (torch.ones(1, 2, 4).numpy(), TypeError, "depth: got ndarray, expected a tensor"),
    ],
)
def test_a_label_that_does_not_fit_its_image_or_its_loss_is_named_with_its_sample(label, error, message):
    sample = {"image": torch.zeros(3, 2, 4), "depth": label, "name": "b.png"}
    with pytest.raises(error, match=f"^b.png: {message}"):
        Samples([sample], {"depth": 1})[SampleRequest(0)]


def test_a_mask_of_bytes_and_a_missing_label_are_named():
    sample = {"image": torch.zeros(3, 2, 4), "semseg": torch.zeros(2, 4, dtype=torch.uint8), "name": "b.png"}
    with pytest.raises(TypeError, match=r"b.png: semseg: got a label in torch.uint8, expected torch.int64"):
        Samples([sample], {"semseg": 5})[SampleRequest(0)]
    with pytest.raises(ValueError, match=r"b.png: got image, semseg, name, expected depth as well"):
        Samples([sample], {"depth": 1})[SampleRequest(0)]
