"""What holds for `norm_relu` alone; what every operator must do is asked in registered/."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from seqca.kernels.launch import record
from torch import Generator, Tensor

from benchmarks.harness.quantities import kept_bytes
from seqca.ops import norm_relu, use_backend
from seqca.ops.shared.dispatch import refusal
from seqca.ops.shared.operator import OPERATORS, Call
from seqca.ops.shared.sample import Sample, normal
from seqca.ops.verification.judge import cotangents, evaluate, judge, rounded
from tests.processes import in_two_processes

from . import two_processes

OPERATOR = OPERATORS["norm_relu"]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FUSED = [name for name in ("aten", "triton") if refusal(OPERATOR, name, Call(DEVICE, torch.float32, 1, 9)) is None]


def block(
    maps: list[Tensor], layers: list[tuple[int, int]], projection: bool = False, residual: bool = False, **others: Any
) -> Sample:
    """Layers of (channels, side) on maps, whose ReLUs are far from their kinks, with every second channel's below."""
    g = Generator().manual_seed(1)
    batches = others.get("batches", 1)
    joined = sum(x.shape[1] for x in maps[: len(maps) // batches])
    inputs = [joined, *(rows for rows, _ in layers)]
    if projection:
        inputs[len(layers) - 1] = joined
    rows = [n for n, _ in layers] or [joined]
    arguments = {
        "maps": maps,
        "weights": [
            normal(n, c, side, side, generator=g) / (c * side * side) ** 0.5
            for (n, side), c in zip(layers, inputs, strict=False)
        ],
        "norm_weights": [0.5 + torch.rand(n, generator=g, dtype=torch.float64) for n in rows],
        "norm_biases": [torch.tensor([12.0, -12.0], dtype=torch.float64).repeat(n)[:n] for n in rows],
        "residual": normal(batches * len(maps[0]), *maps[0].shape[1:], generator=g) if residual else None,
        "projection": projection,
        **others,
    }
    names = ("maps", "weights", "norm_weights", "norm_biases", *(["residual"] if residual else []))
    return Sample(arguments, names, ("norm_weights", "norm_biases"))


def maps_of(*channels: int, batch: int = 2, size: tuple[int, int] = (8, 12)) -> list[Tensor]:
    """Maps of one size."""
    return [normal(batch, c, *size, generator=Generator().manual_seed(c)) for c in channels]


BLOCKS = {
    "norm": block(maps_of(18), []),
    "norm of two maps with residual": block(maps_of(9, 9), [], residual=False),
    "one convolution": block(maps_of(18), [(20, 3)]),
    "basic block": block(maps_of(18), [(18, 3), (18, 3)], residual=True),
    "projected basic block": block(maps_of(10, 8), [(20, 3), (20, 3), (20, 1)], projection=True),
    "bottleneck": block(maps_of(16), [(6, 1), (6, 3), (16, 1)], residual=True),
    "stem": block(maps_of(3), [(16, 3), (18, 3)], strides=[2, 2]),
    "batches of two maps": block(maps_of(10, 8) * 2, [(20, 3), (20, 3), (20, 1)], projection=True, batches=2),
    "norms of batches": block(maps_of(18, 18, 18), [], residual=True, batches=3),
    "strided block": block(maps_of(16), [(6, 5), (12, 3), (12, 1)], projection=True, strides=[1, 3, 3]),
}


def check(sample: Sample, backend: str = "aten") -> None:
    """Outputs and gradients agree with the reference."""
    gradients = cotangents(OPERATOR, sample, Generator().manual_seed(1))
    with use_backend(backend):
        results = evaluate(norm_relu, sample, gradients)
    for verdict in judge(OPERATOR, sample, gradients, results):
        assert verdict.ok, str(verdict)


@pytest.mark.processor
@pytest.mark.parametrize("backend", FUSED)
@pytest.mark.parametrize("name", BLOCKS)
def test_any_chain_of_convolutions_is_as_its_layers_one_by_one(name: str, backend: str) -> None:
    check(rounded(BLOCKS[name], torch.float32, DEVICE), backend)


@pytest.mark.parametrize("backend", ["reference", *FUSED])
def test_weights_in_float32_are_read_rounded_and_get_gradients_in_float32(backend: str) -> None:
    arguments = rounded(BLOCKS["projected basic block"], torch.float16, DEVICE).arguments
    weights = arguments.pop("weights")
    results = []
    for each in (weights, [weight.detach().float().requires_grad_() for weight in weights]):
        with use_backend(backend):
            output = norm_relu(weights=each, **arguments).output
            results.append((output, *torch.autograd.grad(output.float().square().sum(), each)))
    (output, *of_rounded), (same, *of_wide) = results
    assert torch.equal(output, same)
    assert {x.dtype for x in of_wide} == {torch.float32}
    for x, y in zip(of_rounded, of_wide, strict=True):
        torch.testing.assert_close(x, y.half(), rtol=2**-10, atol=0)


def test_the_basic_block_is_that_of_the_textbook() -> None:
    arguments = rounded(BLOCKS["basic block"], torch.float64).arguments
    (x,), weights, residual = arguments["maps"], arguments["weights"], arguments["residual"]
    norms = zip(arguments["norm_weights"], arguments["norm_biases"], strict=True)
    (first, second) = [{"weight": w, "bias": b, "training": True} for w, b in norms]
    none = (None, None)
    hidden = F.relu(F.batch_norm(F.conv2d(x, weights[0], padding=1), *none, **first))
    expected = F.relu(F.batch_norm(F.conv2d(hidden, weights[1], padding=1), *none, **second) + residual)
    torch.testing.assert_close(norm_relu(**arguments).output, expected)


@pytest.mark.parametrize("backend", ["reference", *FUSED])
def test_the_map_itself_may_be_the_residual_and_gets_both_gradients(backend: str) -> None:
    arguments = rounded(BLOCKS["basic block"], torch.float32, DEVICE).arguments
    (x,) = arguments["maps"]
    with use_backend(backend):
        (own,) = torch.autograd.grad(norm_relu(**arguments | {"residual": x}).output.square().sum(), [x])
        apart = x.detach().clone().requires_grad_()
        output = norm_relu(**arguments | {"residual": apart}).output
        both = torch.autograd.grad(output.square().sum(), [x, apart])
    torch.testing.assert_close(own, both[0] + both[1])


@pytest.mark.parametrize("backend", FUSED)
def test_keeps_maps_and_outputs_of_convolutions_and_nothing_else_that_grows_with_them(backend: str) -> None:
    def kept(sample: Sample, of_itself: bool = False) -> float:
        arguments = rounded(sample, torch.float32, DEVICE).arguments
        if of_itself:
            arguments["residual"] = arguments["maps"][0]
        parameters = [x for name in ("weights", "norm_weights", "norm_biases") for x in arguments[name]]
        with use_backend(backend):
            return kept_bytes(lambda: norm_relu(**arguments).output, parameters)

    pixel = 4 * 2 * 8 * 12
    statistics = 4 * 4 * 3 * 20
    of_a_map = block(maps_of(18), [(18, 3), (18, 3)])
    assert 3 * 18 * pixel <= kept(of_a_map) <= 3 * 18 * pixel + statistics
    assert kept(of_a_map, of_itself=True) <= 3 * 18 * pixel + statistics
    assert kept(BLOCKS["projected basic block"]) <= (18 + 2 * 20) * pixel + statistics
    # Of 27 products an element the first convolution is computed again.
    assert kept(BLOCKS["stem"]) <= 3 * pixel + 18 * pixel / 16 + statistics


@pytest.mark.parametrize("backend", FUSED)
def test_keeps_of_batches_what_calls_of_each_would(backend: str) -> None:
    sample = block(maps_of(10, 8) + maps_of(10, 8), [(20, 3), (20, 3), (20, 1)], projection=True, batches=2)
    arguments = rounded(sample, torch.float32, DEVICE).arguments
    parameters = [x for name in ("weights", "norm_weights", "norm_biases") for x in arguments[name]]
    with use_backend(backend):
        kept = kept_bytes(lambda: norm_relu(**arguments).output, parameters)
    statistics = 2 * 4 * 4 * 3 * 20
    assert kept <= 2 * (18 + 2 * 20) * 4 * 2 * 8 * 12 + statistics


def batches_of(
    maps: list[Tensor], batches: int, dtype: torch.dtype = torch.float64, **others: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Arguments of one call, and those of a call for each batch."""
    arguments = rounded(block(maps, batches=batches, **others), dtype, DEVICE).arguments
    count = len(maps) // batches
    residuals = [None] * batches if arguments["residual"] is None else arguments["residual"].chunk(batches)
    return arguments, [
        arguments | {"maps": arguments["maps"][i * count : (i + 1) * count], "residual": residual, "batches": 1}
        for i, residual in enumerate(residuals)
    ]


@pytest.mark.parametrize("backend", ["reference", "aten", "triton"])
@pytest.mark.parametrize("evaluation", [False, True])
@pytest.mark.parametrize("projection", [False, True])
def test_batches_are_as_a_call_for_each(projection: bool, evaluation: bool, backend: str) -> None:
    dtype = torch.float32 if backend == "triton" else torch.float64
    maps = [x * (1 + i) for i in range(3) for x in maps_of(10, 8)]
    layers = [(20, 3), (18, 3), *([(18, 1)] if projection else [])]
    others: dict[str, Any] = {"projection": True} if projection else {"residual": True}
    if not projection:
        maps = [torch.cat(maps[i : i + 2], 1) for i in (0, 2, 4)]
    if evaluation:
        rows = [n for n, _ in layers]
        others["running_means"] = [torch.ones(n, dtype=dtype, device=DEVICE) for n in rows]
        others["running_vars"] = [torch.full((n,), 2.0, dtype=dtype, device=DEVICE) for n in rows]
    together, each = batches_of(maps, 3, dtype, layers=layers, **others)
    parameters = [x for name in ("weights", "norm_weights", "norm_biases") for x in together[name]]
    inputs = [*together["maps"], *parameters, *([] if projection else [together["residual"]])]
    with use_backend(backend):
        found, alone = norm_relu(**together), [norm_relu(**arguments) for arguments in each]
        gradients = torch.autograd.grad(found.output.square().sum(), inputs)
        expected = torch.autograd.grad(torch.cat([own.output for own in alone]).square().sum(), inputs)
    torch.testing.assert_close(found.output, torch.cat([own.output for own in alone]))
    # Triton adds up those of parameters in another order than calls of their own.
    alike = len(maps) if backend == "triton" else len(inputs)
    torch.testing.assert_close(list(gradients[:alike]), list(expected[:alike]))
    for statistics in ("means", "variances"):
        own = [getattr(result, statistics) for result in alone]
        stacked = own[0] if evaluation else [torch.stack(layer) for layer in zip(*own, strict=True)]
        torch.testing.assert_close(getattr(found, statistics), stacked)


def test_launches_of_triton_do_not_grow_with_batches() -> None:
    def launched(batches: int) -> list[str]:
        layers = [(20, 3), (20, 3), (20, 1)]
        sample = rounded(block(maps_of(10, 8) * batches, layers, projection=True, batches=batches), torch.float32)
        with record() as launches, use_backend("triton"):
            norm_relu(**sample.arguments).output.sum().backward()
        return [launch.kernel.__name__ for launch in launches]

    assert launched(3) == launched(1)


@pytest.mark.parametrize("backend", FUSED)
def test_gradients_of_maps_of_batches_lie_in_memory_as_the_call_computes(backend: str) -> None:
    maps = [x.to(DEVICE, torch.float32) for x in maps_of(10, 10, size=(7, 11))]
    maps[0] = maps[0].contiguous(memory_format=torch.channels_last)
    arguments = rounded(block(maps, [(20, 3)], batches=2), torch.float32, DEVICE).arguments
    with use_backend(backend):
        output = norm_relu(**arguments).output
        gradients = torch.autograd.grad(output.sum(), arguments["maps"])
    assert all(x.is_contiguous() for x in (output, *gradients))


@pytest.mark.parametrize("backend", FUSED)
@pytest.mark.parametrize("name", ["norm", "projected basic block", "stem"])
def test_maps_with_the_channels_last_give_such_a_map(name: str, backend: str) -> None:
    sample = rounded(BLOCKS[name], torch.float32, DEVICE)
    maps = [x.detach().contiguous(memory_format=torch.channels_last) for x in sample.arguments["maps"]]
    sample = sample._replace(arguments=sample.arguments | {"maps": [x.requires_grad_() for x in maps]})
    check(sample, backend)
    with use_backend(backend):
        assert norm_relu(**sample.arguments).output.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.skipif(DEVICE != "cpu", reason="a GPU takes maps as they lie")
def test_a_cpu_computes_channels_last_where_pixels_can_be_dealt_to_short_sums() -> None:
    for size, order in (((8, 12), torch.channels_last), ((7, 11), torch.contiguous_format)):
        sample = rounded(block(maps_of(18, size=size), [(18, 3), (18, 3)], residual=True), torch.float32, DEVICE)
        with use_backend("aten"):
            assert norm_relu(**sample.arguments).output.is_contiguous(memory_format=order)
        check(sample)


@pytest.mark.processor
@pytest.mark.parametrize("backend", FUSED)
def test_a_mean_of_many_deviations_costs_no_more_digits_than_in_torch(backend: str) -> None:
    check(rounded(block([100 + x for x in maps_of(18, size=(24, 32))], []), torch.float32, DEVICE), backend)


@pytest.mark.parametrize("backend", FUSED)
def test_scales_may_be_zero_or_negative(backend: str) -> None:
    sample = BLOCKS["basic block"]
    scales = [x.clone() for x in sample.arguments["norm_weights"]]
    for scale in scales:
        scale[::3], scale[1::3] = 0, -scale[1::3]
    sample = sample._replace(arguments=sample.arguments | {"norm_weights": scales})
    check(rounded(sample, torch.float32, DEVICE), backend)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"maps": []}, "maps: got no map, expected at least one"),
        ({"maps": torch.zeros(2, 18, 8, 12)}, "maps: got Tensor, expected a list of tensors"),
        ({"maps": [torch.zeros(2, 9, 8, 12), torch.zeros(2, 9, 8, 6)]}, r"maps\[1\]: got the size \(8, 6\), expected"),
        ({"weights": [torch.zeros(18, 17, 3, 3)] * 2}, r"weights\[0\]: got shape \(18, 17, 3, 3\), expected \(C, 18,"),
        ({"weights": [torch.zeros(18, 18, 2, 2)] * 2}, r"weights\[0\]: got shape .* with odd k"),
        ({"norm_weights": [torch.zeros(18)]}, "norm_weights: got 1, expected 2, one for each layer"),
        ({"norm_biases": [torch.zeros(18)]}, "norm_biases: got 1, expected 2, one for each layer"),
        ({"norm_biases": [torch.zeros(18), torch.zeros(3)]}, r"norm_biases\[1\]: got shape \(3,\), expected \(18,\)"),
        ({"residual": torch.zeros(2, 18, 4, 4)}, r"residual: got shape \(2, 18, 4, 4\), expected \(2, 18, 8, 12\)"),
        ({"residual": torch.zeros(2, 18, 8, 12).double()}, "residual: got torch.float64, expected torch.float32"),
        ({"strides": [1]}, "strides: got 1, expected 2, one for each convolution"),
        ({"strides": [1, 0]}, r"strides: got \[1, 0\], expected positive integers"),
        ({"projection": True}, "residual: got one beside a projection"),
        ({"running_means": [torch.zeros(18)] * 2}, "running_means, running_vars: got one of them, expected both"),
        ({"batches": 0}, "batches: got 0, expected at least one"),
        ({"batches": True}, "batches: got True, expected an integer"),
        ({"batches": 2}, "maps: got 1, expected as many for each of 2 batches"),
        (
            {"maps": [torch.zeros(2, 18, 8, 12), torch.zeros(2, 9, 8, 12)], "batches": 2},
            r"maps\[1\]: got 9 channels, expected 18 as of maps\[0\]",
        ),
        (
            {"maps": [torch.zeros(2, 18, 8, 12)] * 2, "batches": 2},
            r"residual: got shape \(2, 18, 8, 12\), expected \(4, 18, 8, 12\)",
        ),
        ({"eps": 0.0}, "eps: got 0.0, expected a positive number"),
        ({"group": "world"}, "group: got str, expected a process group"),
    ],
    ids=str,
)
def test_refuses_what_does_not_fit_by_name(change: dict[str, Any], message: str) -> None:
    arguments = rounded(BLOCKS["basic block"], torch.float32).arguments | change
    with pytest.raises((TypeError, ValueError), match=message):
        norm_relu(**arguments)


def test_refuses_a_projection_of_another_size_than_the_output() -> None:
    arguments = rounded(BLOCKS["strided block"], torch.float32).arguments | {"strides": [1, 3, 1]}
    with pytest.raises(ValueError, match=r"strides: got a projection to \(8, 12\) pixels, expected \(3, 4\)"):
        norm_relu(**arguments)


@pytest.mark.parametrize("batches", [1, 2])
def test_refuses_to_take_a_variance_of_one_pixel(batches: int) -> None:
    maps = maps_of(18, batch=1, size=(2, 2)) * batches
    arguments = rounded(block(maps, [(18, 3)], strides=[2], batches=batches), torch.float32).arguments
    with pytest.raises(ValueError, match="maps: got a single pixel behind a layer, expected at least two"):
        norm_relu(**arguments)


class Unread(torch.autograd.Function):
    """A sum whose gradient is said to be none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        return None


@pytest.mark.parametrize("backend", ["reference", "aten"])
def test_where_nothing_flows_back_nothing_goes_on(backend: str) -> None:
    arguments = rounded(BLOCKS["basic block"], torch.float32).arguments
    with use_backend(backend):
        Unread.apply(norm_relu(**arguments).output).backward()
    assert arguments["weights"][0].grad is None
    assert arguments["maps"][0].grad is None


def for_processes(dtype: torch.dtype, batches: int) -> tuple[Sample, list[Tensor]]:
    maps = [x * (1 + i) for i in range(batches) for x in maps_of(10, 8, batch=3)]
    sample = rounded(block(maps, [(20, 3), (20, 3), (20, 1)], projection=True, batches=batches), dtype)
    return sample, cotangents(OPERATOR, sample, Generator().manual_seed(1))


def of_process(rank: int, backend: str, dtype: torch.dtype, batches: int) -> dict[str, Tensor]:
    return two_processes.of_process(rank, norm_relu, *for_processes(dtype, batches), backend)


@pytest.mark.skipif(torch.cuda.is_available(), reason="gloo gathers tensors of a CPU")
@pytest.mark.parametrize("backend", FUSED)
@pytest.mark.parametrize("batches", [1, 2])
def test_two_processes_with_other_numbers_of_images_are_as_one(tmp_path: Path, batches: int, backend: str) -> None:
    sample, gradients = for_processes(torch.float32, batches)
    parts = in_two_processes(tmp_path, of_process, backend, torch.float32, batches)
    results = two_processes.together(parts, batches)
    for verdict in judge(OPERATOR, sample, gradients, results):
        assert verdict.ok, str(verdict)
