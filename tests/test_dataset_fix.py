"""What is safe to mend is mended, nothing is lost on the way, and all of it can be put back."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from onchip.dataset import coco, folders, yolo
from onchip.dataset.check import check
from onchip.dataset.fix import KEPT, RECORD, fix, plan, undo
from onchip.demo import scenes
from onchip.errors import InputError
from onchip.vision.preprocess import find_images

from conftest import Cli

FIRST = "labels/train/001000.txt"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Scenes with one fault of each kind that can be mended, and some that cannot."""
    place = tmp_path / "set"
    scenes.write(place, 12, 1000, "train")
    scenes.write(place, 4, 9000, "val")
    with (place / FIRST).open("a") as file:
        file.write("0 0.98 0.06 0.1 0.1\n")  # past the edge
        file.write("1 1.005 0.30 0.1 0.1\n")  # its centre too
        file.write("2 0.9 0.05 0 0.05\n")  # no width
        file.write("3 0.2 0.05 0.1 0.05\n3 0.2 0.05 0.1 0.05\n")  # twice
        file.write("1 320 240 64 48\n")  # pixels: what was meant is not known
        file.write("nonsense\n")
    (place / "images/train/001001.jpg").unlink()
    (place / "images/train/001002.jpg").write_bytes(b"")
    (place / "images/train/001003.jpg").write_bytes(b"<html>not found</html>")
    return place


def digests(folder: Path) -> dict[str, str]:
    """What is in every file that is not a copy that a fix made."""
    paths = (p for p in folder.rglob("*") if p.is_file() and KEPT not in p.parts)
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def test_what_is_safe_is_mended_and_can_be_put_back(folder: Path) -> None:
    before, text = digests(folder), (folder / FIRST).read_text()
    made = fix(check(folder / "data.yaml"))
    lines = (folder / FIRST).read_text().splitlines()
    untouched = text.splitlines()[:-7]
    assert lines[: len(untouched)] == untouched  # to the letter
    assert lines[len(untouched) :] == [
        "0 0.965 0.06 0.07 0.1",
        "1 0.9775 0.3 0.045 0.1",
        "3 0.2 0.05 0.1 0.05",
        "1 320 240 64 48",
        "nonsense",
    ]
    gone = set(before) - set(digests(folder))
    assert gone == {
        "labels/train/001001.txt",
        "images/train/001002.jpg",
        "labels/train/001002.txt",
        "images/train/001003.jpg",
        "labels/train/001003.txt",
    }
    left = {f.code for f in check(folder / "data.yaml").findings}
    assert left & {"label-range", "label-text"} == {"label-range", "label-text"}
    assert not left & {"edge", "label-size", "twin", "orphan", "empty-file", "not-image"}
    assert made.folder == folder / KEPT / "1"
    assert folders.find(folder).images == tuple(
        p for p in folders.find(folder).images if KEPT not in p.parts
    )
    back = undo(folder / "data.yaml")
    assert digests(folder) == before
    assert len(back.restored) == 6 and not back.changed
    with pytest.raises(InputError, match=r"nothing of .* was mended"):
        undo(folder / "data.yaml")


def test_nothing_to_mend_leaves_nothing(tmp_path: Path) -> None:
    scenes.write(tmp_path, 4, 1000, "train")
    scenes.write(tmp_path, 4, 9000, "val")
    before = sorted(tmp_path.rglob("*"))
    assert fix(check(tmp_path / "data.yaml")).folder is None
    assert sorted(tmp_path.rglob("*")) == before


def test_what_was_edited_since_is_left_alone(folder: Path) -> None:
    fix(check(folder / "data.yaml"))
    (folder / FIRST).write_text("0 0.5 0.5 0.1 0.1\n")
    back = undo(folder / "data.yaml")
    assert back.changed == (folder / FIRST,)
    assert (folder / FIRST).read_text() == "0 0.5 0.5 0.1 0.1\n"
    assert (folder / "images/train/001002.jpg").exists()
    assert (folder / KEPT / "1").is_dir()  # the copy of the rest is still there


