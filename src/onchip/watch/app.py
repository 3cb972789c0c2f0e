"""What the page of a watch may ask for. The guard of `onchip.web` stands before it."""

import asyncio
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Protocol

import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from onchip.errors import DeviceError, InputError
from onchip.vision.draw import COLORS
from onchip.vision.preprocess import Image, decode_image
from onchip.watch import streams
from onchip.watch.marks import marked
from onchip.watch.streams import BusyError, Look, News, Seats, Stream, Views
from onchip.watch.values import Box, Event, WatchState
from onchip.web.answers import as_json, failure, handlers
from onchip.web.door import Door
from onchip.web.entrance import Entrance
from onchip.web.files import send_file

NAME = "onchip watch"
LIVE = 24  # pages that show pictures at a time
READERS = 64  # pages that hear news
PER_PAGE = 50  # events in one answer, and the most
MOST = 200
LONGEST = 200  # characters of a name that is asked for
THUMBS = 256  # small pictures that are kept in memory
THUMB = (320, 240)  # pixels of one


class Stored(Protocol):
    """The events that were kept. `before` is the id of the last one that is known."""

    def events(
        self, *, before: str | None = None, limit: int = 50, camera: str | None = None,
        label: str | None = None, zone: str | None = None,
    ) -> Sequence[Event]: ...  # fmt: skip
    def event(self, event: str, /) -> Event | None: ...
    def snapshot(self, event: str, /) -> Path | None: ...
    def clip(self, event: str, /) -> Path | None: ...
    def delete(self, event: str, /) -> object: ...


class Watched(Protocol):
    """All that a page sees of a watch. Any thread may ask.

    `subscribe` has a function called with every event that is "new", has an "update", or is at its
    "end", by whatever thread.
    """

    @property
    def store(self) -> Stored: ...
    def state(self) -> WatchState: ...
    def latest(self, camera: str, /) -> Look | None: ...
    def subscribe(self, told: Callable[[Event, str], None], /) -> None: ...


class Rooms:
    """What a request may ask for, one method each. Made for one run of the server's loop."""

    def __init__(self, watch: Watched, door: Door) -> None:
        self.watch, self.door = watch, door
        self.views = Views(watch.latest)
        colors = [f"rgb({r} {g} {b})" for b, g, r in COLORS]
        self.hello = {"run": secrets.token_hex(8), "password": door.asks, "colors": colors}
        self.news = News(watch.state, self.hello)
        self.stopping = asyncio.Event()
        self._live = Seats("pages with pictures", LIVE)
        self._readers = Seats("pages", READERS)
        self._thumbs: OrderedDict[tuple[str, int], bytes] = OrderedDict()

    @property
    def routes(self) -> list[Route]:
        """What is asked where."""
        return [
            Route("/live", self.live, methods=["GET"]),
            Route("/api/news", self.hear, methods=["GET"]),
            Route("/api/hello", self.greet, methods=["GET"]),
            Route("/api/state", self.state, methods=["GET"]),
            Route("/api/cameras/{name}/latest.jpg", self.latest, methods=["GET"]),
            Route("/api/events", self.events, methods=["GET"]),
            Route("/api/events/{id}", self.event, methods=["GET"]),
            Route("/api/events/{id}", self.delete, methods=["DELETE"]),
            Route("/api/events/{id}/snapshot.jpg", self.snapshot, methods=["GET"]),
            Route("/api/events/{id}/thumb.jpg", self.thumb, methods=["GET"]),
            Route("/api/events/{id}/clip.mp4", self.clip, methods=["GET"]),
        ]

    async def live(self, request: Request) -> Response:
        """Pictures of the cameras that are asked for, all in one answer, as they come."""
        known = await asyncio.to_thread(self._cameras)
        wanted = _text(request, "cameras", most=LONGEST * 100)
        names = tuple(dict.fromkeys(wanted.split(","))) if wanted else known
        if strange := [name for name in names if name not in known]:
            return failure(404, "missing", f"there is no camera called {strange[0]}")
        width = streams.rounded(_number(request, "width", 640, 16, 10_000))
        parts = self.views.frames(names, width)
        return Stream(parts, "application/octet-stream", self._live, self.stopping)

    async def hear(self, request: Request) -> Response:
        """What happens: events, and the state every two seconds, as server-sent events."""
        return Stream(self.news.lines(), "text/event-stream", self._readers, self.stopping)

    async def greet(self, request: Request) -> Response:
        """What does not change while the server runs; `run` is another at every start."""
        return as_json(self.hello)

    def state(self, request: Request) -> Response:
        """How everything is."""
        return as_json(self.watch.state())

    async def latest(self, request: Request) -> Response:
        """The newest picture of a camera; with `boxes=1` what was found is drawn on it."""
        name = request.path_params["name"]
        if name not in await asyncio.to_thread(self._cameras):
            return failure(404, "missing", "there is no such camera")
        look = self.watch.latest(name)
        if look is None:
            return failure(503, "no picture", f"{name} has sent no picture yet")
        boxes = request.query_params.get("boxes", "0") not in ("", "0")
        data = await self.views.run(lambda: streams.encode(_picture(look, boxes)))
        age = f"{time.monotonic() - look[0].at:.3f}"
        return Response(data, media_type="image/jpeg", headers={"x-age": age})

    def events(self, request: Request) -> Response:
        """Events, the newest first, from the one that was named on."""
        limit = _number(request, "limit", PER_PAGE, 1, MOST)
        names = ("before", "camera", "label", "zone")
        before, camera, label, zone = (_text(request, name) or None for name in names)
        found = self.watch.store.events(
            before=before, limit=limit, camera=camera, label=label, zone=zone
        )
        return as_json({"events": found, "more": len(found) == limit, "time": time.time()})

    def event(self, request: Request) -> Response:
        """One event."""
        found = self._event(request)
        return as_json({"event": found, "time": time.time()}) if found else _no_event()

    async def delete(self, request: Request) -> Response:
        """Remove an event with its picture and video."""
        found = await asyncio.to_thread(self._event, request)
        if found is None:
            return _no_event()
        await asyncio.to_thread(self.watch.store.delete, found.id)
        self.news.tell("gone", found.id)
        return as_json({"deleted": found.id})

    def snapshot(self, request: Request) -> Response:
        """The picture of an event's best moment."""
        found = self._event(request)
        path = self.watch.store.snapshot(found.id) if found else None
        if found is None or path is None:
            return _no_event("picture")
        return send_file(request, path, "image/jpeg", f"{title(found)}.jpg", _saves(request))

    def clip(self, request: Request) -> Response:
        """The video of an event."""
        found = self._event(request)
        path = self.watch.store.clip(found.id) if found else None
        if found is None or path is None:
            return _no_event("video")
        return send_file(request, path, "video/mp4", f"{title(found)}.mp4", _saves(request))

    async def thumb(self, request: Request) -> Response:
        """A small picture of what an event is about."""
        found = await asyncio.to_thread(self._event, request)
        path = await asyncio.to_thread(self.watch.store.snapshot, found.id) if found else None
        if found is None or path is None:
            return _no_event("picture")
        try:
            key = (found.id, path.stat().st_mtime_ns)
            data = self._thumbs.get(key)
            if data is None:
                data = await self.views.run(lambda: thumbnail(path.read_bytes(), found.box))
        except FileNotFoundError:
            return _no_event("picture")
        self._thumbs[key] = data
        self._thumbs.move_to_end(key)
        while len(self._thumbs) > THUMBS:
            self._thumbs.popitem(last=False)
        kept = {"cache-control": "private, max-age=604800"} if "v" in request.query_params else {}
        return Response(data, media_type="image/jpeg", headers=kept)

    def _event(self, request: Request) -> Event | None:
        wanted = request.path_params["id"]
        return self.watch.store.event(wanted) if re.fullmatch(r"[\w:.-]{1,99}", wanted) else None

    def _cameras(self) -> tuple[str, ...]:
        return tuple(camera.name for camera in self.watch.state().cameras)


