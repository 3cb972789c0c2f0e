"""Data sets in another format hold the same boxes, and what they cannot hold is said; counts."""

import json
import os
import shutil
from pathlib import Path

import pytest

from onchip.dataset import coco, folders, yolo
from onchip.dataset.convert import convert
from onchip.dataset.stats import stats
from onchip.demo import scenes
from onchip.errors import InputError

from conftest import Cli


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "set"
    scenes.write(place, 8, 1000, "train")
    scenes.write(place, 4, 9000, "val")
    return place


def boxes(image: Path) -> list[tuple[int, tuple[float, ...]]]:
    rows = yolo.read(yolo.place(image)) or ()
    return [(r.label.index, r.label.box) for r in rows if r.label is not None]


def test_there_and_back(folder: Path, tmp_path: Path) -> None:
    there = convert(folder, tmp_path / "coco", "coco")
    assert there.lost == () and there.images == 12
    assert [p.name for p in there.files] == ["instances_train.json", "instances_val.json"]
    found = coco.read(there.files[0])
    assert found.names == scenes.LABELS
    assert found.photos[0].path.read_bytes() == (folder / "images/train/001000.jpg").read_bytes()
    back = convert(there.files[1], tmp_path / "yolo", "yolo", link=True)
    assert back.lost == ("the ids of images, annotations and categories",)
    again = folders.find(tmp_path / "yolo")
    assert again.names == scenes.LABELS and len(again.images) == 4
    for image in again.images:
        assert image.is_symlink()
        first, second = boxes(folder / "images/val" / image.name), boxes(image)
        assert [i for i, _ in first] == [i for i, _ in second]
        for (_, one), (_, other) in zip(first, second, strict=True):
            assert one == pytest.approx(other, abs=1e-6)


def test_the_real_photos_there_and_back(data: Path, tmp_path: Path) -> None:
    there = convert(data / "coco", tmp_path / "coco", "coco", link=True)
    assert there.boxes == 2292
    assert there.lost == ("2 photos that nobody labelled are now some without objects",)
    back = convert(there.files[1], tmp_path / "yolo", "yolo", link=True)
    images = folders.find(tmp_path / "yolo").images
    assert len(images) == 128 and back.boxes == 898
    for image in images:
        first = boxes(data / "coco/images/val2017" / image.name)
        for (one, box), (other, same) in zip(first, boxes(image), strict=True):
            assert one == other and box == pytest.approx(same, abs=1e-6)


def test_what_is_lost_is_said(folder: Path, tmp_path: Path) -> None:
    yolo.place(folder / "images/train/001000.jpg").unlink()
    with yolo.place(folder / "images/train/001001.jpg").open("a") as file:
        file.write("nonsense\n0 0.1 0.1 0.2 0.1 0.2 0.2\n")
    (folder / "images/train/001002.jpg").write_bytes(b"")
    there = convert(folder / "data.yaml", tmp_path / "coco", "coco")
    assert there.lost == (
        "1 line that is no label",
        "1 file that is no image",
        "1 photo that nobody labelled is now one without objects",
    )
    table = json.loads(there.files[0].read_text())
    table["licenses"] = [{"id": 1}]
    outlined = [a for a in table["annotations"] if a["segmentation"]]
    assert len(outlined) == 1
    table["annotations"][0]["iscrowd"] = 1
    table["images"].append({"id": 99, "file_name": "gone.jpg", "width": 9, "height": 9})
    table["annotations"].append({"id": 999, "image_id": 98, "category_id": 1, "bbox": [1, 1, 2, 2]})
    there.files[0].write_text(json.dumps(table))
    back = convert(there.files[0], tmp_path / "yolo", "yolo")
    assert back.lost == (
        "1 photo that is not there",
        "1 crowd region",
        "1 outline or mask; its box stays",
        "1 entry with a fault",
        "what the document says under licenses",
        "the ids of images, annotations and categories",
    )


