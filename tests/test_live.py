"""Cameras: real servers, real clips, and what real cameras do wrong."""

import base64
import contextlib
import errno
import hashlib
import http.server
import itertools
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onchip.detect import feed
from onchip.detect.feed import Due
from onchip.detect.live import Camera, Connection, Latest, LostError, Picture, Seen, Waits
from onchip.detect.lost import explained, lost
from onchip.detect.picture import luma
from onchip.detect.place import Place, place
from onchip.errors import InputError

import rtsp

STANDIN = Path(__file__).parent / "standins" / "pi"
SECRET = "p@ss/w#rd?:%4ü"


@pytest.fixture(scope="session")
def movie(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds of a real clip with a key each second."""
    source = data / "video" / "car-detection.mp4"
    path = tmp_path_factory.mktemp("movie") / "car.mp4"
    return rtsp.clip(source, path, size=(384, 216), fps=12, seconds=3)


@pytest.fixture(scope="session")
def other(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, of another size, and at whose width decoders pad lines."""
    source = data / "video" / "car-detection.mp4"
    path = tmp_path_factory.mktemp("movie") / "other.mp4"
    return rtsp.clip(source, path, size=(270, 152), fps=12, seconds=1)


def why(connection: Connection) -> LostError:
    """Return why a connection is lost, having read it until then."""
    with connection, pytest.raises(LostError) as caught:
        for _ in connection:
            pass
    if connection.place.kind in ("rtsp", "http"):  # FFmpeg's errors hold the password
        assert caught.value.__cause__ is None and caught.value.__context__ is None
    return caught.value


# What is named


@pytest.mark.parametrize(
    ("text", "kind", "address", "shown"),
    [
        ("rtsp://10.0.0.5/s", "rtsp", "rtsp://10.0.0.5/s", "rtsp://10.0.0.5/s"),
        ("RTSP://me:a@b@cam/s", "rtsp", "rtsp://me:a%40b@cam/s", "rtsp://me:***@cam/s"),
        ("rtsp://me:%41b%zz@cam", "rtsp", "rtsp://me:%41b%25zz@cam", "rtsp://me:***@cam"),
        ("rtsps://ü:ü@[fe80::1]:322/s?a=b&c=d", "rtsp", "rtsps://%C3%BC:%C3%BC@[fe80::1]:322/s?a=b&c=d", "rtsps://%C3%BC:***@[fe80::1]:322/s?a=b&c=d"),
        ("rtsp://c/user=a_password=hid_channel=1", "rtsp", "rtsp://c/user=a_password=hid_channel=1", "rtsp://c/user=a_password=***_channel=1"),
        ("https://cam/snap.cgi?usr=a&pwd=hid", "http", "https://cam/snap.cgi?usr=a&pwd=hid", "https://cam/snap.cgi?usr=a&pwd=***"),
        ("/dev/video0", "usb", "/dev/video0", "/dev/video0"),
        ("picamera:1", "pi", "1", "picamera:1"),
        (__file__, "file", __file__, __file__),
    ],
)  # fmt: skip
def test_place(text: str, kind: str, address: str, shown: str) -> None:
    found = place(f" {text} ")
    assert (found.kind, found.address, found.shown, str(found)) == (kind, address, shown, shown)
    assert "hid" not in repr(found) and found.address not in repr(found).replace(shown, "")


@pytest.mark.parametrize(
    "text",
    [
        "", "usb:", "usb:x", "usb:1234", "picamera:-1", "nothing.mp4", "ftp://cam/x", "rtsp://", "rtsp:///s",
        "rtsp://cam:0/s", "rtsp://cam:65536/s", "rtsp://a b/s", "rtsp://cam/a\nb", "file:///etc/passwd", "a" * 5000,
    ],
)  # fmt: skip
def test_not_a_place(text: str) -> None:
    with pytest.raises(InputError) as caught:
        place(text)
    assert caught.value.hint


@pytest.mark.parametrize(
    "password", ["sec/ret", "sec#ret", "12/secret", "12?secret", "a@b/secret", "[secret"]
)
def test_an_address_that_could_be_read_in_two_ways(password: str) -> None:
    try:
        found = place(f"rtsp://admin:{password}@10.0.0.5/s")
    except InputError as caught:
        error = caught
        found = place(f"rtsp://admin:{quote(password, safe='')}@10.0.0.5/s")
        assert "10.0.0.5" in str(error) and "ret" not in str(error) and "%2F" in error.hint
    assert found.login == ("admin", password)
    assert found.shown == "rtsp://admin:***@10.0.0.5/s"


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1))
def test_any_password_works_escaped(password: str) -> None:
    found = place(f"rtsp://u:{quote(password, safe='')}@10.0.0.5:554/s?x=1")
    assert found.login == ("u", password)
    assert found.bare == "rtsp://10.0.0.5:554/s?x=1"
    assert found.shown == "rtsp://u:***@10.0.0.5:554/s?x=1"


