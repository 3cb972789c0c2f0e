"""The proof as a value: one row per stage, a gate, a verdict."""

from dataclasses import dataclass, field
from pathlib import Path

from onchip.detections import Detections
from onchip.measure.accuracy import Accuracy
from onchip.measure.diagnose import Cause
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
    """One image as the first and the last stage see it."""

    path: Path
    matched: float
    first: Detections
    last: Detections
