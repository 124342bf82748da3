"""Human parts of PASCAL-Context, from the parts that its .mat files name."""

from pathlib import Path

import numpy as np

from seqca.labels import IGNORE

PARTS = ("background", "head", "torso", "upper arm", "lower arm", "upper leg", "lower leg")

PERSON = 15  # class of PASCAL VOC

PART_OF_KEY = {
    **dict.fromkeys(("hair", "head", "lear", "rear", "lebrow", "rebrow", "leye", "reye", "mouth", "nose"), 1),
    **dict.fromkeys(("neck", "torso"), 2),
    **dict.fromkeys(("luarm", "ruarm"), 3),
    **dict.fromkeys(("llarm", "rlarm", "lhand", "rhand"), 4),
    **dict.fromkeys(("luleg", "ruleg"), 5),
    **dict.fromkeys(("llleg", "rlleg", "lfoot", "rfoot"), 6),
}


def paint_parts(path: Path, annotation: np.ndarray) -> np.ndarray:
    """The part at every pixel, int64 (H, W): 0 background, 1 … 6 as in `PARTS`; 255 everywhere if no
    person's parts are marked.

    Args:
        path: the file, for messages.
        annotation: its variable `anno`, a structure whose second field lists the objects; an object's fields are, by
            position, name, class, mask and parts, a part's name and mask. Later parts are painted over earlier ones.
    """
    try:
        objects = annotation.ravel()[0][1].ravel()
        shape = np.asarray(objects[0][2]).shape if len(objects) else (1, 1)  # nothing marked: any size will do
        people = [item for item in objects if int(np.asarray(item[1]).ravel()[0]) == PERSON]
        parts = [(_text(part[0]), np.asarray(part[1]) != 0) for item in people for part in np.ravel(item[3])]
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: got a structure that is not the expected list of objects and parts ({error})"
        ) from error
    labels = np.zeros(shape, np.int64)
    for key, mask in parts:
        if key not in PART_OF_KEY:
            raise ValueError(f"{path}: got the human part {key!r}, expected one of {', '.join(PART_OF_KEY)}")
        if mask.shape != shape:
            raise ValueError(f"{path}: got a mask {mask.shape} of the part {key!r}, expected {shape}")
        labels[mask] = PART_OF_KEY[key]
    return labels if labels.any() else np.full(shape, int(IGNORE), np.int64)


def _text(value: object) -> str:
    return str(np.asarray(value).ravel()[0])
