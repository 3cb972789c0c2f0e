"""One video file of compressed pictures, as a camera sent them; nothing is decoded.

While it is written it is fragmented MP4, which can be played up to its last fragment however the
process ended. Closing it turns it in place into a plain MP4 with an index, so that phones can seek.
"""

import io
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from av import Packet
    from av.video.stream import VideoStream

TICKS = 90_000  # a second
PLAYABLE = frozenset({"h264", "hevc"})  # in an MP4 that browsers open
HOLES = 2.0  # seconds that a camera's time may run ahead of ours, or a picture be shown later
BACK = 1.0  # seconds that it may go back, since pictures come in another order
REORDER = 0.5  # seconds that a picture may be decoded before it is shown, where nobody says
SMALL = 0.001
MOVFLAGS = "+frag_keyframe+empty_moov+default_base_moof+hybrid_fragmented"
FRAGMENT = 500_000  # microseconds


class Source:
    """What a decoder must know of one connection's stream; outlives the connection.

    Raises:
        ValueError, av.FFmpegError: an MP4 cannot hold it.
    """

    def __init__(self, stream: "VideoStream") -> None:
        import av

        context = stream.codec_context
        self._holder = av.open(io.BytesIO(), "w", format="mp4")
        self.stream = self._holder.add_stream_from_template(stream, opaque=True)
        self.kind = (context.name, context.width, context.height, bytes(context.extradata or b""))

    def same(self, other: "Source") -> bool:
        """Whether pictures of both can stand in one file."""
        return self.kind == other.kind

    @property
    def hevc(self) -> bool:
        """Whether it is H.265."""
        return self.kind[0] == "hevc"


@dataclass(frozen=True)
class Piece:
    """One compressed picture, and when it came; `pts`, `dts` and `length` are ticks."""

    source: Source
    data: bytes
    pts: int
    dts: int
    length: int
    key: bool
    at: float


class Timeline:
    """Gives pictures times that only go forward, whatever times the camera says.

    The camera's clock is believed, at a constant distance from ours, as long as it agrees with the
    time that passed here; else the picture comes one usual step, or the time that passed, after
    the last, and the distance is another from there on.
    """

    def __init__(self) -> None:
        self._now = -1.0  # of decoding, in seconds
        self._step = 0.04
        self._apart: float | None = None
        self._at: float | None = None

    def again(self) -> None:
        """Begin with a new connection, whose clock may say anything."""
        self._apart = None

    def place(
        self, pts: int | None, dts: int | None, base: Fraction | None, at: float
    ) -> tuple[int, int, int]:
        """Return pts, dts and length of the next picture in ticks."""
        waited = 0.0 if self._at is None else at - self._at
        next_ = 0.0 if self._at is None else self._now + max(self._step, waited)
        shown, decoded = _said(pts, dts, base)
        if shown is None or decoded is None:
            shown = decoded = next_ - (self._apart or 0.0)
        if self._apart is None or not -BACK < decoded + self._apart - self._now <= waited + HOLES:
            self._apart = next_ - decoded
        now = max(decoded + self._apart, self._now + SMALL)
        if self._at is not None and now - self._now < 1:
            self._step = max(now - self._now, SMALL)
        self._now, self._at = now, at
        later = shown + self._apart - now
        shown = now + (later if 0 <= later <= HOLES else 0.0)
        return round(shown * TICKS), round(now * TICKS), round(self._step * TICKS)


def _said(
    pts: int | None, dts: int | None, base: Fraction | None
) -> tuple[float | None, float | None]:
    """Return in seconds when a picture is shown and decoded; one tells of the other."""
    shown = None if pts is None or not base else float(pts * base)
    decoded = None if dts is None or not base else float(dts * base)
    if decoded is None and shown is not None:
        return shown, shown - REORDER
    return (decoded if shown is None else shown), decoded


