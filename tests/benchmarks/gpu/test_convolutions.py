"""Convolutions by memory format: which shapes, and which formats of each."""

import torch

from benchmarks.gpu.convolutions import measured, network_shapes


def test_shapes_are_those_of_the_backbone_of_the_tasks_and_of_the_reduction() -> None:
    shapes = network_shapes()
    assert {(18, (120, 160), 8), (36, (120, 160), 32), (288, (15, 20), 8), (144, (120, 160), 32)} <= set(shapes)
    assert len(shapes) == len(set(shapes)) == 18


def test_channels_are_padded_where_they_are_no_multiple_of_eight() -> None:
    sizes = {"channels", "height", "width", "images"}
    assert measured(8, (2, 2), 1, "cpu").keys() - sizes == {"contiguous", "channels-last"}
    assert measured(6, (2, 2), 1, "cpu").keys() - sizes == {"contiguous", "channels-last", "channels-last, padded"}


def test_the_formats_are_those_that_are_named(monkeypatch) -> None:
    seen = []
    monkeypatch.setattr("benchmarks.gpu.convolutions.timed", lambda *arguments: seen.append(arguments[1:4]) or 0.0)
    measured(6, (2, 2), 1, "cpu")
    assert [(channels, layout) for channels, _, layout in seen] == [
        (6, torch.contiguous_format), (6, torch.channels_last), (8, torch.channels_last)
    ]  # fmt: skip
