"""Training: what is asked for, what lies in a checkpoint, what a run leaves; then training itself.

The tests marked `train` need torch and ultralytics (`make test ALL=1`).
"""

import builtins
import hashlib
import importlib.metadata
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from onchip.cli import train as cli_train
from onchip.dataset import samples, yolo
from onchip.demo.scenes import write
from onchip.errors import InputError, OnchipError, ToolError, UnsupportedError
from onchip.report import train as report
from onchip.train import checkpoint, fit, process, runs
from onchip.train.fit import Training
from onchip.train.runs import Measures, Record, Trained
from onchip.writing import alone

from checkpoints import DETECTOR, at_home, calling, importing
from checkpoints import checkpoint as made
from checkpoints import own_home as own_home  # the fixtures
from checkpoints import ultralytics as ultralytics
from conftest import Cli

if TYPE_CHECKING:
    import psutil

QUICK = ("--model", "yolov8n.yaml", "--width", "0.125", "--imgsz", "64", "--batch", "8",
         "--threads", "1")  # fmt: skip


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A little data set: 16 scenes to train on, 8 to validate."""
    folder = tmp_path_factory.mktemp("scenes")
    write(folder, 16, 500_000, "train")
    return write(folder, 8, 510_000, "val")


# ---- what lies in a checkpoint -------------------------------------------------------------------


def test_a_detector_is_known_and_asked_for(tmp_path: Path) -> None:
    found = checkpoint.look(made(tmp_path / "best.pt"))
    assert found.names == DETECTOR
    assert found.describe() == (
        f"{tmp_path}/best.pt is a pickle, and loading one runs what it names; this one names 7 "
        "parts of collections, torch, ultralytics, and nothing else"
    )
    with pytest.raises(checkpoint.Untrusted) as error:
        checkpoint.require_trust(found, trust=False)
    assert error.value.hint == "if you trust where it comes from: --trust"
    checkpoint.require_trust(found, trust=True)


def test_what_onchip_trained_needs_no_question(tmp_path: Path) -> None:
    path = made(tmp_path / "best.pt")
    assert not checkpoint.look(path).ours
    checkpoint.remember(path, tmp_path / "missing.pt")
    assert checkpoint.look(path).ours
    checkpoint.require_trust(checkpoint.look(path), trust=False)
    moved = tmp_path / "moved.pt"
    shutil.move(path, moved)
    assert checkpoint.look(moved).ours
    made(moved, importing(*DETECTOR, "torch Size"))
    assert not checkpoint.look(moved).ours


def test_a_folder_from_elsewhere_cannot_vouch_for_itself(tmp_path: Path) -> None:
    path = made(tmp_path / "best.pt")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for name in ("trained", "onchip.json"):
        (tmp_path / name).write_text(digest)
    assert not checkpoint.look(path).ours


def test_where_nothing_can_be_noted_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").write_text("a file, where the user's folder should be")
    path = made(tmp_path / "best.pt")
    checkpoint.remember(path)
    assert not checkpoint.look(path).ours


TRAPS = {  # by what the pickle says, which for protocol 2 are Python 2's names
    "posix.system": calling(os.system, "touch trapped"),
    "builtins.eval": calling(eval, "open('trapped', 'w')", protocol=4),
    "__builtin__.eval": calling(eval, "open('trapped', 'w')"),
    "__builtin__.exec": calling(exec, "open('trapped', 'w')"),
    "commands.Popen": calling(subprocess.Popen, ["touch", "trapped"]),
    "os.popen": calling(os.popen, "touch trapped"),
    "shutil.copyfile": calling(shutil.copyfile, "best.pt", "trapped"),
    "io.open": calling(builtins.open, "trapped", "w"),
    "pickle.loads": calling(pickle.loads, b"N."),
    "torch.load": importing(*DETECTOR, "torch load"),
    "torch.hub.load": importing(*DETECTOR, "torch.hub load"),
    "torch.storage._load_from_bytes": importing(*DETECTOR, "torch.storage _load_from_bytes"),
    "torch.nn.modules.module.os": importing(*DETECTOR, "torch.nn.modules.module os"),
    "ultralytics.nn.tasks.torch_safe_load": importing(
        *DETECTOR, "ultralytics.nn.tasks torch_safe_load"
    ),
    "ultralytics.utils.downloads.safe_download": importing(
        *DETECTOR, "ultralytics.utils.downloads safe_download"
    ),
    "ultralytics.utils.loss.os.CrossEntropyLoss": importing(
        *DETECTOR, "ultralytics.utils.loss os.CrossEntropyLoss"
    ),
    "mine.Layer": importing(*DETECTOR, "mine Layer"),
    "os.system": b"\x80\x02(S'touch trapped'\nios\nsystem\n.",
}


@pytest.mark.parametrize("name", TRAPS)
def test_a_pickle_that_runs_something_is_named_and_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = made(tmp_path / "best.pt", TRAPS[name])
    with pytest.raises(InputError) as error:
        checkpoint.look(path)
    assert f"best.pt would run {name}" in str(error.value)
    assert "whoever vouches for it" in str(error.value)
    assert not (tmp_path / "trapped").exists()


def test_what_is_loaded_is_what_was_looked_into(tmp_path: Path) -> None:
    """Of two zips in one file Python reads the second, PyTorch the first if they are as long."""
    trap = TRAPS["posix.system"]
    good = made(tmp_path / "good.pt", importing(*DETECTOR) + bytes(len(trap)))
    short = len(good.read_bytes()) - len(made(tmp_path / "bad.pt", trap).read_bytes())
    bad = made(tmp_path / "bad.pt", trap + bytes(short))
    both = tmp_path / "both.pt"
    both.write_bytes(bad.read_bytes() + good.read_bytes())
    found = checkpoint.look(both)
    checkpoint.copied(found, tmp_path / "copy.pt")
    data = (tmp_path / "copy.pt").read_bytes()
    assert b"posix" in both.read_bytes() and b"posix" not in data
    assert checkpoint.look(tmp_path / "copy.pt").names == found.names


def test_a_checkpoint_is_not_copied_where_it_changed_or_grows(tmp_path: Path) -> None:
    path = made(tmp_path / "best.pt")
    found = checkpoint.look(path)
    made(path, importing(*DETECTOR, "torch Size"))
    with pytest.raises(InputError, match="changed while it was read"):
        checkpoint.copied(found, tmp_path / "copy.pt")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("best/data.pkl", importing(*DETECTOR))
        archive.writestr("best/data/0", bytes(1 << 20))
    with pytest.raises(InputError, match="it is compressed"):
        checkpoint.copied(checkpoint.look(path), tmp_path / "copy.pt")


def test_a_trap_is_refused_with_trust_too(cli: Cli) -> None:
    path = made(cli.folder / "best.pt", TRAPS["posix.system"])
    done = cli("export", path, "--trust", code=None)
    assert done.returncode in (2, 4)  # 4 where there is no Ultralytics
    assert not (cli.folder / "trapped").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02\x8c\x02os\x8c\x06system\x93.",  # STACK_GLOBAL: texts joined to a name
        b"\x80\x02\x82\x01.",  # EXT1: a name by number
        b"\x80\x02(Cidle\n.",
        pickle.dumps({"model": 1}, protocol=4),
        b"\x80\x02Pidentity\n.",  # a text that names what lies elsewhere
    ],
)  # fmt: skip
def test_operations_that_no_checkpoint_has_are_refused(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        checkpoint.look(made(tmp_path / "best.pt", data))


KINDS = {
    "SegmentationModel": "segmentation network",
    "ClassificationModel": "classification network",
    "PoseModel": "pose network",
    "OBBModel": "network of turned boxes (OBB)",
    "RTDETRDetectionModel": "RT-DETR",
    "BrandNewModel": "BrandNewModel",
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_networks_are_named(kind: str, tmp_path: Path) -> None:
    path = made(tmp_path / "n.pt", importing(*DETECTOR[:-1], f"ultralytics.nn.tasks {kind}"))
    with pytest.raises(UnsupportedError, match="is of another kind") as error:
        checkpoint.look(path)
    assert str(error.value).endswith(KINDS[kind])


def strange(folder: Path) -> dict[str, tuple[Path, str]]:
    """Files that are no checkpoint of a detector, and what is said of each."""
    good = made(folder / "good.pt").read_bytes()
    (folder / "cut.pt").write_bytes(good[: len(good) // 2])
    (folder / "empty.pt").write_bytes(b"")
    (folder / "text.pt").write_text("weights")
    (folder / "model.onnx").write_bytes(b"\x08\x07\x12\x07pytorch")
    (folder / "old.pt").write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")
    polyglot = b"\x80\x02cos\nsystem\n." + good
    (folder / "polyglot.pt").write_bytes(polyglot)
    made(folder / "script.pt", **{"constants.pkl": b""})
    made(folder / "state.pt", importing(*DETECTOR[:3]))
    made(folder / "yolov5.pt", importing(*DETECTOR[:4], "models.yolo DetectionModel"))
    with zipfile.ZipFile(folder / "twice.pt", "w") as archive:
        archive.writestr("a/data.pkl", importing(*DETECTOR))
        archive.writestr("b/data.pkl", TRAPS["posix.system"])
    with zipfile.ZipFile(folder / "photos.pt", "w") as archive:
        archive.writestr("a.jpg", b"")
    with zipfile.ZipFile(folder / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(checkpoint.MAX_PICKLE + 1))
    made(folder / "garbage.pt", b"\x80\x02X\xff\xff\xff\xffabc")
    (folder / "folder.pt").mkdir()
    said = {
        "cut.pt": "is damaged or cut off",
        "empty.pt": "is empty",
        "text.pt": "is no PyTorch checkpoint",
        "model.onnx": "is no PyTorch checkpoint",
        "old.pt": "before 1.6",
        "polyglot.pt": "is no PyTorch checkpoint",
        "script.pt": "is TorchScript",
        "state.pt": "holds weights (a state_dict), and no network",
        "yolov5.pt": "is from the yolov5 repository",
        "twice.pt": "no PyTorch checkpoint",
        "photos.pt": "no PyTorch checkpoint",
        "bomb.pt": "has a pickle of more than 64 MB",
        "garbage.pt": "its pickle does not read",
        "folder.pt": "is a folder",
        "missing.pt": "cannot read",
    }
    return {name: (folder / name, text) for name, text in said.items()}


def test_strange_files_get_one_clear_line_each(tmp_path: Path) -> None:
    for path, text in strange(tmp_path).values():
        with pytest.raises(OnchipError) as error:
            checkpoint.look(path)
        assert text in str(error.value), path
        assert "\n" not in str(error.value)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damage_anywhere_ends_in_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    whole = bytearray(made(folder / "best.pt").read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=8)):
        whole[place] = data.draw(st.integers(0, 255))
    (folder / "best.pt").write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        found = checkpoint.look(folder / "best.pt")
    except OnchipError:
        return
    assert all(checkpoint.KNOWN.fullmatch(n) for n in found.names)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_pickle_ends_in_an_error_or_in_known_names(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = made(tmp_path_factory.mktemp("any") / "best.pt", importing(*DETECTOR)[:-2] + data)
    try:
        found = checkpoint.look(path)
    except OnchipError:
        return
    assert all(checkpoint.KNOWN.fullmatch(n) for n in found.names)


def test_a_real_checkpoint_reads(data: Path) -> None:
    found = checkpoint.look(data / "models" / "yolov8n.pt")
    assert "ultralytics.nn.tasks DetectionModel" in found.names
    assert len(found.names) == 21


def test_no_other_verb_takes_a_checkpoint(cli: Cli, photos: Path) -> None:
    path = made(cli.folder / "best.pt")
    for verb in ("build", "parse", "plan"):
        text = cli(verb, path, "-c", photos, code=2).stderr
        assert f"onchip export {path}" in text


def test_two_trainings_in_one_folder_do_not_mix(
    tmp_path: Path, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Idle:
        folder = tmp_path

        def call(self, name: str, **given: object) -> object:
            assert name == "check"
            return []

        def __enter__(self) -> "Idle":
            return self

        def __exit__(self, *error: object) -> None:
            pass

    monkeypatch.setattr(process, "start", Idle)
    wanted = Training(data=scenes, model="yolov8n.yaml", project=tmp_path / "runs")
    with alone(wanted.folder), pytest.raises(InputError, match="another onchip is at work"):
        fit.fit(wanted)
    assert not list(wanted.folder.iterdir())


def test_a_training_resumed_at_its_end_was_not_stopped_early(tmp_path: Path) -> None:
    class Worker:
        log, seconds = "", 1.0

        def call(self, name: str, **given: object) -> object:
            return {"map50": 0.5, "map50_95": 0.4, "precision": 0.3, "recall": 0.2}

    (tmp_path / "runs/x").mkdir(parents=True)
    head = "epoch,time,metrics/mAP50(B),metrics/mAP50-95(B)"
    (tmp_path / "runs/x/results.csv").write_text(f"{head}\n6,9,0.5,0.4\n")
    wanted = Training(data=tmp_path, name="x", project=tmp_path / "runs", resume=True)
    worker: Any = Worker()
    found = fit._train(
        wanted, worker, "last.pt", {"epochs": 6}, lambda *told: None, lambda *e: None
    )
    assert (found.epochs, found.planned, found.stopped) == (6, 6, False)


# ---- what is asked for ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"name": "../up"}, "'../up' is no name for a run"),
        ({"name": ""}, "'' is no name for a run"),
        ({"project": Path("o'neil")}, "cannot read a path with an apostrophe"),
        ({"epochs": 0}, "epochs is 0"),
        ({"batch": -1}, "batch is -1"),
        ({"imgsz": 300}, "an image size of 300 does not divide by 32"),
        ({"imgsz": 0}, "imgsz is 0"),
        ({"device": "0,1"}, "onchip trains on one device, not on 0,1"),
        ({"width": 0.1}, "weights have the width and depth that they have: yolov8n.pt"),
        ({"more": {"epochs": 3}}, "epochs is no further setting"),
        ({"more": {"pretrained": "x.pt"}}, "pretrained is no further setting"),
        ({"more": {"distill_model": "x.pt"}}, "distill_model is no further setting"),
        ({"resume": True}, "runs/detect/train has nothing to resume"),
        ({"model": "weights/none.pt"}, "weights/none.pt does not exist"),
        ({"model": "nothing"}, "nothing does not exist"),
    ],
)  # fmt: skip
def test_wrong_wishes_are_refused_before_anything_is_done(
    wrong: dict[str, object], text: str, scenes: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OnchipError) as error:
        fit.fit(Training(**({"data": scenes} | wrong)))  # type: ignore[arg-type]
    assert text in str(error.value)
    assert error.value.hint or "device" in wrong
    assert not (tmp_path / "runs").exists()


def test_a_data_set_that_will_not_do(tmp_path: Path, scenes: Path) -> None:
    def why(path: Path) -> str:
        with pytest.raises(InputError) as error:
            fit.fit(Training(data=path, model="yolov8n.yaml", project=tmp_path / "runs"))
        return str(error.value)

    assert "does not exist" in why(tmp_path / "none.yaml") or "cannot read" in why(
        tmp_path / "none.yaml"
    )
    assert "has no data.yaml" in why(tmp_path)
    notes = yaml.safe_load(scenes.read_text()) | {"path": str(scenes.parent)}
    only = tmp_path / "only.yaml"
    only.write_text(yaml.safe_dump({k: v for k, v in notes.items() if k != "train"}))
    assert why(only) == f"{only} names no train images"
    only.write_text(yaml.safe_dump(notes | {"val": "images/none"}))
    assert "names images/none, which does not exist" in why(only)
    assert not (tmp_path / "runs").exists()


def test_settings_are_read_as_yaml() -> None:
    found = cli_train._settings(["lr0=1e-3", "cache=ram", "cos_lr=true", "scale=[0.1, 0.9]", "n=3"])
    assert found == {"lr0": 0.001, "cache": "ram", "cos_lr": True, "scale": [0.1, 0.9], "n": 3}
    for wrong in ("lr0", "=3", "a=[1"):
        with pytest.raises(InputError, match="--set"):
            cli_train._settings([wrong])


@pytest.mark.parametrize("package", ["ultralytics", "torch"])
def test_without_ultralytics_there_is_one_clear_line(
    package: str, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = {"ultralytics": "8.4.190", "torch": "2.13.0"}

    def version(name: str) -> str:
        if name == package:
            raise importlib.metadata.PackageNotFoundError(name)
        return here[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    wanted = Training(data=scenes, model="yolov8n.yaml", project=tmp_path)
    with pytest.raises(ToolError, match="which is not installed") as error:
        fit.fit(wanted)
    assert error.value.hint == "install it: pip install 'onchip[train]'"
    assert not wanted.folder.exists()


def test_an_old_ultralytics_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "8.3.9")
    with pytest.raises(ToolError, match=r"8\.3\.9 is too old; 8\.4\.190 or newer"):
        process.check_installed()


def test_weights_that_were_fetched_before_are_found(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "home" / "onchip" / "weights" / "yolov8n.pt"
    kept.parent.mkdir(parents=True)
    made(kept)
    monkeypatch.chdir(tmp_path)
    found = fit._weights(Training(data=scenes), resume=False)
    assert {name: c.path for name, c in found.items()} == {"weights.pt": kept}
    made(tmp_path / "yolov8n.pt")  # a file of the user's own comes first, and is asked for
    with pytest.raises(checkpoint.Untrusted):
        fit._weights(Training(data=scenes), resume=False)


def test_the_command_that_goes_on(tmp_path: Path) -> None:
    wanted = Training(data=Path("my set/data.yaml"), name="garden")
    assert cli_train._again(wanted) == "onchip train 'my set/data.yaml' --name garden --resume"
    other = Training(data=Path("d.yaml"), project=Path("elsewhere"))
    assert cli_train._again(other).endswith("--name train --resume --project elsewhere")


@pytest.mark.parametrize("verb", ["train", "export"])
def test_the_page_lists_every_option(verb: str) -> None:
    text = (Path(__file__).parents[1] / "docs" / "train.md").read_text()
    part = text.partition("## Export")[0 if verb == "train" else 2]
    command = getattr(cli_train, f"{verb}_verb")
    for option in command.params:
        names = [n for n in option.opts if n.startswith("-")]
        everywhere = {"--json", "--threads", "--photos", "--output"} & set(names)
        assert not names or everywhere or any(f"`{n}" in part for n in names), names


# ---- what a run leaves ---------------------------------------------------------------------------

RESULTS = """                  epoch,      time,metrics/precision(B),metrics/recall(B),metrics/mAP50(B),metrics/mAP50-95(B)
1,2.5,0.1,0.2,0.30,0.1
2,4.5,0.1,0.2,nan,0.2
"""
MEASURES = Measures(
    epochs=31, planned=200, map50=0.9431, map50_95=0.7826, precision=0.951, recall=0.902,
    seconds=322.4, images=200, val_images=50,
)  # fmt: skip


def test_results_read(tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text(RESULTS)
    first, second = runs.results(tmp_path / "results.csv")
    assert (first.number, first.seconds, first.map50, first.map50_95) == (1, 2.5, 0.3, 0.1)
    assert second.number == 2
    assert np.isnan(second.map50)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=300), st.integers(0, len(RESULTS)).map(lambda n: RESULTS[:n].encode())))  # fmt: skip
def test_any_results_read_or_are_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("results") / "results.csv"
    path.write_bytes(data)
    try:
        found = runs.results(path)
    except InputError:
        return
    assert all(isinstance(r.number, int) for r in found)


def record(folder: Path, measures: Measures | None) -> None:
    runs.write_record(
        folder,
        Record(onchip="0.1.0", data="d.yaml", labels=("a",), settings={}, measures=measures),
    )


def test_how_far_a_run_is(tmp_path: Path) -> None:
    assert runs.state(tmp_path / "none") == "none"
    record(tmp_path, None)
    assert runs.state(tmp_path) == "none"
    (tmp_path / "weights").mkdir()
    made(tmp_path / "weights" / "last.pt")
    assert runs.state(tmp_path) == "begun"
    record(tmp_path, MEASURES)
    assert runs.state(tmp_path) == "finished"
    (tmp_path / "onchip.json").write_bytes(b"\xff{")
    assert runs.state(tmp_path) == "begun"


def test_what_is_there_is_never_written_over(scenes: Path, tmp_path: Path) -> None:
    wanted = Training(data=scenes, model="yolov8n.yaml", project=tmp_path)

    def why() -> tuple[str, str]:
        with pytest.raises(InputError) as error:
            fit.fit(wanted)
        return str(error.value), error.value.hint

    wanted.folder.mkdir()
    (wanted.folder / "holiday.jpg").write_bytes(b"photo")
    assert why()[0] == f"{wanted.folder} exists and is no training of onchip's"
    (wanted.folder / "weights").mkdir()
    made(wanted.folder / "weights" / "last.pt")
    assert why() == (
        f"{wanted.folder} holds a training that was cut off",
        "go on with it: --resume, or choose another name: --name NAME",
    )
    record(wanted.folder, MEASURES)
    assert why()[0] == f"{wanted.folder} holds a finished training"
    assert (wanted.folder / "holiday.jpg").read_bytes() == b"photo"


def test_a_finished_run_is_told_again(scenes: Path, tmp_path: Path) -> None:
    wanted = Training(data=scenes, project=tmp_path, resume=True)
    record(wanted.folder, MEASURES)
    assert fit.fit(wanted) == Trained(wanted.folder, MEASURES)


def test_a_run_of_others_is_resumed_only_with_trust(scenes: Path, tmp_path: Path) -> None:
    wanted = Training(data=scenes, project=tmp_path, resume=True)
    (wanted.folder / "weights").mkdir(parents=True)
    made(wanted.folder / "weights" / "last.pt")
    with pytest.raises(checkpoint.Untrusted, match=r"last\.pt is a pickle"):
        fit.fit(wanted)
    (wanted.folder / "weights" / "last.pt").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(InputError, match=r"last\.pt is damaged"):
        fit.fit(wanted)


def test_what_a_training_says(tmp_path: Path) -> None:
    folder = Path("runs/detect/garden")
    assert report.training(Trained(folder, MEASURES)) == (
        "runs/detect/garden/weights/best.pt: mAP50 0.943, mAP50-95 0.783, precision 0.951, "
        "recall 0.902\n"
        "  31 of 200 epochs (no better one came), 322 s; runs/detect/garden/results.csv and curves "
        "beside it\n"
        "next: onchip export runs/detect/garden/weights/best.pt"
    )
    data = report.training_data(Trained(folder, MEASURES))
    assert data["best"] == "runs/detect/garden/weights/best.pt"
    assert data["stopped"] is True


# ---- the data set as the trainer sees it ---------------------------------------------------------


@pytest.fixture
def odd_set(tmp_path: Path) -> Path:
    """Two folders with photos of the same names; spaces, emoji, polygons, an empty label file."""
    folder = tmp_path / "odd set 🦔"
    random = np.random.default_rng(0)
    for part in ("one", "two"):
        for number in range(4):
            image = folder / part / "images" / f"photo {number} 🦔.JPG"
            image.parent.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 255, (60, 80, 3), np.uint8)
            image.write_bytes(cv2.imencode(".jpg", pixels)[1].tobytes())
            label = yolo.place(image)
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text("" if number == 0 else "1 0.5 0.5 0.25 0.25\n0 .1 .1 .4 .1 .4 .6\n")
    (folder / "two" / "images" / f"{'long' * 60}.png").write_bytes(
        cv2.imencode(".png", random.integers(0, 255, (40, 40, 3), np.uint8))[1].tobytes()
    )
    notes = {"train": ["one/images", "two/images"], "val": "one/images", "names": ["cat", "dög"]}
    (folder / "data.yaml").write_text(yaml.safe_dump(notes))
    return folder / "data.yaml"


def test_the_trainer_sees_what_onchip_reads(odd_set: Path, tmp_path: Path) -> None:
    before = {p: p.read_bytes() for p in odd_set.parent.rglob("*") if p.is_file()}
    path, parts = fit._parts(odd_set.parent)
    assert path == odd_set
    staged = fit._staged(parts, tmp_path / "staged", lambda what, done, total: None)
    for part in ("train", "val"):
        own, theirs = parts[part], samples.load(staged, part)
        assert theirs.labels == own.labels == ("cat", "dög")
        assert len(theirs.samples) == len(own.samples) == {"train": 9, "val": 4}[part]
        for a, b in zip(own.samples, theirs.samples, strict=True):
            assert b.path.resolve() == a.path.resolve()
            assert b.classes == a.classes
            np.testing.assert_allclose(b.boxes, a.boxes, atol=1e-6)
    assert {p: p.read_bytes() for p in odd_set.parent.rglob("*") if p.is_file()} == before


# ---- training itself -----------------------------------------------------------------------------


def trap(path: Path, mark: Path) -> None:
    """Leave what Ultralytics would take for its own list of labels, and unpickle."""

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str, ...]]:
            return os.system, (f"touch '{mark}'",)

    np.save(path.with_suffix(".npy"), np.asarray({"labels": Trap()}), allow_pickle=True)
    path.with_suffix(".npy").rename(path)


@pytest.fixture(scope="module")
def trained(ultralytics: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a little data set and a finished training, and what it said on stderr.

    One photo has bytes after its end, for which Ultralytics would write it anew, and one list of labels is a trap.
    """
    folder = tmp_path_factory.mktemp("work 🦔")
    write(folder / "set", 16, 500_000, "train")
    write(folder / "set", 8, 510_000, "val")
    (folder / "set" / "labels" / "val" / "510003.txt").write_text("")
    photo = min((folder / "set" / "images" / "train").iterdir())
    photo.write_bytes(photo.read_bytes() + bytes(2))
    trap(folder / "set" / "labels" / "train.cache", folder / "trapped")
    before = {p: p.read_bytes() for p in (folder / "set").rglob("*") if p.is_file()}
    with pytest.MonkeyPatch.context() as patch:
        at_home(patch, folder)
        done = Cli(folder)(
            "train", "set/data.yaml", *QUICK, "--epochs", 3, "--name", "a.b", "--json"
        )
    assert {p: p.read_bytes() for p in (folder / "set").rglob("*") if p.is_file()} == before
    (folder / "said.json").write_text(done.stdout)
    return folder, done.stderr


