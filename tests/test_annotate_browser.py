"""The annotator as a person uses it, in a real Chromium: what is drawn is what is in the file."""

import errno
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("uvicorn", reason="pip install 'onchip[annotate]'")
pytest.importorskip("playwright", reason="make test ALL=1 tries pages in a Chromium")

from playwright.sync_api import expect

from onchip.dataset import yolo
from onchip.demo.scenes import write
from onchip.vision.preprocess import read_image

from annotating import Running, photo, running

pytestmark = pytest.mark.browser

WIDE, TALL = 640, 360
MARGIN = 16  # around a photo that is shown whole
Corners = tuple[float, float, float, float]


class Person:
    """Sits before one page. Points are in pixels of the photo."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.wrong: list[str] = []
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("console", self._heard)
        self.scale = self.left = self.top = 0.0

    def _heard(self, message: Any) -> None:
        # A browser notes every answer that is no success; what the page makes of it is tested.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.wrong.append(message.text)

    def open(self, url: str) -> "Person":
        self.page.goto(url)
        expect(self.page.locator("#where")).to_contain_text(" / ")
        self.ready()
        return self

    def ready(self, size: tuple[int, int] = (WIDE, TALL)) -> None:
        """Wait for a photo of a size, and note where it is."""
        expect(self.page.locator("#where")).to_contain_text(f"{size[0]} × {size[1]}")
        place = self.page.locator("#boxes").bounding_box()
        room = place["width"] - 2 * MARGIN, place["height"] - 2 * MARGIN
        self.scale = min(room[0] / size[0], room[1] / size[1])
        self.left = place["x"] + (place["width"] - size[0] * self.scale) / 2
        self.top = place["y"] + (place["height"] - size[1] * self.scale) / 2

    def at(self, x: float, y: float) -> tuple[float, float]:
        return self.left + x * self.scale, self.top + y * self.scale

    def drag(self, corners: Corners, button: str = "left") -> None:
        self.page.mouse.move(*self.at(*corners[:2]))
        self.page.mouse.down(button=button)
        self.page.mouse.move(*self.at((corners[0] + corners[2]) / 2, corners[1]))
        self.page.mouse.move(*self.at(*corners[2:]))
        self.page.mouse.up(button=button)

    def click(self, x: float, y: float) -> None:
        self.page.mouse.click(*self.at(x, y))

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def where(self, text: str) -> None:
        expect(self.page.locator("#where")).to_contain_text(text)

    def save(self) -> None:
        """Press Space and wait until the next photo is there."""
        before = self.page.locator("#where").text_content().split(" / ")[0]
        self.press("Space")
        expect(self.page.locator("#where")).not_to_have_text(re.compile(rf"^{before} / "))
        expect(self.page.locator("#where")).to_contain_text("×")

    def stay(self) -> None:
        """Save without going on."""
        self.press("Control+s")
        expect(self.page.locator(".toast", has_text="Saved.").last).to_be_visible()

    def hears(self, text: str) -> None:
        expect(self.page.locator("#toasts")).to_contain_text(text)

    def boxes(self, *names: str) -> None:
        """What the list of boxes says; proposals are in it too."""
        expect(self.page.locator("#list .row b")).to_have_text(list(names))


@pytest.fixture
def people(chromium: Any) -> Iterator[Callable[..., Person]]:
    """Makes people; those with the same context share a browser, as two tabs do."""
    contexts: list[Any] = []
    made: list[Person] = []

    def come(context: Any = None, **options: Any) -> Person:
        if context is None:
            context = chromium.new_context(
                **{"viewport": {"width": 1280, "height": 720}, **options}
            )
            context.set_default_timeout(15_000)
            contexts.append(context)
        made.append(Person(context.new_page()))
        return made[-1]

    yield come
    for context in contexts:
        context.close()
    assert [p.wrong for p in made] == [[] for _ in made]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four photos and three classes."""
    place = tmp_path / "photos"
    for number in range(4):
        photo(place / f"{number}.jpg", WIDE, TALL, seed=number)
    (place / "classes.txt").write_text("car\nperson\nsign\n")
    return place


@pytest.fixture
def site(folder: Path) -> Iterator[Running]:
    with running(folder) as found:
        yield found


def line(index: int, corners: Corners, size: tuple[int, int] = (WIDE, TALL)) -> str:
    x1, x2 = corners[0] / size[0], corners[2] / size[0]
    y1, y2 = corners[1] / size[1], corners[3] / size[1]
    return yolo.text(yolo.Label(index, ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1))) + "\n"


def text(folder: Path, name: str = "0") -> str:
    return (folder / f"{name}.txt").read_text()


def pixels(
    folder: Path, name: str = "0", size: tuple[int, int] = (WIDE, TALL)
) -> list[list[float]]:
    """The corners in a file, in pixels."""
    rows = yolo.read(folder / f"{name}.txt") or ()
    found = [row.label.corners for row in rows if row.label is not None]
    return [[round(v * size[i % 2], 3) for i, v in enumerate(c)] for c in found]


# ---- the five things that it is for


def test_what_is_drawn_is_in_the_file_to_the_pixel(
    site: Running, folder: Path, people: Callable[..., Person]
) -> None:
    ann = people().open(site.url)
    ann.drag((100, 50, 300, 200))
    ann.press("2")
    ann.drag((500, 340, 400, 210))  # drawn backwards
    ann.drag((620, 300, 900, 900))  # out of the photo
    ann.boxes("car", "sign", "sign")
    ann.save()
    ann.where("2 / 4")
    expected = (
        line(0, (100, 50, 300, 200)) + line(2, (400, 210, 500, 340)) + line(2, (620, 300, 640, 360))
    )
    assert text(folder) == expected
    expect(ann.page.locator("#done")).to_have_text("1 of 4 done")
    assert not (folder / "1.txt").exists()


