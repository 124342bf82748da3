"""Sequential Cross Attention multi-task networks (Kim, Choi, Min, ICIP 2022, arXiv 2209.02518)."""

from .explanation import explain
from .ops import selftest, use_backend

__version__ = "0.1.0"

__all__ = ["explain", "selftest", "use_backend"]