@pytest.mark.train
def test_a_training_leaves_what_people_know(trained: tuple[Path, str]) -> None:
    folder, errors = trained
    run = folder / "runs" / "detect" / "a.b"
    said = json.loads((folder / "said.json").read_text())
    assert set(said) == {
        *("folder", "best", "last", "epochs", "stopped", "map50", "map50_95", "precision"),
        *("recall", "seconds", "images", "val_images", "left_out"),
    }
    assert (said["epochs"], said["images"], said["val_images"], said["left_out"]) == (3, 16, 8, 0)
    assert said["best"] == "runs/detect/a.b/weights/best.pt"
    for name in ("weights/best.pt", "weights/last.pt", "results.png", "confusion_matrix.png",
                 "BoxPR_curve.png", "args.yaml", "train.log", "onchip.json"):  # fmt: skip
        assert (run / name).stat().st_size > 100, name
    assert [r.number for r in runs.results(run / "results.csv")] == [1, 2, 3]
    warned, *epochs = errors.splitlines()
    assert warned.startswith("the data set has ")  # scenes are small at 64 pixels
    assert [line.split()[:2] for line in epochs] == [["epoch", f"{n}/3"] for n in (1, 2, 3)]
    assert not (folder / "trapped").exists()
    assert not (folder / "home" / "Ultralytics").exists()
    assert [p.name for p in (folder / "home" / "onchip").iterdir()] == ["trained"]
    assert not list((folder / "set").rglob("*.part"))


