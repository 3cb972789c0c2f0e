"""The way in: the page before the page, the one-time link, the password, and a page's own files."""

from dataclasses import dataclass
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote

from onchip.web.answers import failure, read_body
from onchip.web.door import Door, address_of

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

MONTH = 30 * 24 * 3600
KINDS = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webmanifest": "application/manifest+json",
}
SHARED = ("base.css", "dom.js")  # with the pages of all servers
USED = (
    "This link was used already. A new one has just been printed in the terminal where "
    "<code>$name</code> runs; open that."
)
CLOSED = (
    "This page is not open here. Open the link that <code>$name</code> printed in its "
    "terminal; the newest one, if it runs again since."
)
FORM = """<form method="post" action="/login">
<label>Password <input name="password" type="password" autocomplete="current-password" required
autofocus></label> <button>Sign in</button></form>"""


@dataclass(frozen=True)
class Entrance:
    """Lets people in to one server's page. `name` is the command that serves it: `onchip watch`.

    `page` is the folder of the page's own files, with its `index.html` and `style.css`.
    """

    door: Door
    name: str
    page: "Traversable"
    port: int

    @property
    def cookie(self) -> str:
        """One name per server and port: cookies do not tell the ports of a machine apart."""
        return f"{self.name.replace(' ', '-')}-{self.port}"

    @property
    def middleware(self) -> "list[Middleware]":
        """The guard, which every request passes."""
        from starlette.middleware import Middleware

        from onchip.web.guard import Guard

        return [Middleware(Guard, door=self.door, cookie=self.cookie)]

    @property
    def routes(self) -> "list[Route]":
        """The page, the ways in and out, and the page's files."""
        from starlette.routing import Route

        return [
            Route("/", self.enter, methods=["GET"]),
            Route("/login", self.log_in, methods=["POST"]),
            Route("/logout", self.log_out, methods=["POST"]),
            Route("/page/{name}", self.file, methods=["GET"]),
        ]

    async def enter(self, request: "Request") -> "Response":
        """The page, for those with a session; others show the token, or are asked."""
        door, token = self.door, request.query_params.get("token")
        session = request.cookies.get(self.cookie)
        known = door.knows(session)
        if not known and request.headers.get("sec-fetch-site") == "cross-site":
            return self._onward(token)  # a link on another site: our cookie is sent from here on
        fresh = door.enter(token, known) if token is not None else None
        if fresh is not None:
            return self._let_in(request, fresh)
        if known:
            return self._file("index.html") if token is None else self._onward()
        if door.asks:
            return self._front("This page asks for a password.", form=FORM, status=401)
        return self._front(CLOSED if token is None else USED, status=401)

    async def log_in(self, request: "Request") -> "Response":
        """Come in by the password. No other request runs between the check and its count."""
        address = address_of(request.client.host if request.client else "")
        body = await read_body(request, "application/x-www-form-urlencoded", 4096)
        wait = self.door.wait(address)
        if wait:
            text = f"Too many wrong passwords. Wait {round(wait) + 1} seconds."
            answer = self._front(text, status=429)
            answer.headers["retry-after"] = str(round(wait) + 1)
            return answer
        given = parse_qs(body.decode("utf-8", "replace")).get("password", [""])
        session = self.door.log_in(given[0], address)
        if session is None:
            return self._front("That was not the password.", form=FORM, status=401)
        return self._let_in(request, session)

    async def log_out(self, request: "Request") -> "Response":
        """End the session of this browser."""
        self.door.leave(request.cookies.get(self.cookie))
        answer = self._onward()
        answer.delete_cookie(self.cookie, path="/", httponly=True, samesite="strict")
        return answer

    async def file(self, request: "Request") -> "Response":
        """The page's own files."""
        return self._file(request.path_params["name"])

    def _let_in(self, request: "Request", session: str) -> "Response":
        answer = self._onward()
        secure = request.headers.get("origin", "").startswith("https:")  # through a proxy with TLS
        answer.set_cookie(
            self.cookie, session, max_age=MONTH, path="/", httponly=True, samesite="strict",
            secure=secure,
        )  # fmt: skip
        return answer

    def _onward(self, token: str | None = None) -> "Response":
        """Lead to the page by a step of the browser's own.

        After a click on another site a browser withholds a strict cookie from a redirect; from this
        it does not.
        """
        place = "/" if token is None else f"/?token={quote(token, safe='')}"
        return self._front("One moment …", f'<meta http-equiv="refresh" content="0;url={place}">')

    def _front(self, text: str, head: str = "", form: str = "", status: int = 200) -> "Response":
        """A page in front of the page."""
        from starlette.responses import Response

        said = Template(text).substitute(name=self.name)
        made = Template((_shared() / "door.html").read_text()).substitute(
            name=self.name, text=said, head=head, form=form
        )
        return Response(made, status, media_type="text/html")

    def _file(self, name: str) -> "Response":
        from starlette.responses import Response

        place = _shared() if name in SHARED else self.page
        kind = next((kind for end, kind in KINDS.items() if name.endswith(end)), None)
        if kind is None or name not in {entry.name for entry in place.iterdir()}:
            return failure(404, "missing", "there is no such page")
        return Response((place / name).read_bytes(), media_type=kind)


def _shared() -> "Traversable":
    return files("onchip.web") / "page"
