"""Where a server listens: its port, its address as people type it, and the way there by ssh."""

import errno
import getpass
import os
import shlex
import socket
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from onchip.errors import InputError, UnsupportedError

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

THIS = "name an address of this machine: 127.0.0.1, or 0.0.0.0 for all that it has"
BACKLOG = 128
GRACE = 2  # seconds that requests under way have when the server stops


def installed(what: str, extra: str) -> None:
    """Make sure that the web libraries are there.

    Raises:
        UnsupportedError: they are not.
    """
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UnsupportedError(
            f"{what} needs a web server that is not installed", f"pip install 'onchip[{extra}]'"
        ) from error


def listen(host: str, choices: Sequence[int], hint: str) -> socket.socket:
    """Listen on the first of some ports that is free; 0 is any.

    Raises:
        InputError: none can be had; `hint` says how another is chosen where others have them.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for at, choice in enumerate(choices, start=1):
        # Only a socket that names TCP does asyncio let send at once; on others the second half of
        # every answer waits 40 ms.
        made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        if os.name == "posix":  # elsewhere it would let two servers share a port
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((host, choice))
            made.listen(BACKLOG)
        except (OSError, TypeError, ValueError) as error:  # of what is no name at all
            made.close()
            taken = getattr(error, "errno", None) in (errno.EADDRINUSE, errno.EACCES)
            if at == len(choices) or not taken:
                text = getattr(error, "strerror", None) or "this is no name"
                why = f"cannot listen on {host!r}, port {choice or 'any'}: {text}"
                raise InputError(why, hint if taken else THIS) from error
        else:
            return made
    raise AssertionError


def url(host: str, port: int, token: str = "") -> str:
    """Return the address as people open it, with the token of a one-time link."""
    place = f"http://{_spelled(host)}:{port}/"
    return f"{place}?token={token}" if token else place


def server(app: "ASGIApp") -> "uvicorn.Server":
    """Return a uvicorn that is as closed as it can be."""
    import uvicorn

    from onchip.web.connections import Connection

    config = uvicorn.Config(
        app,
        http=Connection,
        backlog=BACKLOG,  # so many are let in before the first of them is looked at
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        proxy_headers=False,  # whoever asks must not choose the address that tries are counted by
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=GRACE,
    )
    return uvicorn.Server(config)


def open_browser(url: str) -> None:
    """Show the page, without waiting for the browser."""
    import webbrowser

    threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()


def tunnel(port: int, environment: Mapping[str, str]) -> str:
    """Return the ssh command that brings the port to the user's own machine; "" without ssh."""
    parts = environment.get("SSH_CONNECTION", "").split()
    if len(parts) != 4:
        return ""
    server = parts[2].removeprefix("::ffff:")
    at = f"{environment.get('USER') or getpass.getuser()}@{server}"
    other = f"-p {parts[3]} " if parts[3] != "22" else ""
    return f"ssh -N {other}-L {port}:127.0.0.1:{port} {shlex.quote(at)}"


def _spelled(host: str) -> str:
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host
