"""Work on several items at once, in order."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")
WORKERS = 2


def each(
    work: Callable[[Item], Made],
    items: Iterable[Item],
    workers: int = WORKERS,
    ahead: int = 0,
) -> Generator[Made]:
    """Yield what `work` makes of each item, in order; `workers` are under way at once.

    At most `ahead` items, or four for each worker, are taken before what was made of the first of
    them is: as Executor.map's `buffersize` does from Python 3.14 on. Where the reader leaves, no
    more work is begun.
    """
    ahead = ahead or 4 * workers
    pending: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) >= ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
