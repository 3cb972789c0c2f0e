"""What a user names as a camera: a clip, a USB or Pi camera, an address in the network."""

import re
import sys
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote, urlsplit

from onchip.errors import InputError

Kind = Literal["file", "usb", "pi", "rtsp", "http"]
ALLOWED = (
    "allowed are rtsp://, rtsps://, http:// and https:// addresses, "
    "usb:0 or /dev/video0, picamera:0, and the path of a video"
)
_ESCAPES = (
    "in a user name or password write @ as %40, : as %3A, / as %2F, # as %23, ? as %3F, % as %25; "
    "in what follows the host write @ as %40 and # as %23"
)
_SCHEMES: dict[str, Kind] = {"rtsp": "rtsp", "rtsps": "rtsp", "http": "http", "https": "http"}
# Many cameras take the password as a part of the path or the query.
_SECRETS = re.compile(r"(?i)((?:pass(?:word|wd)?|pwd|pw|token|secret|auth|key)=)[^&;/_]*")


@dataclass(frozen=True)
class Place:
    """A camera that was named, and how it is to be asked.

    `address` is for opening it and holds the password; `shown` is for people and does not. `size`
    and `fps` are asked of USB and Pi cameras; `transport` is how RTSP pictures travel.
    """

    kind: Kind
    address: str = field(repr=False)
    shown: str
    size: tuple[int, int] | None = None
    fps: float | None = None
    transport: Literal["tcp", "udp"] = "tcp"

    def __str__(self) -> str:
        return self.shown

    @property
    def login(self) -> tuple[str, str] | None:
        """User name and password, where the address has them."""
        parts = urlsplit(self.address)
        if self.kind not in ("rtsp", "http") or parts.username is None:
            return None
        return unquote(parts.username), unquote(parts.password or "")

    @property
    def bare(self) -> str:
        """The address without user name and password."""
        parts = urlsplit(self.address)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def place(
    text: str,
    *,
    size: tuple[int, int] | None = None,
    fps: float | None = None,
    transport: str | None = None,
) -> Place:
    """Return the camera that `text` names.

        >>> place("rtsp://admin:secret@10.0.0.5/stream1").shown
        'rtsp://admin:***@10.0.0.5/stream1'
        >>> place("usb:0", size=(1280, 720), fps=30).kind
        'usb'

    Raises:
        InputError: it names none, or an option is not for a camera of its kind.
    """
    text = text.strip()
    found = _find(text)
    if size is not None and (min(size) < 16 or max(size) > 16384):
        raise InputError(f"{found}: {size[0]}x{size[1]} is no size of a picture")
    if fps is not None and not 0 < fps <= 1000:
        raise InputError(f"{found}: {fps:g} pictures a second cannot be asked for")
    if (size or fps) and found.kind not in ("usb", "pi"):
        raise InputError(
            f"{found}: size and fps can be asked of USB and Pi cameras only",
            "other cameras are set on their own page; name the address of another stream",
        )
    if transport is None:
        return Place(found.kind, found.address, found.shown, size, fps)
    if transport not in ("tcp", "udp") or found.kind != "rtsp":
        raise InputError(f"{found}: transport is tcp or udp, and for rtsp:// addresses")
    way: Literal["tcp", "udp"] = "udp" if transport == "udp" else "tcp"
    return Place(found.kind, found.address, found.shown, transport=way)


def _find(text: str) -> Place:
    if not text or any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text):
        raise InputError(f"{_masked(text)!r} names no camera", ALLOWED)
    scheme, colon, rest = text.partition(":")
    if "://" in text:
        if scheme.lower() not in _SCHEMES:
            raise InputError(f"onchip reads no {_masked(scheme)}:// addresses", ALLOWED)
        return _address(scheme.lower(), text.partition("://")[2])
    if text.startswith("/dev/"):
        return Place("usb", text, text)
    if colon and scheme.lower() in ("usb", "picamera"):
        return _attached(scheme.lower(), rest)
    return _file(text)


def _attached(scheme: str, name: str) -> Place:
    """A camera on this machine: its number; dshow (Windows) knows names only."""
    name = name.strip()
    if scheme == "usb" and name and sys.platform == "win32":
        return Place("usb", name, f"usb:{name}")
    if not (name.isascii() and name.isdigit()) or len(name) > 3:
        raise InputError(f"{scheme}:{name} names no camera", f"number them from 0, as {scheme}:0")
    return Place("usb" if scheme == "usb" else "pi", name, f"{scheme}:{int(name)}")


def _file(text: str) -> Place:
    path = Path(text)
    try:
        there = path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        there = False
    if not there:
        raise InputError(f"{_masked(text)} is neither a video nor a camera", ALLOWED)
    return Place("file", str(path), str(path))


def _address(scheme: str, rest: str) -> Place:
    """An address, its user name and password escaped; refused where it can be read in two ways."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    path = rest[len(authority) :]
    login, at, host = authority.rpartition("@")
    if "@" in path or "#" in path or not _is_host(host):
        shown = f"{scheme}://{'***@' if '@' in rest else ''}{_host_of(rest)}"
        raise InputError(f"the address {shown} cannot be read", _ESCAPES)
    user, colon, password = login.partition(":")
    sure = "".join((_escaped(user), colon, _escaped(password), at))
    seen = "".join((_escaped(user), colon and ":***", at))
    path = quote(path, safe="/?&=+,;:!$'()*~-._%[]")
    return Place(
        _SCHEMES[scheme],
        f"{scheme}://{sure}{host}{path}",
        f"{scheme}://{seen}{host}{_masked(path)}",
    )


def _is_host(host: str) -> bool:
    """Whether this is a name or address, with a port or without."""
    match = re.fullmatch(r"(?:\[[0-9A-Fa-f:.]+(?:%\w+)?\]|[\w.-]+)(?::([0-9]{1,5}))?", host)
    return match is not None and 0 < int(match[1] or 1) < 65536


def _host_of(rest: str) -> str:
    """The host of an address that cannot be read, to name it by; it may be a part of a secret."""
    host = re.split(r"[/?#]", rest.rpartition("@")[2], maxsplit=1)[0]
    return host if "@" in rest and _is_host(host) else "..."


def _escaped(text: str) -> str:
    """Escape what an address cannot hold; what is escaped already stays."""
    return "".join(
        part if re.fullmatch("%[0-9A-Fa-f]{2}", part) else quote(part, safe="")
        for part in re.split("(%[0-9A-Fa-f]{2})", text)
    )


def _masked(text: str) -> str:
    """Hide what may be a password in a text that will be shown."""
    text = re.sub(r":(?!//[^@:]*:).*@", ":***@", text, flags=re.DOTALL)
    return _SECRETS.sub(r"\1***", text)
