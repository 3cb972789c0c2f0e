"""A ZeroMQ endpoint that answers Frigate's `zmq` detector with whatever onchip can run.

Frigate asks once for its model, whose file it would send, and then sends one frame after another:
a header in JSON and the pixels. Whatever comes is answered, for a client that gets no answer waits.
"""

import ipaddress
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct

from onchip.closing import Closing
from onchip.detect.program import Limits
from onchip.detections import Detections
from onchip.errors import InputError, OnchipError, ToolError
from onchip.sight import Sight
from onchip.vision.frigate import ROWS, THRESHOLD, rows
from onchip.vision.preprocess import Image
from onchip.writing import alone

ENDPOINT = "ipc:///tmp/onchip/zmq_detector"  # Frigate's own default lies inside its container
LIMITS = Limits(confidence=THRESHOLD, most=ROWS)  # Frigate looks at nothing below
MOST_BYTES = 64 << 20  # of a message; what claims more is cut off by the socket
MOST_SIDE = 8192  # pixels
PARTS = 2  # of a message that is looked at
WAITS = (1.0, 60.0)  # seconds until a chip that failed is opened again, the first and the longest
GLANCE = 0.2  # seconds between two looks at whether the end was asked for
HEADER = msgspec.json.encode({"shape": [ROWS, 6], "dtype": "float32"})
NOTHING = np.zeros((ROWS, 6), np.float32)

Rows = npt.NDArray[np.float32]


class _Asked(Struct):
    """What a header may say; other keys are not looked at."""

    model_request: bool = False
    model_data: bool = False
    shape: Annotated[tuple[int, ...], Meta(max_length=8)] = ()
    dtype: Annotated[str, Meta(max_length=32)] = ""


@dataclass
class Figures:
    """What was served since the last look, and what went wrong last."""

    frames: int = 0
    refused: int = 0
    failed: int = 0
    seconds: float = 0.0  # spent looking
    since: float = 0.0
    trouble: str = ""

    def data(self) -> dict[str, object]:
        """The figures for --json."""
        return {
            "frames": self.frames,
            "fps": round(self.frames / max(time.monotonic() - self.since, 1e-3), 2),
            "ms": round(1000 * self.seconds / self.frames, 2) if self.frames else None,
            "refused": self.refused,
            "failed": self.failed,
            "trouble": self.trouble,
        }

    def line(self) -> str:
        """The figures for people."""
        found = self.data()
        each = "" if found["ms"] is None else f", {found['ms']:.1f} ms each"
        rest = [f"{n} {what}" for n, what in self._wrong() if n]
        said = f" ({self.trouble})" if rest and self.trouble else ""
        return f"{found['fps']:.1f} frames a second{each}{''.join(f', {r}' for r in rest)}{said}"

    def _wrong(self) -> tuple[tuple[int, str], ...]:
        return (self.refused, "refused"), (self.failed, "not looked at")


class Eyes(Closing):
    """A model on a chip, which is opened again, later and later, after it failed."""

    def __init__(self, opened: Callable[[], Sight]) -> None:
        self._opened = opened
        self._sight: Sight | None = opened()  # a chip that is not there is said at once
        self._wait = WAITS[0]
        self._again = 0.0

    def __call__(self, image: Image) -> Rows:
        """Look at a BGR image.

        Raises:
            OnchipError: the chip fails, or is waited for.
        """
        if self._sight is None and time.monotonic() < self._again:
            raise ToolError("the chip failed, and is opened again soon")
        try:
            self._sight = self._sight or self._opened()
            found = self._sight(image)
        except Exception as error:
            self._fell()
            if isinstance(error, OnchipError):
                raise
            raise ToolError(f"looking failed: {type(error).__name__}: {error}") from error
        self._wait = WAITS[0]
        height, width = image.shape[:2]
        best = found[np.argsort(-found.scores, kind="stable")]
        inside = np.clip(best.boxes, 0, (width, height, width, height))
        return rows(Detections(inside, best.scores, best.classes), (width, height))

    def _fell(self) -> None:
        """Let go of the chip, and be patient."""
        self._again = time.monotonic() + self._wait
        self._wait = min(2 * self._wait, WAITS[1])
        with suppress(Exception):  # it failed already, and that is what is said
            self.close()
        self._sight = None

    def close(self) -> None:
        """Give the chip back."""
        if self._sight is not None:
            self._sight.close()


def answer(message: Sequence[bytes], look: Callable[[Image], Rows], count: Figures) -> list[bytes]:
    """Answer one message, whatever it is, and count it."""
    try:
        asked = _header(message)
        if asked.model_request:
            return [msgspec.json.encode({"model_available": True, "model_loaded": True})]
        if asked.model_data:  # ours is loaded already; what was sent is dropped
            return [msgspec.json.encode({"model_saved": True, "model_loaded": True})]
        image = frame(asked.shape, asked.dtype, message[1:])
    except InputError as error:
        count.refused += 1
        count.trouble = str(error)
        return _refusal(error)
    began = time.monotonic()
    try:
        seen = look(image)
    except OnchipError as error:
        count.failed += 1
        count.trouble = str(error)
        return _refusal(error)
    count.frames += 1
    count.seconds += time.monotonic() - began
    return [HEADER, seen.tobytes()]


