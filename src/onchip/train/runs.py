"""What a training leaves in its folder, and how far it is.

The folder is as Ultralytics leaves it: weights/best.pt and last.pt, results.csv, curves. Beside
them stands `onchip.json`, which says what was asked for and how it ended.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from onchip.errors import InputError
from onchip.writing import write_whole

RECORD = "onchip.json"

Value = str | int | float | bool | None | list[float]


class Measures(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a training ended. The measures are Ultralytics' own, of the best weights on `val`."""

    epochs: int
    planned: int
    map50: float
    map50_95: float
    precision: float
    recall: float
    seconds: float  # of the last session, where it was resumed
    images: int
    val_images: int
    left_out: int = 0  # images that Ultralytics could not use

    @property
    def stopped(self) -> bool:
        """Whether it ended early, for want of progress."""
        return self.epochs < self.planned


class Record(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What onchip notes of a run in its folder."""

    onchip: str
    data: str
    labels: tuple[str, ...]
    settings: dict[str, Value]
    measures: Measures | None = None


@dataclass(frozen=True)
class Trained:
    """A finished training: its folder, and how it ended."""

    folder: Path
    measures: Measures

    @property
    def best(self) -> Path:
        """The weights of the best epoch."""
        return self.folder / "weights" / "best.pt"

    @property
    def last(self) -> Path:
        """The weights of the last epoch."""
        return self.folder / "weights" / "last.pt"


@dataclass(frozen=True)
class Epoch:
    """One row of `results.csv`."""

    number: int  # from one
    seconds: float  # since the session began
    map50: float
    map50_95: float


def state(folder: Path) -> Literal["none", "begun", "finished"]:
    """Say how far the run of a folder is: with "begun", it can be resumed."""
    record = read_record(folder)
    if record is not None and record.measures is not None:
        return "finished"
    return "begun" if (folder / "weights" / "last.pt").is_file() else "none"


def read_record(folder: Path) -> Record | None:
    """Return what onchip noted of a run, or None where that is nothing that reads."""
    try:
        return msgspec.json.decode((folder / RECORD).read_bytes(), type=Record)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def results(path: Path) -> tuple[Epoch, ...]:
    """Read a `results.csv`.

    Raises:
        InputError: it cannot be read, or is none.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [{k.strip(): v for k, v in r.items() if k} for r in csv.DictReader(file)]
        return tuple(
            Epoch(
                number=int(float(row["epoch"])),
                seconds=float(row["time"]),
                map50=float(row["metrics/mAP50(B)"]),
                map50_95=float(row["metrics/mAP50-95(B)"]),
            )
            for row in rows
        )
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (csv.Error, KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(f"{path} is no results.csv of a training", f"at {error}") from error


def write_record(folder: Path, record: Record) -> None:
    """Note what there is to say of a run in its folder.

    Raises:
        InputError: the folder cannot be written.
    """
    write_whole(folder / RECORD, msgspec.json.format(msgspec.json.encode(record), indent=1))