def test_labels_that_change_while_it_mends_are_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = check(folder / "data.yaml")
    real = shutil.copy2

    def late(source: Path, target: Path) -> None:
        real(source, target)
        if source == folder / FIRST:
            source.write_text("0 0.5 0.5 0.1 0.1\n")

    monkeypatch.setattr(shutil, "copy2", late)
    with pytest.raises(InputError, match="changed meanwhile") as error:
        fix(report)
    assert "--undo" in error.value.hint
    assert (folder / FIRST).read_text() == "0 0.5 0.5 0.1 0.1\n"


def test_lists_keep_what_they_name(folder: Path) -> None:
    names = sorted(p.name for p in (folder / "images/train").glob("*.jpg"))
    (folder / "train.txt").write_text("".join(f"./images/train/{n}\n" for n in names))
    text = (folder / "data.yaml").read_text().replace("train: images/train", "train: [train.txt]")
    (folder / "data.yaml").write_text(text)
    moved = {c.path.name for c in plan(check(folder / "data.yaml")) if c.data is None}
    assert moved == {"001001.txt"}


def test_a_file_that_is_no_image_does_not_take_the_labels_of_one_along(folder: Path) -> None:
    """a.jpg and a.png have one label file between them."""
    (folder / "images/train/001004.png").write_bytes(b"")
    (folder / "images/train/001002.png").write_bytes(b"")  # 001002.jpg is none either
    for name in ("001003", "001004"):
        with (folder / f"labels/train/{name}.txt").open("a") as file:
            file.write("2 0.9 0.05 0 0.05\n")  # no width
    before = digests(folder)
    fix(check(folder / "data.yaml"))
    after = digests(folder)
    assert "labels/train/001004.txt" in after and "images/train/001004.png" not in after
    assert not {"labels/train/001002.txt", "labels/train/001003.txt"} & set(after)
    undo(folder / "data.yaml")
    assert digests(folder) == before


def test_what_a_data_yaml_names_one_by_one_stays(folder: Path) -> None:
    names = sorted(f"images/train/{p.name}" for p in (folder / "images/train").glob("*.jpg"))
    text = (folder / "data.yaml").read_text()
    (folder / "data.yaml").write_text(text.replace("train: images/train", f"train: {names}"))
    fix(check(folder / "data.yaml"))
    assert (folder / "images/train/001003.jpg").exists()
    assert undo(folder / "data.yaml").restored


def test_a_data_set_beside_its_data_yaml_is_put_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = folder.parent / "notes"
    notes.mkdir()
    text = (folder / "data.yaml").read_text().replace("path: .", "path: ../set")
    (notes / "data.yaml").write_text(text)
    (folder / "data.yaml").unlink()
    before = digests(folder)
    monkeypatch.chdir(folder.parent)
    fix(check(Path("notes/data.yaml")))
    assert digests(folder) != before
    assert len(undo(Path("notes/data.yaml")).restored) == 6
    assert digests(folder) == before


def test_a_fix_that_was_cut_off_while_it_copied_does_not_hide_the_one_before(folder: Path) -> None:
    before = digests(folder)
    fix(check(folder / "data.yaml"))
    (folder / KEPT / "2").mkdir()
    (folder / KEPT / "2/00001.txt").write_text("half")
    undo(folder / "data.yaml")
    assert digests(folder) == before


def test_a_name_that_is_no_text_is_not_mended(folder: Path) -> None:
    for kind, suffix in (("images", ".jpg"), ("labels", ".txt")):
        place = folder / kind / "train"
        (place / f"001000{suffix}").rename(place / os.fsdecode(b"001\xff" + suffix.encode()))
    before = digests(folder)
    with pytest.raises(InputError, match="fits in no record"):
        fix(check(folder / "data.yaml"))
    assert digests(folder) == before and not (folder / KEPT).exists()


def test_what_was_moved_aside_is_no_photo_any_more(folder: Path) -> None:
    fix(check(folder / "data.yaml"))
    found = find_images(folder)
    assert len(found) == 13 and not [p for p in found if KEPT in p.parts]


