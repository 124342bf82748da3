"""Whether `seqca.accelerate` recognises the classes of a checkout, by its files alone."""

from collections.abc import Collection, Iterator
from pathlib import Path

from seqca.acceleration import blocks, invpt, joined_attention
from seqca.acceleration.fingerprint import file_fingerprint
from seqca.acceleration.replacement import REPLACEMENTS

INNER = (blocks.FINGERPRINTS, joined_attention.FINGERPRINTS, invpt.FINGERPRINTS)
"""Fingerprints of classes that replaced modules consist of."""


def unrecognised(checkout: Path, classes: Collection[str]) -> list[str]:
    """The classes of which no file of a checkout has one by a fingerprint that is known.

    Args:
        checkout: folder of Python files, which are parsed and not imported.
        classes: names.
    """
    files = {file: file.read_text(encoding="utf-8", errors="replace") for file in sorted(checkout.rglob("*.py"))}
    return [
        name
        for name in classes
        if not any(_known(file, name) for file, text in files.items() if f"class {name}" in text)
    ]


def _known(file: Path, name: str) -> bool:
    for methods, fingerprints in _fingerprints(name):
        try:
            if file_fingerprint(file, name, *methods) in fingerprints:
                return True
        except (SyntaxError, ValueError):  # not readable, or another class of this name
            continue
    return False


def _fingerprints(name: str) -> Iterator[tuple[tuple[str, ...], Collection[str]]]:
    """Methods of a class, and what their fingerprint may be."""
    for each in REPLACEMENTS:
        if each.class_name == name:
            yield each.methods, each.fingerprints
    for known in INNER:
        if name in known:
            yield ("forward",), known[name]
