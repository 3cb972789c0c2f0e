"""Ctrl-C as a question that is answered between two pieces of work, instead of an exception in one.

An exception that comes while a queue is locked leaves it locked, and its other threads waiting.
"""

import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

IMPATIENT = 3.0  # seconds after the first Ctrl-C, from which the next one does not wait
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class Stop:
    """Whether an end was asked for. It holds no lock, so that a signal may set it at any moment."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self._near, self._far = near, far
        self.asked: float | None = None  # when, by the monotonic clock

    def __call__(self) -> bool:
        """Whether it was asked for."""
        return self.asked is not None

    def set(self) -> None:
        """Ask for the end."""
        if not self():
            self.asked = time.monotonic()
            self._far.send(b"!")

    def wait(self, seconds: float | None = None) -> None:
        """Wait until an end is asked for, but not longer than that."""
        with selectors.DefaultSelector() as waiting:  # select() knows no more than 1024 files
            waiting.register(self._near, selectors.EVENT_READ)
            waiting.select(seconds)


@contextmanager
def stopping(then: Callable[[], None] = lambda: None) -> Iterator[Stop]:
    """Give what is set by Ctrl-C or SIGTERM. Another one, some seconds later, interrupts.

    Not at once: what starts programs often passes on a signal that they got already.

    Args:
        then: is called in the signal as well, for what waits in its own way. It takes no lock.
    """
    near, far = socket.socketpair()
    far.setblocking(False)
    stop = Stop(near, far)

    def asked(number: int, frame: object) -> None:
        if stop.asked is not None and time.monotonic() - stop.asked > IMPATIENT:
            raise KeyboardInterrupt
        stop.set()
        then()

    known = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    with near, far:
        # A signal can come when Python looked for one and does not wait yet, or to another thread:
        # then nothing interrupts the waiting but a byte.
        woken = signal.set_wakeup_fd(far.fileno(), warn_on_full_buffer=False)
        before = {found: signal.signal(found, asked) for found in known}
        try:
            yield stop
        finally:
            for found, handler in before.items():
                signal.signal(found, handler)
            signal.set_wakeup_fd(woken)
