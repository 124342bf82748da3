"""What holds for cross attention alone; what every operator must do is asked in `registered`."""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from benchmarks.harness.quantities import kept_bytes
from seqca.ops import Branch, Pair, between_tasks, cross_attention, use_backend
from seqca.ops.aten import projections
from seqca.ops.samples.cross_attention import SAMPLES, attention_sample, exchange_sample
from seqca.ops.shared.operator import OPERATORS
from seqca.ops.shared.sample import Sample, normal
from seqca.ops.verification.judge import cotangents, evaluate, judge, leaves, rounded
from tests.processes import in_two_processes

from . import two_processes

CROSS = OPERATORS["cross_attention"]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def exchange_of(tasks: int, images: int = 2, size: tuple[int, int] = (4, 6), channels: int = 6) -> Sample:
    """An exchange between tasks, in float64."""
    return exchange_sample(tasks, size, channels, Generator().manual_seed(0), images)


on_both = pytest.mark.parametrize("backend", ["aten", "triton"])

# Triton has kernels of their own for half precision.
on_all = pytest.mark.parametrize(
    ("backend", "dtype"),
    [("aten", torch.float32), ("triton", torch.float32), ("triton", torch.float16)],
    ids=["aten", "triton", "triton in half precision"],
)


def judged(sample: Sample, backend: str) -> dict[str, Tensor]:
    """Outputs and gradients on a backend, agreeing with the reference."""
    gradients = cotangents(CROSS, sample, Generator().manual_seed(1))
    with use_backend(backend):
        results = evaluate(CROSS.function, sample, gradients)
    for verdict in judge(CROSS, sample, gradients, results):
        assert verdict.ok, str(verdict)
    return results


def changed(sample: Sample, **arguments: Any) -> Sample:
    """A sample with other arguments."""
    return sample._replace(arguments=sample.arguments | arguments)


@on_both
@pytest.mark.parametrize("tasks", [2, 3, 4, 5, 6])
def test_any_number_of_tasks_exchange(tasks: int, backend: str) -> None:
    results = judged(rounded(exchange_of(tasks, images=1), torch.float32, DEVICE), backend)
    assert [results[f"output[{i}]"].shape[1] for i in range(tasks)] == [6 * (tasks - 1)] * tasks


@on_both
def test_maps_of_one_shape_are_read_by_several_branches_in_any_order(backend: str) -> None:
    branches = [Branch(0, queries=1), Branch(0, queries=1), Branch(1, keys=1), Branch(1, queries=1)]
    pairs = [Pair(0, 0, 2, 0), Pair(1, 0, 2, 0), Pair(3, 0, 2, 0)]
    sample = attention_sample(6, [(6, 4, 6)] * 2, branches, pairs, Generator().manual_seed(0))
    judged(rounded(sample, torch.float32, DEVICE), backend)


@on_both
def test_nothing_of_a_call_outlives_it(backend: str) -> None:
    arguments = rounded(exchange_of(2), torch.float32, DEVICE).arguments
    maps = [x.detach().requires_grad_() * 1 for x in arguments["maps"]]
    gc.disable()
    try:
        with use_backend(backend):
            attended = cross_attention(**arguments | {"maps": maps}).attended
        sum(x.sum() for x in attended).backward()
        graphs = [weakref.ref(x) for x in maps]
        del maps, attended
        assert [graph() for graph in graphs] == [None] * 2
    finally:
        gc.enable()


@on_both
@pytest.mark.parametrize("images", [1, 16])
@pytest.mark.processor
def test_statistics_are_those_of_all_images_and_states_those_of_one(images: int, backend: str) -> None:
    judged(rounded(exchange_of(2, images), torch.float32, DEVICE), backend)


@pytest.mark.parametrize("limit", [5, 60], ids=["parts of images", "several images"])
@pytest.mark.parametrize("name", SAMPLES)
def test_maps_of_many_pieces_are_the_sum_of_them(name: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projections, "_CPU_TOKENS", limit)
    judged(rounded(SAMPLES[name](24, 6, Generator().manual_seed(0)), torch.float32), "aten")


