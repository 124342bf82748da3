import importlib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Generator, nn

from benchmarks.__main__ import main
from benchmarks.acceleration import command, measures
from benchmarks.acceleration.checkouts import CODE_BASES, atrc, code_base, invpt, mti_net, sca_mtl, taskprompter
from benchmarks.acceleration.measures import costs, parity
from benchmarks.acceleration.recognition import INNER
from benchmarks.acceleration.results import ORIGINAL, OUTPUTS, SECTIONS, load, nothing, save
from benchmarks.acceleration.training import Size, SizeError, Training, without_randomness
from benchmarks.report.acceleration import tables
from tests.acceleration import heads
from tests.acceleration.teaching import REGISTERED, taught


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
    lazy = (heads.NETWORK, heads.Network), (heads.OBJECTIVE, heads.Objective)
    with taught((heads.head(), heads.UpsamplingHead), *lazy):
        found = costs(training, seconds=0.01)
    assert list(found) == [ORIGINAL, *OUTPUTS]
    assert found["lazy"].kept < found["full"].kept < found[ORIGINAL].kept
    assert all(each.time is not None and each.time.median > 0 for each in found.values())


@pytest.fixture
def checkout(training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is taken for a checkout of a code base."""
    module = SimpleNamespace(NAME="Some net", KINDS=["tests.head"], CLASSES=[], build=lambda *_: training)
    monkeypatch.setattr(command, "code_base", lambda _: module)
    return tmp_path


def run(checkout: Path, *options: str, fused: type[nn.Module] = heads.FusedHead) -> int:
    with taught((heads.head(fused), heads.UpsamplingHead)):
        return main(["accelerate", str(checkout), *options])


@pytest.mark.parametrize("steps, seconds, measured", [(2, 0, ["kept", "losses"]), (0, 0.01, ["kept", "time"])])
def test_losses_and_times_can_be_measured_apart(
    checkout: Path, steps: int, seconds: float, measured: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = checkout / "some.json"
    options = f"--steps={steps}", f"--seconds={seconds}"
    assert run(checkout, "--tasks=depth", *options, f"--output={file}") == 0
    found = load(file)
    assert [section for section in SECTIONS if found[section]] == measured
    assert tables([found]) in capsys.readouterr().out


def test_what_is_measured_later_is_added_to_a_file(checkout: Path) -> None:
    file = f"--output={checkout / 'some.json'}"
    assert run(checkout, "--tasks=depth", "--steps=0", "--seconds=0.01", file) == 0
    times = load(checkout / "some.json")["time"]
    assert run(checkout, "--tasks=depth", "--tasks=normals", "--steps=1", "--draws=2", "--seconds=0", file) == 0
    found = load(checkout / "some.json")
    assert found["time"] == times
    assert list(found["kept"]) == list(found["losses"]) == ["depth", "normals"]


def test_where_losses_are_not_equal_there_are_no_numbers(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(checkout, "--tasks=depth", "--steps=2", fused=heads.HeadWithoutGradient) == 3
    printed = capsys.readouterr().out
    assert "NO NUMBERS: the losses of depth are not equal" in printed and " MB" not in printed


def test_the_parts_that_were_replaced_are_recorded(checkout: Path) -> None:
    file = checkout / "some.json"
    assert run(checkout, "--tasks=depth", "--steps=0", "--seconds=0", f"--output={file}") == 0
    assert load(file)["kept"]["depth"]["replaced"] == {"tests.head": 2}


def test_where_a_kind_that_is_expected_is_not_replaced_there_are_no_numbers(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command.code_base(checkout).KINDS.append("tests.loss")
    assert run(checkout, "--tasks=depth", "--steps=0", "--seconds=0") == 3
    printed = capsys.readouterr().out
    assert "NO NUMBERS: nothing of tests.loss is replaced" in printed and " MB" not in printed


def test_classes_that_no_file_of_a_checkout_has_as_they_are_known_are_named(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = command.code_base(checkout).CLASSES
    (checkout / "models").mkdir()
    file = checkout / "models" / "heads.py"
    file.write_text(Path(heads.__file__).read_text())
    classes.append("UpsamplingHead")
    measure = "--tasks=depth", "--steps=0", "--seconds=0"
    assert run(checkout, *measure) == 0
    assert "NOT RECOGNISED" not in capsys.readouterr().out
    file.write_text(file.read_text().replace('mode="bilinear"', 'mode="nearest"'))
    classes.append("Attention")
    assert run(checkout, *measure) == 3
    assert "known fingerprints of UpsamplingHead, Attention\n" in capsys.readouterr().out


def test_the_classes_of_all_code_bases_are_those_that_are_recognised() -> None:
    names = {name for module in CODE_BASES for name in module.CLASSES}
    assert names == {each.class_name for each in REGISTERED} | {name for names in INNER for name in names}


def test_a_file_of_another_code_base_or_kind_is_refused_before_anything_is_measured(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = checkout / "other.json"
    save(nothing("Other net"), file)
    assert run(checkout, f"--output={file}") == 2
    assert "expected one of Some net" in capsys.readouterr().err
    file.write_text("{}")
    assert run(checkout, f"--output={file}") == 2
    assert "got another kind of file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--tasks=depth,semsg", "--tasks: got 'semsg', expected names among semseg, depth"),
        ("--tasks=", "--tasks: got '', expected names"),
        ("--size=0x0x0", "--size: got 0x0x0, expected images"),
        ("--parity-size=2x-1x64", "--parity-size: got 2x-1x64, expected images"),
        ("--draws=7", "--draws: got 7, expected an even number from 2 to 36"),
        ("--draws=38", "--draws: got 38, expected an even number from 2 to 36"),
        ("--steps=-1", "--steps: got -1, expected 0 or more"),
        ("--seconds=nan", "--seconds: got nan, expected 0 or more"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_built(
    checkout: Path, option: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "code_base", None)
    assert run(checkout, option) == 2
    assert expected in capsys.readouterr().err


def test_a_package_that_a_checkout_needs_is_named(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = SimpleNamespace(NAME="Some net", CLASSES=[], build=lambda *_: importlib.import_module("not_installed"))
    monkeypatch.setattr(command, "code_base", lambda _: module)
    assert run(checkout) == 2
    assert "imports not_installed, expected it to be installed" in capsys.readouterr().err


@pytest.fixture
def nothing_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither losses nor costs can be measured."""
    for name in ("parity", "costs"):
        monkeypatch.setattr(measures, name, None)


@pytest.mark.parametrize("option", ["--parity-size", "--size"])
@pytest.mark.usefixtures("nothing_measured")
def test_the_option_is_named_whose_images_a_code_base_does_not_take_before_anything_is_measured(
    checkout: Path, training: Training, option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def build(_: Path, tasks: list[str], size: Size) -> Training:
        if size.height == 8:
            raise SizeError("got 8×64, expected multiples of 64")
        return training

    monkeypatch.setattr(command.code_base(checkout), "build", build)
    assert run(checkout, "--tasks=depth", f"{option}=1x8x64") == 2
    assert f"{option}: got 8×64, expected multiples of 64" in capsys.readouterr().err


class Unread(nn.Module):
    """Reads labels that are not there."""

    def forward(self, output: dict[str, torch.Tensor], labels: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"total": labels["edge"].sum()}


class Undifferentiable(heads.Objective):
    """Without a gradient."""

    def forward(self, output: dict[str, torch.Tensor], labels: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: loss.detach() for name, loss in super().forward(output, labels).items()}


@pytest.mark.parametrize("option", ["--parity-size", "--size"])
@pytest.mark.parametrize(("objective", "error"), [(Unread, "KeyError: 'edge'"), (Undifferentiable, "RuntimeError: ")])
@pytest.mark.usefixtures("nothing_measured")
def test_what_a_training_step_raises_is_told_with_the_images_and_not_blamed_on_them(
    checkout: Path,
    training: Training,
    option: str,
    objective: type[nn.Module],
    error: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def build(_: Path, tasks: list[str], size: Size) -> Training:
        return training._replace(criterion=objective()) if size.height == 8 else training

    monkeypatch.setattr(command.code_base(checkout), "build", build)
    assert run(checkout, "--tasks=depth", f"{option}=1x8x64") == 2
    told = capsys.readouterr().err
    assert told.startswith(f"checkout: got {error}") and f" from a training step on images of {option} 1x8x64" in told


def test_losses_stay_in_the_file_where_what_is_measured_after_them_is_not(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measures, "costs", None)
    file = checkout / "some.json"
    with pytest.raises(TypeError, match="not callable"):
        run(checkout, "--tasks=depth", "--steps=1", "--draws=2", f"--output={file}")
    assert list(load(file)["losses"]) == ["depth"] and not load(file)["kept"]


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
        ("models/transformers/taskprompter.py", "", taskprompter),
    ],
)
def test_a_checkout_is_recognised_by_what_is_in_its_files(
    tmp_path: Path, file: str, text: str, expected: ModuleType
) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(text)
    assert code_base(tmp_path) is expected


def test_code_bases_have_names_of_their_own() -> None:
    assert len({module.NAME for module in CODE_BASES}) == len(CODE_BASES)


@pytest.mark.parametrize("name", ["invpt", "taskprompter"])
def test_sizes_that_a_decoder_cannot_halve_are_refused(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models" / "transformers").mkdir(parents=True)
    (tmp_path / "models" / "transformers" / f"{name}.py").touch()
    assert main(["accelerate", str(tmp_path)]) == 2
    assert "--parity-size: got 96×128, expected multiples of 64" in capsys.readouterr().err


def test_a_folder_that_is_no_known_checkout_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["accelerate", str(tmp_path)]) == 2
    assert "expected a checkout of one of sca_mtl" in capsys.readouterr().err
