"""The plain eager mathematics of every operator: any dtype, nothing clever, one module per operator.

These are what every other backend is checked against, and the yardstick of every speed-up.
"""

from .linear_attention import linear_attention

__all__ = ["linear_attention"]