@given(
    st.one_of(
        st.text(),
        st.from_regex(r"(rtsp|http|usb|picamera)s?:/{0,3}[a-c:@/#?%\[\]0-9.]*", fullmatch=True),
    )
)
@settings(max_examples=300)
def test_place_takes_any_text(text: str) -> None:
    with contextlib.suppress(InputError):
        found = place(text)
        assert isinstance(found, Place)
        assert found.login is None or found.kind in ("rtsp", "http")
        assert found.bare.isprintable()


@given(
    st.text("abc:/@#?[]%.=&", max_size=8),
    st.sampled_from(["rtsp://", "rtsp:/", "http://", "htp://"]),
)
def test_no_message_tells_a_password(around: str, scheme: str) -> None:
    text = f"{scheme}admin:{around}SECRET{around}@10.0.0.5/s"
    try:
        found = place(text)
        told = f"{found} {found!r}"
    except InputError as error:
        told = f"{error} {error.hint}"
    assert "SECRET" not in told


def test_options_are_for_their_own_kind() -> None:
    assert place("usb:0", size=(640, 480), fps=15).size == (640, 480)
    assert place("rtsp://cam/s", transport="udp").transport == "udp"
    for text, options in [
        ("rtsp://cam/s", {"fps": 5}), ("rtsp://cam/s", {"transport": "pigeon"}), ("usb:0", {"transport": "tcp"}),
        ("usb:0", {"size": (0, 5)}), ("usb:0", {"fps": float("nan")}), ("http://cam", {"size": (640, 480)}),
    ]:  # fmt: skip
        with pytest.raises(InputError):
            place(text, **options)  # type: ignore[arg-type]


# What a picture is


def frame(form: str, size: tuple[int, int] = (270, 152)) -> av.VideoFrame:
    image = np.random.default_rng(1).integers(0, 255, (size[1], size[0], 3), np.uint8)
    return av.VideoFrame.from_ndarray(image, format="bgr24").reformat(format=form)


@pytest.mark.parametrize("form", ["yuv420p", "yuvj420p", "nv12", "yuv422p", "gray"])
def test_brightness_is_the_decoders_own(form: str) -> None:
    made = frame(form)
    gray = luma(made)
    rows = np.frombuffer(made.planes[0], np.uint8).reshape(152, -1)
    assert rows.shape[1] >= 270 and np.shares_memory(gray, rows) and gray.shape == (152, 270)
    kept = rows[:, :270].copy()
    del made, rows  # the view keeps the picture
    assert np.array_equal(gray, kept) and not gray.flags.writeable


def test_brightness_of_other_formats() -> None:
    flat = np.repeat(np.arange(0, 250, 2, dtype=np.uint8)[None, :124], 64, 0)
    plain = av.VideoFrame.from_ndarray(flat, format="gray")
    for form in ("yuyv422", "uyvy422", "rgb24", "yuv420p10le"):
        gray = luma(plain.reformat(format=form))
        assert gray.shape == flat.shape
        assert np.abs(gray.astype(int) - flat).max() <= 20  # video's range is 16 to 235


def test_bgr_is_what_a_file_gives() -> None:
    made = frame("yuv420p")
    picture = Picture(0, 0, 0, (270, 152), True, None, made)
    assert np.array_equal(picture.bgr(), made.to_ndarray(format="bgr24"))
    assert picture.bgr() is picture.bgr()


# How often, how soon again


@given(st.floats(1, 30), st.floats(0.2, 1), st.floats(0, 0.2))
def test_due_gives_the_rate(source: float, part: float, jitter: float) -> None:
    rate, random = source * part, np.random.default_rng(0)
    due, given_at = Due(rate), []
    for number in range(300):
        now = (number + jitter * random.uniform(-1, 1)) / source
        if due.soon(now):
            due.taken(now)
            given_at.append(now)
    wanted = rate * 299 / source
    assert wanted * 0.85 - 2 <= len(given_at) <= wanted + 2


WHYS = st.sampled_from(
    ["unreachable", "refused", "missing", "stalled", "garbage", "ended", "changed", "gone"]
)


