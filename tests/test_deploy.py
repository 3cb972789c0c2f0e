"""Deploying to a board: a real OpenSSH server on loopback, whose chip is the processor.

The first test that needs the board's environment makes it with a real pip, cut off once on the way;
the others find it there, under the name of its digest.
"""

import ast
import functools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from onchip.artifact import load, save
from onchip.build import build
from onchip.cli import deploy as shown
from onchip.cli.app import run
from onchip.detections import Detections
from onchip.device import Place, board, deploy, doctor, environment, packing, remote, ssh
from onchip.device import hailo as hailo_probe
from onchip.device.deploy import Cargo, Deployed, Outcome, Proof, Unit, Wish
from onchip.device.ssh import At, Board
from onchip.errors import DeviceError, GateError, InputError, OnchipError, ToolError
from onchip.vision.preprocess import find_images

import disks
import hefs
import sshd

live = pytest.mark.live
GOOD = Proof(
    images=1, boxes=1, matched=1.0, mean_iou=1.0, score_shift=0.0, gate=0.8, passed=True,
    fps=100.0, latency_ms=10.0, temperature=41.5, at="2026-01-01 00:00:00",
)  # fmt: skip

# --- what stands on its own


@pytest.mark.parametrize(
    ("text", "sent", "host"),
    [
        ("pi@camera", "pi@camera", "camera"),
        ("camera", "camera", "camera"),
        ("ssh://pi@camera:2222", "ssh://pi@camera:2222", "camera"),
        ("pi@camera:2222", "ssh://pi@camera:2222", "camera"),
        ("ssh://camera", "camera", "camera"),
        ("pi@192.168.1.20", "pi@192.168.1.20", "192.168.1.20"),
    ],
)
def test_addresses(text: str, sent: str, host: str) -> None:
    assert At.read(text) == At(sent, host)


@pytest.mark.parametrize(
    "text",
    ["", "-oProxyCommand=touch /tmp/x", "pi@-x", "-l@camera", "a b", "pi@", "camera/x", "pi@a:b"],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(InputError, match=r"is no address"):
        At.read(text)


def test_a_password_is_refused() -> None:
    with pytest.raises(InputError, match=r"password") as caught:
        At.read("ssh://pi:raspberry@camera")
    assert "raspberry" not in str(caught.value) + caught.value.hint


REFUSALS = {
    "@@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @@\nHost key verification failed.": "has another host key",
    "Host key verification failed.": "the host key of pi@camera is unknown",
    "pi@camera: Permission denied (publickey,password).": "none of your keys",
    "ssh: Could not resolve hostname camera: Name or service not known": "there is no host called camera",
    "ssh: connect to host camera port 22: Connection refused": "refuses the connection",
    "ssh: connect to host camera port 22: Connection timed out": "does not answer",
    "ssh: connect to host camera port 22: No route to host": "does not answer",
    "Timeout, server camera not responding.": "does not answer",
    "client_loop: send disconnect: Broken pipe": "was cut in the middle: client_loop",
    "Connection to camera closed by remote host.": "was cut in the middle",
    "": "the connection to pi@camera was cut in the middle",
    "bash: line 1: exec: python3: not found": "pi@camera has no python3",
    "command-line: line 0: Bad configuration option: foo": "ssh does not accept its settings: command-line",
}


@pytest.mark.parametrize("said", REFUSALS)
def test_what_ssh_says_in_our_words(said: str) -> None:
    error = ssh.refusal(At.read("pi@camera"), said, 255, "in the middle")
    assert REFUSALS[said] in str(error) and error.hint and "\n" not in str(error)
    assert error.exit_code == (2 if "settings" in str(error) else 5)


def test_ssh_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ssh.COMMAND, "no-such-ssh")
    with pytest.raises(ToolError, match=r"no-such-ssh does not run"):
        Board("camera")


def test_the_boards_half_is_of_python_3_6() -> None:
    source = Path(board.__file__).read_text()
    tree = ast.parse(source, feature_version=(3, 6))
    modules = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    modules |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert modules <= set(sys.stdlib_module_names)
    later = {"capture_output", "text", "missing_ok", "dirs_exist_ok"}
    assert not later & {
        k.arg for n in ast.walk(tree) if isinstance(n, ast.Call) for k in n.keywords
    }


def test_the_wheel_is_onchip_and_always_the_same() -> None:
    name, data = packing.onchip_wheel()
    assert packing.onchip_wheel() == (name, data)
    from io import BytesIO

    with zipfile.ZipFile(BytesIO(data)) as archive:
        names = archive.namelist()
        entries = archive.read(next(n for n in names if n.endswith("entry_points.txt"))).decode()
    assert "onchip/device/board.py" in names and not any("__pycache__" in n for n in names)
    assert "onchip.targets.cpu:Cpu" in entries and "onchip.cli:main" in entries


