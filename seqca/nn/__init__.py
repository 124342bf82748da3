"""Modules with parameters: the blocks of the network. Maps in, maps out."""

from .blocks import BasicBlock, SqueezeExcitation
from .cross_attention import CrossAttention, CrossTaskAttention
from .cross_scale import CrossScaleAttention, FeatureAggregation, aggregate
from .feature_propagation import FeaturePropagation
from .window_self_attention import WindowSelfAttention

__all__ = [
    "BasicBlock",
    "CrossAttention",
    "CrossScaleAttention",
    "CrossTaskAttention",
    "FeatureAggregation",
    "FeaturePropagation",
    "SqueezeExcitation",
    "WindowSelfAttention",
    "aggregate",
]
