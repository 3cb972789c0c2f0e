"""The server of the watch page over real HTTP: who may come in, what is answered, what is bounded."""

import http.client
import json
import os
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="pip install 'onchip[watch]'")

from onchip.detections import Detections
from onchip.errors import DeviceError, InputError, UnsupportedError
from onchip.watch import app, serve, streams
from onchip.watch.serve import Server, Wanted
from onchip.web import answers, connections
from onchip.web.door import Door, read_password

from annotating import Visitor
from watching import Double, Running, Shot, film, running, scene, sighting

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
DEADLINE = 20.0


@pytest.fixture
def watch(tmp_path: Path) -> Double:
    return Double(tmp_path, "front", "yard")


@pytest.fixture
def site(watch: Double) -> Iterator[Running]:
    with running(watch) as found:
        yield found


def until(condition: Callable[[], Any]) -> Any:
    """Wait for something to be so."""
    end = time.monotonic() + DEADLINE
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
    return found


class Reading:
    """A streamed answer that is read bit by bit."""

    def __init__(self, visitor: Visitor, path: str, receive: int | None = None) -> None:
        self.connection = http.client.HTTPConnection(
            "127.0.0.1", visitor.running.server.port, timeout=DEADLINE
        )
        if receive is not None:
            made = socket.socket()
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
            made.settimeout(DEADLINE)
            made.connect(("127.0.0.1", visitor.running.server.port))
            self.connection.sock = made
        self.connection.request("GET", path, headers={"Cookie": visitor.cookie})
        self.answer = self.connection.getresponse()

    def read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.answer.read(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def frame(self) -> tuple[dict[str, Any], bytes]:
        """Read one message of the live stream."""
        head = json.loads(self.read(struct.unpack(">I", self.read(4))[0]))
        return head, self.read(head["bytes"])

    def picture(self) -> tuple[dict[str, Any], bytes]:
        """Read on until a picture comes."""
        while True:
            head, data = self.frame()
            if data:
                return head, data

    def news(self) -> tuple[str, Any]:
        """Read one server-sent event."""
        kind = self.answer.readline().decode().removeprefix("event: ").strip()
        data = self.answer.readline().decode().removeprefix("data: ")
        if not kind:
            raise EOFError
        assert self.answer.readline() == b"\n"
        return kind, json.loads(data)

    def close(self) -> None:
        self.answer.close()
        self.connection.close()


@contextmanager
def reading(visitor: Visitor, path: str, receive: int | None = None) -> Iterator[Reading]:
    found = Reading(visitor, path, receive)
    try:
        yield found
    finally:
        found.close()


# ---- who may come in


def test_the_link_lets_in_once_and_is_followed_by_a_new_one(site: Running) -> None:
    link = site.url.removeprefix(site.origin)
    visitor = Visitor(site)
    assert visitor("GET", "/").status == 200
    assert visitor.cookie.startswith(f"onchip-watch-{site.server.port}=")
    assert Visitor(site, enter=False)("GET", link).status == 401
    assert site.told == [site.url]


@pytest.mark.parametrize(
    "path",
    [
        "/live", "/api/news", "/api/state", "/api/events", "/api/events/e0000",
        "/api/events/e0000/snapshot.jpg", "/api/events/e0000/thumb.jpg",
        "/api/events/e0000/clip.mp4", "/api/cameras/front/latest.jpg",
    ],
)  # fmt: skip
def test_without_a_session_nothing_is_told(site: Running, path: str) -> None:
    site.watch.happen()
    stranger = Visitor(site, enter=False)
    for cookie in ("", f"onchip-watch-{site.server.port}=guess", "onchip-watch-1=x"):
        stranger.cookie = cookie
        answer = stranger("GET", path)
        assert answer.status == 401 and answer.error["code"] == "session"
    assert stranger("DELETE", "/api/events/e0000", b"").status == 401
    assert site.watch.store.event("e0000") and not site.watch.asked
    page = stranger("GET", "/")
    assert page.status == 401 and b"onchip watch" in page.body


def test_others_need_a_password(watch: Double) -> None:
    with pytest.raises(InputError, match="a password is needed"):
        Server(watch, Wanted("0.0.0.0", 0))
    with running(watch, host="0.0.0.0", password="tea and cake") as site:
        visitor = Visitor(site, enter=False)
        assert "token" not in site.url
        page = visitor("GET", "/")
        assert page.status == 401 and b'type="password"' in page.body
        assert visitor("POST", "/login", b"password=guess", FORM).status == 401
        assert visitor("POST", "/login", b"password=tea+and+cake", FORM).status == 200
        assert "Secure" not in visitor("POST", "/login", b"password=tea+and+cake", FORM).headers["set-cookie"]  # fmt: skip
        assert visitor("GET", "/api/state").status == 200
        assert visitor("POST", "/logout", b"", FORM).status == 200
        assert visitor("GET", "/api/state").status == 401


def test_a_host_or_page_of_somebody_else_is_refused(site: Running) -> None:
    visitor = Visitor(site)
    site.watch.happen()
    for host in ("evil.example", "", "localhost:1/page/"):
        assert visitor("GET", "/api/state", headers={"Host": host}).status == 421
        assert visitor("GET", "/live", headers={"Host": host}).status == 421
    for origin in ("http://evil.example", "null", "", f"https://127.0.0.1:{site.server.port}"):
        answer = visitor("DELETE", "/api/events/e0000", b"", {"Origin": origin})
        assert answer.status == 403, origin
    assert visitor("GET", "/api/state", headers={"Sec-Fetch-Site": "cross-site"}).status == 403
    assert visitor("GET", "/live", headers={"Sec-Fetch-Site": "same-site"}).status == 403
    assert visitor("DELETE", "/api/events/e0000").status == 403  # without an Origin
    assert site.watch.store.event("e0000")


def test_a_proxy_with_tls_may_give_it_a_name(watch: Double) -> None:
    with running(watch, password="tea and cake", names=("Cams.Example",)) as site:
        visitor = Visitor(site, enter=False)
        proxied = {"Host": "cams.example", "Origin": "https://cams.example"}
        answer = visitor("POST", "/login", b"password=tea+and+cake", {**FORM, **proxied})
        assert answer.status == 200 and "Secure" in answer.headers["set-cookie"]
        assert visitor("GET", "/api/state", headers={"Host": "cams.example"}).status == 200
        other = {**FORM, "Host": "cams.example", "Origin": "https://evil.example"}
        assert visitor("POST", "/login", b"password=tea+and+cake", other).status == 403
        assert visitor("GET", "/api/state", headers={"Host": "evil.example"}).status == 421


def test_sessions_outlive_a_restart_and_no_digest_opens_anything(
    watch: Double, tmp_path: Path
) -> None:
    with running(watch, data=tmp_path) as site:
        visitor = Visitor(site)
        port, cookie = site.server.port, visitor.cookie
    file = tmp_path / serve.SESSIONS
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert cookie.partition("=")[2] not in file.read_text()
    with running(watch, data=tmp_path, port=port) as site:
        visitor = Visitor(site, enter=False)
        assert visitor("GET", "/api/state").status == 401
        visitor.cookie = f"onchip-watch-{port}={file.read_text().split()[0]}"
        assert visitor("GET", "/api/state").status == 401
        visitor.cookie = cookie
        assert visitor("GET", "/api/state").status == 200
    # What was opened without a password, or with another, counts no more.
    with running(watch, data=tmp_path, port=port, password="tea and cake") as site:
        visitor = Visitor(site, enter=False)
        visitor.cookie = cookie
        assert visitor("GET", "/api/state").status == 401
        assert visitor("POST", "/login", b"password=tea+and+cake", FORM).status == 200
        kept = visitor.cookie
    with running(watch, data=tmp_path, port=port, password="cake and tea") as site:
        visitor = Visitor(site, enter=False)
        visitor.cookie = kept
        assert visitor("GET", "/api/state").status == 401


@pytest.mark.parametrize("damage", [b"\xff\x00", b"no hex at all", b"", b"00" * 10_000])
def test_a_damaged_file_of_sessions_lets_nobody_in_and_stops_nothing(
    watch: Double, tmp_path: Path, damage: bytes
) -> None:
    (tmp_path / serve.SESSIONS).write_bytes(damage)
    with running(watch, data=tmp_path) as site:
        assert Visitor(site, enter=False)("GET", "/api/state").status == 401
        assert Visitor(site)("GET", "/api/state").status == 200


def test_sessions_are_bounded_and_a_folder_that_is_gone_only_forgets(tmp_path: Path) -> None:
    file = tmp_path / "sessions"
    door = Door("127.0.0.1", "long enough", sessions=file)
    opened = [door.log_in("long enough", "a") for _ in range(300)]
    assert len(file.read_text().split()) == 256
    assert door.knows(opened[-1]) and not door.knows(opened[0])
    again = Door("127.0.0.1", "long enough", sessions=file)
    assert again.knows(opened[-1]) and not again.knows(opened[0])
    again.leave(opened[-1])
    assert not Door("127.0.0.1", "long enough", sessions=file).knows(opened[-1])
    lost = Door("127.0.0.1", "long enough", sessions=tmp_path / "gone" / "sessions")
    assert lost.knows(lost.log_in("long enough", "a"))


def test_every_answer_is_sealed_and_the_page_loads_nothing_from_elsewhere(site: Running) -> None:
    visitor = Visitor(site)
    names = [entry.name for entry in (Path(serve.__file__).parent / "page").iterdir()]
    assert {"index.html", "style.css", "icon.svg", "manifest.webmanifest"} <= set(names)
    for path in [
        "/",
        "/api/state",
        "/nothing",
        *(f"/page/{name}" for name in [*names, "base.css"]),
    ]:
        answer = visitor("GET", path)
        assert answer.status == (404 if path == "/nothing" else 200), path
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "server" not in answer.headers
        text = answer.body.decode(errors="replace").replace("http://www.w3.org/", "")
        assert "http://" not in text and "https://" not in text, path
        if path.endswith((".html", "/")):
            assert "style=" not in text and "<script>" not in text and " onclick" not in text


def test_the_port_of_another_is_one_clear_line(watch: Double) -> None:
    with running(watch) as site, pytest.raises(InputError, match="cannot listen on") as caught:
        Server(watch, Wanted(port=site.server.port))
    assert "page.port" in caught.value.hint


@pytest.mark.parametrize("host", ["300.1.1.1", "192.0.2.1", "a..b", "x" * 70, "\0"])
def test_an_address_that_is_not_this_machines_is_one_clear_line(watch: Double, host: str) -> None:
    with pytest.raises(InputError, match="cannot listen on") as caught:
        Server(watch, Wanted(host, 0, "tea and cake"))
    assert "an address of this machine" in caught.value.hint


def test_a_server_that_never_started_closes(watch: Double) -> None:
    with Server(watch, Wanted(port=0)) as server:
        assert server.port
    assert server.socket.fileno() == -1


def test_missing_libraries_are_named(watch: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "uvicorn", None)
    with pytest.raises(UnsupportedError) as caught:
        Server(watch, Wanted(port=0))
    assert "onchip[watch]" in caught.value.hint


def test_the_password_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("tea & cake \n")
    assert read_password(tmp_path / "p") == "tea & cake "
    with pytest.raises(InputError, match="cannot read the password"):
        read_password(tmp_path / "q")


# ---- what is answered


def test_state_is_the_whole_state(site: Running) -> None:
    said = Visitor(site)("GET", "/api/state").json
    assert [c["name"] for c in said["cameras"]] == ["front", "yard"]
    assert said["chip"] == "Hailo-8L" and said["parts"][0]["state"] == "ok"


def test_events_come_newest_first_by_pages_and_by_filters(site: Running) -> None:
    visitor = Visitor(site)
    assert visitor("GET", "/api/events").json["events"] == []
    for number in range(12):
        label, camera = ("person", "car")[number % 2], ("front", "yard")[number % 3 == 0]
        zones = ("drive",) if number == 5 else ()
        site.watch.happen(start=1000.0 + number, label=label, camera=camera, zones=zones)
    first = visitor("GET", "/api/events?limit=5").json
    assert [e["start"] for e in first["events"]] == [1011, 1010, 1009, 1008, 1007] and first["more"]
    second = visitor("GET", f"/api/events?limit=50&before={first['events'][-1]['id']}").json
    assert [e["start"] for e in second["events"]] == [1006, 1005, 1004, 1003, 1002, 1001, 1000]
    assert not second["more"]
    cars = visitor("GET", "/api/events?label=car&camera=front&zone=").json["events"]
    assert {(e["label"], e["camera"]) for e in cars} == {("car", "front")} and len(cars) == 4
    assert [e["start"] for e in visitor("GET", "/api/events?zone=drive").json["events"]] == [1005]
    one = visitor("GET", f"/api/events/{cars[0]['id']}").json
    assert one["event"] == cars[0] and abs(one["time"] - time.time()) < 60


@pytest.mark.parametrize(
    "query", ["limit=x", "limit=-1", "limit=%F0%9F", "limit=1e3", "camera=" + "x" * 300]
)
def test_odd_questions_are_one_clear_line(site: Running, query: str) -> None:
    answer = Visitor(site)("GET", f"/api/events?{query}")
    assert answer.status == 400 and answer.error["message"]


def test_what_does_not_exist_is_404(site: Running, tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    visitor = Visitor(site)
    site.watch.happen(snapshot=False)
    for path in (
        "/api/events/none", "/api/events/none/snapshot.jpg", "/api/events/none/clip.mp4",
        "/api/events/secret/snapshot.jpg", "/api/events/e0000/snapshot.jpg",
        "/api/events/e0000/clip.mp4", "/api/events/e0000/thumb.jpg",
        "/api/events/..%2Fsecret/snapshot.jpg", "/api/events/%00", "/api/events/.../thumb.jpg",
        "/api/events/" + "x" * 500, "/page/..%2Fapp.py", "/page/%2e%2e/app.py", "/page/../serve.py",
        "/api/cameras/none/latest.jpg", "/api/cameras/..%2f/latest.jpg", "/live?cameras=none",
        "/live?cameras=front,none", "/live?cameras=front,",
    ):  # fmt: skip
        answer = visitor("GET", path)
        assert answer.status == 404 and b"secret" not in answer.body and b"import" not in answer.body, path  # fmt: skip
    assert visitor("DELETE", "/api/events/none", b"").status == 404
    assert visitor("GET", "/api/cameras/front/latest.jpg").status == 503  # no picture yet
    assert visitor("PUT", "/api/events/e0000", {}).status == 405


def test_a_clip_is_served_whole_in_parts_and_for_keeps(site: Running, tmp_path: Path) -> None:
    clip = film(tmp_path / "clip.film")
    event = site.watch.happen(clip=clip, start=0.0, camera="front", label="dog / cat")
    data, visitor = clip.read_bytes(), Visitor(site)
    path = f"/api/events/{event.id}/clip.mp4"
    whole = visitor("GET", path)
    assert whole.body == data and whole.headers["content-type"] == "video/mp4"
    assert whole.headers["accept-ranges"] == "bytes"
    assert whole.headers["content-disposition"].startswith("inline; filename*=UTF-8''front%20dog")
    saved = visitor("GET", f"{path}?download=1").headers["content-disposition"]
    assert saved.startswith("attachment; ") and saved.endswith(".mp4") and "/" not in saved
    size = len(data)
    for wanted, first, last in (
        ("bytes=0-1", 0, 1), ("bytes=10-", 10, size - 1), ("bytes=-5", size - 5, size - 1),
        (f"bytes=7-{size * 9}", 7, size - 1), (f"bytes=-{size * 9}", 0, size - 1),
    ):  # fmt: skip
        answer = visitor("GET", path, headers={"Range": wanted})
        assert answer.body == data[first : last + 1]
        if first or last + 1 < size:
            assert answer.status == 206
            assert answer.headers["content-range"] == f"bytes {first}-{last}/{size}"
    for odd in (
        "bytes=0-1,3-4",
        "bytes=x",
        "lines=1-2",
        "bytes=5-2",
        "bytes=-",
        "bytes=" + "0-," * 999,
    ):
        answer = visitor("GET", path, headers={"Range": odd})
        assert answer.status == 200 and answer.body == data, odd
    late = visitor("GET", path, headers={"Range": f"bytes={size}-"})
    assert late.status == 416 and late.headers["content-range"] == f"bytes */{size}"
    tag = whole.headers["etag"]
    assert visitor("GET", path, headers={"If-None-Match": tag}).status == 304
    stale = visitor("GET", path, headers={"Range": "bytes=0-1", "If-Range": '"older"'})
    assert stale.status == 200 and stale.body == data
    assert visitor("HEAD", path).headers["content-length"] == str(size)


def test_snapshots_and_small_pictures(site: Running, tmp_path: Path) -> None:
    event = site.watch.happen(box=(0.9, 0.0, 1.0, 0.2))
    visitor = Visitor(site)
    whole = visitor("GET", f"/api/events/{event.id}/snapshot.jpg")
    assert whole.body == (tmp_path / f"{event.id}.jpg").read_bytes()
    small = visitor("GET", f"/api/events/{event.id}/thumb.jpg")
    shape = cv2.imdecode(np.frombuffer(small.body, np.uint8), cv2.IMREAD_COLOR).shape
    assert abs(shape[0] / shape[1] - 3 / 4) < 0.02 and shape[1] <= app.THUMB[0]
    assert visitor("GET", f"/api/events/{event.id}/thumb.jpg").body == small.body
    (tmp_path / f"{event.id}.jpg").write_bytes(b"no picture")
    assert visitor("GET", f"/api/events/{event.id}/thumb.jpg").status == 400
    for number in range(app.THUMBS + 5):
        site.server.rooms._thumbs[("x", number)] = b""
    other = site.watch.happen()
    assert visitor("GET", f"/api/events/{other.id}/thumb.jpg").status == 200
    assert len(site.server.rooms._thumbs) == app.THUMBS


def test_an_event_is_deleted_with_its_files_and_all_pages_hear_of_it(
    site: Running, tmp_path: Path
) -> None:
    event = site.watch.happen(clip=film(tmp_path / "clip.film", 0.5))
    visitor = Visitor(site)
    with reading(visitor, "/api/news") as news:
        assert [news.news()[0], news.news()[0]] == ["hello", "state"]
        assert visitor("DELETE", f"/api/events/{event.id}", b"").json == {"deleted": event.id}
        assert news.news() == ("gone", event.id)
    assert not (tmp_path / f"{event.id}.jpg").exists()
    assert visitor("GET", f"/api/events/{event.id}").status == 404


def test_the_newest_picture_with_and_without_boxes(site: Running) -> None:
    plain = np.full((360, 640, 3), 128, np.uint8)
    site.watch.show("front", plain, sighting((0.25, 0.25, 0.75, 0.75)), at=time.monotonic() - 3)
    visitor = Visitor(site)

    def look(path: str) -> Any:
        answer = visitor("GET", path)
        assert answer.headers["content-type"] == "image/jpeg"
        assert float(answer.headers["x-age"]) >= 3
        return cv2.imdecode(np.frombuffer(answer.body, np.uint8), cv2.IMREAD_COLOR)

    assert np.ptp(look("/api/cameras/front/latest.jpg")) < 8
    boxed = look("/api/cameras/front/latest.jpg?boxes=1")
    assert np.ptp(boxed) > 80 and np.ptp(boxed[200:220, 300:340]) < 12
    assert site.watch.looks["front"][0].image is plain and np.ptp(plain) == 0


def test_a_disk_that_does_not_answer_is_said_and_the_pictures_go_on(
    site: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*given: Any, **more: Any) -> Any:
        raise DeviceError("the disk does not answer", "look at its cable")

    monkeypatch.setattr(site.watch.store, "events", fails)
    visitor = Visitor(site)
    answer = visitor("GET", "/api/events")
    assert answer.status == 503 and answer.error["hint"] == "look at its cable"
    site.watch.show("front", scene(0))
    assert visitor("GET", "/api/cameras/front/latest.jpg").status == 200


# ---- pictures as they come


def test_one_answer_shows_all_cameras_as_they_come(site: Running) -> None:
    watch, visitor = site.watch, Visitor(site)
    watch.show("front", scene(1), sighting(event="e1"), at=time.monotonic() - 2)
    watch.show("yard", scene(2, (320, 240)))
    with reading(visitor, "/live?width=300") as live:
        assert live.frame() == ({"bytes": 0}, b"")
        found = [live.picture() for _ in range(2)]
        heads = {head["camera"]: head for head, _ in found}
        assert heads["front"]["size"] == [640, 360] and heads["yard"]["size"] == [320, 240]
        assert 2000 <= heads["front"]["age"] < 22_000
        (seen,) = heads["front"]["sightings"]
        assert seen["label"] == "person" and seen["event"] == "e1" and len(seen["box"]) == 4
        for _, data in found:
            assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape[1] == 320
        watch.show("yard", scene(3))
        head, _ = live.picture()
        assert (head["camera"], head["number"]) == ("yard", watch.number)
    with reading(visitor, "/live?cameras=yard&width=9999") as live:
        assert live.picture()[0]["camera"] == "yard"


def test_a_picture_is_encoded_once_for_all_and_never_for_nobody(site: Running) -> None:
    watch, visitor = site.watch, Visitor(site)
    watch.show("front", scene(0))
    with (
        reading(visitor, "/live?cameras=front") as one,
        reading(visitor, "/live?cameras=front") as two,
    ):
        views = site.server.rooms.views
        for number in range(5):
            a, b = one.picture(), two.picture()
            assert a[1] == b[1] and a[0]["number"] == b[0]["number"]
            watch.show("front", scene(number + 1))
        assert one.picture() and two.picture() and views.encoded == 6
    until(lambda: not site.server.rooms._live.taken)
    assert not views._made
    asked = watch.asked
    for number in range(5):
        watch.show("front", scene(number))
    visitor("GET", "/api/state")
    assert views.encoded == 6 and watch.asked == asked


def test_a_slow_client_gets_fewer_pictures_and_none_that_is_old(site: Running) -> None:
    watch, visitor = site.watch, Visitor(site)
    noise = [np.random.default_rng(n).integers(0, 255, (360, 640, 3), np.uint8) for n in range(4)]
    with (
        reading(visitor, "/live?cameras=front", receive=4096) as slow,
        reading(visitor, "/live?cameras=front") as fast,
    ):
        for number in range(60):
            watch.show("front", noise[number % 4])
            assert fast.picture()[0]["number"] == watch.number  # it waits for nobody
        last = watch.number
        numbers: list[int] = []
        while not numbers or numbers[-1] < last:
            numbers.append(slow.picture()[0]["number"])
    assert numbers == sorted(set(numbers)) and len(numbers) < 45


def test_a_client_that_takes_nothing_is_dropped_and_frees_its_seat(
    watch: Double, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(streams, "STALL", 0.5)
    noise = np.random.default_rng(0).integers(0, 255, (1080, 1920, 3), np.uint8)
    with running(watch) as site:
        visitor = Visitor(site)
        with reading(visitor, "/live?cameras=front&width=1920", receive=4096):
            seats = site.server.rooms._live
            until(lambda: seats.taken == 1)
            stop = threading.Event()

            def play() -> None:
                while not stop.wait(0.05):
                    watch.show("front", noise)

            thread = threading.Thread(target=play)
            thread.start()
            try:
                until(lambda: seats.taken == 0)
            finally:
                stop.set()
                thread.join()
    assert capfd.readouterr().err == ""


def test_clients_that_vanish_free_their_seats(site: Running) -> None:
    visitor = Visitor(site)
    seats = [site.server.rooms._live, site.server.rooms._readers]
    for _ in range(3):
        some = [Reading(visitor, path) for path in ("/live", "/api/news") for _ in range(4)]
        until(lambda: [s.taken for s in seats] == [4, 4])
        for one in some:
            one.close()
        until(lambda: [s.taken for s in seats] == [0, 0])
    assert not site.server.rooms.news._readers


def test_more_pages_than_there_are_seats_for_are_told_so(
    site: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    visitor = Visitor(site)
    site.server.rooms._live.most = site.server.rooms._readers.most = 2
    for path in ("/live", "/api/news"):
        with reading(visitor, path), reading(visitor, path):
            full = visitor("GET", path)
            assert full.status == 503 and "2 pages" in full.error["message"]
            assert full.headers["retry-after"] and full.error["hint"]
            assert visitor("GET", "/api/state").status == 200
        until(lambda: not (site.server.rooms._live.taken or site.server.rooms._readers.taken))
        with reading(visitor, path) as again:
            assert again.answer.status == 200
    until(lambda: not site.server.rooms._readers.taken)
    assert visitor("HEAD", "/live").status == visitor("HEAD", "/api/news").status == 200
    until(lambda: not (site.server.rooms._live.taken or site.server.rooms._readers.taken))


def test_a_stream_without_pictures_says_that_it_is_there(
    watch: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "BREATH", 0.05)
    with running(watch) as site, reading(Visitor(site), "/live") as live:
        assert [live.frame()[0] for _ in range(3)] == [{"bytes": 0}] * 3


# ---- news


def test_news_of_events_and_states_come_as_they_are(
    watch: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "EVERY", 0.05)
    with running(watch) as site, reading(Visitor(site), "/api/news") as news:
        kind, hello = news.news()
        assert kind == "hello" and hello["run"] and not hello["password"] and hello["colors"]
        assert news.news()[0] == "state"
        event = watch.happen("new")
        watch.happen("end", id=event.id, end=event.start + 4, why="left")
        heard = [news.news() for _ in range(20)]
    told = [(data["type"], data["event"]["end"]) for kind, data in heard if kind == "event"]
    assert told == [("new", None), ("end", event.start + 4)]
    assert sum(kind == "state" for kind, _ in heard) == 18


def test_a_page_that_does_not_keep_up_with_the_news_is_dropped(site: Running) -> None:
    visitor = Visitor(site)
    with reading(visitor, "/api/news", receive=4096) as slow, reading(visitor, "/api/news") as fast:
        rooms = site.server.rooms
        until(lambda: len(rooms.news._readers) == 2)
        heard = 0
        number = 0
        fast.news(), fast.news()
        while len(rooms.news._readers) == 2:
            number += 1
            assert number < 5000
            site.watch.happen(id="e1", zones=tuple("z" * 1000 for _ in range(50)), snapshot=False)
            while heard < number:
                heard += fast.news()[0] == "event"
        with suppress(EOFError):
            while True:
                slow.news()
        until(lambda: rooms._readers.taken == 1)


def test_events_that_happen_while_nobody_listens_cost_nothing(site: Running) -> None:
    for _ in range(100):
        site.watch.happen(id="e1", snapshot=False)
    assert Visitor(site)("GET", "/api/state").status == 200
    assert site.server.rooms.news._ticking is None


# ---- the end


ASKED = b"GET /page/icon.svg HTTP/1.1\r\nHost: localhost\r\n\r\n"
BODY = (
    b"POST /login HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nContent-Length: 30\r\n"
)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HT",
        ASKED + b"GET / HT",
        BODY + b"Content-Type: application/x-www-form-urlencoded\r\n\r\npass",
    ],
)
def test_who_asks_nothing_is_given_up(
    site: Running, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (connections, answers):
        monkeypatch.setattr(module, "PATIENCE", 0.2)
    with socket.create_connection(("127.0.0.1", site.server.port), DEADLINE) as made:
        made.sendall(sent)
        with suppress(ConnectionResetError):
            while made.recv(65536):
                made.sendall(b"x")  # a letter now and then changes nothing


def test_a_stream_is_no_question_that_does_not_come(
    site: Running, watch: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "PATIENCE", 0.1)
    with reading(Visitor(site), "/live") as stream:
        for number in range(3):
            watch.show("front", scene(number))
            assert stream.picture()[0]["camera"] == "front"
            time.sleep(0.1)


def test_there_are_so_many_connections_and_no_more(
    site: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MOST", 8)
    held = [socket.create_connection(("127.0.0.1", site.server.port), DEADLINE) for _ in range(40)]
    open_ones = site.server._server.server_state.connections
    until(lambda: sum(gone(one) for one in held) == 32)
    assert len(open_ones) == 8
    for one in held:
        one.close()
    until(lambda: not open_ones)
    assert Visitor(site)("GET", "/api/state").status == 200


def gone(one: socket.socket) -> bool:
    one.setblocking(False)
    try:
        return one.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_one_visitor_leaves_room_for_others() -> None:
    near, far = "127.0.0.1", "192.168.1.9"
    assert not connections.crowded(far, [far] * 32 + [near] * 100)
    assert connections.crowded(far, [far] * 33)
    for own in (near, "::1"):
        assert not connections.crowded(own, [own] * 256)
        assert connections.crowded(own, [own] * 257)


def test_what_is_no_question_is_not_said_in_the_terminal(
    site: Running, capfd: pytest.CaptureFixture[str]
) -> None:
    for sent in (
        b"\0\n\n",
        ASKED.replace(b"\r\n\r\n", b"\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"),
    ):
        with socket.create_connection(("127.0.0.1", site.server.port), DEADLINE) as made:
            made.sendall(sent)
            assert made.recv(100).startswith(b"HTTP/1.1 ")
    assert capfd.readouterr().err == ""


def test_close_ends_all_streams_and_says_nothing(
    watch: Double, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    event = watch.happen()
    (tmp_path / f"{event.id}.mp4").write_bytes(os.urandom(32 << 20))
    with running(watch) as site:
        visitor = Visitor(site)
        live, news = Reading(visitor, "/live"), Reading(visitor, "/api/news")
        clip = Reading(visitor, f"/api/events/{event.id}/clip.mp4", receive=4096)  # never read
        live.frame(), news.news()
        began = time.monotonic()
    assert time.monotonic() - began < DEADLINE
    watch.happen()  # nobody is there to be told
    for one in (live, news, clip):
        one.close()
    assert capfd.readouterr().err == ""


def test_pictures_that_cannot_be_encoded_end_one_stream_only(site: Running) -> None:
    class Broken(Shot):
        def bgr(self) -> Any:
            raise OSError(5, "the picture is gone")

    visitor = Visitor(site)
    with reading(visitor, "/live?cameras=yard") as other:
        site.watch.looks["front"] = (Broken(scene(0), 1), (), 1)
        site.watch.show("yard", scene(0))
        assert visitor("GET", "/api/cameras/front/latest.jpg").status == 500
        with reading(visitor, "/live?cameras=front,yard") as live:
            assert live.picture()[0]["camera"] == "yard"
        assert other.picture()[0]["camera"] == "yard"


# ---- a whole watch


class Eye:
    """A chip that sees the moving part of `scene` while it is told to."""

    labels, parallel, depth = ("person",), False, 1
    looks = True

    def __call__(self, image: Any) -> Detections:
        red = np.nonzero(image[image.shape[0] // 2, :, 2] > 170)[0]
        if not self.looks or len(red) < 8:
            return Detections.empty()
        box = (red[0], image.shape[0] / 3, red[-1], image.shape[0] * 0.8)
        return Detections(np.array([box]), np.array([0.9]), np.array([0]))

    def close(self) -> None:
        pass


def test_a_real_watch_is_shown_from_picture_to_clip(tmp_path: Path) -> None:
    pytest.importorskip("trackers")
    from onchip.watch.config import read
    from onchip.watch.watch import Watch

    film(tmp_path / "clip.mp4", seconds=6)
    (tmp_path / "best.onchip").write_bytes(b"")
    (tmp_path / "cameras.toml").write_text(
        'model = "best.onchip"\ndata = "kept"\n'
        '[cameras.front]\nurl = "clip.mp4"\nfps = 10\nmotion = false\n'
        "clip = {before = 0, after = 0}\n"
        "[cameras.front.zones.all]\npoints = [[0, 0], [1, 0], [1, 1], [0, 1]]\n"
    )
    config, eye, before = read(tmp_path / "cameras.toml"), Eye(), set(threading.enumerate())
    with Watch(config, open_chip=lambda: eye) as watch, running(watch, data=config.data) as site:
        watch.start()
        visitor = Visitor(site)
        with reading(visitor, "/live?width=320") as live, reading(visitor, "/api/news") as news:
            while not (head := live.picture()[0])["sightings"]:
                pass
            assert head["sightings"][0]["label"] == "person" and head["age"] < 20_000
            while (heard := news.news())[0] != "event":
                pass
            event = heard[1]["event"]
            assert event["camera"] == "front" and event["zones"] == ["all"]
            eye.looks = False
            while not (
                heard[0] == "event" and heard[1]["event"]["clip"] and heard[1]["event"]["end"]
            ):
                heard = news.news()
        path = f"/api/events/{event['id']}"
        assert visitor("GET", "/api/events?zone=all").json["events"][0] == heard[1]["event"]
        assert visitor("GET", f"{path}/thumb.jpg").status == 200
        assert (
            visitor("GET", f"{path}/clip.mp4", headers={"Range": "bytes=0-7"}).body[4:] == b"ftyp"
        )
        drawn = visitor("GET", "/api/cameras/front/latest.jpg?boxes=1")
        assert drawn.headers["content-type"] == "image/jpeg"
        state = visitor("GET", "/api/state").json
        assert state["events"] >= 1 and state["cameras"][0]["part"]["state"] == "ok"
        assert visitor("DELETE", path, b"").status == 200
        assert visitor("GET", f"{path}/clip.mp4").status == 404
        assert (config.data / serve.SESSIONS).exists()
    assert set(threading.enumerate()) <= before
