"""On a Hailo chip, played by a stand-in that checks every call of HailoRT's Python package."""

import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from onchip.artifact import Artifact, save
from onchip.build import Options, build
from onchip.detect.detector import Detector
from onchip.errors import DeviceError, InputError, OnchipError, ToolError
from onchip.targets.hailo import runtime
from onchip.targets.hailo.chips import Hailo8, Hailo8l
from onchip.vision.preprocess import find_images, prepare, read_image

from hailo_wheels import STANDINS


@pytest.fixture(scope="module")
def artifacts(tiny: Path, photos: Path, hailo_toolchains: Path) -> dict[str, Artifact]:
    """The same network with HailoRT's suppression and with raw tensors."""
    before = os.environ.get("ONCHIP_TOOLCHAINS")
    os.environ["ONCHIP_TOOLCHAINS"] = str(hailo_toolchains)
    try:
        return {
            boxes: build(
                tiny,
                "hailo8l",
                find_images(photos),
                options=Options(target={"nms": boxes, "score": "0.6"}),
            )
            for boxes in ("cpu", "none")
        }
    finally:
        del os.environ["ONCHIP_TOOLCHAINS"]
        if before is not None:
            os.environ["ONCHIP_TOOLCHAINS"] = before


@pytest.fixture(autouse=True)
def _nothing_leaks(hailort: pytest.MonkeyPatch) -> None:
    yield
    if "hailo_platform" in sys.modules:
        from hailo_platform.pyhailort import _pyhailort

        assert _pyhailort.open_resources() == {}


def boxes(artifact: Artifact, photo: Path, **limits: float) -> np.ndarray:
    with Detector(artifact, **limits) as detector:
        found = detector(photo)
    return np.column_stack([found.boxes, found.scores, found.classes])


@pytest.mark.parametrize("kind", ["cpu", "none"])
def test_the_chip_sees_what_the_emulator_sees(
    kind: str,
    artifacts: dict[str, Artifact],
    photos: Path,
    hailort: pytest.MonkeyPatch,
    compiler: pytest.MonkeyPatch,
) -> None:
    photo, artifact = find_images(photos)[0], artifacts[kind]
    on_chip = boxes(artifact, photo, confidence=0.3, overlap=0.7)
    assert len(on_chip)
    steps = Hailo8l().steps(artifact)
    assert list(steps) == ["native", "optimized", "quantized", "device"]
    with steps["quantized"].open() as emulator:
        detector = Detector(artifact, confidence=0.3, overlap=0.7)
        detector.close()
        detector.program = type(detector.program)(
            emulator, detector.program.input, detector.program.head
        )
        found = detector(photo)
    np.testing.assert_allclose(on_chip[:, :4], found.boxes, atol=0.05)
    np.testing.assert_allclose(on_chip[:, 4], found.scores, atol=1e-3)


def test_thresholds_are_set_at_run_time(artifacts: dict[str, Artifact], photos: Path) -> None:
    """The file says 0.6; less is possible, and more is not only filtered afterwards."""
    photo = find_images(photos)[0]
    few, many = (boxes(artifacts["cpu"], photo, confidence=c) for c in (0.7, 0.01))
    assert many[:, 4].min() < 0.6 < 0.7 <= few[:, 4].min()
    with Detector(artifacts["cpu"], confidence=0.7) as detector:
        session = detector.session
        tensor, _ = prepare(read_image(photo), detector.program.input)
        raw = session(tensor)
        session.limit(0.01, 0.7)
        more = session(tensor)
    assert (raw["nms"][0, :, 4] > 0).sum() < (more["nms"][0, :, 4] > 0).sum()


def test_the_older_interface(
    artifacts: dict[str, Artifact], photos: Path, hailort: pytest.MonkeyPatch
) -> None:
    import hailo_platform

    photo = find_images(photos)[0]
    for artifact in artifacts.values():
        newer = boxes(artifact, photo, confidence=0.3)
        with hailort.context() as patch:
            patch.delattr(hailo_platform.VDevice, "create_infer_model")
            older = boxes(artifact, photo, confidence=0.3)
        np.testing.assert_allclose(newer, older, atol=1e-4)


