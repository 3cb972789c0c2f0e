"""What the annotator writes: to the number, to the byte, and only over what was read."""

import json
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("uvicorn", reason="pip install 'onchip[annotate]'")

from onchip.annotate.classes import ClassFile, ClassList, with_name
from onchip.annotate.proposals import Proposals, differs, numbers, unsure
from onchip.annotate.store import Labelled, Shown
from onchip.dataset import folders, yolo
from onchip.detections import Detections
from onchip.errors import InputError

from annotating import Visitor, photo, running

BOX = {"index": 1, "box": [0.5, 0.25, 0.125, 0.5]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "photos"
    for number, name in enumerate(("a.jpg", "b.png", "c.jpg")):
        photo(place / name, seed=number)
    (place / "classes.txt").write_text("car\nperson\n")
    return place


@pytest.fixture
def visitor(folder: Path) -> Iterator[Visitor]:
    with running(folder) as site:
        yield Visitor(site)


def keys(visitor: Visitor, name: str) -> list[str]:
    return [row["key"] for row in visitor.labels(name)["labels"]["rows"]]


# ---- YOLO files


def test_a_box_is_written_to_the_number(visitor: Visitor, folder: Path) -> None:
    answer = visitor.save("a.jpg", [BOX, {"index": 0, "box": [1 / 3, 0.1, 1e-4, 0.2]}])
    assert answer.json["labels"]["state"] == "labelled"
    text = (folder / "a.txt").read_text()
    assert text == "1 0.5 0.25 0.125 0.5\n0 0.33333333 0.1 0.0001 0.2\n"
    assert visitor.save("a.jpg", [{"key": k} for k in keys(visitor, "a.jpg")]).status == 200
    assert (folder / "a.txt").read_text() == text


def test_rows_that_were_not_touched_stay_to_the_byte(visitor: Visitor, folder: Path) -> None:
    lines = [
        "1 .50 5e-1 +0.250 0.25",
        "0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5",
        "  7 0.5 0.5 0.1 0.1\t",
        "nonsense, but ours 🦆",
        "0 0.5 0.5 0.2 0.2 0.93",
        "1 -0.1 0.5 0.4 0.2",
    ]
    (folder / "a.txt").write_bytes("\r\n".join(lines).encode())
    rows = visitor.labels("a.jpg")["labels"]["rows"]
    assert [row["key"] for row in rows] == lines
    assert [row["polygon"] for row in rows] == [False, True, False, False, False, False]
    assert [bool(row["why"]) for row in rows] == [False, False, False, True, True, True]
    assert rows[2]["index"] == 7 and rows[3]["box"] is None
    before = (folder / "a.txt").stat()
    assert visitor.save("a.jpg", [{"key": k} for k in lines]).status == 200
    after = (folder / "a.txt").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)  # not written
    kept = [{"key": k} for k in lines if k != lines[4]]
    assert visitor.save("a.jpg", [*kept, BOX]).status == 200
    expected = [*lines[:4], lines[5], "1 0.5 0.25 0.125 0.5"]
    assert (folder / "a.txt").read_bytes() == "".join(f"{line}\r\n" for line in expected).encode()


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=200), st.data())
def test_whatever_is_in_a_file_survives_a_new_box(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, choose: Any
) -> None:
    from onchip.annotate.photos import Photos
    from onchip.annotate.store import Box, Save, YoloLabels

    place = tmp_path_factory.mktemp("any")
    photo(place / "a.jpg")
    (place / "classes.txt").write_text("car\n")
    (place / "a.txt").write_bytes(data)
    photos = Photos(place)
    store = YoloLabels(photos, ClassFile(place))
    (one,) = photos.look()
    now = store.read(one)
    if now.fault:
        assert "not text" in now.fault
        return
    new = Box(index=0, box=(0.5, 0.5, 0.5, 0.5))
    rows = tuple(Box(key=row.key) for row in now.rows)
    saved = store.save(one, Save(now.version, store.classes().version, (*rows, new)))
    assert [row.key for row in saved.rows] == [*(r.key for r in now.rows), "0 0.5 0.5 0.5 0.5"]


