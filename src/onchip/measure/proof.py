"""The proof as a value: one row per stage, a gate, a verdict."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from onchip.detections import Detections
from onchip.measure.accuracy import Accuracy
from onchip.measure.parity import Parity
from onchip.spec import Verdict


@dataclass(frozen=True)
class Gate:
    """What a build may lose: points of mAP50-95, and the share of detections that must match."""

    max_drop: float = 1.5
    min_match: float = 0.8


@dataclass(frozen=True)
class Row:
    """One stage. Figures are against the first stage; `drop` in points of mAP50-95."""

    stage: str
    accuracy: Accuracy | None
    parity: Parity
    drop: float | None
    drop_interval: tuple[float, float] | None
    step: float | None  # points lost against the row above


@dataclass(frozen=True)
class Cause:
    """Why a stage broke: a stable code, a line for people, the stage, and the layer if one."""

    code: str
    message: str
    stage: str
    layer: str = ""


@dataclass(frozen=True)
class Proof:
    """All stages, whether the gate holds, what broke first, and why."""

    rows: tuple[Row, ...]
    images: int
    labelled: bool
    gate: Gate
    failures: tuple[str, ...]
    broken: str = ""
    causes: tuple[Cause, ...] = ()
    verdicts: tuple[Verdict, ...] = field(default=())
    examples: tuple["Example", ...] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing is past the gate."""
        return not self.failures


@dataclass(frozen=True)
class Example:
    """One image as each stage sees it, with its true boxes where they are known."""

    path: Path
    matched: float  # of what the last stage sees, against the first
    seen: dict[str, Detections]  # by stage, in order
    truth: Detections | None = None

    @property
    def first(self) -> Detections:
        """What the original sees."""
        return next(iter(self.seen.values()))

    @property
    def last(self) -> Detections:
        """What comes out in the end."""
        return list(self.seen.values())[-1]


def dump(proof: Proof) -> bytes:
    """Return a proof as bytes, from which `restore` makes an equal one."""
    return msgspec.msgpack.encode(proof, enc_hook=_plain)


def restore(data: bytes) -> Proof:
    """Return the proof of which these are the bytes.

    Raises:
        msgspec.MsgspecError: they are those of another version, or damaged.
    """
    return msgspec.msgpack.decode(data, type=Proof, dec_hook=_made)


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.shape, value.tobytes())
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(type(value))


def _made(kind: type, value: Any) -> object:
    if kind is Path:
        return Path(value)
    dtype, shape, data = value
    return np.frombuffer(data, dtype).reshape(shape)
