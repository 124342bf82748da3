"""`seqca export`: a network as one file that runs without this package."""

import argparse
import io
import os
import re
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from seqca.configuration import NETWORK
from seqca.files import flush_to_disk, name_new, remove_leftovers, temporary_file
from seqca.models.checkpoint import CheckpointError
from seqca.ops import use_backend

from .onnx import write_onnx
from .restore import load_network

DONE, NOTHING_DONE = 0, 4
PT2, ONNX = ".pt2", ".onnx"
SIZE, BATCH = (480, 640), 1


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
        if side < 1 or side % NETWORK.strides[-1]:
            raise ValueError(f"{name}: got {side}, expected a positive multiple of {NETWORK.strides[-1]}")
    images = torch.zeros(batch, 3, height, width)
    with use_backend("reference"), torch.no_grad():
        return torch.export.export(FinalPredictions(network).eval(), (images,))


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
        if kind == ONNX and getattr(options, name) is not None:
            parser.error(f"--{name}: got a value for an {ONNX} file, which takes any, expected none")
    if kind == ONNX and not find_spec("onnx"):
        parser.error(f"--out: got {options.out}, but onnx is not installed, expected pip install 'seqca[export]'")
    try:
        remove_leftovers(options.out.parent, re.escape(options.out.name))
        with temporary_file(options.out.parent, options.out.name) as (file, temporary):
            network, _ = load_network(options.ckpt)
            if kind == ONNX:
                with use_backend("reference"), torch.no_grad():
                    write_onnx(FinalPredictions(network), list(network.tasks), temporary)
                images = f"any size, sides multiples of {NETWORK.strides[-1]}"
            else:
                batch, size = BATCH if options.batch is None else options.batch, options.size or SIZE
                program = io.BytesIO()  # torch would end the whole process where a disk is full
                torch.export.save(exported(network, batch, *size), program)
                file.write(program.getbuffer())
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
        f"torch.export ({PT2}) for images of one size, or ONNX ({ONNX}) for any. It gives the raw predictions of every "
        "task at a quarter of the images' size.",
        epilog=f"exit status: {DONE} done; {NOTHING_DONE} nothing done: --ckpt cannot be read or --out not be written; "
        "2 wrong usage",
    )
    parser.add_argument("--ckpt", type=Path, required=True, help="checkpoint of seqca fit, or of the published format")
    parser.add_argument("--out", type=Path, required=True, help=f"file to write, NAME{PT2} or NAME{ONNX}")
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help=f"of {PT2}: multiples of 32 (480 640)"
    )
    parser.add_argument("--batch", type=int, help=f"of {PT2}: images of a call ({BATCH})")
    return parser
