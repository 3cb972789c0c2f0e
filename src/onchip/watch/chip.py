"""One chip for many cameras: each has its turn, the one that waits longest first.

A camera that waits has one picture, its newest, and never two on the chip, so that what is seen
comes back in order. A picture that would be too old once its boxes are known is not looked at: its
camera keeps its turn for the next one.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import NamedTuple, Protocol

import numpy as np

from onchip.closing import Closing
from onchip.detect.detector import Detector
from onchip.detect.live import Picture
from onchip.detections import Detections
from onchip.errors import OnchipError, ToolError
from onchip.sight import Sight
from onchip.vision.preprocess import Image, prepare
from onchip.watch.figures import Busy, cores
from onchip.watch.health import Backoff, Health, keep_trying

PART = "chip"
FRESH = 0.5  # seconds after which a picture is too old to say what is there now
LEAST_WAIT = 0.1  # seconds for which a picture may wait for however slow a chip
HANGS = 10.0  # seconds without an answer, after which a chip is said to hang
LEAVE = 2.0  # seconds for which is waited for a chip when all ends
TRIAL = (64, 64, 3)  # a gray picture of this shape shows whether a chip answers


class Sees(Protocol):
    """Whatever finds objects: `onchip.sight.Sight`, or what stands in for it."""

    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def parallel(self) -> bool: ...
    @property
    def depth(self) -> int: ...
    def __call__(self, image: Image) -> Detections: ...
    def close(self) -> None: ...


class Taker(Protocol):
    """Who has pictures looked at. Neither method raises."""

    def seen(self, picture: Picture, found: Detections, labels: tuple[str, ...]) -> None: ...
    def unseen(self, error: Exception) -> None: ...


@dataclass(frozen=True)
class Load:
    """The busy part of a chip, from 0 to 1, its looks a second, and the milliseconds of one."""

    busy: float
    fps: float
    ms: float


class Turn(NamedTuple):
    """Whose turn it is, with which picture, and since when it waited."""

    taker: Taker
    picture: Picture
    since: float


class Turns:
    """Who is next. The one that waits longest, with its newest picture, unless one is under way."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._pictures: dict[Taker, Picture] = {}
        self._since: dict[Taker, float] = {}
        self._at_work: set[Taker] = set()

    def put(self, taker: Taker, picture: Picture) -> bool:
        """Let a picture wait; it takes the place of an older one. Returns whether there was one."""
        with self._change:
            missed = taker in self._pictures
            self._pictures[taker] = picture
            self._since.setdefault(taker, time.monotonic())
            self._change.notify()
        return missed

    def take(self, least: Callable[[], float], ends: Callable[[], bool]) -> Turn | None:
        """Wait for the next turn; None at the end. Pictures from before `least()` are dropped."""
        with self._change:
            while not ends():
                turn = self._next(least())
                if turn is not None:
                    return turn
                self._change.wait()
        return None

    def done(self, turn: Turn, seen: bool = True) -> None:
        """Say that a turn is over; where nothing was seen, it is kept for the next picture."""
        with self._change:
            self._at_work.discard(turn.taker)
            if not seen:
                self._since[turn.taker] = turn.since
            self._change.notify()

    def leave(self, taker: Taker) -> None:
        """Forget one that needs no more turns."""
        with self._change:
            self._pictures.pop(taker, None)
            self._since.pop(taker, None)

    def wake(self) -> None:
        """Let all who wait ask again whether this is the end."""
        with self._change:
            self._change.notify_all()

    def _next(self, least: float) -> Turn | None:
        free = (t for t in self._pictures if t not in self._at_work)
        for taker in sorted(free, key=self._since.__getitem__):
            picture = self._pictures.pop(taker)
            if picture.at >= least:  # else its turn is kept for its next picture
                self._at_work.add(taker)
                return Turn(taker, picture, self._since.pop(taker))
        return None


