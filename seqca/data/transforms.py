"""Augmentation of an image together with its labels, by the transforms of torchvision (`torchvision.transforms.v2`).

The image becomes a `tv_tensors.Image` and every label a `tv_tensors.Mask`, so that a geometric transform moves them
alike and a photometric one leaves the labels alone. The kind of a task's label (`seqca.labels.LabelKind`) says which
Mask: those whose values depend on the geometry are a subclass with kernels of its own, as mirroring negates the first
component of a vector and magnification brings what is far nearer.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from seqca.labels import IGNORE, LabelKind
from seqca.tasks import available_tasks, get_task

Transform = Callable[[dict[str, Any]], dict[str, Any]]


class Vectors(tv_tensors.Mask):
    """Vectors (…, C, H, W) in camera coordinates, the first component to the right, the second down; `IGNORE` in all
    components means that there is none."""


class Distances(tv_tensors.Mask):
    """Distances from the camera (…, 1, H, W) in metres; `IGNORE` where there is none."""


TYPES: dict[LabelKind, type[tv_tensors.Mask]] = {LabelKind.VECTOR: Vectors, LabelKind.DISTANCE: Distances}


def type_of(name: str) -> type[tv_tensors.TVTensor]:
    """What the entry `name` of a sample becomes: an image, or the mask of the task's kind."""
    if name == "image":
        return tv_tensors.Image
    return TYPES.get(get_task(name).kind, tv_tensors.Mask) if name in available_tasks() else tv_tensors.Mask


def _negate(vectors: Tensor, component: int) -> Tensor:
    values = vectors[..., component, :, :]
    vectors[..., component, :, :] = torch.where(values == IGNORE, values, -values)
    return vectors


@functional.register_kernel(functional="horizontal_flip", tv_tensor_cls=Vectors)
def mirror_vectors(vectors: Vectors) -> Vectors:
    return tv_tensors.wrap(_negate(vectors.as_subclass(Tensor).flip(-1), 0), like=vectors)


@functional.register_kernel(functional="vertical_flip", tv_tensor_cls=Vectors)
def turn_vectors_over(vectors: Vectors) -> Vectors:
    return tv_tensors.wrap(_negate(vectors.as_subclass(Tensor).flip(-2), 1), like=vectors)


def magnify(distances: Distances, factor: float) -> Distances:
    """What looks `factor` times as large is that many times as near."""
    values = distances.as_subclass(Tensor)
    return tv_tensors.wrap(torch.where(values == IGNORE, values, values / factor), like=distances)


@functional.register_kernel(functional="affine", tv_tensor_cls=Distances)
def move_distances(distances: Distances, *, scale: float, **view: Any) -> Distances:
    return magnify(_move(distances, scale=scale, **view), scale)


@functional.register_kernel(functional="affine", tv_tensor_cls=Vectors)
def move_vectors(vectors: Vectors, *, angle: float, **view: Any) -> Vectors:
    values = _move(vectors, angle=angle, **view).as_subclass(Tensor)
    x, y = values[..., 0, :, :], values[..., 1, :, :]
    # Torchvision's angle turns the picture clockwise; so does this, where y points down.
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    turned = torch.stack([cosine * x - sine * y, sine * x + cosine * y], -3)
    valid = (values != IGNORE).any(-3, keepdim=True)
    turned = torch.where(valid, torch.cat([turned, values[..., 2:, :, :]], -3), IGNORE)
    return tv_tensors.wrap(turned, like=vectors)


def _move(label: Any, *, fill: Any = None, interpolation: Any = None, **view: Any) -> Any:
    """The kernel of a mask: to the nearest pixel, so that no label is mixed with another or with none."""
    moved = functional.affine_mask(label.as_subclass(Tensor), **view, fill=IGNORE)
    return tv_tensors.wrap(moved, like=label)


def augment(sample: Mapping[str, Any], transform: Transform, *key: int) -> dict[str, Any]:
    """`transform` applied to a sample; what it draws at random depends on `key` alone.

    Args:
        sample: {"image": (3, H, W), task: label (…, H, W), anything that is no tensor: left as it
            is}. A tensor whose name is no task is moved and otherwise left as it is..
        transform: any transform of torchvision.transforms.v2 that keeps image and labels the same size.
        key: integers that name the draw, for example (seed, epoch, index).

    Returns:
        A new sample of plain tensors. The given one is not changed.
    """
    typed = {name: type_of(name)(value) if isinstance(value, Tensor) else value for name, value in sample.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(*key))
        transformed = transform(typed)
    return {
        name: value.as_subclass(Tensor) if isinstance(value, Tensor) else value for name, value in transformed.items()
    }


def derive_seed(*key: int) -> int:
    """A 63-bit seed from integers; neighbouring keys give unrelated seeds, on every machine the same."""
    digest = hashlib.blake2b(",".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
