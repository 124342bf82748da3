"""What holds for aggregation heads alone; what every operator must do is asked in registered/."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Generator, Tensor

from benchmarks.cases.aggregation_head import network_levels
from benchmarks.cases.scale_aggregation import pyramid_maps
from benchmarks.cases.shapes import nyud
from benchmarks.harness.quantities import kept_bytes
from seqca.ops import aggregation_head, use_backend
from seqca.ops.aten import pyramid
from seqca.ops.shared.operator import OPERATORS
from seqca.ops.shared.sample import Sample, normal
from seqca.ops.verification.judge import cotangents, evaluate, judge, rounded
from tests.processes import in_two_processes

HEAD = OPERATORS["aggregation_head"]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def head_sample(batch: int = 2, size: tuple[int, int] = (8, 12)) -> Sample:
    """A map at each of three scales, the finest twice."""
    g = Generator().manual_seed(0)
    sizes = (size, (size[0] // 2, size[1] // 2), (size[0] // 4, size[1] // 4))
    maps = [normal(batch, 16 + i, *s, generator=g) for i, s in enumerate(sizes)]
    return head_on([*maps, maps[0]], 24, g)


def head_on(maps: list[Tensor], channels: int, g: Generator) -> Sample:
    """A head of which all that the batch norm sees is positive or negative by far."""
    inputs = sum(x.shape[1] for x in maps)
    arguments = {
        "maps": maps,
        "weight": normal(channels, inputs, 1, 1, generator=g) / inputs**0.5,
        "bias": normal(channels, generator=g),
        "norm_weight": 1 + torch.rand(channels, generator=g, dtype=torch.float64),
        "norm_bias": torch.tensor([12.0, -12.0], dtype=torch.float64).repeat(channels // 2),
        "prediction_weight": normal(3, channels, 1, 1, generator=g) / channels**0.5,
        "prediction_bias": normal(3, generator=g),
    }
    return Sample(arguments, tuple(arguments), ("norm_weight", "norm_bias"))


def check(sample: Sample, backend: str = "aten") -> None:
    """Outputs and gradients agree with the reference."""
    gradients = cotangents(HEAD, sample, Generator().manual_seed(1))
    with use_backend(backend):
        results = evaluate(aggregation_head, sample, gradients)
    for verdict in judge(HEAD, sample, gradients, results):
        assert verdict.ok, str(verdict)


@pytest.mark.parametrize("backend", ["aten", "triton"])
@pytest.mark.parametrize(
    ("sizes", "channels"),
    [
        ([(7, 9)], 18),
        ([(7, 9)] * 3, 18),
        ([(12, 16), (12, 16), (6, 8), (5, 16), (3, 4), (2, 2), (1, 1)], 18),
        ([(8, 8), (4, 4), (2, 2)], 1440),
    ],
    ids=["one map", "finest scale alone", "seven maps", "1440 channels"],
)
def test_takes_any_number_of_maps_and_as_many_channels_as_a_network_has(
    sizes: list[tuple[int, int]], channels: int, backend: str
) -> None:
    g = Generator().manual_seed(0)
    maps = [normal(1, channels // len(sizes) + i % 2, *size, generator=g) for i, size in enumerate(sizes)]
    check(rounded(head_on(maps, channels, g), torch.float32, DEVICE), backend)


def test_an_image_of_many_tiles_is_the_sum_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyramid, "_TILES", {"cpu": (2, 3)})
    check(rounded(head_sample(), torch.float32))


def test_keeps_the_maps_and_numbers_by_channel_alone() -> None:
    sample = rounded(head_sample(size=(40, 60)), torch.float32)
    arguments = sample.arguments
    parameters = [x for name, x in arguments.items() if name != "maps"]
    with use_backend("aten"):
        kept = kept_bytes(lambda: aggregation_head(**arguments).prediction, parameters)
    maps = sum(x.nbytes for x in {id(x): x for x in arguments["maps"]}.values())
    assert maps <= kept <= maps + 4 * 4 * 24 + 8 * 51


def test_a_head_of_the_network_keeps_less_than_a_twelfth_of_what_the_plain_sequence_keeps() -> None:
    g = Generator().manual_seed(0)
    maps = pyramid_maps(network_levels(nyud(1)._replace(height=96, width=128)), 1, "fp64", g)
    arguments = rounded(head_on(maps, sum(x.shape[1] for x in maps), g), torch.float32).arguments
    parameters = [x for name, x in arguments.items() if name != "maps"]
    kept = {}
    for backend in ("aten", "reference"):
        with use_backend(backend):
            kept[backend] = kept_bytes(lambda: aggregation_head(**arguments).prediction, parameters)
    assert 12 * kept["aten"] <= kept["reference"]


def test_an_offset_of_many_deviations_costs_no_digits_of_the_gradients() -> None:
    sample = head_sample(size=(16, 24))
    shifted = [x + 100 for x in sample.arguments["maps"]]
    shifted[3] = shifted[0]
    check(rounded(sample._replace(arguments=sample.arguments | {"maps": shifted}), torch.float32))


def test_a_variance_that_cancels_keeps_its_digits() -> None:
    """What two maps have in common is hundreds of times as large as what they differ in, which alone is seen."""
    g = Generator().manual_seed(0)
    common, seen = (normal(2, 8, 64, 96, generator=g) for _ in range(2))
    sample = head_on([300 * common, 300 * common + seen], 24, g)
    weight = sample.arguments["weight"].clone()
    weight[:, 8:] = -weight[:, :8]
    check(rounded(sample._replace(arguments=sample.arguments | {"weight": weight}), torch.float32))


def test_an_axis_of_many_pixels_needs_no_matrix_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> Tensor:
        raise AssertionError("interpolation of 40,000 pixels")

    monkeypatch.setattr(pyramid, "interpolation", refused)
    sample = head_on([normal(1, 8, 1, 40_000, generator=Generator().manual_seed(0))], 8, Generator().manual_seed(1))
    arguments = rounded(sample, torch.float32).arguments
    with use_backend("aten"):
        assert aggregation_head(**arguments).prediction.isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"maps": []}, "maps: got no map, expected at least one"),
        ({"bias": torch.zeros(3)}, r"bias: got shape \(3,\), expected \(24,\)"),
        (
            {"norm_weight": torch.ones(24, dtype=torch.float64)},
            "norm_weight: got torch.float64, expected torch.float32",
        ),
        ({"running_mean": torch.zeros(24)}, "running_mean, running_var: got one of them, expected both or neither"),
        ({"prediction_weight": torch.zeros(3, 5, 1, 1)}, r"prediction_weight: got shape \(3, 5, 1, 1\)"),
        ({"eps": 0.0}, "eps: got 0.0, expected a positive number"),
        ({"group": "world"}, "group: got str, expected a process group"),
        (
            {"running_mean": torch.zeros(24, requires_grad=True), "running_var": torch.ones(24)},
            "running_mean: got a tensor that requires a gradient",
        ),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_refuses_what_does_not_fit_by_name(change: dict[str, Any], message: str) -> None:
    arguments = rounded(head_sample(), torch.float32).arguments | change
    with pytest.raises((TypeError, ValueError), match=message):
        aggregation_head(**arguments)


def test_refuses_to_take_a_variance_of_one_pixel() -> None:
    arguments = rounded(head_sample(batch=1, size=(4, 4)), torch.float32).arguments
    arguments["maps"] = [x[..., :1, :1] for x in arguments["maps"]]
    with pytest.raises(ValueError, match="maps: got a single pixel in all"):
        aggregation_head(**arguments)


def test_refuses_one_pixel_of_a_process_that_is_alone(tmp_path: Path) -> None:
    arguments = rounded(head_sample(batch=1, size=(4, 4)), torch.float32).arguments
    arguments["maps"] = [x[..., :1, :1] for x in arguments["maps"]]
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match="maps: got a single pixel in all"):
            aggregation_head(**arguments, group=dist.group.WORLD)
    finally:
        dist.destroy_process_group()


def test_scales_may_be_zero_or_negative() -> None:
    sample = head_sample()
    scales = sample.arguments["norm_weight"].clone()
    scales[::3], scales[1::3] = 0, -scales[1::3]
    check(rounded(sample._replace(arguments=sample.arguments | {"norm_weight": scales}), torch.float32))


class Unread(torch.autograd.Function):
    """A sum whose gradient is said to be none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        return None


