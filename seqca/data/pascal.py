"""PASCAL-Context with the labels of five tasks."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from seqca.labels import IGNORE
from seqca.thinning import thin

from .files import FileDataset, checked, classes_up_to, decode_vectors, read_mat, read_picture
from .human_parts import PARTS, paint_parts

PASCAL_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

# The classes of PASCAL-Context's 459 whose normals are kept: those of indoor scenes, on which the network that made
# these labels was trained (the classes that NYUD-v2 has too, and tvmonitor).
CLASSES_WITH_NORMALS = (
    3, 4, 6, 9, 10, 11, 13, 15, 17, 18, 22, 23, 29, 30, 33, 34, 36, 37, 38, 39, 41, 43, 46, 49, 50, 51, 53, 55, 56,
    59, 61, 62, 65, 66, 68, 69, 72, 73, 78, 83, 84, 85, 87, 88, 95, 96, 101, 104, 105, 107, 111, 113, 115, 122, 124,
    135, 141, 142, 143, 146, 150, 154, 157, 158, 159, 165, 172, 174, 181, 183, 184, 191, 193, 195, 197, 199, 202,
    213, 215, 216, 219, 220, 223, 225, 228, 230, 232, 233, 238, 239, 242, 243, 246, 250, 251, 252, 255, 260, 261,
    263, 269, 272, 273, 275, 281, 283, 284, 285, 286, 287, 288, 290, 291, 292, 293, 295, 304, 307, 309, 310, 314,
    315, 319, 323, 329, 330, 331, 336, 342, 345, 349, 350, 351, 352, 355, 357, 368, 370, 371, 374, 379, 380, 383,
    384, 397, 401, 403, 405, 407, 408, 411, 412, 413, 414, 417, 419, 421, 423, 427, 429, 430, 432, 440, 441, 442,
    443, 444, 446, 454, 457,
)  # fmt: skip


class PASCALContext(FileDataset):
    """PASCAL-Context: 4,998 training and 5,105 validation images of PASCAL VOC 2010 (Mottaghi et al., CVPR 2014; Chen
    et al., "Detect What You Can", CVPR 2014) with 21 classes, six human parts, and the saliency and surface normals
    that Maninis et al., "Attentive Single-Tasking of Multiple Tasks", CVPR 2019, distilled from other networks.

    Both protocols read the archive PASCAL_MT. Arguments and attributes are those of `FileDataset`; tasks are semseg,
    human_parts, sal, normals and edge. An image without a person has no label of human parts: 255 everywhere.
    """

    name = "pascal"
    max_distance = 0.0075
    available: Mapping[str, Sequence[str] | None] = {
        "semseg": PASCAL_CLASSES,
        "human_parts": PARTS,
        "sal": None,
        "normals": None,
        "edge": None,
    }

    def split_file(self, split: str) -> Path:
        return self.root / "ImageSets" / "Context" / f"{split}.txt"

    def files(self, name: str) -> dict[str, Path]:
        voc = self.root / "semseg" / "VOC12" / f"{name}.png"
        return {
            "image": self.root / "JPEGImages" / f"{name}.jpg",
            "semseg": voc if voc.is_file() else self.root / "semseg" / "pascal-context" / f"{name}.png",
            "human_parts": self.root / "human_parts" / f"{name}.mat",
            "sal": self.root / "sal_distill" / f"{name}.png",
            "normals": self.root / "normals_distill" / f"{name}.png",
            "edge": self.regions_file(name),
        }

    def regions_file(self, name: str) -> Path:
        """Where the regions of PASCAL-Context are, from which edges and the mask of normals come."""
        return self.root / "pascal-context" / "trainval" / f"{name}.mat"

    def read(self, name: str, task: str) -> np.ndarray:
        path = self.files(name)[task]
        if task == "semseg":
            valid = classes_up_to(len(PASCAL_CLASSES) - 1, IGNORE)
            return checked(path, task, read_picture(path, "L"), valid).astype(np.int64)
        if task == "human_parts":
            return paint_parts(path, read_mat(path, "anno"))
        if task == "sal":
            return (read_picture(path, "L").astype(np.float32) / 255 > 0.5).astype(np.float32)[None]
        if task == "normals":
            vectors = decode_vectors(read_picture(path, "RGB"))
            regions = self.regions(name)
            if regions.shape != vectors.shape[1:]:
                other = self.regions_file(name)
                raise ValueError(f"{path}: got a picture {vectors.shape[1:]}, expected the {regions.shape} of {other}")
            return np.where(np.isin(regions, CLASSES_WITH_NORMALS), vectors, np.float32(0))
        return outlines(self.regions(name))[None]

    def regions(self, name: str) -> np.ndarray:
        """The class of PASCAL-Context's 459 at every pixel, (H, W)."""
        path = self.regions_file(name)
        regions = read_mat(path, "LabelMap")
        return checked(path, "edge", regions, classes_up_to(459, None))


def outlines(regions: np.ndarray) -> np.ndarray:
    """Thin edges, float32 0 or 1 (H, W), between the regions (H, W): where the Laplacian is not 0, thinned."""
    from scipy.ndimage import laplace

    return thin(laplace(regions.astype(np.float64), mode="mirror") != 0).astype(np.float32)
