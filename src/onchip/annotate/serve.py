"""Start the server, say where it is, open the browser, and go on until Ctrl-C."""

import getpass
import hashlib
import os
import secrets
import socket
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from onchip.annotate.app import Desk, app
from onchip.annotate.classes import ClassFile
from onchip.annotate.coco_store import CocoLabels
from onchip.annotate.photos import Photos
from onchip.annotate.pictures import Pictures
from onchip.annotate.proposals import Proposals
from onchip.annotate.store import Labels, YoloLabels
from onchip.closing import Closing
from onchip.errors import InputError
from onchip.web import listen
from onchip.web.door import Door

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
        listen.installed("the annotator", "annotate")
        from PIL import Image

        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        self.photos = Photos(wanted.source)
        if all(photo.fault for photo in self.photos.all):
            raise _empty(self.photos)
        self.pictures = Pictures(self.photos)
        self.labels = self._labels(wanted)
        self.door = Door(wanted.host, wanted.password, lambda token: tell(self.url))
        self.socket = self._listen(wanted)
        self.host, self.port = wanted.host, self.socket.getsockname()[1]
        self.proposals = self._proposals(wanted)
        run = secrets.token_hex(8)
        parts = (self.photos, self.labels, self.door, self.pictures, self.proposals)
        self._server = listen.server(app(Desk(*parts, run, wanted.again), self.port))

    @property
    def url(self) -> str:
        """The address, with the token where one is needed and not spent."""
        return listen.url(self.host, self.port, self.door.token)

    def run(self) -> None:
        """Serve until Ctrl-C, or `stop`, which may come first."""
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

    def _listen(self, wanted: Wanted) -> socket.socket:
        """Listen on a port. The one of a folder stays the same while it is free, because a browser
        keeps drafts by address: after a restart the open page finds the server, and its drafts.
        """  # fmt: skip
        key = f"{self.photos.id} {_user()}".encode()
        own = FIRST_PORT + int(hashlib.sha256(key).hexdigest(), 16) % PORTS
        choices = (wanted.port,) if wanted.port else (own, 0)
        return listen.listen(wanted.host, choices, "choose another: --port, --host")

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


def _empty(photos: Photos) -> InputError:
    found = photos.all
    if not found:
        return InputError(f"no photos in {photos.root}", "allowed are jpg, png, bmp, webp and tiff")
    return InputError(
        f"none of the {len(found)} photos in {photos.root} can be labelled",
        f"{found[0].name}: {found[0].fault}",
    )


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else getpass.getuser()
