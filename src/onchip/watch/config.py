"""What is watched, and how: the file that `onchip watch` reads."""

import math
import os
import re
import tomllib
import unicodedata
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints
from urllib.parse import quote

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import fields, replace

from onchip.detect.place import Place, place
from onchip.errors import InputError

MAX_BYTES = 1 << 20
LONGEST = 400  # letters of what is said of a mistake
NAME = re.compile(r"\w[\w-]{0,63}")  # a file name, a part of an address, and one level of MQTT
VARIABLE = re.compile(r"\$\{(.*?)\}")

Point = tuple[float, float]
Polygon = tuple[Point, ...]
Part = Annotated[float, Meta(ge=0, le=1)]
Seconds = Annotated[float, Meta(ge=0, le=60)]
S = TypeVar("S", bound=Struct)


class Keep(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long events are kept and how much room they take; the oldest go first."""

    days: Annotated[float, Meta(gt=0, le=36_500)] = 14
    gigabytes: Annotated[float, Meta(gt=0, le=1e6)] = 20


class Mqtt(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The broker that is told of events."""

    host: Annotated[str, Meta(min_length=1)]
    port: Annotated[int, Meta(ge=1, le=65535)] = 1883
    user: str = ""
    password: str = ""
    topic: str = "onchip"
    home_assistant: bool = True
    tls: bool = False


class Page(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the page is, and the file with its password."""

    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8470
    password_file: Path | None = None
    names: tuple[str, ...] = ()  # others by which people reach it, as through a proxy


class Clip(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many seconds before and after an event its video shows."""

    before: Seconds = 5
    after: Seconds = 5


class Motion(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Look only while something moves. What moves inside a polygon of `mask` does not count."""

    sensitivity: Part = 0.5
    mask: tuple[Polygon, ...] = ()


class Filter(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which objects of one label count: from which score, and which parts of the picture large."""

    score: Part = 0.0
    area: tuple[Part, Part] = (0.0, 1.0)


class Zone(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the picture. With `objects`, those labels make events only inside such zones."""

    points: Polygon
    objects: tuple[str, ...] = ()


class Camera(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One camera: where it is, and what of it counts. `fps` is looked at a second."""

    url: str
    name: str = ""  # in the file it is the name of the table
    fps: Annotated[float, Meta(ge=0.1, le=60)] = 5
    objects: tuple[str, ...] = ()
    transport: Literal["tcp", "udp"] = "tcp"
    size: tuple[Annotated[int, Meta(ge=16)], Annotated[int, Meta(ge=16)]] | None = None
    capture_fps: Annotated[float, Meta(gt=0, le=240)] | None = None
    clip: Clip | None = Clip()
    motion: Motion | None = Motion()
    filters: dict[str, Filter] = {}
    zones: dict[str, Zone] = {}


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a file for `onchip watch` says. Paths are whole."""

    model: Path
    data: Path = Path("watch")
    confidence: Annotated[float, Meta(gt=0, le=1)] = 0.5
    overlap: Annotated[float, Meta(gt=0, le=1)] = 0.45
    keep: Keep = Keep()
    mqtt: Mqtt | None = None
    page: Page = Page()
    cameras: tuple[Camera, ...] = ()
    path: Path = Path()


def read(path: Path, environment: Mapping[str, str] = os.environ) -> Config:
    """Read a file; `${NAME}` in its texts is taken from the environment.

    Raises:
        InputError: it cannot be read, or something in it is wrong; the text names what.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would keep us waiting
            raise InputError(f"cannot read {path}: it is not a file", HINT)
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}", HINT) from error
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a text file", HINT) from error
    if len(data) > MAX_BYTES:
        raise InputError(f"{path} is larger than 1 MiB", HINT)
    return parse(text, path, environment)


HINT = "docs/watch.md shows what stands in it"


def parse(text: str, path: Path, environment: Mapping[str, str]) -> Config:
    """Read the text of a file that stands, or will stand, at `path`.

    Raises:
        InputError: something in it is wrong; the text names what, and `path`.
    """
    try:
        return replace(_Reader(path, environment).config(_tables(text, path)), path=path)
    except RecursionError as error:
        raise InputError(f"{path}: it is nested too deeply", HINT) from error


def _tables(text: str, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        if twice := re.search(r"Cannot declare \('cameras', (.*?)[,)]", str(error)):
            raise InputError(
                f"{path}: two cameras are called {twice[1]}", "rename one of them"
            ) from error
        raise InputError(f"{path} is not a TOML file: {error}", HINT) from error
    except ValueError as error:  # of a number with thousands of digits
        raise InputError(f"{path}: a number in it is too long", HINT) from error


def check_labels(config: Config, labels: Sequence[str]) -> None:
    """Raise InputError where the file names an object that the model does not know."""
    for camera in config.cameras:
        here = f"{config.path}, [cameras.{camera.name}"
        named = [(f"{here}]: objects", camera.objects)]
        named += [(f"{here}.filters]", tuple(camera.filters))]
        named += [(f"{here}.zones.{n}]: objects", z.objects) for n, z in camera.zones.items()]
        for key, texts in named:
            for text in texts:
                if text not in labels:
                    raise InputError(
                        f"{key}: {config.model.name} knows no {text!r}", _meant(text, labels)
                    )


def where(camera: Camera) -> Place:
    """Return how a camera is reached; its password is masked in `shown`.

    Raises:
        InputError: the address names no camera, or an option is not for one of its kind.
    """
    transport = None if camera.transport == "tcp" else camera.transport
    return place(camera.url, size=camera.size, fps=camera.capture_fps, transport=transport)


class _Reader:
    """Turns tables into values, and says where something is wrong."""

    def __init__(self, path: Path, environment: Mapping[str, str]) -> None:
        self._path, self._environment = path, environment
        self._root = path.absolute().parent

    def config(self, raw: dict[str, Any]) -> Config:
        cameras = self._table(raw.pop("cameras", {}), "cameras")
        sections: dict[str, Any] = {
            name: self._struct(raw.pop(name), kind, name)
            for name, kind in (("keep", Keep), ("mqtt", Mqtt), ("page", Page))
            if name in raw
        }
        if "path" in raw:
            raise self._wrong("", "there is no setting 'path'", HINT)
        whole = self._struct(raw, Config, "")
        if "mqtt" in sections:
            self._topic(sections["mqtt"].topic)
        if "page" in sections:
            self._names(sections["page"].names)
        if not cameras:
            raise self._wrong("cameras", "it names none", "add one: [cameras.front] url = …")
        self._different(cameras, "cameras", "two cameras are called")
        found = tuple(self._camera(name, data) for name, data in cameras.items())
        return replace(whole, data=self._root / whole.data, cameras=found, **sections)

    def _camera(self, name: str, data: Any) -> Camera:
        place = f"cameras.{name}"
        self._name(name, place)
        data = self._table(data, place)
        zones = self._table(data.pop("zones", {}), f"{place}.zones")
        filters = self._table(data.pop("filters", {}), f"{place}.filters")
        self._different(zones, f"{place}.zones", "two zones are called")
        for choice in ("clip", "motion"):  # a table, or false for none
            if isinstance(data.get(choice), bool):
                data[choice] = {} if data[choice] else None
        camera = self._struct(data, Camera, place)
        if camera.name:
            raise self._wrong(place, "the name of a camera is that of its table", "remove name")
        camera = replace(camera, name=name, url=self._url(camera.url))
        try:
            where(camera)
        except InputError as error:
            raise self._wrong(place, f"url: {error}", error.hint) from error
        for number, polygon in enumerate(camera.motion.mask if camera.motion else (), 1):
            self._polygon(polygon, place, f"motion: polygon {number} of mask")
        return replace(
            camera,
            zones={n: self._zone(n, z, f"{place}.zones.{n}") for n, z in zones.items()},
            filters={n: self._filter(f, f"{place}.filters.{n}") for n, f in filters.items()},
        )

    def _zone(self, name: str, data: Any, place: str) -> Zone:
        self._name(name, place)
        zone = self._struct(data, Zone, place)
        self._polygon(zone.points, place, "points")
        return zone

    def _filter(self, data: Any, place: str) -> Filter:
        found = self._struct(data, Filter, place)
        if found.area[0] >= found.area[1]:
            raise self._wrong(place, "area: the least is not below the largest")
        return found

    def _struct(self, data: Any, kind: type[S], place: str) -> S:
        filled = self._fill(self._table(data, place), place)
        try:
            return msgspec.convert(filled, kind, dec_hook=self._whole)
        except msgspec.ValidationError as error:
            raise self._invalid(place, kind, str(error)) from error

    def _whole(self, kind: type, value: Any) -> Any:
        """Make a path whole; those of a file are seen from its folder."""
        if kind is not Path or not isinstance(value, str) or not value or "\0" in value:
            raise ValueError("expected the name of a file")
        return self._root / value

    def _fill(self, value: Any, place: str, key: str = "") -> Any:
        """Put the environment's variables into texts, and refuse what is no number."""
        if isinstance(value, dict):
            return {k: self._fill(v, place, key or k) for k, v in value.items()}
        if isinstance(value, list):
            return [self._fill(v, place, key) for v in value]
        if isinstance(value, float) and not math.isfinite(value):
            raise self._wrong(place, f"{key}: {value} is no number that can be used")
        if isinstance(value, str):
            return VARIABLE.sub(lambda found: self._variable(found, place, key), value)
        return value

    def _variable(self, found: re.Match[str], place: str, key: str) -> str:
        name = found[1]
        if name not in self._environment:
            raise self._wrong(
                place, f"{key}: the variable {name} is not set", f"set it first: export {name}=…"
            )
        text = self._environment[name]
        if any(unicodedata.category(letter) == "Cs" for letter in text):
            raise self._wrong(place, f"{key}: the variable {name} is not UTF-8")
        before, after = found.string[: found.start()], found.string[found.end() :]
        in_login = key == "url" and "://" in before and "@" in after
        return quote(text, safe="") if in_login else text

    def _url(self, url: str) -> str:
        """Make the path of a clip whole; it is seen from the folder of the file."""
        if not url or "://" in url or re.match(r"(?i)(usb|picamera):", url):
            return url
        return str(self._root / url)

    def _polygon(self, points: Polygon, place: str, key: str) -> None:
        if len(points) < 3:
            raise self._wrong(place, f"{key}: a polygon has three points or more")
        if not all(0 <= value <= 1 for point in points for value in point):
            raise self._wrong(
                place, f"{key}: points are parts of the picture, from 0 to 1", "as in [0.5, 1.0]"
            )
        first = points[0]
        far = max(points, key=partial(math.dist, first))
        if all(abs(_area(first, far, point)) <= 1e-9 for point in points):
            raise self._wrong(place, f"{key}: the points lie on one line")

    def _name(self, name: str, place: str) -> None:
        if not NAME.fullmatch(name):
            raise self._wrong(
                place, f"{name!r} cannot be a name", "allowed are 64 letters, digits, _ and -"
            )  # fmt: skip

    def _different(self, names: Mapping[str, object], place: str, text: str) -> None:
        """Files of some disks, and people, do not tell upper from lower case."""
        seen: dict[str, str] = {}
        for name in names:
            key = unicodedata.normalize("NFKC", name.casefold()).casefold()
            if key in seen:
                case = seen[key].casefold() == name.casefold()
                how = "differ in case only" if case else "look the same"
                same = f"{seen[key]} and {name} {how}"
                raise self._wrong(place, f"{text} {name}: {same}", "rename one of them")
            seen[key] = name

    def _topic(self, topic: str) -> None:
        levels = topic.split("/")
        if topic.startswith("$") or not all(levels) or re.search(r"[+#\0]", topic):
            raise self._wrong("mqtt", f"topic: {topic!r} is not one", "as in onchip or home/onchip")

    def _names(self, names: Sequence[str]) -> None:
        for name in names:
            if not re.fullmatch(r"[\w-]+(\.[\w-]+)*", name, re.ASCII):
                raise self._wrong(
                    "page", f"names: {name!r} is no name of a machine", "as in cameras.example.org"
                )

    def _table(self, data: Any, place: str) -> dict[str, Any]:
        if not isinstance(data, dict):
            raise self._wrong(place, "expected a table", HINT)
        return data

    def _invalid(self, place: str, kind: type[Struct], why: str) -> InputError:
        """Turn what the decoder says into the key, and what is allowed there."""
        at = (re.search(r" - at `\$\.?(.*)`$", why) or ["", ""])[1]
        unknown = re.search(r"unknown field `(.*?)`", why, re.DOTALL)
        if missing := re.search(r"missing required field `(.*?)`", why):
            return self._wrong(place, f"{missing[1]} is missing", HINT)
        if why.startswith("Invalid enum value"):
            choices = get_args(get_type_hints(kind)[at])
            return self._wrong(place, f"{at}: expected {' or '.join(choices)}")
        if unknown is None:
            text = why.partition(" - at ")[0].replace("`", "").replace(" | ", " or ")
            for word, plain in WORDS.items():
                text = re.sub(rf"\b{word}\b", plain, text)
            return self._wrong(place, f"{at}: {text[:1].lower()}{text[1:]}".removeprefix(": "))
        if at:  # a little table inside: clip, motion
            place = f"{place}.{at}"
        inner: dict[str, type[Struct]] = {"clip": Clip, "motion": Motion}
        known = [f.name for f in fields(inner.get(at, kind)) if f.name not in ("path", "name")]
        return self._wrong(place, f"there is no setting {unknown[1]!r}", _meant(unknown[1], known))

    def _wrong(self, place: str, text: str, hint: str = "") -> InputError:
        where = f", [{place}]" if place else ""
        return InputError(f"{self._path}{_shown(f'{where}: {text}')}", hint)


WORDS = {
    "float": "number", "int": "whole number", "str": "text", "bool": "true or false",
    "array": "list", "object": "table", "null": "false",
}  # fmt: skip


def _area(a: Point, b: Point, c: Point) -> float:
    """Return twice the area of a triangle, negative where it turns the other way."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1])


def _shown(text: str) -> str:
    """Return a text of a file as one line that a terminal shows and nobody has to scroll."""
    short = text if len(text) <= LONGEST else f"{text[:LONGEST]} …"
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in short)


def _meant(text: str, known: Sequence[str]) -> str:
    near = get_close_matches(text, known, 1, 0.5)
    meant = f"did you mean {near[0]}? " if near else ""
    some = ", ".join(known) if len(known) <= 24 else f"{', '.join(known[:20])} and more"
    return f"{meant}allowed are {some}"