def test_what_a_board_needs() -> None:
    plain, watch = packing.half(("onnxruntime",)), packing.half(("onnxruntime",), "watch")
    assert not any("torch" in n or "pytest" in n for n in watch)
    assert any(n.startswith("onnxruntime>=") for n in plain) and "onnxruntime" not in plain
    assert set(plain) < set(watch) and any(n.startswith("paho-mqtt") for n in watch)
    assert "rknn-toolkit-lite2" in packing.half(("rknn-toolkit-lite2",))
    compiler = {n for n in packing.whole() if n.startswith("onnx")}
    assert len(compiler) == 2 and not compiler & set(packing.half(()))


COMPILER = """
import runpy, sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError(f"a board has no {{name}}")

sys.meta_path.insert(0, Refused())
sys.argv[0] = "onchip"
runpy.run_module("onchip", run_name="__main__")
"""


@pytest.mark.parametrize("verb", ["detect", "bench"])
def test_a_board_needs_no_compiler(verb: str, built: Path, photos: Path) -> None:
    """What the proof on a board runs, where the chip does not need ONNX Runtime itself."""
    names = packing.COMPILER - {"onnxruntime"}  # here it is the chip
    more = [photos] if verb == "detect" else ["-c", photos, "--seconds", "0.1"]
    program = [sys.executable, "-c", COMPILER.format(names=names)]
    done = subprocess.run([*program, verb, built, *more], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


UNIT = """[Unit]
Description=onchip watch cameras.toml

[Service]
WorkingDirectory=/home/pi/.local/share/onchip/current
ExecStart=/home/pi/.local/share/onchip/current/env/bin/python -m onchip watch cameras.toml
Restart=on-failure
RestartSec=5

[Install]
WantedBy=default.target
"""


def test_a_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cameras.toml").write_text('model = "best.onchip"\ndata = "seen"\n')
    unit = Unit.read("watch cameras.toml", "best.onchip", "/home/pi/.local/share/onchip")
    assert (unit.name, unit.text, unit.extra) == ("onchip.service", UNIT, "watch")
    assert list(unit.files) == ["cameras.toml"] and unit.folders == ("seen",)
    spaced = Unit.read("detect best.onchip 'rtsp://a/100%'", "best.onchip", "/my disk/two")
    assert spaced.name == "onchip-two.service"
    assert 'ExecStart="/my disk/two/current/env/bin/python" -m onchip detect' in spaced.text
    assert "rtsp://a/100%%" in spaced.text
    with pytest.raises(InputError, match=r"watches with best.onchip, and other.onchip"):
        Unit.read("watch cameras.toml", "other.onchip", "/x")
    for other in ("rm -rf /", "frigate check best.onchip"):
        with pytest.raises(InputError, match=r"is none") as caught:
            Unit.read(other, "best.onchip", "/x")
        assert 'frigate serve best.onchip"' in caught.value.hint
    Path("best.onchip").write_bytes(b"another of that name")
    served = Unit.read("frigate serve best.onchip --endpoint tcp://*:5555", "best.onchip", "/x")
    assert served.extra == "frigate" and not served.files
    assert "-m onchip frigate serve best.onchip --endpoint tcp://*:5555\n" in served.text


def test_an_inventory(tmp_path: Path) -> None:
    path = tmp_path / "boards.toml"
    path.write_text('[[board]]\nhost = "pi@garage"\n[[board]]\nhost = "pi@gate"\nfolder = "/x"\n')
    assert [(e.host, e.folder) for e in deploy.inventory(path)] == [
        ("pi@garage", deploy.FOLDER), ("pi@gate", "/x"),
    ]  # fmt: skip
    for text in ("", "board = 1", "[[board]]\nhots = 'x'", "[["):
        path.write_text(text)
        with pytest.raises(InputError):
            deploy.inventory(path)
    with pytest.raises(InputError, match=r"cannot read"):
        deploy.inventory(tmp_path / "none.toml")


def made(**more: Any) -> Deployed:
    given: dict[str, Any] = {
        "board": "pi@camera", "model": "best.onchip", "folder": "/home/pi/onchip",
        "release": "best-1", "previous": "best-0", "changed": True, "proof": GOOD,
    }  # fmt: skip
    return Deployed(**given | more)


def test_in_words() -> None:
    assert shown.describe(made(service="onchip.service", lingers=False)) == (
        "best.onchip runs on pi@camera, in /home/pi/onchip/current\n"
        "  proof: 100.0% of 1 boxes match on 1 images, IoU 1.000 (gate 80%)\n"
        "  speed: 100.0 per second, 10.0 ms, 42 °C\n"
        "  service: onchip.service; its log: journalctl --user -u onchip.service\n"
        "  it runs only while you are logged in: sudo loginctl enable-linger\n"
        "  before: best-0; back to it: onchip deploy --rollback pi@camera"
    )
    rows = (Outcome("pi@camera", made()), Outcome("pi@off", error=DeviceError("it is off", "on?")))
    assert shown.table(rows) == (
        "pi@camera  runs     100.0% match, 100.0 per second, 42 °C\n"
        "pi@off     failed   it is off\n"
        "                    on?"
    )


# --- boards that do not fit: their facts held against an artifact, before anything is copied


FACTS: dict[str, Any] = {
    "system": "Linux", "machine": "aarch64", "bits": 64, "libc": ["glibc", "2.36"],
    "model": "Raspberry Pi 5", "compatible": ["raspberrypi,5-model-b", "brcm,bcm2712"],
    "pythons": [{"program": "/usr/bin/python3", "version": [3, 11, 2],
                 "modules": ["venv", "ensurepip", "hailo_platform"]}],
    "folder": "/home/pi/.local/share/onchip", "writable": "", "free": 8 << 30,
    "vendors": {"files": {"names": []}}, "state": {"envs": []},
}  # fmt: skip
PYTHON = FACTS["pythons"][0]


def test_a_board_that_fits(built: Path) -> None:
    assert deploy.check(FACTS, Cargo(built, ())) == PYTHON


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"system": "Darwin"}, "the board runs Darwin, not Linux"),
        ({"machine": "armv7l", "bits": 32}, "the board is a armv7l with 32 bits"),
        ({"bits": 32}, "the board is a aarch64 with 32 bits"),
        ({"machine": "riscv64"}, "the board is a riscv64, and this needs x86_64 or aarch64"),
        (
            {"pythons": [PYTHON | {"version": [3, 9, 2]}]},
            "the board's Python is 3.9.2, and onchip needs 3.11",
        ),
        ({"pythons": []}, "the board's Python is not there"),
        ({"pythons": [PYTHON | {"modules": []}]}, "cannot make environments"),
        (
            {"writable": "Read-only file system"},
            "cannot write /home/pi/.local/share/onchip: Read-only",
        ),
    ],
)
def test_a_board_that_does_not_fit(change: dict[str, Any], message: str, built: Path) -> None:
    with pytest.raises(DeviceError) as caught:
        deploy.check(FACTS | change, Cargo(built, ()))
    assert message in str(caught.value) and caught.value.hint


