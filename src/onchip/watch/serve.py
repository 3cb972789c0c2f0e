"""The page of a watch, served from a thread of its own."""

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onchip.closing import Closing
from onchip.watch.values import Event
from onchip.web import listen
from onchip.web.door import Door

if TYPE_CHECKING:
    from onchip.watch.app import Rooms, Watched

SESSIONS = "sessions"  # the file of who came in, in the folder of events
PATIENCE = 30  # seconds until the system gives up on a client that takes nothing
AHEAD = 64 << 10  # bytes that may wait for a slow client, so that what it gets is new
QUIET = (
    "ASGI callable returned without completing response.",
    "Cancel %s running task(s)",
    "Invalid HTTP request received.",
    "Unsupported upgrade request.",
    "No supported WebSocket library detected.",
)


@dataclass(frozen=True)
class Wanted:
    """Where to serve, and to whom. `names` are others by which people reach it, as by a proxy."""

    host: str = "127.0.0.1"
    port: int = 8470
    password: str | None = None
    names: tuple[str, ...] = ()
    data: Path | None = None  # where sessions are kept over a restart


class Server(Closing):
    """A server that listens from the start, and serves from `start` to `close`.

    Raises:
        InputError: the address is taken or not this machine's, or there is no good password.
        UnsupportedError: the web libraries are not installed.
    """

    def __init__(
        self, watch: "Watched", wanted: Wanted, tell: Callable[[str], None] = lambda url: None
    ) -> None:
        listen.installed("the page", "watch")
        self.watch = watch
        sessions = wanted.data / SESSIONS if wanted.data is not None else None
        self.door = Door(
            wanted.host, wanted.password, lambda token: tell(self.url), sessions=sessions,
            names=wanted.names,
        )  # fmt: skip
        self.host = wanted.host
        hint = "another program has it, maybe another onchip watch; choose another: page.port"
        self.socket = listen.listen(wanted.host, (wanted.port,), hint)
        _hasten(self.socket)
        self.port: int = self.socket.getsockname()[1]
        self.rooms: Rooms | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._began = threading.Event()
        self._thread = threading.Thread(target=self._run, name="onchip-page", daemon=True)

    @property
    def url(self) -> str:
        """The address, with the token where one is needed and not spent."""
        return listen.url(self.host, self.port, self.door.token)

    def start(self) -> None:
        """Serve from now on, in a thread."""
        self._thread.start()
        self._began.wait()
        self.watch.subscribe(self._told)

    def close(self) -> None:
        """End all answers and the thread, and give back the port."""
        with self._lock:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._stop)
        if self._thread.ident is not None:
            self._thread.join()
        self.socket.close()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        finally:
            self._began.set()

    async def _serve(self) -> None:
        from onchip.watch.app import Rooms, app

        self.rooms = rooms = Rooms(self.watch, self.door)
        self._server = listen.server(app(rooms, self.port, self.door))
        logging.getLogger("uvicorn.error").addFilter(_quiet)
        self._loop = asyncio.get_running_loop()
        self._began.set()
        try:
            await self._server.serve(sockets=[self.socket])
        finally:
            with self._lock:
                self._loop = None
            rooms.views.close()

    def _stop(self) -> None:
        if self.rooms is not None:
            self.rooms.stopping.set()
        self._server.should_exit = True

    def _told(self, event: Event, kind: str) -> None:
        with self._lock:
            if self._loop is not None and self.rooms is not None:
                news = {"type": kind, "event": event}
                self._loop.call_soon_threadsafe(self.rooms.news.tell, "event", news)


def _hasten(listening: socket.socket) -> None:
    """Let little wait for slow clients, and give up on those that have gone; where it is known."""
    for name, value in (("TCP_NOTSENT_LOWAT", AHEAD), ("TCP_USER_TIMEOUT", PATIENCE * 1000)):
        if hasattr(socket, name):
            with contextlib.suppress(OSError):
                listening.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _quiet(record: logging.LogRecord) -> bool:
    """Whether a line of the log is one for people: not what a client did, which anybody may be."""
    kind = record.exc_info[0] if record.exc_info else None
    return kind is not asyncio.CancelledError and not str(record.msg).startswith(QUIET)
