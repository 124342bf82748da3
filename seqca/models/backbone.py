"""Backbones from timm, as this network uses them."""

from pathlib import Path
from typing import Any

import timm
from timm.models import load_state_dict as read_state_dict
from torch import Tensor, nn

from seqca.configuration import NETWORK

from .checkpoint import CheckpointError, read_checkpoint


def create_backbone(name: str, pretrained: bool | str | Path = False) -> nn.Module:
    """A timm model that returns four maps at strides 4, 8, 16, 32; `feature_info.channels()` has their channels.

    HRNets are built in the variant for dense prediction: branches are fused with bilinear instead of nearest
    upsampling, and every batch norm has momentum 0.01.

    Args:
        name: of a timm model.
        pretrained: True downloads timm's ImageNet weights; a path reads them from a file (.pth, .bin, .safetensors).

    Raises:
        ValueError: timm has no model of that name, the model has no maps at these strides, or the file does not hold
            its weights.
        RuntimeError: the weights could not be downloaded.
    """
    # timm takes addresses and folders too ("hf-hub:", "local-dir:"), and names may come out of anybody's checkpoint.
    if not isinstance(name, str) or ":" in name or "/" in name or not timm.is_model(name):
        raise ValueError(f"backbone: got {name!r}, expected a name in timm.list_models()")
    options: dict[str, Any] = {"features_only": True, "out_indices": (1, 2, 3, 4)}
    if name.startswith("hrnet"):
        options["feature_location"] = ""
    try:
        backbone = timm.create_model(name, pretrained=pretrained is True, **options)
    except Exception as error:
        if pretrained is not True:
            raise
        raise RuntimeError(
            f"the pretrained weights of {name} could not be downloaded ({error}); download them where there is a "
            f"network and give the file: pretrained='/path/to/{name}.safetensors'"
        ) from error
    strides = tuple(backbone.feature_info.reduction())
    if strides != NETWORK.strides:
        raise ValueError(f"backbone: got {name!r} with maps at strides {strides}, expected {NETWORK.strides}")
    if not isinstance(pretrained, bool):
        load_backbone_weights(backbone, name, Path(pretrained))
    if name.startswith("hrnet"):
        for module in backbone.modules():
            if isinstance(module, nn.Upsample):
                module.mode, module.align_corners = "bilinear", False
            elif isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.01
    return backbone


def load_backbone_weights(backbone: nn.Module, name: str, path: Path) -> None:
    """Fill `backbone` from a file of timm's weights, whose classification layers are left aside."""
    if not path.is_file():
        raise ValueError(
            f"pretrained: got {str(path)!r}, where there is no file, expected True, False or a file of {name}'s weights"
        )
    missing = backbone.load_state_dict(read_weights(path), strict=False).missing_keys
    if missing:
        raise ValueError(
            f"pretrained: got {path} without {len(missing)} keys, {', '.join(missing[:5])} …, expected all of {name}"
        )


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights in a file of timm's, tensors and plain data alone."""
    if not path.name.endswith(".safetensors"):  # in timm's eyes; such a file holds nothing but tensors
        read_checkpoint(path, mmap=True)  # what it refuses is told without torch's advice
    try:
        return read_state_dict(str(path), device="cpu", weights_only=True)
    except Exception as error:  # of the library that reads the format, whose kinds of errors are its own
        raise CheckpointError(
            f"pretrained: got {path}, which is damaged or of another format, expected weights of timm: {error}"
        ) from None
