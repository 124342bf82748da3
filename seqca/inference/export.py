"""`seqca export`: a network as one file that runs without this package."""

import argparse
import io
import os
import re
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from seqca.configuration import IMAGE, NETWORK
from seqca.files import flush_to_disk, name_new, remove_leftovers, temporary_file
from seqca.models.checkpoint import CheckpointError
from seqca.ops import use_backend

from .onnx import write_onnx
from .restore import load_network

DONE, NOTHING_DONE = 0, 4
PT2, ONNX = ".pt2", ".onnx"
STRIDE = NETWORK.strides[-1]
SIZE, BATCH = IMAGE, 1
SMALLEST_SIDE = 256
"""Of the images of a program for any size: with fewer pixels the coarsest map has a single window along a side, which
torch traces as another program."""


class FinalPredictions(nn.Module):
    """The raw final predictions of a network alone, {task: (B, channels, H/4, W/4)}."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, H, W), normalised by the mean and deviation of ImageNet."""
        final: dict[str, Tensor] = self.network(images).final
        return final


def exported(network: nn.Module, batch: int, height: int, width: int) -> ExportedProgram:
    """A network in evaluation mode as a graph of torch's own operators, for images (batch, 3, height, width).

    Computed by the backend `reference`, so that nothing of this package is needed to run it.

    Raises:
        ValueError: a batch that is empty, or sides that are no multiples of 32.
    """
    if batch < 1:
        raise ValueError(f"batch: got {batch}, expected a positive integer")
    for name, side in (("height", height), ("width", width)):
        if side < 1 or side % STRIDE:
            raise ValueError(f"{name}: got {side}, expected a positive multiple of {STRIDE}")
    return traced(network, torch.zeros(batch, 3, height, width))


def exported_for_any_size(network: nn.Module) -> ExportedProgram:
    """The same for any number of images, with sides that are multiples of 32 from `SMALLEST_SIDE` on.

    It is to be loaded with `.module(check_guards=False)`: torch notes of its example alone that maps are padded, and
    would refuse images of which one is not, whose sides are multiples of 224.
    """
    rows, columns = (Dim(name, min=SMALLEST_SIDE // STRIDE) for name in ("rows", "columns"))
    example = torch.zeros(2, 3, SMALLEST_SIDE + STRIDE, SMALLEST_SIDE + 2 * STRIDE)  # of which nothing is equal
    return traced(network, example, {0: Dim("batch", min=1), 2: STRIDE * rows, 3: STRIDE * columns})


def traced(network: nn.Module, images: Tensor, sizes: dict[int, Any] | None = None) -> ExportedProgram:
    with use_backend("reference"), torch.no_grad():
        dynamic = None if sizes is None else (sizes,)
        return torch.export.export(FinalPredictions(network).eval(), (images,), dynamic_shapes=dynamic)


def write_program(program: ExportedProgram, file: BinaryIO) -> None:
    content = io.BytesIO()  # torch would end the whole process where a disk is full
    torch.export.save(program, content)
    file.write(content.getbuffer())


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    kind = options.out.suffix
    if kind not in (PT2, ONNX):
        parser.error(f"--out: got {options.out}, expected a name that ends in {PT2} or {ONNX}")
    if os.path.lexists(options.out):
        parser.error(f"--out: got {options.out}, which exists, expected a new file")
    for name in ("size", "batch"):
        if getattr(options, name) is not None and (kind == ONNX or options.any_size):
            parser.error(f"--{name}: got a value for a file that takes any, expected none")
    if kind == ONNX and not find_spec("onnx"):
        parser.error(f"--out: got {options.out}, but onnx is not installed, expected pip install 'seqca[export]'")
    try:
        remove_leftovers(options.out.parent, re.escape(options.out.name))
        with temporary_file(options.out.parent, options.out.name) as (file, temporary):
            network, _ = load_network(options.ckpt)
            if kind == ONNX:
                with use_backend("reference"), torch.no_grad():
                    write_onnx(FinalPredictions(network), list(network.tasks), temporary)
                images = f"any size, sides multiples of {STRIDE}"
            elif options.any_size:
                write_program(exported_for_any_size(network), file)
                images = f"any size, sides multiples of {STRIDE} from {SMALLEST_SIDE} on"
            else:
                batch, size = BATCH if options.batch is None else options.batch, options.size or SIZE
                write_program(exported(network, batch, *size), file)
                images = f"size {(batch, 3, *size)}"
            flush_to_disk(file)
            name_new(temporary, options.out)
    except CheckpointError as error:
        return nothing_done(f"--ckpt: {error}")
    except ValueError as error:
        parser.error(str(error))
    except OSError as error:
        return nothing_done(f"--out: {error.strerror}: {options.out}")
    print(f"{options.out}: {', '.join(network.tasks)} of images of {images}")
    return DONE


def nothing_done(reason: str) -> int:
    print(f"seqca export: {reason}", file=sys.stderr)
    return NOTHING_DONE


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog="seqca export",
        description="Write the network of a checkpoint as a file that runs without this package: a program of "
        f"torch.export ({PT2}), or ONNX ({ONNX}). It gives the raw predictions of every task at a quarter of the "
        "images' size.",
        epilog=f"exit status: {DONE} done; {NOTHING_DONE} nothing done: --ckpt cannot be read or --out not be written; "
        "2 wrong usage",
    )
    parser.add_argument("--ckpt", type=Path, required=True, help="checkpoint of seqca fit, or of the published format")
    parser.add_argument("--out", type=Path, required=True, help=f"file to write, NAME{PT2} or NAME{ONNX}")
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help=f"of {PT2}: multiples of 32 (480 640)"
    )
    parser.add_argument(
        "--any-size",
        action="store_true",
        help=f"of {PT2}: any number of images, sides from {SMALLEST_SIDE} on, as {ONNX} files always take any",
    )
    parser.add_argument("--batch", type=int, help=f"of {PT2}: images of a call ({BATCH})")
    return parser
