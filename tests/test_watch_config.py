"""The file of a watch: what stands in it, and one clear line for each thing that is wrong."""

import os
import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import fields

from onchip.errors import InputError
from onchip.watch import config
from onchip.watch.config import (
    Camera,
    Config,
    Filter,
    Keep,
    Mqtt,
    Page,
    Zone,
    check_labels,
    parse,
    read,
    where,
)

WHOLE = """
model = "best.onchip"
data = "kept"
confidence = 0.6
[keep]
days = 3
[mqtt]
host = "broker"
password = "${MQTT_PASSWORD}"
[page]
host = "0.0.0.0"
password_file = "page.password"
[cameras.front]
url = "rtsp://admin:${FRONT_PASSWORD}@10.0.0.5/stream1"
fps = 5
objects = ["person", "car"]
clip = {before = 2, after = 3}
motion = {sensitivity = 0.3, mask = [[[0,0],[1,0],[1,0.1],[0,0.1]]]}
[cameras.front.filters.person]
score = 0.7
area = [0.001, 0.5]
[cameras.front.zones.drive]
points = [[0.1,0.5],[0.9,0.5],[0.9,1],[0.1,1]]
objects = ["person"]
[cameras.Back-yard_2]
url = "usb:0"
size = [1280, 720]
motion = false
clip = false
"""
VARIABLES = {"MQTT_PASSWORD": "m", "FRONT_PASSWORD": "p@ss/w:rd"}
ONE = 'model = "m.onnx"\n[cameras.front]\nurl = "usb:0"\n'


def parsed(text: str, variables: dict[str, str] | None = None) -> Config:
    return parse(text, Path("/at/cameras.toml"), variables or {})


def wrong(text: str, variables: dict[str, str] | None = None) -> str:
    """Return the one line and the hint that a text is answered with."""
    with pytest.raises(InputError) as caught:
        parsed(text, variables)
    assert str(caught.value).isprintable()
    return f"{caught.value} | {caught.value.hint}"


def test_everything_is_read() -> None:
    found = parsed(WHOLE, VARIABLES)
    assert found.model == Path("/at/best.onchip")
    assert found.data == Path("/at/kept")
    assert found.page.password_file == Path("/at/page.password")
    assert (found.keep.days, found.keep.gigabytes) == (3, 20)
    assert found.mqtt is not None and found.mqtt.password == "m"
    front, back = found.cameras
    assert (front.name, front.objects) == ("front", ("person", "car"))
    assert where(front).login == ("admin", "p@ss/w:rd")  # escaped where it stands in an address
    assert "p@ss" not in where(front).shown
    assert front.motion is not None and len(front.motion.mask) == 1
    assert front.zones["drive"].points[2] == (0.9, 1)
    assert front.filters["person"].area == (0.001, 0.5)
    assert (back.name, back.motion, back.clip) == ("Back-yard_2", None, None)
    assert where(back).size == (1280, 720)


def test_what_is_not_said_is_by_itself() -> None:
    found = parsed(ONE)
    assert found.data == Path("/at/watch")
    assert (found.confidence, found.mqtt, found.page.host) == (0.5, None, "127.0.0.1")
    assert found.cameras[0].fps == 5
    assert found.cameras[0].motion is not None and found.cameras[0].clip is not None


