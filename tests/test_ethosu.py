"""Ethos-U: Vela is real and really run; no chip is here, and none is pretended."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ethosu.vela", reason="Vela is not installed: pip install 'onchip[ethosu]'")

from onchip.artifact import Artifact, load, save
from onchip.build import Options, build, foresee
from onchip.dataset.samples import unlabelled
from onchip.errors import InputError, ToolError, UnsupportedError
from onchip.formats import tflite as tflite_file
from onchip.formats.tflite import ETHOS_U
from onchip.formats.tflite_npus import placed
from onchip.formats.tflite_verdicts import verdicts
from onchip.targets.ethosu import vela
from onchip.targets.ethosu.chip import Ethosu, on_processor
from onchip.targets.ethosu.vela import VelaOptions
from onchip.testing import TargetContract
from onchip.toolchains.program import run
from onchip.verify import verify
from onchip.vision.preprocess import find_images

from conftest import Cli
from tflites import Network


class TestEthosu(TargetContract):
    target = Ethosu()


def made(tiny: Path, photos: Path, **options: str) -> Artifact:
    return build(tiny, "ethosu", find_images(photos), options=Options(target=options))


# What Vela makes


def test_all_of_it_runs_on_the_npu(tiny: Path, photos: Path, tmp_path: Path) -> None:
    artifact = made(tiny, photos, accelerator="ethos-u55-128")
    program = tflite_file.parse(artifact.payload("program"), "")
    assert program.compiled == ETHOS_U and program.accelerator == "ethos-u55-128"
    assert [o.op for o in program.operators] == [ETHOS_U]
    stage = artifact.stage("compile")
    assert stage is not None
    count = len(tflite_file.parse(artifact.payload("litert"), "").operators)
    assert stage.notes["on the NPU"] == f"{count} of {count} operators"
    assert stage.notes["accelerator"] == "Ethos_U55_128"
    assert stage.notes["memory"] == "Shared_Sram" and stage.notes["SRAM"].endswith(" KiB")
    assert stage.notes["estimated"].endswith(" inferences/s at 500 MHz")
    assert artifact.payload("summary").startswith(b"experiment,network,accelerator_configuration")
    assert artifact.payload("layers").startswith(b"Original Operator,NNG Operator,Target")
    assert artifact.payload("table").splitlines()[0].split()[:2] == [b"operator", b"on"]
    assert "nothing was measured" in next(
        v.message for v in artifact.manifest.verdicts if v.code == "not_on_chip"
    )
    save(artifact, tmp_path / "a.onchip")
    assert load(tmp_path / "a.onchip").payload("litert") == artifact.payload("litert")


def test_the_proof_names_what_ran_it(tiny: Path, photos: Path) -> None:
    rows = verify(made(tiny, photos), unlabelled(find_images(photos), ()), labelled=False).rows
    assert [r.stage for r in rows] == ["original", "cut", "plan", "litert"]
    assert rows[-1].parity.matched > 0.9


@pytest.mark.parametrize(
    "options",
    [
        {"accelerator": "ethos-u65-512", "system": "Ethos_U65_Embedded", "memory": "Sram_Only"},
        {"accelerator": "ethos-u85-256", "optimise": "size"},
        {"accelerator": "ethos-u85-256", "arena": "300000"},
    ],
)
def test_options(options: dict[str, str], tiny: Path, photos: Path) -> None:
    artifact = made(tiny, photos, **options)
    stage = artifact.stage("compile")
    assert stage is not None
    assert stage.notes["accelerator"].replace("_", "-").lower() == options["accelerator"]
    if "system" in options:
        assert stage.notes["system"] == options["system"]
        assert stage.notes["memory"] == options["memory"]


CONFIG = """[System_Config.Mine]
core_clock=100e6
axi0_port=Sram
axi1_port=OffChipFlash
Sram_clock_scale=1.0
OffChipFlash_clock_scale=0.125
[Memory_Mode.Mine]
const_mem_area=Axi1
arena_mem_area=Axi0
cache_mem_area=Axi0
"""


def test_a_configuration_of_the_users(tiny: Path, photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.ini"
    path.write_text(CONFIG)
    artifact = made(tiny, photos, config=str(path), system="Mine", memory="Mine")
    stage = artifact.stage("compile")
    assert stage is not None and stage.notes["estimated"].endswith("at 100 MHz")
    assert artifact.manifest.options["config"].startswith("[System_Config.Mine]")
    with pytest.raises(InputError, match="there is no file"):
        made(tiny, photos, config=str(tmp_path / "none.ini"))
    with pytest.raises(ToolError, match="Vela failed"):
        made(tiny, photos, system="Nobodys")
    for wrong in ({"accelerator": "ethos-u99"}, {"arena": "much"}, {"speed": "1"}):
        with pytest.raises(InputError):
            made(tiny, photos, **wrong)


# What falls to the processor: what inspect says beforehand is what Vela does


def wide() -> bytes:
    """Operators side by side: some that every Ethos-U runs, some that one or none does."""
    net, shape = Network(), (1, 8, 8, 16)

    def one(op: str, dtype: str = "int8", scale: float | None = 0.1, **more: object) -> None:
        a = net.tensor(f"{op}/{dtype}/in{len(net.tensors)}", shape, dtype, scale, **more)  # type: ignore[arg-type]
        b = net.tensor(f"{op}/{dtype}/out{len(net.tensors)}", shape, dtype, scale)
        net.add(op, [a], [b])
        net.inputs.append(a)
        net.outputs.append(b)

    for op in ("LOGISTIC", "TANH", "RELU", "HARD_SWISH", "ABS", "EXP", "CEIL", "SQUARE"):
        one(op)
    one("LOGISTIC", "float32", None)
    one("TANH", "int16")
    one("RELU", signature=(1, -1, 8, 16))
    one("RELU6", signature=(-1, 8, 8, 16))
    one("ELU", scale=None)
    for stride in (1, 2, 4):
        a = net.tensor(f"pool{stride}", (1, 16, 16, 4))
        b = net.tensor(f"pooled{stride}", (1, 16 // stride, 16 // stride, 4))
        net.add("MAX_POOL_2D", [a], [b], "Pool2D", padding=0, strideW=stride, strideH=stride,
                filterWidth=stride, filterHeight=stride)  # fmt: skip
        net.inputs.append(a)
        net.outputs.append(b)
    for factor in (2, 3, 4):
        a = net.tensor(f"small{factor}", (1, 4, 4, 4))
        b = net.tensor(f"grown{factor}", (1, 4 * factor, 4 * factor, 4))
        size = net.constant([4 * factor, 4 * factor])
        net.add("RESIZE_NEAREST_NEIGHBOR", [a, size], [b], "ResizeNearestNeighbor")
        net.inputs.append(a)
        net.outputs.append(b)
    for steps in ([1, 2, 2, 1], [1, 1, 1, 2]):
        a = net.tensor(f"whole{steps}", (1, 8, 8, 8))
        b = net.tensor(f"part{steps}", [n // s for n, s in zip((1, 8, 8, 8), steps, strict=True)])
        ends = [net.constant([0] * 4), net.constant([1, 8, 8, 8]), net.constant(steps)]
        net.add("STRIDED_SLICE", [a, *ends], [b], "StridedSlice")
        net.inputs.append(a)
        net.outputs.append(b)
    return net.written()


@pytest.mark.parametrize(
    ("chip", "family"),
    [("ethos-u55-128", "ethosu55"), ("ethos-u65-256", "ethosu55"), ("ethos-u85-512", "ethosu85")],
)
def test_inspect_foresees_what_vela_does(chip: str, family: str) -> None:
    given = tflite_file.parse(wide(), "wide.tflite")
    done = vela.compile_(wide(), VelaOptions(accelerator=chip))  # type: ignore[arg-type]
    program = tflite_file.parse(done.program, "")
    assert program.accelerator == chip
    found = placed(given, family)
    assert sorted(f"{x.op} {x.name}" for x in found.left) == sorted(on_processor(program))
    assert 4 <= len(found.left) < found.count - 10


@pytest.mark.data
def test_real_files(data: Path) -> None:
    for name in ("yolov8n_integer_quant.tflite", "yolov8n_int8.tflite"):
        whole = (data / "tflite" / name).read_bytes()
        given = tflite_file.parse(whole, name)
        program = tflite_file.parse(vela.compile_(whole, VelaOptions()).program, "")
        found = placed(given, "ethosu55")
        assert sorted(f"{x.op} {x.name}" for x in found.left) == sorted(on_processor(program))
        told = {v.code for v in verdicts(program, "a_vela.tflite", "ethos-u55-256")}
        assert ("compiled" in told) != ("wrong_chip" in told)  # of the other nothing was left to do


def test_what_falls_to_the_processor_is_refused(
    tiny: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = vela.command

    def without(options: VelaOptions, folder: Path) -> list[str]:
        return [*real(options, folder), "--ignore-ops", "LOGISTIC"]

    monkeypatch.setattr(vela, "command", without)
    with pytest.raises(UnsupportedError, match="leaves to the processor: LOGISTIC") as error:
        made(tiny, photos)
    assert "-O fallback=true" in error.value.hint
    artifact = made(tiny, photos, fallback="true")
    assert any(v.code == "fallback" and v.level == "warning" for v in artifact.manifest.verdicts)
    stage = artifact.stage("compile")
    assert stage is not None
    on_npu, _, count, _ = stage.notes["on the NPU"].split()
    assert 0 < int(on_npu) < int(count)


def test_a_plan_foresees_it(tiny: Path, photos: Path) -> None:
    made_of, found = foresee(tiny, "ethosu", find_images(photos))
    assert made_of.manifest.target == "ethosu" and found.unsupported == ()
    (line,) = found.forecast
    ours, whole = line.removeprefix("the Ethos-U55 or U65 would run ").split(" of ")
    assert whole == f"{ours} operators" and int(ours) > 10
    assert foresee(tiny, "edgetpu", find_images(photos))[1].forecast[0].startswith("the Edge TPU")
    assert foresee(tiny, "ethosu")[1].forecast == ()


# Failures


def test_a_network_on_which_vela_dies() -> None:
    """It was seen to end by a signal; whatever it does, it is one error with its log."""
    net = Network()
    a, b = (net.tensor(n, (1, 8, 8, 16), "int32", 0.1) for n in ("a", "b"))
    net.add("LOGISTIC", [a], [b])
    net.inputs, net.outputs = [a], [b]
    with pytest.raises(ToolError, match=r"Vela failed: it (died of|left with)") as error:
        vela.compile_(net.written(), VelaOptions(accelerator="ethos-u85-256"))
    assert error.value.log


@pytest.mark.parametrize("junk", [b"", b"junk", b"\x1c\0\0\0TFL3" + b"\xff" * 64])
def test_junk(junk: bytes) -> None:
    with pytest.raises(ToolError, match="Vela failed"):
        vela.compile_(junk, VelaOptions())


def test_without_vela(tiny: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ethosu, "version", lambda self: "")
    with pytest.raises(ToolError, match="Vela is not installed") as error:
        made(tiny, photos)
    assert "onchip[ethosu]" in error.value.hint


def test_a_program_that_is_not_velas(tiny: Path, photos: Path) -> None:
    artifact = made(tiny, photos)
    swapped = {**artifact.payloads, "program": artifact.payload("litert")}
    with pytest.raises(InputError, match="damaged"):
        Ethosu().open(Artifact(artifact.manifest, swapped))


def test_a_program_that_hangs_or_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="it hung: no end after 1 s; so far"):
        run([sys.executable, "-c", "print('so far', flush=True); import time; time.sleep(60)"],
            tmp_path, "it", 1)  # fmt: skip
    with pytest.raises(ToolError, match="does not start"):
        run([str(tmp_path / "none")], tmp_path, "it")
    child = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(61.5)'])"
    assert run([sys.executable, "-c", child], tmp_path, "it") == ""
    left = subprocess.run(["ps", "ax"], capture_output=True, text=True).stdout
    assert "sleep(61.5)" not in left  # what it started ends with it


# The command line


def test_from_the_command_line(tiny: Path, photos: Path, cli: Cli) -> None:
    done = cli("build", tiny, "-t", "ethosu", "-c", photos, "-o", "a.onchip")
    assert "inferences/s at 500 MHz" in done.stdout and "there is no Ethos-U here" in done.stdout
    told = cli("inspect", "a.onchip", "--layers").stdout
    assert "cycles are its estimates" in told and "Conv2D" in told
    assert "accelerator" in cli("targets", "ethosu").stdout
    seen = cli("detect", "a.onchip", find_images(photos)[0], "--json")
    assert '"detections"' in seen.stdout
    with load(cli.folder / "a.onchip") and Ethosu().open(load(cli.folder / "a.onchip")) as session:
        spec = load(cli.folder / "a.onchip").manifest.program_input
        assert spec is not None
        session(np.zeros(spec.shape, np.uint8))