def test_a_gradient_of_few_pixels_is_not_drowned_by_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where labels lie in one corner of the image alone."""
    monkeypatch.setattr(pyramid, "_TILES", {"cpu": (4, 4)})
    sample = rounded(head_sample(size=(32, 48)), torch.float32)
    gradients = cotangents(HEAD, sample, Generator().manual_seed(1))
    gradients[0][..., 4:, :] = 0
    gradients[0][..., 4:] = 0
    with use_backend("aten"):
        results = evaluate(aggregation_head, sample, gradients)
    for verdict in judge(HEAD, sample, gradients, results):
        assert verdict.ok, str(verdict)


@pytest.mark.parametrize("backend", ["reference", "aten"])
def test_where_nothing_flows_back_nothing_goes_on(backend: str) -> None:
    arguments = rounded(head_sample(), torch.float32).arguments
    with use_backend(backend):
        Unread.apply(aggregation_head(**arguments).prediction).backward()
    assert arguments["weight"].grad is None
    assert arguments["maps"][0].grad is None


def of_process(rank: int, backend: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Two images of three on the first process, one on the second, each with its share of the gradient."""
    sample, gradients = for_processes(dtype)
    images = slice(0, 2) if rank == 0 else slice(2, 3)
    own = {id(x): x.detach()[images].requires_grad_() for x in sample.arguments["maps"]}
    arguments = sample.arguments | {"maps": [own[id(x)] for x in sample.arguments["maps"]], "group": dist.group.WORLD}
    with use_backend(backend):
        part = sample._replace(arguments=arguments)
        return evaluate(aggregation_head, part, [gradients[0][images], *gradients[1:]])


