"""What README and docs say can be followed."""

import functools
import linecache
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import lightning
import numpy as np
import pytest
import torch
from PIL import Image

import seqca
from benchmarks.acceleration.checkouts import CODE_BASES
from benchmarks.cases.shapes import CHANNELS
from seqca.data import Rooms
from seqca.models import to_published_state
from seqca.training.module import MultiTaskModule

from .acceleration.heads import Network, Objective, UpsamplingHead, head, sample
from .acceleration.teaching import REGISTERED, taught

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page):
    links = [link for link in re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def examples(page: Path) -> str:
    """All Python of a page as one program."""
    return "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the pages speak of, to work in."""
    monkeypatch.chdir(tmp_path)
    checkpoint = tmp_path / "runs/rooms/version_0/checkpoints/best.ckpt"
    checkpoint.parent.mkdir(parents=True)
    module = MultiTaskModule({"semseg": 3, "depth": 1})
    torch.save({"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}, checkpoint)
    torch.save({"model": to_published_state(module.network.state_dict())}, tmp_path / "checkpoint.pth.tar")
    Image.new("RGB", (40, 30), "green").save(tmp_path / "photo.jpg")
    for split in ("train", "val", "test"):
        folder = tmp_path / "photos" / split
        folder.mkdir(parents=True)
        for name in ("0001", "0002"):
            Image.new("RGB", (64, 32), "green").save(folder / f"{name}.jpg")
            Image.new("L", (64, 32), 2).save(folder / f"{name}_semseg.png")
            Image.fromarray(np.full((32, 64), 1500, np.uint16)).save(folder / f"{name}_depth.png")
    (tmp_path / "out").mkdir()
    np.savez(tmp_path / "out" / "photo.npz", depth=np.ones((1, 30, 40), np.float32))
    return tmp_path


@pytest.mark.parametrize(
    "page",
    [
        "acceleration",
        "aggregation",
        "blocks",
        "cross_attention",
        "data",
        "losses",
        "network",
        "operators",
        "own_data",
        "prediction",
        "rooms",
        "training",
    ],
)
def test_the_examples_of_a_page_run(page, workplace, monkeypatch):
    # What takes long is tested elsewhere; here it is called as the page calls it.
    monkeypatch.setattr(seqca, "selftest", lambda: True)
    quick = functools.partial(lightning.Trainer, fast_dev_run=True, accelerator="cpu", enable_progress_bar=False)
    monkeypatch.setattr(lightning, "Trainer", quick)
    images, targets = sample()
    given = {
        "model": Network(),
        "criterion": Objective(),
        "p": SimpleNamespace(ALL_TASKS=SimpleNamespace(NAMES=list(targets))),
        "train_dataloader": [{"image": images, "meta": None, **targets}],
        "images": images,
        "targets": targets,
        "prediction": torch.randn(2, 40, 8, 8, requires_grad=True),
        "target": torch.zeros(2, 32, 32).long(),
        "nyud_root": ROOT / "tests" / "golden" / "datasets" / "nyud_mtinet",
        "pascal_root": ROOT / "tests" / "golden" / "datasets" / "pascal",
        "MyDataset": lambda split, labels: Rooms(split, 8, tasks=labels),
    }
    name, program = f"{page}.md", examples(ROOT / "docs" / f"{page}.md")
    monkeypatch.setitem(linecache.cache, name, (len(program), None, program.splitlines(keepends=True), name))
    with taught((head(), UpsamplingHead)):
        exec(compile(program, name, "exec"), given)


def test_the_example_of_the_readme_runs(capsys):
    exec(compile(examples(ROOT / "README.md"), "README.md", "exec"), {})
    assert "torch.Size([2, 1, 96, 128])" in capsys.readouterr().out


def test_the_diagram_shows_the_network_and_the_operators_there_are():
    script = runpy.run_path(str(ROOT / "docs" / "scripts" / "network_diagram.py"))
    assert script["FILE"].read_text(encoding="utf-8") == script["draw"](), "python docs/scripts/network_diagram.py"


def test_the_version_is_told_once():
    assert re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1] == seqca.__version__
    assert f"## {seqca.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_report_on_the_page_on_acceleration_is_laid_out_as_reports_are():
    net = Network()
    net.heads["depth"].layers[0].register_forward_hook(lambda *_: None)
    with taught((head(), UpsamplingHead)):
        report = str(seqca.accelerate(net, Objective(), sample=sample()))
    page = (ROOT / "docs" / "acceleration.md").read_text()
    (shown,) = re.findall(r"^```\n(replaced .*?)\n```", page, re.MULTILINE | re.DOTALL)
    assert layout(shown) == layout(report)


def layout(report: str) -> list[str]:
    """The lines of a report without what another processor may find otherwise: numbers, and which error is largest."""
    return [re.sub(r"\([^)]+\)|\d[\d.e-]*| +|─+", " ", line) for line in report.splitlines()]


def test_the_page_on_acceleration_puts_the_channels_of_sca_mtl_right():
    page = (ROOT / "docs" / "acceleration.md").read_text()
    assert f"+        backbone_channels = {list(CHANNELS)}" in page


def needs(kind: str) -> str:
    """What a kind needs, in the words of the page on acceleration: outputs that are lazy, or what makes maps lazy."""
    fused = [each for each in REGISTERED if each.kind == kind and each.fused is not None]
    if not fused:
        return "never replaced"
    if not any(each.lazy for each in fused):
        return "–"
    if any(each.hands_lazy for each in fused):
        return '`outputs="lazy"`'
    beside = {each for module in CODE_BASES if kind in module.KINDS for each in module.KINDS}
    sources = sorted({(each.lazy, each.kind) for each in REGISTERED if each.hands_lazy and each.kind in beside})
    alone, lazy = ([f"`{source}`" for is_lazy, source in sources if is_lazy == wanted] for wanted in (False, True))
    return "; or ".join([*alone, f'`outputs="lazy"`, with {" or ".join(lazy)}'])


def test_the_page_on_acceleration_lists_every_kind_with_its_classes_and_what_it_needs():
    page = (ROOT / "docs" / "acceleration.md").read_text()
    rows = re.findall(r"^\| `(\w+\.\w+)` \| (.*) \| (.*) \|$", page, re.MULTILINE)
    listed = {kind: (re.findall(r"`(\w+)`", classes), need) for kind, classes, need in rows}
    expected = {}
    for kind in sorted({each.kind for each in REGISTERED}):
        fused = {each.class_name for each in REGISTERED if each.kind == kind and each.fused is not None}
        expected[kind] = (sorted(fused), needs(kind))
    assert listed == expected and list(listed) == list(expected)