@given(st.lists(st.tuples(WHYS, st.one_of(st.none(), st.floats(0, 500))), max_size=40))
def test_waits(losses: list[tuple[str, float | None]]) -> None:
    waits, now, cut = Waits(), 0.0, float("-inf")
    for word, lived in losses:
        now += lived or 0
        cut = now if lived is not None else cut
        wait = waits.after(LostError(word, ""), lived, now)  # type: ignore[arg-type]
        if word == "refused":
            assert 27 <= wait <= 330
        else:
            assert (0 if word == "changed" and lived and lived >= 5 else 0.9) <= wait <= 30
            assert now - cut >= 120 or wait <= 4
        now += wait


def test_waits_grow_and_begin_again() -> None:
    waits = Waits()
    grown = [waits.after(LostError("unreachable", ""), None, 1000.0 * n) for n in range(8)]
    assert grown[0] < 1.2 < grown[1] < 2.3 < grown[2] and grown[-1] > 24
    assert waits.after(LostError("ended", ""), 60.0, 9000) < 1.2


def test_latest_keeps_one() -> None:
    slot: Latest[int] = Latest()
    assert slot.get(0) is None
    for number in range(5):
        slot.put(number)
    assert slot.get() == 4 and slot.get(0.01) is None
    threading.Timer(0.05, slot.put, [7]).start()
    assert slot.get(10) == 7


# RTSP


@pytest.mark.live
@pytest.mark.data
@pytest.mark.parametrize("digest", [False, True])
def test_rtsp_with_a_password(movie: Path, digest: bool) -> None:
    with rtsp.Server({"a": movie}, user="admin", password=SECRET, digest=digest) as server:
        with Connection(place(server.url("a"))) as connection:
            pictures = list(itertools.islice(connection, 14))
        wrong = why(Connection(place(server.url("a", password=SECRET + "x"))))
        none = why(Connection(place(f"rtsp://127.0.0.1:{server.port}/a")))
        path = why(Connection(place(server.url("b"))))
    assert [p.number for p in pictures] == list(range(14))
    assert [round((p.pts or 0) * 12) for p in pictures] == list(range(14))
    assert [p.key for p in pictures] == [n % 12 == 0 for n in range(14)]
    with av.open(str(movie)) as container:
        for picture, wanted in zip(pictures, container.decode(video=0), strict=False):
            assert np.array_equal(picture.bgr(), wanted.to_ndarray(format="bgr24"))
    assert (wrong.why, none.why, path.why) == ("refused", "refused", "missing")
    for error in (wrong, none, path):
        assert "w#rd" not in f"{error!r} {error} {error.hint}" and "%23" not in f"{error}"
    assert wrong.hint and "rtsp://user:password@" in none.hint


@pytest.mark.live
@pytest.mark.data
def test_rtsp_that_goes_wrong(movie: Path, other: Path) -> None:
    """Frozen for a moment, frozen, silent, noise, another size, cut: each said as what it is."""

    def read(act: Callable[[], None]) -> LostError:
        def acted() -> Iterator[None]:
            for number, _ in enumerate(connection):
                if number == 3:
                    act()
                yield

        with (
            Connection(place(server.url("a")), stall=1) as connection,
            pytest.raises(LostError) as caught,
        ):
            for _ in acted():
                pass
        return caught.value

    with rtsp.Server({"a": movie}) as server:
        with Connection(place(server.url("a")), stall=5) as connection:
            for number, _ in enumerate(connection):
                if number == 3:  # longer than one read may take
                    server.freeze()
                    threading.Timer(1.2, server.thaw).start()
                if number == 30:
                    break
        assert read(server.freeze).why == "stalled"
        server.thaw()
        assert read(lambda: server.send("a", "nothing")).why == "stalled"
        server.send("a", "video")
        assert read(lambda: server.send("a", "junk")).why == "garbage"
        server.send("a", "video")
        changed = read(lambda: server.show("a", other))
        assert changed.why == "changed" and "384x216 to 270x152" in str(changed)
        assert read(server.kill).why in ("ended", "unreachable")
        assert why(Connection(place(server.url("a")))).why == "unreachable"


@pytest.mark.live
@pytest.mark.data
def test_packets_can_be_kept_without_encoding(movie: Path, tmp_path: Path) -> None:
    """What `on_packet` sees makes a sound file, with a key first and times that grow."""
    kept: list[av.Packet] = []
    streams = []

    def keep(packet: av.Packet, stream: object) -> None:
        kept.append(packet)
        streams.append(stream)

    told = []
    with (
        rtsp.Server({"a": movie}) as server,
        Connection(
            place(server.url("a")), on_packet=keep, rate=2, opened=told.append
        ) as connection,
    ):
        shown = list(itertools.islice(connection, 5))
        with av.open(str(tmp_path / "kept.mp4"), "w") as made:
            stream = made.add_stream_from_template(streams[0])
            for packet in kept:
                packet.stream = stream
                made.mux(packet)
    assert told[0].codec == "h264" and told[0].size == (384, 216) and round(told[0].fps) == 12
    with av.open(str(tmp_path / "kept.mp4")) as container:
        stamps = [f.pts * f.time_base for f in container.decode(video=0)]
    assert len(stamps) == len(kept) >= 24 and len(shown) == 5
    steps = np.diff(np.array(stamps, float))
    assert np.allclose(steps, 1 / 12, atol=0.02)