def _refusal(error: OnchipError) -> list[bytes]:
    """Say that nothing was seen, as Frigate reads it, and why, as others may."""
    header = {"shape": [ROWS, 6], "dtype": "float32", "error": str(error)}
    return [msgspec.json.encode(header), NOTHING.tobytes()]


def _header(message: Sequence[bytes]) -> _Asked:
    if not message or len(message) > PARTS:
        raise InputError(f"a message of {len(message)} parts instead of a header and a frame")
    try:
        return msgspec.json.decode(message[0][:4096], type=_Asked)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InputError(f"a header that does not read: {str(error)[:200]}") from error


def frame(shape: tuple[int, ...], dtype: str, parts: Sequence[bytes]) -> Image:
    """Return a frame of RGB bytes, `(1, H, W, 3)` or `(1, 3, H, W)`, as a BGR image.

    Raises:
        InputError: it is no such frame.
    """
    if dtype != "uint8":
        raise InputError(f"a frame of {dtype!r}: Frigate needs model.input_dtype: int")
    if len(shape) != 4 or shape[0] != 1 or 3 not in (shape[1], shape[3]):
        raise InputError(f"a frame of shape {shape}: Frigate needs model.input_tensor: nhwc")
    last = shape[3] == 3
    sides = shape[1:3] if last else shape[2:]
    if not all(0 < side <= MOST_SIDE for side in sides):
        raise InputError(f"a frame of {sides[1]}x{sides[0]} pixels")
    data = parts[0] if parts else b""
    if len(data) != math.prod(shape):
        raise InputError(f"a frame of {len(data)} bytes that should have {math.prod(shape)}")
    pixels = np.frombuffer(data, np.uint8).reshape(shape[1:])
    if not last:
        pixels = pixels.transpose(1, 2, 0)
    return np.ascontiguousarray(pixels[:, :, ::-1])


def beyond(endpoint: str) -> bool:
    """Whether others than this machine can reach an endpoint.

    Raises:
        InputError: it is none that can be served.

    >>> beyond("tcp://127.0.0.1:5555"), beyond("ipc:///tmp/x"), beyond("tcp://*:5555")
    (False, False, True)
    """
    scheme, _, rest = endpoint.partition("://")
    host, _, port = rest.rpartition(":")
    if scheme == "ipc" and rest.startswith("/") and len(rest) > 1:
        return False
    if scheme != "tcp" or not host or not (port.isascii() and port.isdigit()):
        raise InputError(
            f"{endpoint} cannot be served", "allowed: ipc:///a/path, or tcp://127.0.0.1:5555"
        )
    try:
        return not ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host != "localhost"


@contextmanager
def serve(endpoint: str) -> Iterator[Callable[..., None]]:
    """Listen at an endpoint; what is given back serves there until it is told to stop.

    Raises:
        InputError: nothing can listen there, or another onchip does.
    """
    try:
        import zmq
    except ModuleNotFoundError as error:
        raise InputError("pyzmq is not installed", "pip install 'onchip[frigate]'") from error
    if beyond(endpoint) or not endpoint.startswith("ipc://"):
        with _bound(zmq, endpoint) as socket:
            yield _server(socket)
        return
    with alone(Path(endpoint.removeprefix("ipc://")).parent), _bound(zmq, endpoint) as socket:
        yield _server(socket)


@contextmanager
def _bound(zmq: Any, endpoint: str) -> Iterator[Any]:
    with zmq.Context() as context, context.socket(zmq.REP) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, MOST_BYTES)
        socket.setsockopt(zmq.SNDTIMEO, 1000)
        socket.setsockopt(zmq.IPV6, 1)
        try:
            socket.bind(endpoint.replace("tcp://localhost:", "tcp://127.0.0.1:"))
        except zmq.ZMQError as error:
            raise InputError(
                f"cannot listen at {endpoint}: {error}",
                "name another place: --endpoint; Docker makes a missing folder for root alone",
            ) from error
        yield socket


def _server(socket: Any) -> Callable[..., None]:
    """Return what serves a socket: look, whether to stop, and what to do with figures when."""

    def run(
        look: Callable[[Image], Rows],
        stop: Callable[[], bool],
        tell: Callable[[Figures], None],
        every: float,
    ) -> None:
        count = Figures(since=time.monotonic())
        while not stop():
            if socket.poll(1000 * GLANCE):
                socket.send_multipart(answer(socket.recv_multipart(), look, count))
            if time.monotonic() - count.since >= every:
                tell(count)
                count = Figures(since=time.monotonic())

    return run
