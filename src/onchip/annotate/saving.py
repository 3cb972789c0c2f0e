"""What can come of a save: done, refused because somebody else was first, or not possible."""

from pathlib import Path

from onchip.errors import InputError
from onchip.writing import write_whole


class StaleError(InputError):
    """What the page read is not what is there now; `what` is "labels" or "classes"."""

    def __init__(self, message: str, what: str) -> None:
        super().__init__(message, "look at both and choose")
        self.what = what


class NotSavedError(InputError):
    """Nothing was written: no room, no permission, no folder."""


def save_whole(path: Path, data: bytes) -> None:
    """Write a file whole.

    Raises:
        NotSavedError: it cannot be written; the old content is still there.
    """
    try:
        write_whole(path, data)
    except InputError as error:
        raise NotSavedError(str(error), error.hint) from error
