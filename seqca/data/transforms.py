"""Augmentation of an image together with its labels, by the transforms of torchvision (`torchvision.transforms.v2`).

The image becomes a `tv_tensors.Image` and every label a `tv_tensors.Mask`, so that a geometric transform moves them
alike and a photometric one leaves the labels alone. The kind of a task's label (`seqca.labels.LabelKind`) says which
Mask: those whose values depend on the geometry are a subclass with kernels of its own, as mirroring negates the first
component of a vector.
"""

import hashlib
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


TYPES: dict[LabelKind, type[tv_tensors.Mask]] = {LabelKind.VECTOR: Vectors}


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
