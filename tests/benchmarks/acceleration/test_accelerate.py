from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Generator, nn

from benchmarks.__main__ import main
from benchmarks.acceleration.checkouts import atrc, code_base, invpt, mti_net, sca_mtl
from benchmarks.acceleration.measures import ORIGINAL, OUTPUTS, costs, parity
from benchmarks.acceleration.training import Training, without_randomness
from tests.acceleration import heads
from tests.acceleration.teaching import taught


@pytest.fixture
def training() -> Training:
    def batch(generator: Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        images, labels = heads.sample()
        return torch.randn(images.shape, generator=generator), labels

    return Training(without_randomness(heads.Network()), heads.Objective(), batch)


def test_losses_of_a_right_replacement_are_equal_step_by_step(training: Training) -> None:
    with taught((heads.head(), heads.UpsamplingHead)):
        checks = parity(training, steps=3, draws=12)
    assert [check.ok for check in checks.values()] == [True, True]


def test_losses_show_a_replacement_that_loses_a_gradient_from_the_second_step_on(training: Training) -> None:
    with taught((heads.head(heads.HeadWithoutGradient), heads.UpsamplingHead)):
        checks = parity(training, steps=2, draws=12)
    assert [check.ok for check in checks.values()] == [False, False]
    assert all(check.what.startswith("loss of step 2") for check in checks.values())


def test_costs_of_a_step_are_measured_before_and_after(training: Training) -> None:
    with taught((heads.head(), heads.UpsamplingHead)):
        found = costs(training, seconds=0.01)
    assert list(found) == [ORIGINAL, *OUTPUTS]
    assert found["full"].kept < found[ORIGINAL].kept


def test_nothing_is_dropped_in_a_training_that_is_compared() -> None:
    model = without_randomness(nn.Sequential(nn.Dropout(0.3), nn.Linear(4, 4)))
    x = torch.ones(2, 4)
    assert torch.equal(model.train()[0](x), x)


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("models/seg_hrnet.py", "self.cross_scale_attention0 = …", sca_mtl),
        ("models/seg_hrnet.py", "class HighResolutionHead", mti_net),
        ("src/model/heads/relationalcontext.py", "", atrc),
        ("models/transformers/invpt.py", "", invpt),
    ],
)
def test_a_checkout_is_recognised_by_what_is_in_its_files(
    tmp_path: Path, file: str, text: str, expected: ModuleType
) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(text)
    assert code_base(tmp_path) is expected


def test_sizes_that_a_decoder_cannot_halve_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "models" / "transformers").mkdir(parents=True)
    (tmp_path / "models" / "transformers" / "invpt.py").touch()
    assert main(["accelerate", str(tmp_path)]) == 2
    assert "got 96×128, expected multiples of 64" in capsys.readouterr().err


def test_a_folder_that_is_no_known_checkout_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["accelerate", str(tmp_path)]) == 2
    assert "expected a checkout of one of sca_mtl" in capsys.readouterr().err
