"""Reads an opened stream: packets in, pictures out, as late as the stream itself and no later."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from onchip.detect.lost import explained, garbage, keyless, lost, silent
from onchip.detect.picture import Picture, Stream, seconds
from onchip.detect.place import Place
from onchip.errors import OnchipError

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.video.stream import VideoStream

    OnPacket = Callable[[av.Packet, VideoStream], None]

T = TypeVar("T")

SLICE = 0.5  # seconds that one read may block: so soon is a close noticed
BEHIND = 0.5  # seconds without a wait for the camera, after which the decoder is behind it
GRACE = 2.0  # seconds at the beginning in which it may be: a stream begins with a burst
OPENING = 5.0  # seconds for an answer when a stream is opened
# Else 20 pictures, or five seconds of them, are awaited before the first is given.
QUICK = {"fpsprobesize": "0", "analyzeduration": "1000000"}
KEYLESS = 3  # so many times the patience, where a stream is sound and its first key is awaited


@dataclass
class Ask:
    """What is wanted of a camera, and the line to stop it by."""

    place: Place
    stall: float = 10.0
    rate: float | None = None
    opened: Callable[[Stream], None] | None = None
    on_packet: "OnPacket | None" = None
    closed: threading.Event = field(default_factory=threading.Event)
    on_close: Callable[[], None] | None = None  # ends what waits in a socket
    heard: float = 0.0  # when the last packet came
    skipped: int = 0  # packets that were not decoded, since the decoder was behind

    def close(self) -> None:
        """End it, from any thread."""
        self.closed.set()
        if self.on_close is not None:
            self.on_close()

    @property
    def patience(self) -> float:
        """How long an answer is waited for."""
        return min(self.stall, OPENING)


class Due:
    """Says which pictures are wanted, so that `rate` a second are; a little too early counts."""

    def __init__(self, rate: float | None) -> None:
        self._period = 1 / rate if rate else 0.0
        self._next = float("-inf")

    def soon(self, now: float) -> bool:
        """Whether a picture of this time is wanted."""
        return now >= self._next - self._period / 4

    def wait(self, now: float) -> float:
        """How many seconds until the next is wanted."""
        return self._next - now

    def taken(self, now: float) -> None:
        """Note that it was given."""
        self._next = max(self._next + self._period, now + self._period / 2)


def network(ask: Ask) -> Iterator[Picture]:
    """Yield what an RTSP camera sends."""
    options = {
        "rtsp_transport": ask.place.transport,
        "allowed_media_types": "video",
        **QUICK,
        "reorder_queue_size": "0" if ask.place.transport == "tcp" else "64",
    }
    yield from follow(opened(ask, ask.place.address, options=options), ask)


def clip(ask: Ask) -> Iterator[Picture]:
    """Yield a video file's pictures in its own time, from its beginning again after its end."""
    yield from follow(opened(ask, ask.place.address), ask, paced=True, again=True)


def attached(ask: Ask) -> Iterator[Picture]:
    """Yield what a USB camera sees."""
    place = ask.place
    system, name = _device(place)
    # 4 is AVFMT_FLAG_NONBLOCK, which has no name here: no time limit reaches into a driver.
    options = {"fflags": "+4"}
    if place.size:
        options["video_size"] = "{}x{}".format(*place.size)
    if place.fps:
        options["framerate"] = f"{place.fps:g}"
    yield from follow(opened(ask, name, format=system, options=options), ask)


def _device(place: Place, platform: str = sys.platform) -> tuple[str, str]:
    """Name a USB camera as the system's own driver in FFmpeg does."""
    name = place.address
    if platform == "darwin":
        return "avfoundation", name
    if platform == "win32":
        return "dshow", f"video={name}"
    return "v4l2", name if name.startswith("/dev/") else f"/dev/video{int(name)}"


def opened(
    ask: Ask,
    source: Any,
    *,
    limit: float = SLICE,
    options: dict[str, str] | None = None,
    **how: Any,
) -> "InputContainer":
    """Open with FFmpeg. Each later read takes at most `limit` seconds."""
    import av

    def work() -> "InputContainer":
        container: InputContainer = av.open(
            source, timeout=(ask.patience, limit), options=options or {}, **how
        )
        return container

    return apart(ask, work, lambda container: container.close())


