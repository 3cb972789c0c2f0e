"""Files that appear whole or not at all."""

import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onchip.errors import InputError

_numbers = itertools.count()


@contextmanager
def alone(folder: Path, mode: int = 0o777) -> Iterator[None]:
    """Hold a folder for this process alone while the block runs.

    It is made if need be, for those whom `mode` names.

    Raises:
        InputError: another process holds it, or it cannot be made.
    """
    import fcntl

    try:
        folder.mkdir(mode, parents=True, exist_ok=True)
        held = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}") from error
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"another onchip is at work in {folder}", "wait until it has finished"
            ) from error
        except OSError:  # some network drives know no locks
            pass
        yield
    finally:
        os.close(held)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that whoever looks sees all of the old content or all of the new.

    Folders on the way are made. The bytes are on the disk before the name points to them. Where
    `path` is a link, the file that it leads to is replaced and the link stays; so do permissions.

    Raises:
        InputError: it cannot be written; the old content is still there.
    """
    path = path.resolve()
    temporary = path.with_name(f".onchip-{os.getpid()}-{next(_numbers)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, temporary)
        temporary.replace(path)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}",
            "what was there before is still there",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
