"""The page of a check: whole in one file, small, safe, and it shows what it speaks of."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from html import unescape
from pathlib import Path

import cv2
import numpy as np
import pytest

from onchip.dataset import yolo
from onchip.dataset.check import check
from onchip.demo import scenes
from onchip.report.dataset_page import page

from conftest import Cli


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Scenes with faults whose pictures need care."""
    place = tmp_path / "set"
    scenes.write(place, 12, 1000, "train")
    scenes.write(place, 4, 9000, "val")
    train = place / "images/train"
    shutil.copy(train / "001000.jpg", place / "images/val/<b>&copy'.jpg")
    (train / "001001.jpg").write_bytes(b"")
    (train / "001002.jpg").write_bytes((train / "001002.jpg").read_bytes()[:9000])
    lines = ["0 0.98 0.06 0.1 0.1", "1 1e30 0.5 0.1 0.1", "4 0.5 0.06 0.002 0.002", "9 .5 .5 .1 .1"]
    with (place / "labels/train/001003.txt").open("a") as file:
        file.write("\n".join(lines) + "\n<script>alert(1)</script>\n")
    (place / "images/train/IMG.HEIC").write_bytes(b"x")
    return place


def test_all_of_it_is_in_the_file_and_safe(folder: Path) -> None:
    notes = folder / "data.yaml"
    notes.write_text(notes.read_text().replace("red car", "<i>car"))
    text = page(check(notes))
    assert not re.search(r"(src|href)=\"(?!data:|#)", text)
    assert "url(" not in text and "<script" not in text and "<i>car" not in text
    assert "<b>&copy" not in text and "<b>&copy'.jpg" in unescape(text)
    for code in ("leak", "empty-file", "truncated", "edge", "tiny", "label-class", "unread"):
        assert f'<section id="{code}">' in text, code
    assert text.count("<image ") >= 7
    assert "e+30" not in text  # a hostile box does not leave the view
    for part in (
        "Boxes of each class",
        "Shorter side of the boxes",
        "For training:",
        "What to do:",
    ):
        assert part in text


def test_hundreds_of_findings_make_a_small_page(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for folder in ("images/train", "labels/train", "images/val", "labels/val"):
        (tmp_path / folder).mkdir(parents=True)
    for number in range(150):
        # noise: the largest JPEGs that there are
        image = random.integers(0, 255, (480, 640, 3), np.uint8)
        path = tmp_path / f"images/train/{number:03}.jpg"
        cv2.imwrite(str(path), image)
        rows = ["0 0.98 0.5 0.1 0.1", "0 0.5 0.5 0.2 0.2", "1 0.5 0.5 0.2 0.2", "7 0.1 0.1 0.1 0.1"]
        yolo.place(path).write_text("\n".join([*rows, "2 0.3 0.3 0.001 0.001", rows[1]]) + "\n")
        if number % 3 == 0:
            shutil.copy(path, tmp_path / "images/val")
    notes = tmp_path / "data.yaml"
    notes.write_text("train: images/train\nval: images/val\nnames: [car, truck, bus]\n")
    found = check(notes)
    assert len(found.findings) > 800
    told: list[tuple[int, int]] = []
    text = page(found, lambda what, done, total: told.append((done, total)))
    assert len(text) < 4_000_000
    assert told and all(done <= total for done, total in told)


@pytest.mark.browser
def test_in_a_browser(folder: Path, tmp_path: Path) -> None:
    sync = pytest.importorskip("playwright.sync_api")
    path = tmp_path / "check.html"
    path.write_text(page(check(folder / "data.yaml")))
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for scheme, width in (("light", 1200), ("dark", 400)):
            view = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 800})
            said, asked = [], []
            view.on("console", lambda message, said=said: said.append(message.text))
            view.on("request", lambda request, asked=asked: asked.append(request.url))
            view.goto(path.as_uri())
            assert not said
            assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
            wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            assert view.evaluate(wide) <= 0  # nothing runs off the side
            seen = (
                "[...document.querySelectorAll('image')].filter(i => i.getBBox().width > 50).length"
            )
            assert view.evaluate(seen) == view.locator("image").count() >= 7
            view.locator(".chips a").first.click()
            assert view.url.rpartition("#")[2] == view.locator("section").first.get_attribute("id")
        browser.close()


def test_the_command_writes_it(folder: Path, cli: Cli) -> None:
    cli("dataset", "check", folder, "--page", "check.html", code=1)
    assert (cli.folder / "check.html").read_text().startswith("<!doctype html>")
    (cli.folder / "taken").mkdir()
    done = cli("dataset", "check", folder, "--page", "taken", code=2)
    assert "cannot write" in done.stderr


def test_interrupting_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    photo = folder / "images/train/001000.jpg"
    for number in range(20_000):
        os.link(photo, folder / "images/train" / f"again{number}.jpg")
    before = sorted(tmp_path.iterdir())
    command = [sys.executable, "-m", "onchip", "dataset", "check", str(folder), "--page", "c.html"]
    done = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    time.sleep(3)
    done.send_signal(signal.SIGINT)
    _, said = done.communicate(timeout=60)
    assert done.returncode == 130, said
    assert "interrupted" in said and "Traceback" not in said
    assert sorted(tmp_path.iterdir()) == before
