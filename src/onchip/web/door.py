"""Who may come in: by the one-time token of the printed link, or by a password.

The token is spent by its first use, so a link that somebody finds later (in a log, a history, a
list of processes) opens nothing. Whoever shows a spent one gets in only with a session; otherwise a
new link is printed in the terminal, where the person who started the server can read it.
"""

import contextlib
import hashlib
import hmac
import ipaddress
import re
import secrets
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from onchip.errors import InputError
from onchip.writing import write_whole

SESSIONS = 256  # the most that are open; the oldest goes
SPENT = 64  # links that are remembered as used
TRIES = 5  # wrong passwords from one address before it has to wait
WAIT = 10.0  # seconds after those, doubled by each further one
MOST_WAIT = 900.0
ADDRESSES = 4096  # that are remembered
LEAST_PASSWORD = 8  # characters


class Door:
    """Decides about hosts, tokens, passwords and sessions.

    Nothing is written anywhere, except where a file of sessions is named: there their digests are
    kept, so that a server that starts again knows its visitors. A digest opens nothing, and what
    was opened under another password counts no more. `names` are other names by which people reach
    this server, as through a proxy.

    Raises:
        InputError: the address is not this machine's own and there is no good password.
    """

    def __init__(
        self,
        address: str,
        password: str | None = None,
        tell: Callable[[str], None] = lambda token: None,
        now: Callable[[], float] = time.monotonic,
        sessions: Path | None = None,
        names: Iterable[str] = (),
    ) -> None:
        self.address = address
        self.local = is_loopback(address)
        if not self.local and password is None:
            raise InputError(
                f"{address} can be reached by others, so a password is needed",
                "use --password-file FILE, or stay on this machine and use an ssh tunnel",
            )
        if password is not None and len(password) < LEAST_PASSWORD:
            raise InputError(f"the password is too short: at least {LEAST_PASSWORD} characters")
        self.token = secrets.token_urlsafe(24) if password is None else ""
        self._password = _digest(password) if password is not None else None
        self._tell, self._now = tell, now
        self._spent: OrderedDict[bytes, None] = OrderedDict()
        self._names = frozenset(name.lower() for name in names)
        self._file = sessions
        self._sessions = _kept(sessions)
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def asks(self) -> bool:
        """Whether people come in by a password."""
        return self._password is not None

    def knows(self, session: str | None) -> bool:
        """Whether a session is open."""
        return session is not None and self._mark(session) in self._sessions

    def enter(self, token: str, known: bool = False) -> str | None:
        """Exchange the token for a session; None if it is wrong or spent.

        Where it was right once, and who shows it is not `known`, a new link is told.
        """
        with self._lock:
            given = _digest(token)
            if self.token and hmac.compare_digest(given, _digest(self.token)):
                _keep(self._spent, given, SPENT)
                self.token = ""
                return self._session()
            again = given in self._spent and not known
            if again and not self.token:
                self.token = secrets.token_urlsafe(24)
        if again:
            self._tell(self.token)
        return None

    def log_in(self, password: str, address: str) -> str | None:
        """Exchange the password for a session; None if it is wrong. Ask `wait` first."""
        right = self._password is not None and hmac.compare_digest(
            _digest(password), self._password
        )
        with self._lock:
            if right:
                self._wrong.pop(address, None)
                return self._session()
            count = self._wrong.get(address, (0, 0.0))[0] + 1
            wait = 0.0 if count < TRIES else min(MOST_WAIT, WAIT * 2.0 ** (count - TRIES))
            self._wrong[address] = (count, self._now() + wait)
            self._wrong.move_to_end(address)
            while len(self._wrong) > ADDRESSES:
                self._wrong.popitem(last=False)
        return None

    def leave(self, session: str | None) -> None:
        """Close a session."""
        with self._lock:
            if session is not None and self._sessions.pop(self._mark(session), "") is None:
                self._save()

    def wait(self, address: str) -> float:
        """Return for how many seconds an address may not try again."""
        return max(0.0, self._wrong.get(address, (0, 0.0))[1] - self._now())

    def serves(self, host: str) -> bool:
        """Whether a Host header names this machine; a page of some other name is an attack.

        A name that an attacker owns can be made to lead here (DNS rebinding); a number cannot.
        Ports may differ: an ssh tunnel has its own.
        """
        name = _name(host)
        if name == "localhost" or is_loopback(name) or name in self._names:
            return True
        if self.local:
            return False
        own = socket.gethostname().lower()
        return _is_address(name) or name in (self.address.lower(), own, f"{own}.local")

    def trusts(self, headers: Mapping[str, str]) -> bool:
        """Whether the page that changes something is the one that this server gave out.

        By a name that it was given it may be reached through a proxy with TLS.
        """
        host, origin = headers.get("host", ""), headers.get("origin", "")
        named = _name(host) in self._names
        return origin == f"http://{host}" or (named and origin == f"https://{host}")

    def _session(self) -> str:
        session = secrets.token_urlsafe(32)
        _keep(self._sessions, self._mark(session), SESSIONS)
        self._save()
        return session

    def _mark(self, session: str) -> bytes:
        """Return what is kept of a session; it is worth nothing under another password."""
        return hmac.digest(self._password or b"none", session.encode("utf-8", "replace"), "sha256")

    def _save(self) -> None:
        """Keep the sessions. Where that fails people come in again after a restart, no more."""
        if self._file is None:
            return
        with contextlib.suppress(OSError, InputError):
            # A file keeps its permissions when it is replaced.
            self._file.touch(0o600)
            self._file.chmod(0o600)
            write_whole(self._file, "".join(f"{m.hex()}\n" for m in self._sessions).encode())


def read_password(file: Path) -> str:
    """Read the password of a page.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        return file.read_text("utf-8").strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the password from {file}: {error}") from error


def is_loopback(address: str) -> bool:
    """Whether an address is this machine's own and nobody else's way in."""
    try:
        return address == "localhost" or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def same_site(headers: Mapping[str, str]) -> bool:
    """Whether a request comes from our own page, or from the person at the browser."""
    return headers.get("sec-fetch-site", "none") in ("same-origin", "none")


def address_of(client: str) -> str:
    """Return what counts as one visitor: an IPv4 address, or an IPv6 network."""
    try:
        found = ipaddress.ip_address(client)
    except ValueError:
        return client
    if found.version == 6 and found.ipv4_mapped is not None:
        found = found.ipv4_mapped  # as a server on :: sees them all
    if found.version == 4 or found.is_loopback:
        return str(found)
    return str(ipaddress.ip_network((found, 64), strict=False))


def _name(host: str) -> str:
    """Return a Host header without its port; "" where it is more or less than a name and a port."""
    found = re.fullmatch(r"(?:\[([0-9a-f:.]+)\]|([\w.-]+))(?::\d{1,5})?", host.lower(), re.ASCII)
    return (found[1] or found[2]).rstrip(".") if found else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()


def _keep(known: OrderedDict[bytes, None], entry: bytes, most: int) -> None:
    known[entry] = None
    while len(known) > most:
        known.popitem(last=False)


def _kept(file: Path | None) -> OrderedDict[bytes, None]:
    """Read the sessions of the last start; a file that is damaged or not there holds none."""
    with contextlib.suppress(OSError, ValueError):
        if file is not None:
            lines = file.read_text("ascii").split()[-SESSIONS:]
            return OrderedDict((bytes.fromhex(line), None) for line in lines)
    return OrderedDict()
