"""Sequential Cross Attention multi-task networks (Kim, Choi, Min, ICIP 2022, arXiv 2209.02518)."""

__version__ = "0.1.0"
