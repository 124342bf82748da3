"""Fused operators: checks, schema, fakes, autograd and the choice of a backend. One module per operator."""

from seqca.pairs import Branch, Pair, between_tasks, from_coarser

from .aggregation_head import aggregation_head
from .cross_attention import cross_attention
from .linear_attention import linear_attention
from .norm_relu import norm_relu
from .scale_aggregation import scale_aggregation
from .shared.dispatch import BackendUnavailable, use_backend
from .softplus import softplus
from .upsampled_loss import upsampled_loss
from .verification.selftest import selftest
from .window_attention import window_attention

__all__ = [
    "BackendUnavailable",
    "Branch",
    "Pair",
    "aggregation_head",
    "between_tasks",
    "cross_attention",
    "from_coarser",
    "linear_attention",
    "norm_relu",
    "scale_aggregation",
    "selftest",
    "softplus",
    "upsampled_loss",
    "use_backend",
    "window_attention",
]
