"""Augmentation of an image together with its labels, by the transforms of torchvision (`torchvision.transforms.v2`).

The image becomes a `tv_tensors.Image` and every label a `tv_tensors.Mask`, so that a geometric transform moves them
alike and a photometric one leaves the labels alone. Labels whose values depend on the geometry are a subclass of
Mask with kernels of their own: mirroring a surface normal turns its x component around.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from seqca.labels import IGNORE

Transform = Callable[[dict[str, Any]], dict[str, Any]]


class Normals(tv_tensors.Mask):
    """Surface normals (…, 3, H, W) in camera coordinates, x to the right; 255 in all channels is ignored."""


LABEL_TYPES: dict[str, type[tv_tensors.TVTensor]] = {"image": tv_tensors.Image, "normals": Normals}


@functional.register_kernel(functional="horizontal_flip", tv_tensor_cls=Normals)
def flip_normals(normals: Normals) -> Normals:
    flipped = normals.as_subclass(Tensor).flip(-1)
    x = flipped[..., :1, :, :]
    flipped[..., :1, :, :] = torch.where(x == IGNORE, x, -x)
    return tv_tensors.wrap(flipped, like=normals)


def augment(sample: Mapping[str, Any], transform: Transform, *key: int) -> dict[str, Any]:
    """`transform` applied to a sample; what it draws at random depends on `key` alone.

    Args:
        sample: {"image": (3, H, W), task: label (…, H, W), anything that is no tensor: left as it is}.
        transform: any transform of torchvision.transforms.v2 that keeps image and labels the same size.
        key: integers that name the draw, for example (seed, epoch, index).

    Returns:
        A new sample of plain tensors. The given one is not changed.
    """
    typed = {
        name: LABEL_TYPES.get(name, tv_tensors.Mask)(value) if isinstance(value, Tensor) else value
        for name, value in sample.items()
    }
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
