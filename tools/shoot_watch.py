"""Make docs/images/watch.jpg and watch-phone.jpg: the real page before real cameras and a real model.

    python tools/shoot_watch.py yard.onchip --clips shared/data/video [--seconds 70] [-o docs/images]

Needs playwright, a Chromium and ffmpeg. Three cameras play the two clips (one of them turned, from
its middle); the fourth does not answer.
"""  # fmt: skip

import argparse
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from playwright.sync_api import sync_playwright

from onchip.watch.config import read
from onchip.watch.serve import Server, Wanted
from onchip.watch.watch import Watch

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu"]
ROOT = Path(__file__).parents[1]
CAMERAS = """
model = "{model}"
data = "{folder}/events"
confidence = 0.3

[cameras.street]
url = "{folder}/street.mp4"
fps = {fps}
objects = ["car"]
[cameras.street.zones.crossing]
points = [[0.02, 0.52], [0.98, 0.52], [0.98, 0.97], [0.02, 0.97]]

[cameras.front]
url = "{folder}/front.mp4"
fps = {fps}
objects = ["person", "bicycle", "car"]

[cameras.garden]
url = "{folder}/garden.mp4"
fps = {fps}
objects = ["person", "bicycle", "car"]

[cameras.garage]
url = "rtsp://admin:secret@127.0.0.1:9/stream1"
fps = {fps}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--clips", type=Path, default=ROOT.parent / "shared" / "data" / "video")
    parser.add_argument("--seconds", type=float, default=70)
    parser.add_argument("--fps", type=float, default=3)
    parser.add_argument("-o", "--out", type=Path, default=ROOT / "docs" / "images")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, given.clips)
        file = folder / "cameras.toml"
        text = CAMERAS.format(model=given.model.resolve(), folder=folder, fps=given.fps)
        file.write_text(text)
        config = read(file)
        with Watch(config) as watch, Server(watch, Wanted(port=0, data=folder)) as server:
            watch.start()
            server.start()
            time.sleep(given.seconds)
            shoot(server.url, watch, given.out)


def prepare(folder: Path, clips: Path) -> None:
    """Lay out the clips that the cameras play."""
    shutil.copy(clips / "car-detection.mp4", folder / "street.mp4")
    shutil.copy(clips / "person-bicycle-car-detection.mp4", folder / "front.mp4")
    turned = ["-vf", "hflip", "-an", "-g", "24", str(folder / "garden.mp4")]
    source = ["-ss", "14", "-i", str(folder / "front.mp4")]
    subprocess.run(["ffmpeg", "-v", "error", *source, *turned], check=True)


def shoot(url: str, watch: Watch, out: Path) -> None:
    """Take the pictures once there is something to see."""
    with sync_playwright() as play:
        found = shutil.which("chromium") or shutil.which("google-chrome")
        browser = play.chromium.launch(executable_path=found, args=FLAGS)
        context = browser.new_context(viewport={"width": 1360, "height": 768})
        page = context.new_page()
        page.goto(url)
        page.locator(".tile").first.wait_for()
        page.get_by_text("Zones", exact=True).click()
        save(out / "watch.jpg", [best(page, watch)])
        phone = browser.new_context(
            viewport={"width": 375, "height": 760}, device_scale_factor=2, is_mobile=True,
            has_touch=True, color_scheme="dark", storage_state=context.storage_state(),
        ).new_page()  # fmt: skip
        phone.goto(url.partition("?")[0])
        phone.locator(".tile").first.wait_for()
        screens = [best(phone, watch)]
        phone.get_by_role("link", name="Events").tap()
        phone.wait_for_timeout(1500)
        screens.append(phone.screenshot())
        over = [e for e in watch.store.events(limit=200) if e.clip and e.end]
        one = max(over, key=lambda e: min(e.end - e.start, 6) * e.score * (e.label == "car"))
        phone.goto(f"{url.partition('?')[0]}#event/{one.id}")
        phone.wait_for_timeout(1500)
        middle = 5 + (one.end - one.start) / 2  # five seconds before are shown too
        phone.locator("video").evaluate("(v, at) => { v.pause(); v.currentTime = at }", middle)
        phone.wait_for_timeout(4500)
        screens.append(phone.screenshot())
        save(out / "watch-phone.jpg", screens, scale=0.62)
        browser.close()


def best(page: Any, watch: Watch) -> bytes:
    """Return the screen at the moment of a minute at which most is seen."""
    shot, most = b"", (-1, -1)
    for _ in range(240):
        looks = [watch.latest(name) for name in ("street", "front", "garden")]
        counts = [sum(s.score > 0.4 for s in look.sightings) if look else 0 for look in looks]
        found = sum(map(bool, counts)), sum(counts)
        if found > most:
            page.wait_for_timeout(80)  # it is on the screen by then
            shot, most = page.screenshot(), found
        page.wait_for_timeout(250)
    return shot


def save(path: Path, screens: list[bytes], scale: float = 1.0) -> None:
    """Write screens side by side."""
    images = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data in screens]
    gap = np.full((images[0].shape[0], 28, 3), 255, np.uint8)
    joined = np.hstack([part for image in images for part in (image, gap)][:-1])
    if scale != 1.0:
        joined = cv2.resize(joined, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(path), joined, [cv2.IMWRITE_JPEG_QUALITY, 86])


if __name__ == "__main__":
    main()