def app(rooms: Rooms, port: int, page: Door) -> Starlette:
    """Return the server's ASGI application."""
    entrance = Entrance(page, NAME, files("onchip.watch") / "page", port)
    return Starlette(
        routes=[*entrance.routes, *rooms.routes],
        middleware=entrance.middleware,
        exception_handlers={**handlers(), DeviceError: _not_now, BusyError: _busy},
    )


def thumbnail(data: bytes, box: Box) -> bytes:
    """Return a small picture of what is in a box, with some of what is around it."""
    image = decode_image(np.frombuffer(data, np.uint8), "the picture of this event")
    tall, wide = image.shape[:2]
    x1, y1, x2, y2 = box
    shape = THUMB[0] / THUMB[1]
    # Some air around the object; never less than a third of the picture, so that one sees where.
    height = min(
        tall, wide / shape, max(1.5 * (y2 - y1) * tall, 1.5 * (x2 - x1) * wide / shape, tall / 3)
    )
    width = height * shape
    left = min(max(0.0, (x1 + x2) / 2 * wide - width / 2), wide - width)
    top = min(max(0.0, (y1 + y2) / 2 * tall - height / 2), tall - height)
    cut = image[int(top) : int(top + height), int(left) : int(left + width)]
    return streams.encode(cut, THUMB[0])


def title(event: Event) -> str:
    """Return what a file of an event is called, by the server's own time."""
    at = time.strftime("%Y-%m-%d %H-%M-%S", time.localtime(event.start))
    return f"{event.camera} {event.label} {at}".replace("/", "-")


def _picture(look: Look, boxes: bool) -> Image:
    picture, sightings, _ = look
    return marked(picture.bgr(), sightings) if boxes else picture.bgr()


def _text(request: Request, name: str, most: int = LONGEST) -> str:
    text = request.query_params.get(name, "")
    if len(text) > most:
        raise InputError(f"{name} is too long")
    return text


def _number(request: Request, name: str, usual: int, least: int, most: int) -> int:
    text = request.query_params.get(name, str(usual))
    if not (text.isascii() and text.isdecimal() and len(text) < 9):
        raise InputError(f"{name} must be a whole number")
    return min(max(int(text), least), most)


def _saves(request: Request) -> bool:
    return "download" in request.query_params


def _no_event(what: str = "event") -> Response:
    return failure(404, "missing", f"there is no such {what}", "it may have been deleted")


def _not_now(request: Request, error: Exception) -> Response:
    assert isinstance(error, DeviceError)
    return failure(503, error.code, str(error), error.hint)


def _busy(request: Request, error: Exception) -> Response:
    assert isinstance(error, BusyError)
    answer = failure(503, "busy", str(error), error.hint)
    answer.headers["retry-after"] = "5"
    return answer
