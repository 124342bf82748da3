"""Files that are whole or not there, and what is left of those whose writer was killed."""

import errno
import itertools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # where there is none, nothing can be locked, and nothing is taken for a leftover
    fcntl = None  # type: ignore[assignment]


NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES)


@contextmanager
def temporary_file(folder: Path, name: str) -> Iterator[tuple[BinaryIO, Path]]:
    """A new file `.NAME.PID` in `folder`, open for writing, and its path; at the end it is removed if it is still
    there. It is on the disk when it is closed or renamed after `flush_to_disk`.

    It is locked as long as this process has it open, so that `remove_leftovers` of another process leaves it alone.
    """
    for number in itertools.count():
        path = folder / (f".{name}.{os.getpid()}" + (f"-{number}" if number else ""))
        try:
            file = path.open("xb")
        except FileExistsError:
            continue
        if lock(file) is False or os.fstat(file.fileno()).st_nlink == 0:
            file.close()  # another process took it for a leftover between its creation and the lock
            continue
        break
    try:
        with file:
            yield file, path
    finally:
        path.unlink(missing_ok=True)


def flush_to_disk(file: BinaryIO) -> None:
    """Returns when what was written is on the disk, and no rename can come before it."""
    file.flush()
    os.fsync(file.fileno())


def name_new(temporary: Path, target: Path) -> None:
    """Give a finished file the name `target`, which nothing may have.

    Raises:
        FileExistsError: something has it, whatever made it and however late.
    """
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        target.open("xb").close()
        temporary.replace(target)


def remove_leftovers(folder: Path, name: str) -> None:
    """Remove the temporary files of `name`, a regular expression, whose writers have ended without removing them."""
    for path in folder.glob(".*"):
        if not re.fullmatch(rf"\.(?:{name})\.\d+(?:-\d+)?", path.name):
            continue
        with suppress(OSError), path.open("rb") as file:
            if lock(file):
                path.unlink(missing_ok=True)


def lock(file: BinaryIO) -> bool | None:
    """Whether this process alone has the file open from here on; None where its file system cannot tell."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def same_folder(one: Path, other: Path) -> bool:
    """Whether two paths lead to one folder, through whatever links, one that is not there yet too."""
    try:
        return one.samefile(other)
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)


_held: set[int] = set()


def hold(folder: Path) -> int | None:
    """Hold a folder until `let_go` of what is returned, or the end of this process; None where its file system cannot.

    Raises:
        BlockingIOError: another process holds it.
    """
    if fcntl is None:
        return None
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(held)
        if isinstance(error, BlockingIOError):
            raise
        return None
    _held.add(held)
    return held


def let_go(held: int) -> None:
    _held.discard(held)
    os.close(held)


def _forget_held() -> None:
    """In a process that was forked, so that it does not go on to hold what this one held."""
    for held in [*_held]:
        let_go(held)


if fcntl is not None:
    os.register_at_fork(after_in_child=_forget_held)


def disk_is_full(error: BaseException | None) -> bool:
    """Whether `error`, or one that it came from, says that there is no room left on the disk or in its quota."""
    seen = []
    while error is not None and error not in seen:  # causes can go round in a circle
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        seen.append(error)
        error = error.__cause__ or error.__context__
    return False
