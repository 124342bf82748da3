"""Code bases whose checkouts are recognised: a module for each.

Every module offers

    NAME: what readers call it
    KINDS: of parts that are replaced in it with lazy outputs, whatever its tasks are
    CLASSES: of its files that are recognised by fingerprints, be they replaced or left
    recognises(checkout) -> whether a folder is a checkout of this code base
    build(checkout, tasks, size) -> a training of tasks by their names, with random weights, on batches of a size

and imports from the checkout itself; what that needs and this environment lacks is replaced for the process alone.
"""

from pathlib import Path
from types import ModuleType

from . import atrc, invpt, mti_net, sca_mtl, taskprompter

CODE_BASES = (sca_mtl, mti_net, atrc, invpt, taskprompter)


def code_base(checkout: Path) -> ModuleType:
    """The module of the code base that a folder is a checkout of.

    Raises:
        ValueError: of none.
    """
    for module in CODE_BASES:
        if module.recognises(checkout):
            return module
    names = ", ".join(module.__name__.rpartition(".")[2] for module in CODE_BASES)
    raise ValueError(f"checkout: got {checkout}, expected a checkout of one of {names}")
