"""A real RTSP server for tests and benchmarks: real clips over a real socket, and real misbehaviour.

    with rtsp.Server({"front": clip}, user="admin", password="secret") as server:
        Connection(place(server.url("front")))

GStreamer serves it, from the system's own Python; clips are H.264 and passed through as they are,
so that thirty streams cost nearly nothing.
"""

import functools
import itertools
import json
import os
import signal
import socket
import subprocess
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Literal, Self
from urllib.parse import quote

import av
import pytest

from onchip.closing import Closing

PYTHON = os.environ.get("ONCHIP_SYSTEM_PYTHON", "/usr/bin/python3")
SCRIPT = Path(__file__).with_name("rtsp_server.py")


@functools.cache
def why_not() -> str:
    """Return what keeps the server from running here; nothing if it can."""
    words = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    try:
        done = subprocess.run([PYTHON, "-c", words], capture_output=True, text=True, timeout=60)
    except OSError as error:
        return str(error)
    return done.stderr.strip().rpartition("\n")[2]


def need() -> None:
    """Skip the test where GStreamer's RTSP server is not installed; fail it where all must be."""
    if reason := why_not():
        text = f"GStreamer's RTSP server is not here ({reason}): apt install gir1.2-gst-rtsp-server-1.0"
        if os.environ.get("ONCHIP_REQUIRE_DATA"):
            pytest.fail(text)
        pytest.skip(text)


def free_port() -> int:
    """Return a port of loopback that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def clip(
    source: Path,
    path: Path,
    *,
    size: tuple[int, int],
    fps: int = 0,
    seconds: float = 4,
    key: float = 1,
) -> Path:
    """Make a clip of another size, rate, length and time between keys from a real one; return it."""
    with av.open(str(source)) as given, av.open(str(path), "w") as made:
        frames = given.streams.video[0]
        rate = fps or round(frames.average_rate or 25)
        stream = made.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.options = {
            "preset": "ultrafast",
            "crf": "26",
            "g": str(round(rate * key)),
            "bf": "0",
        }
        for number, frame in enumerate(
            itertools.islice(given.decode(frames), round(rate * seconds))
        ):
            picture = frame.reformat(*size, format="yuv420p")
            picture.pts, picture.time_base = number, Fraction(1, rate)
            made.mux(stream.encode(picture))
        made.mux(stream.encode(None))
    return path


class Server(Closing):
    """Serves clips (name of the stream to file) until the end of the `with` block.

    `fps` plays them at another rate; `user` and `password` guard them, by digest if wanted.
    """

    def __init__(
        self,
        clips: Mapping[str, Path | str],
        *,
        fps: int = 0,
        user: str = "",
        password: str = "",
        digest: bool = False,
    ) -> None:
        need()
        self.port = free_port()
        self.user, self.password = user, password
        mounts = {name: {"clip": str(clip), "fps": fps} for name, clip in clips.items()}
        self._wanted = {"mounts": mounts, "port": self.port, "user": user, "password": password}
        self._wanted["digest"] = digest
        self._process: subprocess.Popen[str] | None = None

    def url(self, name: str, *, user: str | None = None, password: str | None = None) -> str:
        """The address of a stream, with the right login or another one."""
        user = self.user if user is None else user
        password = self.password if password is None else password
        login = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user else ""
        return f"rtsp://{login}127.0.0.1:{self.port}/{name}"

    def start(self) -> None:
        """Start it, on the same port each time."""
        assert self._process is None
        command = [PYTHON, str(SCRIPT), json.dumps(self._wanted)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        told = self._process.stdout.readline()
        if told != f"ready {self.port}\n":
            self.kill()
            pytest.fail(f"the RTSP server does not start: {told}")

    def kill(self) -> None:
        """Cut it off, as a camera that loses its power."""
        if self._process is None:
            return
        process, self._process = self._process, None
        process.kill()
        process.wait()
        for end in (process.stdin, process.stdout):
            if end is not None:
                end.close()

    def freeze(self) -> None:
        """Stop it, its connections open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def send(self, name: str, what: Literal["video", "junk", "nothing"]) -> None:
        """Have a stream send its clip, noise in the place of its pictures, or nothing."""
        self._order({"mount": name, "send": what})

    def show(self, name: str, clip: Path | str) -> None:
        """Have a stream go on with another clip, of another size perhaps, without a word."""
        self._order({"mount": name, "clip": str(clip)})

    def times(self, name: str) -> list[float]:
        """When each picture was sent since someone watches (`time.monotonic()`), to tell its age by.

        For who watched from the first on, a picture's place here is its `pts` times the rate.
        """
        return json.loads(self._order({"mount": name, "times": True}))

    def _order(self, order: dict[str, object]) -> str:
        assert self._process is not None
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()

    def __enter__(self) -> Self:
        self.start()
        return self

    def close(self) -> None:
        self.kill()
