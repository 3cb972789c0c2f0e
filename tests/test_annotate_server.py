"""The annotator's server over real HTTP: who may come in, what may be touched, what is answered."""

import errno
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("uvicorn", reason="pip install 'onchip[annotate]'")

from onchip.annotate.serve import Server, Wanted
from onchip.errors import InputError, UnsupportedError
from onchip.web.door import TRIES, Door, address_of
from onchip.web.listen import tunnel

from annotating import Running, Visitor, photo, running
from conftest import Cli

BOX = {"index": 0, "box": [0.5, 0.5, 0.25, 0.5]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three photos and two classes."""
    place = tmp_path / "photos"
    for number, name in enumerate(("a.jpg", "b.png", "c.jpg")):
        photo(place / name, seed=number)
    (place / "classes.txt").write_text("car\nperson\n")
    return place


@pytest.fixture
def site(folder: Path) -> Iterator[Running]:
    with running(folder) as found:
        yield found


# ---- who may come in


def test_the_link_opens_the_page_once_and_a_reload_needs_no_link(site: Running) -> None:
    link = site.url
    first = Visitor(site)
    assert site.url == f"{site.origin}/"  # the token is spent
    assert first("GET", "/").status == 200  # a reload, a second tab
    again = first("GET", link.removeprefix(site.origin))  # the printed link again, same browser
    assert again.status == 200 and b'content="0;url=/"' in again.body
    assert not site.told


def test_a_spent_link_opens_nothing_but_prints_a_new_one(site: Running) -> None:
    link = site.url.removeprefix(site.origin)
    Visitor(site)
    other = Visitor(site, enter=False)
    answer = other("GET", link)
    assert answer.status == 401 and b"used already" in answer.body and not other.cookie
    assert site.told == [site.url] and link not in site.told[0]
    assert Visitor(site).cookie  # the new one is good


def test_a_wrong_link_opens_nothing_and_prints_nothing(site: Running) -> None:
    visitor = Visitor(site, enter=False)
    assert visitor("GET", "/?token=guessed").status == 401
    assert not visitor.cookie and not site.told


def test_the_cookie_is_out_of_reach(site: Running) -> None:
    visitor = Visitor(site, enter=False)
    answer = visitor("GET", site.url.removeprefix(site.origin))
    set_cookie = answer.headers["set-cookie"]
    assert set_cookie.startswith(f"onchip-annotate-{site.server.port}=")
    assert "HttpOnly" in set_cookie and "SameSite=strict" in set_cookie
    assert "token" not in answer.body.decode()


@pytest.mark.parametrize(
    "path",
    ["/api/folder", "/api/counts", "/api/labels/x", "/api/photo/x", "/api/hello", "/api/doubts"],
)
def test_without_a_session_nothing_is_told(site: Running, path: str) -> None:
    stranger = Visitor(site, enter=False)
    assert stranger("GET", path).status == 401
    stranger.cookie = f"onchip-annotate-{site.server.port}=guess"
    assert stranger("GET", path).status == 401
    assert stranger("PUT", "/api/labels/x", {}).status == 401
    assert stranger("GET", "/").status == 401


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""])
def test_a_name_that_is_made_to_lead_here_is_refused(site: Running, host: str) -> None:
    visitor = Visitor(site)
    answer = visitor("GET", "/api/folder", headers={"Host": host})
    assert answer.status == 421 and b"photos" not in answer.body
    assert visitor("GET", "/", headers={"Host": host}).status == 421


@pytest.mark.parametrize(
    "host",
    ["localhost/page/", "localhost:1/page/?x=", "localhost:1?", "127.0.0.1#", "[::1]x/page/"],
)
def test_a_host_that_holds_a_path_is_refused(site: Running, host: str) -> None:
    stranger = Visitor(site, enter=False)
    assert stranger("GET", "/api/folder", headers={"Host": host}).status == 421


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "127.8.8.8"])
def test_a_tunnel_may_have_a_port_of_its_own(site: Running, host: str) -> None:
    visitor = Visitor(site)
    assert visitor("GET", "/api/folder", headers={"Host": f"{host}:9999"}).status == 200


def test_other_pages_can_change_nothing(site: Running, folder: Path) -> None:
    visitor = Visitor(site)
    port = site.server.port
    for origin in (
        "http://evil.example",
        "null",
        f"https://127.0.0.1:{port}",
        "http://127.0.0.1:1",
        "",
    ):
        now = visitor.labels("a.jpg")
        body = {"version": now["labels"]["version"], "classes": now["classes"], "rows": [BOX]}
        path = f"/api/labels/{visitor.id('a.jpg')}"
        answer = visitor("PUT", path, body, {"Origin": origin})
        assert answer.status == 403, origin
    for fetched in ("cross-site", "same-site"):
        assert visitor("GET", "/api/folder", headers={"Sec-Fetch-Site": fetched}).status == 403
    assert not list(folder.glob("?.txt"))
    assert visitor.save("a.jpg", [BOX]).status == 200


def test_a_link_on_another_site_leads_in_by_a_step_of_our_own(site: Running) -> None:
    visitor = Visitor(site, enter=False)  # the browser withholds the cookie on such a click
    answer = visitor("GET", "/", headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status == 200 and b'content="0;url=/"' in answer.body
    token = site.server.door.token
    answer = visitor("GET", f"/?token={token}", headers={"Sec-Fetch-Site": "cross-site"})
    assert f'content="0;url=/?token={token}"' in answer.body.decode() and not visitor.cookie
    odd = visitor("GET", "/?token=%22%3E%3Cb", headers={"Sec-Fetch-Site": "cross-site"})
    assert b'url=/?token=%22%3E%3Cb"' in odd.body


def test_every_answer_is_sealed(site: Running) -> None:
    visitor = Visitor(site)
    paths = ["/", "/page/main.js", "/api/folder", "/nothing", f"/api/photo/{visitor.id('a.jpg')}"]
    for path in paths:
        headers = visitor("GET", path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["x-frame-options"] == "DENY"
        assert "server" not in headers
    page = Path(str(visitor("GET", "/").body))
    assert "<script>" not in str(page) and "style=" not in str(page) and "http" not in str(page)


def test_bodies_must_be_json_of_some_size(site: Running, folder: Path) -> None:
    visitor = Visitor(site)
    path = f"/api/labels/{visitor.id('a.jpg')}"
    assert visitor("PUT", path, {}, {"Content-Type": "text/plain"}).status == 415
    assert visitor("PUT", path, b"x" * (9 << 20)).status == 413
    for body in (b"", b"{", b"[]", b'{"rows": 1}', b"\xff", b"[" * 100_000):
        assert visitor("PUT", path, body).status == 400, body[:20]
    assert visitor("POST", path, {}).status == 405
    assert visitor("PUT", "/api/labels/none", {}).status == 404
    assert not list(folder.glob("?.txt"))


def test_what_is_cut_short_or_odd_leaves_no_trace_in_the_terminal(
    site: Running, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    visitor = Visitor(site)
    port = site.server.port
    head = {
        "Host": f"127.0.0.1:{port}",
        "Origin": site.origin,
        "Cookie": visitor.cookie,
        "Content-Type": "application/json",
        "Content-Length": "100",
    }
    lines = [
        f"PUT /api/labels/{visitor.id('a.jpg')} HTTP/1.1",
        *(f"{k}: {v}" for k, v in head.items()),
    ]
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall("\r\n".join([*lines, "", "{"]).encode())
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    stranger = Visitor(site, enter=False)
    assert stranger("POST", "/login", b"&".join([b"password=x"] * 9), form).status == 401
    assert visitor("GET", "/api/hello").status == 200
    site.server.stop()  # all that is under way ends
    assert not list(folder.glob("?.txt"))
    assert "Traceback" not in capfd.readouterr().err


def test_others_come_in_by_a_password_that_cannot_be_guessed(folder: Path) -> None:
    with pytest.raises(InputError, match="a password is needed"):
        Server(Wanted(folder, host="0.0.0.0"))
    with pytest.raises(InputError, match="too short"):
        Server(Wanted(folder, host="0.0.0.0", password="1234567"))
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    with running(folder, host="0.0.0.0", password="tea & cake 🍰") as site:
        visitor = Visitor(site, enter=False)
        assert "token" not in site.url
        page = visitor("GET", "/")
        assert page.status == 401 and b'type="password"' in page.body
        wrong = visitor("POST", "/login", b"password=guess", form)
        assert wrong.status == 401 and not visitor.cookie
        right = b"password=tea+%26+cake+%F0%9F%8D%B0"
        assert (
            visitor("POST", "/login", right, {**form, "Origin": "http://evil.example"}).status
            == 403
        )
        assert visitor("POST", "/login", right, form).status == 200
        assert visitor("GET", "/api/folder").status == 200
        stranger = Visitor(site, enter=False)
        for _ in range(TRIES):
            assert stranger("POST", "/login", b"password=guess", form).status == 401
        late = stranger("POST", "/login", right, form)
        assert late.status == 429 and int(late.headers["retry-after"]) > 1 and not stranger.cookie


def test_tries_are_counted_by_address_and_cost_more_and_more() -> None:
    clock = [0.0]
    door = Door("0.0.0.0", "long enough", now=lambda: clock[0])
    waits = []
    for _ in range(12):
        clock[0] += door.wait("1.2.3.4")
        assert door.log_in("wrong", "1.2.3.4") is None
        waits.append(door.wait("1.2.3.4"))
    assert waits[: TRIES - 1] == [0.0] * (TRIES - 1)
    assert all(a < b or b == 900 for a, b in zip(waits[TRIES - 1 :], waits[TRIES:], strict=False))
    assert door.wait("1.2.3.5") == 0
    assert door.knows(door.log_in("long enough", "1.2.3.5"))
    assert address_of("::ffff:10.0.0.5") == "10.0.0.5"
    assert (address_of("::1"), address_of("::ffff:127.0.0.1")) == ("::1", "127.0.0.1")
    assert address_of("2001:db8::1") == address_of("2001:db8::ffff") != address_of("2001:db9::1")


def test_names_that_an_open_server_goes_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "bench")
    door = Door("0.0.0.0", "long enough")
    for host in ("192.168.1.7:8000", "bench:8000", "bench.local", "localhost", "[fe80::1]:8000"):
        assert door.serves(host), host
    for host in ("evil.example", "bench.evil.example", "benchmark", "1.2.3.4.evil.example"):
        assert not door.serves(host), host


# ---- what may be touched


def test_no_path_of_a_request_leads_anywhere(site: Running, folder: Path) -> None:
    (folder.parent / "secret.txt").write_text("secret")
    visitor = Visitor(site)
    for path in (
        "/api/photo/..%2Fsecret.txt", "/api/photo/../secret.txt", "/page/../app.py", "/page/..%2Fapp.py",
        "/page/%2e%2e/app.py", "//secret.txt", "/api/photo/%00", "/page//etc/passwd", "/api/labels/..%2f..",
    ):  # fmt: skip
        answer = visitor("GET", path)
        assert (
            answer.status == 404 and b"secret" not in answer.body and b"import" not in answer.body
        )


def test_links_that_lead_out_are_listed_and_never_opened(folder: Path) -> None:
    outside = photo(folder.parent / "elsewhere" / "x.jpg")
    (folder / "out.jpg").symlink_to(outside)
    (folder / "in.jpg").symlink_to(folder / "a.jpg")
    (folder / "deep").symlink_to(outside.parent)
    (folder / "b.txt").symlink_to(outside.parent / "b.txt")
    with running(folder) as site:
        visitor = Visitor(site)
        said = {name: (state, note) for _, name, state, note in visitor.folder()["photos"]}
        assert said["out.jpg"] == ("", "it leads out of the folder and is not opened")
        assert said["in.jpg"][0] == "unlabelled" and not any("deep" in name for name in said)
        for place in ("photo", "labels"):
            assert visitor("GET", f"/api/{place}/{visitor.id('out.jpg')}").status == 404
        assert visitor("GET", f"/api/labels/{visitor.id('b.png')}").status == 404
        body = {"version": "none", "classes": "", "rows": [BOX]}
        assert visitor("PUT", f"/api/labels/{visitor.id('b.png')}", body).status == 404
        (folder / "a.jpg").unlink()  # a photo becomes a link while the server runs
        (folder / "a.jpg").symlink_to(outside)
        assert visitor("GET", f"/api/photo/{visitor.id('a.jpg')}").status == 404
    assert not (outside.parent / "b.txt").exists()


def test_a_labels_folder_that_leads_out_is_not_written(tmp_path: Path) -> None:
    images = tmp_path / "set" / "images"
    photo(images / "a.jpg")
    (tmp_path / "out").mkdir()
    (tmp_path / "set" / "labels").symlink_to(tmp_path / "out")
    with running(images, classes=("car",)) as site:
        visitor = Visitor(site)
        answer = visitor("GET", f"/api/labels/{visitor.id('a.jpg')}")
        assert answer.status == 404 and "leads out" in answer.error["message"]
    assert not list((tmp_path / "out").iterdir())


def test_labels_stand_where_yolo_expects_them(tmp_path: Path) -> None:
    photo(tmp_path / "set" / "images" / "train" / "a.jpg")
    with running(tmp_path / "set" / "images" / "train", classes=("car",)) as site:
        assert Visitor(site).save("a.jpg", [BOX]).status == 200
    place = tmp_path / "set" / "labels" / "train" / "a.txt"
    assert place.read_text() == "0 0.5 0.5 0.25 0.5\n"


# ---- photos


def test_a_photo_is_served_as_it_is_and_kept_by_the_browser(site: Running, folder: Path) -> None:
    visitor = Visitor(site)
    before = (folder / "a.jpg").read_bytes()
    tag = visitor.labels("a.jpg")["tag"]
    path = f"/api/photo/{visitor.id('a.jpg')}"
    answer = visitor("GET", f"{path}?v={tag}")
    assert answer.body == before == (folder / "a.jpg").read_bytes()
    assert answer.headers["content-type"] == "image/jpeg"
    assert "immutable" in answer.headers["cache-control"]
    assert visitor("GET", path, headers={"If-None-Match": answer.headers["etag"]}).status == 304
    photo(folder / "a.jpg", 80, 60, seed=9)
    assert visitor.labels("a.jpg")["tag"] != tag
    changed = visitor("GET", f"{path}?v={tag}", headers={"If-None-Match": answer.headers["etag"]})
    assert changed.status == 200 and "immutable" not in changed.headers["cache-control"]


def test_odd_names_are_photos_like_others(tmp_path: Path) -> None:
    names = [
        "with space.jpg", "🦆 émoji.jpg", "quote\"'.jpg", "new\nline.jpg", "a..b.jpg", "%2e%2e.jpg",
        "<b>.jpg", "#?&.jpg", "\u202egpj.jpg", "-rf.jpg", "con.jpg",
    ]  # fmt: skip
    for name in names:
        photo(tmp_path / name)
    (tmp_path / "con.jpg").rename(os.fsdecode(os.fsencode(tmp_path) + b"/not\xffutf8.jpg"))
    names[-1] = "not\ufffdutf8.jpg"
    with running(tmp_path, classes=("car",)) as site:
        visitor = Visitor(site)
        for name in names:
            assert visitor.save(name, [BOX]).status == 200, name
            assert visitor("GET", f"/api/photo/{visitor.id(name)}").status == 200
    assert len(list(tmp_path.glob("*.txt"))) == len(names)
    assert (tmp_path / "new\nline.txt").read_text() == "0 0.5 0.5 0.25 0.5\n"


def test_a_folder_whose_name_is_no_text_opens(tmp_path: Path) -> None:
    place = Path(os.fsdecode(os.fsencode(tmp_path) + b"/ph\xff"))
    photo(place / "a.jpg")
    with running(place, classes=("car",), again=f"onchip annotate {place}") as site:
        visitor = Visitor(site)
        assert visitor.folder()["name"].startswith(str(tmp_path / "ph"))
        assert visitor.save("a.jpg", [BOX]).status == 200
        (place / "a.jpg").unlink()
        shutil.rmtree(place)
        assert "cannot read" in visitor("GET", "/api/folder").error["message"]


def test_what_cannot_be_labelled_says_why(tmp_path: Path) -> None:
    good = photo(tmp_path / "good.jpg", 640, 480).read_bytes()
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.png").write_text("not a photo")
    (tmp_path / "phone.heic").write_bytes(b"....ftypheic")
    (tmp_path / "moving.gif").write_bytes(b"GIF89a")
    photo(tmp_path / "classes.jpg")
    (tmp_path / "pipe.jpg").symlink_to("pipe")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "cut.jpg").write_bytes(good[: len(good) // 2])
    with running(tmp_path, classes=("car",)) as site:
        visitor = Visitor(site)
        said = {name: note for _, name, _, note in visitor.folder()["photos"]}
        assert said["phone.heic"] == "HEIC cannot be trained on; convert it to JPEG or PNG"
        assert said["moving.gif"].startswith("GIF cannot be trained on")
        assert "would replace classes.txt" in said["classes.jpg"]
        assert "empty (0 bytes)" in visitor.labels("empty.jpg")["damage"]
        assert "no image" in visitor.labels("text.png")["damage"]
        assert "picture" in visitor.labels(
            "cut.jpg"
        )  # its head is sound; the browser sees the rest
        answer = visitor("GET", f"/api/labels/{visitor.id('pipe.jpg')}")
        assert answer.status == 404 and "is no file" in answer.error["message"]


def test_photos_that_share_a_label_file_say_so(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg"), photo(tmp_path / "a.png"), photo(tmp_path / "b.png")
    with running(tmp_path, classes=("car",)) as site:
        said = {name: note for _, name, _, note in Visitor(site).folder()["photos"]}
    assert said == {"a.jpg": "shares a.txt with another photo",
                    "a.png": "shares a.txt with another photo", "b.png": ""}  # fmt: skip


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tiff"])
def test_sizes_are_those_of_the_upright_photo(tmp_path: Path, turn: int, kind: str) -> None:
    from onchip.vision.preprocess import decode_image, read_image

    exif = Image.Exif()
    exif[0x0112] = turn
    Image.new("RGB", (40, 20)).save(tmp_path / f"a.{kind}", exif=exif)
    with running(tmp_path, classes=("car",)) as site:
        visitor = Visitor(site)
        facts = visitor.labels(f"a.{kind}")["picture"]
        shown = visitor("GET", f"/api/photo/{visitor.id(f'a.{kind}')}")
    height, width = read_image(tmp_path / f"a.{kind}").shape[:2]
    assert (facts["width"], facts["height"]) == (width, height)
    seen = decode_image(np.frombuffer(shown.body, np.uint8), "shown")
    assert seen.shape[:2] == (height, width)
    assert facts["as_is"] == (kind == "jpg" or (kind != "tiff" and turn == 1))


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a xmlns:tiff="b" tiff:Orientation="6"/></x:xmpmeta>'


def test_a_jpeg_is_turned_as_opencv_turns_it_whatever_its_head_says(tmp_path: Path) -> None:
    from onchip.annotate.pictures import look
    from onchip.vision.preprocess import read_image

    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "maker", 6
    path = tmp_path / "a.jpg"
    Image.new("RGB", (40, 20)).save(path, xmp=XMP)
    heads = [path.read_bytes()]
    Image.new("RGB", (40, 20)).save(path, exif=exif)
    good = path.read_bytes()
    start = good.index(b"Exif")
    for at in range(start + 6, start + 32):  # every byte of the entries gets some other values
        heads += [good[:at] + bytes([value]) + good[at + 1 :] for value in (0, 4, 255)]
    sides = set()
    for head in heads:
        path.write_bytes(head)
        picture = look(path, "a.jpg")
        assert (picture.height, picture.width) == read_image(path).shape[:2], head[:80]
        sides.add(picture.width)
    assert sides == {20, 40}


def test_what_a_browser_cannot_show_is_converted_for_the_screen_only(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "deep.png"), np.full((30, 40), 40_000, np.uint16))
    photo(tmp_path / "scan.tiff", 40, 30)
    frames = [Image.new("RGB", (40, 30), c) for c in ("red", "blue")]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:])
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with running(tmp_path, classes=("car",)) as site:
        visitor = Visitor(site)
        for name in ("deep.png", "scan.tiff"):
            shown = visitor("GET", f"/api/photo/{visitor.id(name)}")
            assert shown.headers["content-type"] == "image/jpeg"
            assert cv2.imdecode(np.frombuffer(shown.body, np.uint8), 1).shape == (30, 40, 3)
        assert visitor.labels("moving.webp")["picture"]["note"] == "the first of several pictures"
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_a_photo_of_a_hundred_megapixels_is_shown_smaller(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "huge.jpg"), np.full((9000, 12_000, 3), 90, np.uint8))
    with running(tmp_path, classes=("car",)) as site:
        visitor = Visitor(site)
        facts = visitor.labels("huge.jpg")["picture"]
        assert (facts["width"], facts["height"]) == (12_000, 9000)
        assert facts["note"] == "108 megapixels, shown smaller"
        shown = visitor("GET", f"/api/photo/{visitor.id('huge.jpg')}")
    small = cv2.imdecode(np.frombuffer(shown.body, np.uint8), 1)
    assert small.size / 3 <= 24.1e6 and abs(small.shape[1] / small.shape[0] - 4 / 3) < 1e-3


# ---- the folder


def test_a_folder_without_photos_is_one_clear_line(cli: Cli) -> None:
    (cli.folder / "none").mkdir()
    assert "no photos in" in cli("annotate", "none", "--no-browser", code=2).stderr
    assert "does not exist" in cli("annotate", "gone", "--no-browser", code=2).stderr
    (cli.folder / "none" / "a.heic").touch()
    said = cli("annotate", "none", "--no-browser", code=2).stderr
    assert "none of the 1 photos" in said and "convert it to JPEG" in said
    photo(cli.folder / "some" / "a.jpg")
    assert "is no model" in cli("annotate", "some", "--model", "x.pt", code=2).stderr
    assert "password is needed" in cli("annotate", "some", "--host", "0.0.0.0", code=2).stderr
    (cli.folder / "some" / "data.yaml").write_text("train: .\nnames: [a]\n")
    assert "has other classes: a" in cli("annotate", "some", "--classes", "b", code=2).stderr


def test_new_photos_and_a_vanished_folder_are_noticed(site: Running, folder: Path) -> None:
    visitor = Visitor(site)
    photo(folder / "new.jpg")
    (folder / "c.jpg").unlink()
    assert [row[1] for row in visitor.folder()["photos"]] == ["a.jpg", "b.png", "new.jpg"]
    here = visitor.id("a.jpg")
    shutil.rmtree(folder)
    assert "is the disk still there" in visitor("GET", "/api/folder").error["hint"]
    answer = visitor("PUT", f"/api/labels/{here}", {"version": "none", "classes": "", "rows": []})
    assert answer.status == 404 and "is gone" in answer.error["message"]
    assert not folder.exists()  # nothing was made anew where a disk used to be


def test_a_data_yaml_brings_its_folders_and_a_folder_does_not(tmp_path: Path) -> None:
    far = photo(tmp_path / "far" / "images" / "x.jpg").parent
    photo(tmp_path / "set" / "near.jpg")
    notes = tmp_path / "set" / "data.yaml"
    listed = tmp_path / "set" / "split" / "data.yaml"
    listed.parent.mkdir()
    (listed.parent / "train.txt").write_text("../near.jpg\n../../far/images/x.jpg\n")
    listed.write_text("train: train.txt\nval: train.txt\nnames: [car]\n")
    notes.write_text(f"train: {far}\nval: .\nnames: [car]\n")
    for source, name in ((notes, "../far/images/x.jpg"), (listed, "../near.jpg")):
        with running(source) as site:
            visitor = Visitor(site)
            assert len(visitor.folder()["photos"]) == 2
            assert visitor.save(name, [BOX]).status == 200
    assert (tmp_path / "far" / "labels" / "x.txt").exists()
    assert (tmp_path / "set" / "near.txt").exists()
    with running(tmp_path / "set") as site:
        said = {name: note for _, name, _, note in Visitor(site).folder()["photos"]}
    assert said == {
        "../far/images/x.jpg": "it leads out of the folder and is not opened",
        "near.jpg": "",
    }


def test_a_data_yaml_that_is_not_finished_does_not_keep_photos_away(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg")
    (tmp_path / "data.yaml").write_text("train: not/there\nval: nor/this\nnames: [car]\n")
    with running(tmp_path) as site:
        assert [row[1] for row in Visitor(site).folder()["photos"]] == ["a.jpg"]


# ---- beginning and end


def test_the_command_says_where_it_is_and_ctrl_c_ends_it(folder: Path) -> None:
    command = [sys.executable, "-m", "onchip", "annotate", str(folder), "--no-browser"]
    environment = {**os.environ, "SSH_CONNECTION": "9.9.9.9 1 10.0.0.5 22", "USER": "ann"}
    started = subprocess.Popen(
        [*command, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert started.stdout is not None
    said = json.loads(started.stdout.readline())
    port = said["port"]
    assert list(said) == ["url", "port", "photos", "tunnel"]
    assert said["photos"] == 3 and said["url"].startswith(f"http://127.0.0.1:{port}/?token=")
    assert said["tunnel"] == f"ssh -N -L {port}:127.0.0.1:{port} ann@10.0.0.5"
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=30)
    assert started.returncode == 0 and "Traceback" not in err, err


def test_an_end_may_be_asked_for_before_it_serves(folder: Path) -> None:
    with Server(Wanted(folder)) as server:
        server.stop()
        server.run()  # returns


def test_the_ssh_command_can_be_run_as_it_stands() -> None:
    assert tunnel(8000, {}) == ""
    found = tunnel(8000, {"SSH_CONNECTION": "1.1.1.1 2 fe80::5 2222", "USER": "o'neil"})
    assert found == "ssh -N -p 2222 -L 8000:127.0.0.1:8000 'o'\"'\"'neil@fe80::5'"


def test_a_folder_keeps_its_port_while_that_is_free(folder: Path) -> None:
    with Server(Wanted(folder)) as first:
        with Server(Wanted(folder)) as second:
            assert first.port != second.port
        with pytest.raises(InputError, match="cannot listen"):
            Server(Wanted(folder, port=first.port))
    with Server(Wanted(folder)) as third:
        assert third.port == first.port
        assert third.url != first.url


def test_missing_libraries_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UnsupportedError) as caught:
        Server(Wanted(folder))
    assert caught.value.hint == "pip install 'onchip[annotate]'"


def test_a_full_disk_says_so_and_leaves_nothing(
    site: Running, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    visitor = Visitor(site)
    (folder / "a.txt").write_text("1 0.5 0.5 0.1 0.1\n")

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    answer = visitor.save("a.jpg", [BOX])
    assert answer.status == 507 and "No space left on device" in answer.error["message"]
    assert answer.error["hint"] == "what was there before is still there"
    assert (folder / "a.txt").read_text() == "1 0.5 0.5 0.1 0.1\n"
    assert sorted(p.name for p in folder.iterdir()) == [
        "a.jpg",
        "a.txt",
        "b.png",
        "c.jpg",
        "classes.txt",
    ]


def test_the_pages_are_sound_javascript(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    pages = [Path(str(files(f"onchip.{name}") / "page")) for name in ("annotate", "watch", "web")]
    modules = sorted(path for page in pages for path in page.glob("*.js"))
    assert len(modules) > 20
    for path in modules:
        module = tmp_path / f"{path.stem}.mjs"
        module.write_bytes(path.read_bytes())
        done = subprocess.run([node, "--check", module], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        for name in re.findall(r'from "\./(.+?)"', path.read_text()):
            assert (path.parent / name).is_file() or (pages[-1] / name).is_file(), (
                f"{path.name} wants {name}"
            )