def test_a_clip_is_seen_from_the_folder_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").touch()
    file = tmp_path / "cameras.toml"
    file.write_text('model = "m.onnx"\n[cameras.a]\nurl = "clip.mp4"')
    before = Path.cwd()
    os.chdir(tmp_path.parent)
    try:
        assert read(file).cameras[0].url == str(tmp_path / "clip.mp4")
    finally:
        os.chdir(before)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model = ", "not a TOML file"),
        ("a." * 400 + "b = 1\nx = " + "[" * 9000, "nested too deeply"),
        ('model = "m.onnx"', "names none"),
        ('[cameras.a]\nurl = "usb:0"', "model"),
        (ONE + "[cameras.front]\n", "two cameras are called 'front'"),
        (ONE + '[cameras.FRONT]\nurl = "usb:1"', "two cameras are called FRONT"),
        (ONE + '[cameras."a/b"]\nurl = "usb:1"', "'a/b' cannot be a name"),
        (ONE + '[cameras."#"]\nurl = "usb:1"', "'#' cannot be a name"),
        (ONE + '[cameras.""]\nurl = "usb:1"', "'' cannot be a name"),
        (ONE + '[cameras.".."]\nurl = "usb:1"', "'..' cannot be a name"),
        (ONE + "fsp = 3", "[cameras.front]: there is no setting 'fsp' | did you mean fps?"),
        (ONE + "motion = {sensitivty = 1}", "[cameras.front.motion]: there is no setting 'sensi"),
        (ONE + "[kep]\ndays = 3", "there is no setting 'kep' | did you mean keep?"),
        (ONE + "[keep]\ndays = 0", "[keep]: days: expected number > 0"),
        (ONE + "fps = 0", "fps: expected number >= 0.1"),
        (ONE + "fps = nan", "fps: nan is no number"),
        (ONE + 'fps = "5"', "fps: expected number, got text"),
        (ONE + 'name = "x"', "the name of a camera is that of its table"),
        (ONE + 'motion = "on"', "motion: expected table or false, got text"),
        (ONE + "motion = {mask = [[[0,0],[1,0]]]}", "polygon 1 of mask: a polygon has three"),
        (ONE + "motion = {mask = [[[0,0],[1,0],[0.5,0]]]}", "the points lie on one line"),
        (ONE + "[cameras.front.zones.z]\npoints = [[0,0],[1,0]]", "[cameras.front.zones.z]: points"),
        (ONE + "[cameras.front.zones.z]\npoints = [[0,0],[100,0],[0,100]]", "from 0 to 1"),
        (ONE + "[cameras.front.zones.z]\npoints = [[0,0],[1],[0,1]]", "[cameras.front.zones.z]"),
        (ONE + '[cameras.front.zones."z z"]\npoints = [[0,0],[1,0],[0,1]]', "'z z' cannot be a"),
        (ONE + "[cameras.front.filters.a]\narea = [0.5, 0.1]", "the least is not below"),
        (ONE + "[cameras.front.filters.a]\nscore = 2", "score: expected number <= 1"),
        (ONE + "zones = 3", "[cameras.front.zones]: expected a table"),
        ('model = "m.onnx"\ncameras = 3', "[cameras]: expected a table"),
        ('model = "m.onnx"\n[cameras]\nfront = 3', "[cameras.front]: expected a table"),
        ('model = "m.onnx"\n[cameras.a]\nurl = ""', "[cameras.a]: url: "),
        ('model = "m.onnx"\n[cameras.a]\nurl = "ftp://x"', "[cameras.a]: url: "),
        ('model = "m.onnx"\n[cameras.a]\nurl = "gone.mp4"', "[cameras.a]: url: "),
        ('model = "m.onnx"\n[cameras.a]\nurl = "rtsp://h/a"\nsize = [640, 480]', "USB and Pi"),
        (ONE + 'transport = "udp"', "transport"),
        (ONE + 'transport = "smoke"', "transport: expected tcp or udp"),
        (ONE + "fps = " + "9" * 5000, "a number in it is too long"),
        ("a." * 5000 + "b = 1", "nested too deeply"),
        ('path = "x"\n' + ONE, "there is no setting 'path'"),
        (ONE + '[keep."\\n"]\ndays = 1', "there is no setting '\\n'"),
        (ONE + '[cameras."a\\nb\\u001b"]\nurl = "usb:1"', r"[cameras.a\nb\x1b]"),
        (ONE + '[cameras."ｆront"]\nurl = "usb:1"', "front and ｆront look the same"),
        ('model = "m.onnx"\n[cameras.a]\nurl = "' + "a" * 70_000 + '"', "aaa …"),
        (ONE + '[page]\nnames = ["https://a.org"]', "'https://a.org' is no name of a machine"),
        (ONE + '[mqtt]\nhost = "h"\ntopic = "a/#"', "[mqtt]: topic: 'a/#' is not one"),
        (ONE + '[mqtt]\nhost = "h"\nport = 0', "[mqtt]: port: expected whole number >= 1"),
        (ONE + '[mqtt]\nhost = "h"\npassword = "${NO}"', "[mqtt]: password: the variable NO is not"),
        (ONE.replace("usb:0", "rtsp://a:${NO}@h/s"), "[cameras.front]: url: the variable NO is not"),
        ('model = ""\n' + ONE[17:], "model: expected the name of a file"),
        ("model = 1979-05-27\n" + ONE[17:], "model"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(text: str, says: str) -> None:
    assert says in wrong(text)


def test_a_missing_url_is_named() -> None:
    assert "url" in wrong('model = "m.onnx"\n[cameras.a]\nfps = 3')


def test_passwords_are_not_shown_by_errors() -> None:
    text = ONE.replace("usb:0", "rtsp://admin:${P}@h:99999999/s")
    assert "secret" not in wrong(text, {"P": "secret"})


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        read(tmp_path / "no.toml")
    with pytest.raises(InputError, match="cannot read"):
        read(tmp_path)
    (tmp_path / "a").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a text file"):
        read(tmp_path / "a")
    (tmp_path / "b").write_bytes(b"#" * (config.MAX_BYTES + 1))
    with pytest.raises(InputError, match="larger"):
        read(tmp_path / "b")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with a name here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "c.toml")
    with pytest.raises(InputError, match="it is not a file"):
        read(tmp_path / "c.toml")


