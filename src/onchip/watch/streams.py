"""Answers that go on: pictures of the cameras, and news. Whoever is too slow gets less, or has to
come again; nobody waits for them, and nothing piles up.
"""  # fmt: skip

import asyncio
import contextlib
import struct
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

import cv2
import msgspec
import numpy as np
from starlette.responses import Response

from onchip.errors import DeviceError
from onchip.vision.preprocess import Image
from onchip.watch.values import Sighting, WatchState

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

WIDTHS = (320, 480, 640, 960, 1280, 1920)  # pixels; what is asked for is rounded up
QUALITY = 78  # of a JPEG
TICK = 0.025  # seconds between two looks for something new
BREATH = 5.0  # seconds after which a stream says that it is still there
STALL = 30.0  # seconds after which a client that takes nothing has gone
EVERY = 2.0  # seconds between two states
WAITING = 64  # news that may wait for one client


class Picture(Protocol):
    """What is needed of a camera's picture: when it was taken, and its pixels."""

    @property
    def at(self) -> float: ...  # of the monotonic clock
    @property
    def size(self) -> tuple[int, int]: ...
    def bgr(self) -> Image: ...


UNSHOWN = (OSError, ValueError, MemoryError, cv2.error)  # a picture that cannot be made a JPEG

T = TypeVar("T")
Look = tuple[Picture, tuple[Sighting, ...], int]  # the last is its number


class BusyError(DeviceError):
    """There is no seat left."""


@dataclass
class Seats:
    """How many streams of one kind there are, and may be."""

    what: str
    most: int
    taken: int = 0

    @contextlib.contextmanager
    def seat(self) -> Iterator[None]:
        """Take a seat for the time of the block.

        Raises:
            BusyError: none is left.
        """
        if self.taken >= self.most:
            raise BusyError(
                f"{self.most} {self.what} are open already", "close one of the other pages"
            )
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


