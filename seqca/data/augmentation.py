"""The random augmentation of both protocols, by transforms of `torchvision.transforms.v2`."""

from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from seqca.labels import IGNORE
from seqca.protocols import Preparation, get_protocol

from .transforms import Distances, Transform, Vectors, magnify

CROPS = 10  # draws of a crop until one shows enough
LARGEST_SHARE = 0.75  # of one class in a crop


def augmentation(protocol: str, preparation: Preparation) -> Transform:
    """What is drawn at random for a training sample, in front of `seqca.data.preparation.prepare`.

    `mtinet`: mirrored half of the time, then magnified and rotated about the centre on a canvas that stays. `invpt`:
    rescaled, cropped, mirrored half of the time, colours changed.
    """
    if get_protocol(protocol).resizes:
        return v2.Compose([v2.RandomHorizontalFlip(0.5), RandomView(preparation)])
    return v2.Compose([
        RandomRescaling(preparation), ClassCrop(preparation.size), v2.RandomHorizontalFlip(0.5), RandomColours()
    ])  # fmt: skip


def draw_uniform(low: float, high: float) -> float:
    return float(torch.empty(()).uniform_(low, high))


def draw_scale(preparation: Preparation) -> float:
    scales = preparation.scales
    if preparation.uniform:
        return draw_uniform(scales[0], scales[-1])
    return scales[int(torch.randint(len(scales), ()))]


class RandomView(v2.Transform):
    """Magnifies and rotates about the centre. What is uncovered is black in the image and without depth and normals;
    labels of classes and binary ones become what `Preparation.uncovered` says."""

    def __init__(self, preparation: Preparation) -> None:
        super().__init__()
        self.preparation = preparation

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        rotation = self.preparation.rotation
        return {"angle": draw_uniform(-rotation, rotation), "scale": draw_scale(self.preparation)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        covers = isinstance(inpt, tv_tensors.Mask) and not isinstance(inpt, (Vectors, Distances))
        fill = self.preparation.uncovered if covers else 0
        return functional.affine(
            inpt, translate=[0, 0], shear=[0.0, 0.0], interpolation=v2.InterpolationMode.BILINEAR, fill=[fill], **params
        )


class RandomRescaling(v2.Transform):
    """Resizes by a random factor, sides rounded down; labels to the nearest pixel, depth divided by the factor."""

    def __init__(self, preparation: Preparation) -> None:
        super().__init__()
        self.preparation = preparation

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        return {"scale": draw_scale(self.preparation)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not isinstance(inpt, Tensor):
            return inpt
        size = [max(1, int(side * params["scale"])) for side in inpt.shape[-2:]]
        resized = functional.resize(inpt, size, interpolation=v2.InterpolationMode.BILINEAR, antialias=False)
        return magnify(resized, params["scale"]) if isinstance(inpt, Distances) else resized


class ClassCrop:
    """A random crop of at most `size`. Where there is a segmentation, it is drawn anew, up to ten times, until it shows
    two classes of which none covers three quarters of the labelled pixels; the last draw is taken as it is."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        height, width = (min(wanted, side) for wanted, side in zip(self.size, sample["image"].shape[-2:], strict=True))
        for _ in range(CROPS):
            top = int(torch.randint(sample["image"].shape[-2] - height + 1, ()))
            left = int(torch.randint(sample["image"].shape[-1] - width + 1, ()))
            box = (top, left, height, width)
            if "semseg" not in sample or shows_enough(functional.crop(sample["semseg"], *box)):
                break
        return {
            key: functional.crop(value, *box) if isinstance(value, Tensor) else value for key, value in sample.items()
        }


def shows_enough(classes: Tensor) -> bool:
    counts = classes[classes != IGNORE].unique(return_counts=True)[1]
    return len(counts) > 1 and float(counts.max() / counts.sum()) < LARGEST_SHARE


class RandomColours(v2.Transform):
    """Brightness shifted by up to 32 of 256 levels, contrast and saturation scaled by 0.5 to 1.5, hue shifted by up to
    a tenth of its circle; each half of the time, contrast first or last by chance. Contrast multiplies all values.
    """

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        def half(value: float, otherwise: float) -> float:
            return value if float(torch.rand(())) < 0.5 else otherwise

        return {
            "brightness": half(draw_uniform(-32, 32), 0),
            "contrast": half(draw_uniform(0.5, 1.5), 1),
            "saturation": half(draw_uniform(0.5, 1.5), 1),
            "hue": half(draw_uniform(-0.1, 0.1), 0),
            "contrast_first": float(torch.rand(())) < 0.5,
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        shifted = (inpt.as_subclass(Tensor).float() + params["brightness"]).round().clamp(0, 255).to(inpt.dtype)
        if params["contrast_first"]:
            shifted = functional.adjust_brightness(shifted, params["contrast"])
        shifted = functional.adjust_hue(functional.adjust_saturation(shifted, params["saturation"]), params["hue"])
        if not params["contrast_first"]:
            shifted = functional.adjust_brightness(shifted, params["contrast"])
        return tv_tensors.wrap(shifted, like=inpt)
