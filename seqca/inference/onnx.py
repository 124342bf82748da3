"""A network as an ONNX graph for images of any size."""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

OPSET = 17
"""The first with layer norm."""

EXAMPLE = (2, 3, 64, 96)
"""What is traced: sides that differ, so that no size is taken for another, and a batch that is not 1."""


class Predictions(nn.Module):
    """The predictions of a module that returns {task: map} as a tuple, as ONNX knows no dicts."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.module(images).values())


def write_onnx(module: nn.Module, tasks: list[str], file: Path) -> None:
    """Write a module in evaluation mode, images (B, 3, H, W) → {task: (B, channels, H/4, W/4)}, as ONNX.

    Torch's exporter by tracing writes it: of the sizes only how they follow from those of the images gets into the
    graph. The other one, by `torch.export`, proves the arithmetic of sizes instead, which takes very long for windows
    that do not divide a map.

    Raises:
        ModuleNotFoundError: the package onnx is not there.
    """
    import onnx  # noqa: F401  what is raised where it is missing names it, before anything is traced

    axes = {name: {0: "batch", 2: f"height{scale}", 3: f"width{scale}"} for name, scale in outputs_and_input(tasks)}
    torch.onnx.register_custom_op_symbolic("aten::mT", matrix_transpose, OPSET)
    try:
        with warnings.catch_warnings():
            # Every check of a shape is traced as passed, which is meant, and the exporter is to be superseded.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                Predictions(module).eval(),
                (torch.zeros(EXAMPLE),),
                file,
                dynamo=False,
                opset_version=OPSET,
                input_names=["images"],
                output_names=tasks,
                dynamic_axes=axes,
            )
    finally:
        torch.onnx.unregister_custom_op_symbolic("aten::mT", OPSET)


def outputs_and_input(tasks: list[str]) -> list[tuple[str, str]]:
    """Names in the graph, and what their sides are in those of the images."""
    return [("images", ""), *((task, "/4") for task in tasks)]


def matrix_transpose(graph, x):  # type: ignore[no-untyped-def]  # of types that torch keeps private
    """`Tensor.mT`, which the exporter does not know."""
    *leading, rows, columns = range(x.type().dim())
    return graph.op("Transpose", x, perm_i=[*leading, columns, rows])
