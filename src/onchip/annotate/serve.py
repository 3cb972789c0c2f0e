"""Start the server, say where it is, open the browser, and go on until Ctrl-C."""

import getpass
import hashlib
import os
import secrets
import shlex
import socket
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onchip.annotate.app import Desk, app
from onchip.annotate.classes import ClassFile
from onchip.annotate.coco_store import CocoLabels
from onchip.annotate.door import Door
from onchip.annotate.photos import Photos
from onchip.annotate.pictures import Pictures
from onchip.annotate.proposals import Proposals
from onchip.annotate.store import Labels, YoloLabels
from onchip.closing import Closing
from onchip.errors import InputError, UnsupportedError

if TYPE_CHECKING:
    import uvicorn

FIRST_PORT, PORTS = 20_000, 12_000  # below what systems hand out by themselves
HINTS = 8  # photos from which to learn what an ONNX model does not say of its pixels


@dataclass(frozen=True)
class Wanted:
    """What to serve, where, and to whom."""

    source: Path
    classes: tuple[str, ...] = ()
    coco: Path | None = None
    model: Path | None = None
    confidence: float = 0.25
    host: str = "127.0.0.1"
    port: int = 0
    password: str | None = None
    again: str = ""  # the command that starts it again


class Server(Closing):
    """A server that listens; `run` serves until Ctrl-C or `stop`.

    Raises:
        InputError: the folder, the model or the address will not do.
        UnsupportedError: the web libraries are not installed.
    """

    def __init__(self, wanted: Wanted, tell: Callable[[str], None] = lambda url: None) -> None:
        _installed()
        from PIL import Image

        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        self.photos = Photos(wanted.source)
        if all(photo.fault for photo in self.photos.all):
            raise _empty(self.photos)
        self.pictures = Pictures(self.photos)
        self.labels = self._labels(wanted)
        self.door = Door(wanted.host, wanted.password, lambda token: tell(self.url))
        self.socket = _listen(wanted.host, wanted.port, self.photos.id)
        self.host, self.port = wanted.host, self.socket.getsockname()[1]
        self.proposals = self._proposals(wanted)
        run = secrets.token_hex(8)
        parts = (self.photos, self.labels, self.door, self.pictures, self.proposals)
        self._server = _uvicorn(Desk(*parts, run, wanted.again), self.port)

    @property
    def url(self) -> str:
        """The address, with the token where one is needed and not spent."""
        place = f"http://{_spelled(self.host)}:{self.port}/"
        return f"{place}?token={self.door.token}" if self.door.token else place

    def run(self) -> None:
        """Serve until Ctrl-C, which is raised once all is closed, or `stop`."""
        if self.proposals is not None:
            self.proposals.start()
        self._server.run(sockets=[self.socket])

    def stop(self) -> None:
        """Make `run` return soon."""
        self._server.should_exit = True

    def close(self) -> None:
        """Give back the port and the model."""
        self.socket.close()
        if self.proposals is not None:
            self.proposals.close()

    def _labels(self, wanted: Wanted) -> Labels:
        if wanted.coco is not None:
            return CocoLabels(self.photos, self.pictures, wanted.coco, wanted.classes)
        classes = ClassFile(self.photos.source)
        classes.start(wanted.classes)
        return YoloLabels(self.photos, classes)

    def _proposals(self, wanted: Wanted) -> Proposals | None:
        if wanted.model is None:
            return None
        from onchip.detect.program import Limits
        from onchip.sight import open_sight

        some = [photo.path for photo in self.photos.all if not photo.fault][:HINTS]
        threads = max(1, (os.cpu_count() or 2) // 2)  # the rest is for the browser
        limits = Limits(confidence=wanted.confidence / 2)
        sight = open_sight(wanted.model, some, limits=limits, threads=threads)
        names, close = sight.labels, sight.close
        return Proposals(sight, names, wanted.confidence, self.photos, self.labels, close)


def open_browser(url: str) -> None:
    """Show the page, without waiting for the browser."""
    import webbrowser

    threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()


def tunnel(port: int, environment: Mapping[str, str]) -> str:
    """Return the ssh command that brings the port to the user's own machine; "" without ssh."""
    parts = environment.get("SSH_CONNECTION", "").split()
    if len(parts) != 4:
        return ""
    server = parts[2].removeprefix("::ffff:")
    at = f"{environment.get('USER') or getpass.getuser()}@{server}"
    other = f"-p {parts[3]} " if parts[3] != "22" else ""
    return f"ssh -N {other}-L {port}:127.0.0.1:{port} {shlex.quote(at)}"


def _installed() -> None:
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UnsupportedError(
            "the annotator needs a web server that is not installed",
            "pip install 'onchip[annotate]'",
        ) from error


def _empty(photos: Photos) -> InputError:
    found = photos.all
    if not found:
        return InputError(f"no photos in {photos.root}", "allowed are jpg, png, bmp, webp and tiff")
    return InputError(
        f"none of the {len(found)} photos in {photos.root} can be labelled",
        f"{found[0].name}: {found[0].fault}",
    )


def _listen(host: str, port: int, key: str) -> socket.socket:
    """Listen on a port. The one of a folder stays the same while it is free, because a browser
    keeps drafts by address: after a restart the open page finds the server, and its drafts.
    """  # fmt: skip
    own = FIRST_PORT + int(hashlib.sha256(f"{key} {_user()}".encode()).hexdigest(), 16) % PORTS
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for choice in (port,) if port else (own, 0):
        # Only a socket that names TCP does asyncio let send at once; on others the second half of
        # every answer waits 40 ms.
        made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        if os.name == "posix":  # elsewhere it would let two servers share a port
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((host, choice))
            made.listen(128)
        except OSError as error:
            made.close()
            if port or not choice or isinstance(error, socket.gaierror):
                why = f"cannot listen on {host}, port {choice or 'any'}: {error.strerror}"
                raise InputError(why, "choose another: --port, --host") from error
        else:
            return made
    raise AssertionError


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else getpass.getuser()


def _spelled(host: str) -> str:
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _uvicorn(desk: Desk, port: int) -> "uvicorn.Server":
    import uvicorn

    config = uvicorn.Config(
        app(desk, port),
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        proxy_headers=False,  # whoever asks must not choose the address that tries are counted by
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=2,
    )
    return uvicorn.Server(config)
