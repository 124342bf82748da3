"""Stand-ins for the modules of other code bases, recognised while a test runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from torch import nn

from seqca.acceleration import Replacement, fingerprint
from seqca.acceleration.replacement import REPLACEMENTS

REGISTERED = tuple(REPLACEMENTS)
"""Those of this package, before tests teach others."""


@contextmanager
def taught(*pairs: tuple[Replacement, type[nn.Module]]) -> Iterator[None]:
    """Registers replacements for the stand-ins of what they replace."""
    before = list(REPLACEMENTS)
    for replacement, stand_in in pairs:
        known = (fingerprint(stand_in, *replacement.methods),)
        REPLACEMENTS.append(replace(replacement, class_name=stand_in.__name__, fingerprints=known))
    try:
        yield
    finally:
        REPLACEMENTS[:] = before
