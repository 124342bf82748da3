"""`seqca.accelerate`: fused parts for the models of other code bases, in place, checked, and with a way back.

A file for each code base says what is recognised and why the replacement is equal.
"""

from . import atrc as atrc
from . import atrc_losses as atrc_losses
from . import blocks as blocks
from . import invpt as invpt
from . import mti_net as mti_net
from . import sca_mtl as sca_mtl
from .entry import accelerate
from .fingerprint import fingerprint, matches
from .lazy import LazyMap
from .replaced import restore
from .replacement import Replacement, leave, register
from .report import Kept, Replaced, Report

__all__ = [
    "Kept",
    "LazyMap",
    "Replaced",
    "Replacement",
    "Report",
    "accelerate",
    "fingerprint",
    "leave",
    "matches",
    "register",
    "restore",
]