@pytest.mark.live
@pytest.mark.data
def test_a_camera_comes_back(movie: Path, other: Path) -> None:
    """Cut and restored, then back with another size: pictures again within ten seconds."""
    seen: list[Seen] = []
    latest: Latest[Picture] = Latest()
    with rtsp.Server({"a": movie}) as server:
        with Camera(
            place(server.url("a")), latest.put, rate=5, stall=2, tell=seen.append
        ) as camera:
            camera.start()
            assert latest.get(10) is not None
            server.kill()
            while seen[-1].state != "waiting":
                latest.get(0.2)
            while sum(s.state == "waiting" for s in seen) < 2:
                time.sleep(0.05)
            assert (error := seen[-1].error) is not None and error.why == "unreachable"
            assert seen[-1].retry is not None and 0 < seen[-1].retry - time.monotonic() < 5
            latest.get(0)
            server.start()
            back = latest.get(10)
            assert back is not None and back.size == (384, 216)
            while latest.get(0.3) is None or camera.skipped:
                pass
            server.show("a", other)
            deadline = time.monotonic() + 10
            while (back := latest.get(10)) is not None and back.size != (270, 152):
                assert time.monotonic() < deadline
            assert back is not None and "changed" in [s.error.why for s in seen if s.error]
        assert not any("onchip-camera" in t.name for t in threading.enumerate())
    states = [s.state for s in seen]
    assert states[:3] == ["connecting", "live", "waiting"] and states[-1] == "live"


class Fake:
    """Something at a port that is no camera."""

    def __init__(self, answer: Callable[[socket.socket], None]) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.answer = answer
        self.lines: list[socket.socket] = []
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                line, _ = self.listener.accept()
                self.lines.append(line)
                with line, contextlib.suppress(OSError, ValueError):
                    self.answer(line)

    def __enter__(self) -> "Fake":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for line in (self.listener, *self.lines):
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(20)
        assert not self.thread.is_alive()


def noise(line: socket.socket) -> None:
    line.recv(1000)
    while True:
        line.sendall(os.urandom(1000))


def mute(line: socket.socket) -> None:
    while line.recv(1000):
        pass


SDP = "v=0\r\no=- 0 0 IN IP4 0.0.0.0\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:0\r\n"


def promising(line: socket.socket) -> None:
    """All that a camera says before pictures, then noise."""
    while request := line.recv(4000).decode():
        count = re.search(r"CSeq: (\d+)", request) or ["", "0"]
        more, body = "", ""
        if request.startswith("DESCRIBE"):
            more, body = "Content-Type: application/sdp\r\n", SDP
        if request.startswith("SETUP"):
            more = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
        answer = f"RTSP/1.0 200 OK\r\nCSeq: {count[1]}\r\n{more}Content-Length: {len(body)}\r\n\r\n{body}"
        line.sendall(answer.encode())
        if request.startswith("PLAY"):
            while True:
                line.sendall(os.urandom(1000))


@pytest.mark.parametrize(("answer", "words"), [(noise, {"garbage", "unreachable"}), (mute, {"unreachable"}), (promising, {"garbage", "stalled", "unreachable"})])  # fmt: skip
def test_what_is_no_camera(answer: Callable[[socket.socket], None], words: set[str]) -> None:
    with Fake(answer) as fake:
        assert (
            why(Connection(place(f"rtsp://me:SECRET@127.0.0.1:{fake.port}/s"), stall=1)).why
            in words
        )


@pytest.mark.parametrize("answer", [mute, promising])
@pytest.mark.parametrize("scheme", ["rtsp", "http", "https", "rtsps"])
def test_close_ends_a_connection_that_hangs(
    answer: Callable[[socket.socket], None], scheme: str
) -> None:
    with Fake(answer) as fake:
        camera = Camera(place(f"{scheme}://127.0.0.1:{fake.port}/s"), lambda picture: None)
        camera.start()
        time.sleep(0.2)
        began = time.monotonic()
        camera.close()
        assert time.monotonic() - began < 3