class Stream(Response):
    """An answer without end. It ends when the client goes or takes nothing, or the server stops."""

    def __init__(
        self, parts: AsyncGenerator[bytes, None], kind: str, seats: Seats, stopping: asyncio.Event
    ) -> None:
        super().__init__(media_type=kind, headers={"x-accel-buffering": "no"})
        del self.headers["content-length"]
        self.parts, self.stopping = parts, stopping
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(seats.seat())  # before anything is promised

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        with self._stack:
            sender = asyncio.create_task(self._send(send, scope["method"] == "HEAD"))
            others = [
                asyncio.create_task(_gone(receive)),
                asyncio.create_task(self.stopping.wait()),
            ]
            try:
                await asyncio.wait([sender, *others], return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (sender, *others):
                    task.cancel()
                await asyncio.gather(sender, *others, return_exceptions=True)
        if not sender.cancelled():
            sender.result()  # a failure of ours is one
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: "Send", head: bool) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with contextlib.aclosing(self.parts) as parts:
            while not head and (part := await anext(parts, None)) is not None:
                if not await self._hand(send, part):
                    return

    async def _hand(self, send: "Send", part: bytes) -> bool:
        """Hand over a part and wait for room: only then is chosen what comes next, so that it is
        the newest. Return whether the client took it.
        """  # fmt: skip
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STALL):
                await send({"type": "http.response.body", "body": part, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": True})
                return True
        return False


async def _gone(receive: "Receive") -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Views:
    """Pictures of cameras as JPEGs: each made once for all who look, and none while nobody does."""

    def __init__(self, latest: Callable[[str], Look | None]) -> None:
        self.latest = latest
        self.encoded = 0  # since the start
        self._looking = 0
        self._made: dict[tuple[str, int], tuple[int, asyncio.Future[bytes]]] = {}
        # One thread, so that those who look never take more than one core from the cameras.
        self._pool = ThreadPoolExecutor(1, "onchip-view")

    async def frames(self, cameras: tuple[str, ...], width: int) -> AsyncGenerator[bytes, None]:
        """Yield the newest pictures of cameras, each with its header; see `frame`."""
        sent: dict[str, int] = {}
        told = time.monotonic()
        self._looking += 1
        try:
            yield frame({})  # the answer has begun
            while True:
                some = False
                for camera in cameras:
                    look = self.latest(camera)
                    if look is None or look[2] == sent.get(camera):
                        continue
                    sent[camera], some = look[2], True
                    try:
                        data = await self._jpeg(camera, look, width)
                    except UNSHOWN:
                        continue  # the next one may be
                    yield _shown(camera, look, data)
                if some:
                    told = time.monotonic()
                elif time.monotonic() - told > BREATH:
                    told = time.monotonic()
                    yield frame({})
                else:
                    await asyncio.sleep(TICK)
        finally:
            self._looking -= 1
            if not self._looking:
                self._made.clear()

    async def run(self, work: Callable[[], T]) -> T:
        """Do some work on pictures in the one thread that there is for it."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown(cancel_futures=True)

    async def _jpeg(self, camera: str, look: Look, width: int) -> bytes:
        key, number = (camera, width), look[2]
        made = self._made.get(key)
        if made is None or made[0] != number:
            self.encoded += 1
            work = asyncio.get_running_loop().run_in_executor(
                self._pool, lambda: encode(look[0].bgr(), width)
            )
            made = self._made[key] = (number, work)
        # Shielded: others wait for it too.
        return await asyncio.shield(made[1])


def encode(image: Image, width: int | None = None) -> bytes:
    """Return an image as a JPEG, not wider than some pixels."""
    tall, wide = image.shape[:2]
    if width is not None and width < wide:
        size = (width, max(1, round(tall * width / wide)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return data.tobytes()


def rounded(width: int) -> int:
    """Return the width that is served to those who want some width: few, so that they share."""
    return next((w for w in WIDTHS if w >= width), WIDTHS[-1])


def frame(header: dict[str, object], data: bytes = b"") -> bytes:
    """Return a message: how long its header is (4 bytes, big-endian), the header, and a picture.

    The header is JSON; its `bytes` says how long the picture is.
    """
    head = msgspec.json.encode({**header, "bytes": len(data)})
    return struct.pack(">I", len(head)) + head + data


def _shown(camera: str, look: Look, data: bytes) -> bytes:
    picture, sightings, number = look
    age = round(1000 * (time.monotonic() - picture.at))
    facts = {"camera": camera, "number": number, "age": age, "size": picture.size}
    return frame({**facts, "sightings": sightings}, data)


@dataclass(eq=False)
class _Reader:
    """One client of the news."""

    queue: asyncio.Queue[bytes | None] = field(default_factory=lambda: asyncio.Queue(WAITING))

    def put(self, line: bytes) -> bool:
        """Hand over one more; return whether the client keeps up."""
        with contextlib.suppress(asyncio.QueueFull):
            self.queue.put_nowait(line)
            return True
        while not self.queue.empty():
            self.queue.get_nowait()
        self.queue.put_nowait(None)
        return False


class News:
    """Tells all clients what happens, as server-sent events. It lives in the server's loop."""

    def __init__(self, state: Callable[[], WatchState], hello: dict[str, object]) -> None:
        self.state, self.hello = state, hello
        self._readers: set[_Reader] = set()
        self._ticking: asyncio.Task[None] | None = None

    async def lines(self) -> AsyncGenerator[bytes, None]:
        """Yield the news of one client: a greeting, the state at once, then what comes."""
        reader = _Reader()
        self._readers.add(reader)
        if self._ticking is None or self._ticking.done():
            self._ticking = asyncio.create_task(self._tick())
        try:
            yield line("hello", self.hello)
            yield line("state", await asyncio.to_thread(self.state))
            while (found := await reader.queue.get()) is not None:
                yield found
        finally:
            self._readers.discard(reader)

    def tell(self, kind: str, data: object) -> None:
        """Tell all clients; one that does not keep up is dropped, and asks again for everything."""
        if not self._readers:
            return
        said = line(kind, data)
        self._readers = {reader for reader in self._readers if reader.put(said)}

    async def _tick(self) -> None:
        while self._readers:
            await asyncio.sleep(EVERY)
            if self._readers:
                self.tell("state", await asyncio.to_thread(self.state))


def line(kind: str, data: object) -> bytes:
    """Return one server-sent event."""
    return f"event: {kind}\ndata: ".encode() + msgspec.json.encode(data) + b"\n\n"
