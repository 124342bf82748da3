"""Writing what `seqca predict` found, without ever replacing a file that it did not write.

A file it wrote says so by itself: its end holds the SHA-256 of everything in front, as a text chunk of a PNG or as the
comment of a ZIP archive, which is what an .npz is. A file that was changed is no longer this package's to replace.
"""

import errno
import hashlib
import io
import os
import zlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from matplotlib.figure import Figure

from seqca.files import flush_to_disk, name_new, temporary_file

TEMPORARY = "seqca-predict"  # in the names of unfinished files
MARK = b"seqca predict\0"
PNG_END = b"\0\0\0\0IEND" + zlib.crc32(b"IEND").to_bytes(4, "big")
ZIP_END = b"\0\0"  # the length of an archive's comment, none


class ForeignFile(OSError):
    """A file in the way that `seqca predict` did not write, or that was changed since."""


def png_end(digest: str) -> bytes:
    chunk = b"tEXt" + MARK + digest.encode()
    return (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big") + PNG_END


def zip_end(digest: str) -> bytes:
    comment = MARK + digest.encode()
    return len(comment).to_bytes(2, "little") + comment


ARRAYS, PANEL = ".npz", ".png"
ENDS: dict[str, tuple[bytes, Callable[[str], bytes]]] = {ARRAYS: (ZIP_END, zip_end), PANEL: (PNG_END, png_end)}
"""How a file of a kind ends, and how it ends when it is signed."""


def signed(data: bytes, suffix: str) -> bytes:
    """A whole PNG or .npz with the signature."""
    end, signed_end = ENDS[suffix]
    assert data.endswith(end)
    body = data[: -len(end)]
    return body + signed_end(hashlib.sha256(body).hexdigest())


def is_signed(path: Path) -> bool:
    """Whether a file is as `seqca predict` wrote it; false for symbolic links."""
    if path.suffix.lower() not in ENDS or path.is_symlink() or not path.is_file():
        return False
    signed_end = ENDS[path.suffix.lower()][1]
    length = len(signed_end("0" * 64))
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size <= length:
            return False
        file.seek(size - length)
        end = file.read(length)
        if MARK not in end:
            return False
        file.seek(0)
        digest, left = hashlib.sha256(), size - length
        while left and (piece := file.read(min(left, 1 << 20))):
            digest.update(piece)
            left -= len(piece)
    return end == signed_end(digest.hexdigest())


def check_free(target: Path) -> None:
    """Refuse a name that something else has.

    Raises:
        ForeignFile: there is something of that name that `seqca predict` did not write.
        OSError: there can be no file of that name.
    """
    try:
        os.lstat(target)
    except FileNotFoundError:
        return
    if not is_signed(target):
        raise ForeignFile(errno.EEXIST, "there is such a file, which seqca predict did not write", str(target))


def write_signed(contents: Mapping[Path, bytes]) -> None:
    """Write whole PNGs and .npz, {name: content}, signed, all of them or none; files of ours may be replaced.

    Raises:
        ForeignFile: there is another file of one of the names.
    """
    with ExitStack() as stack:
        finished: dict[Path, tuple[BinaryIO, Path]] = {}
        try:
            for target, data in contents.items():
                file, temporary = finished[target] = stack.enter_context(temporary_file(target.parent, TEMPORARY))
                file.write(signed(data, target.suffix))
                flush_to_disk(file)
            for target, (_, temporary) in finished.items():
                try:
                    name_new(temporary, target)
                except FileExistsError:
                    check_free(target)
                    temporary.replace(target)
        except BaseException:  # Ctrl-C too
            for target, (file, _) in finished.items():
                if is_at(file, target):
                    target.unlink()
            raise


def is_at(file: BinaryIO, path: Path) -> bool:
    """Whether an open file has the name `path`."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.lstat(path))
    except OSError:
        return False


def npz_bytes(predictions: Mapping[str, np.ndarray]) -> bytes:
    """Arrays as an .npz. Classes are stored as uint8, as uint16 from 256 on."""
    arrays: dict[str, Any] = {
        task: values.astype(np.min_scalar_type(values.max())) if values.dtype.kind in "iu" else values
        for task, values in predictions.items()
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def png_bytes(figure: Figure) -> bytes:
    """A drawn panel as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
