"""Every kind of fault is planted, one at a time, in a clean set of rendered scenes, and found."""

import json
import os
import shutil
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from onchip.dataset import coco, folders, yolo
from onchip.dataset.check import Report, check
from onchip.dataset.dispute import LEAST
from onchip.dataset.facts import MARKS, facts, kind_of
from onchip.dataset.findings import kinds
from onchip.dataset.likeness import clusters, same
from onchip.demo import scenes
from onchip.detect.program import Limits
from onchip.errors import InputError
from onchip.sight import open_sight

from conftest import Cli

BALANCE = {"class-rare", "class-unused", "class-unmeasured"}
TRAIN, VAL = "images/train", "images/val"
FIRST, SECOND = "001000", "001001"


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes with nothing wrong."""
    folder = tmp_path_factory.mktemp("clean")
    scenes.write(folder, 24, 1000, "train")
    scenes.write(folder, 12, 9000, "val")
    return folder


@pytest.fixture
def folder(clean: Path, tmp_path: Path) -> Path:
    """A copy of the clean scenes, to plant faults in."""
    return Path(shutil.copytree(clean, tmp_path / "set"))


def codes(found: Report) -> set[str]:
    return {f.code for f in found.findings} - BALANCE


def test_clean_scenes_have_no_fault(clean: Path) -> None:
    found = check(clean / "data.yaml")
    assert found.passed and not codes(found)
    assert [(p.name, p.images, p.labelled, p.files, p.negatives) for p in found.parts] == [
        ("train", 24, 24, 24, 0),
        ("val", 12, 12, 12, 0),
    ]
    assert len(found.sides) == sum(p.boxes for p in found.parts)


def photo(folder: Path, number: str = FIRST, split: str = TRAIN) -> Path:
    return folder / split / f"{number}.jpg"


def labels(folder: Path, number: str = FIRST) -> Path:
    return yolo.place(photo(folder, number))


def add(line: str) -> Callable[[Path], None]:
    """Plant one more line in the labels of the first photo."""

    def plant(folder: Path) -> None:
        path = labels(folder)
        path.write_text(path.read_text() + line + "\n")

    return plant


def write_bytes(data: bytes) -> Callable[[Path], None]:
    return lambda folder: (photo(folder).write_bytes(data), None)[1]


def changed(edit: Callable[[np.ndarray], np.ndarray], quality: int = 80, split: str = TRAIN):  # type: ignore[no-untyped-def,type-arg]
    """Plant an edited copy of the first photo, with its labels."""

    def plant(folder: Path) -> None:
        image = cv2.imread(str(photo(folder)))
        target = folder / split / "edited.jpg"
        cv2.imwrite(str(target), edit(image), [cv2.IMWRITE_JPEG_QUALITY, quality])
        shutil.copy(labels(folder), yolo.place(target))

    return plant


def cut_off(folder: Path) -> None:
    data = photo(folder).read_bytes()
    photo(folder).write_bytes(data[: len(data) // 2])


def zero_filled(folder: Path) -> None:
    data = photo(folder).read_bytes()
    photo(folder).write_bytes(data[: len(data) // 2] + bytes(len(data) // 2))


def damaged_png(folder: Path) -> None:
    image = cv2.imread(str(photo(folder)))
    data = bytearray(cv2.imencode(".png", image)[1].tobytes())
    data[len(data) // 2] ^= 0xFF
    target = photo(folder).with_suffix(".png")
    photo(folder).unlink()
    target.write_bytes(data)


def animated(folder: Path) -> None:
    frames = [Image.fromarray(scenes.render(i)[0][:360, :360]) for i in (1, 2, 3)]
    frames[0].save(photo(folder).with_suffix(".webp"), save_all=True, append_images=frames[1:])
    photo(folder).unlink()


def gif_inside(folder: Path) -> None:
    Image.open(photo(folder)).save(photo(folder), "GIF")


def png_inside(folder: Path) -> None:
    Image.open(photo(folder)).save(photo(folder), "PNG")


def huge(folder: Path) -> None:
    image = Image.new("L", (10_000, 10_000))
    image.paste(Image.open(photo(folder)).convert("L").resize((10_000, 5_000)), (0, 2_000))
    image.save(photo(folder), quality=30)


def rotated(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(photo(folder))
    # as a camera held upright writes it: the picture lies on its side
    image.transpose(Image.Transpose.ROTATE_90).save(photo(folder), exif=exif, quality=92)


def renamed(name: str) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        target = photo(folder).with_name(name)
        photo(folder).rename(target)
        labels(folder).rename(yolo.place(target))

    return plant


def second_image(folder: Path) -> None:
    cv2.imwrite(str(photo(folder).with_suffix(".png")), scenes.render(77)[0])


def copied(split: str, number: str = "copy", edit: bool = False) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        target = folder / split / f"{number}.jpg"
        shutil.copy(photo(folder), target)
        text = labels(folder).read_text()
        yolo.place(target).write_text("\n".join(text.splitlines()[1:]) + "\n" if edit else text)

    return plant


def versions(folder: Path) -> None:
    """As Roboflow exports versions of one photo, which it flips and turns."""
    for split, number in ((TRAIN, FIRST), (VAL, "009000")):
        path = folder / split / f"{number}.jpg"
        target = path.with_name(f"street_jpg.rf.{int(number):032x}.jpg")
        path.rename(target)
        yolo.place(path).rename(yolo.place(target))


def notes(**changes: object) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        path = folder / "data.yaml"
        table = folders.read_notes(path) | changes
        path.write_text(yaml.safe_dump(table, allow_unicode=True))

    return plant


def names(*given: object) -> Callable[[Path], None]:
    return notes(names=list(given))


def corners(folder: Path) -> None:
    for path in folder.glob("labels/*/*.txt"):
        rows = [row for row in yolo.parse(path.read_text()) if row.label is not None]
        lines = [f"{r.label.index} " + " ".join(f"{v:.6f}" for v in r.label.corners) for r in rows]
        path.write_text("\n".join(lines) + "\n")


def only_in_val(folder: Path) -> None:
    for path in (folder / "labels" / "train").glob("*.txt"):
        kept = [line for line in path.read_text().splitlines() if not line.startswith("3 ")]
        path.write_text("".join(f"{line}\n" for line in kept) or "0 0.5 0.5 0.2 0.2\n")


def all_gone(folder: Path) -> None:
    shutil.rmtree(folder / "labels" / "train")


def misplaced(folder: Path) -> None:
    (folder / "labels" / "train").rename(folder / TRAIN / "labels")


def unlisted(folder: Path) -> None:
    images = sorted((folder / TRAIN).glob("*.jpg"))
    (folder / "train.txt").write_text("".join(f"./{TRAIN}/{p.name}\n" for p in images[1:]))
    notes(train="train.txt")(folder)


def lost(folder: Path) -> None:
    images = sorted((folder / TRAIN).glob("*.jpg"))
    (folder / "train.txt").write_text("".join(f"./{TRAIN}/{p.name}\n" for p in images))
    notes(train="train.txt")(folder)
    images[0].unlink()


def linked(folder: Path) -> None:
    (folder / TRAIN / "again").symlink_to(folder / VAL, target_is_directory=True)


def first_box(folder: Path) -> str:
    return labels(folder).read_text().splitlines()[0]


def twin(shift: float, label: str = "") -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        kind, x, *rest = first_box(folder).split()
        wide = float(rest[1])
        add(f"{label or kind} {float(x) + shift * wide:.6f} {' '.join(rest)}")(folder)

    return plant


def other_class(folder: Path) -> None:
    kind = int(first_box(folder).split()[0])
    twin(0.0, str((kind + 1) % 5))(folder)


PLANTED: list[tuple[str, Callable[[Path], Any]]] = [
    ("missing", lambda folder: labels(folder).unlink()),
    ("orphan", lambda folder: photo(folder).unlink()),
    ("empty", lambda folder: labels(folder).write_text("")),
    ("empty", lambda folder: labels(folder).write_text("\n \n")),
    ("label-text", add("car 0.5 0.5 0.1 0.1")),
    ("label-text", add("0,0.5,0.5,0.1,0.1")),
    ("label-text", add("0 0.5 0.5 nan 0.1")),
    ("label-fields", add("0 0.5 0.5 0.1")),
    ("label-fields", add("0 0.5 0.5 0.1 0.1 0.9")),
    ("label-class", add("5 0.5 0.5 0.1 0.1")),
    ("label-class", add("-1 0.5 0.5 0.1 0.1")),
    ("label-range", add("0 320 180 64 36")),
    ("label-size", add("0 0.9 0.05 0 0.05")),
    ("label-file", lambda folder: labels(folder).write_bytes(b"\xff\xfe0\x00 \x00")),
    ("label-file", lambda folder: (labels(folder).unlink(), labels(folder).mkdir())),
    ("mixed", add("0 0.90 0.02 0.98 0.02 0.98 0.1 0.90 0.1")),
    ("edge", add("0 0.98 0.06 0.1 0.1")),
    ("edge", add("0 1.005 0.06 0.1 0.1")),
    ("tiny", add("0 0.95 0.05 0.004 0.1")),
    ("small", add("0 0.95 0.05 0.01 0.1")),
    ("twin", twin(0.0)),
    ("twin", twin(0.01)),
    ("twin-class", other_class),
    ("corners", corners),
    ("no-labels", all_gone),
    ("misplaced", misplaced),
    ("one-label", second_image),
    ("empty-file", write_bytes(b"")),
    ("not-image", write_bytes(b"<html>404 not found</html>")),
    ("not-image", write_bytes(b"\xff\xd8\xff\xe0 and nothing more")),
    ("not-image", write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")),
    ("not-image", gif_inside),
    ("truncated", cut_off),
    ("truncated", zero_filled),
    ("truncated", damaged_png),
    ("unreadable", lambda folder: (photo(folder).unlink(), os.mkfifo(photo(folder)))),
    ("missing-image", lost),
    ("small-image", lambda folder: cv2.imwrite(str(photo(folder)), np.zeros((9, 90, 3)))),
    ("unread", lambda folder: (folder / TRAIN / "IMG_1.HEIC").write_bytes(b"x")),
    ("suffix", png_inside),
    ("animated", animated),
    ("huge", huge),
    ("tail", lambda folder: photo(folder).write_bytes(photo(folder).read_bytes() + b"SEFT\0")),
    ("rotated", rotated),
    ("name", renamed("scene .jpg")),
    ("name", renamed(" scene.jpg")),
    ("name", renamed("two\nlines.jpg")),
    ("link", linked),
    ("unlisted", unlisted),
    ("duplicate", copied(TRAIN)),
    ("leak", copied(VAL)),
    ("leak", notes(val=[VAL, f"{TRAIN}/{FIRST}.jpg"])),
    ("near-duplicate", changed(lambda i: i, quality=40)),
    ("near-duplicate", changed(lambda i: cv2.resize(i, None, fx=0.5, fy=0.5))),
    ("near-duplicate", changed(lambda i: np.clip(i * 1.15 + 8, 0, 255).astype(np.uint8))),
    ("near-duplicate", changed(lambda i: i[8:-8, 12:-10])),
    ("near-leak", changed(lambda i: i, quality=60, split=VAL)),
    ("near-leak", versions),
    ("class-count", notes(nc=4)),
    ("class-names", names("red car", "Red  car", "person", "round sign", "oval sign")),
    ("class-names", names("red car", "blue car ", "person", "round sign", "oval sign")),
    ("class-names", names(False, "blue car", "person", "round sign", "oval sign")),
    ("class-unlearned", only_in_val),
    ("no-val", notes(val=None)),
]


@pytest.mark.parametrize(
    ("code", "plant"), PLANTED, ids=[f"{i}-{code}" for i, (code, _) in enumerate(PLANTED)]
)
def test_a_planted_fault_is_found_and_nothing_else(
    code: str, plant: Callable[[Path], Any], folder: Path
) -> None:
    plant(folder)
    found = check(folder / "data.yaml")
    assert codes(found) == {code}, [(f.code, f.text) for f in found.findings]
    for finding in found.findings:
        assert finding.text.isprintable()
    assert found.passed == (kinds()[code].level != "error")


def test_copies_with_other_labels_are_told_apart(folder: Path) -> None:
    copied(TRAIN, edit=True)(folder)
    assert codes(check(folder / "data.yaml")) == {"duplicate", "copies-differ"}


def test_every_kind_is_planted_somewhere() -> None:
    """A kind that no test plants would be a kind that nobody has seen work."""
    elsewhere = {"copies-differ", *BALANCE}
    planted = {code for code, _ in PLANTED} | elsewhere
    others = {c for c in kinds() if c.startswith(("coco-", "model-", "calib-"))}
    assert set(kinds()) - others == planted
    for code, kind in kinds().items():
        assert kind.title and kind.means and kind.do, code


def test_the_real_photos(data: Path) -> None:
    found = check(data / "coco" / "data.yaml")
    missing = {p.name for f in found.findings if f.code == "missing" for p in f.images}
    assert missing == {"000000000250.jpg", "000000000508.jpg"}
    orphans = {Path(f.place).name for f in found.findings if f.code == "orphan"}
    assert orphans == {"000000000656.txt", "000000000659.txt"}
    assert found.passed
    assert not codes(found) & {"near-duplicate", "near-leak", "duplicate", "leak"}


# --- COCO documents -----------------------------------------------------------------------------


@pytest.fixture
def document(folder: Path) -> Path:
    """The training scenes as a COCO document, beside their photos."""
    found = folders.find(folder / "data.yaml")
    photos = []
    for path in found.splits["train"]:
        height, width = cv2.imread(str(path)).shape[:2]
        photos.append((path.name, (width, height), yolo.read(yolo.place(path)) or ()))
    target = folder / TRAIN / "labels.json"
    target.write_bytes(coco.document(found.names, photos))
    return target


def edited(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    table = json.loads(path.read_text())
    edit(table)
    path.write_text(json.dumps(table))


@pytest.mark.parametrize(
    ("code", "edit"),
    [
        ("coco-image", lambda t: t["images"].append({"id": 99, "file_name": "../a.jpg"})),
        ("coco-annotation", lambda t: t["annotations"][0].update(image_id=99)),
        ("coco-id", lambda t: t["annotations"][0].update(id=2)),
        ("coco-size", lambda t: t["images"][0].update(width=1280, height=720)),
        ("label-class", lambda t: t["annotations"][0].update(category_id=99)),
        ("label-fields", lambda t: t["annotations"][0].update(bbox=[1, 2])),
        ("label-text", lambda t: t["annotations"][0].update(bbox=["1", 2, 3, 4])),
        ("label-range", lambda t: t["annotations"][0].update(bbox=[9000, 2, 30, 40])),
        ("label-size", lambda t: t["annotations"][0].update(bbox=[1, 2, 0, 4])),
        ("edge", lambda t: t["annotations"][0].update(bbox=[-9, 2, 30, 40])),
        ("missing-image", lambda t: t["images"].append(
            {"id": 99, "file_name": "gone.jpg", "width": 9, "height": 9})),
        ("twin", lambda t: t["annotations"].append(t["annotations"][0] | {"id": 999})),
        ("empty", lambda t: t.update(
            annotations=[a for a in t["annotations"] if a["image_id"] != 1])),
    ],
)  # fmt: skip
def test_a_fault_in_a_document_is_found(
    code: str, edit: Callable[[dict[str, Any]], Any], document: Path
) -> None:
    assert codes(check(document)) == {"no-val"}
    edited(document, edit)
    assert codes(check(document)) >= {code, "no-val"}
    assert codes(check(document)) <= {code, "no-val", "empty"}


# --- what a model disputes ----------------------------------------------------------------------


def test_labels_that_a_model_disputes(folder: Path) -> None:
    def lines(number: str) -> list[str]:
        return labels(folder, number).read_text().splitlines()

    def swapped(line: str) -> str:
        return f"{1 - int(line[0])}{line[1:]}"

    with (
        as_file(files("onchip.demo") / "detector.onnx") as model,
        open_sight(model, limits=Limits(LEAST)) as sight,
    ):
        before = codes(check(folder / "data.yaml", sight=sight))
        assert not before & {"model-class"}
        seen: dict[str, set[str]] = {}
        for path in sorted((folder / "labels" / "train").glob("*.txt")):
            rows = path.read_text().splitlines()
            cars = [r for r in rows if r[0] in "01"]
            if len(cars) >= 2 and "class" not in seen:
                seen["class"] = {path.stem}
                path.write_text("\n".join(swapped(r) if r is cars[0] else r for r in rows))
            elif len(cars) >= 1 and "missing" not in seen:
                seen["missing"] = {path.stem}
                path.write_text("\n".join(r for r in rows if r is not cars[0]))
            elif "unseen" not in seen:
                seen["unseen"] = {path.stem}
                path.write_text("\n".join([*rows, "2 0.5 0.06 0.05 0.1"]))
        found = check(folder / "data.yaml", sight=sight)
    for what, stems in seen.items():
        about = [f for f in found.findings if f.code == f"model-{what}"]
        assert stems <= {p.stem for f in about for p in f.images}, what
        assert all(f.marks for f in about)
    assert found.passed


def test_a_model_of_other_classes_is_told(folder: Path) -> None:
    names("cat", "dog", "cow", "hen", "pig")(folder)
    with (
        as_file(files("onchip.demo") / "detector.onnx") as model,
        open_sight(model) as sight,
        pytest.raises(InputError, match="knows none of the classes"),
    ):
        check(folder / "data.yaml", sight=sight)


# --- hostile files ------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(given=st.data())
def test_no_file_is_too_damaged(
    clean: Path, tmp_path_factory: pytest.TempPathFactory, given: st.DataObject
) -> None:
    kind = given.draw(st.sampled_from(["jpeg", "png", "bmp", "tiff", "webp", "gif", "raw"]))
    path = tmp_path_factory.getbasetemp() / "hostile.jpg"
    if kind == "raw":
        mark = given.draw(st.sampled_from([m for _, m, _ in MARKS]))
        data = bytearray(mark + given.draw(st.binary(max_size=300)))
    else:
        Image.open(photo(clean)).resize((48, 32)).save(path, kind.upper())
        data = bytearray(path.read_bytes())
        for _ in range(given.draw(st.integers(1, 12))):
            place = given.draw(st.integers(0, len(data) - 1))
            data[place] = given.draw(st.integers(0, 255))
        data = data[: given.draw(st.integers(1, len(data)))]
    path.write_bytes(data)
    found = facts(path)
    assert (found.fault == "") == bool(found.thumb) or found.fault in ("truncated", "not-image")
    assert found.why.isprintable()
    assert kind_of(bytes(data)) == found.kind


def test_what_is_no_plain_file_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    assert facts(tmp_path / "pipe.jpg").fault == "unreadable"
    assert facts(tmp_path / "loop.jpg").fault == "unreadable"
    assert facts(tmp_path / "gone.jpg").fault == "missing-image"


def test_a_bomb_is_not_decoded(tmp_path: Path) -> None:
    """A few kilobytes that say they have ten gigapixels."""
    import struct
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(999)))
    (tmp_path / "bomb.png").write_bytes(data)
    found = facts(tmp_path / "bomb.png")
    assert found.fault == "huge" and found.size == (100_000, 100_000)
    assert "10,000 megapixels" in found.why


def test_labels_of_a_gigabyte_are_not_read(folder: Path) -> None:
    with labels(folder).open("wb") as file:
        file.truncate(1 << 30)  # sparse: no disk is filled
    found = check(folder / "data.yaml")
    assert codes(found) == {"label-file"}
    assert "too large" in next(f.message for f in found.findings if f.code == "label-file")


def test_labels_of_a_hundred_thousand_boxes_take_no_memory(folder: Path) -> None:
    """Comparing all of them with each other would take forty gigabytes."""
    labels(folder).write_text("0 0.5 0.5 0.2 0.2\n" * 100_000)
    found = check(folder / "data.yaml")
    assert codes(found) == {"twin"}
    assert len([f for f in found.findings if f.code == "twin"]) == 50


@pytest.mark.parametrize(
    "name", ["with space.jpg", "emoji 😀.jpg", "quote's \"q\".jpg", "ümläut.jpg", "..jpg.jpg", "-x.jpg"]
)  # fmt: skip
def test_odd_names_are_no_fault(name: str, folder: Path) -> None:
    renamed(name)(folder)
    assert not codes(check(folder / "data.yaml"))


def test_a_name_that_is_no_text(folder: Path) -> None:
    renamed(os.fsdecode(b"latin-\xe9.jpg"))(folder)
    found = check(folder / "data.yaml")
    assert codes(found) == {"name"}
    assert "latin-?.jpg" in found.findings[0].text


def test_a_folder_alone(folder: Path, tmp_path: Path) -> None:
    found = check(folder / "images" / "train")
    assert codes(found) == {"no-val"}
    assert found.source.names == scenes.LABELS  # data.yaml is two floors up
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images"):
        check(tmp_path / "empty")
    (tmp_path / "empty" / "a.heic").touch()
    with pytest.raises(InputError) as error:
        check(tmp_path / "empty")
    assert "cannot be read (.heic)" in error.value.hint
    with pytest.raises(InputError, match="does not exist"):
        check(tmp_path / "gone")


def test_folders_that_lead_in_circles(folder: Path) -> None:
    (folder / TRAIN / "circle").symlink_to(folder / TRAIN, target_is_directory=True)
    assert codes(check(folder / "data.yaml")) == {"link"}


# --- likeness -----------------------------------------------------------------------------------


def test_scenes_are_not_like_one_another(folder: Path, data: Path) -> None:
    photos = [*folders.find(data / "coco").images[::3], *folders.find(folder / "data.yaml").images]
    small = [facts(p).picture() for p in photos]
    count = 0
    for first in range(0, len(small), 7):
        for second in range(first + 1, len(small), 5):
            count += 1
            assert not same(small[first], small[second])
    assert count > 200


def test_a_still_camera_does_not_make_duplicates(data: Path) -> None:
    """The same street with another car on it is another photo."""
    photos = folders.find(data / "coco").images[:40]
    found = 0
    for number, path in enumerate(photos):
        image = cv2.imread(str(path))
        side = image.shape[1] // 5
        other = cv2.imread(str(photos[number - 1]))[:side, :side]
        moved = image.copy()
        top, left = image.shape[0] // 3, image.shape[1] // 3
        moved[top : top + other.shape[0], left : left + other.shape[1]] = other
        pictures = [cv2.resize(i, (64, 64), interpolation=cv2.INTER_AREA) for i in (image, moved)]
        found += same(*(np.asarray(p, np.uint8) for p in pictures))
    assert found <= 8  # a patch that looks like what it covers may pass


@given(st.integers(1, 12).flatmap(lambda n: st.tuples(
    st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=20))))  # fmt: skip
def test_clusters_are_what_pairs_connect(given: tuple[int, list[tuple[int, int]]]) -> None:
    count, pairs = given
    groups = clusters(count, pairs)
    assert sorted(i for group in groups for i in group) == list(range(count))
    home = {i: g for g, group in enumerate(groups) for i in group}
    assert all(home[a] == home[b] for a, b in pairs)
    edges = {frozenset(p) for p in pairs}
    for group in groups:  # each is connected
        reached, todo = {group[0]}, [group[0]]
        while todo:
            here = todo.pop()
            near = {i for i in group if frozenset((here, i)) in edges} - reached
            reached |= near
            todo += near
        assert reached == set(group)


def test_a_class_beyond_all_counting_is_a_finding(folder: Path) -> None:
    photos = folder / "images/train"
    shutil.copytree(photos, folder / "plain")
    for number, name in enumerate(("3000000000", "900000000", "1e300")):
        (folder / f"plain/00100{number}.txt").write_text(f"{name} 0.5 0.5 0.1 0.1\n")
    found = check(folder / "plain").findings
    assert [f.code for f in found].count("label-class") == 3


def test_a_pipe_for_labels_is_a_finding_and_nobody_waits(folder: Path) -> None:
    label = folder / "labels/train/001000.txt"
    label.unlink()
    os.mkfifo(label)
    found = [f for f in check(folder / "data.yaml").findings if f.code == "label-file"]
    assert [f.message for f in found] == [f"cannot read the labels {label}: it is no file"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("train: list.txt", "is not a text file"),
        ("train: [images/train, [images/val]]", "more than texts and numbers under train"),
        ("nc: [[1]]", "more than texts and numbers under nc"),
    ],
)
def test_a_hostile_data_yaml_is_one_line(line: str, said: str, folder: Path) -> None:
    (folder / "list.txt").write_bytes(b"images/train/a\0.jpg\n")
    with (folder / "data.yaml").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(InputError, match=said):
        check(folder / "data.yaml")


def test_a_data_yaml_that_grows_when_it_is_read_is_refused(folder: Path) -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    (folder / "data.yaml").write_text("\n".join([*rows, "train: images/train", "names: [*a8, b]"]))
    with pytest.raises(InputError, match="under names"):
        check(folder / "data.yaml")


# --- the command --------------------------------------------------------------------------------


def test_the_text_says_what_and_what_to_do(folder: Path, cli: Cli) -> None:
    add("7 0.5 0.5 0.1 0.1")(folder)
    done = cli("dataset", "check", folder / "data.yaml", code=1)
    lines = done.stdout.splitlines()
    assert lines[0] == f"{folder}/data.yaml: 36 images, 191 boxes, 5 classes"
    at = lines.index("error: a class that does not exist (1)  [label-class]")
    assert lines[at + 1 : at + 4] == [
        "  labels/train/001000.txt:6 has class 7, but there are 5 classes",
        "  meaning: the trainer leaves out the whole image with all its boxes, "
        "and says so in one log line",
        "  to do: classes count from 0; compare with names in data.yaml",
    ]
    assert lines[-1].startswith("not fit to train: 1 error, 0 warnings,")


def test_json_has_stable_keys(folder: Path, cli: Cli) -> None:
    (folder / "images" / "val" / "009000.jpg").unlink()
    table = json.loads(cli("dataset", "check", folder, "--json").stdout)
    assert set(table) == {
        "source", "passed", "imgsz", "images", "boxes", "splits", "classes", "findings",
    }  # fmt: skip
    assert table["passed"] is True and table["images"] == 35
    assert set(table["splits"][0]) == {
        "name", "images", "label_files", "unlabelled", "negatives", "boxes",
    }  # fmt: skip
    assert table["splits"][1]["label_files"] == 12
    (orphan,) = [f for f in table["findings"] if f["code"] == "orphan"]
    assert set(orphan) == {"code", "level", "title", "means", "do", "count", "places"}
    assert orphan["places"] == [
        {"place": "labels/val/009000.txt", "message": "has no photo", "images": []}
    ]
    assert table["classes"][0]["name"] == "red car" and set(table["classes"][0]["boxes"]) == {"train", "val"}  # fmt: skip