class Clip:
    """A video file while it is written. The first piece is a key picture.

    Raises:
        OSError, ValueError, av.FFmpegError: it cannot be written.
    """

    def __init__(self, path: Path, source: Source) -> None:
        import av

        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        options = {"movflags": MOVFLAGS, "frag_duration": str(FRAGMENT), "flush_packets": "1"}
        self._container = av.open(str(path), "w", format="mp4", options=options)
        self._stream = self._container.add_stream_from_template(source.stream, opaque=True)
        self._stream.time_base = Fraction(1, TICKS)
        if source.hevc:
            self._stream.codec_context.codec_tag = "hvc1"  # else Apple's players show nothing
        self._zero: int | None = None

    def write(self, piece: Piece) -> None:
        """Add a picture."""
        if self._zero is None:
            self._zero = piece.dts
        packet = _packet(piece, self._zero)
        packet.stream = self._stream
        self._container.mux(packet)

    def close(self) -> None:
        """Write the index; what is missing after a fault is cut away. Nothing left: no file."""
        import av

        with suppress(OSError, av.FFmpegError):  # what was written stays as it is
            self._container.close()
        cut(self.path)


class Encoder:
    """Compresses the pictures of a camera that sends none that an MP4 could hold."""

    def __init__(self, size: tuple[int, int], rate: float) -> None:
        import av

        self.size = size
        self._holder = av.open(io.BytesIO(), "w", format="mp4", options={"movflags": MOVFLAGS})
        self._stream = self._holder.add_stream("libx264", rate=max(1, round(rate)))
        self._stream.width, self._stream.height = (side - side % 2 for side in size)
        self._stream.pix_fmt = "yuv420p"
        self._stream.gop_size = max(1, round(2 * rate))
        self._stream.codec_context.time_base = Fraction(1, TICKS)
        self._stream.options = {"preset": "ultrafast", "tune": "zerolatency", "crf": "26"}
        self._holder.start_encoding()
        self.source = Source(self._stream)

    def encode(self, image: NDArray[np.uint8], at: float) -> "list[Packet]":
        """Compress a BGR picture that was taken at a time."""
        import av

        width, height = self._stream.width, self._stream.height
        whole = np.ascontiguousarray(image[:height, :width])
        frame = av.VideoFrame.from_ndarray(whole, format="bgr24")
        frame.pts, frame.time_base = round(at * TICKS), Fraction(1, TICKS)
        return list(self._stream.encode(frame))


def cut(path: Path) -> int:
    """Cut a video where it can be played no further, and return its length; no file for 0."""
    length = whole_length(path)
    if not length:
        path.unlink(missing_ok=True)
    elif length < path.stat().st_size:
        os.truncate(path, length)
    return length


def whole_length(path: Path) -> int:
    """Return how many bytes of a video can be played: up to its last whole fragment."""
    whole, seen = 0, set[bytes]()
    try:
        with path.open("rb") as file:
            for kind, end in _boxes(file, path.stat().st_size):
                seen.add(kind)
                fragment = kind == b"mdat" and {b"moov", b"moof"} <= seen
                finished = kind == b"moov" and b"mdat" in seen and b"moof" not in seen
                if fragment or finished:  # finished: all pictures, and then their index
                    whole = end
    except FileNotFoundError:
        return 0
    return whole


def _boxes(file: BinaryIO, length: int) -> Iterator[tuple[bytes, int]]:
    """Yield kind and end of the boxes that are there wholly (ISO/IEC 14496-12, 4.2)."""
    at = 0
    while at + 8 <= length:
        file.seek(at)
        head = file.read(16).ljust(16, b"\0")
        long, kind, longer = struct.unpack(">I4sQ", head)
        long = longer if long == 1 else long
        if long < 8 or at + long > length:
            return
        at += long
        yield kind, at


def _packet(piece: Piece, zero: int) -> "Packet":
    import av

    packet = av.Packet(piece.data)
    packet.time_base = Fraction(1, TICKS)
    packet.pts, packet.dts = piece.pts - zero, piece.dts - zero
    packet.duration = piece.length
    packet.is_keyframe = piece.key
    return packet
