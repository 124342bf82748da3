"""Sequential Cross Attention multi-task networks (Kim, Choi, Min, ICIP 2022, arXiv 2209.02518)."""

from typing import TYPE_CHECKING, Any

from .explanation import explain
from .ops import selftest, use_backend

if TYPE_CHECKING:
    from .acceleration import accelerate

__version__ = "0.1.0"

__all__ = ["accelerate", "explain", "selftest", "use_backend"]


def __getattr__(name: str) -> Any:
    if name == "accelerate":  # imported when it is first used: nothing else of the package needs what it recognises
        from .acceleration import accelerate

        return accelerate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