def test_a_document_is_mended_as_one_file(tmp_path: Path) -> None:
    scenes.write(tmp_path, 2, 1000, "train")
    rows = yolo.parse("0 0.98 0.5 0.1 0.1\n1 0.5 0.5 0.1 0.1\n1 0.5 0.5 0.1 0.1")
    path = tmp_path / "images/train/labels.json"
    path.write_bytes(coco.document(scenes.LABELS, [("001000.jpg", (640, 360), rows)]))
    before = json.loads(path.read_text())
    fix(check(path))
    after = json.loads(path.read_text())
    assert [a["id"] for a in after["annotations"]] == [1, 2]
    assert after["annotations"][0]["bbox"] == pytest.approx([595.2, 162, 44.8, 36])
    assert after["annotations"][1] == before["annotations"][1]
    assert after["images"] == before["images"]
    undo(path)
    assert json.loads(path.read_text()) == before


@pytest.mark.parametrize("path", ["../../outside.txt", "/tmp/outside.txt", "../set2/a.txt"])
def test_a_record_is_not_trusted(path: str, folder: Path) -> None:
    made = fix(check(folder / "data.yaml"))
    assert made.folder is not None
    record = made.folder / RECORD
    table = json.loads(record.read_text())
    table["files"] = [table["files"][0] | {"path": path}]
    record.write_text(json.dumps(table))
    with pytest.raises(InputError, match="damaged"):
        undo(folder / "data.yaml")
    table["files"] = [table["files"][0] | {"path": FIRST, "copy": "../../data.yaml"}]
    record.write_text(json.dumps(table))
    with pytest.raises(InputError, match="damaged"):
        undo(folder / "data.yaml")
    record.write_text("{")
    with pytest.raises(InputError, match="damaged"):
        undo(folder / "data.yaml")


FULL = """
import resource, signal, sys
from pathlib import Path
from onchip.dataset.check import check
from onchip.dataset.fix import fix
from onchip.errors import InputError
report = check(Path(sys.argv[1]))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    fix(report)
except InputError as error:
    print(error, "|", error.hint)
    sys.exit(2)
"""


@pytest.mark.parametrize("limit", [0, 100, 300])
def test_a_full_disk_loses_nothing(limit: int, folder: Path) -> None:
    before = digests(folder)
    command = [sys.executable, "-c", FULL, str(folder / "data.yaml"), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "File too large" in done.stdout and " | " in done.stdout
    now = digests(folder)
    assert now == before or (undo(folder / "data.yaml") and digests(folder) == before)
    assert not list(folder.rglob("*.part"))


def test_a_folder_that_may_not_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report, before = check(folder / "data.yaml"), digests(folder)
    if os.getuid() == 0:  # root may write anywhere: a file in the way does the same
        (folder / KEPT).write_text("")
        with pytest.raises(InputError, match="cannot keep a copy"):
            fix(report)
        (folder / KEPT).unlink()
    else:
        folder.chmod(0o500)
        with pytest.raises(InputError, match="cannot keep a copy"):
            fix(report)
        folder.chmod(0o700)
    assert digests(folder) == before


def test_the_command_mends_checks_again_and_undoes(folder: Path, cli: Cli) -> None:
    before = digests(folder)
    done = cli("dataset", "check", folder, "--fix", code=1)  # two faults are left
    assert done.stdout.startswith(f"mended 6 files; what was there is in {folder}/{KEPT}/1")
    assert f"put it back with: onchip dataset check {folder}/data.yaml --undo" in done.stdout
    assert "boxes cut off at the edge" in done.stdout
    done = cli("dataset", "check", folder, "--undo")
    assert done.stdout.startswith("put back 6 files")
    assert digests(folder) == before
    table = json.loads(cli("dataset", "check", folder, "--fix", "--json", code=1).stdout)
    assert set(table["fixed"]) == {"folder", "files"}
    assert set(table["fixed"]["files"][0]) == {"path", "moved", "said"}
    table = json.loads(cli("dataset", "check", folder, "--undo", "--json").stdout)
    assert set(table) == {"folder", "restored", "changed"}