def test_no_name() -> None:
    assert why(Connection(place("rtsp://no-such-camera.invalid/s"))).why == "unreachable"
    assert why(Connection(place("http://no-such-camera.invalid/s"))).why == "unreachable"


@pytest.mark.live
@pytest.mark.data
def test_nothing_is_left_after_many_connections(movie: Path) -> None:
    def held() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    with rtsp.Server({"a": movie}) as server:
        before = held()
        for number in range(50):
            connection = Connection(place(server.url("a")), stall=3)
            if number % 12 == 0:
                next(connection)
                connection.close()
                continue
            thread = threading.Thread(target=list, args=(connection,))
            thread.start()
            time.sleep(0.01 * (number % 7))
            connection.close()
            thread.join(5)
            assert not thread.is_alive()
        deadline = time.monotonic() + 10
        while held() != before and time.monotonic() < deadline:
            time.sleep(0.05)
        assert held() == before


@pytest.mark.live
@pytest.mark.data
def test_ffmpeg_prints_nothing(movie: Path) -> None:
    """Not on noise either."""
    words = (
        "import sys, itertools; from onchip.detect.live import *; from onchip.detect.place import place\n"
        "try:\n for n, p in enumerate(Connection(place(sys.argv[1]), stall=1)):\n"
        "  if n == 2: print('go', flush=True)\n"
        "except LostError as e: print(e.why)\n"
    )
    with rtsp.Server({"a": movie}) as server:
        command = [sys.executable, "-c", words, server.url("a")]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None and process.stdout.readline() == "go\n"
        server.send("a", "junk")
        assert process.communicate(timeout=20) == ("garbage\n", "")


# HTTP


class Web:
    """A small web server of cameras. `pages` are path to function; `allow` looks at a login."""

    def __init__(self) -> None:
        web = self
        self.pages: dict[str, Callable[[http.server.BaseHTTPRequestHandler], None]] = {}
        self.challenge = ""
        self.allow: Callable[[str], bool] = lambda header: True
        self.done = threading.Event()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                if web.challenge and not web.allow(self.headers.get("Authorization", "")):
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", web.challenge)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                page = web.pages.get(self.path.partition("?")[0])
                if page is None:
                    self.send_error(404)
                    return
                with contextlib.suppress(OSError):
                    page(self)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))

    def url(self, path: str, login: str = "", scheme: str = "http") -> str:
        return f"{scheme}://{login}127.0.0.1:{self.server.server_port}{path}"


def head(
    handler: http.server.BaseHTTPRequestHandler,
    kind: str,
    length: int | None = None,
    code: int = 200,
) -> None:
    handler.send_response(code)
    handler.send_header("Content-Type", kind)
    if length is None:
        handler.close_connection = True
    else:
        handler.send_header("Content-Length", str(length))
    handler.end_headers()


def whole(data: bytes, kind: str) -> Callable[[http.server.BaseHTTPRequestHandler], None]:
    """A file, of which parts can be asked for."""

    def send(handler: http.server.BaseHTTPRequestHandler) -> None:
        start = int((handler.headers.get("Range") or "bytes=0-")[6:-1])
        handler.send_response(206 if start else 200)
        handler.send_header("Accept-Ranges", "bytes")
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(data) - start))
        handler.end_headers()
        handler.wfile.write(data[start:])

    return send


@pytest.fixture
def web() -> Iterator[Web]:
    web = Web()
    web.thread.start()
    yield web
    web.done.set()
    web.server.shutdown()
    web.server.server_close()
    web.thread.join()


@pytest.fixture(scope="session")
def jpegs(movie: Path) -> list[bytes]:
    with av.open(str(movie)) as container:
        images = [f.to_ndarray(format="bgr24") for f in container.decode(video=0)]
    return [cv2.imencode(".jpg", image)[1].tobytes() for image in images]


def mjpeg(
    web: Web, jpegs: list[bytes], length: bool = True
) -> Callable[[http.server.BaseHTTPRequestHandler], None]:
    def send(handler: http.server.BaseHTTPRequestHandler) -> None:
        head(handler, "multipart/x-mixed-replace; boundary=frame")
        for data in itertools.cycle(jpegs):
            size = f"Content-Length: {len(data)}\r\n" if length else ""
            handler.wfile.write(
                f"--frame\r\nContent-Type: image/jpeg\r\n{size}\r\n".encode() + data + b"\r\n"
            )
            if web.done.wait(0.04):
                return

    return send


def decoded(data: bytes) -> np.ndarray:
    packets = av.CodecContext.create("mjpeg", "r").decode(av.Packet(data))
    return packets[0].to_ndarray(format="bgr24")


