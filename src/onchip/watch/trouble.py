"""What is wrong with a disk, in plain words, and what to do."""

import errno
import shutil
import sqlite3
from pathlib import Path

FULL = "the disk is full"
SPACE = "free some space, or lower gigabytes under [keep]; events wait in memory until then"
FAULTS = {
    errno.ENOSPC: (FULL, SPACE),
    errno.EDQUOT: ("the disk quota is used up", SPACE),
    errno.EFBIG: ("a file may not grow any more", "look at the limits of this process: ulimit -f"),
    errno.EROFS: (
        "the disk is read-only",
        "a disk that fails turns so: look at dmesg, mount it again",
    ),
    errno.EIO: ("the disk fails", "look at dmesg; check the cable, or replace it"),
    errno.EACCES: ("the data folder may not be written", "give this user the folder: chown -R"),
}
SQLITE_FAULTS = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_PERM: errno.EACCES,
}
LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def plain(error: BaseException, folder: Path) -> tuple[str, str]:
    """Say in plain words what is wrong with the disk, and what to do."""
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in LOCKED:
            return "another program holds the database", "close what has events.db open"
        number = SQLITE_FAULTS.get(code)
        if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) and _no_room(folder):
            number = errno.ENOSPC
    if number in FAULTS:
        return FAULTS[number]
    return f"the events cannot be written: {error}", "they wait in memory until they can be"


def _no_room(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < 1 << 16
    except OSError:
        return False