def test_backspace_removes_the_last_box_and_escape_leaves_without_saving(
    site: Running, folder: Path, people: Callable[..., Person]
) -> None:
    ann = people().open(site.url)
    ann.drag((10, 10, 100, 100))
    ann.press("1")
    ann.drag((200, 10, 300, 100))
    ann.boxes("car", "person")
    ann.press("Backspace")
    ann.boxes("car")
    ann.press("Escape")
    ann.where("2 / 4 · 1.jpg")
    assert not (folder / "0.txt").exists()
    ann.page.locator(".toast button").last.click()  # nothing is lost
    ann.where("1 / 4 · 0.jpg")
    ann.boxes("car")
    ann.where("not saved")
    ann.save()
    assert text(folder) == line(0, (10, 10, 100, 100))


def test_escape_gives_up_a_drag_and_a_choice_before_it_leaves(
    site: Running, people: Callable[..., Person]
) -> None:
    ann = people().open(site.url)
    ann.page.mouse.move(*ann.at(50, 50))
    ann.page.mouse.down()
    ann.page.mouse.move(*ann.at(150, 150))
    ann.press("Escape")
    ann.page.mouse.up()
    ann.boxes()
    ann.drag((50, 50, 150, 150))
    ann.click(100, 100)
    expect(ann.page.locator("#list [aria-current]")).to_have_count(1)
    ann.press("Escape")
    expect(ann.page.locator("#list [aria-current]")).to_have_count(0)
    ann.where("1 / 4")


def test_space_without_boxes_is_a_negative_that_can_be_taken_back(
    site: Running, folder: Path, people: Callable[..., Person]
) -> None:
    ann = people().open(site.url)
    ann.save()
    assert text(folder) == ""
    ann.page.locator(".toast button").last.click()
    ann.where("1 / 4 · 0.jpg · 640 × 360 · not labelled")
    assert not (folder / "0.txt").exists()
    ann.press("n")
    ann.where("2 / 4")
    assert text(folder) == ""
    ann.drag((10, 10, 60, 60))
    ann.press("n")
    ann.hears("N again removes it")
    ann.press("n")
    ann.where("3 / 4")
    assert text(folder, "1") == ""


def test_a_held_key_does_not_save_photo_after_photo(
    site: Running, folder: Path, people: Callable[..., Person]
) -> None:
    ann = people().open(site.url)
    for _ in range(5):
        ann.page.keyboard.down("Space")  # the same press, repeated by the keyboard
    ann.page.keyboard.up("Space")
    ann.where("2 / 4")
    assert [p.name for p in folder.glob("?.txt")] == ["0.txt"]


# ---- boxes


def test_boxes_are_moved_resized_and_given_a_class(
    site: Running, folder: Path, people: Callable[..., Person]
) -> None:
    ann = people().open(site.url)
    ann.drag((100, 100, 200, 180))
    ann.click(150, 140)
    ann.drag((150, 140, 180, 120))  # move
    ann.drag((230, 160, 260, 200))  # the corner below right
    ann.drag((130, 140, 110, 140))  # the left edge
    ann.press("2")
    ann.boxes("sign")
    ann.press("ArrowRight", "Shift+ArrowDown", "Control+ArrowLeft", "Control+Shift+ArrowUp")
    ann.save()
    assert text(folder) == line(2, (111, 90, 260, 200))


def test_a_moved_box_stays_in_the_photo_and_keeps_its_size(
    site: Running, folder: Path, people: Callable[..., Person]
) -> None:
    ann = people().open(site.url)
    ann.drag((500, 250, 600, 300))
    ann.click(550, 275)
    ann.drag((550, 275, 800, 500))
    ann.save()
    assert text(folder) == line(0, (540, 310, 640, 360))


def test_small_boxes_inside_large_ones_are_reached(
    site: Running, folder: Path, people: Callable[..., Person]
) -> None:
    ann = people().open(site.url)
    ann.drag((50, 50, 400, 300))
    ann.press("1")
    ann.drag((100, 100, 150, 150))  # inside the first, which is not chosen
    ann.click(125, 125)
    expect(ann.page.locator("#list [aria-current]")).to_have_text(re.compile("person"))
    ann.click(125, 125)  # again: the one around it
    expect(ann.page.locator("#list [aria-current]")).to_have_text(re.compile("car"))
    ann.press("Delete")
    ann.boxes("person")
    ann.page.get_by_role("button", name="Remove person").click()
    ann.boxes()


def test_undo_and_redo_are_of_each_photo(site: Running, people: Callable[..., Person]) -> None:
    ann = people().open(site.url)
    ann.drag((10, 10, 60, 60))
    ann.press("1")
    ann.drag((100, 10, 160, 60))
    ann.press("Control+z")
    ann.boxes("car")
    ann.press("Control+y")
    ann.boxes("car", "person")
    ann.press("Control+z", "Control+z")
    ann.boxes()
    ann.press("Control+z")
    ann.hears("nothing to undo")
    ann.press("Control+Shift+Z", "Control+Shift+Z")
    ann.boxes("car", "person")
    ann.save()
    ann.drag((10, 10, 60, 60))
    ann.press("ArrowLeft")
    ann.where("1 / 4")
    ann.press("Control+z")  # what was saved can be undone, and is then not saved
    ann.boxes("car")
    ann.where("not saved")
    ann.press("Control+y")
    ann.where("labelled")
    ann.press("PageDown")
    ann.boxes("person")
    ann.where("not saved")