@pytest.mark.data
@pytest.mark.parametrize("length", [True, False])
def test_mjpeg(web: Web, jpegs: list[bytes], length: bool) -> None:
    web.pages["/video"] = mjpeg(web, jpegs, length)
    seen = []
    with Connection(
        place(web.url("/video")), on_packet=lambda packet, stream: seen.append(packet), rate=8
    ) as connection:
        pictures = list(itertools.islice(connection, 4))
    assert len(seen) >= 7  # all come, and only those that are due are decoded
    wanted = [decoded(data) for data in jpegs]
    assert all(any(np.array_equal(p.bgr(), image) for image in wanted) for p in pictures)


@pytest.mark.data
def test_snapshots(web: Web, jpegs: list[bytes]) -> None:
    """An address with one picture is asked again and again; a password with it, in both ways."""
    asked = iter(jpegs)
    web.pages["/snap"] = lambda handler: (
        (data := next(asked)) and whole(data, "image/jpeg")(handler)
    )
    login = f"admin:{quote(SECRET, safe='')}@"
    web.challenge = 'Basic realm="camera"'
    web.allow = lambda header: (
        header == "Basic " + base64.b64encode(f"admin:{SECRET}".encode()).decode()
    )
    with Connection(place(web.url("/snap", login)), rate=50) as connection:
        pictures = list(itertools.islice(connection, 3))
    assert np.array_equal(pictures[1].bgr(), decoded(jpegs[1]))

    def digest(header: str) -> bool:
        parts = dict(re.findall(r'(\w+)="?([^",]*)"?', header))
        one, two = (
            hashlib.md5(t.encode()).hexdigest()
            for t in (f"admin:cam:{SECRET}", f"GET:{parts.get('uri')}")
        )
        text = f"{one}:n:{parts.get('nc')}:{parts.get('cnonce')}:auth:{two}"
        return parts.get("response") == hashlib.md5(text.encode()).hexdigest()

    web.challenge, web.allow = 'Digest realm="cam", nonce="n", qop="auth"', digest
    with Connection(place(web.url("/snap", login)), rate=50) as connection:
        assert len(list(itertools.islice(connection, 3))) == 3
    for wrong in ("", "admin:wrong@"):
        assert why(Connection(place(web.url("/snap", wrong)))).why == "refused"


@pytest.mark.data
@pytest.mark.parametrize("kind", ["mpegts", "mp4", "hls"])
def test_video_over_http(web: Web, movie: Path, tmp_path: Path, kind: str) -> None:
    """Files come in their own time, whatever the network gives; mp4 with its list at the end too."""
    made = tmp_path / {"mpegts": "a.ts", "mp4": "a.mp4", "hls": "a.m3u8"}[kind]
    with av.open(str(movie)) as given_, av.open(str(made), "w", format=kind) as out:
        stream = out.add_stream_from_template(given_.streams.video[0])
        for packet in given_.demux(video=0):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    for path in tmp_path.iterdir():
        kinds = {".ts": "video/mp2t", ".mp4": "video/mp4", ".m3u8": "application/vnd.apple.mpegurl"}
        web.pages["/" + path.name] = whole(path.read_bytes(), kinds[path.suffix])
    with Connection(place(web.url("/" + made.name))) as connection:
        pictures = list(itertools.islice(connection, 10))
    if kind != "mpegts":  # which tells no length
        assert pictures[-1].at - pictures[0].at > 0.6
    with av.open(str(movie)) as container:
        for picture, wanted in zip(pictures, container.decode(video=0), strict=False):
            assert np.array_equal(picture.bgr(), wanted.to_ndarray(format="bgr24"))


@pytest.mark.data
def test_web_pages_that_are_no_cameras(web: Web, jpegs: list[bytes]) -> None:
    def noise_(handler: http.server.BaseHTTPRequestHandler) -> None:
        head(handler, "multipart/x-mixed-replace; boundary=frame")
        while not web.done.wait(0.002):
            handler.wfile.write(os.urandom(4000))

    def silent(handler: http.server.BaseHTTPRequestHandler) -> None:
        head(handler, "multipart/x-mixed-replace; boundary=frame")
        handler.wfile.write(
            b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpegs[0])
        )
        handler.wfile.write(jpegs[0] + b"\r\n")
        web.done.wait(20)

    web.pages |= {
        "/html": whole(b"<html>hello</html>" * 99, "text/html"),
        "/half": whole(jpegs[0][:300], "image/jpeg"),
        "/noise": noise_,
        "/silent": silent,
        "/list": whole(
            b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n", "application/x-mpegurl"
        ),
        "/broken": lambda handler: handler.send_error(503),
    }
    told = {
        path: why(Connection(place(web.url(path)), stall=1)).why
        for path in [*web.pages, "/nothing"]
    }
    assert told.pop("/silent") in ("stalled", "unreachable")
    assert told == {
        "/html": "garbage", "/half": "garbage", "/noise": "garbage", "/list": "garbage", "/broken": "unreachable", "/nothing": "missing",
    }  # fmt: skip


