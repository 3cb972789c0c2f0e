"""Clips hold the pictures that they should, in their order, whatever the camera, the clock and the disk do."""

import io
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onchip.watch import record
from onchip.watch.clips import TICKS, Clip, Timeline, cut, whole_length
from onchip.watch.health import Health
from onchip.watch.record import Recorder

import disks

SIZE = (128, 96)
FPS = 10
GROUP = 5


def numbered(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A picture that shows a number: 12 bits as bright and dark bars."""
    bits = [(number >> bit) & 1 for bit in range(12)]
    bars = np.repeat(np.asarray(bits, np.uint8) * 180 + 40, -(-size[0] // 12))[: size[0]]
    return np.broadcast_to(bars[None, :, None], (size[1], size[0], 3)).copy()


def number_of(image: np.ndarray) -> int:
    wide = -(-image.shape[1] // 12)
    return sum(
        int(image[:, bit * wide : (bit + 1) * wide].mean() > 128) << bit for bit in range(12)
    )


class Feed:
    """A camera's stream: packets of numbered pictures, and the stream that they are of."""

    def __init__(
        self,
        count: int = 60,
        *,
        size: tuple[int, int] = SIZE,
        codec: str = "libx264",
        **options: str,
    ) -> None:
        buffer = io.BytesIO()
        with av.open(buffer, "w", format="matroska") as container:
            stream = container.add_stream(codec, rate=FPS)
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
            stream.gop_size = GROUP
            quiet = {"x265-params": f"log-level=0:keyint={GROUP}:min-keyint={GROUP}:bframes=0"}
            plain = {"preset": "ultrafast", "bf": "0", "x264-params": f"keyint={GROUP}:scenecut=0"}
            stream.options = {**(quiet if codec == "libx265" else plain), **options}
            for number in range(count):
                frame = av.VideoFrame.from_ndarray(numbered(number, size), format="bgr24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        buffer.seek(0)
        self.container = av.open(buffer)
        self.stream = self.container.streams.video[0]
        self.packets = [packet for packet in self.container.demux(self.stream) if packet.size]

    def close(self) -> None:
        self.container.close()


@dataclass
class Taken:
    """A recorder, its feed's clock, and the clips that it made."""

    recorder: Recorder
    health: Health
    clips: dict[str, Path | None]
    now: float

    def feed(self, feed: Feed, packets: Any = None, fps: float = FPS) -> None:
        for packet in feed.packets if packets is None else packets:
            self.recorder.packet(packet, feed.stream, self.now)
            self.now += 1 / fps

    def until(self, event: str) -> Path:
        until = time.monotonic() + 20
        while event not in self.clips:
            assert time.monotonic() < until
            time.sleep(0.005)
        path = self.clips[event]
        assert path is not None
        return path


@pytest.fixture
def taken(tmp_path: Path) -> Iterator[Taken]:
    clips: dict[str, Path | None] = {}
    health = Health()
    with Recorder(
        "front", tmp_path / "clips", clips.__setitem__, health, before=1, after=1
    ) as recorder:
        yield Taken(recorder, health, clips, time.monotonic())
    assert not [thread for thread in threading.enumerate() if thread.name == "clips front"]


def numbers(path: Path) -> list[int]:
    """The numbers that a video's pictures show; it must begin with a key and be well formed."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
    assert frames[0].key_frame
    times = [frame.pts for frame in frames]
    assert times == sorted(set(times))
    return [number_of(frame.to_ndarray(format="bgr24")) for frame in frames]


def seconds(path: Path) -> float:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.duration is not None  # in the index: a player can seek
        return float(stream.duration * stream.time_base)


def probed(path: Path) -> dict[str, Any]:
    """What another reader says of a video; it must find no fault."""
    if shutil.which("ffprobe") is None:
        pytest.skip("ffprobe is not here: apt install ffmpeg")
    command = [
        "ffprobe",
        "-v",
        "warning",
        "-count_frames",
        "-of",
        "json",
        "-show_streams",
        str(path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return json.loads(done.stdout)["streams"][0]


def test_a_clip_begins_before_its_event_and_ends_after_it(taken: Taken) -> None:
    feed = Feed(120)
    taken.feed(feed, feed.packets[:60])
    taken.recorder.begin("one", taken.now)
    taken.feed(feed, feed.packets[60:80])
    taken.recorder.end("one", taken.now)
    taken.feed(feed, feed.packets[80:])
    path = taken.until("one")
    shown = numbers(path)
    # From the last key picture a second before on, to a second after.
    assert shown[0] in (45, 50) and shown[-1] in (89, 90)
    assert shown == list(range(shown[0], shown[-1] + 1))
    assert seconds(path) == pytest.approx(len(shown) / FPS, abs=0.01)
    assert int(probed(path)["nb_read_frames"]) == int(probed(path)["nb_frames"]) == len(shown)


def test_events_that_overlap_have_files_of_their_own(taken: Taken) -> None:
    feed = Feed(200)
    for number, packet in enumerate(feed.packets):
        if number % 20 == 0 and number < 120:
            taken.recorder.begin(f"e{number}", taken.now)
        if number % 20 == 0 and number >= 40:
            taken.recorder.end(f"e{number - 40}", taken.now)
        taken.feed(feed, [packet])
    for number in range(0, 120, 20):
        shown = numbers(taken.until(f"e{number}"))
        assert shown == list(range(shown[0], shown[-1] + 1))
        assert shown[0] in (max(0, number - 15), max(0, number - 10))
        assert shown[-1] in (number + 49, number + 50)


def test_the_end_comes_without_pictures_too(taken: Taken) -> None:
    feed = Feed(20)
    taken.feed(feed)
    taken.recorder.begin("one")
    taken.recorder.end("one", time.monotonic() - 1)
    assert numbers(taken.until("one"))[-1] == 19


def test_what_is_under_way_at_the_end_is_finished(tmp_path: Path) -> None:
    clips: dict[str, Path | None] = {}
    feed = Feed(30)
    with Recorder("front", tmp_path, clips.__setitem__, Health()) as recorder:
        recorder.begin("empty")
        for packet in feed.packets:
            recorder.packet(packet, feed.stream)
        recorder.begin("one")
    assert clips["one"] is not None and numbers(clips["one"]) == list(range(30))
    assert clips["empty"] is not None
    with Recorder("front", tmp_path, clips.__setitem__, Health()) as recorder:
        recorder.begin("nothing came")
    assert clips["nothing came"] is None and not list(tmp_path.glob("nothing*"))


def test_pictures_out_of_order_stay_in_theirs(taken: Taken) -> None:
    feed = Feed(
        60, bf="2", preset="medium", **{"x264-params": f"keyint={GROUP}:scenecut=0:bframes=2"}
    )
    assert any(p.pts != p.dts for p in feed.packets)
    taken.recorder.begin("one", taken.now)
    taken.feed(feed)
    taken.recorder.close()
    path = taken.until("one")
    assert numbers(path) == list(range(60))
    assert int(probed(path)["nb_read_frames"]) == 60


def test_h265_is_marked_so_that_phones_play_it(taken: Taken) -> None:
    try:
        feed = Feed(30, codec="libx265")
    except ValueError:
        pytest.skip("this FFmpeg has no encoder of H.265")
    taken.recorder.begin("one", taken.now)
    taken.feed(feed)
    taken.recorder.close()
    path = taken.until("one")
    assert numbers(path) == list(range(30))
    assert probed(path)["codec_tag_string"] == "hvc1"


def test_a_camera_that_comes_back_goes_on_in_the_clip(taken: Taken) -> None:
    feed, again = Feed(40), Feed(40)
    taken.recorder.begin("one", taken.now)
    taken.feed(feed, feed.packets[:23])
    feed.close()  # as a connection that is lost
    taken.now += 4
    taken.feed(again, again.packets[2:])  # it begins amidst a group
    taken.recorder.close()
    path = taken.until("one")
    assert numbers(path) == [*range(23), *range(5, 40)]
    assert seconds(path) == pytest.approx(2.3 + 4 + 3.8, abs=0.2)
    probed(path)


def test_a_camera_that_comes_back_in_another_size_begins_a_new_clip(taken: Taken) -> None:
    feed, other = Feed(40), Feed(40, size=(192, 96))
    taken.recorder.begin("one", taken.now)
    taken.feed(feed)
    taken.feed(other)
    taken.recorder.begin("two", taken.now)
    taken.recorder.end("one", taken.now)
    taken.recorder.close()
    assert numbers(taken.until("one")) == list(range(40))
    two = taken.until("two")
    assert (probed(two)["width"], probed(two)["height"]) == (192, 96)
    assert numbers(two)[-1] == 39


Times = st.one_of(st.none(), st.integers(-(2**33), 2**33))


@settings(max_examples=30, deadline=None)
@given(
    jumps=st.dictionaries(st.integers(0, 39), st.tuples(Times, Times), max_size=12),
    shift=st.integers(-(2**32), 2**32),
)
def test_odd_times_make_a_file_that_holds_all_pictures(
    tmp_path_factory: pytest.TempPathFactory,
    jumps: dict[int, tuple[int | None, int | None]],
    shift: int,
) -> None:
    feed = Feed(40)
    for number, packet in enumerate(feed.packets):
        packet.time_base = Fraction(1, TICKS)
        usual = shift + number * TICKS // FPS
        packet.pts, packet.dts = jumps.get(number, (usual, usual))
    clips: dict[str, Path | None] = {}
    folder = tmp_path_factory.mktemp("odd")
    with Recorder("front", folder, clips.__setitem__, Health()) as recorder:
        taken = Taken(recorder, Health(), clips, time.monotonic())
        recorder.begin("one", taken.now)
        taken.feed(feed)
    path = taken.until("one")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [p for p in container.demux(stream) if p.size]
        times = [p.dts for p in packets]
    assert len(packets) == 40 and times == sorted(set(times))
    assert 3 < seconds(path) < 6 + 2.1 * len(jumps)
    with av.open(str(path)) as container:
        shown = [number_of(f.to_ndarray(format="bgr24")) for f in container.decode(video=0)]
    assert sorted(shown) == list(range(40))


@settings(deadline=None)
@given(st.lists(st.tuples(Times, Times, st.floats(0, 100)), max_size=50))
def test_times_only_go_forward(steps: list[tuple[int | None, int | None, float]]) -> None:
    timeline, at, last = Timeline(), 0.0, -1
    for pts, dts, waited in steps:
        at += waited
        shown, now, length = timeline.place(pts, dts, Fraction(1, TICKS), at)
        assert now > last and shown >= now and length > 0
        assert now / TICKS < at + 4.1 * len(steps)
        last = now


def test_memory_is_bounded_for_a_camera_with_endless_groups(
    taken: Taken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "MOST_BYTES", 20_000)
    feed = Feed(200, **{"x264-params": "keyint=1000:scenecut=0", "qp": "1"})
    for packet in feed.packets:
        taken.feed(feed, [packet])
        while taken.recorder._todo:
            time.sleep(0)
        assert taken.recorder._ring_bytes <= 20_000 + packet.size
    taken.recorder.begin("one", taken.now)  # there is no key to begin with: no clip, no fault
    taken.recorder.close()
    assert taken.clips == {"one": None}


def test_a_disk_that_is_slower_than_the_camera_drops_pictures_and_holds_nobody_up(
    taken: Taken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "MOST_BYTES", 50_000)
    gate, write = threading.Event(), Clip.write

    def slow(clip: Clip, piece: Any) -> None:
        gate.wait(20)
        write(clip, piece)

    monkeypatch.setattr(Clip, "write", slow)
    feed = Feed(400)
    taken.recorder.begin("one", taken.now)
    started = time.monotonic()
    for packet in feed.packets:
        taken.feed(feed, [packet])
    assert time.monotonic() - started < 5
    assert taken.recorder._bytes <= 50_000
    gate.set()
    taken.feed(feed, feed.packets[:20])
    taken.recorder.close()
    shown = numbers(taken.until("one"))
    assert shown[:20] == list(range(20)) and len(shown) < 420
    part = taken.health.part("clips of front")
    assert part.state == "failing" and "pictures were dropped" in part.message and part.hint


def test_a_full_disk_leaves_what_there_is(tmp_path: Path) -> None:
    clips: dict[str, Path | None] = {}
    feed = Feed(300, size=(640, 480), qp="1")
    with disks.small(tmp_path / "disk") as disk:
        (disk / "other").write_bytes(bytes(3_800_000))
        health = Health()
        with Recorder("front", disk, clips.__setitem__, health) as recorder:
            taken = Taken(recorder, health, clips, time.monotonic())
            recorder.begin("one", taken.now)
            taken.feed(feed, feed.packets * 3)
            path = taken.until("one")
            assert health.part("clips of front").state == "failing"
            shown = numbers(path)
            assert shown == [number % 300 for number in range(len(shown))]
            (disk / "other").unlink()
            recorder.begin("two", taken.now)
            taken.feed(feed, feed.packets[:10])
        assert numbers(taken.until("two"))[-1] == 9
        assert health.part("clips of front").state == "ok"


def test_a_file_cut_anywhere_is_played_up_to_its_last_whole_fragment(tmp_path: Path) -> None:
    feed = Feed(60)
    clips: dict[str, Path | None] = {}
    growing: list[bytes] = []
    with Recorder("front", tmp_path, clips.__setitem__, Health()) as recorder:
        taken = Taken(recorder, Health(), clips, time.monotonic())
        recorder.begin("one", taken.now)
        taken.feed(feed)
        until = time.monotonic() + 20
        while recorder._todo:
            assert time.monotonic() < until
        growing.append((tmp_path / "one.mp4").read_bytes())
    finished = taken.until("one").read_bytes()
    assert whole_length(taken.until("one")) == len(finished)
    broken, last = tmp_path / "broken.mp4", -1
    for length in range(0, len(growing[0]) + 1, 211):
        broken.write_bytes(growing[0][:length])
        if cut(broken):
            shown = numbers(broken)
            assert shown == list(range(len(shown))) and len(shown) >= last
            last = len(shown)
        else:
            assert not broken.exists() and last == -1
    assert last >= 45  # all but what was not written yet: the last group, of half a second
    probed(broken)


@given(st.binary(max_size=300))
@settings(max_examples=200)
def test_whatever_is_in_a_file_its_length_is_told(data: bytes) -> None:
    path = (
        Path("/dev/shm" if Path("/dev/shm").is_dir() else "/tmp")
        / f"onchip-{threading.get_ident()}"
    )
    path.write_bytes(data)
    try:
        assert 0 <= whole_length(path) <= len(data)
    finally:
        path.unlink()


@dataclass(frozen=True)
class Shot:
    at: float
    image: np.ndarray

    def bgr(self) -> np.ndarray:
        return self.image


def test_a_camera_that_sends_single_pictures_has_clips_too(taken: Taken) -> None:
    def shoot(first: int, last: int) -> None:
        for number in range(first, last):
            while taken.recorder._pictures:
                time.sleep(0.001)
            taken.recorder.picture(Shot(taken.now, numbered(number, (129, 97))))
            taken.now += 0.2

    shoot(0, 30)
    taken.recorder.begin("one", taken.now)
    shoot(30, 40)
    taken.recorder.close()
    path = taken.until("one")
    shown = numbers(path)
    assert shown[-1] == 39 and shown == list(range(shown[0], 40)) and 15 <= shown[0] <= 25
    assert seconds(path) == pytest.approx(len(shown) / 5, abs=0.1)
    assert (probed(path)["width"], probed(path)["height"]) == (128, 96)


def test_pictures_of_a_camera_whose_packets_are_kept_are_not_compressed_again(taken: Taken) -> None:
    feed = Feed(10)
    taken.feed(feed)
    taken.recorder.picture(Shot(taken.now, numbered(1)))
    assert taken.recorder._pictures == 0


@pytest.mark.data
@pytest.mark.parametrize("name", ["person-bicycle-car-detection.mp4", "car-detection.mp4"])
def test_a_real_camera_s_video_is_kept_as_it_was(taken: Taken, data: Path, name: str) -> None:
    with av.open(str(data / "video" / name)) as container:
        stream = container.streams.video[0]
        wanted = [packet for packet in container.demux(stream) if packet.size]
        taken.recorder.begin("one", taken.now)
        for packet in wanted:
            taken.recorder.packet(packet, stream, taken.now)
            taken.now += 1 / float(stream.average_rate)
        sizes = [packet.size for packet in wanted]
        length = len(sizes) / float(stream.average_rate)
    taken.recorder.close()
    path = taken.until("one")
    with av.open(str(path)) as clip:
        assert [packet.size for packet in clip.demux(video=0) if packet.size] == sizes
    assert seconds(path) == pytest.approx(length, abs=0.1)
    assert int(probed(path)["nb_read_frames"]) == len(sizes)