def test_keeps_the_maps_and_nothing_of_pairs_and_pixels() -> None:
    sample = rounded(exchange_of(4, size=(40, 60)), torch.float32)
    arguments = sample.arguments
    parameters = leaves([arguments[name] for name in ("weights", "scales", "shifts")])
    with use_backend("aten"):
        kept = kept_bytes(lambda: cross_attention(**arguments).attended, parameters)
    maps = sum(x.nbytes for x in arguments["maps"])
    states, moments, layers = 4 * 4 * 3 * 2 * 7 * 6, 8 * 4 * 7 * 6, 2 * 8 * 4 * (18 + 36 + 36)
    assert maps < kept <= maps + states + moments + layers


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [("aten", torch.float32), ("aten", torch.float64), ("triton", torch.float32)],
    ids=["aten", "aten in float64", "triton"],
)
@pytest.mark.parametrize("name", ["exchange", "across scales"])
@pytest.mark.parametrize("pixels", [8, 24])
@pytest.mark.processor
def test_an_offset_of_a_hundred_deviations_costs_no_digits(
    pixels: int, name: str, backend: str, dtype: torch.dtype
) -> None:
    """What rounding leaves of a map's mean is the same for all pixels, and behind a projection a norm takes it away."""
    sample = SAMPLES[name](pixels, 6, Generator().manual_seed(0))
    maps = [x + 100 * x.std() for x in sample.arguments["maps"]]
    judged(rounded(changed(sample, maps=maps), dtype, DEVICE), backend)


@pytest.mark.parametrize(("backend", "seed"), [("aten", 135), ("aten", 119), ("aten", 215), ("triton", 135)])
@pytest.mark.processor
def test_errors_of_a_layer_do_not_become_one_in_the_gradient_of_its_projection(backend: str, seed: int) -> None:
    """Its weight is one of the gradient's factors, and has one large singular value here."""
    sample = SAMPLES["mixed"](45, 18, Generator().manual_seed(seed))
    judged(rounded(sample, torch.float32, DEVICE), backend)


@on_all
@pytest.mark.processor
def test_a_layer_that_sees_a_thousandth_of_the_variance_keeps_its_digits(backend: str, dtype: torch.dtype) -> None:
    """Maps vary by far most along a direction that first layers and values do not see."""
    sample, g = exchange_of(2, channels=12), Generator().manual_seed(2)
    unseen = normal(12, generator=g)
    unseen -= unseen.mean()  # the step of the sample stays seen
    unseen /= unseen.norm()
    maps = [
        x + 150 * x.std() * unseen[:, None, None] * normal(len(x), 1, *x.shape[2:], generator=g)
        for x in sample.arguments["maps"]
    ]
    weights = list(sample.arguments["weights"])
    for i in range(0, len(weights), 3):
        for j in (i, i + 2):
            rows = weights[j][..., 0, 0]
            weights[j] = (rows - torch.outer(rows @ unseen, unseen))[..., None, None]
    rows = weights[0][..., 0, 0]
    tokens = maps[0].transpose(0, 1).flatten(1)
    ratio = torch.cov(rows @ tokens).diagonal()
    ratio = ratio / rows.square().sum(1) / torch.linalg.eigvalsh(torch.cov(tokens))[-1]
    assert ratio.min() < 1e-3
    judged(rounded(changed(sample, maps=maps, weights=weights), dtype, DEVICE), backend)


@on_all
@pytest.mark.processor
def test_scales_may_be_zero_or_negative(backend: str, dtype: torch.dtype) -> None:
    sample = exchange_of(2)
    for scale, shift in zip(sample.arguments["scales"], sample.arguments["shifts"], strict=True):
        scale[::3] = 0
        scale[1::3] *= -1
        shift[1::3] *= -1  # so that nothing comes near the kink of a ReLU
    judged(rounded(sample, dtype, DEVICE), backend)


def denominators(sample: Sample) -> Tensor:
    """Of all pairs and pixels, from the outputs with all of them clamped and with none."""
    with torch.no_grad():
        free, clamped = (
            torch.cat([x.flatten() for x in CROSS.reference(**(sample.arguments | {"eps": eps}))[0]])
            for eps in (1e-12, 1e12)
        )
    return 1e12 * (clamped / free)[free > 1e-3]


