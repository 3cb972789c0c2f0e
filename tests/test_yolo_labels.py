"""YOLO label files and the folders that they stand in: read whatever is there, write what was meant."""

import math
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onchip.dataset import folders, yolo
from onchip.dataset.samples import load
from onchip.dataset.yolo import Label
from onchip.errors import InputError
from onchip.writing import write_whole

parts = st.floats(0, 1, allow_nan=False)
sides = st.floats(1e-6, 1, allow_nan=False)
boxes = st.builds(Label, st.integers(0, 99), st.tuples(parts, parts, sides, sides))


@given(st.lists(boxes, max_size=20))
def test_what_is_written_reads_the_same(written: list[Label]) -> None:
    rows = yolo.parse("\n".join(map(yolo.text, written)))
    assert [r.fault for r in rows] == [""] * len(written)
    for row, label in zip(rows, written, strict=True):
        assert row.label is not None
        assert row.label.index == label.index
        assert row.label.box == pytest.approx(label.box, abs=1e-8)


@given(st.text(max_size=200))
def test_no_text_is_too_odd(text: str) -> None:
    for row in yolo.parse(text, classes=3):
        assert row.fault in ("", "text", "fields", "class", "range", "size")
        assert (row.fault == "") <= (row.label is not None)
        if row.label is not None and not row.fault:
            assert 0 <= row.label.index < 3
            assert all(map(math.isfinite, row.label.box))


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("0 0.5 0.5 0.2", "fields"),
        ("0", "fields"),
        ("0 0.5 0.5 0.2 0.2 0.9", "fields"),  # a prediction with its score
        ("car 0.5 0.5 0.2 0.2", "text"),
        ("0 0.5 nan 0.2 0.2", "text"),
        ("inf 0.5 0.5 0.2 0.2", "text"),
        ("3 0.5 0.5 0.2 0.2", "class"),
        ("-1 0.5 0.5 0.2 0.2", "class"),
        ("0.5 0.5 0.5 0.2 0.2", "class"),
        ("0 320 240 64 48", "range"),
        ("0 0.5 0.5 0.2 0", "size"),
        ("0 0.5 0.5 0.2 -0.1", "range"),
    ],
)
def test_each_fault_has_its_name(line: str, fault: str) -> None:
    (row,) = yolo.parse(line, classes=3)
    assert row.fault == fault
    assert row.why and row.hint


def test_a_polygon_has_the_box_around_it() -> None:
    (row,) = yolo.parse("1 0.1 0.2 0.5 0.2 0.5 0.6 0.3 0.8")
    assert row.label is not None
    assert row.label.corners == pytest.approx((0.1, 0.2, 0.5, 0.8))


def test_rows_that_stay_keep_their_own_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(
        "\ufeff1 0.1 0.2 0.5 0.2 0.5 0.6\r\nnonsense\n0 .5 .5 .25 .25", encoding="utf-8"
    )
    rows = yolo.read(path, 2)
    assert rows is not None
    yolo.write(path, [*rows, Label(1, (0.5, 0.5, 1, 1))])
    assert (
        path.read_text() == "1 0.1 0.2 0.5 0.2 0.5 0.6\nnonsense\n0 .5 .5 .25 .25\n1 0.5 0.5 1 1\n"
    )


def test_no_file_is_not_an_empty_file(tmp_path: Path) -> None:
    assert yolo.read(tmp_path / "a.txt") is None
    (tmp_path / "a.txt").write_text("\n")
    assert yolo.read(tmp_path / "a.txt") == ()
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not text"):
        yolo.read(tmp_path / "b.txt")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    real, link = tmp_path / "real.txt", tmp_path / "link.txt"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    write_whole(link, b"new")
    assert link.is_symlink() and real.read_text() == "new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="cannot write"):
        write_whole(tmp_path / "folder", b"new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "link.txt", "real.txt"]


def test_folders_are_found(tmp_path: Path) -> None:
    for name in (
        "images/train/a.jpg",
        "images/val/b b.PNG",
        "images/val/.c.jpg",
        "x.heic",
        "photos/ä.webp",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "list.txt").write_text("./images/train/a.jpg\n\n")
    notes = tmp_path / "data.yaml"
    notes.write_text("train: list.txt\nval: [images/val]\nnames: {1: b, 0: a}\n")
    for source in (notes, tmp_path):
        found = folders.find(source)
        assert found.names == ("a", "b")
        assert found.splits == {
            "train": (tmp_path / "images/train/a.jpg",),
            "val": (tmp_path / "images/val/b b.PNG",),
        }
    plain = folders.find(tmp_path / "photos")
    assert plain.names == ("a", "b")
    assert plain.splits == {"": (tmp_path / "photos/ä.webp",)}
    (tmp_path / "photos/none").mkdir()
    notes.write_text("val: photos/none\nnames: [a]\n")
    with pytest.raises(InputError, match="no val images"):
        load(notes)


# A list of lists of lists …, small as YAML and endless when it is spelled out.
BOMB = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 100))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("names: [a]", "names no images"),
        ("train: .", "has no class names"),
        ("train: gone\nnames: [a]", "names gone, which does not exist"),
        ("train: .\nnames: {1: a, 2: b}", "numbers its classes 1, 2"),
        ("- a", "holds no names"),
        ("a: [", "not a YAML file"),
        (f"train: {'x' * 5000}\nnames: [a]", "does not exist"),
        ("train: list.txt\nnames: [a]", "is not a text file"),
        (BOMB + "train: .\nnames: [*a99]", "more than texts and numbers under names"),
        (BOMB + "train: .\nnames: {0: *a99}", "more than texts and numbers under names"),
        (BOMB + "train: *a99\nnames: [a]", "more than texts and numbers under train"),
        (BOMB + "train: .\npath: *a99\nnames: [a]", "more than texts and numbers under path"),
        ("!!python/object/apply:os.system ['true']", "not a YAML file"),
    ],
)
def test_a_wrong_data_yaml_is_one_clear_line(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text(text)
    (tmp_path / "list.txt").write_bytes(b"a\0b.jpg\n")
    with pytest.raises(InputError, match=said):
        folders.find(tmp_path / "data.yaml")
