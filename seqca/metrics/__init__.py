"""Scores of every task, under protocol `mtinet`, on torchmetrics.

The protocol is that of Vandenhende et al., "MTI-Net: Multi-Scale Task Interaction Networks for Multi-Task
Learning", ECCV 2020, and its public code, which Kim et al. 2022 follow; where that code's choices decide
numbers, the class says so. Predictions are compared as they are: the original writes them as 8-bit images
first, which moves probabilities by up to 1/255.
"""

from .base import TaskMetric
from .collection import MultiTaskMetric
from .constant import best_constant
from .delta_m import delta_m
from .depth import DepthError
from .edge import PixelEdgeF
from .normals import NormalError
from .saliency import SaliencyScores
from .segmentation import HumanPartsIoU, MeanIoU

__all__ = [
    "DepthError",
    "HumanPartsIoU",
    "MeanIoU",
    "MultiTaskMetric",
    "NormalError",
    "PixelEdgeF",
    "SaliencyScores",
    "TaskMetric",
    "best_constant",
    "delta_m",
]