def test_what_cannot_be_converted(folder: Path, tmp_path: Path, cli: Cli) -> None:
    with pytest.raises(InputError, match="is YOLO already"):
        convert(folder, tmp_path / "x", "yolo")
    with pytest.raises(InputError, match="is there already"):
        convert(folder, folder, "coco")
    shutil.copytree(folder / "images/train", tmp_path / "bare")
    done = cli("dataset", "convert", tmp_path / "bare", "out", "--to", "coco", code=2)
    assert "has no class names" in done.stderr
    assert not list(cli.folder.glob("out*")) and not list(cli.folder.glob("*.part"))
    done = cli("dataset", "convert", folder, "out", "--to", "voc", code=2)
    assert "'yolo', 'coco'" in done.stderr
    done = cli("dataset", "convert", folder, "out", "--to", "coco", "--json")
    assert set(json.loads(done.stdout)) == {"files", "images", "boxes", "lost"}


def test_labels_where_nobody_looks_are_not_lost_on_the_way(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "plain"
    shutil.copytree(folder / "images/train", place)
    shutil.copytree(folder / "labels/train", place / "labels")
    (place / "classes.txt").write_text("\n".join(scenes.LABELS))
    with pytest.raises(InputError, match="trainers do not find labels/"):
        convert(place, tmp_path / "out", "coco")


def test_a_document_without_its_photos_is_not_converted(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(coco.document(("a",), [("gone.jpg", (10, 10), [])]))
    with pytest.raises(InputError, match="names 1 photo, and none is there") as error:
        convert(path, tmp_path / "out", "yolo")
    assert "--images" in error.value.hint
    assert not (tmp_path / "out").exists()


def test_a_name_that_is_no_text_fits_in_no_document(folder: Path, tmp_path: Path) -> None:
    image = sorted((folder / "images/train").iterdir())[0]
    image.rename(image.with_name(os.fsdecode(b"a\xff.jpg")))
    with pytest.raises(InputError, match="fits in no document"):
        convert(folder / "data.yaml", tmp_path / "out", "coco")
    assert not list(tmp_path.glob("*out*"))


def test_names_that_would_collide_stay_apart(tmp_path: Path) -> None:
    for name in ("images/a.jpg", "a.jpg", "cam/images/a.jpg", "cam/a.jpg"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        scenes.write(tmp_path / "one", 1, 1000 + len(name))
        shutil.move(next((tmp_path / "one").glob("images/val/*.jpg")), tmp_path / "set" / name)
    (tmp_path / "set/classes.txt").write_text("car")
    found = convert(tmp_path / "set", tmp_path / "out", "coco")
    names = [p.path.relative_to(tmp_path / "out/images") for p in coco.read(found.files[0]).photos]
    assert sorted(map(str, names)) == ["a-2.jpg", "a.jpg", "cam/a-2.jpg", "cam/a.jpg"]


# --- stats --------------------------------------------------------------------------------------


def test_counts(folder: Path) -> None:
    yolo.place(folder / "images/val/009000.jpg").unlink()
    yolo.place(folder / "images/val/009001.jpg").write_text("")
    yolo.place(folder / "images/val/009002.jpg").write_text("2 0.5 0.5 0.05 0.1\n" * 2)
    yolo.place(folder / "images/val/009003.jpg").write_text(
        "0 0.5 0.5 0.5 0.5\n1 0.2 0.2 0.3 0.3\n"
    )
    _, found = stats(folder)
    val = found["val"]
    assert (val.images, val.unlabelled, val.negatives, val.boxes) == (4, 1, 1, 4)
    assert val.classes == ((1, 1), (1, 1), (2, 1), (0, 0), (0, 0))
    assert val.per_image == (pytest.approx(4 / 3), 2)
    assert sum(val.sizes) == sum(val.sizes_at) == 4
    assert sum(n for _, n in val.photos) == 4 and val.kinds == len(val.photos)


def test_the_command_counts(data: Path, cli: Cli) -> None:
    done = cli("dataset", "stats", data / "coco" / "data.yaml")
    assert "train: 178 images, 1,394 boxes, 1 without objects, 2 unlabelled" in done.stdout
    assert "boxes per image: 7.9, at most" in done.stdout
    table = json.loads(cli("dataset", "stats", data / "coco", "--json").stdout)
    assert set(table) == {"source", "imgsz", "splits"}
    val = table["splits"][1]
    assert set(val) == {
        "name", "images", "unlabelled", "negatives", "boxes", "boxes_per_image", "sizes",
        "sizes_at_imgsz", "sides_at_imgsz", "photos", "classes",
    }  # fmt: skip
    assert sum(val["sizes"].values()) == val["boxes"] == 898
    assert sum(c["boxes"] for c in val["classes"]) == 898