@pytest.mark.data
def test_a_password_is_for_its_own_host(web: Web, jpegs: list[bytes]) -> None:
    """Where a camera sends one elsewhere, the password does not go along."""
    thief, headers = Web(), []
    thief.challenge = 'Basic realm="camera"'
    thief.allow = lambda header: bool(headers.append(header))
    thief.thread.start()
    try:

        def away(handler: http.server.BaseHTTPRequestHandler) -> None:
            handler.send_response(302)
            handler.send_header("Location", thief.url("/snap"))
            handler.send_header("Content-Length", "0")
            handler.end_headers()

        web.pages["/snap"] = away
        assert why(Connection(place(web.url("/snap", "me:SECRET@")))).why == "refused"
    finally:
        thief.server.shutdown()
        thief.server.server_close()
        thief.thread.join()
    assert headers and not any(headers)


@pytest.mark.data
def test_https_of_a_camera(web: Web, jpegs: list[bytes], tmp_path: Path) -> None:
    """A certificate that the camera made itself is taken."""
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=cam",
    ]
    try:
        subprocess.run(
            [*command, "-keyout", tmp_path / "k", "-out", tmp_path / "c"],
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        pytest.skip("openssl is not here")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "c", tmp_path / "k")
    web.server.socket = context.wrap_socket(web.server.socket, server_side=True)
    web.pages["/video"] = mjpeg(web, jpegs)
    with Connection(place(web.url("/video", scheme="https"))) as connection:
        assert next(connection).size == (384, 216)
    assert why(Connection(place(web.url("/video")), stall=1)).why in (
        "garbage",
        "ended",
        "unreachable",
    )


@pytest.mark.data
def test_close_ends_a_read_of_http(web: Web) -> None:
    def silent(handler: http.server.BaseHTTPRequestHandler) -> None:
        head(handler, "video/mp2t")
        web.done.wait(30)

    web.pages["/silent"] = silent
    connection = Connection(place(web.url("/silent")))
    thread = threading.Thread(target=list, args=(connection,))
    thread.start()
    time.sleep(0.3)
    connection.close()
    thread.join(3)
    assert not thread.is_alive()


# Clips as cameras


@pytest.mark.data
def test_a_clip_plays_in_its_own_time_again_and_again(movie: Path) -> None:
    stamps: list[int] = []
    with Connection(
        place(str(movie)), on_packet=lambda packet, stream: stamps.append(packet.dts)
    ) as connection:
        pictures = list(itertools.islice(connection, 42))
    assert 3.2 < pictures[-1].at - pictures[0].at < 30
    assert np.array_equal(pictures[0].bgr(), pictures[36].bgr())
    assert len(set(np.diff(stamps))) == 1  # no gap, nothing twice, where it begins again


@pytest.mark.data
def test_real_clips_as_cameras(data: Path) -> None:
    for name in ("car-detection.mp4", "person-bicycle-car-detection.mp4"):
        path = data / "video" / name
        with Connection(place(str(path))) as connection, av.open(str(path)) as container:
            for picture, wanted in zip(
                itertools.islice(connection, 5), container.decode(video=0), strict=False
            ):
                assert np.array_equal(picture.bgr(), wanted.to_ndarray(format="bgr24"))
                assert picture.gray().shape == (432, 768)


def test_a_file_that_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"hello" * 1000)
    assert why(Connection(place(str(tmp_path / "a.mp4")))).why == "garbage"


@pytest.mark.data
def test_who_is_slow_gets_what_is_new(movie: Path) -> None:
    """A decoder that falls behind a camera skips to what is new, and says how much it left out."""
    with Connection(place(str(movie))) as connection:
        began = None
        for picture in connection:
            began = began or picture.at - (picture.pts or 0)
            time.sleep(0.2 if connection.skipped < 10 else 0)
            if connection.skipped >= 10 and picture.at - began - (picture.pts or 0) < 3.2:
                break
            assert picture.number < 120
    assert connection.skipped >= 10


# USB


@pytest.mark.skipif(sys.platform != "linux", reason="v4l2 is Linux's")
def test_usb_cameras_that_are_not_there() -> None:
    error = why(Connection(place("usb:99")))
    assert (
        error.why == "missing"
        and str(error) == "usb:99 is not there"
        and "/dev/video" in error.hint
    )
    assert why(Connection(place("/dev/null"))).why == "missing"