@on_all
@pytest.mark.parametrize("share", [0.5, 1.0], ids=["some", "all"])
def test_a_clamped_denominator_takes_no_gradient(share: float, backend: str, dtype: torch.dtype) -> None:
    sample = exchange_of(2)
    ordered = denominators(sample).sort().values
    if share == 1:
        eps = 2 * ordered[-1].item()
    else:
        middle = ordered[len(ordered) // 4 : 3 * len(ordered) // 4]
        widest = middle.diff().argmax()
        eps = (middle[widest] + middle[widest + 1]).item() / 2
    judged(rounded(changed(sample, eps=eps), dtype, DEVICE), backend)


def test_what_the_loss_does_not_read_sends_no_gradient() -> None:
    arguments = rounded(exchange_of(2), torch.float32).arguments
    with use_backend("aten"):
        attended = cross_attention(**arguments).attended
    alone = torch.autograd.grad(attended[0].sum(), arguments["maps"], retain_graph=True)
    total = (attended[0] + 0 * attended[1]).sum()
    for one, other in zip(alone, torch.autograd.grad(total, arguments["maps"]), strict=True):
        assert torch.equal(one, other)


def test_a_map_may_stand_several_times() -> None:
    arguments = rounded(SAMPLES["mixed"](24, 6, Generator().manual_seed(0)), torch.float32).arguments
    first, second = arguments["maps"]
    twice = arguments | {
        "maps": [first, second, first],
        "branches": [*arguments["branches"][:2], Branch(2, keys=1, projected=True)],
    }
    with use_backend("aten"):
        results = [cross_attention(**each).attended for each in (arguments, twice)]
    gradients = [torch.autograd.grad([x.sum() for x in attended], [first, second]) for attended in results]
    for one, other in zip((*results[0], *gradients[0]), (*results[1], *gradients[1]), strict=True):
        assert torch.equal(one, other)


def pair_arguments() -> dict[str, Any]:
    """Two maps of 6 channels that gather from each other, in float32."""
    return rounded(exchange_of(2), torch.float32).arguments


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"maps": []}, "maps: got no map, expected at least one"),
        ({"weights": None}, "weights: got NoneType, expected a list of tensors"),
        ({"shifts": []}, "shifts: got 0 tensors, expected 6, one for each layer"),
        ({"branches": [Branch(0, 1, 1), Branch(3, 1, 1)]}, r"branches\[1\]: got map 3, expected the index of one of 2"),
        ({"branches": [Branch(0, 1, 1), Branch(0, 1, 1)]}, r"branches: got none that reads maps\[1\]"),
        ({"branches": [Branch(0, 1, 1), Branch(1, 1, -1)]}, r"branches\[1\]: got .*, expected numbers of blocks"),
        ({"pairs": []}, "pairs: got none, expected at least one"),
        (
            {"pairs": [Pair(0, 0, 1, 1), Pair(1, 0, 0, 0)]},
            r"pairs\[0\]: got key 1 of branches\[1\], expected one that it has",
        ),
        ({"pairs": [Pair(0, 0, 1, 0)]}, r"pairs: got none for query 0 of branches\[1\], expected each to take part"),
        ({"running_means": []}, "running_means, running_vars: got one of them, expected both or neither"),
        ({"norm_eps": 0.0}, "norm_eps: got 0.0, expected a positive number"),
        ({"eps": "small"}, "eps: got str, expected a number"),
        ({"group": "world"}, "group: got str, expected a process group"),
        (
            {
                "running_means": [torch.zeros(len(x), requires_grad=True) for x in pair_arguments()["weights"]],
                "running_vars": [torch.ones(len(x)) for x in pair_arguments()["weights"]],
            },
            r"running_means\[0\]: got a tensor that requires a gradient",
        ),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_refuses_what_does_not_fit_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        cross_attention(**(pair_arguments() | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"branches": [Branch(0, 1, 1), Branch(-1, 1, 1)]}, r"branches\[1\]: got map -1, expected"),
        ({"branches": [Branch(0, 1, 1), Branch(1, 1, 2)]}, r"pairs: got none for key 1 of branches\[1\], expected"),
        ({"pairs": [Pair(0, 0, 1, -1), Pair(1, 0, 0, 0)]}, r"pairs\[0\]: got key -1 of branches\[1\], expected"),
        ({"pairs": [Pair(0, 0, -1, 0), Pair(1, 0, 0, 0)]}, r"pairs\[0\]: got key 0 of branches\[-1\], expected"),
    ],
    ids=["no such map", "unused keys", "no such keys", "no such branch"],
)
def test_refuses_another_structure_when_compiled_too(change: dict[str, Any], message: str) -> None:
    compiled = torch.compile(cross_attention, backend="eager")
    compiled(**pair_arguments())
    with pytest.raises(ValueError, match=message):
        compiled(**(pair_arguments() | change))


