"""Building for Hailo from end to end, through stand-ins that refuse what the compiler would."""

import os
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import helper

from onchip.artifact import Artifact, load
from onchip.build import Options, build, compile_, foresee
from onchip.dataset.samples import unlabelled
from onchip.errors import InputError, ToolError, UnsupportedError
from onchip.measure.proof import Gate
from onchip.targets.hailo import build as hailo_build
from onchip.targets.hailo.chips import Hailo8l, Hailo10h
from onchip.targets.hailo.emulate import Loaded
from onchip.testing import TargetContract
from onchip.verify import verify
from onchip.vision.preprocess import find_images

import graphs
from conftest import Cli


class TestHailo8l(TargetContract):
    target = Hailo8l()

    @pytest.fixture(autouse=True)
    def _compiler(self, compiler: pytest.MonkeyPatch) -> None:
        """The compiler of its line."""


class TestHailo10h(TestHailo8l):
    target = Hailo10h()


def made(tiny: Path, photos: Path, chip: str = "hailo8l", **options: str) -> Artifact:
    return build(tiny, chip, find_images(photos), options=Options(target=options))


def script(artifact: Artifact) -> str:
    return artifact.payload("script").decode()


def codes(artifact: Artifact) -> dict[str, str]:
    return {v.code: v.message for v in artifact.manifest.verdicts}


# --- without the compiler ---


def test_a_plan_needs_no_software_of_hailos(tiny: Path, photos: Path) -> None:
    artifact, seen = foresee(tiny, "hailo8l")
    assert seen.start_nodes == ("images",)
    assert seen.end_nodes == (
        "/model.22/cv2.0/cv2.0.2/Conv", "/model.22/cv3.0/cv3.0.2/Conv",
        "/model.22/cv2.1/cv2.1.2/Conv", "/model.22/cv3.1/cv3.1.2/Conv",
        "/model.22/cv2.2/cv2.2.2/Conv", "/model.22/cv3.2/cv3.2.2/Conv",
    ) or len(seen.end_nodes) == 2 * len(artifact.manifest.head.strides)  # fmt: skip
    assert set(seen.files) == {"model.alls", "nms_config.json"}
    assert "no_photos" in {v.code for v in seen.verdicts}
    _, with_photos = foresee(tiny, "hailo8l", find_images(photos))
    assert "calibset_size=6" in with_photos.files["model.alls"]


def test_what_is_planned_is_what_the_compiler_is_told(
    tiny: Path, photos: Path, compiler: pytest.MonkeyPatch
) -> None:
    _, seen = foresee(tiny, "hailo8l", find_images(photos))
    artifact = made(tiny, photos)
    assert script(artifact) == seen.files["model.alls"]
    assert artifact.payload("nms").decode() == seen.files["nms_config.json"]
    assert "names_differ" not in codes(artifact)


def test_an_operation_that_hailo_has_not(tmp_path: Path, compiler: pytest.MonkeyPatch) -> None:
    proto = graphs.yolov8()
    first = proto.graph.node[0]
    made_here = first.output[0]
    first.output[0] = f"{made_here}/before"
    angle = helper.make_node("Sin", [first.output[0]], [made_here], "wave")
    proto.graph.node.insert(1, angle)
    path = tmp_path / "wave.onnx"
    onnx.save(proto, path)
    _, seen = foresee(path, "hailo8l")
    assert any(line.startswith("wave (Sin)") for line in seen.unsupported)


def test_a_head_without_a_grid_is_refused(
    tmp_path: Path, photos: Path, compiler: pytest.MonkeyPatch
) -> None:
    onnx.save(graphs.rtdetr(), tmp_path / "queries.onnx")
    with pytest.raises(UnsupportedError, match="no map of cells"):
        build(tmp_path / "queries.onnx", "hailo8l", find_images(photos))


# --- the artifact that waits for the compiler ---


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    monkeypatch.setenv("ONCHIP_TOOLCHAINS", str(tmp_path / "nowhere"))
    return monkeypatch


