"""What is measured of the recipes: the archive that stands in for NYUD-v2, the largest batch, hours."""

from pathlib import Path

import pytest

from benchmarks.gpu.recipe import IMAGES, hours, largest, write_archive
from seqca.data import NYUDv2
from seqca.training.archives import NYUDv2DataModule


def test_the_archive_of_rooms_is_read_as_nyud_is_and_has_as_many_images(tmp_path: Path) -> None:
    write_archive(tmp_path, (32, 64), different=2)
    data = NYUDv2(tmp_path, "train", ("semseg", "depth", "normals", "edge"))
    assert len(data) == IMAGES == 795
    first, second, third = (data.load(i) for i in range(3))
    assert (first["semseg"] == third["semseg"]).all()
    assert (first["depth"] != second["depth"]).any()
    assert first["semseg"].max() < 15
    module = NYUDv2DataModule(str(tmp_path), ("semseg", "depth"), size=(32, 64), batch_size=3, num_workers=0)
    batch = next(iter(module.train_dataloader()))
    assert batch["image"].shape == (3, 3, 32, 64)
    assert batch["depth"].shape == (3, 1, 32, 64)


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 7, 8, 9, 100])
def test_the_largest_batch_that_fits_is_found_up_to_the_largest_that_is_tried(limit: int) -> None:
    tried: list[int] = []

    def fits(batch: int) -> bool:
        tried.append(batch)
        return batch <= limit

    assert largest(fits, 12) == min(limit, 12)
    assert len(tried) == len(set(tried))
    assert max(tried) <= 12


def test_hours_are_those_of_a_hundred_epochs_of_whole_batches() -> None:
    assert hours(3.6, 10) == pytest.approx(100 * 79 * 3.6 / 3600)
