"""Seeds 000, 001 and 003, one test for each of their troubles: prevented, or named.

The compiler and the runtime are stand-ins that refuse what the real ones are not known to take.
"""

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from onchip.artifact import Artifact, load
from onchip.build import Options, build, foresee
from onchip.dataset.samples import unlabelled
from onchip.measure.proof import Proof
from onchip.targets.hailo import build as hailo_build
from onchip.toolchains.known import find
from onchip.verify import verify
from onchip.vision.preprocess import find_images, prepare, read_image

from conftest import Cli

BOXES = [f"/model.22/cv2.{i}/cv2.{i}.2/Conv" for i in range(3)]
CLASSES = [f"/model.22/cv3.{i}/cv3.{i}.2/Conv" for i in range(3)]
ENDS = tuple(n for pair in zip(BOXES, CLASSES, strict=True) for n in pair)
SEED_ONE = (
    "hailo_sdk_client.model_translator.exceptions.ParsingWithRecommendationException: Parsing "
    "failed. The errors found in the graph are:\n"
    " UnsupportedShuffleLayerError in op /model.22/dfl/Reshape: Failed to determine type of layer "
    "to create in node /model.22/dfl/Reshape\n"
    "Please try to parse the model again, using these end node names: /model.22/Concat_3\n"
)


