"""Say what of a user's Frigate configuration and model will not work, why, and what to do.

Much of it Frigate refuses when it starts; the rest it takes, and sees nothing.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from onchip.device.frigate import network
from onchip.device.frigate.fit import fits
from onchip.device.frigate.network import Network
from onchip.device.frigate.setup import SIZE, Finding, Setup, error, read, section, warning
from onchip.device.frigate.versions import Kind, Version, table

# what Frigate replaces is {FRIGATE_NAME}; anything else that looks so is taken as it stands
_DOLLAR = re.compile(r"\$\{(FRIGATE_[^}\s]*)\}|\$(FRIGATE_\w+)")
_OTHER = re.compile(r"(?<!%)(?<!\{)\{(?!FRIGATE_)([A-Z][A-Z0-9_]{2,})\}")
_BROKEN = re.compile(r"\{(FRIGATE_\w*)(?![\w}])")


def check(
    path: Path, model: Path | None = None, *, frigate: str = "", chip: str = ""
) -> tuple[Finding, ...]:
    """Check a configuration file, with a model where one is given, or found beside it.

    Raises:
        InputError: a file cannot be read.
    """
    setup = read(path, frigate, chip)
    if model is None and (near := setup.here(setup.path)) and near.suffix.lower() in network.KNOWN:
        model = near
    return judge(setup, network.read(model) if model else None)


def judge(setup: Setup, net: Network | None) -> tuple[Finding, ...]:
    """Say what is wrong, what Frigate refuses first."""
    found = [f for part in _PARTS for f in part(setup)]
    if not any(f.code in _AMISS for f in found):
        found += fits(setup, net)
    order = ("error", "warning", "info")
    return tuple(sorted(dict.fromkeys(found), key=lambda f: order.index(f.level)))


def _top(setup: Setup) -> Iterator[Finding]:
    """The sections, and what must be there."""
    yield from _keys(setup, setup.data, "", lambda v: v.top)
    if not isinstance(setup.data.get("mqtt"), Mapping):
        yield error(
            "no_mqtt",
            "mqtt",
            'Frigate starts only with this section: "mqtt: Field required"',
            "add it; without a broker it is   mqtt: {enabled: false}",
        )
    elif setup.data["mqtt"].get("enabled", True) and "host" not in setup.data["mqtt"]:
        yield error(
            "no_mqtt",
            "mqtt.host",
            "MQTT is on, and no broker is named",
            "add mqtt.host, or mqtt: {enabled: false}",
        )
    if not section(setup.data, "cameras"):
        yield error(
            "no_cameras",
            "cameras",
            "Frigate starts only with this section, of cameras",
            "add a camera",
        )
    for name, camera in section(setup.data, "cameras").items():
        where = f"cameras.{name}"
        if not isinstance(camera, Mapping):
            yield error("no_ffmpeg", where, "a camera without anything", "say where it is: ffmpeg")
            continue
        yield from _keys(setup, camera, where, lambda v: v.camera)
        if not section(section(setup.data["cameras"], name), "ffmpeg").get("inputs"):
            yield error(
                "no_ffmpeg",
                f"{where}.ffmpeg.inputs",
                "the camera has no stream",
                "add ffmpeg.inputs, each with a path and roles",
            )


def _keys(
    setup: Setup, given: Mapping[str, Any], where: str, known: Callable[[Version], frozenset[str]]
) -> Iterator[Finding]:
    """Keys that this version does not read, which it refuses; those of older ones it may move."""
    versions = table().versions
    for key in map(str, given):
        if key in known(setup.version):
            continue
        place = f"{where}.{key}" if where else key
        others = [name for name, v in versions.items() if key in known(v)]
        if others and max(others) < setup.name:
            yield warning(
                "old_key",
                place,
                f"Frigate {max(others)} was the last to read this key here",
                f"Frigate {setup.name} moves it when it starts, if it knows the file as old; else "
                'it refuses the file: "Extra inputs are not permitted"',
            )
            continue
        like = get_close_matches(key, known(setup.version), 1)
        cure = f"did you mean {like[0]}?" if like else "remove it"
        if others:
            cure = f"Frigate {min(others)} is the first to read it: update, or remove it"
        yield error(
            "unknown_key",
            place,
            f"Frigate {setup.name} reads no such key and does not start: "
            '"Extra inputs are not permitted"',
            cure,
        )


def _detectors(setup: Setup) -> Iterator[Finding]:
    """The detectors themselves."""
    if not setup.detectors:
        yield warning(
            "no_detector",
            "detectors",
            "none is named: Frigate computes on the CPU",
            "onchip frigate config X.onchip writes the section",
        )
    if len(setup.types) > 1:
        yield error(
            "mixed",
            "detectors",
            f"detectors of several types: {', '.join(setup.types)}. They share one queue and one "
            "model section, so that one of them gets what it cannot read",
            "keep detectors of one type; several of the same are allowed",
        )
    for name, detector in setup.detectors.items():
        yield from _detector(setup, f"detectors.{name}", detector)


def _detector(setup: Setup, where: str, detector: object) -> Iterator[Finding]:
    if not isinstance(detector, Mapping) or "type" not in detector:
        yield error("detector_type", where, "it has no type", "add type: hailo8l, rknn, onnx, ...")
        return
    known, every = setup.version.types, table().detectors
    kind = str(detector["type"])
    if kind not in known:
        others = [n for n, v in table().versions.items() if kind in v.types]
        like = get_close_matches(kind, known, 1)
        cure = f"did you mean {like[0]}?" if like else f"allowed are {', '.join(known)}"
        if others:
            cure = f"it is in Frigate {', '.join(others)}; onchip frigate serve works with zmq"
        yield error("detector_type", f"{where}.type", f"Frigate {setup.name} has no {kind}", cure)
    nested = detector.get("model")
    if nested is not None and not setup.version.nested_model:
        yield error(
            "nested_model",
            f"{where}.model",
            "Frigate ignores a model here since 0.15: it uses the model section at the root, and "
            "where that has no path, a model of its own choice",
            f"move what stands there to the root: model: {_flow(nested)}",
        )
    own = {"type", "model", "model_path", *every.get(kind, Kind()).keys}
    for key in detector:
        if key not in own and kind in every:
            yield warning(
                "ignored_key",
                f"{where}.{key}",
                f"{kind} reads no such key",
                f"it reads {', '.join(sorted(own - {'model'}))}",
            )


def _flow(nested: object) -> str:
    text = yaml.safe_dump(nested, default_flow_style=True, width=200, sort_keys=False).strip()
    return text[:200]


def _model(setup: Setup) -> Iterator[Finding]:
    """The model's section: its keys and words."""
    if "model" in setup.data and not isinstance(setup.data["model"], Mapping):
        yield error("model", "model", "it is no section", "onchip frigate config writes it")
    yield from _keys(setup, setup.model, "model", lambda v: v.model)
    words = {
        "input_tensor": setup.version.input_tensor,
        "input_dtype": setup.version.input_dtype,
        "model_type": setup.version.model_type,
        "input_pixel_format": ("rgb", "bgr", "yuv"),
    }
    for key, allowed in words.items():
        given = setup.model.get(key)
        if given is not None and given not in allowed and allowed:
            like = get_close_matches(str(given), allowed, 1)
            cure = f"did you mean {like[0]}?" if like else f"allowed are {', '.join(allowed)}"
            yield error(key, f"model.{key}", f"Frigate {setup.name} knows no {given!r}", cure)
    for key in ("width", "height"):
        given = setup.model.get(key, SIZE)
        if not isinstance(given, int) or isinstance(given, bool) or given <= 0:
            yield error(
                "input_size",
                f"model.{key}",
                f"{given!r} is no number of pixels",
                "give the model's own",
            )