def test_boxes_of_the_previous_photo_are_copied(
    site: Running, folder: Path, people: Callable[..., Person]
) -> None:
    photo(folder / "1.jpg", 1280, 720)
    ann = people().open(site.url)
    ann.press("c")
    ann.hears("no photo before")
    ann.drag((100, 50, 300, 200))
    ann.press("Space")
    ann.ready((1280, 720))
    ann.press("c")
    ann.boxes("car")
    ann.save()
    assert pixels(folder, "1", (1280, 720)) == [[200, 100, 600, 400]]


def test_everything_goes_by_keyboard(
    site: Running, folder: Path, people: Callable[..., Person]
) -> None:
    ann = people().open(site.url)
    ann.press("1", "b")
    ann.boxes("person")
    for _ in range(3):
        ann.press("Shift+ArrowRight", "Control+Shift+ArrowDown")
    ann.press("b", "k")
    expect(ann.page.locator("#list .item").first.locator("[aria-current]")).to_have_count(1)
    ann.press("Delete", "Space")
    ann.where("2 / 4")
    ((x1, y1, x2, y2),) = pixels(folder)
    assert 0 < x1 < x2 < WIDE and 0 < y1 < y2 < TALL


def test_a_box_far_from_pixels_of_the_screen_is_drawn_exactly(
    site: Running, folder: Path, people: Callable[..., Person]
) -> None:
    photo(folder / "0.jpg", 4000, 3000)
    ann = people()
    ann.page.goto(site.url)
    ann.ready((4000, 3000))
    x, y = (round(v) for v in ann.at(3100, 700))  # a wheel counts in whole pixels of the screen
    to = (x - ann.left) / ann.scale, (y - ann.top) / ann.scale
    ann.page.mouse.move(x, y)
    for _ in range(4):
        ann.page.mouse.wheel(0, -400)
    zoomed = ann.scale * math.exp(4 * 400 * 0.0016)
    ann.left, ann.top = x - to[0] * zoomed, y - to[1] * zoomed
    ann.scale = zoomed
    expect(ann.page.locator("#zoom")).to_have_text(f"{round(100 * zoomed)} %")
    ann.drag((3083, 691, 3121, 716))
    ann.drag((3100, 700, 3080, 690), button="middle")
    ann.left, ann.top = ann.left - 20 * zoomed, ann.top - 10 * zoomed
    ann.drag((3130, 720, 3141, 733))
    ann.page.keyboard.down("h")
    ann.drag((3100, 700, 3110, 695))
    ann.page.keyboard.up("h")
    ann.left, ann.top = ann.left + 10 * zoomed, ann.top - 5 * zoomed
    ann.drag((3050, 650, 3061, 653))
    ann.press("f")
    ann.ready((4000, 3000))
    ann.drag((1000, 1000, 2000, 2000))
    ann.stay()
    found = pixels(folder, "0", (4000, 3000))
    assert found[:3] == [[3083, 691, 3121, 716], [3130, 720, 3141, 733], [3050, 650, 3061, 653]]
    assert found[3] == pytest.approx([1000, 1000, 2000, 2000], abs=1 / (2 * ann.scale) + 1)


def test_a_photo_that_exif_turns_has_its_boxes_where_training_sees_them(
    tmp_path: Path, people: Callable[..., Person]
) -> None:
    for turn in range(1, 9):
        upright = np.full((300, 200, 3), 40, np.uint8)
        upright[60:120, 20:100] = (0, 0, 255)  # one red field
        exif = Image.Exif()
        exif[0x0112] = turn
        undo = {1: (), 2: (2,), 3: (3,), 4: (4,), 5: (5,), 6: (90,), 7: (7,), 8: (-90,)}[turn]
        lying = Image.fromarray(upright[..., ::-1])
        moves = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
                 5: Image.Transpose.TRANSPOSE, 90: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
                 -90: Image.Transpose.ROTATE_270}  # fmt: skip
        for move in undo:
            lying = lying.transpose(moves[move])
        lying.save(tmp_path / f"{turn}.jpg", exif=exif, quality=95)
        assert read_image(tmp_path / f"{turn}.jpg").shape == (300, 200, 3)
    with running(tmp_path, classes=("red",)) as site:
        ann = people()
        ann.page.goto(site.url)
        for turn in range(1, 9):
            ann.where(f"{turn}.jpg")
            ann.ready((200, 300))
            left, top, width, height = red(ann)
            corners = [v / ann.scale for v in (left - ann.left, top - ann.top)]
            corners += [corners[0] + width / ann.scale, corners[1] + height / ann.scale]
            ann.drag((corners[0], corners[1], corners[2], corners[3]))
            ann.press("Space")
    for turn in range(1, 9):
        ((x1, y1, x2, y2),) = pixels(tmp_path, str(turn), (200, 300))
        assert [x1, y1, x2, y2] == pytest.approx([20, 60, 100, 120], abs=2), turn
        field = read_image(tmp_path / f"{turn}.jpg")[
            int(y1) + 2 : int(y2) - 2, int(x1) + 2 : int(x2) - 2
        ]
        assert field[..., 2].mean() > 200 and field[..., 0].mean() < 60


def red(ann: Person) -> tuple[float, float, float, float]:
    """Where on the screen something red is: left, top, width, height."""
    ann.page.mouse.move(2, 2)
    shot = cv2.imdecode(np.frombuffer(ann.page.locator("#stage").screenshot(), np.uint8), 1)
    place = ann.page.locator("#stage").bounding_box()
    left, top, width, height = cv2.boundingRect(cv2.inRange(shot, (0, 0, 180), (80, 80, 255)))
    return left + place["x"], top + place["y"], width, height