@pytest.mark.parametrize(
    ("code", "reading", "word"),
    [(errno.EBUSY, False, "unreachable"), (errno.EACCES, False, "refused"), (errno.ENODEV, True, "gone"), (errno.ENODEV, False, "missing")],
)  # fmt: skip
def test_what_a_driver_says(code: int, reading: bool, word: str) -> None:
    error = explained(OSError(code, "x"), place("usb:0"), 10, reading=reading)
    assert error.why == word and str(error).startswith("usb:0 ")


def test_usb_cameras_are_asked_as_each_system_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be asked of FFmpeg; only Linux's was ever run, and no camera was there."""
    asked: list[tuple[object, dict[str, object]]] = []

    def refuse(source: object, **how: object) -> None:
        asked.append((source, how))
        raise OSError(errno.EBUSY, "busy")

    monkeypatch.setattr(av, "open", refuse)
    assert why(Connection(place("usb:1", size=(1280, 720), fps=30))).why == "unreachable"
    if sys.platform == "linux":
        assert asked[0][0] == "/dev/video1" and asked[0][1]["format"] == "v4l2"
    assert asked[0][1]["options"] == {
        "fflags": "+4",
        "video_size": "1280x720",
        "framerate": "30",
    }
    named = place("usb:0")
    assert feed._device(named, "darwin") == ("avfoundation", "0")
    assert feed._device(named, "win32") == ("dshow", "video=0")


# Pi cameras


@pytest.fixture
def pi(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    monkeypatch.syspath_prepend(str(STANDIN))
    import picamera2

    yield picamera2.state
    assert not picamera2.state.taken and picamera2.state.held == 0, "not given back"
    del sys.modules["picamera2"]


def test_pi_camera(pi: object) -> None:
    told = []
    with Connection(
        place("picamera:1", size=(100, 60), fps=20), opened=told.append, rate=25
    ) as connection:
        pictures = list(itertools.islice(connection, 4))
    assert told[0].size == (100, 60) and told[0].fps == 20
    assert pi.seen["controls"] == {"FrameRate": 20}  # type: ignore[attr-defined]
    for picture in pictures:
        gray = picture.gray()
        assert gray.shape == (60, 100) and np.all(np.diff(gray[0].astype(int)) == 1)
        image = picture.bgr()
        assert image.shape == (60, 100, 3) and np.ptp(image, axis=2).max() <= 3  # no color in it


def test_pi_cameras_that_go_wrong(pi: object, monkeypatch: pytest.MonkeyPatch) -> None:
    assert why(Connection(place("picamera:2"))).why == "missing"
    assert why(Connection(place("picamera:0", size=(9000, 60)))).why == "missing"
    with Connection(place("picamera:0")) as first:
        assert next(first).size == (1280, 720)
        assert why(Connection(place("picamera:0"))).why == "unreachable"
    with Connection(place("picamera:0"), stall=0.6) as connection:
        next(connection)
        pi.silent.set()  # type: ignore[attr-defined]
        assert why(connection).why == "stalled"
    pi.silent.clear()  # type: ignore[attr-defined]


def test_without_picamera2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "picamera2", None)
    error = why(Connection(place("picamera:0")))
    assert (
        error.why == "missing"
        and "python3-picamera2" in error.hint
        and "--system-site-packages" in error.hint
    )


def test_lost_says_the_place() -> None:
    error = lost("gone", place("rtsp://me:SECRET@cam/s"), "is gone")
    assert str(error) == "rtsp://me:***@cam/s is gone" and error.exit_code == 5


def test_times_grow_and_pictures_keep_their_order() -> None:
    from onchip.detect.feed import _Times

    class Stream:
        average_rate, time_base = Fraction(25), Fraction(1, 25)

    def mended(times: list[tuple[int | None, int | None]]) -> list[tuple[int, int | None]]:
        made, out = _Times(Stream()), []  # type: ignore[arg-type]
        for pts, dts in times:
            packet = SimpleNamespace(pts=pts, dts=dts, size=9, duration=1)
            made.mend(packet)  # type: ignore[arg-type]
            out.append((packet.pts, packet.dts))
        return out

    reordered = [(0, None), (3, None), (1, None), (2, None), (6, 4), (4, 5), (5, 6)]
    assert mended(reordered) == reordered  # decoded in another order than shown
    assert mended([(None, None), (1, 1), (2, 2), (0, 0), (1, 1)]) == [(n, n) for n in range(5)]
    assert mended([(1000, None), (1001, None), (0, None)]) == [
        (1000, None),
        (1001, None),
        (1002, None),
    ]
