"""Finishing a build on another machine: a real OpenSSH server on loopback, a real pip there.

The SDKs there are Hailo's by stand-ins, which check every call, and Rockchip's own where it is.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from onchip.artifact import load, save
from onchip.build import build
from onchip.cli.app import run
from onchip.device import ssh
from onchip.device.host import FOLDER, compile_on
from onchip.device.ssh import Board
from onchip.errors import DeviceError, InputError, ToolError
from onchip.toolchains import install
from onchip.vision.preprocess import find_images

import sshd

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, hailo_toolchains: Path) -> Iterator[sshd.Server]:
    """A machine with Hailo's compiler."""
    folder = tmp_path_factory.mktemp("host")
    variables = {"ONCHIP_TOOLCHAINS": str(hailo_toolchains)}
    with sshd.Server(folder / "machine", **variables) as server:
        yield server


@pytest.fixture(autouse=True)
def here(host: sshd.Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """This machine has no SDK."""
    monkeypatch.setenv(ssh.COMMAND, host.ssh)
    monkeypatch.setenv("ONCHIP_TOOLCHAINS", str(tmp_path / "nowhere"))


@pytest.fixture
def waiting(tiny: Path, photos: Path, tmp_path: Path) -> Path:
    """An artifact that waits for Hailo's compiler."""
    path = tmp_path / "best.onchip"
    save(build(tiny, "hailo8l", find_images(photos)), path)
    return path


def jobs(host: sshd.Server) -> list[Path]:
    return [*(host.home / FOLDER.removeprefix("~/")).glob("jobs/*")]


def test_there(waiting: Path, host: sshd.Server, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError):
        load(waiting).payload("program")
    assert run(["compile", str(waiting), "--on", "board", "--json"]) == 0
    said = capsys.readouterr()
    stages = {s["name"]: s for s in json.loads(said.out)["stages"]}
    assert list(stages) == ["parse", "optimize", "compile"]
    assert "compiling on board" in said.err
    made = load(waiting)
    assert made.payload("program").startswith(b"\x01HEF")
    assert any("3.33" in version for version in made.manifest.tools.values())
    assert not jobs(host)
    assert run(["compile", str(waiting), "--on", "board", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)["stages"]
    assert all(stage["skipped"] for stage in again)  # there was nothing to do


def test_another_folder(
    waiting: Path, host: sshd.Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order = ["compile", str(waiting), "--on", "board", "--folder"]
    assert run([*order, "/proc/onchip"]) == 5
    said = capsys.readouterr().err
    assert "cannot write /proc/onchip" in said and "--folder" in said
    assert run([*order, str(tmp_path / "there")]) == 0
    assert list((tmp_path / "there/envs").iterdir())


def test_options_and_progress(waiting: Path) -> None:
    told: list[tuple[str, int, int]] = []
    with Board("board") as there:
        made, failed = compile_on(
            there, waiting, options={"contexts": "multi"},
            progress=lambda *step: told.append(step),
        )  # fmt: skip
    assert failed is None and made.manifest.options["contexts"] == "multi"
    assert ("compile", 1, 1) in told
    with Board("board") as there, pytest.raises(InputError, match=r"option for hailo8l"):
        compile_on(there, waiting, options={"no": "such"})


def test_what_fails_there_leaves_its_log_here(
    waiting: Path, host: sshd.Server, capsys: pytest.CaptureFixture[str]
) -> None:
    host.more["HAILO_STANDIN_MAPPING"] = "infeasible"
    restart(host)
    try:
        assert run(["compile", str(waiting), "--on", "board"]) == 4
    finally:
        del host.more["HAILO_STANDIN_MAPPING"]
        restart(host)
    assert "error: on board: " in capsys.readouterr().err
    assert "log" in load(waiting).payloads
    assert run(["compile", str(waiting), "--on", "board"]) == 0
    whole = waiting.read_bytes()
    host.more["HAILO_STANDIN_MAPPING"] = "infeasible"
    restart(host)
    try:  # a program that works is not given up for a failure
        assert run(["compile", str(waiting), "--on", "board", "-O", "utilization=0.5"]) == 4
    finally:
        del host.more["HAILO_STANDIN_MAPPING"]
        restart(host)
    assert waiting.read_bytes() == whole


def restart(host: sshd.Server) -> None:
    host.close()
    host.start()


def test_no_sdk_there_either(waiting: Path, host: sshd.Server, tmp_path: Path) -> None:
    kept = host.more["ONCHIP_TOOLCHAINS"]
    host.more["ONCHIP_TOOLCHAINS"] = str(tmp_path / "none")
    restart(host)
    try:
        with Board("board") as there:
            made, failed = compile_on(there, waiting)
    finally:
        host.more["ONCHIP_TOOLCHAINS"] = kept
        restart(host)
    assert isinstance(failed, ToolError) and "on board: " in str(failed)
    program = failed.hint.partition(" toolchain install hailo")[0].rpartition(" ")[2]
    assert Path(program).is_file()
    assert "program" not in made.payloads


def test_cut_while_it_compiles(waiting: Path, host: sshd.Server) -> None:
    whole = waiting.read_bytes()

    def cut(what: str, done: int, total: int) -> None:
        if what == "compile":
            host.cut()

    with pytest.raises(DeviceError, match=r"was cut"), Board("board") as there:
        compile_on(there, waiting, progress=cut)
    assert waiting.read_bytes() == whole
    with Board("board") as there:
        made, failed = compile_on(there, waiting)
    assert failed is None and made.payload("program") and not jobs(host)


def test_not_yet_optimized(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "begun.onchip"
    assert run(["parse", str(tiny), "-t", "hailo8l", "-o", str(path)]) == 0
    assert run(["compile", str(path), "--on", "board"]) == 2
    assert "the artifact has no plan yet" in capsys.readouterr().err


def test_a_machine_that_gives_back_something_else(
    waiting: Path, tiny: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = tmp_path / "other.onchip"
    save(build(tiny, "cpu", find_images(photos)[:2]), other)
    monkeypatch.setattr(Board, "fetch", lambda self, path: other.read_bytes())
    with Board("board") as there, pytest.raises(ToolError, match=r"another model back"):
        compile_on(there, waiting)


@pytest.mark.rknn
@pytest.mark.usefixtures("sdk")
def test_rockchips_own_sdk(
    host: sshd.Server, tiny: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The photos go along, since this SDK can quantize too."""
    path, kept = tmp_path / "best.onchip", host.more["ONCHIP_TOOLCHAINS"]
    with pytest.raises(ToolError, match=r"rknn"):
        build(tiny, "rk3588", find_images(photos), keep=lambda made: save(made, path))
    monkeypatch.delenv("ONCHIP_TOOLCHAINS")
    host.more["ONCHIP_TOOLCHAINS"] = str(install.home())
    restart(host)
    try:
        assert run(["compile", str(path), "--on", "board", "-c", str(photos)]) == 0
    finally:
        host.more["ONCHIP_TOOLCHAINS"] = kept
        restart(host)
    made: Any = load(path)
    assert made.payload("program").startswith(b"RKNN")
    assert made.manifest.tools["rknn-toolkit2"]