def test_a_browser_that_turns_photos_differently_is_given_upright_ones(
    tmp_path: Path, people: Callable[..., Person]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (300, 200), "grey").save(tmp_path / "0.jpg", exif=exif)
    with running(tmp_path, classes=("red",)) as site:
        ann = people()
        ann.page.add_init_script(
            "const own = createImageBitmap; window.turned = [];"
            "createImageBitmap = async (blob, how) => {"
            "  const made = await own(blob, how); turned.push(made.width > made.height);"
            "  if (turned.length > 1) return made;"
            "  const lying = new OffscreenCanvas(300, 200); lying.getContext('2d');"
            "  return lying.transferToImageBitmap(); };"
        )
        ann.page.goto(site.url)
        ann.ready((200, 300))
        assert ann.page.evaluate("turned") == [False, False]  # the second is what the server turned


def test_a_photo_that_is_still_coming_is_not_saved_over(
    site: Running, folder: Path, people: Callable[..., Person]
) -> None:
    ann = people()
    late: list[Any] = []
    ann.page.route("**/api/photo/*", lambda route: late.append(route))
    ann.page.goto(site.url)
    ann.where("1 / 4")
    ann.press("Space", "n")
    ann.drag((100, 50, 300, 200))
    ann.page.wait_for_timeout(200)
    ann.where("1 / 4")
    for route in late:
        route.continue_()
    ann.ready()
    ann.boxes()
    assert not list(folder.glob("?.txt"))


# ---- classes


def test_a_class_is_found_by_typing_and_added(folder: Path, people: Callable[..., Person]) -> None:
    (folder / "classes.txt").write_text("".join(f"kind {n:02}\n" for n in range(14)) + "zebra\n")
    with running(folder) as site:
        ann = people().open(site.url)
        ann.press("/")
        ann.page.keyboard.type("zeb")
        expect(ann.page.locator("#search-list [aria-selected=true]")).to_contain_text("zebra")
        ann.press("Enter")
        ann.drag((10, 10, 60, 60))
        ann.press("/")
        ann.page.keyboard.type("kind 1")
        ann.press("ArrowDown", "ArrowDown", "Enter")
        ann.drag((100, 10, 160, 60))
        ann.press("/")
        ann.page.keyboard.type("okapi 9 /")  # keys mean letters there
        ann.press("Enter")
        ann.drag((200, 10, 260, 60))
        ann.boxes("zebra", "kind 12", "okapi 9 /")
        ann.save()
    assert [row.split()[0] for row in text(folder).splitlines()] == ["14", "12", "15"]
    assert (folder / "classes.txt").read_text().endswith("zebra\nokapi 9 /\n")


def test_a_folder_without_classes_begins_with_one(
    tmp_path: Path, people: Callable[..., Person]
) -> None:
    photo(tmp_path / "0.jpg", WIDE, TALL)
    with running(tmp_path) as site:
        ann = people().open(site.url)
        expect(ann.page.get_by_role("dialog")).to_contain_text("Name the first class")
        ann.press("Escape")
        ann.drag((10, 10, 60, 60))
        ann.page.keyboard.type("duck")
        ann.press("Enter")
        ann.boxes("duck")
        ann.stay()
        ann.press("r")
        ann.page.keyboard.type("swan")
        ann.press("Enter")
        ann.boxes("swan")
    assert text(tmp_path) == line(0, (10, 10, 60, 60))
    assert "names:\n  0: swan\n" in (tmp_path / "data.yaml").read_text()


def test_a_changed_list_of_classes_gives_no_box_a_wrong_class(
    site: Running, folder: Path, people: Callable[..., Person]
) -> None:
    ann = people().open(site.url)
    ann.press("1")
    ann.drag((10, 10, 60, 60))
    ann.press("2")
    ann.drag((100, 10, 160, 60))
    (folder / "classes.txt").write_text("tree\nperson\ncar\n")
    ann.press("Space")
    ann.hears("the list of classes was changed")
    ann.boxes("person", "sign (no longer in the list)")
    ann.press("Space")
    ann.hears("choose another class")
    assert not (folder / "0.txt").exists()
    ann.press("0")
    ann.boxes("person", "tree")
    ann.save()
    assert [row.split()[0] for row in text(folder).splitlines()] == ["1", "0"]
    (folder / "classes.txt").write_text("tree\nperson\ncar\nlamp\n")  # one more does no harm
    ann.drag((10, 10, 60, 60))
    ann.save()
    assert text(folder, "1").startswith("0 ")


def test_classes_past_the_list_and_rows_that_are_no_boxes_are_kept(
    folder: Path, people: Callable[..., Person]
) -> None:
    rows = ["7 0.5 0.5 0.1 0.1", "what is this", "1 0.1 0.1 0.4 0.1 0.4 0.4", "0 1.5 0.5 0.2 0.2"]
    (folder / "0.txt").write_text("\n".join(rows))
    with running(folder) as site:
        ann = people().open(site.url)
        ann.press("Home")
        ann.where("1 / 4")
        expect(ann.page.locator("#list .row b").nth(0)).to_have_text("class 7 (not in the list)")
        expect(ann.page.locator("#list .row b").nth(1)).to_contain_text("kept as it is")
        ann.click(180, 100)  # the polygon
        ann.drag((180, 100, 300, 200))
        ann.hears("This is a polygon")
        ann.press("2")
        ann.press("Escape")
        ann.drag((400, 200, 500, 300))
        ann.save()
    assert text(folder) == "\n".join([*rows[:2], "2 0.1 0.1 0.4 0.1 0.4 0.4", rows[3]]) + "\n" + line(2, (400, 200, 500, 300))  # fmt: skip


