"""Scores of every task, on torchmetrics.

Where nothing else is said they follow protocol `mtinet`, that of Vandenhende et al., "MTI-Net: Multi-Scale Task
Interaction Networks for Multi-Task Learning", ECCV 2020, and its public code, which Kim et al. 2022 follow; where that
code's choices decide numbers, the class says so.
"""

from .base import TaskMetric
from .collection import MultiTaskMetric
from .constant import best_constant
from .delta_m import delta_m
from .depth import DepthError
from .edge import PixelEdgeF
from .normals import NormalError
from .ods_f import OdsF
from .saliency import PooledSaliency, SaliencyScores
from .segmentation import HumanPartsIoU, MeanIoU

__all__ = [
    "DepthError",
    "HumanPartsIoU",
    "MeanIoU",
    "MultiTaskMetric",
    "NormalError",
    "OdsF",
    "PixelEdgeF",
    "PooledSaliency",
    "SaliencyScores",
    "TaskMetric",
    "best_constant",
    "delta_m",
]
