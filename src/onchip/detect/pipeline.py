"""Decode ahead and write behind, so that the chip never waits."""

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")
AHEAD = 4


def ahead(items: Iterator[T], depth: int = AHEAD) -> Generator[T]:
    """Yield from `items`, which is drawn from on a thread of its own, at most `depth` ahead."""
    ready: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def offer(entry: tuple[bool, T | BaseException | None]) -> None:
        while not stopped.is_set():
            try:
                ready.put(entry, timeout=0.1)
            except queue.Full:
                continue
            else:
                return

    def work() -> None:
        try:
            for item in items:
                offer((True, item))
                if stopped.is_set():
                    return
            offer((False, None))
        except BaseException as error:  # noqa: BLE001 - raised again by the reader
            offer((False, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            alive, item = ready.get()
            if alive:
                yield item  # type: ignore[misc]
            elif item is None:
                return
            else:
                raise item  # type: ignore[misc]
    finally:
        stopped.set()


class Behind(Generic[T]):
    """Does work on a thread of its own, in order, at most `depth` behind.

    What goes wrong there is raised by the next call, or at the end of the `with` block.
    """

    def __init__(self, work: Callable[[T], None], depth: int = AHEAD) -> None:
        self._work = work
        self._items: queue.Queue[T | None] = queue.Queue(depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while (item := self._items.get()) is not None:
            if self._error is None:
                try:
                    self._work(item)
                except BaseException as error:  # noqa: BLE001 - raised again by the caller
                    self._error = error

    def __call__(self, item: T) -> None:
        """Hand over one piece of work; waits while too much is waiting."""
        if self._error is not None:
            raise self._error
        self._items.put(item)

    def __enter__(self) -> "Behind[T]":
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._items.put(None)
        self._thread.join()
        if self._error is not None and kind is None:
            raise self._error