@pytest.mark.parametrize(
    ("name", "index", "tensor", "message"),
    [
        (
            "maps",
            1,
            torch.zeros(2, 6, 0, 3),
            r"maps\[1\]: got shape \(2, 6, 0, 3\), expected \(B, C, H, W\), not empty",
        ),
        ("maps", 1, torch.zeros(3, 6, 4, 3), r"maps\[1\]: got 3 images, expected 2 as in maps\[0\]"),
        ("maps", 1, torch.zeros(2, 6, 4, 3).double(), r"maps\[1\]: got torch.float64, expected torch.float32"),
        ("weights", 1, torch.zeros(12, 5, 1, 1), r"weights\[0\]: got shape \(12, 6, 1, 1\), expected \(10, 6, 1, 1\)"),
        ("weights", 2, torch.zeros(6, 6), r"weights\[2\]: got shape \(6, 6\), expected \(6, 6, 1, 1\)"),
        ("scales", 5, torch.zeros(7), r"scales\[5\]: got shape \(7,\), expected \(6,\)"),
        ("shifts", 5, torch.zeros(6).half(), r"shifts\[5\]: got torch.float16, expected torch.float32"),
    ],
)
def test_refuses_a_tensor_that_does_not_fit_by_name(name: str, index: int, tensor: Tensor, message: str) -> None:
    arguments = pair_arguments()
    tensors = list(arguments[name])
    tensors[index] = tensor
    with pytest.raises((TypeError, ValueError), match=message):
        cross_attention(**(arguments | {name: tensors}))


def test_refuses_to_take_a_variance_of_one_pixel() -> None:
    arguments = rounded(exchange_of(2, images=1), torch.float32).arguments
    arguments["maps"] = [arguments["maps"][0], arguments["maps"][1][..., :1, :1]]
    with pytest.raises(ValueError, match=r"maps\[1\]: got a single pixel in all, expected at least two"):
        cross_attention(**arguments)


def for_processes(name: str, dtype: torch.dtype) -> tuple[Sample, list[Tensor]]:
    """Images for two processes, and gradients of what they gather."""
    drawn = exchange_of(3, images=3) if name == "exchange" else SAMPLES[name](24, 6, Generator().manual_seed(0))
    sample = rounded(drawn, dtype)
    return sample, cotangents(CROSS, sample, Generator().manual_seed(1))


def of_process(rank: int, name: str, dtype: torch.dtype, backend: str) -> dict[str, Tensor]:
    return two_processes.of_process(rank, cross_attention, *for_processes(name, dtype), backend)


@pytest.mark.skipif(torch.cuda.is_available(), reason="gloo gathers tensors of a CPU")
@pytest.mark.parametrize("name", ["exchange", "mixed"])
def test_two_processes_agree_with_the_reference_on_all_images(tmp_path: Path, name: str) -> None:
    results = two_processes.together(in_two_processes(tmp_path, of_process, name, torch.float32, "triton"))
    for verdict in judge(CROSS, *for_processes(name, torch.float32), results):
        assert verdict.ok, str(verdict)


@pytest.mark.parametrize("name", ["exchange", "mixed"])
def test_two_processes_with_images_of_their_own_are_as_one(tmp_path: Path, name: str) -> None:
    together = two_processes.together(in_two_processes(tmp_path, of_process, name, torch.float64, "aten"))
    sample, gradients = for_processes(name, torch.float64)
    with use_backend("reference"):
        whole = evaluate(cross_attention, sample, gradients)
    largest: dict[str, float] = {}
    for what, x in whole.items():  # the gradient of a projection's shift is 0
        kind = what.partition("[")[0] if what.startswith("gradient") else what
        largest[kind] = max(largest.get(kind, 0), x.abs().max().item())
    for what, expected in whole.items():
        kind = what.partition("[")[0]
        assert (together[what] - expected).abs().max() <= 1e-12 * largest[what if kind == "output" else kind], what


def test_an_exchange_of_fewer_than_two_tasks_is_refused() -> None:
    with pytest.raises(ValueError, match="tasks: got 1, expected at least two"):
        between_tasks(1)
