"""Cameras: a connection to one, and a thread that keeps it."""

import contextlib
import random
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Generic, Literal, Self, TypeVar

from onchip.closing import Closing
from onchip.detect import feed
from onchip.detect.feed import Ask
from onchip.detect.lost import LostError
from onchip.detect.picture import Picture, Stream
from onchip.detect.place import Place

if TYPE_CHECKING:
    from onchip.detect.feed import OnPacket

__all__ = ["Camera", "Connection", "Latest", "LostError", "Picture", "Seen", "Stream"]

T = TypeVar("T")


def _way(place: Place) -> Callable[[Ask], Iterator[Picture]]:
    """How pictures of a camera are had; what is not needed is not imported."""
    if place.kind == "http":
        from onchip.detect import web

        return web.pictures
    if place.kind == "pi":
        from onchip.detect import picamera

        return picamera.pictures
    return {"file": feed.clip, "usb": feed.attached, "rtsp": feed.network}[place.kind]


class Connection(Closing):
    """One connection to a camera: yields its pictures until it is lost or closed.

    It is opened when the first picture is asked for. What is asked for late is not made up for:
    pictures wait nowhere but in the system's own buffers, and are skipped when they have waited.

    Args:
        place: the camera.
        stall: seconds of silence after which it is lost.
        rate: pictures a second that are given; all where None (of a camera that is asked for each
            single picture: one a second).
        opened: is told what the camera sends, before its first packet.
        on_packet: gets each packet of the video before it is decoded, on the reading thread. Its
            times grow, also where a clip begins again. A Pi camera has none.

    Raises (while iterating):
        LostError: it cannot be reached, or no longer.
    """

    def __init__(
        self,
        place: Place,
        *,
        stall: float = 10.0,
        rate: float | None = None,
        opened: Callable[[Stream], None] | None = None,
        on_packet: "OnPacket | None" = None,
    ) -> None:
        self.place = place
        self._ask = Ask(place, stall, rate, opened, on_packet)
        self._pictures = self._read()

    def _read(self) -> Generator[Picture, None, None]:
        try:
            yield from _way(self.place)(self._ask)
        except LostError:
            if not self._ask.closed.is_set():
                raise

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Picture:
        if self._ask.closed.is_set():
            raise StopIteration
        try:
            return next(self._pictures)
        except ValueError:  # it is being closed just now
            if self._ask.closed.is_set():
                raise StopIteration from None
            raise

    @property
    def skipped(self) -> int:
        """How many packets were not decoded, since the decoder had fallen behind the camera."""
        return self._ask.skipped

    def close(self) -> None:
        """End it, also from another thread: a read that waits then ends within about a second."""
        self._ask.close()
        # Where another thread reads, it sees that this is closed, and puts all away.
        with contextlib.suppress(ValueError):
            self._pictures.close()


State = Literal["connecting", "live", "waiting"]


@dataclass(frozen=True)
class Seen:
    """How a camera is. While "waiting", `error` says why and `retry` when it is tried again.

    `retry` is of the monotonic clock.
    """

    state: State
    error: LostError | None = None
    retry: float | None = None


class Waits:
    """How long to wait before a lost camera is tried again, in seconds.

    1 doubling to 30, a little more or less each time, so that cameras of one switch do not come at
    once. After a cut of a stream that had been live it is 4 at most for two minutes: with the time
    that opening takes, a restored camera is back within 10. A wrong password is tried again after
    30 doubling to 300, as cameras lock accounts. A change of size is not waited for.
    """

    def __init__(self) -> None:
        self._tries = self._refusals = 0
        self._cut = float("-inf")

    def after(self, error: LostError, lived: float | None, now: float) -> float:
        """Return the wait after a loss. `lived` is how long pictures came, None where none did."""
        if lived is not None:
            self._cut, self._refusals = now, 0
        if lived is not None and lived >= 5:
            self._tries = 0
            if error.why == "changed":
                return 0.0
        if error.why == "refused":
            self._refusals += 1
            return _jittered(min(300.0, 30.0 * 2 ** min(self._refusals - 1, 8)))
        self._tries += 1
        most = 3.6 if now - self._cut < 120 else 27.0
        return _jittered(min(most, 2.0 ** min(self._tries - 1, 8)))


def _jittered(wait: float) -> float:
    return wait * random.uniform(0.9, 1.1)  # noqa: S311 - no secret


class Camera(Closing):
    """Keeps one camera connected, on a thread of its own.

    Args:
        place: the camera.
        take: gets each picture that is due, on the camera's thread: to be quick, as `Latest.put`.
        rate: pictures a second that are given; all where None.
        opened: is told what the camera sends, at each new connection.
        packet: gets each packet of the video before it is decoded.
        tell: is told when the camera's state changes.
        stall: seconds of silence after which it is lost.
    """

    def __init__(
        self,
        place: Place,
        take: Callable[[Picture], None],
        *,
        rate: float | None = None,
        opened: Callable[[Stream], None] | None = None,
        packet: "OnPacket | None" = None,
        tell: Callable[[Seen], None] | None = None,
        stall: float = 10.0,
    ) -> None:
        self.place = place
        self._take = take
        self._tell = tell or (lambda seen: None)
        self._make: Callable[[], Connection] = partial(
            Connection, place, stall=stall, rate=rate, opened=opened, on_packet=packet
        )
        self._closed = threading.Event()
        self._connection: Connection | None = None
        self._skipped = 0
        self._thread = threading.Thread(
            target=self._run, name=f"onchip-camera {place}", daemon=True
        )

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    def close(self) -> None:
        """End it, and wait until its thread has ended."""
        self._closed.set()
        connection = self._connection
        if connection is not None:
            connection.close()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    @property
    def skipped(self) -> int:
        """How many packets were not decoded so far, since the decoder had fallen behind."""
        connection = self._connection
        return self._skipped + (connection.skipped if connection is not None else 0)

    def _run(self) -> None:
        waits = Waits()
        while not self._closed.is_set():
            self._tell(Seen("connecting"))
            error, lived = self._once()
            if error is None or self._closed.is_set():
                return
            now = time.monotonic()
            wait = waits.after(error, lived, now)
            self._tell(Seen("waiting", error, now + wait))
            self._closed.wait(wait)

    def _once(self) -> tuple[LostError | None, float | None]:
        """Connect once; return why that ended, and for how long pictures came."""
        began: float | None = None
        with self._make() as connection:
            self._connection = connection
            if self._closed.is_set():  # closed just before it could be seen
                return None, None
            try:
                for picture in connection:
                    if began is None:
                        began = picture.at
                        self._tell(Seen("live"))
                    self._take(picture)
            except LostError as error:
                return error, None if began is None else time.monotonic() - began
            finally:
                self._connection = None
                self._skipped += connection.skipped
        return None, None


class Latest(Generic[T]):
    """A slot for one thing: what is put later takes the place of what nobody has taken."""

    def __init__(self) -> None:
        self._things: list[T] = []
        self._changed = threading.Condition()

    def put(self, thing: T) -> None:
        """Put a thing in."""
        with self._changed:
            self._things[:] = [thing]
            self._changed.notify()

    def get(self, timeout: float | None = None) -> T | None:
        """Take what is there; wait for it at most `timeout` seconds. None if nothing came."""
        with self._changed:
            self._changed.wait_for(lambda: self._things, timeout)
            return self._things.pop() if self._things else None
