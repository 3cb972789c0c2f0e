"""What a server answers. What is no success is `{"error": {"code", "message", "hint"}}`."""

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from onchip.errors import InputError, OnchipError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

PATIENCE = 60.0  # seconds in which a body has to be there

Handler = Callable[["Request", Exception], "Response"]


class UnfitError(InputError):
    """A request whose body is not even looked at."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def as_json(data: object, status: int = 200) -> "Response":
    """Answer with a value as JSON."""
    from starlette.responses import Response

    try:
        body = msgspec.json.encode(data)
    except UnicodeEncodeError:  # the name of a folder or file that is no text
        body = json.dumps(msgspec.to_builtins(data)).encode()
    return Response(body, status, media_type="application/json")


def failure(status: int, code: str, message: str, hint: str = "") -> "Response":
    """Answer that something cannot be done, and why."""
    return as_json({"error": {"code": code, "message": message, "hint": hint}}, status)


def handlers() -> Mapping[Any, Handler]:
    """Return how failures become answers; a server adds its own for kinds of its own."""
    return {
        UnfitError: _unfit,
        OnchipError: _told,
        OSError: _system,
        MemoryError: _system,
        404: _no_such,
        405: _no_such,
    }


async def read_body(request: "Request", kind: str, most: int) -> bytes:
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
        async with asyncio.timeout(PATIENCE):
            async for part in request.stream():
                body += part
                if len(body) > most:
                    raise UnfitError(413, f"the body is larger than {most} bytes")
    except ClientDisconnect as error:
        raise UnfitError(400, "the body was cut short") from error
    except TimeoutError as error:
        raise UnfitError(408, "the body did not come") from error
    return body


def _unfit(request: "Request", error: Exception) -> "Response":
    assert isinstance(error, UnfitError)
    return failure(error.status, "body", str(error), error.hint)


def _told(request: "Request", error: Exception) -> "Response":
    assert isinstance(error, OnchipError)
    return failure(400, error.code, str(error), error.hint)


def _system(request: "Request", error: Exception) -> "Response":
    text = getattr(error, "strerror", None) or "this machine's memory is too small for that"
    return failure(500, "system", str(text))


def _no_such(request: "Request", error: Exception) -> "Response":
    status = getattr(error, "status_code", 404)
    return failure(status, "missing", "there is nothing here to do that with")
