"""Splits keep alike photos together, deal every class its share, and are the same anywhere."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from onchip.dataset import coco, folders, layout, yolo
from onchip.dataset.boxes import Boxes
from onchip.dataset.check import check
from onchip.dataset.facts import Facts
from onchip.dataset.samples import load
from onchip.dataset.seen import Seen, look
from onchip.dataset.source import Source, open_source
from onchip.dataset.split import Split, split
from onchip.demo import scenes
from onchip.errors import InputError

from conftest import Cli


def quiet(what: str, done: int, total: int) -> None:
    pass


@pytest.fixture(scope="session")
def scene_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes as `onchip annotate` leaves them: labels beside the photos, classes in classes.txt."""
    folder = tmp_path_factory.mktemp("photos")
    scenes.write(folder / "set", 60, 1000, "train")
    for path in (folder / "set").glob("*/train/*"):
        path.rename(folder / path.name)
    shutil.rmtree(folder / "set")
    (folder / "classes.txt").write_text("\n".join(scenes.LABELS))
    return folder


@pytest.fixture
def photos(scene_photos: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(scene_photos, tmp_path / "photos"))


def dealt(folder: Path, **options: object) -> tuple[Source, Split]:
    source = open_source(folder)
    seen = look(source, 640, quiet)
    return source, split(seen, source.root, **options)  # type: ignore[arg-type]


