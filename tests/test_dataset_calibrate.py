"""Calibration photos are different, whole, and like what the camera sees; poor ones are told."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from onchip.dataset import calibrate
from onchip.dataset.calibrate import Calibration, Photo
from onchip.demo import scenes
from onchip.errors import InputError
from onchip.spec import InputSpec
from onchip.vision.preprocess import IMAGE_SUFFIXES, find_images, letterbox, read_image

from conftest import Cli


def quiet(what: str, done: int, total: int) -> None:
    pass


def look(paths: list[Path]) -> list[Photo]:
    return calibrate.look(paths, "look", quiet)


def light(path: Path) -> float:
    return float(cv2.cvtColor(read_image(path), cv2.COLOR_BGR2LAB)[..., 0].mean())


@pytest.fixture(scope="session")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("street")
    scenes.write(folder, 150, 1000, "train")
    scenes.write(folder, 40, 9000, "val")
    return folder


@pytest.fixture(scope="session")
def seen(street: Path) -> list[Photo]:
    return look(sorted((street / "images/train").glob("*.jpg")))


def judged(photos: list[Photo], like: list[Photo]) -> Calibration:
    return calibrate.judge(photos, like, Path("/"), (640, 640), quiet)


def codes(found: Calibration) -> set[str]:
    return {f.code for f in found.findings}


def test_chosen_photos_are_different_and_like_the_others(
    seen: list[Photo], street: Path, tmp_path: Path
) -> None:
    copies = [tmp_path / f"copy{n}.jpg" for n in range(20)]
    for number, path in enumerate(copies):
        picture = read_image(seen[number].path)
        cv2.imwrite(str(path), picture[::2, ::2] if number % 2 else picture)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    cv2.imwrite(str(tmp_path / "black.png"), np.zeros((90, 90, 3)))
    like = look(sorted((street / "images/val").glob("*.jpg")))
    extra = look([*copies, tmp_path / "broken.jpg", tmp_path / "black.png"])
    chosen = calibrate.choose([*extra, *seen], like, 64, quiet)
    assert len({p.path for p in chosen}) == 64
    found = judged(list(chosen), like)
    assert not found.findings
    assert found.light < 10 and found.colour < 2
    again = calibrate.choose([*extra, *seen], like, 64, quiet)
    assert [p.path for p in again] == [p.path for p in chosen]


def test_photos_of_the_night_are_chosen_for_the_night(seen: list[Photo]) -> None:
    by_light = sorted(seen, key=lambda p: light(p.path))
    night, rest = by_light[:20], [p for p in by_light if p not in by_light[:20:2]]
    chosen = calibrate.choose(rest, night, 10, quiet)
    dark = {p.path for p in by_light[:40]}
    assert len([p for p in chosen if p.path in dark]) >= 8


def test_too_few_are_told(seen: list[Photo]) -> None:
    with pytest.raises(InputError, match=r"151 photos wanted, but only 150 of 150") as error:
        calibrate.choose(seen, [], 151, quiet)
    assert error.value.hint.endswith("-n 150")


def edited(photos: list[Photo], folder: Path, edit: object) -> list[Photo]:
    folder.mkdir()
    for photo in photos:
        cv2.imwrite(str(folder / f"{photo.path.stem}.png"), edit(read_image(photo.path)))  # type: ignore[operator]
    return look(sorted(folder.iterdir()))


@pytest.mark.parametrize(
    ("code", "edit"),
    [
        ("calib-light", lambda i: (i * 0.45).astype(np.uint8)),
        ("calib-light", lambda i: np.clip(i * 1.3 + 50, 0, 255).astype(np.uint8)),
        ("calib-colour", lambda i: cv2.add(cv2.subtract(i, (0, 0, 30, 0)), (30, 0, 0, 0))),
        ("calib-grey", lambda i: cv2.cvtColor(cv2.cvtColor(i, 6), 8)),
        ("calib-shape", lambda i: i[:, : i.shape[0] // 3]),
        ("calib-exposure", lambda i: (i * 0.02).astype(np.uint8)),
    ],
)
def test_a_set_unlike_the_others_is_told(
    code: str, edit: object, seen: list[Photo], tmp_path: Path
) -> None:
    assert not judged(seen[:70], seen[70:]).findings
    found = codes(judged(edited(seen[:70], tmp_path / "edited", edit), seen[70:]))
    assert code in found, found
    if code in ("calib-colour", "calib-shape"):
        assert found == {code}


def test_broken_few_and_copies_are_told(seen: list[Photo], tmp_path: Path) -> None:
    shutil.copy(seen[0].path, tmp_path / "copy.jpg")
    (tmp_path / "cut.jpg").write_bytes(seen[1].path.read_bytes()[:5000])
    poor = [*seen[:5], *look([tmp_path / "copy.jpg", tmp_path / "cut.jpg", tmp_path / "gone.jpg"])]
    found = judged(poor, [])
    assert codes(found) == {"calib-few", "calib-copies", "calib-broken"}
    assert sum(f.code == "calib-broken" for f in found.findings) == 2


def test_the_folder_and_the_list_are_what_a_build_takes(street: Path, cli: Cli) -> None:
    done = cli("dataset", "calibrate", street / "data.yaml", "-n", 24, "-o", "calib")
    assert "build with: onchip build best.onnx -t TARGET -c calib" in done.stdout
    folder = cli.folder / "calib"
    photos = find_images(folder)
    assert len(photos) == 24
    train = {p.read_bytes() for p in (street / "images/train").iterdir()}
    assert all(p.read_bytes() in train for p in photos)  # not val, and not encoded anew
    cli("dataset", "calibrate", street / "data.yaml", "-n", 24, "-o", "lists/calib.txt")
    listed = find_images(cli.folder / "lists/calib.txt")
    assert [p.read_bytes() for p in listed] == [p.read_bytes() for p in photos]
    done = cli("dataset", "calibrate", street / "data.yaml", "-n", 24, "-o", "calib", code=2)
    assert "is there already" in done.stderr
    done = cli(
        "dataset", "calibrate", "calib", "--check", "--like", street / "images/val", "--json"
    )
    table = json.loads(done.stdout)
    assert set(table) == {
        "out", "photos", "compared_with", "light", "colour", "bars", "array", "passed", "findings",
    }  # fmt: skip
    assert table["compared_with"] == 40 and table["passed"]
    assert [f["code"] for f in table["findings"]] == ["calib-few"]
    cli("dataset", "calibrate", "lists/calib.txt", "--check", code=0)
    (folder / "0001-bad.jpg").write_bytes(b"")
    cli("dataset", "calibrate", "calib", "--check", code=1)


def test_a_list_takes_no_other_file_s_place(seen: list[Photo], tmp_path: Path) -> None:
    label = tmp_path / "a.txt"
    label.write_text("0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(InputError, match="is no list of photos"):
        calibrate.write_list(seen, label)
    assert label.read_text() == "0 0.5 0.5 0.1 0.1\n"
    for _ in range(2):
        calibrate.write_list(seen, tmp_path / "calib.txt")


def test_the_array_is_what_the_network_sees(street: Path, cli: Cli) -> None:
    cli(
        "dataset", "calibrate", street, "-n", 5, "--npy", "c/calib.npy", "--imgsz", "320x192", "-o", "l.txt"
    )  # fmt: skip
    array = np.load(cli.folder / "c/calib.npy", allow_pickle=False)
    assert array.shape == (5, 192, 320, 3) and array.dtype == np.uint8
    photos = find_images(cli.folder / "l.txt")
    spec = InputSpec(name="x", width=320, height=192)
    for row, path in zip(array, photos, strict=True):
        canvas, _ = letterbox(read_image(path), spec)
        assert np.array_equal(row, canvas[..., ::-1])
    assert [p.name for p in (cli.folder / "c").iterdir()] == ["calib.npy"]


def test_lists_of_photos_for_any_verb(tmp_path: Path) -> None:
    (tmp_path / "a b.jpg").touch()
    notes = tmp_path / "photos.txt"
    notes.write_text("./a b.jpg\n\n/else/c.PNG\n", encoding="utf-8")
    assert find_images(notes) == [tmp_path / "a b.jpg", Path("/else/c.PNG")]
    assert all(p.suffix.lower() in IMAGE_SUFFIXES for p in find_images(notes))
    for text, said in (("", "lists no images"), ("0 0.5 0.5 0.1 0.1", "is no list of images")):
        notes.write_text(text)
        with pytest.raises(InputError, match=said):
            find_images(notes)
    notes.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot read the list"):
        find_images(notes)
