"""`onchip annotate` in a real Chromium: from a key press to the next photo, and opening a folder.

Run it with a folder for the photos that it makes, which are made once: 34 of 12 megapixels, and
10,000 small ones. The yardstick is what a person calls at once: 100 ms.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from playwright.sync_api import Browser, Page, expect, sync_playwright

from onchip.demo.scenes import render

PRESSES = 30
MANY = 10_000
WIDE, TALL = 4032, 3024
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def large(folder: Path) -> Path:
    """Photos of 12 megapixels with the noise of a sensor, 4 to 6 MB each."""
    for number in range(PRESSES + 4):
        path = folder / f"{number:04}.jpg"
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        image = cv2.resize(render(number)[0], (WIDE, TALL), interpolation=cv2.INTER_CUBIC)
        noise = np.random.default_rng(number).normal(0, 6, (TALL // 2, WIDE // 2, 3))
        image = image + cv2.resize(noise, (WIDE, TALL), interpolation=cv2.INTER_NEAREST)
        image = np.clip(image, 0, 255).astype(np.uint8)
        cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 92])
    return folder


def many(folder: Path) -> Path:
    """10,000 small photos, every second one labelled."""
    folder.mkdir(parents=True, exist_ok=True)
    _, data = cv2.imencode(".jpg", render(0)[0])
    for number in range(MANY):
        (folder / f"{number:05}.jpg").write_bytes(data.tobytes())
        if number % 2:
            (folder / f"{number:05}.txt").write_text("0 0.5 0.5 0.1 0.1\n" * 4)
    return folder


@contextmanager
def served(folder: Path, *options: str) -> Iterator[str]:
    command = [sys.executable, "-m", "onchip", "annotate", str(folder), "--json", *options]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield json.loads(server.stdout.readline())["url"]
    finally:
        server.terminate()
        server.wait()


def opened(page: Page, url: str) -> None:
    page.goto(url)
    expect(page.locator("#where")).to_contain_text("×", timeout=60_000)


def key_presses(browser: Browser, folder: Path, pause: float, draw: bool) -> list[float]:
    """Milliseconds from each press of Space to the frame in which the next photo is seen."""
    for label in folder.glob("*.txt"):
        label.unlink()
    with served(folder, "--classes", "thing") as url:
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        opened(page, url)
        for number in range(PRESSES):
            page.wait_for_timeout(1000 * pause)
            if draw:
                page.mouse.move(400, 200)
                page.mouse.down()
                page.mouse.move(600, 400 + number, steps=3)
                page.mouse.up()
            page.keyboard.press("Space")
            while page.evaluate("performance.getEntriesByName('shown').length") <= number:
                page.wait_for_timeout(20)
        found = page.evaluate("performance.getEntriesByName('shown').map((m) => m.duration)")
        page.close()
    assert len(list(folder.glob("*.txt"))) == PRESSES
    return [float(v) for v in found]


def opening(browser: Browser, folder: Path) -> float:
    """Seconds from the command to the first photo on the screen."""
    started = time.perf_counter()
    with served(folder) as url:
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        opened(page, url)
        took = time.perf_counter() - started
        page.close()
    return took


def told(name: str, values: list[float], unit: str) -> None:
    middle, high = np.percentile(values, (50, 90))
    print(f"{name}: median {middle:.1f}, p90 {high:.1f}, most {max(values):.1f} {unit}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="for the photos; kept")
    given = parser.parse_args()
    place = given.folder or Path(tempfile.mkdtemp(prefix="onchip-annotate-"))
    photos, crowd = large(place / "large"), many(place / "many")
    for notes in (photos / "data.yaml", crowd / "data.yaml"):
        notes.unlink(missing_ok=True)
    (crowd / "classes.txt").write_text("thing\n")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=[*FLAGS])
        told("opening 10,000 photos", [opening(browser, crowd) for _ in range(3)], "s")
        for pause in (1.0, 0.5, 0.25):
            found = key_presses(browser, photos, pause, draw=True)
            told(f"key to next photo, one every {pause} s", found, "ms")
            (photos / "data.yaml").unlink()
        browser.close()
    if given.folder is None:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
