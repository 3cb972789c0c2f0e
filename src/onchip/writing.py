"""Files that appear whole or not at all."""

import itertools
import os
import shutil
from pathlib import Path

from onchip.errors import InputError

_numbers = itertools.count()


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