def test_a_build_without_the_compiler_is_finished_elsewhere(
    tiny: Path, photos: Path, nowhere: pytest.MonkeyPatch, cli: Cli, hailo_toolchains: Path
) -> None:
    path = cli.folder / "best.onchip"
    said = cli("build", tiny, "-t", "hailo8l", "-c", photos, "-o", path).stdout
    assert "warning: not compiled: Hailo Dataflow Compiler" in said
    assert "onchip compile FILE.onchip" in said
    waiting = load(path)
    assert waiting.manifest.program_input is None
    assert {"script", "nms", "calibration", "plan"} <= set(waiting.payloads)
    assert [s.name for s in waiting.manifest.stages] == ["parse", "optimize"]
    refused = cli("compile", path, code=4).stderr
    assert "not compiled" in refused

    nowhere.setenv("ONCHIP_TOOLCHAINS", str(hailo_toolchains))
    cli("compile", path)  # no photos, no model: all of it is inside
    finished = load(path)
    assert finished.payload("program").startswith(b"\x01HEF")
    assert "unfinished" not in codes(finished)
    direct = made(tiny, photos)
    assert script(finished) == script(direct)
    note = finished.stage("compile").notes  # type: ignore[union-attr]
    assert note["photos"] == "6"
    cli("verify", path, "-c", photos, "--min-match", "0")


