"""What holds for aggregation heads alone; what every operator must do is asked in registered/."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Generator, Tensor
from torch.nn.functional import interpolate

from benchmarks.cases.aggregation_head import network_levels
from benchmarks.cases.scale_aggregation import pyramid_maps
from benchmarks.cases.shapes import nyud
from benchmarks.harness.quantities import kept_bytes, peak_bytes
from seqca.ops import aggregation_head, use_backend
from seqca.ops.aten import pyramid
from seqca.ops.aten.interpolation import bands, interpolation
from seqca.ops.shared.operator import OPERATORS
from seqca.ops.shared.sample import Sample, normal
from seqca.ops.verification.judge import cotangents, evaluate, judge, rounded
from tests.processes import in_two_processes

from . import two_processes

HEAD = OPERATORS["aggregation_head"]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

on_both = pytest.mark.parametrize("backend", ["aten", "triton"])


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


def check(sample: Sample, backend: str = "aten", gradient: float = 1.0) -> None:
    """Outputs and gradients agree with the reference, from gradients of about that size."""
    gradients = [gradient * x for x in cotangents(HEAD, sample, Generator().manual_seed(1))]
    with use_backend(backend):
        results = evaluate(aggregation_head, sample, gradients)
    for verdict in judge(HEAD, sample, gradients, results):
        assert verdict.ok, str(verdict)


@on_both
@pytest.mark.parametrize(
    ("sizes", "channels"),
    [
        ([(7, 9)], 18),
        ([(7, 9)] * 3, 18),
        ([(12, 16), (12, 16), (6, 8), (5, 16), (3, 4), (2, 2), (1, 1)], 18),
        pytest.param([(8, 8), (4, 4), (2, 2)], 1440, marks=pytest.mark.exhaustive),
    ],
    ids=["one map", "finest scale alone", "seven maps", "1440 channels"],
)
def test_takes_any_number_of_maps_and_as_many_channels_as_a_network_has(
    sizes: list[tuple[int, int]], channels: int, backend: str
) -> None:
    g = Generator().manual_seed(0)
    maps = [normal(1, channels // len(sizes) + i % 2, *size, generator=g) for i, size in enumerate(sizes)]
    check(rounded(head_on(maps, channels, g), torch.float32, DEVICE), backend)


@on_both
def test_takes_as_many_channels_in_half_precision(backend: str) -> None:
    g = Generator().manual_seed(0)
    maps = [normal(1, 32, *size, generator=g) for size in [(4, 4), (2, 2)]]
    check(rounded(head_on(maps, 1440, g), torch.float16, DEVICE), backend)


def test_an_image_of_many_tiles_is_the_sum_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyramid, "_TILE", (2, 3))
    check(rounded(head_sample(), torch.float32))


@pytest.mark.parametrize(("size", "channels"), [((8, 12), 51), ((40, 60), 51 * 54 // 2)], ids=["small", "large"])
def test_keeps_the_maps_numbers_by_channel_and_of_large_maps_their_covariance(
    size: tuple[int, int], channels: int
) -> None:
    sample = rounded(head_sample(size=size), torch.float32)
    arguments = sample.arguments
    parameters = [x for name, x in arguments.items() if name != "maps"]
    with use_backend("aten"):
        kept = kept_bytes(lambda: aggregation_head(**arguments).prediction, parameters)
    maps = sum(x.nbytes for x in {id(x): x for x in arguments["maps"]}.values())
    assert maps + 8 * channels <= kept <= maps + 4 * 4 * 24 + 8 * channels


def test_a_head_of_the_network_keeps_less_than_a_twelfth_of_what_the_plain_sequence_keeps() -> None:
    g = Generator().manual_seed(0)
    maps = pyramid_maps(network_levels(nyud(1)), 1, "fp32", g)
    arguments = rounded(head_on(maps, sum(x.shape[1] for x in maps), g), torch.float32).arguments
    parameters = [x for name, x in arguments.items() if name != "maps"]
    kept = {}
    for backend in ("aten", "reference"):
        with use_backend(backend):
            kept[backend] = kept_bytes(lambda: aggregation_head(**arguments).prediction, parameters)
    assert 12 * kept["aten"] <= kept["reference"]


@on_both
@pytest.mark.processor
def test_an_offset_of_many_deviations_costs_no_digits_of_the_gradients(backend: str) -> None:
    sample = head_sample(size=(16, 24))
    shifted = [x + 100 for x in sample.arguments["maps"]]
    shifted[3] = shifted[0]
    check(rounded(sample._replace(arguments=sample.arguments | {"maps": shifted}), torch.float32, DEVICE), backend)


@pytest.mark.parametrize(("backend", "seed"), [("aten", 0), ("aten", 1), ("aten", 2), ("triton", 0)])
@pytest.mark.processor
def test_a_variance_that_cancels_keeps_its_digits(backend: str, seed: int) -> None:
    """What two maps have in common is hundreds of times as large as what they differ in, which alone is seen."""
    g = Generator().manual_seed(seed)
    common, seen = (normal(2, 8, 64, 96, generator=g) for _ in range(2))
    sample = head_on([300 * common, 300 * common + seen], 24, g)
    weight = sample.arguments["weight"].clone()
    weight[:, 8:] = -weight[:, :8]
    check(rounded(sample._replace(arguments=sample.arguments | {"weight": weight}), torch.float32, DEVICE), backend)


def test_interpolation_of_many_pixels_needs_no_matrix_of_them() -> None:
    generator = Generator().manual_seed(0)
    maps = [normal(1, 4, *size, generator=generator) for size in [(1, 20_000), (1, 10_000)]]
    sample = head_on(maps, 8, generator)
    running = {"running_mean": torch.zeros(8), "running_var": torch.ones(8)}
    arguments = rounded(sample, torch.float32).arguments | running

    def work() -> None:
        prediction = aggregation_head(**arguments).prediction
        torch.autograd.grad(prediction.sum(), arguments["maps"])

    with use_backend("aten"):
        assert peak_bytes(work) <= 20_000 * 10_000  # an eighth of a matrix of all pixels and cells


@pytest.mark.parametrize(("cells", "pixels", "length"), [(5, 17, 4), (8, 64, 16), (1, 7, 3), (9, 9, 4), (3, 10, 20)])
def test_bands_are_blocks_of_the_matrix_outside_of_which_it_is_zero(cells: int, pixels: int, length: int) -> None:
    matrix = interpolation(cells, pixels, torch.device("cpu"))
    for band in bands(cells, pixels, length, torch.float64, torch.device("cpu")):
        assert torch.equal(band.weights, matrix[band.pixels, band.cells])
        matrix[band.pixels, band.cells] = 0
    assert not matrix.any()


@pytest.mark.parametrize("sizes", [[(96, 96), (48, 48), (12, 12)], [(99, 101), (47, 40), (20, 13)]])
def test_tiles_sum_up_to_the_whole(sizes: list[tuple[int, int]]) -> None:
    generator = Generator().manual_seed(0)
    levels = [torch.randn(*size, 3, generator=generator, dtype=torch.float64) for size in sizes]
    weights = [torch.randn(3, 4, generator=generator, dtype=torch.float64) for _ in sizes]
    upsampled = [
        interpolate((x @ w).permute(2, 0, 1)[None], sizes[0], mode="bilinear")[0].permute(1, 2, 0)
        for x, w in zip(levels, weights, strict=True)
    ]
    expected = sum(upsampled)
    for tile, found in pyramid.sums(levels, weights, torch.zeros(4, dtype=torch.float64)):
        torch.testing.assert_close(tile.image(found), expected[tile.rows, tile.columns])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"maps": []}, "maps: got no map, expected at least one"),
        ({"maps": [None]}, r"maps\[0\]: got NoneType, expected a tensor"),
        ({"norm_weight": torch.ones(24).double()}, "norm_weight: got torch.float64, expected torch.float32 as in maps"),
        ({"bias": torch.zeros(3)}, r"bias: got shape \(3,\), expected \(24,\)"),
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


@on_both
@pytest.mark.processor
def test_scales_may_be_zero_or_negative(backend: str) -> None:
    sample = head_sample()
    scales = sample.arguments["norm_weight"].clone()
    scales[::3], scales[1::3] = 0, -scales[1::3]
    changed = sample._replace(arguments=sample.arguments | {"norm_weight": scales})
    check(rounded(changed, torch.float32, DEVICE), backend)


@on_both
@pytest.mark.parametrize("scale", [1e-30, 1e-38])
def test_scales_that_are_almost_zero_have_gradients(scale: float, backend: str) -> None:
    """As weight decay may leave them, and with the gradients of a mean loss."""
    sample = head_sample()
    scales = sample.arguments["norm_weight"].clone()
    scales[::3] = scale
    changed = sample._replace(arguments=sample.arguments | {"norm_weight": scales})
    check(rounded(changed, torch.float32, DEVICE), backend, gradient=1e-7)


class Unread(torch.autograd.Function):
    """A sum whose gradient is said to be none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        return None


@on_both
@pytest.mark.processor
def test_a_gradient_of_few_pixels_is_not_drowned_by_the_others(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where labels lie in one corner of the image alone."""
    monkeypatch.setattr(pyramid, "_TILE", (4, 4))
    sample = rounded(head_sample(size=(32, 48)), torch.float32, DEVICE)
    gradients = cotangents(HEAD, sample, Generator().manual_seed(1))
    gradients[0][..., 4:, :] = 0
    gradients[0][..., 4:] = 0
    with use_backend(backend):
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
    return two_processes.of_process(rank, aggregation_head, *for_processes(dtype), backend)


def for_processes(dtype: torch.dtype) -> tuple[Sample, list[Tensor]]:
    sample = rounded(head_sample(batch=3), dtype)
    return sample, cotangents(HEAD, sample, Generator().manual_seed(1))


def of_two_processes(path: Path, backend: str, dtype: torch.dtype) -> dict[str, Tensor]:
    return two_processes.together(in_two_processes(path, of_process, backend, dtype))


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
