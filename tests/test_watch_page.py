"""The page of a watch as a person uses it, in a real Chromium, on a desk and on a phone."""

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="pip install 'onchip[watch]'")
pytest.importorskip("playwright", reason="make test ALL=1 tries pages in a Chromium")

from playwright.sync_api import expect

from onchip.vision.draw import COLORS
from onchip.watch import marks, streams

from watching import Double, Running, film, playing, running, scene, sighting

pytestmark = pytest.mark.browser

PHONE = {
    "viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "is_mobile": True,
    "has_touch": True,
}  # fmt: skip


@pytest.fixture
def visit(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Opens pages; whatever goes wrong in one fails the test."""
    contexts: list[Any] = []
    wrong: list[str] = []

    def heard(message: Any) -> None:
        # A browser notes every answer that is no success; what the page makes of it is tested.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            wrong.append(message.text)

    def come(url: str, context: Any = None, **options: Any) -> Any:
        if context is None:
            wide = {"viewport": {"width": 1280, "height": 800}}
            context = chromium.new_context(**{**wide, **options})
            context.set_default_timeout(15_000)
            contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", heard)
        page.goto(url)
        page.wait_for_url(lambda at: "token" not in at)  # the link leads on
        return page

    yield come
    for context in contexts:
        context.close()
    assert not wrong


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """States come often, so that nobody waits for them."""
    monkeypatch.setattr(streams, "EVERY", 0.2)


@pytest.fixture
def watch(tmp_path: Path) -> Double:
    return Double(tmp_path, "front", "yard")


@pytest.fixture
def site(watch: Double) -> Iterator[Running]:
    with running(watch) as found:
        yield found


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return film(tmp_path_factory.mktemp("clip") / "clip.mp4")


def tile(page: Any, name: str) -> Any:
    return page.locator(".tile", has=page.locator("b", has_text=name))


def pixel(page: Any, name: str, x: float, y: float) -> list[int]:
    """The colour at a place of a camera's canvas."""
    code = """([canvas, x, y]) => Array.from(canvas.getContext("2d")
        .getImageData(canvas.width * x, canvas.height * y, 1, 1).data)"""
    canvas = tile(page, name).locator("canvas").element_handle()
    return page.evaluate(code, [canvas, x, y])[:3]


def eventually(page: Any, what: Callable[[], Any]) -> None:
    """Wait until something is so, while the page goes on."""
    end = time.monotonic() + 15
    while not what():
        assert time.monotonic() < end, "it did not happen"
        page.wait_for_timeout(50)


def rows(page: Any) -> Any:
    return page.locator("#list .event")


def fits(page: Any) -> bool:
    """Whether nothing is wider than the screen."""
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")


# ---- cameras


def test_the_grid_shows_moving_pictures_with_boxes_and_zones(
    site: Running, watch: Double, visit: Any
) -> None:
    grey = np.full((360, 640, 3), 100, np.uint8)
    watch.show("front", grey, sighting((0.25, 0.25, 0.75, 0.75), "person", event="e"))
    page = visit(site.url)
    expect(page.locator(".tile")).to_have_count(2)
    expect(tile(page, "front").locator("canvas")).to_have_attribute("aria-label", "front: person")
    expect(tile(page, "front").locator(".figures")).to_have_text("5.0 of 5 fps · 71 ms")
    expect(tile(page, "front").locator(".moving")).to_be_visible()
    expect(tile(page, "yard").locator(".trouble")).to_contain_text("Waiting for a picture")

    def close(x: float, y: float, color: tuple[int, int, int]) -> bool:
        return max(abs(a - b) for a, b in zip(pixel(page, "front", x, y), color, strict=True)) < 12

    assert close(0.5, 0.4, (100, 100, 100)) and close(0.25, 0.5, (235, 70, 70))
    page.get_by_text("Boxes", exact=True).click()
    eventually(page, lambda: close(0.25, 0.5, (100, 100, 100)))
    page.get_by_text("Zones", exact=True).click()  # a little brighter inside
    eventually(page, lambda: pixel(page, "front", 0.5, 0.7)[0] > 106)
    assert close(0.5, 0.3, (100, 100, 100))
    page.reload()  # remembered
    eventually(page, lambda: pixel(page, "front", 0.5, 0.7)[0] > 106)
    assert close(0.25, 0.4, (100, 100, 100))
    with playing(watch):
        before = pixel(page, "yard", 0.5, 0.5)
        eventually(page, lambda: pixel(page, "yard", 0.5, 0.5) != before)
    watch.change("front", motion=False)
    watch.show("front", grey, at=time.monotonic() - 10)
    expect(tile(page, "front").locator(".moving")).to_be_hidden()
    expect(tile(page, "front").locator(".figures")).to_contain_text("old")  # no picture comes


def test_a_label_has_one_colour_on_pages_and_in_pictures(site: Running, visit: Any) -> None:
    labels = ["person", "bus", "traffic light", "café", "🦊", "toy-7"]
    numbers = visit(site.url).evaluate(
        """async labels => {
          const { setColors, colorOf } = await import("/page/colors.js");
          const palette = Array.from(Array(8).keys(), String);
          setColors(palette);
          return labels.map(label => Number(colorOf(label)));
        }""",
        labels,
    )
    assert numbers == [marks.number(label) % len(COLORS) for label in labels] and len(COLORS) == 8


def test_a_failing_camera_says_why_over_its_last_picture_and_the_others_go_on(
    site: Running, watch: Double, visit: Any
) -> None:
    with playing(watch):
        page = visit(site.url)
        expect(tile(page, "yard").locator("canvas")).to_have_attribute("aria-label", "yard: person")
        text = "cannot reach rtsp://admin:***@10.0.0.5/stream1: no route to host"
        watch.fail("yard", text, "is it switched on?", retry=25)
        trouble = tile(page, "yard").locator(".trouble")
        expect(trouble).to_contain_text("Cannot reach rtsp://admin:***@10.0.0.5")
        expect(trouble).to_contain_text("Is it switched on?")
        expect(trouble).to_contain_text("Trying again in 2")
        expect(page.locator("#troubles")).to_have_text("1")
        assert page.title() == "(1) onchip watch"
        assert pixel(page, "yard", 0.5, 0.1) != [0, 0, 0]  # the last picture is still there
        before = pixel(page, "front", 0.5, 0.5)
        eventually(page, lambda: pixel(page, "front", 0.5, 0.5) != before)
        page.get_by_role("link", name="Status").click()
        row = page.locator(".parts li", has_text="yard")
        expect(row).to_contain_text("not working for")
        expect(row).to_contain_text("Is it switched on?")


def test_one_camera_large_and_back(site: Running, watch: Double, visit: Any) -> None:
    with playing(watch):
        page = visit(site.url)
        tile(page, "yard").locator("canvas").click()
        expect(page.locator("#live-title")).to_have_text("yard")
        expect(tile(page, "front")).to_be_hidden()
        assert tile(page, "yard").bounding_box()["width"] > 700
        page.keyboard.press("ArrowRight")
        expect(page.locator("#live-title")).to_have_text("front")
        page.keyboard.press("Escape")
        expect(page.locator("#live-title")).to_have_text("Cameras")
        expect(tile(page, "yard")).to_be_visible()
        expect(page.locator("#live-title")).not_to_have_text("front")


def test_pictures_are_asked_for_only_while_they_are_seen(
    site: Running, watch: Double, visit: Any
) -> None:
    page = visit(site.url)
    seats = site.server.rooms._live
    eventually(page, lambda: seats.taken == 1)
    page.get_by_role("link", name="Status").click()
    eventually(page, lambda: seats.taken == 0)
    page.go_back()
    eventually(page, lambda: seats.taken == 1)
    site.server.rooms._live.most = 1
    other = visit(f"{site.origin}/", page.context)
    expect(other.locator(".toast").first).to_contain_text("1 pages with pictures are open already")
    assert seats.taken == 1


# ---- events


def test_a_new_event_appears_grows_and_ends_on_the_page(
    site: Running, watch: Double, visit: Any
) -> None:
    page = visit(site.url)
    expect(page.locator("#list-end")).to_have_text("Nothing has happened yet.")
    event = watch.happen(label="person", zones=("drive",), start=time.time() - 60)
    row = rows(page).first
    expect(row).to_contain_text("Person")
    expect(row).to_contain_text("front · drive")
    expect(row.locator("em")).to_have_text("live")
    expect(row.locator(".lasted")).to_contain_text("1 min")
    expect(page.locator("#running")).to_have_text("1")
    watch.happen("update", id=event.id, start=event.start, score=0.95, zones=("drive",))
    expect(row.locator(".score")).to_have_text("95 %")
    watch.happen("end", id=event.id, start=event.start, end=event.start + 7, score=0.95, why="left")
    expect(row.locator(".lasted")).to_have_text("7 s")
    expect(row.locator("em")).to_have_count(0)
    expect(page.locator("#running")).to_be_hidden()
    expect(rows(page)).to_have_count(1)
    wide = "image => image.complete && image.naturalWidth"
    eventually(page, lambda: row.locator("img").evaluate(wide) > 90)


def test_what_happens_meanwhile_waits_above_for_who_reads_further_down(
    site: Running, watch: Double, visit: Any
) -> None:
    now = time.time()
    for number in range(95):
        watch.happen(start=now - 1000 + number, end=now, why="left", snapshot=False)
    page = visit(site.url)
    page.goto(f"{site.origin}/#events")
    expect(rows(page)).to_have_count(40)
    scroll = page.locator("#scroll")
    for count in (80, 95):  # more comes while one scrolls
        scroll.evaluate("place => place.scrollTo(0, place.scrollHeight)")
        expect(rows(page)).to_have_count(count)
    place = scroll.evaluate("place => place.scrollTop")
    event = watch.happen(label="dog")
    watch.happen(label="cat")
    watch.happen(
        "end", id=event.id, label="dog", start=event.start, end=event.start + 2, why="left"
    )
    expect(page.locator("#fresh")).to_have_text("↑ 2 new events")
    assert scroll.evaluate("place => place.scrollTop") == place
    expect(rows(page)).to_have_count(95)
    page.locator("#fresh").click()
    expect(rows(page).nth(0)).to_contain_text("Cat")
    expect(rows(page).nth(1).locator(".lasted")).to_have_text("2 s")
    assert scroll.evaluate("place => place.scrollTop") == 0
    watch.happen(label="bird")  # at the top it simply appears
    expect(rows(page).first).to_contain_text("Bird")
    expect(page.locator("#fresh")).to_be_hidden()


def test_filters_stay_in_the_address_and_hold_for_what_is_new(
    site: Running, watch: Double, visit: Any
) -> None:
    now = time.time()
    for number in range(12):
        label, camera = ("person", "car")[number % 2], ("front", "yard")[number % 3 == 0]
        zones = ("drive",) if number == 5 else ()
        watch.happen(label=label, camera=camera, zones=zones, start=now - 100 + number, end=now)
    page = visit(site.url)
    page.goto(f"{site.origin}/#events")
    expect(rows(page)).to_have_count(12)
    page.get_by_label("Object", exact=True).select_option("car")
    expect(rows(page)).to_have_count(6)
    page.get_by_label("Camera", exact=True).select_option("yard")
    expect(rows(page)).to_have_count(2)
    assert page.url.endswith("#events?label=car&camera=yard")
    watch.happen(label="person", camera="yard")
    watch.happen(label="car", camera="yard")
    expect(rows(page)).to_have_count(3)
    page.reload()
    expect(rows(page)).to_have_count(3)
    page.get_by_label("Zone", exact=True).select_option("drive")
    expect(page.locator("#list-end")).to_have_text("No event is like that.")
    page.go_back()
    expect(rows(page)).to_have_count(3)
    page.get_by_label("Camera", exact=True).select_option("")
    page.get_by_label("Object", exact=True).select_option("")
    expect(rows(page)).to_have_count(14)


def test_a_clip_plays_and_can_be_saved(
    site: Running, watch: Double, visit: Any, clip: Path
) -> None:
    now = time.time()
    watch.happen(
        clip=clip, start=now - 100, end=now - 95, why="left", label="dog", zones=("drive",)
    )
    watch.happen(clip=clip, start=now - 50, end=now - 40, why="still", label="car")
    page = visit(site.url)
    rows(page).nth(1).click()
    expect(page.locator("#event-title")).to_have_text("Dog at front")
    expect(page.locator(".facts")).to_contain_text("because it left the picture")
    video = page.locator("video")
    eventually(page, lambda: video.evaluate("v => v.currentTime > 0.2 && v.videoWidth === 320"))
    video.evaluate("v => { v.pause(); v.currentTime = 1.5 }")  # seeks by a range
    eventually(page, lambda: video.evaluate("v => !v.seeking && v.readyState >= 2"))
    with page.expect_download() as saved:
        page.get_by_role("link", name="Save video").click()
    assert Path(saved.value.path()).read_bytes() == clip.read_bytes()
    assert saved.value.suggested_filename.startswith("front dog ")
    page.get_by_role("button", name="Picture", exact=True).click()
    shown = page.locator(".stage img")
    assert shown.evaluate("image => image.decode().then(() => image.naturalWidth)") == 640
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#event-title")).to_have_text("Car at front")
    expect(page.locator(".facts")).to_contain_text("because it came to rest")
    expect(page.locator("#newer")).to_be_disabled()


def test_an_event_that_goes_on_gets_its_video_when_it_has_ended(
    site: Running, watch: Double, visit: Any, clip: Path
) -> None:
    event = watch.happen()
    page = visit(site.url)
    page.goto(f"{site.origin}/#event/{event.id}")
    expect(page.locator(".facts")).to_contain_text("It still goes on")
    expect(page.locator(".stage img")).to_be_visible()
    expect(page.get_by_role("button", name="Delete")).to_have_count(0)
    watch.happen("end", clip=clip, id=event.id, start=event.start, end=event.start + 3, why="left")
    expect(page.locator("video")).to_be_visible()
    expect(page.get_by_role("button", name="Delete")).to_be_visible()


def test_deleting_asks_first_and_goes_on_to_the_next(
    site: Running, watch: Double, visit: Any, clip: Path
) -> None:
    now = time.time()
    for number, label in enumerate(("dog", "cat", "car")):
        watch.happen(clip=clip, label=label, start=now - 50 + number, end=now, why="left")
    page = visit(site.url)
    rows(page).nth(1).click()
    other = visit(f"{site.origin}/#events", page.context)
    expect(rows(other)).to_have_count(3)
    page.bring_to_front()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Keep it").click()
    assert watch.store.event("e0001")
    page.get_by_role("button", name="Delete").click()
    page.locator("#confirm").get_by_role("button", name="Delete").click()
    expect(page.locator("#event-title")).to_have_text("Dog at front")
    expect(rows(page)).to_have_count(2)
    expect(rows(other)).to_have_count(2)  # the other page hears of it
    assert watch.store.event("e0001") is None
    page.goto(f"{site.origin}/#event/e0001")
    expect(page.locator("#event-body")).to_contain_text("There is no such event.")


# ---- how everything is


def test_the_status_shows_what_limits_and_how_each_part_is(
    site: Running, watch: Double, visit: Any
) -> None:
    watch.facts = {
        "limit": "the chip: it looks 60 times a second, 16 ms each",
        "load": 0.97,
        "chip_ms": 16.3,
    }
    page = visit(site.url)
    page.goto(f"{site.origin}/#status")
    body = page.locator("#status-body")
    expect(body.locator(".limit b")).to_have_text(
        "The chip: it looks 60 times a second, 16 ms each"
    )
    expect(body.get_by_label("Chip", exact=True)).to_contain_text("97 %")
    expect(body.get_by_label("Chip", exact=True)).to_contain_text("16.3 ms a picture")
    expect(body.get_by_label("Processor")).to_contain_text("63 %")
    expect(body.get_by_label("Events")).to_contain_text("3.4 GB")
    expect(body.get_by_label("Events")).to_contain_text("41.2 GB free")
    for part in ("Chip", "Disk", "Broker"):
        expect(body.locator(".parts li", has_text=part).first).to_contain_text("working for 2 h")
    expect(body.locator(".parts li", has_text="front")).to_contain_text("looked at 5.0 of 5.0 fps")


def test_clocks_that_differ_change_no_age(site: Running, watch: Double, visit: Any) -> None:
    watch.ahead = -259_200  # three days behind
    watch.happen(start=time.time() - 259_200 - 65)
    page = visit(site.url)
    expect(rows(page).first.locator(".lasted")).to_contain_text("1 min")
    expect(page.locator(".day")).to_have_text("Today")


# ---- coming in, and back


def test_a_password_lets_in_and_signing_out_ends_it(watch: Double, visit: Any) -> None:
    with running(watch, host="0.0.0.0", password="tea and cake") as site:
        page = visit(f"{site.origin}/#status")
        expect(page.locator("h1")).to_contain_text("onchip watch")
        page.get_by_label("Password").fill("guess")
        page.get_by_role("button", name="Sign in").click()
        expect(page.locator("p").first).to_have_text("That was not the password.")
        fields = [page.locator(name).bounding_box() for name in ("h1", "p", "form")]
        assert all(a["y"] + a["height"] <= b["y"] for a, b in itertools.pairwise(fields))
        assert page.get_by_label("Password").bounding_box()["width"] > 150
        page.get_by_label("Password").fill("tea and cake")
        page.get_by_label("Password").press("Enter")
        expect(page.locator(".tile")).to_have_count(2)
        page.get_by_role("link", name="Status").click()
        page.get_by_role("button", name="Sign out").click()
        page.get_by_label("Password").wait_for()


def test_the_page_comes_back_after_a_restart_and_knows_what_it_missed(
    watch: Double, visit: Any, tmp_path: Path
) -> None:
    watch.happen(label="dog", end=time.time(), why="left")
    with running(watch, data=tmp_path) as site:
        port = site.server.port
        page = visit(site.url)
        expect(rows(page)).to_have_count(1)
    expect(page.locator("#link")).to_contain_text("The server does not answer. Trying again in")
    expect(page.get_by_role("button", name="Now")).to_be_visible()
    watch.happen(label="cat", start=time.time() + 1)
    watch.show("front", scene(3), sighting())
    with running(watch, data=tmp_path, port=port):
        expect(page.locator("#link")).to_be_empty()
        expect(rows(page)).to_have_count(2)
        expect(page.locator(".toast")).to_have_text("The watch was started again.")
        expect(tile(page, "front").locator("canvas")).to_have_attribute(
            "aria-label", "front: person"
        )
    with running(watch, port=port):  # its sessions are gone
        expect(page.locator("#link")).to_contain_text("You are not signed in here any more.")
        page.get_by_role("button", name="Sign in again").click()
        expect(page.locator("h1")).to_contain_text("onchip watch")


def test_an_open_event_shows_how_it_ended_while_the_server_was_away(
    watch: Double, visit: Any, tmp_path: Path
) -> None:
    event = watch.happen()
    with running(watch, data=tmp_path) as site:
        port = site.server.port
        page = visit(site.url)
        page.goto(f"{site.origin}/#event/{event.id}")
        expect(page.locator(".facts")).to_contain_text("It still goes on")
    watch.happen("end", id=event.id, start=event.start, end=event.start + 3, why="cut off")
    with running(watch, data=tmp_path, port=port):
        expect(page.locator(".facts")).to_contain_text("the program was cut off")


def test_the_list_is_right_again_after_the_server_was_away(
    watch: Double, visit: Any, tmp_path: Path
) -> None:
    event = watch.happen()
    with running(watch, data=tmp_path) as site:
        port = site.server.port
        page = visit(site.url)
        expect(page.locator(".event.live")).to_have_count(1)
        picture = watch.store.folder / f"{event.id}.jpg"
        data = picture.read_bytes()
        picture.unlink()
        with watch.store.lock:
            event = msgspec.structs.replace(event, snapshot=True, score=0.96)
            watch.store.all[event.id] = event
        for tell in watch.told:
            tell(event, "update")
        expect(page.locator(".thumb img")).to_be_hidden()  # rather than the sign of a broken one
    picture.write_bytes(data)
    watch.happen(
        "end", id=event.id, start=event.start, end=event.start + 3, why="cut off", score=0.96
    )
    with running(watch, data=tmp_path, port=port):
        expect(page.locator(".event.live")).to_have_count(0)
        expect(page.locator(".thumb img")).to_be_visible()


@pytest.mark.parametrize("place", ["#live/%", "#event/%E0%A4", "#nothing", "#status/%/%?%"])
def test_an_address_that_means_nothing_shows_the_page(
    site: Running, visit: Any, place: str
) -> None:
    page = visit(site.url)
    page.goto("about:blank")
    page.goto(f"{site.origin}/{place}")
    expect(page.locator("nav a[aria-current]")).to_have_count(1)
    expect(page.locator("body")).to_have_attribute("data-link", "good")


# ---- on a phone


def test_all_of_it_on_a_phone(site: Running, watch: Double, visit: Any, clip: Path) -> None:
    now = time.time()
    for number in range(9):
        zones = ("the long drive before the house", "garden")
        watch.happen(clip=clip, start=now - 100 + number, end=now, why="left", zones=zones)
    watch.fail(
        "yard", "cannot reach rtsp://admin:***@a-very-long-name.example.org:8554/stream1", "wrong?"
    )
    with playing(watch):
        page = visit(site.url, **PHONE)
        expect(tile(page, "front").locator("canvas")).to_have_attribute(
            "aria-label", "front: person"
        )
        place = tile(page, "front").bounding_box()
        assert place["width"] > 320 and place["height"] > 200 and fits(page)
        expect(page.locator("#events")).to_be_hidden()
        page.get_by_role("link", name="Events").tap()
        expect(rows(page)).to_have_count(9)
        assert fits(page) and page.locator("nav").bounding_box()["y"] > 600
        rows(page).first.tap()
        video = page.locator("video")
        eventually(page, lambda: video.evaluate("v => v.currentTime > 0.1"))
        expect(page.locator("#list")).to_be_hidden()
        assert fits(page)
        page.locator("#event-back").tap()
        expect(rows(page).first).to_be_visible()
        page.get_by_role("link", name="Status").tap()
        expect(page.locator(".limit")).to_be_visible()
        assert fits(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_are_readable_in_light_and_dark(
    site: Running, watch: Double, visit: Any, scheme: str
) -> None:
    watch.happen()
    page = visit(site.url, color_scheme=scheme)
    expect(rows(page)).to_have_count(1)
    code = """(selector) => {
        const light = (color) => { const [r, g, b] = color.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
            .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
        const ink = light(getComputedStyle(document.querySelector(selector)).color);
        let at = document.querySelector(selector);
        while (/, 0\\)|transparent/.test(getComputedStyle(at).backgroundColor)) at = at.parentElement;
        const back = light(getComputedStyle(at).backgroundColor);
        return (Math.max(ink, back) + 0.05) / (Math.min(ink, back) + 0.05); }"""
    for selector in (
        "#live-title",
        ".caption b",
        ".figures",
        ".where",
        ".score",
        ".lasted",
        "nav a",
    ):
        assert page.evaluate(code, selector) >= 4.5, selector
