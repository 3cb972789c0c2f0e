"""Figures of what goes on, in bounded memory: rates, busy parts, ages. Times are monotonic."""

import math
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SPAN = 10  # seconds that a rate looks back
FIRST_AGE, AGE_STEP, AGES = 0.001, 1.15, 90  # bins of ages: 1 ms to 4 minutes, each 15 % wider
SLOTS, SLOT = 6, 10.0  # a minute, in parts


class Rate:
    """How much of something there was a second, lately. Its user locks."""

    def __init__(self, now: float) -> None:
        self._start = now
        self._second = [0] * SPAN
        self._amount = [0.0] * SPAN

    def add(self, now: float, amount: float = 1.0) -> None:
        """Count so much, now."""
        second = int(now)
        place = second % SPAN
        if self._second[place] != second:
            self._second[place], self._amount[place] = second, 0.0
        self._amount[place] += amount

    def __call__(self, now: float) -> float:
        """Return how much there was a second."""
        second = int(now)
        recent = zip(self._second, self._amount, strict=True)
        total = sum(amount for at, amount in recent if second - SPAN < at <= second)
        passed = min(now - self._start, SPAN - 1 + now - second)
        return total / max(passed, 0.5)


class Ages:
    """The median and the worst of the last minute's ages."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slot = [-1] * SLOTS
        self._worst = [0.0] * SLOTS
        self._counts = [[0] * AGES for _ in range(SLOTS)]

    def add(self, now: float, age: float) -> None:
        """Note one age in seconds."""
        slot = int(now / SLOT)
        place = slot % SLOTS
        with self._lock:
            if self._slot[place] != slot:
                self._slot[place], self._worst[place] = slot, 0.0
                self._counts[place] = [0] * AGES
            self._worst[place] = max(self._worst[place], age)
            self._counts[place][_bin(age)] += 1

    def __call__(self, now: float) -> tuple[float, float]:
        """Return the median, to 15 %, and the worst, in seconds."""
        slot = int(now / SLOT)
        with self._lock:
            alive = [i for i in range(SLOTS) if slot - SLOTS < self._slot[i] <= slot]
            counts = [sum(self._counts[i][b] for i in alive) for b in range(AGES)]
            worst = max((self._worst[i] for i in alive), default=0.0)
        half, total = sum(counts) / 2, 0
        for number, count in enumerate(counts):
            total += count
            if count and total >= half:
                return min(worst, FIRST_AGE * AGE_STEP**number), worst
        return 0.0, 0.0


def _bin(age: float) -> int:
    if age <= FIRST_AGE:
        return 0
    return min(AGES - 1, math.ceil(math.log(age / FIRST_AGE, AGE_STEP)))


class Busy:
    """The part of the time with at least one at work, how many a second, and how long each."""

    def __init__(self) -> None:
        now = time.monotonic()
        self._lock = threading.Lock()
        self._at_work, self._since = 0, now
        self._busy, self._done, self._spent = Rate(now), Rate(now), Rate(now)

    @contextmanager
    def work(self) -> Iterator[None]:
        """Count what the block does."""
        start = time.monotonic()
        with self._lock:
            self._note(start)
            self._at_work += 1
        try:
            yield
        finally:
            now = time.monotonic()
            with self._lock:
                self._note(now)
                self._at_work -= 1
                self._done.add(now)
                self._spent.add(now, now - start)

    def figures(self) -> tuple[float, float, float]:
        """Return the busy part, how many a second, and the mean seconds of one."""
        now = time.monotonic()
        with self._lock:
            self._note(now)
            done = self._done(now)
            mean = self._spent(now) / done if done else 0.0
            return min(1.0, self._busy(now)), done, mean

    def _note(self, now: float) -> None:
        if self._at_work:
            self._busy.add(now, now - self._since)
        self._since = now


class Processor:
    """The busy part of the cores that this process may use, whoever keeps them busy.

    Ask about once a second.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        now = time.monotonic()
        self._own, self._all = Rate(now), Rate(now)
        self._spent, self._busy = time.process_time(), busy_seconds()

    def __call__(self) -> tuple[float, float]:
        """Return the busy part, from 0 to 1, and this process's part of it."""
        now, spent, busy = time.monotonic(), time.process_time(), busy_seconds()
        with self._lock:
            self._own.add(now, spent - self._spent)
            self._all.add(now, max(0.0, busy - self._busy))
            self._spent, self._busy = spent, busy
            own = min(1.0, self._own(now) / cores())
            return max(own, min(1.0, self._all(now) / len(_allowed()))), own


def busy_seconds() -> float:
    """Return for how many seconds the cores that we may use were busy; 0 where that is not told."""
    try:
        text = Path("/proc/stat").read_text()
        rows = [line.split() for line in text.splitlines() if re.match(r"cpu\d", line)]
        mine = {f"cpu{core}" for core in _allowed()}
        ticks = sum(int(tick) for row in rows if row[0] in mine for tick in row[1:4] + row[6:9])
        return ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):  # not Linux, or hidden
        return 0.0


def cores() -> float:
    """Return how many cores this process may use, also where a container gives it a part."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        given = int(quota) / int(period)
    except (OSError, ValueError):  # none, or "max"
        given = math.inf
    return min(given, len(_allowed()))


def _allowed() -> frozenset[int]:
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0)) or frozenset({0})
    return frozenset(range(os.cpu_count() or 1))
