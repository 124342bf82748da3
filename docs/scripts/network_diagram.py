"""Draws the network and where its fused operators sit: `python docs/scripts/network_diagram.py` writes the SVG.

Channels, strides and sizes come from the network's configuration, the names of operators from their registration.
"""

from collections.abc import Iterable
from html import escape
from pathlib import Path

import seqca.ops  # noqa: F401, registers the operators
from seqca.configuration import IMAGE, NETWORK
from seqca.ops.shared.operator import OPERATORS

FILE = Path(__file__).parents[1] / "images" / "network.svg"
HEIGHT, WIDTH = IMAGE
"""Of the image whose maps are drawn."""

INK, PALE, FUSED, LINE = "#1f2933", "#eef2f6", "#fde3cf", "#7b8794"
ROW, TOP, BOX_WIDTH, BOX_HEIGHT = 92, 118, 124, 52
LEFT, STEP = 96, 170
COLUMNS = ("backbone", "self-attention", "task features", "cross-task attention", "cross-scale attention")
HEADING_OF_HEAD = "feature aggregation"
PARTS = {
    "self-attention": ("window_attention",),
    "cross-task attention": ("cross_attention", "linear_attention", "softplus"),
    "cross-scale attention": ("cross_attention", "linear_attention", "softplus"),
    HEADING_OF_HEAD: ("aggregation_head", "scale_aggregation"),
    "losses": ("upsampled_loss",),
}
"""The operators that compute a part, where they are registered; the first that covers the others stands alone."""
COVERS = {"cross_attention": ("linear_attention", "softplus"), "aggregation_head": ("scale_aggregation",)}


def operators_of(part: str) -> list[str]:
    """The registered operators that a part computes through."""
    present = [name for name in PARTS.get(part, ()) if name in OPERATORS]
    covered = {name for other in present for name in COVERS.get(other, ())}
    return [name for name in present if name not in covered]


def text(x: float, y: float, content: str, size: int = 13, weight: str = "normal", anchor: str = "middle") -> str:
    """A line of text."""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" fill="{INK}">'
        f"{escape(content)}</text>"
    )


def box(x: float, y: float, lines: Iterable[str], fused: bool, height: float = BOX_HEIGHT) -> str:
    """A part of the network at one scale, or at all of them."""
    lines = list(lines)
    fill = FUSED if fused else PALE
    shape = f'<rect x="{x:g}" y="{y:g}" width="{BOX_WIDTH}" height="{height:g}" rx="6" fill="{fill}" stroke="{LINE}"/>'
    first = y + height / 2 - 8 * (len(lines) - 1) + 4
    return shape + "".join(text(x + BOX_WIDTH / 2, first + 16 * i, line) for i, line in enumerate(lines))


def arrow(x0: float, y0: float, x1: float, y1: float) -> str:
    """From one part to the next."""
    return f'<path d="M{x0:g} {y0:g} L{x1:g} {y1:g}" stroke="{LINE}" fill="none" marker-end="url(#head)"/>'


def heading(column: int, name: str) -> str:
    """The name of a column, and under it the fused operators that compute it."""
    x = LEFT + column * STEP + BOX_WIDTH / 2
    lines = [text(x, 66, name, weight="bold")]
    lines += [text(x, 84 + 15 * i, operator, size=11) for i, operator in enumerate(operators_of(name))]
    return "".join(lines)


def draw() -> str:
    """The whole picture as SVG."""
    scales = range(len(NETWORK.strides))
    bottom = TOP + ROW * len(scales)
    head = len(COLUMNS)
    width, height = LEFT + STEP * (head + 1) + 16, bottom + 92
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="Helvetica, Arial, sans-serif">',
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 L8 4 L0 8 z" fill="{LINE}"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        text(16, 30, f"One image of {HEIGHT}×{WIDTH} in, a prediction for every task out", 16, "bold", "start"),
        *(heading(column, name) for column, name in enumerate((*COLUMNS, HEADING_OF_HEAD))),
    ]
    for k, (stride, own, both) in enumerate(
        zip(NETWORK.strides, NETWORK.backbone_channels, NETWORK.channels, strict=True)
    ):
        y = TOP + ROW * k
        middle = y + BOX_HEIGHT / 2
        size = f"{HEIGHT // stride}×{WIDTH // stride}"
        parts += [
            text(16, middle - 4, f"stride {stride}", 12, "bold", "start"),
            text(16, middle + 12, size, 11, anchor="start"),
        ]
        cells = [[f"{own} channels"], [f"{both} channels"], ["per task"], ["every ordered", "pair of tasks"]]
        if k < len(scales) - 1:
            cells.append(["from every", "coarser scale"])
        for column, lines in enumerate(cells):
            x = LEFT + column * STEP
            parts.append(box(x, y, lines, bool(operators_of(COLUMNS[column]))))
            end = x + STEP if column + 1 < len(COLUMNS) and (k < len(scales) - 1 or column < 3) else LEFT + head * STEP
            parts.append(arrow(x + BOX_WIDTH, middle, end, middle))
        if k > 0:  # feature propagation, to the next finer scale
            x, above = LEFT + 3 * STEP + 24, TOP + ROW * (k - 1) + BOX_HEIGHT
            parts.append(arrow(x, y, LEFT + 2 * STEP + BOX_WIDTH - 24, above))
            parts.append(text(x - 6, y - 14, "propagation", 11, anchor="start") if k == len(scales) - 1 else "")
            parts.append(
                arrow(LEFT + 3 * STEP + BOX_WIDTH - 8, y, LEFT + 4 * STEP + 8, above) if k < len(scales) else ""
            )
    total = 2 * sum(c * (len(scales) - 1 - k) for k, c in enumerate(NETWORK.channels)) + NETWORK.channels[-1]
    lines = ["per task:", f"{total} → {total}", "→ prediction", f"at stride {NETWORK.strides[0]}"]
    x = LEFT + head * STEP
    parts.append(box(x, TOP, lines, bool(operators_of(HEADING_OF_HEAD)), bottom - TOP - (ROW - BOX_HEIGHT)))
    losses = ", ".join(operators_of("losses"))
    y, wide, fill = bottom + 8, STEP * head + BOX_WIDTH, FUSED if losses else PALE
    parts += [
        f'<rect x="{LEFT}" y="{y}" width="{wide}" height="40" rx="6" fill="{fill}" stroke="{LINE}"/>',
        text(
            LEFT + wide / 2,
            y + 25,
            f"losses of the final and of four deep predictions per task, upsampled to the image: {losses}",
        ),
        arrow(LEFT + 2 * STEP + BOX_WIDTH / 2, bottom - (ROW - BOX_HEIGHT), LEFT + 2 * STEP + BOX_WIDTH / 2, y),
        arrow(x + BOX_WIDTH / 2, bottom - (ROW - BOX_HEIGHT), x + BOX_WIDTH / 2, y),
        f'<rect x="{LEFT}" y="{height - 30}" width="18" height="14" rx="3" fill="{FUSED}" stroke="{LINE}"/>',
        text(LEFT + 26, height - 19, "computed by a fused operator of seqca.ops", 12, anchor="start"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    FILE.write_text(draw(), encoding="utf-8")
    print(FILE)
