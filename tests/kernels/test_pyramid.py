"""What `aggregation_head` and `scale_aggregation` share on Triton: natively on a GPU, else in Triton's interpreter."""

from collections import Counter

import pytest
import torch
from seqca.kernels import aggregation_head
from seqca.kernels import pyramid as pyramids
from seqca.kernels.aggregation_head.cases import CASES
from seqca.kernels.launch import record
from seqca.kernels.pyramid import Pyramid, TileSizes
from torch import Generator, Tensor

from seqca.ops import use_backend
from seqca.ops.samples.scale_aggregation import maps_and_weight
from seqca.ops.shared.operator import OPERATORS
from seqca.ops.verification.judge import cotangents, evaluate, judge, rounded

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

pytestmark = pytest.mark.usefixtures("poison")


def pyramid(sizes: list[tuple[int, int]], dtype: torch.dtype) -> Pyramid:
    """Of a map of each size."""
    maps, weight, _ = maps_and_weight(5, sizes, Generator().manual_seed(0))
    maps = [x.to(DEVICE, dtype) for x in maps]
    return Pyramid(maps, list(range(len(maps))), weight.to(DEVICE, dtype))


def as_map(p: Pyramid, rows: Tensor) -> Tensor:
    """Rows of tiles as a map, with what is beyond the border."""
    g = p.geometry
    tiles = rows.unflatten(0, (-1, g.down, g.across, g.tile_height, g.tile_width))
    return tiles.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def totals(p: Pyramid) -> list[Tensor]:
    """By level after the finest, the sum of the weights of each pixel, in float64."""
    g = p.geometry
    columns = [p.left[:, x.slot : x.slot + x.slots].double().sum(1, keepdim=True) for x in g.levels]
    return [as_map(p, x)[..., : g.height, : g.width] for x in columns]


def test_weights_at_ratios_of_powers_of_two_are_exact_in_half_precision() -> None:
    p = pyramid([(16, 48), (8, 24), (4, 12), (2, 48)], torch.float16)
    assert [level.parts for level in p.geometry.levels] == [1, 1, 1]
    assert all((x == 1).all() for x in totals(p))


def test_weights_at_other_ratios_have_what_rounding_leaves_of_them_too() -> None:
    p = pyramid([(11, 18), (7, 18), (11, 5)], torch.float16)
    assert [level.parts for level in p.geometry.levels] == [2, 2]
    assert all((x - 1).abs().max() <= 2**-20 for x in totals(p))


def test_no_cell_or_pixel_beyond_a_border_has_a_weight() -> None:
    p = pyramid([(9, 17), (3, 5)], torch.float32)
    outside = as_map(p, p.left)
    assert not outside[..., 9:, :].any() and not outside[..., 17:].any()
    assert p.rows.min() >= 0 and p.rows.max() < p.geometry.rows


def test_a_head_launches_a_copy_for_each_map_and_pass_and_few_kernels_besides() -> None:
    (case,) = [case for case in CASES if case.shape == "network, C_out = 40" and case.dtype == torch.bfloat16]
    with record() as launches:
        case.run()
    names = Counter(launch.kernel.fn.__name__ for launch in launches)
    assert names["pyramid_forward_rows"] == 2 * 10 and names["pyramid_backward_maps"] == 10
    assert names.total() == 43


@pytest.mark.parametrize(("evaluation", "expected"), [(False, "tf32x3"), (True, "ieee")])
def test_all_that_makes_y_in_float32_multiplies_alike_and_without_tensor_cores_in_evaluation(
    evaluation: bool, expected: str
) -> None:
    def precisions() -> set[str]:
        shape = "network, C_out = 40" + ", evaluation" * evaluation
        (case,) = [case for case in CASES if case.shape == shape and case.dtype == torch.float32]
        with record() as launches:
            case.run()
        return {x.arguments["PRECISION"] for x in launches if "PRECISION" in x.arguments}

    before = torch.get_float32_matmul_precision()
    assert precisions() == {expected}
    try:
        torch.set_float32_matmul_precision("high")
        assert precisions() == {"tf32"}
    finally:
        torch.set_float32_matmul_precision(before)


def test_offsets_into_more_than_two_to_the_31_elements_take_64_bits() -> None:
    (many,) = [case for case in CASES if "320 images" in case.shape]
    with record() as launches:
        many.run()
    far = {launch.arguments["FAR"] for launch in launches if "FAR" in launch.arguments}
    assert far == {True}


@pytest.mark.parametrize("name", ["aggregation_head", "scale_aggregation"])
def test_with_offsets_of_64_bits_results_are_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    operator, generator = OPERATORS[name], Generator().manual_seed(0)
    sample = rounded(operator.samples["odd ratios"](12, 40, generator), torch.float32, DEVICE)
    gradients = cotangents(operator, sample, generator)
    with use_backend("triton"):
        near = evaluate(operator.function, sample, gradients)
        monkeypatch.setattr(pyramids, "_FAR", 1)
        far = evaluate(operator.function, sample, gradients)
    for what, expected in near.items():
        assert torch.equal(far[what], expected), what


@pytest.mark.parametrize("name", ["aggregation_head", "scale_aggregation"])
def test_tiles_rows_outputs_and_images_that_follow_each_other_add_up(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Three tiles for a program, several blocks of the operands' rows, two of the outputs, a gradient of one image.
    monkeypatch.setattr(aggregation_head, "_PROGRAMS", 2)
    monkeypatch.setattr(pyramids, "tile_sizes", lambda dtype: TileSizes(64, 16, 16, 4))
    monkeypatch.setattr(pyramids, "_GRADIENT_BYTES", 1)
    operator, generator = OPERATORS[name], Generator().manual_seed(0)
    sample = rounded(operator.samples["repeated maps"](90, 128, generator), torch.float32, DEVICE)
    gradients = cotangents(operator, sample, generator)
    with use_backend("triton"):
        results = evaluate(operator.function, sample, gradients)
    for verdict in judge(operator, sample, gradients, results):
        assert verdict.ok, str(verdict)
