"""COCO documents: whatever is there is read, and what was not changed is written as it was."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onchip.dataset import coco, yolo
from onchip.dataset.yolo import Label
from onchip.errors import InputError

NAMES = ("car", "person", "sign")


def made(**changed: Any) -> dict[str, Any]:
    """A document as annotation tools write it: more in it than onchip needs."""
    whole = {
        "info": {"year": 2017, "big": 2**70, "tiny": 1.10},
        "licenses": [{"id": 3, "url": "https://example.org/licence"}],
        "images": [
            {"id": 7, "file_name": "a b.jpg", "width": 640, "height": 480, "license": 3},
            {"id": 9, "file_name": "sub/ü😀.jpg", "width": 100, "height": 50, "flickr_url": "x"},
        ],
        "annotations": [
            {"id": 40, "image_id": 7, "category_id": 18, "bbox": [10, 20, 64, 48], "area": 3,
             "segmentation": [[10.5, 20, 74, 20, 74, 68]], "iscrowd": 0, "mine": {"a": None}},
            {"id": 41, "image_id": 9, "category_id": 2, "bbox": [0, 0, 100, 50], "iscrowd": 0},
            {"id": 42, "image_id": 7, "category_id": 2, "bbox": [1, 1, 9, 9], "iscrowd": 1,
             "segmentation": {"counts": [1, 2], "size": [480, 640]}},
            {"id": 43, "image_id": 7, "category_id": 2, "bbox": [320, 240, 32, 24]},
        ],
        "categories": [{"id": 18, "name": "dog", "supercategory": "animal"},
                       {"id": 2, "name": "person", "keypoints": []}],
    }  # fmt: skip
    return whole | changed


def written(folder: Path, document: object) -> Path:
    path = folder / "labels.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document, indent=1))
    return path


def test_a_document_is_read(tmp_path: Path) -> None:
    found = coco.read(written(tmp_path, made()))
    assert found.names == ("person", "dog")  # by ascending id, as training numbers them
    assert found.categories == (2, 18)
    assert found.photos == (
        coco.Photo(tmp_path / "a b.jpg", 7, 640, 480),
        coco.Photo(tmp_path / "sub/ü😀.jpg", 9, 100, 50),
    )
    first, second = found.labels(7)
    assert first == Label(1, pytest.approx((42 / 640, 44 / 480, 0.1, 0.1)))  # type: ignore[arg-type]
    assert second.index == 0
    assert found.crowds == {7: 1}
    assert not found.faults


def test_what_was_not_changed_is_written_to_the_byte(tmp_path: Path) -> None:
    path = written(tmp_path, made())
    found = coco.read(path)
    again = coco.encode(found)
    assert json.loads(again) == made()
    assert b"1180591620717411303424" in again  # no number is rounded on the way
    path.write_bytes(again)
    assert coco.encode(coco.read(path)) == again


def test_the_boxes_of_one_image_are_replaced(tmp_path: Path) -> None:
    found = coco.read(written(tmp_path, made()))
    keep, _ = found.rows[7]
    new = Label(0, (0.5, 0.5, 0.25, 0.5))
    now = coco.replaced(found, 7, [new, keep.label or new, Label(1, (0.5, 0.5, 0.1, 0.1))])
    document = json.loads(coco.encode(now))
    before = made()
    assert {k: v for k, v in document.items() if k != "annotations"} == {
        k: v for k, v in before.items() if k != "annotations"
    }
    old = {a["id"]: a for a in before["annotations"]}
    by_id = {a["id"]: a for a in document["annotations"]}
    assert [a["id"] for a in document["annotations"]] == [40, 41, 42, 44, 45]
    assert all(by_id[i] == old[i] for i in (40, 41, 42))  # the crowd region too
    assert by_id[44]["bbox"] == [240, 120, 160, 240]
    assert by_id[44]["category_id"] == 2
    path = written(tmp_path, document)
    assert coco.read(path).labels(7) == now.labels(7)
    # and again, from what was returned
    again = coco.replaced(now, 9, [])
    assert [a["id"] for a in json.loads(coco.encode(again))["annotations"]] == [40, 42, 44, 45]
    assert again.labels(9) == ()
    with pytest.raises(KeyError):
        coco.replaced(now, 8, [])
    with pytest.raises(InputError, match="has no class 2"):
        coco.replaced(now, 9, [Label(2, (0.5, 0.5, 0.1, 0.1))])


def test_rows_with_faults_stay_if_they_are_kept(tmp_path: Path) -> None:
    document = made()
    document["annotations"][0]["bbox"] = "nothing"
    found = coco.read(written(tmp_path, document))
    row = found.rows[7][0]
    assert (row.fault, row.label) == ("fields", None)
    assert json.loads(coco.encode(coco.replaced(found, 7, found.rows[7]))) == document
    dropped = coco.replaced(found, 7, found.rows[7][1:])
    assert [a["id"] for a in json.loads(coco.encode(dropped))["annotations"]] == [41, 42, 43]


def test_a_box_that_was_moved_keeps_what_else_is_known_of_it(tmp_path: Path) -> None:
    found = coco.read(written(tmp_path, made()))
    first, second = found.rows[7]
    assert first.label is not None
    rows = [replace(first, label=Label(0, (0.5, 0.5, 0.5, 0.5))), second]
    now = coco.replaced(found, 7, rows)
    before, after = made()["annotations"], json.loads(coco.encode(now))["annotations"]
    box = {"bbox": [160, 120, 320, 240], "area": 320 * 240, "segmentation": []}
    assert after[0] == before[0] | box | {"category_id": 2}  # the old outline is not this box's
    assert after[1:] == before[1:]
    assert now.labels(7)[0] == Label(0, (0.5, 0.5, 0.5, 0.5))
    other = coco.replaced(found, 7, [replace(first, label=replace(first.label, index=0)), second])
    renamed = json.loads(coco.encode(other))["annotations"][0]
    assert renamed == before[0] | {"category_id": 2}  # but is still that of the same box


@pytest.mark.parametrize("layout", ["annotations/instances_val2017.json", "a.json"])
def test_photos_are_found_where_they_usually_lie(layout: str, tmp_path: Path) -> None:
    for folder in ("images/val2017", "val2017"):
        place = tmp_path / folder
        (place / "sub").mkdir(parents=True)
        path = tmp_path / layout
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(made()))
        (place / "a b.jpg").touch()
        expected = place if "val2017" in layout else path.parent
        assert coco.read(path).folder.resolve() == expected
        (place / "a b.jpg").unlink()
    assert coco.read(path, tmp_path / "else").photos[0].path == tmp_path / "else/a b.jpg"


@pytest.mark.parametrize(
    ("box", "fault"),
    [
        (None, "fields"),
        ([1, 2, 3], "fields"),
        ("1 2 3 4", "fields"),
        ([1, 2, "3", 4], "text"),
        ([1, 2, True, 4], "text"),
        ([1, 2, [3], 4], "text"),
        ([1, 2, 0, 4], "size"),
        ([1, 2, -3, 4], "size"),
        ([1, 2, 700, 4], "range"),
        ([-9000, 2, 3, 4], "range"),
        ([1e308, 1e308, 1e308, 1e308], "range"),
        ([10**40, 2, 3, 4], "range"),
    ],
)
def test_a_wrong_box_is_a_row_with_a_fault(box: object, fault: str, tmp_path: Path) -> None:
    document = made()
    document["annotations"][0]["bbox"] = box
    found = coco.read(written(tmp_path, document))
    row = found.rows[7][0]
    assert row.fault == fault
    assert row.why and row.hint and row.line == "annotation 40"
    assert len(found.labels(7)) == 1  # the other one


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        (("images", 0, "file_name"), "/etc/passwd", "leads out of the folder"),
        (("images", 0, "file_name"), "../secret.jpg", "leads out of the folder"),
        (("images", 0, "file_name"), "a/../../secret.jpg", "leads out of the folder"),
        (("images", 0, "file_name"), "..\\secret.jpg", "leads out of the folder"),
        (("images", 0, "file_name"), "a\0.jpg", "no file_name"),
        (("images", 0, "file_name"), " ", "no file_name"),
        (("images", 0, "file_name"), 3, "no file_name"),
        (("images", 0, "file_name"), None, "no file_name"),
        (("images", 0, "width"), 0, "no width and height"),
        (("images", 0, "width"), "640", "no width and height"),
        (("images", 0, "height"), 1e9, "no width and height"),
        (("images", 0, "id"), None, "has no id"),
        (("images", 0, "id"), 9, "has the id of another image"),
        (("images", 0), 3, "has no id"),
        (("annotations", 0), [], "names no image"),
        (("annotations", 0, "image_id"), True, "names no image"),
        (("annotations", 0, "image_id"), 8, "of the image 8, which does not exist"),
        (("annotations", 0, "id"), 43, "has the id of another annotation"),
        (("annotations", 0, "id"), None, "has no id"),
    ],
)
def test_a_wrong_entry_is_left_out_and_said(
    where: tuple[Any, ...], value: object, said: str, tmp_path: Path
) -> None:
    document = made()
    place = document
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    found = coco.read(written(tmp_path, document))
    assert any(said in f.why for f in found.faults), found.faults
    assert all(f.place and f.hint for f in found.faults)
    assert all(p.path.is_relative_to(tmp_path) for p in found.photos)
    assert json.loads(coco.encode(found)) == document  # nothing is lost all the same


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("", "no JSON document"),
        ("{", "no JSON document"),
        ("[1]", "no JSON document"),
        ('{"images": [NaN]}', "no JSON document"),
        ('{"images": ' + "[" * 100_000 + "]" * 100_000 + "}", "no JSON document"),
        ("{}", "no images and no categories"),
        ({"images": [], "annotations": []}, "has no categories"),
        (made(images=3), "images are no list"),
        (made(annotations={}), "annotations are no list"),
        (made(categories=None), "categories are no list"),
        (made(categories=[]), "has no categories"),
        (made(categories=[{"id": 1}]), "category 1 has no id or no name"),
        (made(categories=[{"id": [], "name": "a"}]), "category 1 has no id or no name"),
        (made(categories=[{"id": 1, "name": "a"}] * 2), "two categories have the id 1"),
    ],
)
def test_what_is_no_document_is_one_clear_line(document: object, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        coco.read(written(tmp_path, document))
    with pytest.raises(InputError, match="cannot read"):
        coco.read(tmp_path)


parts = st.floats(0, 1, allow_nan=False)
sides = st.floats(1e-5, 1, allow_nan=False)
labels = st.builds(Label, st.integers(0, 2), st.tuples(parts, parts, sides, sides))
pixels = st.integers(1, 20_000)
photos = st.lists(st.tuples(st.tuples(pixels, pixels), st.lists(labels, max_size=6)), max_size=6)


@given(photos)
def test_yolo_to_coco_and_back(
    tmp_path_factory: pytest.TempPathFactory, given: list[tuple[tuple[int, int], list[Label]]]
) -> None:
    entries = [(f"{i}.jpg", size, boxes) for i, (size, boxes) in enumerate(given)]
    path = tmp_path_factory.getbasetemp() / "back.json"
    path.write_bytes(coco.document(NAMES, entries))
    found = coco.read(path)
    assert found.names == NAMES and not found.faults
    assert len(found.photos) == len(given)
    for photo, (size, boxes) in zip(found.photos, given, strict=True):
        assert (photo.width, photo.height) == size
        read = [r.label for r in found.rows[photo.id]]
        assert [r.index for r in read if r] == [b.index for b in boxes]
        for one, other in zip(read, boxes, strict=True):
            assert one is not None
            assert one.box == pytest.approx(other.box, abs=1e-6)
    assert coco.encode(found) == coco.encode(coco.read(path))


two = st.builds(Label, st.integers(0, 1), st.tuples(parts, parts, sides, sides))


@given(st.lists(two, max_size=6), st.integers(0, 3))
def test_replacing_touches_one_image(
    tmp_path_factory: pytest.TempPathFactory, new: list[Label], keep: int
) -> None:
    path = written(tmp_path_factory.getbasetemp(), made())
    found = coco.read(path)
    kept = found.rows[7][:keep]
    document = json.loads(coco.encode(coco.replaced(found, 7, [*kept, *new])))
    ids = [a["id"] for a in document["annotations"]]
    assert len(set(ids)) == len(ids)
    others = [a for a in made()["annotations"] if a["image_id"] != 7 or a.get("iscrowd")]
    assert [a for a in document["annotations"] if a["image_id"] != 7 or a.get("iscrowd")] == others
    assert len(ids) == len(others) + len(kept) + len(new)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
entry = st.fixed_dictionaries({}, optional=dict.fromkeys(
    ["id", "image_id", "category_id", "bbox", "file_name", "width", "height", "name", "iscrowd"],
    values | st.integers(1, 3) | st.lists(st.integers(-9, 99), min_size=4, max_size=4),
)) | values  # fmt: skip


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(
    ["images", "annotations", "categories", "info"], st.lists(entry, max_size=5) | values
)))  # fmt: skip
def test_no_document_is_too_odd(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any]
) -> None:
    path = written(tmp_path_factory.getbasetemp(), document)
    try:
        found = coco.read(path)
    except InputError:
        return
    path.write_bytes(coco.encode(found))
    again = coco.read(path)
    assert again.rows == found.rows and again.photos == found.photos


def test_a_polygon_becomes_a_segmentation(tmp_path: Path) -> None:
    rows = yolo.parse("1 0.1 0.2 0.5 0.2 0.5 0.6\n0 0.5 0.5 0.5 0.5\nnonsense\n9 .5 .5 .1 .1")
    path = tmp_path / "a.json"
    path.write_bytes(coco.document(NAMES, [("a.jpg", (100, 50), rows)]))
    polygon, box = json.loads(path.read_text())["annotations"]
    assert polygon["segmentation"] == [[10, 10, 50, 10, 50, 30]]
    assert polygon["bbox"] == [10, 10, 40, 20]
    assert box["segmentation"] == []
