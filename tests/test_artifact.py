"""The artifact: what is saved is what is loaded, and anything else is refused."""

import io
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onchip.artifact import FORMAT, MANIFEST, Artifact, load, save
from onchip.build import parse
from onchip.errors import InputError, OnchipError


@pytest.fixture(scope="module")
def made(tiny: Path) -> Artifact:
    return parse(tiny, "cpu")


@pytest.fixture(scope="module")
def saved(made: Artifact, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "a.onchip"
    save(made, path)
    return path.read_bytes()


def test_round_trip(made: Artifact, tmp_path: Path) -> None:
    save(made, tmp_path / "a.onchip")
    again = load(tmp_path / "a.onchip")
    assert again.manifest == made.manifest
    assert dict(again.payloads) == dict(made.payloads)


def test_same_content_same_bytes(made: Artifact, saved: bytes, tmp_path: Path) -> None:
    save(made, tmp_path / "b.onchip")
    assert (tmp_path / "b.onchip").read_bytes() == saved


def test_is_an_ordinary_readable_file(made: Artifact, tmp_path: Path) -> None:
    path = tmp_path / "a.onchip"
    save(made, path)
    assert stat.S_IMODE(path.stat().st_mode) & 0o444
    assert [p.name for p in tmp_path.iterdir()] == ["a.onchip"]
    assert zipfile.ZipFile(path).testzip() is None


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(place=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
def test_any_changed_byte_is_seen_or_harmless(
    place: float, change: int, made: Artifact, saved: bytes, tmp_path: Path
) -> None:
    broken = bytearray(saved)
    broken[int(place * len(broken))] ^= change
    path = tmp_path / "x.onchip"
    path.write_bytes(broken)
    try:
        again = load(path)
    except InputError:
        return
    # bytes that carry nothing (a time stamp, a permission) may change, what is read may not
    assert again.manifest == made.manifest
    assert dict(again.payloads) == dict(made.payloads)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(part=st.floats(0, 1, exclude_max=True))
def test_any_truncation_is_refused(part: float, saved: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.onchip"
    path.write_bytes(saved[: int(part * len(saved))])
    with pytest.raises(InputError, match="not a whole"):
        load(path)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=400))
def test_noise_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.onchip"
    path.write_bytes(data)
    with pytest.raises(InputError):
        load(path)


def hostile(*entries: tuple[str, bytes], compress: bool = False) -> bytes:
    file = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", kind) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (hostile((MANIFEST, b"{}"), ("../../escape", b"x")), "not a name that an artifact uses"),
        (hostile((MANIFEST, b"{}"), ("/etc/passwd", b"x")), "not a name that an artifact uses"),
        (hostile((MANIFEST, bytes(20_000_000)), compress=True), "is compressed"),
        (hostile(("other", b"x")), "has no manifest"),
        (hostile((MANIFEST, b"{}")), "manifest was altered"),
        (hostile(*((f"f{i}", b"") for i in range(100))), "list of files"),
    ],
)
def test_hostile_archives(data: bytes, text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.onchip"
    path.write_bytes(data)
    with pytest.raises(InputError, match=text):
        load(path)


def test_swapped_payload_is_refused(made: Artifact, tmp_path: Path) -> None:
    payloads = {**made.payloads, "cut": b"another graph"}
    save(Artifact(made.manifest, payloads), tmp_path / "x.onchip")
    with pytest.raises(InputError, match=r"cut\.onnx was altered"):
        load(tmp_path / "x.onchip")


def test_places_that_cannot_be_written(made: Artifact, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write"):
        save(made, tmp_path / "none" / "a.onchip")
    with pytest.raises(OnchipError):
        save(made, Path("/proc/a.onchip"))


def test_full_disk_keeps_the_old_file(
    made: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.onchip"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="No space left"):
        save(made, path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.onchip"]


def test_newer_format_says_update(made: Artifact, tmp_path: Path) -> None:
    path = tmp_path / "a.onchip"
    save(made, path)
    with zipfile.ZipFile(path) as archive:
        data = archive.read(MANIFEST).replace(b'"format": %d' % FORMAT, b'"format": 99')
        entries = [(e.filename, archive.read(e)) for e in archive.infolist()[1:]]
    import hashlib

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(MANIFEST, data)
        for name, content in entries:
            archive.writestr(name, content)
        archive.comment = hashlib.sha256(data).hexdigest().encode()
    with pytest.raises(InputError, match="format 99"):
        load(path)


def test_stage_keys_skip_only_what_did_not_change(tiny: Path, photos: Path) -> None:
    from onchip.build import Options, build
    from onchip.vision.preprocess import find_images

    images = find_images(photos)
    first = build(tiny, "cpu", images)
    again = build(tiny, "cpu", images, older=first)
    assert [s.skipped for s in again.manifest.stages] == [True, True, True]
    other = build(tiny, "cpu", images[:3], older=first)
    assert not other.manifest.stages[1].skipped
    floats = build(tiny, "cpu", images, options=Options(max_float=0), older=first)
    assert floats.manifest.stages[0].skipped is False or floats.manifest.stages[1].skipped is False
    np.testing.assert_array_equal(first.payload("program"), again.payload("program"))