def apart(ask: Ask, work: Callable[[], T], put_away: Callable[[T], None]) -> T:
    """Return what `work` makes, and give up at once when the connection is closed meanwhile.

    A call that waits for a name or a camera cannot be interrupted from outside, so it is made on a
    thread of its own, which ends by the call's own time limit and then puts away what it made.
    """
    import av

    results: list[T] = []
    problems: list[Exception] = []
    lock, done = threading.Lock(), threading.Event()
    left = False

    def run() -> None:
        began = time.monotonic()
        try:
            result = work()
        except OnchipError as error:
            problems.append(error)
        except (av.FFmpegError, OSError, ValueError) as error:
            # FFmpeg has other words, too, for an answer that did not come.
            late = time.monotonic() - began >= ask.patience
            reason = TimeoutError() if late else error
            problems.append(explained(reason, ask.place, ask.patience))
        except Exception as error:  # noqa: BLE001 - raised again by who asked
            problems.append(error)
        else:
            with lock:
                results.append(result)
            if left:
                put_away(result)
        finally:
            done.set()

    threading.Thread(target=run, name="onchip-open", daemon=True).start()
    try:
        while not done.wait(0.1) and not ask.closed.is_set():
            pass
    finally:
        with lock:
            left = not results
    if results:
        return results[0]
    raise problems[0] if problems else lost("ended", ask.place, "was closed")


def follow(
    container: "InputContainer", ask: Ask, *, paced: bool = False, again: bool = False
) -> Iterator[Picture]:
    """Yield the pictures of an opened stream, and close it.

    Args:
        container: the stream.
        ask: what is wanted of it.
        paced: whether it comes faster than it plays, as files do, and is slowed to its own time.
        again: whether it begins again at its end.

    Raises:
        LostError: nothing comes any more, or nothing that is video.
    """
    try:
        yield from _Feed(container, ask, paced, again).pictures()
    finally:
        container.close()


class _Feed:
    def __init__(self, container: "InputContainer", ask: Ask, paced: bool, again: bool) -> None:
        if not container.streams.video:
            raise lost("missing", ask.place, "sends no video", "is this the address of its sound?")
        self.container, self.ask, self.again = container, ask, again
        self.stream: VideoStream = container.streams.video[0]
        if self.stream.codec_context is None:
            raise garbage(ask.place)
        _for_live(self.stream)
        self.clock = _Clock(ask) if paced else None
        self.due = Due(ask.rate)
        self.size = (self.stream.width or 0, self.stream.height or 0)
        self.number = 0
        now = time.monotonic()
        ask.heard = self.seen = now
        self.waited = now + GRACE
        self.broken = self.skipping = False

    def pictures(self) -> Iterator[Picture]:
        ask, stream = self.ask, self.stream
        if ask.opened is not None:
            rate = float(stream.average_rate or stream.guessed_rate or 0)
            ask.opened(Stream(stream.codec_context.name, self.size, rate))
        for packet in self._packets():
            if ask.on_packet is not None and packet.size:
                ask.on_packet(packet, stream)
            now = time.monotonic()
            if self._wanted(packet, now):
                yield from self._decoded(packet, now)
            if ask.closed.is_set():
                return

    def _packets(self) -> "Iterator[av.Packet]":
        """Yield packets with times that only grow, and wait for them in slices."""
        import av

        times = _Times(self.stream)
        while not self.ask.closed.is_set():
            began, problem = time.monotonic(), None
            try:
                for packet in self.container.demux(self.stream):
                    times.mend(packet)
                    if self.clock is None:
                        waited = time.monotonic() - began > 0.002
                    else:
                        waited = self.clock.wait(packet)
                    self._note(True, waited)
                    yield packet
                    began = time.monotonic()
            except av.error.ExitError:
                self._note(False)
            except av.error.BlockingIOError:  # a USB camera's next picture is not there yet
                self.ask.closed.wait(0.004)
                self._note(False)
            except InterruptedError:  # Ctrl-C while it waited in a socket of Python
                raise KeyboardInterrupt from None
            except (av.FFmpegError, OSError) as error:
                problem = explained(error, self.ask.place, self.ask.stall, reading=True)
            else:
                self._rewind()
            if time.monotonic() - self.ask.heard > self.ask.stall:
                problem = problem or silent(self.ask.place, self.ask.stall)
            if problem is not None:  # here, where it carries no foreign error: it has the password
                raise problem

    def _note(self, heard: bool, waited: bool = True) -> None:
        """Note whether a packet came, and whether it was waited for."""
        now = time.monotonic()
        if heard:
            self.ask.heard = now
        if waited:
            self.waited = max(self.waited, now)

    def _rewind(self) -> None:
        """Go to the beginning at a file's end, if it has one and comes again."""
        import av

        if not self.again or not self.number:
            raise lost("ended", self.ask.place, "ended")
        try:
            self.container.seek(self.stream.start_time or 0, stream=self.stream)
        except av.FFmpegError:
            problem = lost("ended", self.ask.place, "ended")
        else:
            return
        raise problem

    def _wanted(self, packet: "av.Packet", now: float) -> bool:
        """Whether a packet must be decoded.

        All must, as most pictures are changes of the one before; but none of a stream whose
        pictures all stand alone, where none is due; and none between keys while the decoder is
        behind the camera: what waits in buffers is old.
        """
        if now - self.waited > BEHIND:
            self.skipping = True
        elif self.skipping and packet.is_keyframe:
            self.skipping = False
        if self.skipping and packet.size:
            self.ask.skipped += 1
            self.seen = now
            return False
        alone = self.stream.codec_context.codec.intra_only
        return not (alone and packet.size and not self.due.soon(now))

    def _decoded(self, packet: "av.Packet", now: float) -> Iterator[Picture]:
        import av

        try:
            frames = packet.decode()
        except EOFError:  # nothing was held back at the end
            return
        except av.FFmpegError:
            frames, self.broken = [], True
        for frame in frames:
            self._same(frame)
            self.seen, self.broken = now, False
            if self.due.soon(now):
                self.due.taken(now)
                yield self._picture(frame, now)
        patience = self.ask.stall if self.broken else KEYLESS * self.ask.stall
        if not frames and now - self.seen > patience:
            raise garbage(self.ask.place) if self.broken else keyless(self.ask.place, patience)

    def _same(self, frame: "av.VideoFrame") -> None:
        size = (frame.width, frame.height)
        if (self.size[0] or size[0], self.size[1] or size[1]) != size:
            text = "changed from {}x{} to {}x{}".format(*self.size, *size)
            raise lost("changed", self.ask.place, text)
        self.size = size

    def _picture(self, frame: "av.VideoFrame", now: float) -> Picture:
        number, self.number = self.number, self.number + 1
        pts = seconds(frame.pts, frame.time_base)
        wall = time.time() - (time.monotonic() - now)
        return Picture(now, wall, number, self.size, bool(frame.key_frame), pts, frame)


