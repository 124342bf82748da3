"""The plain eager mathematics of every operator: any dtype, nothing clever, one module per operator.

These are what every other backend is checked against, and the yardstick of every speed-up.
"""

from .linear_attention import linear_attention
from .scale_aggregation import scale_aggregation
from .softplus import softplus
from .window_attention import window_attention

__all__ = ["linear_attention", "scale_aggregation", "softplus", "window_attention"]
