"""How each part is, and how long to wait before it is tried again."""

import random
import threading
import time
from collections.abc import Callable
from typing import Literal

from onchip.errors import OnchipError
from onchip.watch.values import PartState

State = Literal["starting", "ok", "failing"]

RECENT = 120.0  # seconds after the first failure, in which no wait is longer than the next
SOON = 4.0  # seconds


class Health:
    """What state each part is in, for whoever looks. Any thread may tell and ask.

    `on_change` are called with a part's new state after each change, by the thread that told it.
    """

    def __init__(self) -> None:
        self.on_change: list[Callable[[PartState], None]] = []
        self._parts: dict[str, PartState] = {}
        self._lock = threading.Lock()

    def starting(self, name: str, message: str = "") -> None:
        """Say that a part has begun and does not work yet."""
        self._set(name, "starting", message)

    def ok(self, name: str, message: str = "") -> None:
        """Say that a part works."""
        self._set(name, "ok", message)

    def failing(
        self, name: str, error: BaseException | str, hint: str = "", retry: float | None = None
    ) -> None:
        """Say that a part does not work, why, and in how many seconds it is tried again."""
        if isinstance(error, OnchipError):
            hint = hint or error.hint
        again = None if retry is None else time.time() + retry
        self._set(name, "failing", told(error), hint, again)

    def part(self, name: str) -> PartState:
        """Return how a part is; one that nobody spoke of is starting."""
        with self._lock:
            return self._parts.get(name) or PartState(name=name, state="starting")

    def parts(self) -> tuple[PartState, ...]:
        """Return how all parts are, in the order in which they were first spoken of."""
        with self._lock:
            return tuple(self._parts.values())

    def _set(
        self, name: str, state: State, message: str, hint: str = "", retry: float | None = None
    ) -> None:
        with self._lock:
            old = self._parts.get(name)
            since = old.since if old is not None and old.state == state else time.time()
            new = PartState(
                name=name, state=state, message=message, hint=hint, since=since, retry=retry
            )
            self._parts[name] = new
        if new != old:
            for tell in tuple(self.on_change):
                tell(new)


class Backoff:
    """How long to wait after each failure in a row: `first` seconds, doubling up to `most`.

    In the first two minutes it is a few seconds at most, so that what was away for a moment is soon
    back. A wait is up to a quarter shorter by chance, so that parts that failed together do not
    come back together.
    """

    def __init__(
        self,
        first: float = 1.0,
        most: float = 30.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.first, self.most = first, most
        self._now = now
        self._next = first
        self._since: float | None = None

    def failed(self) -> float:
        """Return how many seconds to wait now."""
        now = self._now()
        self._since = now if self._since is None else self._since
        most = min(self.most, SOON) if now - self._since < RECENT else self.most
        wait, self._next = min(most, self._next), min(most, self._next * 2)
        return wait * random.uniform(0.75, 1.0)  # noqa: S311 - nobody is kept out by it

    def worked(self) -> None:
        """Begin with the first wait again."""
        self._next, self._since = self.first, None


def keep_trying(
    work: Callable[[], None], name: str, health: Health, ends: threading.Event, backoff: Backoff
) -> None:
    """Do `work` until it returns; where it raises, say so, wait and do it again, until `ends`.

    `work` itself says when it is well: `health.ok(name)` and `backoff.worked()`.
    """
    while not ends.is_set():
        try:
            return work()
        except Exception as error:  # noqa: BLE001 - shown as the state of the part
            wait = backoff.failed()
            health.failing(name, error, retry=wait)
            ends.wait(wait)
    return None


def told(error: BaseException | str) -> str:
    """Return one line that says what happened, also for errors that are not onchip's.

    >>> told(ValueError("odd"))
    'ValueError: odd'
    """
    text = " ".join(str(error).split())[:300]
    if isinstance(error, OnchipError | OSError | str):
        return text or type(error).__name__
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
