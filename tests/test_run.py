"""Project files, and what a run remembers; the whole way itself is in test_run_whole.py."""

import html
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from importlib.resources import as_file, files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onchip.artifact import load
from onchip.dataset import folders
from onchip.demo.scenes import LABELS, write
from onchip.errors import InputError
from onchip.run.ledger import Ledger, Step, digest_of
from onchip.run.page import read_results
from onchip.run.project import fitting, parse, read, template
from onchip.run.stages import run
from onchip.train.checkpoint import Untrusted
from onchip.train.runs import Measures, Record, write_record
from onchip.writing import alone

from checkpoints import at_home, checkpoint
from conftest import Cli

PLACE = Path("onchip.toml")


@given(
    st.text(min_size=1, max_size=40),
    st.text(max_size=30),
    st.lists(st.sampled_from(["cpu", "hailo8l"]), min_size=1, unique=True),
)
def test_what_init_writes_reads_back(name: str, data: str, chips: list[str]) -> None:
    made = parse(template(fitting(name), Path(data), tuple(chips)), PLACE)
    assert made.name == fitting(name)
    assert made.data == Path(data).as_posix()
    assert made.build.targets == tuple(chips)
    assert made.train.epochs == 200 and made.train.patience == 15 and made.train.imgsz == 640


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ('name = "x"', "missing required field `data`", ""),
        (
            'name = "x"\ndata = "d"\nfoo = 1',
            "onchip.toml has no setting 'foo'",
            "allowed are name, data",
        ),
        (
            'name = "x"\ndata = "d"\n[train]\nepoch = 3',
            "[train] has no setting 'epoch'",
            "did you mean epochs?",
        ),
        (
            'name = "x"\ndata = "d"\n[train]\nepochs = "3"',
            "train.epochs: expected `int`, got `str`",
            "",
        ),
        ('name = "x"\ndata = "d"\n[train]\nepochs = 0', "whole numbers from 1", ""),
        (
            'name = "x"\ndata = "d"\n[split]\nval = 0.6\ntest = 0.4',
            "something must be left to train on",
            "",
        ),
        (
            'name = "x"\ndata = "d"\n[build]\ntargets = ["rk"]',
            "no target called 'rk'",
            "allowed are cpu",
        ),
        ('name = "x"\ndata = "d"\n[build]\ntargets = []', "names no chip", ""),
        ('name = "x"\ndata = "d"\n[split]\nseed = -1', "seed is a whole number", ""),
        ('name = "x"\ndata = "d"\n[train]\nmodel = ""', "model names a .pt", ""),
        ('name = "x"\ndata = "d"\n[train]\nwidth = nan', "width is a number", ""),
        ('name = "x"\ndata = "d"\n[export]\nimgsz = -32', "imgsz is a number of pixels", ""),
        ('name = "x"\ndata = "d"\n[build]\nauto_precision = nan', "a number of points", ""),
        ('name = "x"\ndata = "d"\n[verify]\nimages = -1', "a number of photos", ""),
        ('name = "x"\ndata = "d"\n[verify]\nmax_drop = nan', "a number of points", ""),
        ('name = "x"\ndata = "d"\n[build]\ntargets = ["cpu", "cpu"]', "names a chip twice", ""),
        ('name = "x"\ndata = "d"\n[check]\nallow = ["leek"]', "is no finding", "near are leak"),
        ('name = "../x"\ndata = "d"', "name: allowed are letters", ""),
        ('name = "x"\ndata = "d"\ntrain = 3', "train: expected `object`", ""),
        ('name = "x"\ndata = "d"\ntrust = true', "no setting 'trust'", ""),  # who wrote the file?
        ("[", "not a TOML file", "onchip init"),
    ],
)
def test_a_wrong_project_is_one_clear_line(text: str, said: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(text, PLACE)
    assert said in str(caught.value)
    assert hint in caught.value.hint
    assert "\n" not in str(caught.value)


def test_paths_are_as_from_the_project_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/p.toml").write_text('name = "x"\ndata = "photos"\nmodel = "/m/best.onnx"')
    monkeypatch.chdir(tmp_path)
    found = read(Path("a/p.toml"))
    assert (found.data, found.out, found.model) == (
        str(tmp_path / "a/photos"), str(tmp_path / "a/runs"), "/m/best.onnx",
    )  # fmt: skip
    assert found.train.model == "yolov8n.pt"  # no such file: a name that Ultralytics knows
    (tmp_path / "a/yolov8n.pt").write_bytes(b"")
    assert read(Path("a/p.toml")).train.model == str(tmp_path / "a/yolov8n.pt")
    with pytest.raises(InputError, match="cannot read"):
        read(Path("none.toml"))


class Work:
    """Writes a file, and counts how often."""

    def __init__(self, path: Path) -> None:
        self.path, self.count = path, 0

    def __call__(self) -> dict[str, int]:
        self.count += 1
        self.path.write_text("made")
        return {"times": self.count}


def test_a_step_is_done_again_only_when_something_changed(tmp_path: Path) -> None:
    source, made = tmp_path / "in", tmp_path / "out"
    source.write_text("1")
    work, told = Work(made), list[Step]()

    def once(setting: int = 1) -> bool:
        book = Ledger.open(tmp_path / "state", told.append)
        book.step("a", [source, setting], "onchip a", [made], work)
        return told[-1].skipped

    assert [once(), once(), once(2), once(2)] == [False, True, False, True]
    source.write_text("2")  # what went in
    assert [once(2), once(2)] == [False, True]
    made.write_text("spoilt")  # what came out
    assert [once(2), once(2)] == [False, True]
    made.unlink()
    assert once(2) is False
    assert told[-1].said == {"times": work.count}
    (tmp_path / "state/state.json").write_text('{"a": 3}')
    assert once(2) is False


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xfe",
        b'{"a\xff": {"key": "", "seconds": 1, "when": "", "onchip": ""}}',
        b"",
        b"[" * 100_000,
    ],
)
def test_a_damaged_state_is_begun_anew(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_bytes(data)
    assert Ledger.open(tmp_path, lambda step: None).records == {}


def test_a_step_that_left_nothing_is_not_done(tmp_path: Path) -> None:
    told = list[Step]()
    for _ in range(2):
        book = Ledger.open(tmp_path, told.append)
        book.step("a", [1], "", [tmp_path / "none"], lambda: {"x": 1})
    assert not told[-1].skipped


def test_two_runs_of_a_project_do_not_mix(tmp_path: Path) -> None:
    with alone(tmp_path / "a"):
        with pytest.raises(InputError, match="another onchip is at work"), alone(tmp_path / "a"):
            pass
        with alone(tmp_path / "b"):
            pass
    with alone(tmp_path / "a"):
        assert list((tmp_path / "a").iterdir()) == []


def test_a_step_that_fails_is_not_done(tmp_path: Path) -> None:
    def fail() -> dict[str, int]:
        raise InputError("no")

    book = Ledger.open(tmp_path, lambda step: None)
    book.step("a", [1], "", [], lambda: {"x": 1})
    with pytest.raises(InputError):
        book.step("a", [2], "", [], fail)
    assert "a" not in Ledger.open(tmp_path, lambda step: None).records


def test_a_long_step_is_known_to_be_begun(tmp_path: Path) -> None:
    def begin(made_of: int, run: str) -> object:
        return Ledger.open(tmp_path, lambda step: None).begin("train", [made_of], {"run": run})[
            "run"
        ]

    assert [begin(1, "a"), begin(1, "b"), begin(2, "b"), begin(1, "c")] == ["a", "a", "b", "c"]


def test_a_digest_is_of_content_and_order(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("x")
    two.write_text("x")
    assert digest_of([one, 1]) == digest_of([two, 1]) != digest_of([1, one])
    assert digest_of([{"a": 1, "b": 2}]) == digest_of([{"b": 2, "a": 1}])
    assert digest_of([tmp_path / "none"]) != digest_of([one])


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="it is no file"):
        digest_of([tmp_path / "pipe"])


def test_a_table_of_epochs_is_read_as_far_as_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text("  epoch, metrics/mAP50(B)\n1, 0.5\n2, nan\n3, broken\n4")
    found = read_results(path)
    assert found["epoch"] == [1, 2, 3]
    assert found["metrics/mAP50(B)"][0] == 0.5
    assert all(map(math.isnan, found["metrics/mAP50(B)"][1:]))
    assert read_results(tmp_path / "none.csv") == {}
    path.write_bytes(b"\x00\xff" * 50)
    assert isinstance(read_results(path), dict)


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """A data set of the project's own scenes that is not split, and the detector that knows them."""
    write(tmp_path / "scenes", 30, 810_000, "all")
    names = "".join(f"  {i}: {name}\n" for i, name in enumerate(LABELS))
    (tmp_path / "scenes/data.yaml").write_text(f"train: images/all\nnames:\n{names}")
    with as_file(files("onchip.demo") / "detector.onnx") as bundled:
        (tmp_path / "detector.onnx").write_bytes(bundled.read_bytes())
    return tmp_path


def settle(folder: Path, **settings: str) -> None:
    """Change settings of the project file."""
    path = folder / "onchip.toml"
    text = path.read_text()
    for name, value in settings.items():
        text, count = re.subn(rf"^{name} = [^#\n]*", f"{name} = {value} ", text, flags=re.M)
        assert count == 1, name
    path.write_text(text)


def test_the_whole_way_of_a_model_that_is_trained(scenes: Path, cli: Cli) -> None:
    said = cli("init", "-t", "cpu,hailo8l", "--model", "detector.onnx").stdout
    assert (
        said == "onchip.toml: 30 images, 5 classes\nlook through it, then: onchip run onchip.toml\n"
    )
    assert "exists already" in cli("init", code=2).stderr
    settle(scenes, max_drop="5.0", images="20")
    first = json.loads(cli("run", "--json").stdout)
    names = [
        "check",
        "split",
        "calibrate",
        "build cpu",
        "verify cpu",
        "build hailo8l",
        "verify hailo8l",
    ]
    assert [s["name"] for s in first["steps"]] == names
    assert not any(s["skipped"] for s in first["steps"])
    assert [b["verdict"] for b in first["builds"]] == ["passed", "plan only"]
    assert first["state"] == "plan only"
    again = json.loads(cli("run", "--json").stdout)
    assert all(s["skipped"] for s in again["steps"])
    assert again["builds"] == first["builds"]
    page = Path(first["report"]).read_text()
    assert page.count("<figure>") >= 2 * 3 + 2 * 2
    assert "http" not in page.replace("http://www.w3.org", "")
    for step in first["steps"]:
        assert html.escape(step["command"]) in page

    # another gate asks for another proof, and nothing else
    settle(scenes, max_drop="4.0")
    third = json.loads(cli("run", "--json").stdout)
    assert [s["name"] for s in third["steps"] if not s["skipped"]] == [
        "verify cpu",
        "verify hailo8l",
    ]
    # a label that changes changes the data set
    label = next((scenes / "scenes/labels/all").iterdir())
    label.write_text("".join(label.read_text().splitlines(keepends=True)[:-1]))
    fourth = json.loads(cli("run", "--json").stdout)
    assert {"check", "split", "verify cpu"} <= {
        s["name"] for s in fourth["steps"] if not s["skipped"]
    }


def test_what_is_run_by_hand_is_the_same(scenes: Path, cli: Cli) -> None:
    for kind in ("images", "labels"):  # a photo twice: fewer are calibrated on than are wanted
        path = sorted((scenes / f"scenes/{kind}/all").iterdir())[0]
        shutil.copy(path, path.with_name(f"copy{path.suffix}"))
    cli("init", "--model", "detector.onnx")
    settle(scenes, max_drop="9.0", images="0")
    done = json.loads(cli("run", "--json").stdout)
    made = scenes / "runs/onchip/scenes/scenes.cpu.onchip"
    proof = done["builds"][0]["proof"]
    for step in done["steps"]:
        words = shlex.split(step["command"])[1:]
        last = cli(*words, "--json")
    by_hand = json.loads(last.stdout)
    assert by_hand["stages"] == proof["stages"]
    assert load(made).manifest.source == "detector.onnx"


def test_errors_of_the_data_set_stop_the_run(scenes: Path, cli: Cli) -> None:
    cli("init", "--model", "detector.onnx")
    settle(scenes, images="12", max_drop="9.0")
    image = sorted((scenes / "scenes/images/all").iterdir())[3]
    image.write_bytes(b"")
    done = cli("run", code=2)
    assert "the data set has errors: 1 empty-file" in done.stderr
    assert "[check] allow" in done.stderr
    assert (scenes / "runs/onchip/scenes/check.html").is_file()
    settle(scenes, allow='["empty-file"]')
    image.unlink()
    (scenes / "scenes/labels/all" / image.with_suffix(".txt").name).unlink()
    cli("run")


def test_a_target_that_cannot_be_built_does_not_keep_others_from_it(scenes: Path, cli: Cli) -> None:
    cli("init", "-t", "hailo8l,cpu", "--model", "detector.onnx")
    text = (scenes / "onchip.toml").read_text()
    (scenes / "onchip.toml").write_text(
        text.replace("[verify]", 'options = { hailo8l = { level = "wrong" } }\n[verify]')
    )
    settle(scenes, images="12", max_drop="9.0")
    done = json.loads(cli("run", "--json", code=2).stdout)
    assert [b["verdict"] for b in done["builds"]] == ["not built", "passed"]
    assert "level=wrong is not" in done["builds"][0]["error"]["message"]
    assert "level=wrong is not" in Path(done["report"]).read_text()


def test_a_data_set_that_moved_is_found_again(scenes: Path, cli: Cli) -> None:
    cli("init", "--model", "detector.onnx")
    settle(scenes, max_drop="9.0", images="12")
    cli("run")
    (scenes / "scenes").rename(scenes / "elsewhere")
    settle(scenes, data='"elsewhere/data.yaml"')
    done = json.loads(cli("run", "--json").stdout)
    assert {s["name"] for s in done["steps"] if s["skipped"]} >= {"check"}
    assert done["state"] == "passed"


def test_what_a_check_depends_on(scenes: Path, cli: Cli) -> None:
    cli("init", "--model", "detector.onnx")
    settle(scenes, max_drop="9.0", images="12")
    cli("run")
    settle(scenes, imgsz="320")  # what is small is small there
    table = json.loads(cli("run", "--json").stdout)
    steps = {s["name"]: s["skipped"] for s in table["steps"]}
    assert not steps["check"] and steps["verify cpu"]
    assert "--imgsz 320" in table["steps"][0]["command"]
    with (scenes / "scenes/data.yaml").open("a") as file:
        file.write("nc: 9\n")
    assert "1 class-count" in cli("run", code=2).stderr


def test_a_part_that_is_not_there_is_not_proven_on(scenes: Path, cli: Cli) -> None:
    cli("init", "--model", "detector.onnx")
    settle(scenes, split='"test"')
    said = cli("run", code=2).stderr
    assert "names no test images" in said and "allowed are train, val" in said
    assert not list(scenes.rglob("*.onchip"))


def test_a_model_that_is_gone_is_told_before_anything_is_done(scenes: Path, cli: Cli) -> None:
    cli("init", "--model", "detector.onnx", "-o", "my own.toml")
    (scenes / "detector.onnx").unlink()
    assert "detector.onnx does not exist" in cli("run", "my own.toml", code=2).stderr
    assert not (scenes / "runs").exists()


def test_a_folder_whose_name_is_no_text_is_refused(scenes: Path, cli: Cli) -> None:
    place = scenes / os.fsdecode(b"a\xff")
    place.mkdir()
    (place / "p.toml").write_text('name = "x"\ndata = "."\n')
    with pytest.raises(InputError, match="no text"):
        read(place / "p.toml")


def test_photos_kept_to_measure_on_are_not_dealt(scenes: Path, cli: Cli) -> None:
    cli("init", "--model", "detector.onnx")
    text = (scenes / "scenes/data.yaml").read_text()
    (scenes / "scenes/data.yaml").write_text(f"{text}test: images/all\n")
    settle(scenes, allow='["leak"]')
    assert "no val images" in cli("run", code=2).stderr


def test_weights_of_others_are_not_loaded_for_standing_where_a_training_does(
    scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A project from elsewhere may hold a training that says of itself that it is finished."""
    at_home(monkeypatch, scenes)
    (scenes / "onchip.toml").write_text('name = "x"\ndata = "scenes"\n')
    run_folder = scenes / "runs/detect/x"
    (run_folder / "weights").mkdir(parents=True)

    def begun(self: Ledger, name: str, made_of: object, said: object) -> dict[str, str]:
        checkpoint(run_folder / "weights/best.pt")
        (run_folder / "results.csv").write_text("epoch\n")
        measures = Measures(
            epochs=1, planned=1, map50=1, map50_95=1, precision=1, recall=1, seconds=1, images=1,
            val_images=1,
        )  # fmt: skip
        write_record(
            run_folder,
            Record(onchip="1", data="", labels=("a",), settings={}, measures=measures),
        )
        return {"run": "x"}

    monkeypatch.setattr(Ledger, "begin", begun)
    with pytest.raises(Untrusted):
        run(
            read(scenes / "onchip.toml"),
            trust=False,
            tell=lambda step: None,
            epoch=lambda epoch, planned: None,
            progress=lambda what, done, total: None,
        )


def test_a_training_leaves_no_photos(scenes: Path) -> None:
    before = folders.find(scenes / "scenes/images").images
    made = scenes / "scenes/images/runs/detect/x"
    made.mkdir(parents=True)
    shutil.copy(before[0], made / "train_batch0.jpg")
    (made / "args.yaml").write_text("task: detect\n")
    assert folders.find(scenes / "scenes/images").images == before


def test_init_says_paths_as_from_its_file(scenes: Path, cli: Cli) -> None:
    (scenes / "a").mkdir()
    cli("init", "scenes", "--model", "detector.onnx", "-o", "a/p.toml")
    found = read(scenes / "a/p.toml")
    assert Path(found.model) == scenes / "detector.onnx" and Path(found.data).exists()
    assert "onchip run p.toml" in (scenes / "a/p.toml").read_text()
    said = cli("init", "scenes", "--model", "none.onnx", "-o", "q.toml", code=2).stderr
    assert "none.onnx does not exist" in said


def test_photos_without_labels_prove_a_build_too(scenes: Path, cli: Cli) -> None:
    shutil.move(scenes / "scenes/images/all", scenes / "plain")
    cli("init", "plain", "--model", "detector.onnx")
    settle(scenes, images="12")
    done = json.loads(cli("run", "--json").stdout)
    assert [s["name"] for s in done["steps"]] == ["check", "calibrate", "build cpu", "verify cpu"]
    proof = done["builds"][0]["proof"]
    assert proof["images"] == 30
    assert proof["stages"][0]["map50_95"] is None


def test_interrupting_a_run_keeps_what_is_done(scenes: Path, cli: Cli) -> None:
    cli("init", "--model", "detector.onnx")
    settle(scenes, images="12", max_drop="9.0")
    command = [sys.executable, "-m", "onchip", "run"]
    process = subprocess.Popen(
        command, cwd=scenes, stdout=subprocess.PIPE, text=True, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("check")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    done = json.loads(cli("run", "--json").stdout)
    assert done["steps"][0]["skipped"]
    assert not list(scenes.rglob("*.part"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run"], "cannot read onchip.toml: No such file or directory"),
        (["init"], "no data.yaml here"),
        (["init", "none"], "none does not exist"),
        (["init", ".", "-t", "rk"], "no target called 'rk'"),
    ],
)
def test_bad_input(arguments: list[str], said: str, cli: Cli) -> None:
    done = cli(*arguments, code=2)
    assert said in done.stderr
    assert not (cli.folder / "onchip.toml").exists()


def test_a_build_that_cannot_be_proven_is_still_there(scenes: Path, cli: Cli) -> None:
    notes = scenes / "scenes/data.yaml"
    notes.write_text(
        notes.read_text().replace("0: red car", "0: blue car").replace("1: blue car", "1: red car")
    )
    cli("init", "--model", "detector.onnx")
    settle(scenes, images="12")
    done = json.loads(cli("run", "--json", code=2).stdout)
    (built,) = done["builds"]
    assert (built["verdict"], done["state"]) == ("not proven", "not proven")
    assert Path(built["artifact"]).is_file()
    assert (
        "class 0 is blue car to the data set and red car to the model" in built["error"]["message"]
    )
    assert "not proven: class 0" in Path(done["report"]).read_text()