def test_a_disk_without_room(built: Path) -> None:
    with pytest.raises(DeviceError, match=r"the board's disk is full: 1 MB are free"):
        environment.check_room(FACTS | {"free": 1 << 20}, "key", len(built.read_bytes()))


def for_chip(built: Path, folder: Path, target: str, program: tuple[str, bytes]) -> Cargo:
    """An artifact of another chip."""
    save(load(built).with_payloads({"program": program}, target=target), folder / "best.onchip")
    return Cargo(folder / "best.onchip", ())


def test_an_artifact_for_another_chip(built: Path, tmp_path: Path) -> None:
    cargo = for_chip(built, tmp_path, "rk3588", ("program.rknn", b"RKNN"))
    with pytest.raises(DeviceError, match=r"is built for Rockchip RK3588.*this board is Raspberry"):
        deploy.check(FACTS, cargo)
    with pytest.raises(DeviceError, match=r"is built for Rockchip RK3588"):
        deploy.check(FACTS | {"compatible": ["rockchip,rk3566"], "model": "Quartz64"}, cargo)
    right = FACTS | {"compatible": ["radxa,rock-5b", "rockchip,rk3588"], "model": "Rock 5B"}
    with pytest.raises(DeviceError, match=r"has no /usr/lib/librknnrt.so"):
        deploy.check(right, cargo)


@pytest.fixture
def hailo(built: Path, tmp_path: Path) -> Callable[..., Any]:
    """Check a Hailo-8L artifact against a board of such a driver, library, firmware and chip."""
    cargo = for_chip(built, tmp_path, "hailo8l", ("program.hef", hailo_file()))

    def check(driver: str, library: str, firmware: str, chip: str = "HAILO8L", **more: Any) -> Any:
        facts: dict[str, Any] = {
            "texts": {
                "sys/bus/pci/devices/0001:01:00.0/vendor": "0x1e60",
                "sys/bus/pci/devices/0001:01:00.0/device": "0x2864",
                "sys/module/hailo_pci/version": driver,
            },
            "nodes": {"dev/hailo0": True},
            "names": [f"usr/lib/libhailort.so.{library}"],
            "packages": {"hailort": {"/usr/lib/python3/dist-packages": library}},
            "programs": {
                hailo_probe.VERSION: f"HailoRT-CLI version {library}",
                hailo_probe.IDENTIFY: f"Device Architecture: {chip}\nFirmware Version: {firmware}",
            },
        }
        vendors = {"files": {"names": []}, "hailo": facts}
        return deploy.check(FACTS | {"vendors": vendors} | more, cargo)

    return check