def for_processes(dtype: torch.dtype) -> tuple[Sample, list[Tensor]]:
    sample = rounded(head_sample(batch=3), dtype)
    return sample, cotangents(HEAD, sample, Generator().manual_seed(1))


def of_two_processes(path: Path, backend: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Their results put together: images side by side, shares of parameters' gradients added."""
    parts = in_two_processes(path, of_process, backend, dtype)
    together = {}
    for what in parts[0]:
        shares = [part[what] for part in parts]
        if what == "output[0]" or "maps" in what:
            together[what] = torch.cat(shares)
        elif what.startswith("output"):
            assert torch.equal(*shares), what
            together[what] = shares[0]
        else:
            together[what] = sum(shares)
    return together


@pytest.mark.skipif(torch.cuda.is_available(), reason="gloo gathers tensors of a CPU")
def test_two_processes_on_triton_are_as_one(tmp_path: Path) -> None:
    sample, gradients = for_processes(torch.float32)
    for verdict in judge(HEAD, sample, gradients, of_two_processes(tmp_path, "triton", torch.float32)):
        assert verdict.ok, str(verdict)


def test_two_processes_with_other_numbers_of_images_are_as_one(tmp_path: Path) -> None:
    together = of_two_processes(tmp_path, "aten", torch.float64)
    sample, gradients = for_processes(torch.float64)
    with use_backend("reference"):
        whole = evaluate(aggregation_head, sample, gradients)
    for what, expected in whole.items():
        found = together[what]
        # The gradient of a bias in front of the batch norm is 0.
        scale = whole["gradient of norm_bias[0]"] if what == "gradient of bias[0]" else expected
        assert (found - expected).abs().max() <= 1e-12 * scale.abs().max(), what