def _placeholders(setup: Setup) -> Iterator[Finding]:
    """Values from the environment, which Frigate writes as {FRIGATE_NAME}."""
    lines = [line.partition(" #")[0] for line in setup.text.splitlines()]
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    for found in dict.fromkeys(a or b for a, b in _DOLLAR.findall(text)):
        yield error(
            "placeholder",
            f"${{{found}}}",
            "Frigate does not read this form: the $ stays",
            f"write {{{found}}}",
        )
    for found in dict.fromkeys(_BROKEN.findall(text)):
        yield error(
            "placeholder", f"{{{found}", "the placeholder is not closed", f"write {{{found}}}"
        )
    for found in dict.fromkeys(_OTHER.findall(text)):
        yield warning(
            "placeholder",
            f"{{{found}}}",
            "Frigate replaces names that begin with FRIGATE_ only",
            f"call the variable FRIGATE_{found}",
        )
    for key in ("path", "labelmap_path"):
        if "{FRIGATE_" in str(setup.model.get(key, "")):
            yield error(
                "placeholder",
                f"model.{key}",
                "Frigate replaces nothing in this key",
                "write the path itself",
            )


_PARTS: tuple[Callable[[Setup], Iterable[Finding]], ...] = (
    _top,
    _detectors,
    _model,
    _placeholders,
)
_AMISS = frozenset({"detector_type", "mixed", "model"})  # after these the rest cannot be judged


def failed(findings: Iterable[Finding]) -> bool:
    """Whether something will not work."""
    return any(f.level == "error" for f in findings)


def describe(findings: Iterable[Finding]) -> str:
    """Say what was found, for people."""
    lines = []
    for found in findings:
        lines.append(f"{found.level}: {found.where}: {found.cause}")
        if found.cure:
            lines.append(f"  do: {found.cure}")
    return "\n".join(lines) or "nothing wrong was found"