@dataclass(eq=False)
class _Life:
    """A chip from its opening to its failure or the end; the last worker to leave closes it."""

    sight: Sees
    workers: int
    slots: "_Slots"
    over: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    error: Exception | None = None
    calls: dict[int, float] = field(default_factory=dict)  # when those under way began, by thread

    def fail(self, error: Exception) -> None:
        with self.lock:
            self.error = self.error or error
        self.over.set()

    def leave(self) -> None:
        with self.lock:
            self.workers -= 1
            last = self.workers == 0
        if last:
            with suppress(Exception):  # what fails to close is opened anew, or not needed any more
                self.sight.close()

    def longest(self) -> float:
        """Return for how many seconds the oldest call has been under way."""
        with self.lock:
            return time.monotonic() - min(self.calls.values(), default=time.monotonic())


class Chip(Closing):
    """Has pictures looked at, by workers that letterbox while the chip computes.

    Args:
        open_sight: opens the chip; what it raises is shown, and it is tried again with back-off.
        health: where the state of the part "chip" is told.
        check: is given the labels after each opening, and raises InputError where they do not fit.
    """

    def __init__(
        self,
        open_sight: Callable[[], Sees],
        health: Health,
        check: Callable[[tuple[str, ...]], None] = lambda labels: None,
    ) -> None:
        self.name = ""
        self._open, self._health, self._check = open_sight, health, check
        self._turns, self._busy = Turns(), Busy()
        self._backoff = Backoff(1.0, 30.0)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chip", daemon=True)
        self._sight: Sees | None = None
        self._now: _Life | None = None

    def open(self) -> None:
        """Open the chip before the start, to learn at once that the model will not do.

        Raises:
            OnchipError: it cannot be opened. Of a DeviceError one may think that it passes.
        """
        self._sight = self._opened()

    def start(self) -> None:
        """Begin to look at what is offered."""
        self._health.starting(PART)
        self._thread.start()

    def offer(self, taker: Taker, picture: Picture) -> bool:
        """Let a picture wait for its camera's turn.

        Returns whether it takes the place of an older one, which nobody will look at.
        """
        return self._turns.put(taker, picture)

    def leave(self, taker: Taker) -> None:
        """Take back what a camera offered."""
        self._turns.leave(taker)

    def load(self) -> Load:
        """Return how busy the chip was lately."""
        busy, fps, mean = self._busy.figures()
        return Load(busy, fps, mean * 1000)

    def close(self) -> None:
        """Stop after the pictures that are looked at now, and give the chip back."""
        self._ends.set()
        life = self._now
        if life is not None:
            life.over.set()
        self._turns.wake()
        if self._thread.is_alive():
            self._thread.join(2 * LEAVE)
        sight, self._sight = self._sight, None
        if sight is not None:
            sight.close()

    def _run(self) -> None:
        keep_trying(self._live, PART, self._health, self._ends, self._backoff)

    def _opened(self) -> Sees:
        sight = self._open()
        try:
            self._check(sight.labels)
            trial = _Life(sight, 0, _Slots(1))
            self._look(trial, np.full(TRIAL, 114, np.uint8), time.monotonic())
        except BaseException as error:
            sight.close()
            if isinstance(error, OnchipError) or not isinstance(error, Exception):
                raise
            raise _named(error) from error
        self.name = named(sight)
        return sight

    def _live(self) -> None:
        """Open the chip and look, until it fails or all ends.

        Raises:
            Exception: what the chip failed with.
        """
        sight, self._sight = self._sight or self._opened(), None
        slots = sight.depth if sight.parallel else 1
        # what is done around a look (converting, letterboxing, tracks, snapshots) takes as long
        life = _Life(sight, slots + 1 + round(cores()), _Slots(slots))
        self._now = life
        self._health.ok(PART)
        workers = [
            threading.Thread(target=self._work, args=(life,), name=f"look {n}", daemon=True)
            for n in range(life.workers)
        ]
        for worker in workers:
            worker.start()
        self._watch(life)
        self._turns.wake()
        until = time.monotonic() + LEAVE
        for worker in workers:
            worker.join(max(0.0, until - time.monotonic()))
        if life.error is not None:
            raise life.error

    def _watch(self, life: _Life) -> None:
        """Wait until a chip fails or all ends, and say where it does not answer."""
        hung = False
        while not (life.over.wait(1.0) or self._ends.is_set()):
            hangs = life.longest() > HANGS
            if hangs and not hung:
                text = f"the chip has not answered for {HANGS:.0f} s"
                self._health.failing(PART, text, "if it stays so, restart onchip, or the board")
            elif hung and not hangs:
                self._health.ok(PART)
            hung = hangs
        life.over.set()

    def _work(self, life: _Life) -> None:
        try:
            while (turn := self._turns.take(self._least, life.over.is_set)) is not None:
                seen = False
                try:
                    seen = self._serve(life, turn.taker, turn.picture)
                finally:
                    self._turns.done(turn, seen)
        finally:
            life.leave()

    def _serve(self, life: _Life, taker: Taker, picture: Picture) -> bool:
        """Look at a picture; whether its turn is over."""
        try:
            image = picture.bgr()
        except Exception as error:  # noqa: BLE001 - shown as the state of its camera
            taker.unseen(error)
            return True
        try:
            found = self._look(life, image, picture.at)
        except Exception as error:  # noqa: BLE001 - shown as the state of the chip
            life.fail(_named(error))
            self._turns.wake()
            return False
        self._backoff.worked()
        if found is not None and not life.over.is_set():
            taker.seen(picture, found, life.sight.labels)
        return found is not None

    def _look(self, life: _Life, image: Image, at: float) -> Detections | None:
        """Look at an image; no more are on the chip at once than keep it busy.

        None where it has become too old while it waited for its place there.
        """
        sight = life.sight
        if not isinstance(sight, Sight):
            with life.slots:
                if at < self._least():
                    return None
                with self._called(life):
                    return sight(image)
        tensor, box = prepare(image, sight.program.input)
        with life.slots:
            if at < self._least():
                return None
            with self._called(life):
                tensors = sight.program.run(tensor)
        return sight.program.read(tensors, box, sight.limits)

    def _called(self, life: _Life) -> "_Call":
        return _Call(life, self._busy)

    def _least(self) -> float:
        """Return from when a picture must be, so that it is new once its boxes are known."""
        return time.monotonic() - max(LEAST_WAIT, FRESH - self._busy.figures()[2])


