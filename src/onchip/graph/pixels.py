"""What a network expects of its pixels: what the export says, and what its family does."""

import math
from dataclasses import dataclass
from typing import cast, get_args

from onchip.errors import InputError
from onchip.graph.read import Model, literal
from onchip.spec import Color, HeadSpec, InputSpec, Letterboxing

Triple = tuple[float, float, float]

UNIT: tuple[Triple, Triple] = ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0))
BYTES: tuple[Triple, Triple] = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
CENTERED: tuple[Triple, Triple] = ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5))
IMAGENET: tuple[Triple, Triple] = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


@dataclass(frozen=True)
class Pixels:
    """The parts of an `InputSpec` that a graph may leave open; None is not said."""

    color: Color | None = None
    mean: Triple | None = None
    std: Triple | None = None
    letterbox: Letterboxing | None = None
    pad: int | None = None

    def over(self, other: "Pixels") -> "Pixels":
        """Return these, and where they say nothing the other's."""
        return Pixels(
            self.color or other.color,
            self.mean if self.mean is not None else other.mean,
            self.std if self.std is not None else other.std,
            self.letterbox or other.letterbox,
            self.pad if self.pad is not None else other.pad,
        )

    @property
    def complete(self) -> bool:
        """Whether everything that changes what the network sees is said."""
        return None not in (self.color, self.mean, self.std, self.letterbox)


# What each family's own training code does; where it leaves a choice, the first release's.
CONVENTIONS = {
    "yolox": Pixels("bgr", *BYTES, "topleft", 114),
    "nanodet": Pixels("bgr", IMAGENET[0][::-1], IMAGENET[1][::-1], "center", 114),
    "fcos": Pixels("bgr", IMAGENET[0][::-1], IMAGENET[1][::-1], "center", 114),
    "ssd": Pixels("rgb", *CENTERED, "stretch", 0),
    "damo-yolo": Pixels("bgr", *BYTES, "topleft", 0),
    "rtdetr": Pixels("rgb", *UNIT, "stretch", 0),
}
ULTRALYTICS = Pixels("rgb", *UNIT, "center", 114)


def convention(head: HeadSpec) -> Pixels:
    """Return what networks of this family are usually fed."""
    return CONVENTIONS.get(head.family, ULTRALYTICS)


def declared(model: Model) -> Pixels:
    """Return what the model's own metadata says of its pixels.

    onchip's keys are `color`, `mean`, `std`, `letterbox` and `pad`. An export that carries
    Ultralytics' keys (`stride`, `names`, `imgsz` or `task`) is fed as Ultralytics feeds it.

    Raises:
        InputError: a key is there, but does not read.
    """
    notes = model.metadata
    said = Pixels(
        color=cast(Color | None, _one_of(notes, "color", get_args(Color))),
        mean=_triple(notes, "mean"),
        std=_triple(notes, "std"),
        letterbox=cast(Letterboxing | None, _one_of(notes, "letterbox", get_args(Letterboxing))),
        pad=_pad(notes),
    )
    ultralytics = "names" in notes and ("stride" in notes or "imgsz" in notes)
    return said.over(ULTRALYTICS) if ultralytics else said


def _one_of(notes: dict[str, str], key: str, allowed: tuple[str, ...]) -> str | None:
    value = notes.get(key)
    if value is not None and value not in allowed:
        raise _unreadable(key, value, f"allowed are {', '.join(allowed)}")
    return value


def _triple(notes: dict[str, str], key: str) -> Triple | None:
    if key not in notes:
        return None
    return triple(notes[key], f"the model's metadata key {key!r}")


def triple(text: str, name: str) -> Triple:
    """Read one number or three, as in `0` or `123.7,116.3,103.5` (brackets are allowed).

    Raises:
        InputError: it is neither.
    """
    value = literal(text)
    try:
        values = [float(v) for v in (value if isinstance(value, list | tuple) else [value])]
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{name} is {text!r}", "allowed: one number or three: 1,2,3") from error
    if not all(map(math.isfinite, values)):
        raise InputError(f"{name} is {text!r}", "allowed: one number or three: 1,2,3")
    if len(values) == 1:
        values *= 3
    if len(values) != 3:
        raise InputError(f"{name} has {len(values)} numbers", "allowed: one number or three")
    return (values[0], values[1], values[2])


def _pad(notes: dict[str, str]) -> int | None:
    value = notes.get("pad")
    if value is None:
        return None
    if not value.isdecimal() or len(value) > 3 or int(value) > 255:
        raise _unreadable("pad", value, "allowed are 0 to 255")
    return int(value)


def _unreadable(key: str, value: str, hint: str) -> InputError:
    return InputError(f"the model's metadata says {key}: {value!r}", hint)


def input_spec(model: Model, pixels: Pixels) -> InputSpec:
    """Join the graph's input with complete pixels."""
    info = model.inputs[0]
    nhwc = info.shape[3] == 3 and info.shape[1] != 3
    height, width = info.shape[1:3] if nhwc else info.shape[2:]
    assert pixels.color and pixels.mean and pixels.std and pixels.letterbox
    return InputSpec(
        name=info.name,
        width=width,
        height=height,
        dtype="uint8" if info.dtype == "uint8" else "float32",
        layout="nhwc" if nhwc else "nchw",
        color=pixels.color,
        mean=pixels.mean,
        std=pixels.std,
        letterbox=pixels.letterbox,
        pad=114 if pixels.pad is None else pixels.pad,
    )
