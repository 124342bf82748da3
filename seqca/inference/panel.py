"""One picture of everything the network says about one image."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from seqca.labels import LabelKind
from seqca.tasks import Task, get_task

TILE = 3.4  # inches, the longer side of a tile
GAP = 0.08
TITLE = 0.28
SCALE = 0.45
LEGEND_ROW = 0.18
LEGEND_COLUMNS = 3
LEGEND_ROWS = 5
DPI = 120


def draw_panel(
    image: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray] | None = None,
    class_names: Mapping[str, Sequence[str]] | None = None,
) -> Figure:
    """The image and, side by side, every prediction in its colours; classes with a legend, lengths with a scale.

    Args:
        image: (H, W, 3) uint8.
        predictions: {task: decoded prediction without batch dimension}, (H, W) or (C, H, W).
        labels: likewise; they make a second row.
        class_names: {task: name of each class}.
    """
    rows = [dict(predictions)] if labels is None else [dict(predictions), {task: labels[task] for task in predictions}]
    height, width = image.shape[:2]
    tile_height, tile_width = TILE * height / max(height, width), TILE * width / max(height, width)
    present = {
        name: present_classes([row[name] for row in rows])
        for name in predictions
        if get_task(name).kind is LabelKind.CLASS
    }
    foot = max([SCALE, *(LEGEND_ROW * (0.5 + math.ceil(len(shown) / LEGEND_COLUMNS)) for shown in present.values())])
    columns = 1 + len(predictions)
    size = (columns * (tile_width + GAP) + GAP, len(rows) * (tile_height + TITLE) + foot)
    figure = Figure(size, dpi=DPI)
    FigureCanvasAgg(figure)

    def axes(column: int, bottom: float, tall: float, inset: float = 0.0) -> Axes:
        left = GAP + column * (tile_width + GAP) + inset
        box = (left / size[0], bottom / size[1], (tile_width - 2 * inset) / size[0], tall / size[1])
        return figure.add_axes(box)

    def tile(row: int, column: int, picture: np.ndarray, title: str) -> None:
        drawn = axes(column, size[1] - (row + 1) * (tile_height + TITLE), tile_height)
        drawn.imshow(picture, interpolation="nearest" if width < DPI * tile_width else "antialiased")
        drawn.set_axis_off()
        drawn.set_title(title, fontsize=9, pad=3)

    tile(0, 0, image, "image")
    for column, name in enumerate(predictions, 1):
        task = get_task(name)
        maps = [row[name] for row in rows]
        options = length_range(maps) if task.kind is LabelKind.DISTANCE else {}
        for row, (values, suffix) in enumerate(zip(maps, ("", " (label)"), strict=False)):
            tile(row, column, task.colour(values, **options), name + suffix)
        if name in present:
            draw_legend(axes(column, 0, foot), task, present[name], (class_names or {}).get(name))
        elif options:
            draw_scale(axes(column, foot - 0.2, 0.1, inset=tile_width / 12), task, **options)
    return figure


def length_range(maps: Sequence[np.ndarray]) -> dict[str, float]:
    """The ends of a scale over all given maps in metres, without their ignored pixels."""
    valid = np.concatenate([values[np.isfinite(values) & (values != 255)] for values in maps])
    return {"low": float(valid.min()), "high": float(valid.max())} if valid.size else {"low": 0.0, "high": 1.0}


def draw_scale(axes: Axes, task: Task, low: float, high: float) -> None:
    ramp = np.linspace(low, high, 256, dtype=np.float32)[None, None]
    axes.imshow(task.colour(ramp, low=low, high=high), aspect="auto", extent=(low, high, 0, 1))
    axes.set_yticks([])
    axes.tick_params(labelsize=7, length=2, pad=1)
    axes.set_xlabel("metres", fontsize=7, labelpad=1)


def present_classes(maps: Sequence[np.ndarray]) -> list[int]:
    """The classes that occur, the largest ones first, as many as a legend holds."""
    classes, areas = np.unique(np.concatenate([values.ravel() for values in maps]), return_counts=True)
    present = [int(k) for k in classes[np.argsort(-areas, kind="stable")] if k != 255]
    return present[: LEGEND_ROWS * LEGEND_COLUMNS]


def draw_legend(axes: Axes, task: Task, shown: Sequence[int], names: Sequence[str] | None) -> None:
    patches = [
        Patch(
            color=task.colour(np.array([[k]], np.uint8))[0, 0] / 255.0,
            label=names[k] if names is not None and k < len(names) else f"class {k}",
        )
        for k in shown
    ]
    axes.set_axis_off()
    axes.legend(
        handles=patches, ncols=LEGEND_COLUMNS, loc="upper center", fontsize=7, frameon=False, borderaxespad=0.3,
        handlelength=1, handleheight=1, columnspacing=1, labelspacing=0.3,
    )  # fmt: skip


def to_array(figure: Figure) -> np.ndarray:
    """The drawn figure as (H, W, 3) uint8."""
    canvas: Any = figure.canvas
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save_panel(figure: Figure, path: Path) -> None:
    """Write a PNG; the file appears only when it is complete."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        figure.savefig(temporary, format="png")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