def test_labels_that_cannot_be_read_are_shown_and_not_edited(
    folder: Path, people: Callable[..., Person]
) -> None:
    (folder / "0.txt").write_bytes(b"\xff\xfe0\x00")
    with running(folder) as site:
        ann = people().open(site.url)
        ann.press("Home")
        expect(ann.page.locator("#banner")).to_contain_text("not text; onchip leaves them alone")
        ann.drag((100, 50, 300, 200))
        ann.boxes()
        ann.press("Space")
        ann.hears("Nothing was saved")
        ann.press("ArrowDown")
        ann.where("2 / 4")
        expect(ann.page.locator("#banner")).to_be_hidden()
    assert (folder / "0.txt").read_bytes() == b"\xff\xfe0\x00"


# ---- nothing is lost


def test_a_page_closed_by_accident_loses_nothing(
    site: Running, folder: Path, people: Callable[..., Person]
) -> None:
    ann = people().open(site.url)
    ann.drag((100, 50, 300, 200))
    ann.press("ArrowRight")
    ann.hears("kept as a draft")
    ann.where("2 / 4")
    ann.drag((10, 10, 60, 60))
    context = ann.page.context
    ann.page.close()
    again = people(context).open(site.origin)
    expect(again.page.locator(".state.draft")).to_have_count(2)
    again.press("Home")
    again.hears("Here is what was not saved")
    again.boxes("car")
    again.save()
    assert text(folder) == line(0, (100, 50, 300, 200))
    again.boxes("car")
    again.page.reload()
    again.where("2 / 4")  # a reload comes back to where it was
    again.boxes("car")
    expect(again.page.locator(".state.draft")).to_have_count(1)
    again.press("Control+z", "Space")
    again.where("3 / 4")
    expect(again.page.locator(".state.draft")).to_have_count(0)


@pytest.mark.parametrize("choice", ["theirs", "mine", "both"])
def test_two_tabs_never_lose_each_others_work(
    site: Running, folder: Path, people: Callable[..., Person], choice: str
) -> None:
    (folder / "0.txt").write_text(line(0, (0, 0, 50, 50)) + line(1, (600, 300, 640, 360)))
    ann = people().open(site.url)
    ann.press("Home")
    ben = people(ann.page.context).open(site.origin)
    ben.press("Home")
    for one in (ann, ben):
        one.where("1 / 4")
        one.boxes("car", "person")
    ann.drag((100, 50, 300, 200))
    ann.save()
    mine = (400, 100, 500, 200)
    ben.click(620, 330)
    ben.press("Delete")
    ben.drag(mine)
    ben.press("Space")
    dialog = ben.page.get_by_role("dialog")
    expect(dialog).to_contain_text("In the file now: 3 boxes")
    expect(dialog).to_contain_text("On this page: 2 boxes")
    ann_wrote = text(folder)
    ben.page.locator(f"#take-{choice}").click()
    first, theirs = line(0, (0, 0, 50, 50)), line(0, (100, 50, 300, 200))
    if choice == "theirs":
        ben.boxes("car", "person", "car")
        ben.where("labelled")
        assert text(folder) == ann_wrote
        ben.press("Control+z")
        ben.boxes("car", "person")
        return
    if choice == "both":
        ben.hears("Joined")
        ben.boxes("car", "person", "car")
        assert text(folder) == ann_wrote
        ben.press("Space")
    ben.where("2 / 4")
    joined = first + line(1, mine) + (theirs if choice == "both" else "")
    assert text(folder) == joined.replace(line(1, mine), line(1, mine))


def test_another_program_that_edits_the_file_is_noticed(
    site: Running, folder: Path, people: Callable[..., Person]
) -> None:
    ann = people().open(site.url)
    ann.drag((100, 50, 300, 200))
    (folder / "0.txt").write_text("2 0.5 0.5 0.1 0.1\n")
    ann.press("Space")
    expect(ann.page.get_by_role("dialog")).to_contain_text("In the file now: 1 box")
    ann.page.get_by_role("button", name="Not now").click()
    expect(ann.page.get_by_role("dialog")).to_be_hidden()
    ann.boxes("car")
    ann.where("1 / 4")
    assert text(folder) == "2 0.5 0.5 0.1 0.1\n"
    ann.press("Space")
    ann.page.get_by_role("button", name="Join both").click()
    ann.boxes("car", "sign")


