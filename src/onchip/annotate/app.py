"""The server: a page, and what it may ask for. The guard of `onchip.web` stands before it."""

import asyncio
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING

import msgspec

from onchip.annotate import store
from onchip.annotate.photos import MissingError, Photos
from onchip.annotate.pictures import Pictures
from onchip.annotate.proposals import Proposals, numbers
from onchip.annotate.saving import NotSavedError, StaleError
from onchip.annotate.store import Labels
from onchip.errors import InputError
from onchip.vision.draw import COLORS
from onchip.web.answers import as_json, failure, handlers, read_body
from onchip.web.door import Door
from onchip.web.entrance import MONTH, Entrance

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

NAME = "onchip annotate"
MAX_BODY = 8 << 20  # bytes of one save
PATIENCE = 2.0  # seconds that the page waits for the model before it asks again


@dataclass(frozen=True)
class Desk:
    """Everything that one server works on."""

    photos: Photos
    labels: Labels
    door: Door
    pictures: Pictures
    proposals: Proposals | None
    run: str  # another for every start of the server
    again: str  # the command that starts it again


def app(desk: Desk, port: int) -> "Starlette":
    """Return the server's ASGI application."""
    from starlette.applications import Starlette
    from starlette.routing import Route

    entrance = Entrance(desk.door, NAME, files("onchip.annotate") / "page", port)
    rooms = Rooms(desk)
    routes = [
        *entrance.routes,
        Route("/api/folder", rooms.folder, methods=["GET"]),
        Route("/api/hello", rooms.hello, methods=["GET"]),
        Route("/api/counts", rooms.counts, methods=["GET"]),
        Route("/api/classes", rooms.classes, methods=["GET"]),
        Route("/api/classes", rooms.rename, methods=["POST"]),
        Route("/api/labels/{id}", rooms.labels, methods=["GET"]),
        Route("/api/labels/{id}", rooms.save, methods=["PUT"]),
        Route("/api/photo/{id}", rooms.photo, methods=["GET"]),
        Route("/api/proposals/{id}", rooms.proposed, methods=["GET"]),
        Route("/api/doubts", rooms.doubts, methods=["GET"]),
    ]
    own = {StaleError: _stale, NotSavedError: _not_saved, MissingError: _missing}
    return Starlette(
        routes=routes, middleware=entrance.middleware, exception_handlers={**handlers(), **own}
    )