def photos(data: Path, count: int) -> list[Path]:
    found = find_images(data / "coco" / "images" / "train2017")
    return found[:: len(found) // count][:count]


@pytest.fixture(scope="module")
def nano(data: Path, hailo_toolchains: Path) -> Artifact:
    """The seeds' own network for the seeds' own chip: one call, and nothing said by hand."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONCHIP_TOOLCHAINS", str(hailo_toolchains))
        return build(data / "models" / "yolov8n.onnx", "hailo8l", photos(data, 24))


def proven(artifact: Artifact, data: Path, count: int = 6) -> Proof:
    found = find_images(data / "coco" / "images" / "val2017")[:count]
    return verify(artifact, unlabelled(found, ()), labelled=False)


def named(log: str, tool: str = "hailo") -> list[str]:
    return [f.code for f in find(tool, log)]


# --- 000 and 001: from ONNX to HEF ---


@pytest.mark.data
def test_from_onnx_to_a_sealed_artifact_in_one_command(
    data: Path, cli: Cli, compiler: pytest.MonkeyPatch
) -> None:
    """Five commands of 000, forty lines of 001: no node, layer, script line or path by hand."""
    images = data / "coco" / "images" / "train2017"
    model = data / "models" / "yolov8n.onnx"
    cli("build", model, "-t", "hailo8l", "-c", images, "--images", 8, "-o", "best.onchip")
    made = load(cli.folder / "best.onchip")
    assert made.payload("program").startswith(b"\x01HEF")
    assert {"har_parsed", "har_quantized", "har_compiled", "script", "nms", "log"} <= set(
        made.payloads
    )


@pytest.mark.data
def test_the_end_nodes_are_found(nano: Artifact, data: Path, compiler: pytest.MonkeyPatch) -> None:
    """001 needed an exception, a wrong recommendation and a failed allocation to find them."""
    _, seen = foresee(data / "models" / "yolov8n.onnx", "hailo8l")
    assert seen.end_nodes == ENDS
    log = nano.payload("log").decode()
    mapped = ", ".join(f"'{n}'" for n in ENDS)
    assert f"End nodes mapped from original model: {mapped}." in log
    assert "ParsingWithRecommendationException" not in log
    assert proven(nano, data).rows[1].parity.matched == 1  # the cut


@pytest.mark.data
def test_a_recommendation_is_followed_only_where_it_is_the_same_head(
    nano: Artifact, data: Path, compiler: pytest.MonkeyPatch
) -> None:
    assert named(SEED_ONE) == ["end_nodes"]
    asked: list[list[str]] = []
    real = hailo_build._call

    def call(worker: object, verb: str, job: object, **options: object) -> object:
        if verb == "translate":
            asked.append(list(options["end"]))  # type: ignore[call-overload]
            if len(asked) == 1:
                return {"recommended": list(reversed(ENDS))}
        return real(worker, verb, job, **options)  # type: ignore[arg-type]

    compiler.setattr(hailo_build, "_call", call)
    made = build(data / "models" / "yolov8n.onnx", "hailo8l", photos(data, 4))
    assert asked == [list(ENDS), list(reversed(ENDS))]
    assert proven(made, data, 2).rows[3].parity.matched == 1

    def elsewhere(worker: object, verb: str, job: object, **options: object) -> object:
        if verb == "translate":
            return {"recommended": ["/model.22/Concat_3"]}
        return real(worker, verb, job, **options)  # type: ignore[arg-type]

    compiler.setattr(hailo_build, "_call", elsewhere)
    from onchip.errors import UnsupportedError

    with pytest.raises(UnsupportedError, match=r"it would end at /model\.22/Concat_3"):
        build(data / "models" / "yolov8n.onnx", "hailo8l", photos(data, 4))


def test_no_script_is_looked_for(nano: Artifact) -> None:
    """000: "no alls found for requested hw_arch". Here the script is written from the graph."""
    lines = nano.payload("script").decode()
    assert "normalization1 = normalization([0.0, 0.0, 0.0], [255.0, 255.0, 255.0])" in lines
    assert named("FileNotFoundError: no alls found for requested hw_arch") == ["no_alls"]


def test_no_dataset_of_a_date_is_looked_for() -> None:
    """000: the zoo wants a tfrecord of 2021-06-18, and 2023-08-03 was made. Here: a folder."""
    log = (
        "FileNotFoundError: Couldn't find dataset in "
        "/home/ubuntu/.hailomz/data/models_files/coco/2021-06-18/coco_calib2017.tfrecord"
    )
    assert named(log) == ["calibration_path"]


def test_graphviz() -> None:
    """000 and 001: pygraphviz does not build. It is looked for before anything is installed."""
    log = "pygraphviz/graphviz_wrap.c:3023:10: fatal error: graphviz/cgraph.h: No such file"
    assert named(log) == ["graphviz"]
    cure = find("hailo", log)[0].cure
    assert "libgraphviz-dev" in cure


def test_the_level_that_is_reduced_in_passing(nano: Artifact) -> None:
    """000 is told so in a warning and compiles all the same."""
    line = (
        "[warning] Reducing optimization level to 0 (the accuracy won't be optimized and "
        "compression won't be used) because there's no available GPU\n"
    )
    assert named(line) == ["level_reduced"]
    assert line.strip() not in nano.payload("log").decode()
    assert "level" in {v.code for v in nano.manifest.verdicts}


def test_compression_beside_a_level_that_drops_it(
    tiny: Path, photos: Path, compiler: pytest.MonkeyPatch
) -> None:
    """001 asks for level 1 and compression 2; the compiler drops the latter, and says it once."""
    _, seen = foresee(
        tiny,
        "hailo8l",
        find_images(photos),
        options=Options(target={"level": "1", "compression": "2"}),
    )
    assert "compression_reduced" in {v.code for v in seen.verdicts}
    assert "compression_level=0" in seen.files["model.alls"]


@pytest.mark.data
def test_photos_are_letterboxed_and_in_the_right_colours(nano: Artifact, data: Path) -> None:
    """001 stretches and gives BGR; 003 stretches for calibration and letterboxes for inference."""
    spec = nano.manifest.program_input
    assert spec is not None
    assert (spec.letterbox, spec.pad, spec.color, spec.dtype) == ("center", 114, "rgb", "uint8")
    photo = read_image(photos(data, 1)[0])
    tensor, box = prepare(photo, spec)
    assert tensor.dtype == np.uint8 and tensor.shape == (1, 640, 640, 3)
    inner = tensor[0, 320, 320], photo[photo.shape[0] // 2, photo.shape[1] // 2, ::-1]
    assert np.abs(inner[0].astype(int) - inner[1].astype(int)).max() < 40
    assert box.undo(np.asarray([[320.0, 320.0, 320.0, 320.0]]))[0, 0] == pytest.approx(
        photo.shape[1] / 2, abs=1
    )


def test_sixty_four_photos_of_however_many(nano: Artifact) -> None:
    """The compiler takes 64 where nobody says more; 003's `--num-samples` says nothing to it."""
    assert "calibset_size=24)" in nano.payload("script").decode()
    assert "Using dataset with 24 entries for calibration" in nano.payload("log").decode()


# --- 003: the generator's own faults ---


@pytest.mark.data
def test_normalization_is_in_the_program(
    nano: Artifact, data: Path, compiler: pytest.MonkeyPatch
) -> None:
    """003 never loads its script: 0 to 255 goes into a network that expects 0 to 1."""
    proof = {r.stage: r.parity for r in proven(nano, data).rows}
    assert proof["optimized"].matched > 0.98  # takes pixels, and sees what the float one sees
    assert proof["quantized"].matched > 0.7


@pytest.mark.data
def test_a_build_without_normalization_fails_the_proof(
    nano: Artifact, data: Path, compiler: pytest.MonkeyPatch
) -> None:
    compiler.setattr("onchip.targets.hailo.script._input", lambda spec, options: iter(()))
    made = build(data / "models" / "yolov8n.onnx", "hailo8l", photos(data, 8))
    proof = proven(made, data)
    assert not proof.passed
    assert proof.broken == "optimized"


def test_a_script_with_commands_that_are_none(tiny: Path, photos: Path, tmp_path: Path) -> None:
    """003's .mscript: `enable_loose_mode`, `optimization_level(0)`, a wrong config command."""
    from onchip.errors import InputError

    mine = tmp_path / "hailo_optimization.mscript"
    for line, told in (
        ("enable_loose_mode", "line 1"),
        ("optimization_level(0)", "optimization_level"),
        ("model_optimization_flavor(optimization_level=0, batch_size=1)", "onchip writes itself"),
    ):
        mine.write_text(f"{line}\n")
        with pytest.raises(InputError, match=told):
            foresee(
                tiny, "hailo8l", find_images(photos), options=Options(target={"script": str(mine)})
            )


@pytest.mark.data
def test_an_export_with_nms_inside(data: Path, tmp_path: Path) -> None:
    """003 exports with NMS, and then cuts at names that this changes. Names play no part here."""
    model = onnx.load(data / "models" / "yolov8n.onnx")
    for node in model.graph.node:
        node.name = f"wrapped/{node.name}"
    onnx.save(model, tmp_path / "renamed.onnx")
    _, seen = foresee(tmp_path / "renamed.onnx", "hailo8l")
    assert seen.end_nodes == tuple(f"wrapped/{n}" for n in ENDS)


@pytest.mark.data
def test_boxes_are_suppressed_by_class_and_none_is_dropped_at_the_border(
    nano: Artifact, data: Path, compiler: pytest.MonkeyPatch, hailort: pytest.MonkeyPatch
) -> None:
    """003: xyxy where xywh was due, border boxes dropped, a class taken for background."""
    from onchip import Detector

    with Detector(nano, confidence=0.4) as detector:
        image = find_images(data / "coco" / "images" / "val2017")[0]
        found = detector(image)
        assert len(found)
        shape = read_image(image).shape
        assert found.boxes.min() >= 0 and found.boxes[:, 2].max() <= shape[1]
        whole = cv2.resize(read_image(image), (320, 240))[:, :120]
        assert len(detector(whole)) >= 0
    assert nano.manifest.head.classes == 80 == len(nano.manifest.head.labels)


def test_one_pipeline_is_held_open(nano: Artifact, data: Path, hailort: pytest.MonkeyPatch) -> None:
    """003 opens and activates the network for each frame."""
    from onchip import Detector
    from onchip.targets.hailo import runtime

    loads: list[int] = []
    real = runtime.load
    hailort.setattr(runtime, "load", lambda *rest: loads.append(1) or real(*rest))
    with Detector(nano) as detector:
        before = len(loads)
        for _ in range(3):
            detector(np.zeros((48, 64, 3), np.uint8))
        assert len(loads) == before


def test_a_failed_compilation_says_more_than_that(
    tiny: Path, photos: Path, compiler: pytest.MonkeyPatch, cli: Cli
) -> None:
    """003 flattens every error to "Compilation failed"."""
    compiler.setenv("HAILO_STANDIN_MAPPING", "infeasible")
    said = cli("build", tiny, "-t", "hailo8l", "-c", photos, "-o", "a.onchip", "--json", code=4)
    error = json.loads(said.stdout)["error"]
    assert error["code"] == "tool" and "failed in compile" in error["message"] and error["hint"]
    assert "Traceback" in cli("inspect", "a.onchip", "--log").stdout  # the log has all of it


@pytest.mark.data
def test_the_file_is_where_it_was_asked_for(
    tiny: Path, photos: Path, compiler: pytest.MonkeyPatch, cli: Cli
) -> None:
    """003 writes the HEF into one folder and looks for it in another."""
    (cli.folder / "here").mkdir()
    cli("build", tiny, "-t", "hailo8l", "-c", photos, "-o", "here/my.onchip")
    assert [p.name for p in cli.folder.rglob("*") if p.is_file()] == ["my.onchip"]