def test_a_disk_that_is_full_keeps_the_boxes_on_the_page(
    site: Running, folder: Path, people: Callable[..., Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = people().open(site.url)
    ann.drag((100, 50, 300, 200))

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        ann.press("Space")
        ann.hears("No space left on device")
        ann.where("1 / 4")
    assert sorted(p.suffix for p in folder.iterdir()) == [".jpg"] * 4 + [".txt"]
    ann.boxes("car")
    ann.save()
    assert text(folder) == line(0, (100, 50, 300, 200))


def test_a_draft_that_the_browser_could_not_keep_is_warned_of_until_it_is_saved(
    site: Running, folder: Path, people: Callable[..., Person]
) -> None:
    leaving = """() => {
      const event = new Event("beforeunload", { cancelable: true });
      dispatchEvent(event);
      return event.defaultPrevented;
    }"""
    ann = people().open(site.url)
    ann.page.evaluate("""() => {
      window.put = Storage.prototype.setItem;
      Storage.prototype.setItem = () => { throw new Error("full"); };
    }""")
    ann.drag((100, 50, 300, 200))
    ann.press("ArrowRight")
    ann.where("2 / 4")
    ann.page.evaluate("() => { Storage.prototype.setItem = window.put; }")
    ann.drag((10, 10, 60, 60))  # there is room for this one
    assert ann.page.evaluate(leaving)
    ann.press("ArrowLeft")
    ann.where("1 / 4")
    ann.boxes("car")
    ann.save()
    assert not ann.page.evaluate(leaving)
    assert text(folder) == line(0, (100, 50, 300, 200))


def test_an_answer_that_comes_late_does_not_undo_a_save(
    site: Running, folder: Path, people: Callable[..., Person]
) -> None:
    ann = people().open(site.url)
    held: list[tuple[Any, Any]] = []

    def late(route: Any) -> None:
        if route.request.method == "GET" and not held:
            held.append((route, route.fetch()))
        else:
            route.continue_()

    ann.page.route("**/api/labels/*", late)
    with ann.page.expect_request("**/api/labels/*"):
        ann.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    ann.drag((100, 50, 300, 200))
    ann.stay()
    (route, answer) = held[0]
    with ann.page.expect_response("**/api/labels/*"):
        route.fulfill(response=answer)
    ann.drag((10, 10, 60, 60))
    ann.boxes("car", "car")
    ann.save()
    assert text(folder) == line(0, (100, 50, 300, 200)) + line(0, (10, 10, 60, 60))


def test_a_folder_that_vanishes_is_said(
    site: Running, folder: Path, people: Callable[..., Person]
) -> None:
    ann = people().open(site.url)
    ann.drag((100, 50, 300, 200))
    away = folder.rename(folder.with_name("away"))
    ann.press("Space")
    ann.hears("is gone")
    ann.where("1 / 4")
    assert not folder.exists()
    away.rename(folder)
    ann.save()
    assert text(folder) == line(0, (100, 50, 300, 200))


def test_a_page_left_open_overnight_goes_on_when_the_server_is_back(
    folder: Path, people: Callable[..., Person]
) -> None:
    with running(folder) as site:
        ann = people().open(site.url)
        ann.drag((100, 50, 300, 200))
    ann.press("Space")
    banner = ann.page.locator("#banner")
    expect(banner).to_contain_text("The server does not answer")
    expect(banner).to_contain_text("What you drew is kept")
    with running(folder) as again:  # the same port, another token
        assert again.origin in ann.page.url
        expect(banner).to_contain_text("no longer knows this page")
        ann.press("Space")
        ann.where("1 / 4")
        people(ann.page.context).open(again.url)
        expect(banner).to_be_hidden()
        ann.hears("Connected again")
        ann.boxes("car")
        ann.save()
    assert text(folder) == line(0, (100, 50, 300, 200))


def test_another_folder_at_the_same_address_gets_nothing(
    folder: Path, tmp_path: Path, people: Callable[..., Person]
) -> None:
    photo(tmp_path / "other" / "0.jpg", WIDE, TALL)
    with running(folder) as site:
        port = site.server.port
        ann = people().open(site.url)
        ann.drag((100, 50, 300, 200))
    with running(tmp_path / "other", port=port, classes=("car",)) as other:
        people(ann.page.context).open(other.url)
        ann.press("Space")
        expect(ann.page.locator("#banner")).to_contain_text("Another folder is served")
    assert not (tmp_path / "other" / "0.txt").exists() and not (folder / "0.txt").exists()
    ann.boxes("car")


def test_boxes_in_a_coco_document_are_edited_and_joined(
    folder: Path, people: Callable[..., Person]
) -> None:
    path = folder.parent / "boxes.json"
    with running(folder, coco=path, classes=("car", "person")) as site:
        ann = people().open(site.url)
        ann.drag((0, 0, 50, 50))
        ann.press("1")
        ann.drag((600, 300, 640, 360))
        ann.save()
        ben = people(ann.page.context).open(site.origin)
        ben.press("Home")
        ben.boxes("car", "person")
        ann.press("Home")
        ann.boxes("car", "person")
        ann.drag((100, 50, 300, 200))  # after the others
        ann.save()
        ben.click(20, 20)
        ben.press("Shift+ArrowRight")
        ben.press("Escape")
        ben.drag((400, 100, 500, 200))
        ben.press("Space")
        ben.page.locator("#take-both").click()
        ben.boxes("car", "person", "car", "person")
        ben.save()
        ben.press("Home")
        ben.where("labelled")
        ben.press("Control+z")
        ben.where("not saved")
        ben.press("Control+y")
        ben.where("labelled")
    boxes = [
        [a["id"], a["category_id"], *a["bbox"]] for a in json.loads(path.read_text())["annotations"]
    ]
    assert boxes == [
        [1, 1, 10, 0, 50, 50], [2, 2, 600, 300, 40, 60], [3, 2, 100, 50, 200, 150], [4, 1, 400, 100, 100, 100],
    ]  # fmt: skip


# ---- a model


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Rendered scenes, and one with labels that are not true."""
    write(tmp_path, 6, 5000, "train")
    for path in (tmp_path / "labels" / "train").glob("*.txt"):
        path.unlink()
    (tmp_path / "labels" / "train" / "005003.txt").write_text("4 0.1 0.1 0.05 0.05\n")
    return tmp_path


def detector() -> Path:
    return Path(str(files("onchip.demo") / "detector.onnx"))


def test_one_key_takes_over_what_a_model_proposes(
    scenes: Path, people: Callable[..., Person]
) -> None:
    with running(scenes / "images" / "train", model=detector()) as site:
        ann = people().open(site.url)
        dashed = ann.page.locator("#list i.dashed")
        expect(dashed).to_have_count(4)
        ann.press("Space")
        ann.hears("4 proposals are not taken over")
        ann.where("1 / 6")
        ann.press("Enter")
        expect(dashed).to_have_count(0)
        expect(ann.page.locator("#count")).to_have_text("4")
        ann.press("Control+z")
        expect(dashed).to_have_count(4)
        ann.click(*middle(ann))  # one of them, by a click
        expect(dashed).to_have_count(3)
        ann.press("a")
        ann.click(*middle(ann))  # now a box like any other
        expect(ann.page.locator("#list [aria-current]")).to_have_text(re.compile("red car"))
        ann.press("Delete", "Control+z", "Space")
        ann.where("2 / 6")
        truth = yolo.read(scenes / "labels" / "train" / "005000.txt") or ()
        assert sorted(row.label.index for row in truth if row.label) == [0, 2, 3, 3]


def middle(ann: Person) -> tuple[float, float]:
    """A point on the red car of the first scene."""
    return 180, 245


def test_the_least_sure_come_first_and_disagreements_are_found(
    scenes: Path, people: Callable[..., Person]
) -> None:
    with running(scenes / "images" / "train", model=detector()) as site:
        ann = people().open(site.url)
        expect(ann.page.locator("#model")).to_have_text("The model has looked at all 6.")
        ann.page.get_by_label("Show").select_option("where the model disagrees")
        ann.where("1 / 1 · 005003.jpg")
        ann.page.get_by_label("Show").select_option("all")
        assert site.server.proposals is not None
        doubts = {d.id: d.value for d in site.server.proposals.doubts(0)[0]}
        by_doubt = [p.name for p in sorted(site.server.photos.all, key=lambda p: -doubts[p.id])]
        by_doubt.remove("005003.jpg")  # it has labels, so it comes after those that have none
        names = ann.page.locator("#photos li b")
        expect(names).to_have_text([*by_doubt, "005003.jpg"])
        ann.press("o")
        ann.hears("In the order of their names")
        expect(names).to_have_text([f"00500{n}.jpg" for n in range(6)])
        ann.press("o")
        ann.hears("Least sure first")


def test_classes_of_the_model_that_the_list_lacks_are_offered(
    tmp_path: Path, people: Callable[..., Person]
) -> None:
    write(tmp_path, 2, 5000, "train")
    shutil.rmtree(tmp_path / "labels")
    (tmp_path / "data.yaml").unlink()
    with running(tmp_path / "images" / "train", model=detector(), classes=("Person",)) as site:
        ann = people().open(site.url)
        rows = ann.page.locator("#list .row b")
        expect(rows).to_contain_text(["red car (not in the list)", "round sign", "person"])
        ann.press("Enter")
        ann.hears("Not in the list of classes: red car, round sign.")
        expect(ann.page.locator("#count")).to_have_text("1")
        ann.page.get_by_role("button", name="Add them").click()
        ann.hears("Added: red car, round sign")
        ann.press("Enter")
        expect(ann.page.locator("#count")).to_have_text("4")
        ann.save()
    found = yolo.read(tmp_path / "labels" / "train" / "005000.txt") or ()
    assert sorted(row.label.index for row in found if row.label) == [0, 1, 2, 2]


# ---- finding one's way


def test_going_from_photo_to_photo(
    site: Running, folder: Path, people: Callable[..., Person]
) -> None:
    (folder / "1.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    (folder / "2.txt").write_text("")
    ann = people().open(site.url)
    ann.press("End")
    ann.where("4 / 4 · 3.jpg")
    ann.press("PageDown")
    ann.hears("This is the last photo")
    ann.press("u")
    ann.where("1 / 4 · 0.jpg")
    ann.press("g")
    ann.page.keyboard.type("2.j")
    ann.press("Enter")
    ann.where("3 / 4 · 2.jpg · 640 × 360 · negative")
    ann.press("g")
    ann.page.keyboard.type("99")
    expect(ann.page.get_by_role("dialog")).to_contain_text("no such photo among 4")
    ann.press("Escape", "ArrowLeft")
    ann.where("2 / 4 · 1.jpg · 640 × 360 · labelled")
    show = ann.page.get_by_label("Show")
    for name, count in (("unlabelled", 2), ("labelled", 1), ("negatives", 1), ("all", 4)):
        show.select_option(name)
        ann.where(f" / {count} · ")
    expect(ann.page.locator("#done")).to_have_text("2 of 4 done")
    ann.page.locator("#photos li").nth(2).click()
    ann.where("3 / 4")


def test_photos_that_came_and_went_are_noticed(
    site: Running, folder: Path, people: Callable[..., Person]
) -> None:
    ann = people().open(site.url)
    ann.drag((100, 50, 300, 200))
    ann.press("ArrowRight")
    ann.where("2 / 4")
    photo(folder / "9.jpg", WIDE, TALL)
    (folder / "2.jpg").unlink()
    (folder / "1.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    ann.page.evaluate(
        "document.dispatchEvent(new Event('visibilitychange'))"
    )  # the tab is seen again
    expect(ann.page.locator("#photos li b")).to_have_text(["0.jpg", "1.jpg", "3.jpg", "9.jpg"])
    ann.boxes("person")
    expect(ann.page.locator(".state.draft")).to_have_count(1)


def test_odd_photos_are_said_and_skipped(tmp_path: Path, people: Callable[..., Person]) -> None:
    good = photo(tmp_path / "1 🦆 'quoted' \"name\"\n.jpg", WIDE, TALL).read_bytes()
    (tmp_path / "2.heic").write_bytes(b"x")
    (tmp_path / "3.jpg").touch()
    (tmp_path / "4.jpg").write_bytes(good[: len(good) // 3])
    cv2.imwrite(str(tmp_path / "5.tiff"), np.full((TALL, WIDE), 30_000, np.uint16))
    frames = [Image.new("RGB", (WIDE, TALL), c) for c in ("red", "blue")]
    frames[0].save(tmp_path / "6.webp", save_all=True, append_images=frames[1:])
    with running(tmp_path, classes=("car",)) as site:
        ann = people().open(site.url)
        ann.where("1 / 6 · 1 🦆 'quoted' \"name\"␤.jpg")
        ann.drag((100, 50, 300, 200))
        ann.press("Space")
        blank = ann.page.locator("#blank")
        ann.where("3 / 6 · 3.jpg")  # HEIC was skipped
        expect(blank).to_contain_text("3.jpg is empty (0 bytes)")
        ann.press("Space")
        ann.where("4 / 6 · 4.jpg")
        expect(blank).to_contain_text("damaged")
        ann.press("Space")
        ann.where("5 / 6 · 5.tiff · 640 × 360")
        expect(blank).to_be_hidden()
        ann.drag((100, 50, 300, 200))
        ann.save()
        ann.where("the first of several pictures")
        ann.page.locator("#photos li").nth(1).click()
        expect(blank).to_contain_text("HEIC cannot be trained on; convert it to JPEG or PNG")
    assert (tmp_path / "1 🦆 'quoted' \"name\"\n.txt").read_text() == line(0, (100, 50, 300, 200))
    assert text(tmp_path, "5") == line(0, (100, 50, 300, 200))
    assert not (tmp_path / "3.txt").exists() and not (tmp_path / "4.txt").exists()


def test_the_help_names_every_key_and_toggles_work(
    site: Running, people: Callable[..., Person]
) -> None:
    ann = people().open(site.url)
    ann.press("?")
    keys = ann.page.get_by_role("dialog").locator("dt")
    expect(keys.first).to_have_text("Space")
    assert keys.count() >= 30
    ann.press("Escape")
    for key, said in (
        ("t", "Boxes off"),
        ("l", "Names off"),
        ("x", "Crosshair off"),
        ("e", "Brighter"),
        ("p", "Proposals off"),
    ):
        ann.press(key)
        ann.hears(said)
    expect(ann.page.locator("#photo")).to_have_class("bright")
    ann.press("+")
    expect(ann.page.locator("#zoom")).not_to_have_text(f"{round(100 * ann.scale)} %")
    ann.press("-", "f")
    expect(ann.page.locator("#zoom")).to_have_text(f"{round(100 * ann.scale)} %")


def test_a_clicked_button_is_not_pressed_again_by_space(
    site: Running, folder: Path, people: Callable[..., Person]
) -> None:
    ann = people().open(site.url)
    ann.page.get_by_role("button", name="Next photo").click()
    ann.where("2 / 4")
    ann.drag((100, 50, 300, 200))
    ann.save()
    ann.where("3 / 4")
    assert text(folder, "1") == line(0, (100, 50, 300, 200))


def test_a_box_that_is_removed_while_it_is_moved_stays_removed(
    site: Running, people: Callable[..., Person]
) -> None:
    ann = people().open(site.url)
    ann.drag((100, 50, 300, 200))
    ann.click(200, 120)
    ann.page.mouse.move(*ann.at(200, 120))
    ann.page.mouse.down()
    ann.page.mouse.move(*ann.at(260, 160))
    ann.press("Backspace")
    ann.page.mouse.up()
    ann.boxes()
    ann.press("Control+z")
    ann.boxes("car")


def test_escape_gives_the_keys_back_to_the_photo(
    site: Running, folder: Path, people: Callable[..., Person]
) -> None:
    ann = people().open(site.url)
    ann.drag((100, 50, 300, 200))
    ann.page.locator("#filter").focus()
    ann.press("Escape")
    ann.save()
    assert text(folder) == line(0, (100, 50, 300, 200))


def test_others_come_in_by_the_password(folder: Path, people: Callable[..., Person]) -> None:
    with running(folder, password="long enough") as site:
        ann = people()
        ann.page.goto(site.url)
        ann.page.get_by_label("Password").fill("wrong one")
        ann.page.get_by_role("button", name="Sign in").click()
        expect(ann.page.get_by_text("That was not the password")).to_be_visible()
        ann.page.get_by_label("Password").fill("long enough")
        ann.press("Enter")
        expect(ann.page.locator("#where")).to_contain_text("1 / 4")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 720), (900, 700), (420, 800)])
def test_the_page_fits_and_has_names_for_all(
    site: Running, people: Callable[..., Person], size: tuple[int, int], scheme: str
) -> None:
    ann = people(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    ann.open(site.url)
    ann.drag((100, 50, 300, 200))
    wide, tall = ann.page.evaluate("[document.body.scrollWidth, document.body.scrollHeight]")
    assert (wide, tall) == size
    ann.boxes("car")
    page = ann.page
    for role in ("button", "listbox", "progressbar", "combobox"):
        for found in page.get_by_role(role).all():
            named = found.evaluate(
                "e => e.ariaLabel || e.labels?.[0]?.textContent || e.textContent"
            )
            assert named.strip(), found
    expect(page.get_by_role("img", name="Photo 1 / 4 · 0.jpg")).to_be_visible()
    expect(page.get_by_role("button", name="Save and next")).to_be_visible()
    shifts = page.evaluate(
        "new Promise((tell) => { new PerformanceObserver((list) => tell(list.getEntries()"
        ".filter((s) => !s.hadRecentInput).map((s) => s.value)))"
        ".observe({type: 'layout-shift', buffered: true}); setTimeout(() => tell([]), 300); })"
    )
    assert sum(shifts) < 0.02, shifts
