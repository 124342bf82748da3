"""Fused operators: checks, schema, fakes, autograd and the choice of a backend. One module per operator."""

from .dispatch import BackendUnavailable, use_backend
from .explain import explain
from .linear_attention import linear_attention
from .selftest import selftest
from .softplus import softplus
from .upsampled_loss import upsampled_loss

__all__ = ["BackendUnavailable", "explain", "linear_attention", "selftest", "softplus", "upsampled_loss", "use_backend"]
