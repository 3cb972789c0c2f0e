"""`onchip detect`: order, workers, choices, what is drawn, and cameras."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from onchip.detect.sources import Clip, Live, Photos, find
from onchip.errors import InputError
from onchip.vision.preprocess import find_images

import rtsp
from conftest import Cli

ONCHIP = [sys.executable, "-m", "onchip"]


def test_sources_are_told_apart(photos: Path, tmp_path: Path) -> None:
    assert isinstance(find(str(photos)), Photos)
    assert isinstance(find("rtsp://10.0.0.5/stream1"), Live)
    assert isinstance(find("usb:0"), Live)
    clip = tmp_path / "usb:0.mp4"  # a file is a file, whatever its name says
    write(clip, 3)
    assert isinstance(find(str(clip)), Clip)
    with pytest.raises(InputError, match="ftp"):
        find("ftp://10.0.0.5/x")


@pytest.mark.parametrize("start", ["RTSP://", "Http://", "rtsp:/", "FTP://"])
def test_no_password_is_shown_however_an_address_is_written(start: str) -> None:
    shown = ""
    try:
        source = find(f"{start}admin:hunter2@10.0.0.5/s")
        shown = source.place.shown if isinstance(source, Live) else "a file"
    except InputError as error:
        shown = f"{error} {error.hint}"
    assert "hunter2" not in shown


def test_only_the_classes_that_were_asked_for(built: Path, photos: Path, cli: Cli) -> None:
    every = lines(cli("detect", built, photos, "--conf", "0.01", "--json"))
    labels = sorted({d["label"] for line in every for d in line["detections"]})
    wanted = labels[:2]
    number = next(
        d["class_id"] for line in every for d in line["detections"] if d["label"] == wanted[1]
    )
    some = lines(
        cli(
            "detect",
            built,
            photos,
            "--conf",
            "0.01",
            "--classes",
            f"{wanted[0]},{number}",
            "--json",
        )
    )
    for all_of, few in zip(every, some, strict=True):
        assert few["detections"] == [d for d in all_of["detections"] if d["label"] in wanted]
    done = cli("detect", built, photos, "--classes", "unicorn", code=2)
    assert "knows no class 'unicorn'" in done.stderr and labels[0] in done.stderr
    assert "names none" in cli("detect", built, photos, "--classes", " , ", code=2).stderr


def test_an_overlap_of_one_keeps_twins(built: Path, photos: Path, cli: Cli) -> None:
    few = lines(cli("detect", built, photos, "--conf", "0.01", "--iou", "0.1", "--json"))
    many = lines(cli("detect", built, photos, "--conf", "0.01", "--iou", "1", "--json"))
    assert count(many) > count(few)


def test_a_float_model_sees_too(tiny: Path, photos: Path, cli: Cli) -> None:
    assert len(lines(cli("detect", tiny, photos, "--json"))) == 6


def test_photos_of_one_name_are_drawn_apart(built: Path, photos: Path, cli: Cli) -> None:
    one = find_images(photos)[0]
    for folder in ("left", "right"):
        (cli.folder / "two" / folder).mkdir(parents=True)
        shutil.copy(one, cli.folder / "two" / folder / "same.png")
    cli("detect", built, "two", "-o", "drawn")
    assert sorted(
        p.relative_to(cli.folder / "drawn") for p in (cli.folder / "drawn").rglob("*.jpg")
    ) == [
        Path("left/same.jpg"),
        Path("right/same.jpg"),
    ]


def test_seconds_end_a_clip(built: Path, cli: Cli) -> None:
    write(cli.folder / "clip.mp4", 30)  # at ten a second
    assert len(lines(cli("detect", built, "clip.mp4", "--seconds", "1", "--json"))) == 10


@pytest.mark.parametrize(
    ("source", "code", "said"),
    [
        ("rtsp://127.0.0.1:{port}/x", 5, "cannot be reached"),
        ("http://127.0.0.1:{port}/x", 5, "cannot be reached"),
        ("ftp://127.0.0.1/x", 2, "ftp"),
        ("usb:ten", 2, "names no camera"),
    ],
)
def test_a_camera_that_is_not_there(
    source: str, code: int, said: str, built: Path, cli: Cli
) -> None:
    done = cli("detect", built, source.format(port=rtsp.free_port()), code=code)
    assert said in done.stderr and "Traceback" not in done.stderr


def test_a_clip_that_is_interrupted_leaves_no_half_video(built: Path, cli: Cli) -> None:
    write(cli.folder / "clip.mp4", 3000)
    command = [*ONCHIP, "detect", str(built), "clip.mp4", "-o", "seen", "--json"]
    running = subprocess.Popen(
        command, cwd=cli.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stdout is not None and running.stdout.readline()
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=20)
    assert running.returncode == 130 and "interrupted" in said
    assert not list((cli.folder / "seen").iterdir())


def test_a_reader_that_has_seen_enough_is_no_error(built: Path, cli: Cli) -> None:
    write(cli.folder / "clip.mp4", 300)
    command = [*ONCHIP, "detect", str(built), "clip.mp4", "--json"]
    running = subprocess.Popen(
        command, cwd=cli.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stdout is not None and running.stderr is not None
    running.stdout.readline()
    running.stdout.close()
    assert (running.stderr.read(), running.wait(20)) == ("", 0)


@pytest.mark.live
@pytest.mark.data
def test_a_camera_is_looked_at_until_interrupted(built: Path, data: Path, tmp_path: Path) -> None:
    rtsp.need()
    with rtsp.Server({"front": data / "video" / "car-detection.mp4"}) as server:
        command = [*ONCHIP, "detect", str(built), server.url("front"), "-o", "seen", "--json"]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        running = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert running.stdout is not None
        first = [json.loads(running.stdout.readline()) for _ in range(15)]
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=20)
        assert running.returncode == 0, said
        assert first[0]["source"] == server.url("front")
    (drawn,) = (tmp_path / "seen").iterdir()
    with av.open(str(drawn)) as container:
        assert sum(1 for _ in container.decode(video=0)) >= 14  # the last may not be drawn yet


@pytest.mark.skipif(not shutil.which("Xvfb"), reason="needs a screen: Xvfb")
def test_a_window_shows_frames_and_closes() -> None:
    pytest.importorskip("tkinter")
    script = (
        "import numpy as np\n"
        "from onchip.detect.window import Window, screen\n"
        "assert screen()\n"
        "with Window('front') as window:\n"
        "    window.show(np.full((900, 1600, 3), 90, np.uint8))\n"
        "    size = window._root.winfo_width(), window._root.winfo_height()\n"
        "    window._root.event_generate('<Escape>', when='now')\n"
        "    print(size, window.open)\n"
    )
    done = subprocess.run(
        ["xvfb-run", "-a", sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "(1280, 720) False", done.stderr


def write(path: Path, frames: int) -> None:
    random = np.random.default_rng(1)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for _ in range(frames):
            image = cv2.resize(random.integers(0, 255, (6, 9, 3), np.uint8), (96, 64))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode(None))


def lines(done: "subprocess.CompletedProcess[str]") -> list[dict]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def count(found: list[dict]) -> int:
    return sum(len(line["detections"]) for line in found)