def hailo_file() -> bytes:
    layer, out = hefs.Layer("input_layer1", (64, 64, 3)), hefs.Layer("conv1", (8, 8, 16))
    return hefs.build(inputs=[layer], outputs=[out], ccws=b"x" * 64, arch="hailo8l")


def test_a_driver_that_does_not_fit(hailo: Callable[..., Any]) -> None:
    assert hailo("4.23.0", "4.23.0", "4.23.0") == PYTHON
    with pytest.raises(DeviceError, match=r"the driver is 4.20.0 and the library 4.23.0"):
        hailo("4.20.0", "4.23.0", "4.23.0")
    with pytest.raises(DeviceError, match=r"the firmware is 4.20.0 and the library 4.23.0"):
        hailo("4.23.0", "4.23.0", "4.20.0")
    with pytest.raises(DeviceError, match=r"is built for HAILO8L, and the chip here is a HAILO10H"):
        hailo("4.23.0", "4.23.0", "4.23.0", "HAILO10H")
    with pytest.raises(DeviceError, match=r"has no hailo_platform") as caught:
        hailo("4.23.0", "4.23.0", "4.23.0", pythons=[PYTHON | {"modules": ["venv", "ensurepip"]}])
    assert "hailo-all" in caught.value.hint
    with pytest.raises(DeviceError, match=r"libhailort|runs with"):
        hailo("4.10.0", "4.10.0", "4.10.0")


def test_what_a_probe_asks_is_answered_the_same_here_and_there(tmp_path: Path) -> None:
    for path, text in {"dev/hailo0": "", "sys/module/hailo_pci/version": "4.20.0\n"}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    facts = Place(tmp_path, str(tmp_path), ()).gather("hailo", hailo_probe.WANTS)
    again = json.loads(json.dumps(facts))
    from onchip.device import told

    found = hailo_probe.look(told({"hailo": again}))
    assert (found.driver, found.nodes) == ("4.20.0", (("/dev/hailo0", True),))


# --- the board


@dataclass
class World:
    """One real board for all tests of a process, with an environment that pip made for real."""

    server: sshd.Server
    envs: Path
    after_cut: dict[str, Any]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, built: Path, photos: Path) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("board")
    with sshd.Server(folder / "machine") as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv(ssh.COMMAND, server.ssh)
        # one wheel for all, whoever changes a source file meanwhile
        patch.setattr(deploy, "onchip_wheel", functools.cache(packing.onchip_wheel))
        place, cargo = str(folder / "first"), Cargo(built, find_images(photos))

        def cut_in_pip(text: str) -> None:
            if text.startswith(("Collecting", "Downloading")):
                server.cut()

        with pytest.raises(DeviceError, match=r"was cut"), Board("board") as there:
            deploy.deploy(there, cargo, Wish(), folder=place, say=cut_in_pip)
        with Board("board") as there:
            state = there.ask("look", folder=place, modules=[], wants={})["state"]
        with Board("board") as there:
            assert deploy.deploy(there, cargo, Wish(), folder=place).installed
        yield World(server, folder / "first" / "envs", state)


class Place7:
    """A folder of the board for one test; the environment is there already."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.server, self.folder = world, world.server, folder
        (folder / "envs").mkdir(parents=True)
        for env in world.envs.iterdir():
            (folder / "envs" / env.name).symlink_to(env)

    def deploy(self, cargo: Cargo, wish: Wish | None = None, **more: Any) -> Deployed:
        with Board("board") as there:
            return deploy.deploy(there, cargo, wish or Wish(), folder=str(self.folder), **more)

    @property
    def runs(self) -> bytes:
        """The artifact that runs, byte for byte."""
        release = self.folder / "current"
        record = json.loads((release / "release.json").read_text())
        python = release / "env/bin/python"
        subprocess.run([python, "-m", "onchip", "--version"], check=True, capture_output=True)
        return (release / record["model"]).read_bytes()

    @property
    def leftovers(self) -> list[Path]:
        return [*self.folder.rglob("*.part"), *self.folder.glob("wheels/*")]


@pytest.fixture
def place(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place7:
    monkeypatch.setattr(deploy, "SECONDS", 0.2)
    return Place7(world, tmp_path / "onchip")


@pytest.fixture
def cargo(built: Path, photos: Path) -> Cargo:
    return Cargo(built, find_images(photos)[:2])


@pytest.fixture
def second(built: Path, photos: Path, tmp_path: Path) -> Cargo:
    """Another version of the same model."""
    path = tmp_path / "second.onchip"
    save(load(built).with_payloads({"note": ("note.txt", b"second")}), path)
    return Cargo(path, find_images(photos)[:2])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proof that only has the board's onchip say its version."""

    def prove(there: Board, cargo: Cargo, gate: Any, name: str, *_: Any) -> Proof:
        there.ask("note", name=name, facts={"images": "none"})
        python = f"{{folder}}/releases/{name}/env/bin/python"
        assert (
            there.ask("run", command=[python, "-m", "onchip", "--version"], pause="")["code"] == 0
        )
        return GOOD

    monkeypatch.setattr(deploy, "_prove", prove)


