"""What onchip says that Ultralytics does with faulty labels and photos is what it does."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from onchip.demo import scenes
from onchip.train import standin

pytestmark = pytest.mark.train

GOOD = "0 0.5 0.5 0.2 0.2\n"
Verify = Callable[[bytes, str | None], tuple[int | None, str]]


@pytest.fixture(scope="module")
def jpeg(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("scene")
    scenes.write(folder, 1, 1000)
    return (folder / "images" / "val" / "001000.jpg").read_bytes()


@pytest.fixture
def verify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Verify:
    """Let Ultralytics verify one photo and its labels: how many boxes it keeps, or None."""
    pytest.importorskip("torch")
    for name in ("YOLO_OFFLINE", "YOLO_AUTOINSTALL", "YOLO_CONFIG_DIR", "ULTRALYTICS_SAFE_LOAD"):
        monkeypatch.setenv(name, "1")  # so that they are as before when this is done
    standin.prepare(tmp_path / "config")
    utils = pytest.importorskip("ultralytics.data.utils")
    image, labels = tmp_path / "images" / "a.jpg", tmp_path / "labels" / "a.txt"
    image.parent.mkdir()
    labels.parent.mkdir()

    def one(data: bytes, text: str | None) -> tuple[int | None, str]:
        image.write_bytes(data)
        labels.unlink(missing_ok=True)
        if text is not None:
            labels.write_text(text)
        found = utils.verify_image_label((str(image), str(labels), "", False, 5, 0, 2, False))
        said = "written over" if image.read_bytes() != data else str(found[-1])
        return (None if found[0] is None else len(found[1])), said

    return one


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("7 .5 .5 .1 .1", None),  # label-class
        ("0 320 180 64 36", None),  # label-range
        ("0 -0.2 .5 .1 .1", None),
        ("car .5 .5 .1 .1", None),  # label-text
        ("0 .5 .5 .1", None),  # label-fields
        ("0 .1 .1 .2 .1 .2 .2", None),  # mixed
        ("0 .5 .5 0 .1", 2),  # label-size
        ("0 1.005 .5 .1 .1", 2),  # edge
        ("0 .98 .5 .2 .2", 2),
        (GOOD.strip(), 1),  # twin: equal lines are dropped
    ],
)
def test_a_wrong_line_costs_the_whole_image(
    line: str, kept: int | None, verify: Verify, jpeg: bytes
) -> None:
    assert verify(jpeg, GOOD + line + "\n")[0] == kept


def test_photos(verify: Verify, jpeg: bytes) -> None:
    assert verify(jpeg, GOOD) == (1, "")
    assert verify(jpeg, None) == (0, "")  # missing: learned as a photo without objects
    assert verify(jpeg, "") == (0, "")
    assert verify(jpeg[: len(jpeg) // 2], GOOD)[0] is None
    assert verify(b"", GOOD)[0] is None
    made = BytesIO()
    Image.open(BytesIO(jpeg)).save(made, "GIF")
    assert verify(made.getvalue(), GOOD)[0] is None
    assert verify(jpeg + b"SEFT\0", GOOD) == (1, "written over")