class _Slots:
    """Lets so many in at once. Handed on in one step: a semaphore of Python takes several."""

    def __init__(self, count: int) -> None:
        self._free: SimpleQueue[None] = SimpleQueue()
        for _ in range(count):
            self._free.put(None)

    def __enter__(self) -> None:
        self._free.get()

    def __exit__(self, *error: object) -> None:
        self._free.put(None)


class _Call:
    """Counts a call as work, and notes since when it is under way."""

    def __init__(self, life: _Life, busy: Busy) -> None:
        self._life, self._work = life, busy.work()

    def __enter__(self) -> None:
        with self._life.lock:
            self._life.calls[threading.get_ident()] = time.monotonic()
        self._work.__enter__()

    def __exit__(self, *error: object) -> None:
        self._work.__exit__(None, None, None)
        with self._life.lock:
            del self._life.calls[threading.get_ident()]


def named(sight: Sees) -> str:
    """Return the name of the chip that a model was built for."""
    held = getattr(sight, "held", None)
    return held.artifact.manifest.target if isinstance(held, Detector) else "cpu"


def _named(error: Exception) -> Exception:
    """Return the error itself, or where it is a foreign one, that the chip failed with it."""
    if isinstance(error, OnchipError):
        return error
    failed = ToolError(f"looking failed: {type(error).__name__}: {error}")
    failed.__cause__ = error
    return failed
