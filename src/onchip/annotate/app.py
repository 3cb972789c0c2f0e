"""The server: a page, and what it may ask for. It says no before it does anything.

Every request passes the guard first: who it is meant for (Host), where it comes from (Origin, Fetch
metadata), and whether its session is open. Answers that are no success are
`{"error": {"code", "message", "hint"}}`.
"""

import asyncio
import json
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote

import msgspec

from onchip.annotate import store
from onchip.annotate.door import Door, address_of, same_origin, same_site
from onchip.annotate.photos import MissingError, Photos
from onchip.annotate.pictures import Pictures
from onchip.annotate.proposals import Proposals, numbers
from onchip.annotate.saving import NotSavedError, StaleError
from onchip.annotate.store import Labels
from onchip.errors import InputError, OnchipError
from onchip.vision.draw import COLORS

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 8 << 20  # bytes of one save
PATIENCE = 2.0  # seconds that the page waits for the model before it asks again
MONTH = 30 * 24 * 3600
PAGE = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
USED = (
    "This link was used already. A new one has just been printed in the terminal where "
    "<code>onchip annotate</code> runs; open that."
)
CLOSED = (
    "This page is not open here. Open the link that <code>onchip annotate</code> printed in its "
    "terminal; the newest one, if it runs again since."
)
FORM = """<form method="post" action="/login">
<label>Password <input name="password" type="password" autocomplete="current-password" required
autofocus></label> <button>Come in</button></form>"""
SAFE = {
    b"content-security-policy": (
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        b"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"referrer-policy": b"same-origin",
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
}


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


class Guard:
    """Turns away what is not from our own page in an open session, and seals every answer."""

    def __init__(self, app: "ASGIApp", door: Door, cookie: str) -> None:
        self.app, self.door, self.cookie = app, door, cookie

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        from starlette.requests import Request

        if scope["type"] != "http":
            return

        async def sealed(message: "Message") -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                extra = {b"cache-control": b"no-store", **SAFE}
                message["headers"] += [(k, v) for k, v in extra.items() if k not in given]
            await send(message)

        refusal = self.refusal(Request(scope))
        await (refusal or self.app)(scope, receive, sealed)

    def refusal(self, request: "Request") -> "Response | None":
        """Return why a request is turned away, or None."""
        headers = request.headers
        path: str = request.scope["path"]  # as routes see it; a URL would be made with the Host
        if not self.door.serves(headers.get("host", "")):
            return _failure(421, "host", "this server does not go by that name")
        if request.method not in ("GET", "HEAD") and not same_origin(headers):
            return _failure(403, "origin", "this comes from another page")
        if path == "/" or path.startswith("/page/"):
            return None  # the door itself, and files that are no secret
        if not same_site(headers):
            return _failure(403, "site", "this comes from another site")
        if path != "/login" and not self.door.knows(request.cookies.get(self.cookie)):
            return _failure(401, "session", "this session is not open", "open the newest link")
        return None


def app(desk: Desk, port: int) -> "Starlette":
    """Return the server's ASGI application."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.routing import Route

    # One name per port: cookies do not tell the ports of a machine apart.
    cookie = f"onchip-annotate-{port}"
    rooms = Rooms(desk, cookie)
    routes = [
        Route("/", rooms.enter, methods=["GET"]),
        Route("/login", rooms.log_in, methods=["POST"]),
        Route("/page/{name}", rooms.page, methods=["GET"]),
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
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, door=desk.door, cookie=cookie)],
        exception_handlers={
            OnchipError: _told,
            OSError: _system,
            MemoryError: _system,
            404: _no_such,
            405: _no_such,
        },
    )


class Rooms:
    """What a request may ask for, one method each."""

    def __init__(self, desk: Desk, cookie: str) -> None:
        self.desk, self.cookie = desk, cookie

    async def enter(self, request: "Request") -> "Response":
        """The page, for those with a session; others show the token, or are asked."""
        door, token = self.desk.door, request.query_params.get("token")
        known = door.knows(request.cookies.get(self.cookie))
        if not known and request.headers.get("sec-fetch-site") == "cross-site":
            return _onward(token)  # a link on another site: our cookie is sent from here on
        session = door.enter(token, known) if token is not None else None
        if session is not None:
            return self._let_in(session)
        if known:
            return _file("index.html") if token is None else _onward()
        if door.asks:
            return _door("This page asks for a password.", form=FORM, status=401)
        return _door(CLOSED if token is None else USED, status=401)

    async def log_in(self, request: "Request") -> "Response":
        """Come in by the password. No other request runs between the check and its count."""
        address = address_of(request.client.host if request.client else "")
        body = await _body(request, "application/x-www-form-urlencoded", 4096)
        wait = self.desk.door.wait(address)
        if wait:
            answer = _door(f"Too many wrong passwords. Wait {round(wait) + 1} seconds.", status=429)
            answer.headers["retry-after"] = str(round(wait) + 1)
            return answer
        given = parse_qs(body.decode("utf-8", "replace")).get("password", [""])
        session = self.desk.door.log_in(given[0], address)
        if session is None:
            return _door("That was not the password.", form=FORM, status=401)
        return self._let_in(session)

    async def page(self, request: "Request") -> "Response":
        """The page's own files."""
        return _file(request.path_params["name"])

    def hello(self, request: "Request") -> "Response":
        """Whether the server is there, and the same one as before."""
        return _json({"run": self.desk.run, "id": self.desk.photos.id})

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
        return _json({**facts, "classes": self._classes()})

    def classes(self, request: "Request") -> "Response":
        """The list of classes as it is now."""
        return _json({"classes": self._classes()})

    async def rename(self, request: "Request") -> "Response":
        """Add a class, or call one something else."""
        body = await _body(request, "application/json")
        try:
            wanted = msgspec.json.decode(body, type=_Rename)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise InputError(f"this is no name for a class: {error}") from error
        work = partial(self.desk.labels.rename, wanted.version, wanted.index, wanted.name)
        await asyncio.to_thread(work)
        return _json({"classes": await asyncio.to_thread(self._classes)})

    def counts(self, request: "Request") -> "Response":
        """How many boxes each class has in the whole folder."""
        return _json({"counts": self.desk.labels.counts(self.desk.photos.all)})

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
            return _json({**facts, "damage": str(error)})
        return _json({**facts, "picture": picture, "tag": tag})

    async def save(self, request: "Request") -> "Response":
        """Write a photo's boxes."""
        photo = self.desk.photos.get(request.path_params["id"])
        wanted = store.decode(await _body(request, "application/json"))
        labelled = await asyncio.to_thread(self.desk.labels.save, photo, wanted)
        if self.desk.proposals is not None:
            await asyncio.to_thread(self.desk.proposals.compare, photo)
        return _json({"labels": labelled})

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
            return _json({"ready": False, "fault": "", "boxes": []})
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
        return _json({"ready": True, "fault": seen.fault, "boxes": boxes})

    def doubts(self, request: "Request") -> "Response":
        """How unsure the model is of the photos that it looked at since the last question."""
        proposals = self._model()
        after = request.query_params.get("after", "0")
        if not after.isdecimal():
            raise InputError("after must be a number")
        found, done, total = proposals.doubts(int(after))
        rows = [(d.id, round(d.value, 4), d.disagrees) for d in found]
        return _json({"doubts": rows, "done": done, "total": total})

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

    def _let_in(self, session: str) -> "Response":
        answer = _onward()
        answer.set_cookie(
            self.cookie, session, max_age=MONTH, path="/", httponly=True, samesite="strict"
        )
        return answer


class _Rename(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: str
    index: int
    name: str


async def _body(request: "Request", kind: str, most: int = MAX_BODY) -> bytes:
    """Read a request's body; nothing larger than allowed is ever held.

    Raises:
        UnfitError: it is of another kind, too large, or cut short.
    """
    from starlette.requests import ClientDisconnect

    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != kind:
        raise UnfitError(415, f"the body must be {kind}")
    body = b""
    try:
        async for part in request.stream():
            body += part
            if len(body) > most:
                raise UnfitError(413, f"the body is larger than {most} bytes")
    except ClientDisconnect as error:
        raise UnfitError(400, "the body was cut short") from error
    return body


class UnfitError(InputError):
    """A request whose body is not even looked at."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def _onward(token: str | None = None) -> "Response":
    """Lead to the page by a step of the browser's own.

    After a click on another site a browser withholds a strict cookie from a redirect; from this it
    does not.
    """
    place = "/" if token is None else f"/?token={quote(token, safe='')}"
    return _door("Coming in …", f'<meta http-equiv="refresh" content="0;url={place}">')


def _door(text: str, head: str = "", form: str = "", status: int = 200) -> "Response":
    """A page in front of the page."""
    from starlette.responses import Response

    page = Template((_place() / "door.html").read_text()).substitute(
        text=text, head=head, form=form
    )
    return Response(page, status, media_type="text/html")


def _file(name: str) -> "Response":
    from starlette.responses import Response

    kind = next((kind for end, kind in PAGE.items() if name.endswith(end)), None)
    if kind is None or name not in {entry.name for entry in _place().iterdir()}:
        return _failure(404, "missing", "there is no such page")
    return Response((_place() / name).read_bytes(), media_type=kind)


def _place() -> "Traversable":
    return files("onchip.annotate") / "page"


def _json(data: object, status: int = 200) -> "Response":
    from starlette.responses import Response

    try:
        body = msgspec.json.encode(data)
    except UnicodeEncodeError:  # the name of a folder or file that is no text
        body = json.dumps(msgspec.to_builtins(data)).encode()
    return Response(body, status, media_type="application/json")


def _failure(status: int, code: str, message: str, hint: str = "", **more: Any) -> "Response":
    return _json({"error": {"code": code, "message": message, "hint": hint, **more}}, status)


def _told(request: "Request", error: Exception) -> "Response":
    """Turn a failure into an answer."""
    assert isinstance(error, OnchipError)
    hint = error.hint
    match error:
        case UnfitError():
            return _failure(error.status, "body", str(error), hint)
        case StaleError():
            return _failure(409, error.what, str(error), hint)
        case NotSavedError():
            return _failure(507, "not saved", str(error), hint)
        case MissingError():
            return _failure(404, "missing", str(error), hint)
    return _failure(400, error.code, str(error), hint)


def _system(request: "Request", error: Exception) -> "Response":
    text = getattr(error, "strerror", None) or "this machine's memory is too small for that"
    return _failure(500, "system", str(text))


def _no_such(request: "Request", error: Exception) -> "Response":
    status = getattr(error, "status_code", 404)
    return _failure(status, "missing", "there is nothing here to do that with")
