"""What does not fit is refused by a block, in words that name it."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seqca.nn import (
    BasicBlock,
    CrossAttention,
    CrossScaleAttention,
    CrossTaskAttention,
    FeatureAggregation,
    FeaturePropagation,
    SqueezeExcitation,
    WindowSelfAttention,
    aggregate,
)

TASKS = ("semseg", "depth")
SCALES = (8, 16, 32)


def maps(*channels: int, batch: int = 2) -> list[Tensor]:
    """A map of 8 × 8 pixels at the finest scale, and so on."""
    return [torch.zeros(batch, c, 8 >> k, 8 >> k) for k, c in enumerate(channels)]


def gathered() -> list[list[Tensor]]:
    """As from a cross-scale attention."""
    first, second, _ = maps(*SCALES)
    return [[first, first], [second]]


MAP = torch.zeros(2, 16, 8, 8)
WRONG_FORWARD: list[tuple[Callable[[], Any], tuple[Any, ...], type[Exception], str]] = [
    (lambda: BasicBlock(16, 8), (MAP[:, :15],), ValueError, r"x: got shape \(2, 15, 8, 8\), expected \(B, 16, H, W\)"),
    (lambda: SqueezeExcitation(16), (MAP[0],), ValueError, r"x: got shape \(16, 8, 8\), expected \(B, 16, H, W\)"),
    (lambda: WindowSelfAttention(16, 1, 4), (MAP[..., :0],), ValueError, r"x: got shape .*, not empty"),
    (lambda: WindowSelfAttention(16, 1, 4), (MAP.long(),), TypeError, "x: got torch.int64, expected a floating-point"),
    (lambda: CrossAttention(16), ([], MAP), TypeError, "target: got list, expected a floating-point tensor"),
    (lambda: CrossAttention(16), (MAP, MAP[:, :4]), ValueError, r"source: got shape \(2, 4, 8, 8\)"),
    (lambda: CrossAttention(16), (MAP, MAP[:1]), ValueError, "source: got 1 images, expected 2"),
    (lambda: CrossTaskAttention(TASKS, 16), ([MAP, MAP],), TypeError, "features: got list, expected {task: map}"),
    (lambda: CrossTaskAttention(TASKS, 16), ({"depth": MAP},), ValueError, r"features: got the tasks \['depth'\]"),
    (lambda: CrossTaskAttention(TASKS[:1], 16), ({"depth": MAP},), ValueError, r"expected \['semseg'\]"),
    (
        lambda: CrossTaskAttention(TASKS, 16),
        ({"semseg": MAP, "depth": MAP, "edge": MAP},),
        ValueError,
        r"features: got the tasks \['depth', 'edge', 'semseg'\]",
    ),
    (
        lambda: CrossTaskAttention(TASKS, 16),
        ({"semseg": MAP, "depth": MAP[..., :4]},),
        ValueError,
        r"features\['depth'\]: got shape \(2, 16, 8, 4\), expected \(2, 16, 8, 8\) as of 'semseg'",
    ),
    (
        lambda: FeaturePropagation(TASKS, 16),
        ({"semseg": MAP, "depth": MAP[:, :4]},),
        ValueError,
        r"features\['depth'\]: got shape \(2, 4, 8, 8\), expected \(B, 16, H, W\)",
    ),
    (lambda: CrossScaleAttention(SCALES), (maps(8, 16),), ValueError, "features: got 2 maps, expected 3"),
    (lambda: CrossScaleAttention(SCALES), (maps(8, 16, 16),), ValueError, r"features\[2\]: got shape \(2, 16, 2, 2\)"),
    (
        lambda: CrossScaleAttention(SCALES),
        ([*maps(8, 16), torch.zeros(3, 32, 2, 2)],),
        ValueError,
        r"features\[2\]: got 3 images, expected 2",
    ),
    (
        lambda: FeatureAggregation(SCALES, 5),
        (maps(*SCALES), gathered()[:1]),
        ValueError,
        r"attended: got \[2\] maps by scale, expected \[2, 1\]",
    ),
    (
        lambda: FeatureAggregation(SCALES, 5),
        (maps(*SCALES), [[*maps(8, 16)], maps(16)]),
        ValueError,
        r"attended\[0\]\[1\]: got shape \(2, 16, 4, 4\), expected \(B, 8, H, W\)",
    ),
]


@pytest.mark.parametrize(("block", "arguments", "error", "message"), WRONG_FORWARD)
def test_maps_that_do_not_fit_are_named(
    block: Callable[[], Any], arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        block()(*arguments)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (lambda: CrossTaskAttention((), 16), r"tasks: got \(\), expected a list of at least one name"),
        (lambda: FeaturePropagation(("edge", "edge"), 16), r"tasks: got \('edge', 'edge'\), expected .* none twice"),
        (lambda: CrossTaskAttention("ab", 16), r"tasks: got 'ab', expected a list"),
        (lambda: CrossAttention(0), "channels: got 0, expected a positive integer"),
        (lambda: CrossScaleAttention((8, "16")), r"channels_per_scale\[1\]: got '16', expected a positive integer"),
        (lambda: FeatureAggregation((), 5), "channels_per_scale: got no scale, expected at least one"),
        (lambda: FeatureAggregation(SCALES, True), "out_channels: got True, expected a positive integer"),
        (lambda: SqueezeExcitation(32, 0), "reduction: got 0, expected a positive integer"),
        (lambda: WindowSelfAttention(36, 2, 6, window=0), "window: got 0, expected a positive integer"),
        (lambda: FeaturePropagation(TASKS, 37), r"channels: got 37 for 2 tasks, expected a multiple of 4 in all"),
        (lambda: FeaturePropagation(TASKS, 8), r"channels: got 8, expected at least 16"),
        (lambda: WindowSelfAttention(16, 1, 6), r"channels: got 16, expected a multiple of heads \(6\)"),
        (lambda: WindowSelfAttention(16, 2, 4, drop_path=2), r"drop_path: got 2, expected a number in \[0, 1\]"),
        (
            lambda: WindowSelfAttention(16, 2, 4, drop_path=math.nan),
            r"drop_path: got nan, expected a number in \[0, 1\]",
        ),
        (lambda: BasicBlock(8, 8, momentum=-0.1), r"momentum: got -0.1, expected a number in \[0, 1\]"),
        (
            lambda: FeaturePropagation(("train",), 16),
            r"tasks\[0\]: got 'train', expected a name that .* not use itself",
        ),
        (lambda: CrossTaskAttention(("depth", "keys"), 16), r"tasks\[1\]: got 'keys', expected a name that"),
    ],
)
def test_a_block_that_cannot_be_is_refused(block: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        block()


@pytest.mark.parametrize("momentum", ["0.1", None, True])
def test_a_momentum_that_is_no_number_is_refused(momentum: Any) -> None:
    with pytest.raises(TypeError, match=r"momentum: got .*, expected a number"):
        BasicBlock(8, 8, momentum=momentum)


@pytest.mark.parametrize("which", ["conv", "prediction"])
@pytest.mark.parametrize("settings", [{"kernel_size": 3, "padding": "same"}, {"groups": 2}], ids=["3×3", "groups"])
def test_a_head_of_other_convolutions_is_refused(which: str, settings: dict[str, Any]) -> None:
    layers = {"conv": nn.Conv2d(24, 24, 1), "bn": nn.BatchNorm2d(24), "prediction": nn.Conv2d(24, 3, 1)}
    layers[which] = nn.Conv2d(24, 24, **{"kernel_size": 1, **settings})
    with pytest.raises(ValueError, match=f"{which}: got a .×. convolution of . groups, expected 1×1 of one"):
        aggregate(maps(8, 16), **layers)


@pytest.mark.parametrize("which", ["conv", "prediction"])
@pytest.mark.parametrize("settings", [{"stride": 2}, {"padding": 1}], ids=["stride", "padding"])
def test_a_head_of_convolutions_that_move_pixels_is_refused(which: str, settings: dict[str, int]) -> None:
    layers = {"conv": nn.Conv2d(24, 24, 1), "bn": nn.BatchNorm2d(24), "prediction": nn.Conv2d(24, 3, 1)}
    layers[which] = nn.Conv2d(24, 24, 1, **settings)
    with pytest.raises(ValueError, match=f"{which}: got stride .*, expected neither"):
        aggregate(maps(8, 16), **layers)


@pytest.mark.parametrize("which", ["conv", "bn", "prediction"])
def test_a_head_of_other_layers_is_refused(which: str) -> None:
    layers = {"conv": nn.Conv2d(24, 24, 1), "bn": nn.BatchNorm2d(24), "prediction": nn.Conv2d(24, 3, 1)}
    with pytest.raises(TypeError, match=f"{which}: got ReLU, expected a "):
        aggregate(maps(8, 16), **layers | {which: nn.ReLU()})


def test_a_head_whose_norm_has_no_scale_is_refused() -> None:
    layers = {"conv": nn.Conv2d(24, 24, 1), "bn": nn.BatchNorm2d(24, affine=False), "prediction": nn.Conv2d(24, 3, 1)}
    with pytest.raises(ValueError, match="bn: got affine=False, expected a batch norm with scale and shift"):
        aggregate(maps(8, 16), **layers)


def test_maps_that_fit_pass() -> None:
    features = maps(*SCALES)
    aggregated = FeatureAggregation(SCALES, 5)(features, CrossScaleAttention(SCALES)(features))
    assert aggregated.shape == (2, 5, 8, 8)
