"""Records events of one camera: some seconds before, all of it, some seconds after.

What a camera sends is kept for some seconds, from a key picture on, so that a clip can begin before
its event. One thread writes; the threads that bring pictures only put them down. Where the disk is
slower than the camera, pictures are dropped up to the next key picture, and that is said.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from onchip.closing import Closing
from onchip.watch.clips import PLAYABLE, Clip, Encoder, Piece, Source, Timeline
from onchip.watch.health import Health, told

if TYPE_CHECKING:
    from av import Packet
    from av.video.stream import VideoStream

MOST_BYTES = 32 << 20  # that are kept before an event, and that wait for the disk, each
MOST_PICTURES = 8  # that wait to be compressed
LATE = 3.0  # seconds after which an event may be told; so much more is kept before it
SILENCE = 1.5  # seconds without a picture after which a clip ends, where it should
LONGEST = 1200.0  # seconds, whatever happens


class Picture(Protocol):
    """A decoded picture, of a camera that sends no video that can be kept as it is."""

    @property
    def at(self) -> float:
        """When it came, of the monotonic clock."""

    def bgr(self) -> NDArray[np.uint8]:
        """Its pixels."""


@dataclass(frozen=True)
class _Packet:
    source: Source
    data: bytes
    times: tuple[int | None, int | None, Fraction | None]
    key: bool
    at: float


@dataclass(frozen=True)
class _Begin:
    event: str
    at: float


@dataclass(frozen=True)
class _End:
    event: str
    at: float


@dataclass(frozen=True)
class _Gap:
    """Here pictures were dropped."""

    count: int


_Todo = _Packet | Picture | _Begin | _End | _Gap


@dataclass
class _Wanted:
    """An event whose clip is made. `clip` is None until a key picture comes."""

    began: float
    clip: Clip | None = None
    until: float | None = None
    well: bool = True


class Recorder(Closing):
    """Makes the clips of one camera.

    `packet` or `picture` bring pictures, `begin` and `end` say when. Each clip is written to
    `<folder>/<event>.mp4`; `done` is called with the event and that path, or None where nothing
    could be written, by the thread that writes.
    """

    def __init__(
        self,
        camera: str,
        folder: Path,
        done: Callable[[str, Path | None], None],
        health: Health,
        *,
        before: float = 5.0,
        after: float = 5.0,
        rate: float = 5.0,
    ) -> None:
        self._part = f"clips of {camera}"
        self._folder, self._done, self._health = folder, done, health
        self._before, self._after, self._rate = before, after, rate
        # What the threads that bring pictures share with the one that writes:
        self._changed = threading.Condition()
        self._todo: deque[_Todo] = deque()
        self._bytes = self._pictures = 0
        self._skips = self._ends = False
        self._dropped = 0
        self._seen: tuple[object, Source | None] = (None, None)
        # What is the writing thread's:
        self._timeline = Timeline()
        self._ring: deque[Piece] = deque()
        self._ring_bytes = 0
        self._needs_key = True
        self._source: Source | None = None
        self._encoder: Encoder | None = None
        self._wanted: dict[str, _Wanted] = {}
        self._failed = False
        self._thread = threading.Thread(target=self._run, name=f"clips {camera}", daemon=True)
        self._thread.start()

    def packet(self, packet: "Packet", stream: "VideoStream", at: float | None = None) -> None:
        """Take a packet that a camera sent, now or at a monotonic time; never waits."""
        if not packet.size:
            return
        if self._seen[0] is not stream:
            self._seen = (stream, self._look(stream))
        source = self._seen[1]
        if source is None:
            return
        times = (packet.pts, packet.dts, packet.time_base)
        at = time.monotonic() if at is None else at
        piece = _Packet(source, bytes(packet), times, bool(packet.is_keyframe), at)
        with self._changed:
            full = self._bytes + len(piece.data) > MOST_BYTES
            self._skips = full or (self._skips and not piece.key)
            if self._skips:
                self._dropped += 1
                return
            self._bytes += len(piece.data)
            self._put(piece)

    def picture(self, picture: Picture) -> None:
        """Take a decoded picture, where the packets cannot be kept; never waits."""
        with self._changed:
            if self._seen[1] is not None:
                return
            if self._pictures >= MOST_PICTURES:
                self._dropped += 1
                return
            self._pictures += 1
            self._put(picture)

    def begin(self, event: str, at: float | None = None) -> None:
        """Make a clip of an event that began at a time of the monotonic clock, or now."""
        self._say(_Begin(event, time.monotonic() if at is None else at))

    def end(self, event: str, at: float | None = None) -> None:
        """Let the clip of an event end, some seconds after its end."""
        self._say(_End(event, time.monotonic() if at is None else at))

    def close(self) -> None:
        """Finish all clips as they are."""
        with self._changed:
            self._ends = True
            self._changed.notify()
        self._thread.join()

    def _say(self, what: _Begin | _End) -> None:
        with self._changed:
            self._put(what)

    def _put(self, what: _Todo) -> None:
        if self._dropped:
            self._todo.append(_Gap(self._dropped))
            self._dropped = 0
        self._todo.append(what)
        self._changed.notify()

    def _look(self, stream: "VideoStream") -> Source | None:
        import av

        if stream.codec_context is None or stream.codec_context.name not in PLAYABLE:
            return None
        try:
            return Source(stream)
        except (ValueError, av.FFmpegError) as error:
            self._tell(f"no clips can be made of this stream: {told(error)}")
            return None

    # What follows is the writing thread's.

    def _run(self) -> None:
        try:
            while (item := self._next()) is not None or not self._ends:
                if item is not None:
                    self._do(item)
                self._finish_due(time.monotonic())
            for event in list(self._wanted):
                self._finish(event)
        except BaseException as error:
            self._tell(f"no more clips are made: {told(error)}", "this is a fault in onchip")
            raise

    def _next(self) -> _Todo | None:
        with self._changed:
            if not self._todo and not self._ends:
                self._changed.wait(SILENCE if self._wanted else None)
            item = self._todo.popleft() if self._todo else None
            if isinstance(item, _Packet):
                self._bytes -= len(item.data)
            elif item is not None and not isinstance(item, _Begin | _End | _Gap):
                self._pictures -= 1
            return item

    def _do(self, item: _Todo) -> None:
        if isinstance(item, _Packet):
            self._take(item)
        elif isinstance(item, _Begin):
            self._begin(item)
        elif isinstance(item, _End):
            if item.event in self._wanted:
                self._wanted[item.event].until = item.at + self._after
        elif isinstance(item, _Gap):
            self._gap(item.count)
        else:
            self._compress(item)

    def _gap(self, count: int) -> None:
        for wanted in self._wanted.values():
            wanted.well = False
        self._tell(
            f"{count} pictures were dropped: this machine writes slower than the camera sends",
            "a faster disk, or a lower bit rate in the camera's settings",
        )

    def _compress(self, picture: Picture) -> None:
        import av

        try:
            image = picture.bgr()
            size = (image.shape[1], image.shape[0])
            if self._encoder is None or self._encoder.size != size:
                self._encoder = Encoder(size, self._rate)
            packets = self._encoder.encode(image, picture.at)
        except (ValueError, av.FFmpegError) as error:
            self._encoder = None
            self._tell(f"pictures cannot be compressed: {told(error)}")
            return
        for packet in packets:
            times = (packet.pts, packet.dts, packet.time_base)
            data, key = bytes(packet), bool(packet.is_keyframe)
            self._take(_Packet(self._encoder.source, data, times, key, picture.at))

    def _take(self, packet: _Packet) -> None:
        if packet.source is not self._source:
            self._connected(packet.source)
        pts, dts, length = self._timeline.place(*packet.times, packet.at)
        if self._needs_key and not packet.key:
            return
        self._needs_key = False
        piece = Piece(packet.source, packet.data, pts, dts, length, packet.key, packet.at)
        self._keep(piece)
        for event, wanted in list(self._wanted.items()):
            if wanted.until is not None and piece.at > wanted.until:
                self._finish(event)
            else:
                self._write(event, wanted, piece)

    def _connected(self, source: Source) -> None:
        """A new connection: what was kept stays, and clips go on, where it is of the same kind."""
        if self._source is not None and not source.same(self._source):
            self._ring.clear()
            self._ring_bytes = 0
            for event, wanted in list(self._wanted.items()):
                if wanted.clip is not None:
                    self._finish(event)
        self._source = source
        self._needs_key = True
        self._timeline.again()

    def _keep(self, piece: Piece) -> None:
        """Keep a picture, and drop whole groups that no clip will need, so that a key is first."""
        if not self._ring and not piece.key:
            return
        self._ring.append(piece)
        self._ring_bytes += len(piece.data)
        oldest = piece.at - self._before - LATE
        while (second := self._second_key()) and (
            self._ring[second].at <= oldest or self._ring_bytes > MOST_BYTES
        ):
            self._drop(second)
        if self._ring_bytes > MOST_BYTES:  # a single group is too much
            self._drop(len(self._ring))

    def _drop(self, count: int) -> None:
        for _ in range(count):
            self._ring_bytes -= len(self._ring.popleft().data)

    def _second_key(self) -> int:
        """Return where the second group begins, 0 where there is none."""
        keys = (number for number, piece in enumerate(self._ring) if piece.key and number)
        return next(keys, 0)

    def _begin(self, begin: _Begin) -> None:
        wanted = self._wanted[begin.event] = _Wanted(time.monotonic())
        pieces = list(self._ring)
        first = begin.at - self._before
        starts = [n for n, p in enumerate(pieces) if p.key and (p.at <= first or not n)]
        for piece in pieces[starts[-1] :] if starts else ():
            if begin.event in self._wanted:
                self._write(begin.event, wanted, piece)

    def _write(self, event: str, wanted: _Wanted, piece: Piece) -> None:
        import av

        try:
            if wanted.clip is None:
                if not piece.key:
                    return
                wanted.clip = Clip(self._folder / f"{event}.mp4", piece.source)
            wanted.clip.write(piece)
        except (OSError, ValueError, av.FFmpegError) as error:
            self._tell(f"a clip could not be written to its end: {told(error)}")
            wanted.well = False
            self._finish(event)

    def _finish_due(self, now: float) -> None:
        for event, wanted in list(self._wanted.items()):
            silent = wanted.until is not None and now > wanted.until + SILENCE
            if silent or now - wanted.began > LONGEST:
                self._finish(event)

    def _finish(self, event: str) -> None:
        wanted = self._wanted.pop(event)
        if wanted.clip is not None:
            try:
                wanted.clip.close()
            except OSError as error:
                self._tell(f"a clip could not be finished: {told(error)}")
                wanted.well = False
        there = wanted.clip is not None and wanted.clip.path.exists()
        if there and wanted.well and self._failed:
            self._failed = False
            self._health.ok(self._part)
        self._done(event, wanted.clip.path if wanted.clip is not None and there else None)

    def _tell(self, text: str, hint: str = "") -> None:
        self._failed = True
        self._health.failing(self._part, text, hint)
