"""Why a camera was lost, in words that people can act on. Passwords never get here."""

import errno
import os
import socket
from typing import Literal
from urllib.parse import urlsplit

from onchip.detect.place import Place
from onchip.errors import DeviceError

Why = Literal["unreachable", "refused", "missing", "stalled", "garbage", "ended", "changed", "gone"]


class LostError(DeviceError):
    """A camera that cannot be opened, or gives no more pictures; `why` in one word.

    unreachable: no connection, or none that answers; refused: wrong user or password, or no right
    to a device; missing: no such stream or device; stalled: silent; garbage: what it sends is no
    video; ended: it ended the stream; changed: pictures of another size; gone: unplugged.
    """

    def __init__(self, why: Why, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.why: Why = why


def lost(why: Why, place: Place, text: str, hint: str = "") -> LostError:
    """Return the error for a camera."""
    return LostError(why, f"{place} {text}", hint)


def explained(error: Exception, place: Place, stall: float, *, reading: bool = False) -> LostError:
    """Say in plain words what a foreign error means; FFmpeg's own texts hold the password.

    Args:
        error: what FFmpeg, a socket or a driver raised.
        place: the camera.
        stall: the seconds after which silence counts.
        reading: whether pictures had come before.
    """
    import av

    code = getattr(error, "errno", None)
    if isinstance(error, av.error.ExitError | TimeoutError):
        if reading:
            return silent(place, stall)
        return lost("unreachable", place, f"did not answer within {stall:g} s", _LOOK)
    if isinstance(error, av.error.HTTPUnauthorizedError | av.error.HTTPForbiddenError):
        return refused(place)
    if isinstance(error, av.error.HTTPNotFoundError):
        return missing(place)
    if isinstance(error, av.error.HTTPError):
        return lost("unreachable", place, "answered that it cannot send this now", _LOOK)
    if isinstance(error, EOFError | ConnectionResetError | BrokenPipeError):
        return lost("ended", place, "ended the connection")
    if place.kind in ("usb", "file") and isinstance(code, int) and code in _DEVICE:
        return _device(code, place, reading)
    if code == errno.EIO and place.kind == "rtsp":
        return _no_reason(place, reading)
    if isinstance(error, OSError) and place.kind in ("rtsp", "http"):
        return lost("unreachable", place, f"cannot be reached: {_words(code)}", _LOOK)
    return garbage(place)


_LOOK = "is it switched on, and are address and port right?"
_GONE = frozenset({errno.ENODEV, errno.ENXIO, errno.EIO})
_DEVICE = _GONE | {errno.ENOENT, errno.EACCES, errno.EPERM, errno.EBUSY, errno.ENOTTY, errno.EISDIR}


def silent(place: Place, stall: float) -> LostError:
    """Return the error for a camera that sends nothing any more."""
    return lost("stalled", place, f"has sent no picture for {stall:g} s")


def garbage(place: Place) -> LostError:
    """Return the error for data that are no video."""
    return lost(
        "garbage", place, "sends something that cannot be read as video",
        "see with a player whether this is the address of its video (H.264, H.265 or MJPEG)",
    )  # fmt: skip


def keyless(place: Place, patience: float) -> LostError:
    """Return the error for a sound stream in which nobody can begin to see."""
    return lost(
        "garbage", place, f"has sent changes of pictures for {patience:g} s, and no whole one",
        "set a shorter key frame interval (GOP, I-frame interval) on its own page, 1 to 4 s",
    )  # fmt: skip


def refused(place: Place) -> LostError:
    """Return the error for a wrong user or password."""
    text = "wants a user name and a password" if place.login is None else "refused the password"
    scheme = place.address.partition(":")[0]
    return lost(
        "refused", place, text,
        f"write them as {scheme}://user:password@host/...; try them once on the camera's own page, "
        "since many cameras lock an account after a few wrong ones",
    )  # fmt: skip


def missing(place: Place) -> LostError:
    """Return the error for a camera that is there and has no such stream."""
    return lost(
        "missing", place, "has no such stream", "the camera's manual or page tells the path"
    )


def no_address(host: str, place: Place) -> LostError:
    """Return the error for a name that the network does not know."""
    return lost("unreachable", place, f"cannot be reached: nothing is named {host!r}", _LOOK)


def _words(code: int | None) -> str:
    return os.strerror(code).lower() if code else "no connection"


def _no_reason(place: Place, reading: bool) -> LostError:
    """FFmpeg says only that it failed, as it does where a name has no address."""
    host = urlsplit(place.address).hostname or ""
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return no_address(host, place)
    if reading:
        return lost("ended", place, "ended the connection")
    return lost("unreachable", place, "broke off the connection", _LOOK)


def _device(code: int, place: Place, reading: bool) -> LostError:
    if code in _GONE and reading:
        return lost("gone", place, "is gone: it was unplugged, or lost its power")
    if code in (errno.EACCES, errno.EPERM):
        return lost(
            "refused", place, "may not be opened by this user",
            "add yourself to the group: sudo usermod -aG video $USER, then log in again",
        )  # fmt: skip
    if code == errno.EBUSY:
        return lost("unreachable", place, "is in use by another program", "close that program")
    if code in (errno.ENOTTY, errno.EISDIR):
        return lost("missing", place, "is no camera", "v4l2-ctl --list-devices names them")
    return lost("missing", place, "is not there", "ls /dev/video* names what is")