def image(number: int, classes: Sequence[int], digest: int | None = None) -> Seen:
    """An image without a picture: all that dealing looks at is its labels and its bytes."""
    facts = Facts(size=(64, 48), digest=(number if digest is None else digest).to_bytes(8, "big"))
    values = np.full((len(classes), 4), 0.1, np.float32)
    path = Path(f"/set/{number:05}.jpg")
    return Seen(path, ("",), facts, Boxes(values, np.asarray(classes, np.int32)), True, ())


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images without a small picture are like no other."""
    blank = np.zeros((64, 64, 3), np.uint8)
    real = Facts.picture
    monkeypatch.setattr(Facts, "picture", lambda self: real(self) if self.thumb else blank)


sets = st.lists(st.lists(st.integers(0, 4), max_size=5), min_size=20, max_size=120)
shares = st.tuples(st.sampled_from([0.1, 0.2, 0.3]), st.sampled_from([0.0, 0.1, 0.2]))


@given(sets, shares, st.integers(0, 99))
def test_every_image_is_dealt_once(
    classes: list[list[int]], wanted: tuple[float, float], seed: int
) -> None:
    seen = [image(i, c) for i, c in enumerate(classes)]
    try:
        made = split(seen, Path("/set"), val=wanted[0], test=wanted[1], seed=seed)
    except InputError:  # of few images, a small share may be none
        assume(len(seen) * min(w for w in wanted if w) >= 4)
        raise
    everywhere = [p for paths in made.parts.values() for p in paths]
    assert sorted(everywhere) == [one.path for one in seen]
    again = split(list(reversed(seen)), Path("/set"), val=wanted[0], test=wanted[1], seed=seed)
    assert again.parts == made.parts


@pytest.mark.parametrize("seed", range(40))
def test_every_class_has_its_share(seed: int) -> None:
    """Data sets as they come; for some that are made on purpose no dealing keeps all shares."""
    random = np.random.default_rng(seed)
    often = random.uniform(0.02, 0.6, 5)  # how often each class is in a photo
    seen = [image(i, np.nonzero(random.random(5) < often)[0].tolist()) for i in range(120)]
    made = split(seen, Path("/set"), val=0.2, test=0.1, seed=seed)
    part = {p: name for name, paths in made.parts.items() for p in paths}
    for label in range(-1, 5):
        has = [s for s in seen if (label in s.boxes.classes if label >= 0 else not len(s.boxes))]
        counts = Counter(part[one.path] for one in has)
        for name, share in made.shares.items():
            assert abs(counts[name] - share * len(has)) <= max(2, 0.1 * len(has)), (label, name)


@given(st.lists(st.integers(0, 15), min_size=40, max_size=90), st.integers(0, 9))
def test_no_group_is_torn(digests: list[int], seed: int) -> None:
    """Copies of one file are one group, whatever else they are called."""
    seen = [image(i, [i % 3], digest) for i, digest in enumerate(digests)]
    try:
        made = split(seen, Path("/set"), val=0.3, seed=seed)
    except InputError:
        assume(max(Counter(digests).values()) < 0.3 * len(digests))
        raise
    home: dict[int, set[str]] = {}
    for name, paths in made.parts.items():
        for path in paths:
            home.setdefault(digests[int(path.stem)], set()).add(name)
    assert all(len(names) == 1 for names in home.values())
    assert {frozenset(g) for g in made.groups} == {
        frozenset(seen[i].path for i, d in enumerate(digests) if d == digest)
        for digest, n in Counter(digests).items()
        if n > 1
    }


def test_scenes_are_dealt_and_train(photos: Path, cli: Cli) -> None:
    done = cli("dataset", "split", photos, "--val", "0.25", "--test", "0.1")
    notes = photos / "split" / "data.yaml"
    assert done.stdout.splitlines()[0] == (
        f"{notes}: train 38, val 15, test 7 images; 0 groups of like ones kept together"
    )
    assert not list((photos / "split").glob("*.jpg"))
    for name, count in (("train", 38), ("val", 15), ("test", 7)):
        data = load(notes, name)
        assert len(data.samples) == count and data.labels == scenes.LABELS
        assert all(s.classes for s in data.samples)
    assert check(notes).passed
    record = json.loads((photos / "split" / "split.json").read_text())
    assert record["seed"] == 0 and record["images"] == {"train": 38, "val": 15, "test": 7}
    moved = photos.rename(photos.with_name("elsewhere"))  # lists are relative
    assert len(load(moved / "split" / "data.yaml").samples) == 15
    _, again = dealt(moved, val=0.25, test=0.1)
    assert again.digest(moved) == record["digest"]


def test_what_is_alike_stays_together(photos: Path) -> None:
    shown = sorted(photos.glob("*.jpg"))[:5]
    for path in shown:
        picture = cv2.imread(str(path))
        for number, edit in enumerate((picture[::2, ::2], np.clip(picture * 1.1, 0, 255), picture)):
            target = path.with_name(f"{chr(97 + number)}-{path.name}")
            cv2.imwrite(str(target), edit)
            shutil.copy(yolo.place(path), yolo.place(target))
    _, made = dealt(photos, val=0.3)
    groups = {p.name[-10:]: {q.name for q in g} for g in made.groups for p in g}
    assert set(groups) == {p.name for p in shown}
    assert all(len(names) == 4 for names in groups.values())
    found = check(layout.lists(open_source(photos), made, photos / "split"))
    assert not {"leak", "near-leak"} & {f.code for f in found.findings}


def test_a_burst_stays_together_and_a_still_camera_is_cut_in_runs(tmp_path: Path) -> None:
    street = scenes.render(5)[0]
    for number in range(40):
        frame = street.copy()
        frame[250:330, 12 * number : 12 * number + 90] = (20, 30, 200)  # something drives past
        cv2.imwrite(str(tmp_path / f"cam_{number:04}.jpg"), frame)
    for number in range(60):
        cv2.imwrite(
            str(tmp_path / f"other{chr(97 + number % 26)}{number}x.jpg"),
            scenes.render(700 + number)[0],
        )
    for path in tmp_path.glob("*.jpg"):
        path.with_suffix(".txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "classes.txt").write_text("car")
    _, made = dealt(tmp_path)
    camera = [g for g in made.groups if g[0].name.startswith("cam")]
    assert sum(map(len, camera)) == 40
    assert all(len(g) == 10 for g in camera)  # a tenth of all
    for group in camera:
        numbers = sorted(int(p.stem[4:]) for p in group)
        assert numbers == list(range(numbers[0], numbers[0] + 10))
    assert "long bursts" in made.notes[0]


def test_groups_by_name(photos: Path) -> None:
    for number, path in enumerate(sorted(photos.glob("*.jpg"))):
        target = path.with_name(f"cam{number % 6}_{path.name}")
        path.rename(target)
        yolo.place(path).rename(yolo.place(target))
    _, made = dealt(photos, group_by=r"(cam\d)_", val=0.3)
    home = {p.name[:4]: name for name, paths in made.parts.items() for p in paths}
    assert all(home[p.name[:4]] == name for name, paths in made.parts.items() for p in paths)
    with pytest.raises(InputError, match="is no pattern"):
        dealt(photos, group_by="(")
    with pytest.raises(InputError, match="finds nothing"):
        dealt(photos, group_by="zebra")
    with pytest.raises(InputError, match="largest group that stays together has 60 of 60"):
        dealt(photos, group_by="cam")


def test_what_nobody_labelled_and_what_is_broken_is_left_out(photos: Path) -> None:
    paths = sorted(photos.glob("*.jpg"))
    yolo.place(paths[0]).unlink()
    paths[1].write_bytes(b"")
    _, made = dealt(photos)
    everywhere = {p for ps in made.parts.values() for p in ps}
    assert everywhere == set(paths[2:])
    assert made.notes == (
        "1 photo that nobody labelled left out; --unlabelled deals them too",
        "1 file that cannot be read left out",
    )
    _, made = dealt(photos, unlabelled=True)
    assert {p for ps in made.parts.values() for p in ps} == {paths[0], *paths[2:]}
    for path in photos.glob("[0-9]*.txt"):
        path.unlink()
    with pytest.raises(InputError, match="0 labelled images cannot be split in 2"):
        dealt(photos)


def test_another_split_is_not_written_over(photos: Path, cli: Cli) -> None:
    cli("dataset", "split", photos)
    out = photos / "split"
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    cli("dataset", "split", photos)  # the same again
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    done = cli("dataset", "split", photos, "--seed", 1, "--test", "0.2", code=2)
    assert "holds another split" in done.stderr and "--force" in done.stderr
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    cli("dataset", "split", photos, "--seed", 1, "--test", "0.2", "--force")
    assert (out / "test.txt").exists()
    cli("dataset", "split", photos, "--seed", 1, "--force")
    assert not (out / "test.txt").exists()  # or data.yaml would not name it, and people would
    (out / "split.json").unlink()
    done = cli("dataset", "split", photos, "--force", code=2)
    assert "that no split wrote" in done.stderr
    done = cli("dataset", "split", out / "data.yaml", code=2)
    assert "is split already" in done.stderr


@pytest.mark.parametrize("option", ["--copy", "--link"])
def test_folders(option: str, photos: Path, cli: Cli, tmp_path: Path) -> None:
    odd = photos / "two\nlines 😀 'q'.jpg"
    (photos / "001000.jpg").rename(odd)
    (photos / "001000.txt").rename(yolo.place(odd))
    (photos / "cam 2").mkdir()
    for name in ("001001.jpg", "001001.txt"):
        (photos / name).rename(photos / "cam 2" / name.replace("001001", "001002"))
    done = cli("dataset", "split", photos, code=2)
    assert "fits on no line of a list" in done.stderr and "--link" in done.stderr
    before = {p: p.read_bytes() for p in photos.rglob("*.*")}
    cli("dataset", "split", photos, option, tmp_path / "out")
    assert {p: p.read_bytes() for p in photos.rglob("*.*")} == before
    found = folders.find(tmp_path / "out")
    assert len(found.images) == 60 and set(found.splits) == {"train", "val"}
    assert all(p.is_symlink() == (option == "--link") for p in found.images)
    written = Counter(p.read_bytes() for p in found.images)
    assert written == Counter(data for p, data in before.items() if p.suffix == ".jpg")
    report = check(tmp_path / "out")
    assert report.passed and not {f.code for f in report.findings} & {"missing", "orphan"}
    assert sum(p.boxes for p in report.parts) == sum(p.boxes for p in check(photos).parts)
    done = cli("dataset", "split", photos, option, tmp_path / "out", code=2)
    assert "is there already" in done.stderr
    done = cli("dataset", "split", photos, "--copy", "a", "--link", "b", code=2)
    assert "--copy or --link?" in done.stderr


def test_labels_in_a_folder_of_their_own_are_found(photos: Path, cli: Cli, tmp_path: Path) -> None:
    (photos / "labels").mkdir()
    for path in photos.glob("[0-9]*.txt"):
        path.rename(photos / "labels" / path.name)
    done = cli("dataset", "split", photos, "--unlabelled", code=2)
    assert "trainers do not find labels/" in done.stderr
    cli("dataset", "split", photos, "--unlabelled", "--copy", tmp_path / "out")
    assert sum(p.boxes for p in check(tmp_path / "out").parts) > 100


def test_a_document_is_split_into_folders(photos: Path, cli: Cli, tmp_path: Path) -> None:
    source = open_source(photos)
    sizes = {p: cv2.imread(str(p)).shape[1::-1] for p in source.images}
    entries = [(p.name, (sizes[p][0], sizes[p][1]), source.rows(p) or ()) for p in source.images]
    document = photos / "labels.json"
    document.write_bytes(coco.document(source.names, entries))
    done = cli("dataset", "split", document, code=2)
    assert "--link OUT or --copy OUT" in done.stderr
    cli("dataset", "split", document, "--link", tmp_path / "out")
    names = {p.name: p for p in folders.find(tmp_path / "out").images}
    for path in source.images:
        one, other = yolo.read(yolo.place(path)), yolo.read(yolo.place(names[path.name]))
        assert one is not None and other is not None
        for a, b in zip(one, other, strict=True):
            assert a.label is not None and b.label is not None
            assert (a.label.index, a.label.box) == (
                b.label.index,
                pytest.approx(b.label.box, abs=1e-6),
            )


@pytest.mark.parametrize("shares", [(0, 0), (1, 0), (0.6, 0.4), (-0.1, 0.5)])
def test_shares_that_leave_nothing(shares: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="nothing to train on"):
        split([image(i, [0]) for i in range(9)], Path("/set"), val=shares[0], test=shares[1])


def test_a_seed_below_zero_is_refused(photos: Path, cli: Cli) -> None:
    assert "--seed -1 is no seed" in cli("dataset", "split", photos, "--seed", -1, code=2).stderr


def test_lists_behind_a_link_lead_to_the_photos(photos: Path, tmp_path: Path) -> None:
    """The system takes ../ from where a link leads to, onchip from its name."""
    (tmp_path / "other/disk").mkdir(parents=True)
    (tmp_path / "runs").symlink_to(tmp_path / "other/disk")
    source, found = dealt(photos)
    notes = layout.lists(source, found, tmp_path / "runs/split")
    assert len(load(notes, "train").samples) == len(found.parts["train"])
    for line in (notes.parent / "train.txt").read_text().splitlines():
        assert (notes.parent / line).is_file()


def test_a_disk_that_is_full_leaves_no_folder(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, made = dealt(photos)
    copied = []

    def full(image: Path, target: Path) -> None:
        copied.append(target)
        if len(copied) > 20:
            raise OSError(28, "No space left on device")
        target.write_bytes(b"")

    monkeypatch.setattr(shutil, "copy2", full)
    with pytest.raises(InputError, match="No space left"):
        layout.as_yolo(source, made.parts, tmp_path / "out", link=False, progress=quiet)
    assert [p.name for p in tmp_path.iterdir()] == ["photos"]


@pytest.mark.train
def test_ultralytics_reads_the_lists(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from onchip.train import standin

    pytest.importorskip("torch")
    for name in ("YOLO_OFFLINE", "YOLO_AUTOINSTALL", "YOLO_CONFIG_DIR", "ULTRALYTICS_SAFE_LOAD"):
        monkeypatch.setenv(name, "1")
    standin.prepare(photos / "config")
    utils = pytest.importorskip("ultralytics.data.utils")
    base = pytest.importorskip("ultralytics.data.base")
    source, made = dealt(photos)
    notes = layout.lists(source, made, photos / "split")
    monkeypatch.chdir(photos.parent)  # from wherever it runs
    table = utils.check_det_dataset(str(notes))
    for part in ("train", "val"):
        asked = SimpleNamespace(prefix="", fraction=1.0)
        files = base.BaseDataset.get_img_files(asked, table[part])
        assert {Path(os.path.normpath(f)) for f in files} == set(made.parts[part])
        assert all(Path(p).is_file() for p in utils.img2label_paths(files))
    assert list(table["names"].values()) == list(scenes.LABELS)
    assert yaml.safe_load(notes.read_text())["train"] == "train.txt"