def _for_live(stream: "VideoStream") -> None:
    """Have each picture decoded as soon as it is there.

    With threads for frames a decoder holds back one picture for each of them.
    """
    from av.codec.context import Flags

    stream.codec_context.thread_count = 1
    stream.codec_context.thread_type = "SLICE"
    stream.codec_context.flags |= Flags.low_delay.value


class _Clock:
    """Slows what comes too fast to its own time."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._began: float | None = None

    def wait(self, packet: "av.Packet") -> bool:
        """Wait for a packet's time; False where it is past already."""
        at = seconds(packet.dts, packet.time_base)
        if at is None or packet.is_discard:  # a file may begin before its first picture
            return True
        now = time.monotonic()
        if self._began is None:
            self._began = now - at
        late = now - self._began - at
        if late > 10 or late < -10:  # the machine slept, or the file's times jump
            self._began += late
        self._ask.closed.wait(max(0.0, min(-late, 10.0)))
        return late < 0.01


class _Times:
    """Gives each packet a time where it has none, and has times grow where a stream jumps back.

    RTSP gives no time to a stream's first picture; a clip in a loop jumps back, and some cameras
    do when they set their clock.
    """

    def __init__(self, stream: "VideoStream") -> None:
        rate = stream.average_rate or stream.guessed_rate or 25
        self._step = max(1, round(1 / (rate * (stream.time_base or 1))))
        self._far = 25 * self._step  # pictures are shown in another order, but not so much
        self._shift = 0
        self._last: int | None = None
        self._next = 0

    def mend(self, packet: "av.Packet") -> None:
        """Set a packet's times."""
        if not packet.size:
            return
        ordered = packet.dts is not None or packet.pts is None  # what is only shown need not grow
        stamp = packet.dts if packet.dts is not None else packet.pts
        if stamp is None:
            stamp = self._next - self._shift
        elif self._last is not None:
            back = self._last - (stamp + self._shift)
            if back >= (0 if ordered else self._far):
                self._shift = self._next - stamp
        packet.pts = (stamp if packet.pts is None else packet.pts) + self._shift
        made = stamp + self._shift
        if ordered:
            packet.dts = made
        if self._last is None or made > self._last:
            self._last, self._next = made, made + (packet.duration or self._step)
