"""From stored arrays to samples, as a protocol says; random augmentation is in `seqca.data.augmentation`."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from seqca.labels import IGNORE, LabelKind
from seqca.protocols import Preparation, get_protocol

from .normalise import normalise


def prepare(sample: Mapping[str, Any], protocol: str, preparation: Preparation) -> dict[str, Any]:
    """A sample of the size that the protocol wants, its image normalised.

    Under `mtinet` everything is resized: the image by cubic interpolation and clipped to its 256 levels (the published
    code lets overshoot wrap around), vectors likewise and brought back to unit length, even where the size is theirs,
    other labels to the nearest pixel. Under `invpt` what is smaller than the size is padded around its centre with the
    mean colour and ignored labels.

    Args:
        sample: "image" uint8 (3, H, W), labels by task, pixels without a label marked 255; "name".
        protocol: name of the protocol.
        preparation: of the data set.

    Raises:
        ValueError: `invpt`, and the image is larger than the size.
    """
    rules = get_protocol(protocol)
    size = tuple(sample["image"].shape[-2:])
    if not rules.resizes and (size[0] > preparation.size[0] or size[1] > preparation.size[1]):
        raise ValueError(
            f"size: got {preparation.size}, expected at least {size} as of {sample.get('name', 'a sample')}, "
            f"which protocol {protocol} does not resize"
        )
    prepared = dict(sample)
    for key, value in sample.items():
        if not isinstance(value, Tensor):
            continue
        kind = None if key == "image" else rules.task(key).kind
        if rules.resizes:
            value = resize(value, preparation.size, kind)
            if kind is LabelKind.VECTOR:
                value = unit_length(value)
        if key == "image":
            value = normalise(value)
        if not rules.resizes:
            value = pad(value, preparation.size, 0 if key == "image" else IGNORE)
        prepared[key] = value
    if "human_parts" in prepared:
        prepared["human_parts"] = ignore_without_people(prepared["human_parts"])
    return prepared


def resize(value: Tensor, size: tuple[int, int], kind: LabelKind | None) -> Tensor:
    """An image (kind None) or a label (…, H, W) at another size; the same tensor where it has it already."""
    if value.shape[-2:] == size:
        return value
    maps = value[None] if value.ndim == 3 else value[None, None]
    if kind is None:
        resized = F.interpolate(maps.float(), size, mode="bicubic", align_corners=False)
        resized = resized.round().clamp(0, 255).to(value.dtype)
    elif kind is LabelKind.VECTOR:
        resized = resize_vectors(maps, size)
    else:
        resized = F.interpolate(maps.float(), size, mode="nearest").to(value.dtype)
    return resized[0] if value.ndim == 3 else resized[0, 0]


def resize_vectors(vectors: Tensor, size: tuple[int, int]) -> Tensor:
    """Unit vectors (B, C, H, W), interpolated over those there are; none where the nearest pixel has none.

    The published code interpolates across the borders of regions without a label as well, which yields unit vectors
    of arbitrary direction there.
    """
    valid = (vectors != IGNORE).all(1, keepdim=True)
    kept = F.interpolate(valid.float(), size, mode="nearest") > 0
    interpolated = F.interpolate(torch.where(valid, vectors, 0), size, mode="bicubic", align_corners=False)
    nearest = F.interpolate(vectors, size, mode="nearest")
    weight = F.interpolate(valid.float(), size, mode="bicubic", align_corners=False)
    inside = (weight - 1).abs() < 1e-6  # every pixel that contributes has a vector
    return unit_length(torch.where(kept, torch.where(inside, interpolated, nearest), IGNORE))


def unit_length(vectors: Tensor) -> Tensor:
    """Vectors (…, C, H, W) of length 1; those that are ignored stay so."""
    return torch.where((vectors == IGNORE).all(-3, keepdim=True), IGNORE, F.normalize(vectors, dim=-3))


def pad(value: Tensor, size: tuple[int, int], fill: float) -> Tensor:
    """Pads (…, H, W) around its centre up to `size`; the odd row or column goes to the end."""
    missing = [max(wanted - side, 0) for wanted, side in zip(size, value.shape[-2:], strict=True)]
    top, left = missing[0] // 2, missing[1] // 2
    return F.pad(value, (left, missing[1] - left, top, missing[0] - top), value=fill)


def ignore_without_people(parts: Tensor) -> Tensor:
    """Human parts (H, W), 255 everywhere where nothing but background is left."""
    shows_person = ((parts != 0) & (parts != IGNORE)).any()
    return parts if shows_person else torch.full_like(parts, int(IGNORE))