def test_damaged_photos_inside(
    tiny: Path, photos: Path, nowhere: pytest.MonkeyPatch, hailo_toolchains: Path
) -> None:
    waiting = made(tiny, photos)
    nowhere.setenv("ONCHIP_TOOLCHAINS", str(hailo_toolchains))
    whole = waiting.payload("calibration")
    for broken in (b"", whole[: len(whole) // 2], whole.replace(b"\x89PNG", b"\x89GNP")):
        payloads = {**waiting.payloads, "calibration": broken}
        with pytest.raises(InputError, match=r"photos are damaged|needs photos"):
            compile_(Artifact(waiting.manifest, payloads))


def test_what_was_quantized_survives_where_it_is_finished_elsewhere(
    tiny: Path, photos: Path, nowhere: pytest.MonkeyPatch, cli: Cli, hailo_toolchains: Path
) -> None:
    path = cli.folder / "best.onchip"
    cli("build", tiny, "-t", "hailo8l", "-c", photos, "-o", path)
    nowhere.setenv("ONCHIP_TOOLCHAINS", str(hailo_toolchains))
    nowhere.setenv("HAILO_STANDIN_MAPPING", "infeasible")
    cli("compile", path, code=4)
    assert {"har_quantized", "log"} <= set(load(path).payloads)
    nowhere.delenv("HAILO_STANDIN_MAPPING")
    nowhere.setenv("HAILO_STANDIN_KILL", "optimize")  # it must not be asked for that again
    cli("compile", path, "-O", "contexts=multi")
    before = path.read_bytes()
    cli("compile", path, "-O", "score=0.1", code=4)
    assert path.read_bytes() == before  # a program that works is not given up for a failure


def test_other_options_where_it_is_finished_leave_nothing_of_the_first(
    tiny: Path, photos: Path, nowhere: pytest.MonkeyPatch, hailo_toolchains: Path
) -> None:
    waiting = made(tiny, photos, level="2")
    assert "unfinished" in codes(waiting) and "nms" in waiting.payloads
    # what becomes of a level is for the machine that finishes it
    assert not {"level", "level_reduced", "no_finetune"} & set(codes(waiting))
    nowhere.setenv("ONCHIP_TOOLCHAINS", str(hailo_toolchains))
    other = compile_(waiting, options=Options(target={"level": "0", "nms": "none"}))
    assert "unfinished" not in codes(other) and "level" in codes(other)
    assert "nms" not in other.payloads
    again = compile_(other, options=Options(target={"nms": "cpu"}))  # the photos are still inside
    assert "nms" in again.payloads
    built = build(tiny, "hailo8l", find_images(photos), older=made(tiny, photos, level="1"))
    assert "level_reduced" not in codes(built)


def test_a_program_that_works_is_never_replaced_by_less(
    tiny: Path, photos: Path, nowhere: pytest.MonkeyPatch, cli: Cli, hailo_toolchains: Path
) -> None:
    path = cli.folder / "a.onchip"
    command = ["build", tiny, "-t", "hailo8l", "-c", photos, "-o", path]
    here, elsewhere = str(hailo_toolchains), os.environ["ONCHIP_TOOLCHAINS"]
    nowhere.setenv("ONCHIP_TOOLCHAINS", here)
    cli(*command)
    program = load(path).payload("program")
    nowhere.setenv("ONCHIP_TOOLCHAINS", elsewhere)
    said = cli(*command).stdout  # the same once more, where there is no compiler
    assert "skipped (nothing changed)" in said and "not compiled" not in said
    assert load(path).payload("program") == program
    nowhere.setenv("ONCHIP_TOOLCHAINS", here)
    nowhere.setenv("HAILO_STANDIN_MAPPING", "infeasible")
    error = cli(*command, "-O", "utilization=0.5", code=4).stderr
    assert load(path).payload("program") == program
    assert "onchip inspect" in error and "a.failed.onchip --log" in error
    assert "har_quantized" in load(cli.folder / "a.failed.onchip").payloads


def test_lines_of_ones_own_travel(
    tiny: Path, photos: Path, nowhere: pytest.MonkeyPatch, hailo_toolchains: Path, tmp_path: Path
) -> None:
    lines = tmp_path / "more.alls"
    lines.write_text("performance_param(compiler_optimization_level=max)\n")
    waiting = made(tiny, photos, script=str(lines))
    lines.unlink()
    nowhere.setenv("ONCHIP_TOOLCHAINS", str(hailo_toolchains))
    assert "compiler_optimization_level=max" in script(compile_(waiting))


# --- levels, guards ---


def gpu(monkeypatch: pytest.MonkeyPatch, folder: Path, used: int) -> None:
    """A machine with a GPU of which so many percent are in use."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '0, NVIDIA T4, {used * 150}, 15000'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HAILO_STANDIN_GPU", str(used))


def test_the_level_is_never_one_that_is_reduced(
    tiny: Path, photos: Path, compiler: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    artifact = made(tiny, photos)
    assert "optimization_level=0, compression_level=0" in script(artifact)
    assert "no free NVIDIA GPU" in codes(artifact)["level"]
    assert b"Reducing" not in artifact.payload("log")
    gpu(compiler, tmp_path, 1)
    assert "optimization_level=1," in script(made(tiny, photos))


def test_a_busy_gpu_is_none(
    tiny: Path, photos: Path, compiler: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gpu(compiler, tmp_path, 50)
    artifact = made(tiny, photos)
    assert "optimization_level=0," in script(artifact)
    assert "there is no free NVIDIA GPU" in codes(artifact)["level"]


def test_a_level_that_is_reduced_ends_the_build(
    tiny: Path, photos: Path, compiler: pytest.MonkeyPatch, cli: Cli
) -> None:
    compiler.setenv("HAILO_STANDIN_REDUCE", "always")
    path = cli.folder / "a.onchip"
    done = cli("build", tiny, "-t", "hailo8l", "-c", photos, "-O", "level=2", "-o", path, code=4)
    assert "reduced the optimization level from 2 to 0" in done.stderr
    assert load(path).manifest.program_input is None
    assert "Reducing optimization level" in cli("inspect", path, "--log").stdout


def test_levels_are_compared_and_the_best_is_kept(
    tiny: Path, photos: Path, compiler: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gpu(compiler, tmp_path, 0)
    compiler.setattr(hailo_build, "_agreement", lambda job, order, loaded: (0.6, 0.9)[order.level])
    artifact = made(tiny, photos, level="0,1")
    said = codes(artifact)["quantizer"]
    assert "level 0 60.0%, level 1 90.0%; level 1 is used" in said
    assert "optimization_level=1," in script(artifact)
    compiler.setattr(hailo_build, "_agreement", lambda job, order, loaded: (0.95, 0.9)[order.level])
    assert "optimization_level=0," in script(made(tiny, photos, level="0,1"))


def test_a_level_that_fails_leaves_the_others(
    tiny: Path, photos: Path, compiler: pytest.MonkeyPatch
) -> None:
    compiler.setenv("HAILO_STANDIN_REDUCE", "always")
    artifact = made(tiny, photos, level="0,2")
    assert "optimization_level=0," in script(artifact)
    assert "reduced the optimization level from 2" in codes(artifact)["level_failed"]


def test_outputs_of_noise_end_the_build(
    tiny: Path, photos: Path, compiler: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gpu(compiler, tmp_path, 0)
    compiler.setenv("HAILO_STANDIN_SNR", "0.0004649")
    with pytest.raises(ToolError, match=r"little of the signal is left at output_layer1 0.000465"):
        made(tiny, photos, level="2")


def test_sixteen_bits(tiny: Path, photos: Path, compiler: pytest.MonkeyPatch) -> None:
    options = Options(int16=("*cv2.0*",))
    artifact = build(tiny, "hailo8l", find_images(photos), options=options)
    lines = [x for x in script(artifact).splitlines() if x.startswith("quantization_param")]
    assert lines and all("precision_mode=a16_w16" in x for x in lines)
    compiler.setenv("HAILO_STANDIN_DEMOTE", "log")
    with pytest.raises(ToolError, match="gave up the 16 bits of"):
        build(tiny, "hailo8l", find_images(photos), options=options)


def test_several_contexts(tiny: Path, photos: Path, compiler: pytest.MonkeyPatch) -> None:
    compiler.setenv("HAILO_STANDIN_CONTEXTS", "3")
    artifact = made(tiny, photos)
    assert "runs in 3 parts" in codes(artifact)["multi_context"]
    with pytest.raises(ToolError, match="failed in compile") as caught:
        made(tiny, photos, contexts="single")
    assert "does not fit" in caught.value.hint


# --- the compiler fails ---


def test_what_was_quantized_survives_a_network_that_does_not_fit(
    tiny: Path, photos: Path, compiler: pytest.MonkeyPatch, cli: Cli
) -> None:
    path = cli.folder / "a.onchip"
    command = ["build", tiny, "-t", "hailo8l", "-c", photos, "-o", path]
    compiler.setenv("HAILO_STANDIN_MAPPING", "infeasible")
    failed = cli(*command, code=4).stderr
    assert "failed in compile" in failed
    assert "har_quantized" in load(path).payloads
    compiler.delenv("HAILO_STANDIN_MAPPING")
    compiler.setenv("HAILO_STANDIN_KILL", "optimize")  # it must not be asked for that again
    cli(*command, "-O", "utilization=0.6")
    artifact = load(path)
    assert artifact.payload("program").startswith(b"\x01HEF")
    assert "max_compute_utilization=0.6" in script(artifact)
    cli(*command, "-O", "score=0.1", code=4)  # this one has to be quantized anew


@pytest.mark.parametrize("stage", ["translate", "optimize", "compile"])
def test_a_compiler_that_is_killed(
    stage: str, tiny: Path, photos: Path, compiler: pytest.MonkeyPatch
) -> None:
    compiler.setenv("HAILO_STANDIN_KILL", stage)
    with pytest.raises(ToolError, match=rf"failed in {stage}: it was killed"):
        made(tiny, photos)


def test_a_compiler_that_hangs(tiny: Path, photos: Path, compiler: pytest.MonkeyPatch) -> None:
    compiler.setenv("HAILO_STANDIN_HANG", "optimize")
    compiler.setattr(hailo_build, "LONG", 3.0)
    with pytest.raises(ToolError, match="it hung: no result after 3 s"):
        made(tiny, photos)


def test_a_compiler_that_does_not_start(
    tiny: Path, photos: Path, compiler: pytest.MonkeyPatch
) -> None:
    compiler.setenv("HAILO_STANDIN_GRAPHVIZ", "missing")
    with pytest.raises(ToolError) as caught:
        made(tiny, photos)
    assert "pygraphviz" in str(caught.value)
    assert "libgraphviz-dev" in caught.value.hint


def test_an_archive_that_is_damaged(tiny: Path, photos: Path, compiler: pytest.MonkeyPatch) -> None:
    artifact = made(tiny, photos)
    broken = Artifact(artifact.manifest, {**artifact.payloads, "har_quantized": b"no tar at all"})
    data = unlabelled(find_images(photos), artifact.manifest.head.labels)
    with pytest.raises(InputError, match=r"quantized\.har"):
        verify(broken, data, labelled=False)


# --- options ---


def test_lines_of_ones_own(
    tiny: Path, photos: Path, compiler: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.alls"
    mine.write_text("# mine\npre_quantization_optimization(equalization, policy=disabled)\n")
    artifact = made(tiny, photos, script=str(mine))
    assert script(artifact).endswith("equalization, policy=disabled)\n")
    mine.write_text("normalization1 = normalization([0, 0, 0], [1, 1, 1])\n")
    with pytest.raises(InputError, match="normalization, which onchip writes itself"):
        made(tiny, photos, script=str(mine))
    mine.write_text("pre_quantisation_optimization(equalization, policy=disabled)\n")
    with pytest.raises(InputError, match="pre_quantisation_optimization"):
        made(tiny, photos, script=str(mine))
    with pytest.raises(InputError, match="no file"):
        made(tiny, photos, script=str(tmp_path / "none.alls"))


@pytest.mark.parametrize("level", ["7", "two", "0;1", ""])
def test_levels_that_are_none(level: str, tiny: Path, photos: Path) -> None:
    with pytest.raises(InputError, match="is not an optimization level"):
        made(tiny, photos, level=level)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("utilization", "5", "no share"),
        ("utilization", "nan", "no share"),
        ("fps", "-3", "below 0"),
        ("batch", "-1", "below 0"),
        ("sdk", "5.1", "does not build for this chip"),
    ],
)
def test_options_out_of_range(option: str, value: str, said: str, tiny: Path, photos: Path) -> None:
    with pytest.raises(InputError, match=said):
        made(tiny, photos, **{option: value})


def test_no_room_for_the_photos(tiny: Path, photos: Path, compiler: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("307200 requested and 143232 written")  # as numpy says it

    compiler.setattr("onchip.targets.hailo.calibration.np.save", full)
    with pytest.raises(InputError, match="no room for the photos"):
        made(tiny, photos)


def test_a_level_that_was_not_reduced_after_all(
    tiny: Path, photos: Path, compiler: pytest.MonkeyPatch
) -> None:
    assert "level_reduced" not in codes(made(tiny, photos, level="1"))


def test_boxes_on_a_chip_that_cannot(tiny: Path, photos: Path) -> None:
    with pytest.raises(UnsupportedError, match="nms=nn_core"):
        made(tiny, photos, nms="nn_core")


def test_a_network_of_bgr_takes_rgb(tiny: Path, photos: Path, compiler: pytest.MonkeyPatch) -> None:
    from onchip.graph.pixels import Pixels

    options = Options(pixels=Pixels(color="bgr"), target={"rgb": "true", "nms": "none"})
    artifact = build(tiny, "hailo8l", find_images(photos), options=options)
    assert "input_conversion(bgr_to_rgb)" in script(artifact)
    assert artifact.manifest.program_input is not None
    assert artifact.manifest.program_input.color == "rgb"
    data = unlabelled(find_images(photos), artifact.manifest.head.labels)
    proof = verify(artifact, data, labelled=False, gate=Gate(min_match=0))
    rows = {r.stage: r.parity for r in proof.rows}
    assert rows["optimized"].matched == 1  # swapped twice, or never: the same boxes


# --- the proof ---


def test_the_emulators_are_rows_of_the_proof(
    tiny: Path, photos: Path, compiler: pytest.MonkeyPatch
) -> None:
    for boxes in ("cpu", "none"):
        artifact = made(tiny, photos, nms=boxes)
        data = unlabelled(find_images(photos), artifact.manifest.head.labels)
        proof = verify(artifact, data, labelled=False, gate=Gate(min_match=0))
        rows = {r.stage: r.parity for r in proof.rows}
        assert list(rows) == ["original", "cut", "plan", "native", "optimized", "quantized"]
        assert rows["native"].matched == 1 and rows["native"].mean_iou > 0.999
        # HailoRT keeps 100 boxes of a class at most; noise has more
        assert (
            rows["optimized"].matched == 1 if boxes == "none" else rows["optimized"].matched > 0.8
        )
        assert rows["optimized"].mean_iou > 0.99
        assert bool(rows["quantized"].sqnr_db) == (boxes == "none")


def test_a_missing_sigmoid_ends_the_build(
    tiny: Path, photos: Path, compiler: pytest.MonkeyPatch
) -> None:
    """HailoRT applies none: without it in the graph, logits would pass for scores."""
    assert script(made(tiny, photos)).count("change_output_activation(conv") == 3
    compiler.setattr("onchip.targets.hailo.script.sigmoids", lambda head: ())
    with pytest.raises(ToolError, match=r"wrote a file that will not do: .*sigmoid"):
        made(tiny, photos)


@pytest.mark.data
@pytest.mark.parametrize("name", ["yolov8n", "yolov5n"])
def test_real_networks(name: str, data: Path, compiler: pytest.MonkeyPatch, cli: Cli) -> None:
    path = cli.folder / "a.onchip"
    photos = data / "coco" / "images" / "train2017"
    model = data / "models" / f"{name}.onnx"
    cli("build", model, "-t", "hailo8l", "-c", photos, "--images", 8, "-o", path)
    if name == "yolov8n":  # as Hailo's own zoo has it
        lines = load(path).payload("script").decode().splitlines()
        assert lines[:4] == [
            "normalization1 = normalization([0.0, 0.0, 0.0], [255.0, 255.0, 255.0])",
            "change_output_activation(conv42, sigmoid)",
            "change_output_activation(conv53, sigmoid)",
            "change_output_activation(conv63, sigmoid)",
        ]
        assert lines[-2:] == [
            'nms_postprocess("nms_config.json", meta_arch=yolov8, engine=cpu)',
            "allocator_param(width_splitter_defuse=disabled)",
        ]
    coco = data / "coco" / "data.yaml"
    said = cli("verify", path, "--data", coco, "--images", 8, "--json").stdout
    import json

    rows = {r["stage"]: r for r in json.loads(said)["stages"]}
    assert rows["native"]["matched"] == 1
    assert rows["optimized"]["matched"] > 0.98 and rows["optimized"]["mean_iou"] > 0.99
    assert rows["quantized"]["matched"] > 0.8


def test_photos_are_never_all_in_memory(
    tiny: Path, tmp_path: Path, compiler: pytest.MonkeyPatch
) -> None:
    """Each photo lies on the disk, and the compiler is handed one after the other."""
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(1)
    for number in range(40):
        image = cv2.resize(random.integers(0, 255, (6, 6, 3), np.uint8), (64, 64))
        cv2.imwrite(str(folder / f"{number}.png"), image)
    held: list[int] = []

    def seen(loaded: Loaded, *rest: object) -> float:
        held.append(len(list(Path(str(loaded.worker.folder)).glob("*.npy"))))
        return 1.0

    compiler.setattr(hailo_build, "_agreement", lambda job, order, loaded: seen(loaded))
    artifact = made(tiny, folder)
    assert held == [0]  # none of them in the worker's own folder, nor in one array
    assert b"Using dataset with 40 entries for calibration" in artifact.payload("log")