class Rooms:
    """What a request may ask for, one method each."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def hello(self, request: "Request") -> "Response":
        """Whether the server is there, and the same one as before."""
        return as_json({"run": self.desk.run, "id": self.desk.photos.id})

    def folder(self, request: "Request") -> "Response":
        """All that the page needs to begin: the photos with their states, and the classes."""
        desk = self.desk
        photos = desk.photos.look()
        states = desk.labels.states(photos)
        if desk.proposals is not None:
            desk.proposals.renew(photos)
        rows = [(p.id, p.name, states.get(p.id, ""), p.fault or p.note) for p in photos]
        model = None if desk.proposals is None else {"names": desk.proposals.names}
        facts = {
            "run": desk.run,
            "id": desk.photos.id,
            "name": str(desk.photos.source),
            "again": desk.again,
            "photos": rows,
            "model": model,
            "forgets": desk.labels.forgets,
            "password": desk.door.asks,
            "colors": [f"rgb({r} {g} {b})" for b, g, r in COLORS],
        }
        return as_json({**facts, "classes": self._classes()})

    def classes(self, request: "Request") -> "Response":
        """The list of classes as it is now."""
        return as_json({"classes": self._classes()})

    async def rename(self, request: "Request") -> "Response":
        """Add a class, or call one something else."""
        body = await read_body(request, "application/json", MAX_BODY)
        try:
            wanted = msgspec.json.decode(body, type=_Rename)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise InputError(f"this is no name for a class: {error}") from error
        work = partial(self.desk.labels.rename, wanted.version, wanted.index, wanted.name)
        await asyncio.to_thread(work)
        return as_json({"classes": await asyncio.to_thread(self._classes)})

    def counts(self, request: "Request") -> "Response":
        """How many boxes each class has in the whole folder."""
        return as_json({"counts": self.desk.labels.counts(self.desk.photos.all)})

    def labels(self, request: "Request") -> "Response":
        """A photo's boxes, and how it is to be shown."""
        photo = self.desk.photos.get(request.path_params["id"])
        labelled = self.desk.labels.read(photo)
        facts: dict[str, object] = {"labels": labelled, "classes": self._classes()["version"]}
        try:
            picture, tag = self.desk.pictures.look(photo)
        except MissingError:
            raise
        except InputError as error:
            return as_json({**facts, "damage": str(error)})
        return as_json({**facts, "picture": picture, "tag": tag})

    async def save(self, request: "Request") -> "Response":
        """Write a photo's boxes."""
        photo = self.desk.photos.get(request.path_params["id"])
        wanted = store.decode(await read_body(request, "application/json", MAX_BODY))
        labelled = await asyncio.to_thread(self.desk.labels.save, photo, wanted)
        if self.desk.proposals is not None:
            await asyncio.to_thread(self.desk.proposals.compare, photo)
        return as_json({"labels": labelled})

    def photo(self, request: "Request") -> "Response":
        """A photo for the screen. Its address changes with the file, so a browser may keep it."""
        from starlette.responses import Response

        photo = self.desk.photos.get(request.path_params["id"])
        tag = f'"{self.desk.photos.tag(photo)}"'
        headers = {"etag": tag, "cache-control": "private, no-cache"}
        if request.query_params.get("v") == tag.strip('"'):
            headers["cache-control"] = f"private, max-age={MONTH}, immutable"
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        data, kind = self.desk.pictures.shown(photo, upright="upright" in request.query_params)
        return Response(data, media_type=kind, headers=headers)

    def proposed(self, request: "Request") -> "Response":
        """What the model would draw on a photo; `ready` is false while it is still looking."""
        proposals = self._model()
        photo = self.desk.photos.get(request.path_params["id"])
        patience = 0.0 if "soon" in request.query_params else PATIENCE
        seen = proposals.of(photo, patience)
        if seen is None:
            return as_json({"ready": False, "fault": "", "boxes": []})
        known = numbers(proposals.names, self.desk.labels.classes().names)
        boxes = [
            {
                "name": proposals.names[c] if c < len(proposals.names) else str(c),
                "index": known.get(c),
                "score": round(score, 4),
                "corners": [float(v) for v in box],
            }
            for box, score, c in proposals.kept(seen)
        ]
        return as_json({"ready": True, "fault": seen.fault, "boxes": boxes})

    def doubts(self, request: "Request") -> "Response":
        """How unsure the model is of the photos that it looked at since the last question."""
        proposals = self._model()
        after = request.query_params.get("after", "0")
        if not after.isdecimal():
            raise InputError("after must be a number")
        found, done, total = proposals.doubts(int(after))
        rows = [(d.id, round(d.value, 4), d.disagrees) for d in found]
        return as_json({"doubts": rows, "done": done, "total": total})

    def _model(self) -> Proposals:
        if self.desk.proposals is None:
            raise MissingError("there is no model", "start with --model best.onnx")
        return self.desk.proposals

    def _classes(self) -> dict[str, object]:
        place = str(self.desk.labels.place)
        try:
            found = self.desk.labels.classes()
        except InputError as error:  # somebody is in the middle of editing it
            return {"names": [], "version": "", "place": place, "fault": f"{error}. {error.hint}"}
        return {"names": found.names, "version": found.version, "place": place, "fault": ""}


class _Rename(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: str
    index: int
    name: str


def _stale(request: "Request", error: Exception) -> "Response":
    assert isinstance(error, StaleError)
    return failure(409, error.what, str(error), error.hint)


def _not_saved(request: "Request", error: Exception) -> "Response":
    assert isinstance(error, NotSavedError)
    return failure(507, "not saved", str(error), error.hint)


def _missing(request: "Request", error: Exception) -> "Response":
    assert isinstance(error, MissingError)
    return failure(404, "missing", str(error), error.hint)