@live
def test_deploy_prove_and_nothing_to_do(place: Place7, cargo: Cargo) -> None:
    assert not place.world.after_cut["envs"]  # which was cut off in the middle of pip
    first = place.deploy(cargo)
    assert first.changed and first.previous is None and first.proof is not None
    assert first.proof.passed and first.proof.matched > 0.95 and first.proof.boxes > 0
    assert first.proof.fps > 0 and place.runs == cargo.data and not place.leftovers
    again = place.deploy(cargo)
    assert not again.changed and again.proof == first.proof
    anew = place.deploy(cargo, Wish(again=True))
    assert anew.changed and anew.release == first.release and anew.previous is None


@live
@pytest.mark.parametrize("target", ["openvino", "tflite"])
def test_another_chip(target: str, place: Place7, tiny: Path, photos: Path, tmp_path: Path) -> None:
    """Its runtime is installed on the board by pip, in an environment of its own."""
    path, images = tmp_path / "tiny.onchip", find_images(photos)[:2]
    save(build(tiny, target, images), path)
    made = place.deploy(Cargo(path, images))
    assert made.changed and made.installed and made.proof is not None
    assert made.proof.passed and made.proof.matched > 0.95 and made.proof.boxes > 0
    assert made.proof.fps > 0 and place.runs == path.read_bytes()


