"""What the command `seqca` tells about an error: at most a screen, the most important last."""

import logging
import os
import re
import traceback
import warnings
from pathlib import Path

from seqca.files import disk_is_full

LINES, COLUMNS = 16, 400  # of a message; more is cut
PACKAGE = Path(__file__).parent


def report(command: str, error: BaseException) -> str:
    """What happened, where, and, in the last line or lines, what was expected instead."""
    message = "\n".join(shortened(said(error).splitlines()))
    place = f"{type(error).__name__}{where(error)} (--debug shows the traceback)"
    return f"seqca {command}: {place}\nseqca {command}: {message}"


def said(error: BaseException) -> str:
    """The message of an error without what only its programmer needs."""
    if disk_is_full(error) and isinstance(error, OSError):
        return f"{error.strerror}{f': {error.filename}' if error.filename else ''}"
    if disk_is_full(error):
        return f"No space left on device: {error}"
    text = str(error) or type(error).__name__
    if "Original Traceback" in text:  # of a process that loads data: the last error in it is the one
        last = list(re.finditer(r"^[\w.]+(?:Error|Exception|Interrupt)\w*: ", text, re.MULTILINE))
        text = text[last[-1].end() :] if last else text
    # Torch and Lightning advise to load without safety; this package never does.
    if advice := re.search(r"Weights only load failed|Cannot use ``weights_only=True``", text):
        from seqca.models.checkpoint import wrong_contents

        text = f"{text[: advice.start()]}the file {wrong_contents(text[advice.start() :])}"
    unsafe = r"weights_only(?!: got ).{0,20}False|safe_globals"  # a refusal of ours is no advice
    safe = (line for line in text.splitlines() if not re.search(unsafe, line))
    return "\n".join(safe) or type(error).__name__


def shortened(lines: list[str]) -> list[str]:
    """`lines`, or as many as fit on a screen and a word about the others."""
    lines = [line if len(line) <= COLUMNS else f"{line[:COLUMNS]} …" for line in lines]
    return lines if len(lines) <= LINES else [*lines[:LINES], f"… and {len(lines) - LINES} lines more"]


def where(error: BaseException) -> str:
    """The innermost place in this package, or in code that uses it, that the error came through."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(PACKAGE):
            return f" in {path.relative_to(PACKAGE.parent)}, line {frame.lineno}"
        if path.is_relative_to(os.getcwd()) and "site-packages" not in path.parts:
            return f" in {path.relative_to(os.getcwd())}, line {frame.lineno}"
    return ""


class Noise(logging.Filter):
    """Leaves out of Lightning's log advertisements, and totals that are zero because nothing was counted."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if text.lstrip().startswith("💡"):
            return False
        kept = [line for line in text.splitlines() if not re.fullmatch(r"0\s+Total Flops", line.strip())]
        if len(kept) < len(text.splitlines()):
            record.msg, record.args = "\n".join(kept), None
        return True


NOISE = Noise()
WARNINGS = (
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated",  # of Lightning's code alone
    r".*Checkpoint directory .* exists and is not empty",  # of a run that goes on; others are refused then
)
NOISY = ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.callbacks.model_summary")


def without_noise() -> None:
    for name in NOISY:
        logging.getLogger(name).addFilter(NOISE)
    for message in WARNINGS:
        warnings.filterwarnings("ignore", message)