def test_a_variable_that_is_no_text_is_named() -> None:
    text = ONE.replace("usb:0", "rtsp://admin:${P}@h/s")
    assert "[cameras.front]: url: the variable P is not UTF-8" in wrong(text, {"P": "\udcff"})


def test_labels_that_the_model_does_not_know() -> None:
    labels = ("person", "car")
    check_labels(parsed(WHOLE, VARIABLES), labels)
    for text, place in (
        ('objects = ["persn"]', "[cameras.front]: objects"),
        ("[cameras.front.filters.persn]\n", "[cameras.front.filters]"),
        (
            '[cameras.front.zones.z]\npoints=[[0,0],[1,0],[0,1]]\nobjects=["persn"]',
            "zones.z]: objects",
        ),
    ):
        with pytest.raises(InputError) as caught:
            check_labels(parsed(ONE + text), labels)
        assert place in str(caught.value) and "'persn'" in str(caught.value)
        assert caught.value.hint.startswith("did you mean person?")


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    for whole in (text, f"{ONE}{text}", f"{ONE}[cameras.{text!r}]\nurl = 'usb:1'"):
        with suppress(InputError):
            parsed(whole)


KEYS = st.sampled_from(["url", "fps", "objects", "clip", "motion", "zones", "filters", "size", "x"])
VALUES: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=5))
def test_any_camera_is_read_or_refused(camera: dict[str, object]) -> None:
    raw = {"model": "m.onnx", "cameras": {"a": {"url": "usb:0", **camera}}}
    with suppress(InputError):
        config._Reader(Path("c.toml"), {}).config(raw)


DOCS = (Path(__file__).parents[1] / "docs" / "watch.md").read_text()


def test_the_files_in_the_docs_are_read() -> None:
    blocks = re.findall(r"```toml\n(.*?)```", DOCS, re.DOTALL)
    assert len(blocks) == 2
    found = parsed("\n".join(blocks), {"FRONT_PASSWORD": "x"})
    assert [camera.name for camera in found.cameras] == ["front", "yard"]
    assert found.cameras[0].zones and found.cameras[0].filters


def test_the_docs_name_every_key() -> None:
    named = set(re.findall(r"`([\w.]+)`", DOCS))
    own = {f.name for f in fields(Config)} - {"path", "cameras", "keep", "mqtt", "page"}
    own |= {f"{name}.{f.name}" for name, kind in SECTIONS.items() for f in fields(kind)}
    own |= {f.name for f in fields(Camera)} - {"name", "filters", "zones"}
    own |= {f"filters.LABEL.{f.name}" for f in fields(Filter)}
    own |= {f"zones.NAME.{f.name}" for f in fields(Zone)}
    assert own <= named, own - named


SECTIONS = {"keep": Keep, "mqtt": Mqtt, "page": Page}