def test_from_several_threads(artifacts: dict[str, Artifact], photos: Path) -> None:
    images = [read_image(p) for p in find_images(photos)]
    with Detector(artifacts["cpu"], confidence=0.3) as detector:
        wanted = [detector(i).boxes for i in images]
        found: dict[int, np.ndarray] = {}

        def work(number: int) -> None:
            for _ in range(3):
                found[number] = detector(images[number]).boxes

        threads = [threading.Thread(target=work, args=(n,)) for n in range(len(images))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for number, each in enumerate(wanted):
        np.testing.assert_array_equal(found[number], each)


def test_two_networks_share_the_chip(artifacts: dict[str, Artifact], photos: Path) -> None:
    photo = find_images(photos)[0]
    with Detector(artifacts["cpu"]) as first, Detector(artifacts["none"]) as second:
        assert len(first(photo)) and len(second(photo))
        assert len(first(photo))


def _hold(
    ready: "multiprocessing.synchronize.Event", end: "multiprocessing.synchronize.Event"
) -> None:
    import hailo_platform

    params = hailo_platform.VDevice.create_params()
    params.scheduling_algorithm = hailo_platform.HailoSchedulingAlgorithm.ROUND_ROBIN
    with hailo_platform.VDevice(params):
        ready.set()
        end.wait(60)


def test_another_process_holds_the_chip(artifacts: dict[str, Artifact], photos: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready, end = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(ready, end))
    other.start()
    try:
        assert ready.wait(60)
        with pytest.raises(DeviceError, match="another process holds the chip") as caught:
            Detector(artifacts["cpu"])
        assert "hailort.service" in caught.value.hint
    finally:
        end.set()
        other.join()
    assert len(boxes(artifacts["cpu"], find_images(photos)[0]))


def test_a_chip_that_is_lost_and_comes_back(
    artifacts: dict[str, Artifact],
    photos: Path,
    hailort: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    lost, photo = tmp_path / "lost", find_images(photos)[0]
    hailort.setenv("HAILO_STANDIN_LOST", str(lost))
    hailort.setattr(runtime, "PAUSE", 0.05)
    with Detector(artifacts["cpu"]) as detector:
        before = detector(photo).boxes
        lost.touch()
        threading.Timer(0.4, lost.unlink).start()
        np.testing.assert_array_equal(detector(photo).boxes, before)
        hailort.setattr(runtime, "RETURN", 0.2)
        lost.touch()
        with pytest.raises(DeviceError):
            detector(photo)
        lost.unlink()
        np.testing.assert_array_equal(detector(photo).boxes, before)


def test_closed_is_closed(artifacts: dict[str, Artifact], photos: Path) -> None:
    detector = Detector(artifacts["cpu"])
    detector.close()
    detector.close()
    with pytest.raises(DeviceError, match="given back"):
        detector(find_images(photos)[0])


def test_no_chip(artifacts: dict[str, Artifact], hailort: pytest.MonkeyPatch) -> None:
    hailort.setenv("HAILO_STANDIN_DEVICES", "none")
    with pytest.raises(DeviceError, match="no Hailo chip was found"):
        Detector(artifacts["cpu"])


@pytest.mark.parametrize(
    ("variable", "value", "cause"),
    [
        ("DRIVER", "4.19.0", "driver"),
        ("DRIVER", "ioctl", "driver"),
        ("FIRMWARE", "4.10.0", "firmware"),
    ],
)
def test_versions_that_do_not_fit(
    variable: str,
    value: str,
    cause: str,
    artifacts: dict[str, Artifact],
    hailort: pytest.MonkeyPatch,
) -> None:
    hailort.setenv(f"HAILO_STANDIN_{variable}", value)
    with pytest.raises(DeviceError) as caught:
        Detector(artifacts["cpu"])
    assert cause in f"{caught.value} {caught.value.hint}".lower()


def test_a_package_of_another_version(
    artifacts: dict[str, Artifact], hailort: pytest.MonkeyPatch
) -> None:
    hailort.setenv("HAILO_STANDIN_NATIVE", "4.20.0")
    with pytest.raises(ToolError, match="HailoRT's Python package cannot be loaded"):
        Detector(artifacts["cpu"])


def test_a_file_for_another_chip(
    artifacts: dict[str, Artifact], hailort: pytest.MonkeyPatch, photos: Path
) -> None:
    with Hailo8().open(artifacts["cpu"]):  # a Hailo-8 takes a file for the 8L
        pass
    from msgspec.structs import replace

    whole = artifacts["cpu"]
    other = Artifact(replace(whole.manifest, target="hailo10h"), whole.payloads)
    with pytest.raises(InputError, match="built for HAILO8L"):
        Detector(other)
    program = whole.payload("program")
    for broken in (program[:-5], program[:40], b"", program[:-1] + b"\0"):
        damaged = Artifact(whole.manifest, {**whole.payloads, "program": broken})
        with pytest.raises(OnchipError):
            Detector(damaged)


def test_a_board_needs_nothing_of_the_compilers_half(
    artifacts: dict[str, Artifact], photos: Path, tmp_path: Path, hailort: pytest.MonkeyPatch
) -> None:
    save(artifacts["cpu"], tmp_path / "a.onchip")
    code = (
        "import sys; from onchip import Detector\n"
        f"with Detector({str(tmp_path / 'a.onchip')!r}) as d:\n"
        f"    assert len(d({str(find_images(photos)[0])!r}))\n"
        "print([m for m in sys.modules if m.startswith(('onchip.graph', 'onchip.quantize'))])"
    )
    settings = os.environ | {"PYTHONPATH": f"{STANDINS}{os.pathsep}{STANDINS.parents[1]}"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=settings, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]"