@live
def test_the_command_line(
    place: Place7, built: Path, photos: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [str(built), "board", "--folder", str(place.folder), "-c", str(photos), "--count", "2"]
    assert run(["deploy", *words, "--json"]) == 0
    out, err = capfd.readouterr()
    found = json.loads(out)
    assert found["changed"] and found["proof"]["passed"] and "proving on the board" in err
    assert run(["deploy", *words]) == 0
    assert "tiny.onchip ran already on board" in capfd.readouterr()[0]
    assert run(["deploy", "--rollback", "board", "--folder", str(place.folder)]) == 2
    assert "no release before" in capfd.readouterr()[1]
    assert run(["deploy", str(built)]) == 2
    assert "no board is named" in capfd.readouterr()[1]


@live
@pytest.mark.usefixtures("quick")
def test_previous_rollback_and_what_is_removed(
    place: Place7, cargo: Cargo, second: Cargo, tmp_path: Path
) -> None:
    one, two = place.deploy(cargo), place.deploy(second)
    assert two.previous == one.release and place.runs == second.data
    with Board("board") as there:
        back = deploy.rollback(there, folder=str(place.folder))
    assert (back.release, back.previous) == (one.release, two.release)
    assert place.runs == cargo.data
    with Board("board") as there:
        deploy.rollback(there, folder=str(place.folder))
    assert place.runs == second.data
    save(load(cargo.path).with_payloads({"note": ("n.txt", b"3")}), tmp_path / "third.onchip")
    three = place.deploy(Cargo(tmp_path / "third.onchip", cargo.photos))
    kept = {p.name for p in (place.folder / "releases").iterdir()}
    assert kept == {three.release, two.release}


@live
def test_a_failed_proof_changes_nothing(
    place: Place7, cargo: Cargo, second: Cargo, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.deploy(cargo)
    moved = {
        n: Detections(f.boxes + 500, f.scores, f.classes) for n, f in second.reference().items()
    }
    monkeypatch.setattr(second, "reference", lambda: moved)
    with pytest.raises(GateError, match=r"sees other than this machine: 0.0%"):
        place.deploy(second)
    assert place.runs == cargo.data
    kept = place.deploy(second, Wish(keep=True))
    assert kept.proof is not None and not kept.proof.passed and place.runs == second.data


@live
def test_onchip_fails_on_the_board(
    place: Place7, cargo: Cargo, second: Cargo, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.deploy(cargo)
    monkeypatch.setattr(deploy, "SEEN", deploy.Limits(confidence=7))
    with pytest.raises(OnchipError, match=r"on board: "):
        place.deploy(second)
    assert place.runs == cargo.data


@live
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("how", ["connection", "power"])
def test_cut_at_each_step(
    how: str, place: Place7, cargo: Cargo, second: Cargo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old model runs on, or already the whole new one; the next deploy goes on from there."""
    place.deploy(cargo)
    template, ask = place.folder, Board.ask
    orders: list[str] = []

    def cut(at: int) -> Callable[..., Any]:
        def asked(there: Board, do: str, data: bytes = b"", **more: Any) -> Any:
            orders.append(do)
            if len(orders) - 1 == at:
                if how == "connection":
                    there._ssh.kill()
                else:
                    send = there._send

                    def sent(line: bytes) -> None:
                        send(line)
                        place.server.cut()

                    monkeypatch.setattr(there, "_send", sent)
            return ask(there, do, data, **more)

        return asked

    seen = []
    for at in range(20):
        place.folder = template.with_name(f"cut{at}")
        shutil.copytree(template, place.folder, symlinks=True)
        orders.clear()
        monkeypatch.setattr(Board, "ask", cut(at))
        with suppress(DeviceError):
            place.deploy(second)
        monkeypatch.setattr(Board, "ask", ask)
        if len(orders) - 1 < at:
            break
        seen.append(orders[at])
        late = "switch" in orders
        assert place.runs in ((cargo.data, second.data) if late else (cargo.data,))
        place.deploy(second)
        assert place.runs == second.data and not place.leftovers
        with Board("board") as there:
            state = there.ask("look", folder=str(place.folder), modules=[], wants={})["state"]
        assert state["previous"]["sha256"] == cargo.digest
    else:
        pytest.fail("it has more steps than that")
    whole = "look hold look receive release note run note switch tidy note"
    assert " ".join(seen) == whole


@live
@pytest.mark.usefixtures("quick")
def test_a_full_disk(
    world: World, cargo: Cargo, second: Cargo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with disks.small(tmp_path / "disk") as disk:
        place = Place7(world, disk / "onchip")
        place.deploy(cargo)
        ask, full = Board.ask, []

        def asked(there: Board, do: str, data: bytes = b"", **more: Any) -> Any:
            if do == "receive" and not full:
                full.append(disks.fill(disk))
            return ask(there, do, data, **more)

        monkeypatch.setattr(Board, "ask", asked)
        with pytest.raises(DeviceError, match=r"the board's disk is full"):
            place.deploy(second)
        assert place.runs == cargo.data
        with pytest.raises(DeviceError, match=r"the board's disk is full"):
            place.deploy(second)  # and is seen beforehand the next time
        full[0].unlink()
        assert place.deploy(second).changed and place.runs == second.data


@live
@pytest.mark.usefixtures("quick")
def test_a_read_only_disk(world: World, cargo: Cargo, second: Cargo, tmp_path: Path) -> None:
    with disks.small(tmp_path / "disk") as disk:
        place = Place7(world, disk / "onchip")
        place.deploy(cargo)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(DeviceError, match=r"the board cannot write .*Read-only"):
            place.deploy(second)
        assert place.runs == cargo.data


@live
def test_damaged_on_its_way(place: Place7) -> None:
    with Board("board") as there:
        there.ask("look", folder=str(place.folder), modules=[], wants={})
        with pytest.raises(DeviceError, match=r"was damaged on its way"):
            there.ask("receive", b"b", path="x", sha256="0" * 64)
        with pytest.raises(DeviceError, match=r"is not in"):
            there.send("../x", b"b")
        there.send("deep/er/x", b"whole")
        assert (place.folder / "deep/er/x").read_bytes() == b"whole"


@live
@pytest.mark.usefixtures("quick")
def test_two_deploys_are_kept_apart(place: Place7, cargo: Cargo) -> None:
    with Board("board") as first:
        first.ask("look", folder=str(place.folder), modules=[], wants={})
        first.ask("hold", who="ann@laptop")
        with pytest.raises(DeviceError, match=r"ann@laptop is at work on this board just now"):
            place.deploy(cargo)
    assert place.deploy(cargo).changed


@live
@pytest.mark.usefixtures("quick")
def test_one_who_is_silent_is_taken_for_gone(
    place: Place7, cargo: Cargo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a laptop loses its network without a word: nothing ends the connection."""
    half = ssh._half()
    monkeypatch.setattr(ssh, "_half", lambda: half.replace(b"SILENCE = 60.0", b"SILENCE = 2.0"))
    monkeypatch.setattr(ssh, "SIGN", 3600.0)
    silent = Board("board")
    monkeypatch.setattr(ssh, "SIGN", 0.1)
    alive = Board("board")
    with closing(silent), closing(alive):
        for who in (silent, alive):
            folder = place.folder if who is silent else place.folder / "other"
            who.ask("look", folder=str(folder), modules=[], wants={})
            who.ask("hold", who="ann@laptop")
        silent._ssh.wait(30)
        assert place.deploy(cargo).changed
        alive.ask("tidy")  # slow, but alive


@live
def test_a_program_ends_with_the_connection(place: Place7, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    script = f"echo $$ > {mark}; exec sleep 600"
    there = Board("board")
    there.ask("look", folder=str(place.folder), modules=[], wants={})
    there.ask("hold", who="ann")
    asked = threading.Thread(target=_quietly, args=(there, ["sh", "-c", script]))
    asked.start()
    end = time.monotonic() + 30
    while not (mark.exists() and mark.read_text().strip()):
        assert time.monotonic() < end
        time.sleep(0.02)
    there._ssh.kill()
    asked.join()
    there.close()
    while Path(f"/proc/{mark.read_text().strip()}").exists():
        assert time.monotonic() < end
        time.sleep(0.02)


def _quietly(there: Board, command: list[str]) -> None:
    with pytest.raises(DeviceError):
        there.ask("run", command=command, pause="")


@live
@pytest.mark.usefixtures("quick")
def test_a_service_is_installed(
    place: Place7, cargo: Cargo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, server = tmp_path / "calls", place.server
    server.program("loginctl", f'echo "loginctl $*" >> {log}')
    server.program("systemctl", f'echo "$XDG_RUNTIME_DIR $*" >> {log}; [ "$2" != is-active ]')
    monkeypatch.chdir(tmp_path)
    Path("clips.txt").write_text("front\n")
    word = "detect tiny.onchip rtsp://camera/1"
    done = place.deploy(cargo, service=word)
    assert (done.service, done.lingers) == ("onchip.service", True)
    unit = server.home / ".config/systemd/user/onchip.service"
    assert f"ExecStart={place.folder}/current/env/bin/python -m onchip {word}\n" in unit.read_text()
    bus = f"/run/user/{os.getuid()}"
    assert log.read_text().splitlines() == [
        f"{bus} --user daemon-reload",
        f"{bus} --user enable onchip.service",
        f"{bus} --user restart onchip.service",
        "loginctl enable-linger",
    ]
    assert not place.deploy(cargo, service=word).changed
    # one that holds the chip waits while its successor is proven
    log.unlink()
    server.program("systemctl", f'echo "$*" >> {log}')
    with Board("board") as there:
        there.ask("look", folder=str(place.folder), modules=[], wants={})
        there.ask("run", command=["false"], pause="onchip.service")
    calls = [line.split()[1] for line in log.read_text().splitlines()]
    assert calls == ["is-active", "stop", "start"]
    server.program("systemctl", "echo 'no bus' >&2; exit 1")
    with pytest.raises(InputError, match=r"onchip.service runs on board") as caught:
        place.deploy(cargo, Wish(again=True))
    assert f"--service '{word}'" in caught.value.hint
    with pytest.raises(DeviceError, match=r"the service does not start: no bus"):
        place.deploy(cargo, service=f"{word}2")
    with Board("board") as there:
        state = there.ask("look", folder=str(place.folder), modules=[], wants={})["state"]
    assert state["current"]["command"] == word


@live
def test_an_inventory_with_a_board_that_is_off(
    place: Place7, built: Path, photos: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = place.folder / "boards.toml"
    off = f"ssh://127.0.0.1:{sshd.free_port()}"
    rows = [f'[[board]]\nhost = "{h}"\nfolder = "{place.folder}"\n' for h in ("board", off)]
    path.write_text("".join(rows))
    words = ["deploy", str(built), "--inventory", str(path), "-c", str(photos), "--count", "1"]
    assert run(words) == 5
    out = capfd.readouterr()[0].splitlines()
    assert out[0].startswith("board") and "% match" in out[0]
    assert out[1].startswith(f"{off}  failed") and "refuses the connection" in out[1]
    assert run([*words, "--json"]) == 5
    found = json.loads(capfd.readouterr()[0])["boards"]
    assert found[0]["proof"]["passed"] and found[1]["error"]["code"] == "device"


# --- connections that are refused


@pytest.fixture
def server(world: World) -> Iterator[sshd.Server]:
    yield world.server
    world.server.client()
    world.server.trust()
    world.server.python()


@live
def test_an_unknown_host_key(server: sshd.Server) -> None:
    server.known.write_text("")
    with pytest.raises(DeviceError, match=r"the host key of board is unknown"):
        Board("board")
    assert not server.known.read_text()


@live
def test_a_host_key_that_has_changed(server: sshd.Server, tmp_path: Path) -> None:
    sshd.key(tmp_path / "other")
    server.trust((tmp_path / "other.pub").read_text())
    with pytest.raises(DeviceError, match=r"has another host key than before"):
        Board("board")


@live
def test_no_key_and_the_wrong_user(server: sshd.Server, tmp_path: Path) -> None:
    server.client(IdentityFile=str(sshd.key(tmp_path / "stranger")))
    with pytest.raises(DeviceError, match=r"takes none of your keys") as caught:
        Board("board")
    assert "ssh-copy-id board" in caught.value.hint
    server.client(User="nobody-of-this-name")
    with pytest.raises(DeviceError, match=r"takes none of your keys"):
        Board("board")


@live
def test_no_such_host_and_a_setting_that_is_none(
    server: sshd.Server, built: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["deploy", str(built), "no-such-host.invalid"]) == 5
    err = capfd.readouterr()[1]
    assert "there is no host called no-such-host.invalid" in err
    with pytest.raises(InputError, match=r"does not accept its settings"):
        Board("board", ("NoSuchOption=1",))
    with pytest.raises(InputError, match=r"is none"):
        Board("board", ("-oX",))


@live
def test_a_board_without_python_and_one_that_talks(server: sshd.Server) -> None:
    server.python("echo 'python3: command not found' >&2; exit 127")
    with pytest.raises(DeviceError, match=r"board has no python3"):
        Board("board")
    server.python(f'echo "Welcome to my board!"; exec {sys._base_executable} "$@"')
    with Board("board") as there:
        assert there.ask("look", folder="~/x", modules=[], wants={})["folder"] == f"{server.home}/x"


# --- wheels that are carried along


@live
def test_a_board_without_a_network(place: Place7, tmp_path: Path) -> None:
    """Wheels that pip gathers here, and a real pip on the board that may not ask anybody."""
    with Board("board") as there:
        facts = there.ask("look", folder=str(place.folder), modules=[], wants={})
        there.ask("hold", who="ann")
        python = facts["pythons"][0]
        needs = packing.Needs("offline", ("msgspec", "click>=8.1"), python, facts)
        with packing.download(needs) as wheels:
            names = [p.name for p in wheels]
            for path in wheels:
                there.send(f"wheels/offline/{path.name}", path.read_bytes())
        assert any(n.startswith("msgspec") for n in names)
        name, data = packing.onchip_wheel()
        there.send(f"wheels/offline/{name}", data)
        options = [
            "--ignore-installed",
            "--no-index",
            "--find-links",
            "{wheels}",
            *needs.requirements,
        ]
        order: dict[str, Any] = {
            "key": "offline", "python": python["program"], "wheels": [name], "options": options,
        }  # fmt: skip
        assert there.ask("environment", **order) == {"made": True}
        assert there.ask("environment", **order) == {"made": False}
        with pytest.raises(ToolError, match=r"No matching distribution"):
            there.ask("environment", **order | {"key": "lacks", "options": [*options, "nowhere-7"]})
    assert (place.folder / "envs/offline/bin/onchip").exists()
    assert not (place.folder / "envs/lacks/whole").exists()


def test_wheels_that_are_not_to_be_had(tmp_path: Path) -> None:
    needs = packing.Needs("key", ("click",), PYTHON, FACTS)
    with pytest.raises(InputError, match=r"there are no wheels"), packing.download(needs, tmp_path):
        pass
    tags = packing._tags(needs)
    assert "manylinux_2_36_aarch64" in tags and "manylinux_2_37_aarch64" not in tags
    musl = packing.Needs("key", (), PYTHON, FACTS | {"libc": ["", ""]})
    assert "musllinux_1_2_aarch64" in packing._tags(musl)


# --- the doctor, from here


@live
def test_the_doctor_looks_at_a_board(place: Place7, cargo: Cargo) -> None:
    with Board("board") as there:
        bare = {s.title: s.checks for s in remote.look(there, folder=str(place.folder))}
    assert [c.name for c in bare["deployed"]] == ["none"]
    assert {"board", "system", "Python", "disk"} <= {c.name for c in bare["board"]}
    assert bare["chips"][0].found == "nothing of Hailo or Rockchip is here"
    place.deploy(cargo)
    with Board("board") as there:
        sections = remote.look(there, [cargo.path], folder=str(place.folder))
    found = {s.title: {c.name: c for c in s.checks} for s in sections}
    assert found["deployed"]["model"].found.startswith(f"{cargo.path.name}, release ")
    assert found["deployed"][cargo.path.name].found.startswith("runs, ")
    assert doctor.failure(sections) is None
    (place.folder / "current" / cargo.path.name).write_bytes(b"damaged")
    with Board("board") as there:
        sections = remote.look(there, folder=str(place.folder))
    failure = doctor.failure(sections)
    assert failure is not None and failure.exit_code == 5 and "onchip fails" in failure.hint


@live
def test_the_doctor_says_that_there_is_no_board(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "pi@127.0.0.1", "--ssh-option", "Port=1"]) == 5
    assert "refuses the connection" in capsys.readouterr()[1]
