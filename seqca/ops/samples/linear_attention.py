"""Queries, keys and values that show what `linear_attention` does."""

from torch import Generator, Tensor
from torch.nn.functional import softplus

from ..shared.sample import Sample, Sampler, normal


def _attention(leading: int, tokens: int, sources: int, channels: int, values: int, rng: Generator) -> list[Tensor]:
    """Queries and keys behind a softplus, values of both signs."""
    q = softplus(normal(leading, tokens, channels, generator=rng))
    k = softplus(normal(leading, sources, channels, generator=rng))
    return [q, k, normal(leading, sources, values, generator=rng)]


# No sample has a source of one token: o = v whatever q and k are, so their gradients are rounding errors, and too few
# of them to measure a bound by.


def _leading(tokens: int, channels: int) -> int:
    """Leading indices: many where there are few numbers otherwise."""
    return 16 if tokens < 8 and channels < 100 else 2


def _one_map(tokens: int, channels: int, generator: Generator) -> Sample:
    q, k, v = _attention(_leading(tokens, channels), tokens, tokens + 2, channels, channels, generator)
    return Sample({"q": q, "k": k, "v": v}, ("q", "k", "v"))


def _several_maps(tokens: int, channels: int, generator: Generator) -> Sample:
    """Entries of different lengths and leading dimensions, with fewer values than channels."""
    values = channels // 2 + 1
    entries = [
        _attention(_leading(tokens, channels) - 1, tokens + 4, tokens + 3, channels, values, generator),
        _attention(_leading(tokens, channels), tokens, tokens // 2 + 2, channels, values, generator),
    ]
    q, k, v = (list(tensors) for tensors in zip(*entries, strict=True))
    return Sample({"q": q, "k": k, "v": v}, ("q", "k", "v"))


def _clamped(tokens: int, channels: int, generator: Generator) -> Sample:
    """Every second query has a denominator far below eps, the others far above, in every dtype."""
    q, k, v = _attention(_leading(tokens, channels), tokens + 2, tokens + 1, channels, channels, generator)
    q[:, ::2] = normal(*q[:, ::2].shape, generator=generator) / 64
    return Sample({"q": q, "k": k, "v": v, "eps": tokens * channels / 16}, ("q", "k", "v"))


SAMPLES: dict[str, Sampler] = {
    "one map": _one_map,
    "several maps": _several_maps,
    "clamped denominators": _clamped,
}
