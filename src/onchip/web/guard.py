"""The guard before a server: it says no before anything is done, and seals every answer.

Every request passes it first: who it is meant for (Host), where it comes from (Origin, Fetch
metadata), and whether its session is open.
"""

from typing import TYPE_CHECKING

from onchip.web.answers import failure
from onchip.web.door import Door, same_site

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

SAFE = {
    b"content-security-policy": (
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        b"media-src 'self'; manifest-src 'self'; "
        b"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"referrer-policy": b"same-origin",
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
}


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
            return failure(421, "host", "this server does not go by that name")
        if request.method not in ("GET", "HEAD") and not self.door.trusts(headers):
            return failure(403, "origin", "this comes from another page")
        if path == "/" or path.startswith("/page/"):
            return None  # the door itself, and files that are no secret
        if not same_site(headers):
            return failure(403, "site", "this comes from another site")
        if path != "/login" and not self.door.knows(request.cookies.get(self.cookie)):
            hint = "give the password" if self.door.asks else "open the newest link"
            return failure(401, "session", "this session is not open", hint)
        return None
