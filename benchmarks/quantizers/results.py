"""The rows as a JSON file that appears whole or not at all, and as a table."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from onchip.writing import write_whole

Key = tuple[str, str, str]


class Row(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One quantizer on one network: what it cost, and what was lost on one set of images.

    `calibration` and `limit` are as they were asked for, `calibrated_on` and `count` the images
    that were used. `reason` says why there are no figures. AP, `drop` and `fidelity` are points,
    `matched` percent; `passes` is `seconds` over those of an FP32 pass over the same images.
    `floats` of the `layers` are not in INT8. `ms` and `float_ms` were taken in turn, one thread.
    """

    model: str
    quantizer: str
    images: str
    calibration: int
    limit: int
    reason: str = ""
    count: int = 0
    calibrated_on: int = 0
    float_ap: float = 0.0
    ap: float = 0.0
    drop: float = 0.0
    drop_interval: tuple[float, float] = (0.0, 0.0)
    fidelity: float = 0.0
    matched: float = 0.0
    boxes_db: float = 0.0
    scores_db: float = 0.0
    seconds: float = 0.0
    passes: float = 0.0
    peak_mb: float = 0.0
    file_mb: float = 0.0
    floats: int = 0
    layers: int = 0
    ms: float = 0.0
    float_ms: float = 0.0

    @property
    def key(self) -> Key:
        """What makes it a row of its own."""
        return self.model, self.quantizer, self.images


class Results:
    """The rows of a file; each change is written at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows = self._read()

    def _read(self) -> dict[Key, Row]:
        data = self._path.read_bytes() if self._path.is_file() else b"[]"
        return {row.key: row for row in msgspec.json.decode(data, type=list[Row])}

    def get(self, key: Key) -> Row | None:
        """Return the row of that key, if there is one."""
        return self._rows.get(key)

    def of(self, model: str) -> list[Row]:
        """Return the rows of a model."""
        return [row for row in self._rows.values() if row.model == model]

    def put(self, rows: Iterable[Row]) -> None:
        """Add rows, or put them in the place of older ones."""
        self._rows = self._read() | {row.key: row for row in rows}  # others may write it, too
        data = msgspec.json.encode(list(self._rows.values()))
        write_whole(self._path, msgspec.json.format(data, indent=1))

    def table(self, models: Sequence[str], quantizers: Sequence[str], images: str) -> str:
        """Return the rows of one set of images as Markdown, in the order of these names."""
        keys = [(m, q, images) for m in models for q in quantizers]
        rows = [self._rows[key] for key in keys if key in self._rows]
        named = {m: m for m in models}
        named |= {r.model: f"{r.model} ({r.float_ap:.1f})" for r in rows if not r.reason}
        lines = [HEADER, RULE]
        before = ""
        for row in rows:
            model = named[row.model] if row.model != before else ""
            lines.append(f"| {' | '.join((model, *_cells(row)))} |")
            before = row.model
        return "\n".join(lines)


_COLUMNS = (
    "model (FP32 AP)",
    "quantizer",
    "AP",
    "drop (95 %)",
    "fidelity",
    "matched %",
    "SQNR boxes, scores dB",
    "build, FP32 passes",
    "peak MB",
    "file MB",
    "not INT8",
    "ms INT8/FP32",
)
HEADER = f"| {' | '.join(_COLUMNS)} |"
RULE = f"|{'---|' * len(_COLUMNS)}"


def _cells(row: Row) -> list[str]:
    """The cells of a row after the model's."""
    if row.reason:
        return [row.quantizer, row.reason, *[""] * (len(_COLUMNS) - 3)]
    low, high = row.drop_interval
    few = f" ({row.calibrated_on} images)" if row.calibrated_on < row.calibration else ""
    return [
        f"{row.quantizer}{few}",
        f"{row.ap:.1f}",
        f"{row.drop:.1f} ({low:.1f} to {high:.1f})",
        f"{row.fidelity:.1f}",
        f"{row.matched:.1f}",
        f"{row.boxes_db:.1f}, {row.scores_db:.1f}",
        f"{row.passes:.1f}",
        f"{row.peak_mb:.0f}",
        f"{row.file_mb:.2f}",
        f"{row.floats} of {row.layers}",
        f"{row.ms:.1f}/{row.float_ms:.1f}" if row.ms else "",
    ]