@pytest.mark.train
def test_a_run_is_not_trained_twice(
    trained: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = trained
    at_home(monkeypatch, folder)
    cli = Cli(folder)
    assert "holds a finished training" in cli("train", "set", "--name", "a.b", code=2).stderr
    again = cli("train", "set", "--name", "a.b", "--resume", "--json").stdout
    assert json.loads(again) == json.loads((folder / "said.json").read_text())


@pytest.mark.train
def test_one_that_was_cut_off_after_its_last_epoch_is_measured(
    trained: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = trained
    at_home(monkeypatch, folder)
    run = folder / "runs" / "detect" / "late"
    shutil.copytree(folder / "runs" / "detect" / "a.b", run)
    record = runs.read_record(run)
    assert record is not None and record.measures is not None
    runs.write_record(run, replace(record, measures=None))
    said = json.loads(Cli(folder)("train", "set", "--name", "late", "--resume", "--json").stdout)
    assert said["epochs"] == 3
    for name in ("map50", "map50_95", "precision", "recall"):
        assert said[name] == pytest.approx(getattr(record.measures, name), abs=1e-3)


@pytest.mark.train
@pytest.mark.parametrize(
    ("more", "text"),
    [
        (("--model", "yolov99.yaml"), "Ultralytics has no network yolov99.yaml"),
        (("--model", "yolov9t.yaml", "--width", "0.5"), "yolov9t.yaml comes in one size"),
        (("--model", "yolov8n.yaml", "--set", "lrO=1"), "Ultralytics has no setting 'lrO'"),
        (("--model", "yolov8n.yaml", "--set", "lr0=abc"), "'lr0=abc' is of invalid type str"),
        (("--model", "yolov8n.pt"), "yolov8n.pt is not here"),
    ],
)  # fmt: skip
def test_what_only_ultralytics_knows_to_be_wrong(
    more: tuple[str, ...], text: str, scenes: Path, cli: Cli, ultralytics: None
) -> None:
    done = cli("train", scenes, *more, code=2)
    assert text in done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert not (cli.folder / "runs").exists()


class UnderWay:
    """A training of many epochs that is under way, in a process of its own."""

    def __init__(self, folder: Path, scenes: Path, *more: str) -> None:
        command = [sys.executable, "-m", "onchip", "train", str(scenes), *QUICK, "--set",
                   "plots=false", "--epochs", "60", *more]  # fmt: skip
        self.run = folder / "runs" / "detect" / "train"
        self.process = subprocess.Popen(
            command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def wait_for_epochs(self, count: int) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith(f"epoch {count}/"):
                return
        raise AssertionError("it ended before")

    def workers(self) -> list["psutil.Process"]:
        import psutil

        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=120)
        return self.process.returncode, errors


def gone(workers: list["psutil.Process"]) -> bool:
    import psutil

    _, alive = psutil.wait_procs(workers, timeout=10)
    return not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.train
def test_ctrl_c_ends_it_and_resume_goes_on(scenes: Path, tmp_path: Path, ultralytics: None) -> None:
    training = UnderWay(tmp_path, scenes)
    training.wait_for_epochs(2)
    workers = training.workers()
    assert workers
    training.process.send_signal(signal.SIGINT)
    code, errors = training.end()
    assert code == 130
    assert f"to go on: onchip train {scenes} --name train --resume" in errors
    assert gone(workers)
    assert sorted(p.name for p in (training.run / "weights").iterdir()) == ["best.pt", "last.pt"]
    assert checkpoint.look(training.run / "weights" / "last.pt").ours
    before = len(runs.results(training.run / "results.csv"))
    # the settings are those that it began with
    record = runs.read_record(training.run)
    assert record is not None and record.settings["epochs"] == 60
    text = Cli(tmp_path)("train", scenes, code=2).stderr
    assert "holds a training that was cut off" in text and "--resume" in text
    again = UnderWay(tmp_path, scenes, "--resume")
    again.wait_for_epochs(before + 2)
    again.process.send_signal(signal.SIGINT)
    assert again.end()[0] == 130
    numbers = [r.number for r in runs.results(training.run / "results.csv")]
    assert numbers[: before + 2] == list(range(1, before + 3))


@pytest.mark.train
def test_training_begins_with_weights(
    trained: tuple[Path, str], cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = trained
    weights = folder / "runs" / "detect" / "a.b" / "weights" / "best.pt"
    given = ("--model", weights, *QUICK[4:], "--epochs", 1, "--set", "plots=false")
    assert "best.pt is a pickle" in cli("train", folder / "set", *given, code=2).stderr
    assert not (cli.folder / "runs").exists()
    at_home(monkeypatch, folder)  # where it was trained there is no question
    cli("train", folder / "set", *given)
    log = (cli.folder / "runs" / "detect" / "train" / "train.log").read_text()
    assert "Transferred 355/355 items from pretrained weights" in log


@pytest.mark.train
def test_fused_weights_do_not_train(scenes: Path, data: Path, cli: Cli, ultralytics: None) -> None:
    done = cli("train", scenes, "--model", data / "models" / "yolov8n.pt", "--trust", code=2)
    assert "the weights were fused for inference" in done.stderr
    assert not (cli.folder / "runs").exists()


@pytest.mark.train
def test_a_killed_trainer_is_one_line_and_a_log(
    scenes: Path, tmp_path: Path, ultralytics: None
) -> None:
    training = UnderWay(tmp_path, scenes)
    training.wait_for_epochs(1)
    workers = training.workers()
    os.kill(workers[0].pid, signal.SIGKILL)
    code, errors = training.end()
    assert code == 4
    lines = [x for x in errors.splitlines() if not x.startswith("epoch")]
    assert lines[0].startswith("error: Ultralytics failed in train: it was killed")
    assert "the epochs that were done are not lost: --resume" in lines[1]
    assert "its log: runs/detect/train/train.log" in lines[1]
    assert "Starting training for 60 epochs" in (training.run / "train.log").read_text()
    assert gone(workers)


@pytest.mark.train
def test_the_trainer_ends_with_onchip(scenes: Path, tmp_path: Path, ultralytics: None) -> None:
    training = UnderWay(tmp_path, scenes)
    training.wait_for_epochs(1)
    workers = training.workers()
    training.process.kill()
    training.end()
    assert gone(workers)
    # nobody was left to note the weights as onchip's own
    text = Cli(tmp_path)("train", scenes, "--resume", code=2).stderr
    assert "last.pt is a pickle" in text and "--trust" in text


@pytest.mark.train
def test_a_full_disk_is_one_line(scenes: Path, tmp_path: Path, ultralytics: None) -> None:
    run = tmp_path / "runs" / "detect" / "train"
    record(run, None)
    (run / "weights").mkdir()
    (run / "weights" / "last.part").symlink_to("/dev/full")
    done = Cli(tmp_path)("train", scenes, *QUICK, "--epochs", 2, code=4)
    lines = [x for x in done.stderr.splitlines() if not x.startswith(("epoch", "the data set"))]
    assert len(lines) == 2 and "No space left on device" in lines[0]
    assert "make room there" in lines[1] and "train.log" in lines[1]
    assert not list((run / "weights").iterdir())


@pytest.mark.train
def test_a_loss_that_is_no_number_is_one_line(
    scenes: Path, tmp_path: Path, ultralytics: None
) -> None:
    done = Cli(tmp_path)("train", scenes, *QUICK, "--set", "box=1e38", code=4)
    assert "the loss became NaN in the first epoch" in done.stderr
    assert "learn more slowly" in done.stderr
    assert runs.state(tmp_path / "runs" / "detect" / "train") == "none"