def test_no_boxes_is_a_negative_and_can_be_taken_back(visitor: Visitor, folder: Path) -> None:
    assert visitor.labels("a.jpg")["labels"]["state"] == "unlabelled"
    assert visitor.save("a.jpg", []).json["labels"]["state"] == "negative"
    assert (folder / "a.txt").read_bytes() == b""
    assert visitor.save("a.jpg", [], forget=True).json["labels"]["state"] == "unlabelled"
    assert not (folder / "a.txt").exists()
    visitor.save("a.jpg", [BOX])
    assert visitor.save("a.jpg", [], forget=True).status == 400
    assert (folder / "a.txt").read_text() == "1 0.5 0.25 0.125 0.5\n"
    (folder / "b.txt").write_text("\n\n")
    states = {name: state for _, name, state, _ in visitor.folder()["photos"]}
    assert states == {"a.jpg": "labelled", "b.png": "negative", "c.jpg": "unlabelled"}
    assert visitor("GET", "/api/counts").json["counts"] == {"1": 1}


def test_an_old_version_is_refused_and_nothing_is_lost(visitor: Visitor, folder: Path) -> None:
    old = visitor.labels("a.jpg")["labels"]["version"]
    assert visitor.save("a.jpg", [BOX]).status == 200
    answer = visitor.save("a.jpg", [], version=old)
    assert answer.status == 409 and answer.error["code"] == "labels"
    (folder / "a.txt").write_text("0 0.5 0.5 0.1 0.1\n")  # another program
    now = visitor.labels("a.jpg")
    (folder / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    answer = visitor.save("a.jpg", [BOX], version=now["labels"]["version"])
    assert answer.status == 409
    (folder / "a.txt").unlink()
    assert visitor.save("a.jpg", [BOX], version=now["labels"]["version"]).status == 409
    (folder / "b.txt").write_text("")  # was not there when it was read
    assert visitor.save("b.png", [BOX], version="none").status == 409
    assert (folder / "b.txt").read_text() == ""


def test_of_two_who_save_at_once_one_wins_and_one_is_told(visitor: Visitor, folder: Path) -> None:
    now, key = visitor.labels("a.jpg"), visitor.id("a.jpg")
    found: list[tuple[int, int]] = []

    def save(index: int) -> None:
        rows = [{"index": 0, "box": [0.5, 0.5, 0.01 * (index + 1), 0.5]}]
        body = {"version": now["labels"]["version"], "classes": now["classes"], "rows": rows}
        found.append((visitor("PUT", f"/api/labels/{key}", body).status, index))

    threads = [threading.Thread(target=save, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [index for status, index in found if status == 200]
    assert sorted(status for status, _ in found) == [200, *[409] * 11]
    assert (folder / "a.txt").read_text().split()[3] == f"{0.01 * (winner + 1):.2f}".rstrip("0")


def test_a_file_of_very_many_rows_is_left_alone(visitor: Visitor, folder: Path) -> None:
    (folder / "a.txt").write_text("0 0.5 0.5 0.1 0.1\n" * 10_001)
    now = visitor.labels("a.jpg")["labels"]
    assert now["fault"] == "there are more than 10000 rows" and now["rows"] == []
    assert visitor.save("a.jpg", [BOX]).status == 400
    assert len((folder / "a.txt").read_text().splitlines()) == 10_001


@pytest.mark.parametrize(
    "row",
    [
        {"index": 0, "box": [0.5, 0.5, 0, 0.5]},
        {"index": 0, "box": [0.5, 0.5, 1.5, 0.5]},
        {"index": 0, "box": [-0.1, 0.5, 0.5, 0.5]},
        {"index": -1, "box": [0.5, 0.5, 0.5, 0.5]},
        {"index": 0.5, "box": [0.5, 0.5, 0.5, 0.5]},
        {"index": 0, "box": [0.5, 0.5, 0.5]},
        {"index": 0},
        {"box": [0.5, 0.5, 0.5, 0.5]},
        {"key": "0 0.5 0.5 0.5 0.5\n0 0.5 0.5 0.5 0.5"},
        {"key": ""},
        {"path": "../../x", **BOX},
    ],
)
def test_what_is_no_box_is_not_written(visitor: Visitor, folder: Path, row: dict[str, Any]) -> None:
    assert visitor.save("a.jpg", [row]).status == 400
    assert not (folder / "a.txt").exists()


def test_labels_that_are_no_text_are_left_alone(visitor: Visitor, folder: Path) -> None:
    (folder / "a.txt").write_bytes(b"\xff\xfe0\x00")
    now = visitor.labels("a.jpg")["labels"]
    assert "not text" in now["fault"]
    assert visitor.save("a.jpg", [BOX]).status == 400
    assert (folder / "a.txt").read_bytes() == b"\xff\xfe0\x00"


def test_labels_that_are_no_file_hold_nobody_up(visitor: Visitor, folder: Path) -> None:
    os.mkfifo(folder / "a.txt")  # opening it would wait for a writer
    (folder / "b.txt").symlink_to("gone.txt")
    (folder / "c.txt").touch()
    states = [row[2] for row in visitor.folder()["photos"]]
    assert states == ["labelled", "unlabelled", "negative"]
    assert visitor.labels("a.jpg")["labels"]["fault"] == "a.txt is no file"
    assert visitor.save("a.jpg", [BOX]).status == 400
    assert visitor.save("b.png", [BOX]).status == 200
    assert visitor("GET", "/api/counts").json["counts"] == {"1": 1}
    (folder / "classes.txt").unlink()
    os.mkfifo(folder / "classes.txt")
    assert "is no file" in visitor("GET", "/api/classes").json["classes"]["fault"]


def test_where_nothing_can_be_written_the_page_is_told(tmp_path: Path) -> None:
    photo(tmp_path / "images" / "a.jpg")
    (tmp_path / "labels").write_text("in the way")
    with running(tmp_path / "images", classes=("car", "person")) as site:
        answer = Visitor(site).save("a.jpg", [BOX], version="none")
        assert answer.status in (400, 507) and "labels" in answer.error["message"]
    assert (tmp_path / "labels").read_text() == "in the way"


# ---- the list of classes


def test_a_changed_list_of_classes_is_noticed_before_a_save(visitor: Visitor, folder: Path) -> None:
    old = visitor.labels("a.jpg")["classes"]
    (folder / "classes.txt").write_text("person\ncar\n")
    answer = visitor.save("a.jpg", [BOX], classes=old)
    assert answer.status == 409 and answer.error["code"] == "classes"
    assert not (folder / "a.txt").exists()
    assert visitor("GET", "/api/classes").json["classes"]["names"] == ["person", "car"]
    answer = visitor("POST", "/api/classes", {"version": old, "index": 2, "name": "dog"})
    assert answer.status == 409


def test_classes_are_added_and_renamed(visitor: Visitor, folder: Path) -> None:
    def change(index: int, name: str) -> Any:
        version = visitor("GET", "/api/classes").json["classes"]["version"]
        body = {"version": version, "index": index, "name": name}
        return visitor("POST", "/api/classes", body)

    assert change(2, " dog ").json["classes"]["names"] == ["car", "person", "dog"]
    assert change(0, "Auto").json["classes"]["names"] == ["Auto", "person", "dog"]
    assert (folder / "classes.txt").read_text() == "Auto\nperson\ndog\n"
    for index, name in ((4, "x"), (-1, "x"), (3, ""), (3, "PERSON"), (3, "a\nb"), (3, "x" * 101)):
        assert change(index, name).status == 400, name
    (folder / "classes.txt").unlink()
    assert visitor("GET", "/api/classes").json["classes"]["names"] == []


def test_a_list_that_is_being_edited_does_not_break_the_page(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg")
    (tmp_path / "data.yaml").write_text("train: .\nval: .\nnames: [car]\n")
    with running(tmp_path) as site:
        visitor = Visitor(site)
        good = visitor.folder()["classes"]
        (tmp_path / "data.yaml").write_text("train: .\nnames: [car")
        broken = visitor.folder()["classes"]
        assert "is not a YAML file" in broken["fault"] and broken["names"] == []
        assert visitor.labels("a.jpg")["classes"] == ""  # the photo is shown all the same
        body = {
            "version": "none",
            "classes": good["version"],
            "rows": [{"index": 0, "box": [0.5] * 4}],
        }
        answer = visitor("PUT", f"/api/labels/{visitor.id('a.jpg')}", body)
        assert answer.status == 400 and not (tmp_path / "a.txt").exists()


FORMS = {
    "flow": "train: a  # kept\nnames: [car, 'big truck']  # kept too\nnc: 2\nval: b\n",
    "list": "names:\n- car # one\n- 'big truck'   # two\n\n# kept\ntrain: a\nval: b\n",
    "deep list": "names:\n    - car\n    - big truck\nval: b\nnc: 2",
    "numbers": "# head\nnames:\n  0: car\n  1: big truck  # two\nval: b\n\n\nroboflow:\n  key: 'x'\n",
    "flow numbers": "names: {0: car, 1: 'big truck'}\nval: b",
    "turned": "names:\n  1: big truck\n  0: car\nval: b\n",
    "windows": "names:\r\n  0: car\r\n  1: big truck\r\nval: b\r\n",
    "ümlaut": "val: ä\nnames: [car, big truck]\npath: 'ö'\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_a_data_yaml_is_edited_where_its_names_stand(tmp_path: Path, form: str) -> None:
    path = tmp_path / "data.yaml"
    path.write_bytes(FORMS[form].encode())
    before = yaml.safe_load(FORMS[form])
    file = ClassFile(tmp_path)
    file.change(file.now().version, 2, "a: #'\"x")
    file.change(file.now().version, 1, "Lkw")
    text = path.read_bytes().decode()
    after = yaml.safe_load(text)
    names = ["car", "Lkw", "a: #'\"x"]
    assert file.now().names == tuple(names) == folders.class_names(path, after)
    assert {k: v for k, v in after.items() if k not in ("names", "nc")} == {
        k: v for k, v in before.items() if k not in ("names", "nc")
    }
    assert after.get("nc", 3) == 3
    kept = [line for line in FORMS[form].splitlines() if "truck" not in line and "nc:" not in line]
    assert [line for line in text.splitlines() if line in kept] == kept
    assert text.count("#") == FORMS[form].count("#") + 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=4))
def test_any_name_that_is_taken_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    for text in ("names: [first]\nval: b\n", "names:\n  0: first\nval: b\n", None):
        place = tmp_path_factory.mktemp("names")
        if text:
            (place / "data.yaml").write_text(text)
        file = ClassFile(place)
        wanted = file.now()
        for name in names:
            try:
                wanted = with_name(wanted, len(wanted.names), name)
            except InputError:
                continue
            file.change(file.now().version, len(wanted.names) - 1, name)
        assert file.now() == wanted == ClassFile(place).now()


@pytest.mark.parametrize("text", ["names: &n [a]\nother: *n\n", "x: &x a\nnames: [b, *x]\n"])
def test_a_data_yaml_that_cannot_be_edited_safely_is_not(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    file = ClassFile(tmp_path)
    with pytest.raises(InputError, match="cannot be added to safely"):
        file.change(file.now().version, len(file.now().names), "new")
    assert (tmp_path / "data.yaml").read_text() == text


def test_a_new_list_is_one_that_the_data_set_verbs_read(tmp_path: Path) -> None:
    for place in ("images/train", "images/val"):
        photo(tmp_path / "set" / place / "a.jpg")
    photo(tmp_path / "plain" / "a.jpg")
    for name, splits in (("set", {"train", "val"}), ("plain", {"train"})):
        file = ClassFile(tmp_path / name)
        file.start(("car", "on: off"))
        file.start(("car", "on: off"))  # the same again is no fault
        found = folders.find(tmp_path / name)
        assert found.names == ("car", "on: off") and set(found.splits) == splits
        with pytest.raises(InputError, match="has other classes"):
            file.start(("dog",))
    assert [len(p) for p in folders.find(tmp_path / "set").splits.values()] == [1, 1]
    with pytest.raises(InputError, match="there is a class"):
        ClassFile(tmp_path).start(("a", "A"))


def test_versions_are_those_of_the_names() -> None:
    assert (
        ClassList(("a", "b")).version
        != ClassList(("b", "a")).version
        != ClassList(("a b",)).version
    )


# ---- what a model proposes


class Eyes:
    """Plays a model: one box on every photo, with a score that the photo's name says."""

    def __init__(self) -> None:
        self.hold = threading.Event()
        self.hold.set()

    def __call__(self, image: Any) -> Detections:
        assert self.hold.wait(20)
        height, width = image.shape[:2]
        boxes = np.asarray([[0, 0, width / 2, height], [0, 0, width, height]], np.float32)
        return Detections(boxes, np.asarray([0.9, 0.2]), np.asarray([1, 0]))


def test_the_photo_that_is_asked_for_is_looked_at_first(folder: Path) -> None:
    from onchip.annotate.photos import Photos
    from onchip.annotate.store import YoloLabels

    for number in range(8):
        photo(folder / f"n{number}.png")
    photos = Photos(folder)
    eyes = Eyes()
    eyes.hold.clear()
    with Proposals(eyes, ("car",), 0.25, photos, YoloLabels(photos, ClassFile(folder))) as made:
        made.start()
        last = photos.look()[-1]
        assert made.of(last, 0) is None
        eyes.hold.set()
        assert made.of(last, 20) is not None
        assert list(made._seen).index(last.id) <= 1  # one was looked at already
        for one in photos.look():
            assert made.of(one, 20) is not None
        _, done, total = made.doubts(0)
        assert done == total == 11


def test_doubt_grows_near_the_threshold() -> None:
    assert unsure([], 0.25) == 0
    assert unsure([1.0], 0.25) == unsure([0.125], 0.25) == 0
    assert unsure([0.25], 0.25) == 0.5
    assert (
        unsure([0.9], 0.25)
        < unsure([0.5], 0.25)
        < unsure([0.3], 0.25)
        < unsure([0.3, 0.3], 0.25)
        < 1
    )


@given(st.lists(st.floats(0, 1), max_size=300), st.floats(0.01, 0.99))
def test_doubt_is_a_share(scores: list[float], threshold: float) -> None:
    assert 0 <= unsure(scores, threshold) <= 1


def test_labels_and_model_are_compared_by_class_and_place() -> None:
    def shown(*boxes: tuple[int, tuple[float, float, float, float]]) -> Labelled:
        return Labelled("", "labelled", tuple(Shown("", i, b) for i, b in boxes))

    seen = Detections(np.asarray([[0.25, 0.25, 0.75, 0.75]]), np.ones(1), np.asarray([3]))
    whole = (0.5, 0.5, 0.5, 0.5)
    assert differs(shown((1, whole)), seen, {3: 1}) == 0
    assert differs(shown((0, whole)), seen, {3: 1, 2: 0}) == 1
    assert differs(shown((1, whole), (1, (0.1, 0.1, 0.1, 0.1))), seen, {3: 1}) == pytest.approx(
        1 / 3
    )
    assert (
        differs(shown((0, whole)), seen, {}) == 0
    )  # classes that only one of them knows are left out
    assert numbers(("Car", "dog"), ("cat", "car ")) == {0: 1}


def test_a_real_model_proposes_and_doubts(tmp_path: Path) -> None:
    from importlib.resources import as_file, files

    from onchip.demo.scenes import write

    write(tmp_path, 4, 7000, "train")
    (tmp_path / "labels" / "train" / "007000.txt").unlink()
    with as_file(files("onchip.demo") / "detector.onnx") as model:
        site = running(tmp_path / "images" / "train", model=model)
        with site as found:
            visitor = Visitor(found)
            truth = yolo.read(tmp_path / "labels" / "train" / "007001.txt") or ()
            seen = visitor("GET", f"/api/proposals/{visitor.id('007001.jpg')}").json
            assert seen["ready"] and not seen["fault"]
            assert sorted(b["index"] for b in seen["boxes"]) == sorted(
                r.label.index for r in truth if r.label
            )
            for box in seen["boxes"]:
                assert box["name"] and 0.25 <= box["score"] <= 1
                assert all(0 <= v <= 1 for v in box["corners"])
            while len((doubts := visitor("GET", "/api/doubts").json)["doubts"]) < 4:
                pass
            assert {row[0] for row in doubts["doubts"]} == {
                row[0] for row in visitor.folder()["photos"]
            }
            after = visitor("GET", f"/api/doubts?after={len(doubts['doubts'])}").json
            assert after["doubts"] == []
            assert visitor("GET", "/api/doubts?after=x").status == 400
            visitor.save("007001.jpg", [])  # now the labels say that there is nothing
            (changed,) = visitor("GET", f"/api/doubts?after={len(doubts['doubts'])}").json["doubts"]
            assert changed == [visitor.id("007001.jpg"), 1.0, True]


# ---- COCO


@pytest.fixture
def document(folder: Path) -> Path:
    path = folder.parent / "annotations.json"
    image = {"width": 64, "height": 48, "license": 3}
    path.write_text(json.dumps({
        "info": {"year": 2026, "x": 1.50},
        "images": [{"id": 7, "file_name": "a.jpg", **image}, {"id": 9, "file_name": "b.png", **image}],
        "annotations": [
            {"id": 4, "image_id": 7, "category_id": 20, "bbox": [16, 12, 32, 24], "area": 700, "iscrowd": 0,
             "segmentation": [[16, 12, 48, 12, 48, 36]], "track": "t1"},
            {"id": 5, "image_id": 7, "category_id": 10, "bbox": [0, 0, 8, 8], "area": 64, "iscrowd": 0},
            {"id": 6, "image_id": 7, "category_id": 10, "bbox": [0, 0, 8, 8], "iscrowd": 1,
             "segmentation": {"counts": [1], "size": [48, 64]}},
            {"id": 8, "image_id": 99, "category_id": 10, "bbox": [0, 0, 8, 8]},
        ],
        "categories": [{"id": 20, "name": "person", "keypoints": ["nose"]}, {"id": 10, "name": "car"}],
    }))  # fmt: skip
    return path


def test_a_coco_document_keeps_what_was_not_touched(folder: Path, document: Path) -> None:
    before = json.loads(document.read_text())
    with running(folder, coco=document) as site:
        visitor = Visitor(site)
        assert visitor.folder()["classes"]["names"] == ["car", "person"]
        states = {name: state for _, name, state, _ in visitor.folder()["photos"]}
        assert states == {"a.jpg": "labelled", "b.png": "negative", "c.jpg": "unlabelled"}
        first, second = visitor.labels("a.jpg")["labels"]["rows"]
        assert (first["index"], first["box"]) == (1, [0.5, 0.5, 0.5, 0.5])
        kept = {"key": second["key"]}
        moved = {"was": first["key"], "index": 0, "box": [0.5, 0.5, 0.25, 0.25]}
        assert visitor.save("a.jpg", [moved, kept, BOX]).status == 200
        assert visitor("GET", "/api/counts").json["counts"] == {"0": 2, "1": 1}
    after = json.loads(document.read_text())
    assert after["info"] == before["info"] and after["images"] == before["images"]
    assert after["categories"] == before["categories"]
    first, *others, new = after["annotations"]
    assert others == before["annotations"][1:]
    assert first == {
        "id": 4, "image_id": 7, "category_id": 10, "bbox": [24, 18, 16, 12], "area": 192, "iscrowd": 0,
        "segmentation": [], "track": "t1",
    }  # fmt: skip
    assert (new["id"], new["category_id"], new["bbox"]) == (9, 20, [28, 0, 8, 24])
    assert not list(folder.glob("?.txt"))


def test_the_first_save_of_a_photo_lists_it(folder: Path, document: Path) -> None:
    with running(folder, coco=document) as site:
        visitor = Visitor(site)
        assert visitor.save("c.jpg", []).json["labels"]["state"] == "negative"
        assert visitor.save("c.jpg", [], forget=True).status == 400
        assert visitor.save("b.png", [BOX]).json["labels"]["state"] == "labelled"
        assert len(visitor.labels("a.jpg")["labels"]["rows"]) == 2
    listed = json.loads(document.read_text())["images"]
    assert listed[-1] == {"id": 10, "file_name": "c.jpg", "width": 64, "height": 48}


def test_versions_of_a_coco_document_are_by_photo(folder: Path, document: Path) -> None:
    with running(folder, coco=document) as site:
        visitor = Visitor(site)
        a, b = visitor.labels("a.jpg")["labels"], visitor.labels("b.png")["labels"]
        assert visitor.save("b.png", [BOX], version=b["version"]).status == 200
        kept = [{"key": row["key"]} for row in a["rows"]]
        assert visitor.save("a.jpg", kept[:1], version=a["version"]).status == 200  # another photo
        answer = visitor.save("a.jpg", kept, version=a["version"])
        assert answer.status == 409
        changed = json.loads(document.read_text())
        changed["annotations"][0]["bbox"][0] = 17
        document.write_text(json.dumps(changed))  # another program
        now = visitor.labels("a.jpg")["labels"]
        assert (
            now["version"] != answer.json.get("version") and now["rows"][0]["key"] != kept[0]["key"]
        )
        lost = {"key": kept[0]["key"], "index": 1, "box": [0.5, 0.5, 0.5, 0.5]}  # "keep mine"
        assert visitor.save("a.jpg", [lost]).status == 200
        (row,) = visitor.labels("a.jpg")["labels"]["rows"]
        assert (row["index"], row["box"]) == (1, [0.5, 0.5, 0.5, 0.5])


def test_a_coco_document_is_begun_and_its_classes_grow(folder: Path) -> None:
    path = folder.parent / "new.json"
    with running(folder, coco=path) as site:
        visitor = Visitor(site)
        assert visitor.save("a.jpg", []).status == 400  # a document lists its classes
        version = visitor.folder()["classes"]["version"]
        answer = visitor("POST", "/api/classes", {"version": version, "index": 0, "name": "car"})
        version = answer.json["classes"]["version"]
        answer = visitor("POST", "/api/classes", {"version": version, "index": 1, "name": "dog"})
        version = answer.json["classes"]["version"]
        visitor("POST", "/api/classes", {"version": version, "index": 0, "name": "auto"})
        assert visitor.save("a.jpg", [BOX]).status == 200
    made = json.loads(path.read_text())
    assert [(c["id"], c["name"]) for c in made["categories"]] == [(1, "auto"), (2, "dog")]
    assert made["annotations"][0]["category_id"] == 2
    with (
        pytest.raises(InputError, match="has other classes"),
        running(folder, coco=path, classes=("x",)),
    ):
        pass


def test_a_document_that_has_the_photo_on_its_side_is_not_edited(
    folder: Path, document: Path
) -> None:
    turned = json.loads(document.read_text())
    turned["images"][0] |= {"width": 48, "height": 64}
    document.write_text(json.dumps(turned))
    with running(folder, coco=document) as site:
        visitor = Visitor(site)
        assert "is 48 x 64, but it is 64 x 48" in visitor.labels("a.jpg")["labels"]["fault"]
        assert visitor.save("a.jpg", []).status == 400
    assert json.loads(document.read_text()) == turned
    assert stat.S_ISREG(document.stat().st_mode)
