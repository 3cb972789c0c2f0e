"""The bench of quantizers: what each loses, takes and gives, on the same networks and images.

Every quantizer gets the same network, cut at its head's raw tensors, and the same prepared pixels;
what it makes is read by the same decoder and evaluator, and runs beside the float network. Each
builds in a process of its own. Rows are kept in a JSON file: what is there is not made again. What
was made is kept beside it, in a folder of the same name.

    python benchmarks/quantizers                                 all of them, on val2017: an hour
    python benchmarks/quantizers --images tune --limit 64        on images to tune a quantizer on
    python benchmarks/quantizers --models yolov8n --peers onchip --again
    python benchmarks/quantizers --table                         print what is there
"""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import msgspec
from msgspec.structs import replace

from common import DATA, MODELS, photos
from onchip.artifact import save
from onchip.build import parse
from onchip.writing import alone
from quantizers import row, speed
from quantizers.peers import PEERS
from quantizers.results import Results, Row

PATIENCE = 20  # seconds in which what is stopped may clean up
MISSING = "not installed"  # such rows are tried again


def main() -> None:
    asked = _arguments()
    results = Results(asked.out)
    names = [n for n in PEERS if n.startswith(tuple(asked.peers))]
    if not names:
        sys.exit(f"no quantizer begins with {asked.peers}; there are {', '.join(PEERS)}")
    try:
        for model in asked.models if not asked.table else ():
            Bench(model, results, asked).run(names)
    except KeyboardInterrupt:
        sys.exit("stopped; the rows that were finished are kept")
    for images in asked.images:
        print(f"\n{images}\n\n{results.table(asked.models, names, images)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "quantizers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--peers", nargs="+", default=[""], help="beginnings of their names")
    parser.add_argument("--images", nargs="+", choices=("val", "tune"), default=["val"])
    parser.add_argument("--calibration", type=int, default=64, help="images to calibrate on")
    parser.add_argument("--limit", type=int, default=0, help="images to measure on; 0 is all")
    parser.add_argument("--out", type=Path, default=Path("quantizers.json"))
    parser.add_argument("--again", action="store_true", help="make rows again that are there")
    parser.add_argument("--times", action="store_true", help="take the milliseconds again")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    return parser.parse_args()


class Bench:
    """The rows of one model."""

    def __init__(self, model: str, results: Results, asked: argparse.Namespace) -> None:
        self._model, self._results, self._asked = model, results, asked
        self._folder = asked.out.resolve().with_suffix(".files") / model
        self._parsed = self._folder / "parsed.onchip"
        self._figures = self._folder / "figures.json"

    def run(self, names: Sequence[str]) -> None:
        """Make the rows that are missing, and take the times of what is new."""
        mine = [n for n in names if PEERS[n].only in ("", self._model)]
        wanted = {n: images for n in mine if (images := self._missing(n))}
        if not wanted and not self._asked.times:
            return
        with alone(self._folder):
            source = DATA / "models" / f"{self._model}.onnx"
            save(parse(source, "cpu", photos(self._asked.calibration)), self._parsed)
            for name, images in wanted.items():
                self._results.put(self._rows(name, images))
            self._time()

    def _missing(self, name: str) -> list[str]:
        """The sets of images for which there is no row that was made as asked now."""

        def there(images: str) -> bool:
            kept = self._results.get((self._model, name, images))
            if kept is None or kept.reason.startswith(MISSING):
                return False
            return (kept.calibration, kept.limit) == (self._asked.calibration, self._asked.limit)

        return [i for i in self._asked.images if self._asked.again or not there(i)]

    def _program(self, name: str) -> Path:
        plain = "".join(c if c.isalnum() else "-" for c in name)
        return self._folder / plain

    def _rows(self, name: str, images: Sequence[str]) -> list[Row]:
        job = row.Job(
            quantizer=name,
            images=tuple(images),
            calibration=self._asked.calibration,
            limit=self._asked.limit,
            parsed=str(self._parsed),
            program=str(self._program(name)),
            figures=str(self._figures),
        )
        print(f"{self._model}, {name} …", end=" ", flush=True)
        reason = self._child("quantizers.row", job, PEERS[name].limit, PEERS[name].install)
        found = {} if reason else msgspec.json.decode(self._figures.read_bytes())
        rows = []
        for i in images:
            fields = {"model": self._model, "quantizer": name, "images": i, "reason": reason}
            fields |= {"calibration": job.calibration, "limit": job.limit, **found.get(i, {})}
            rows.append(msgspec.convert(fields, Row))
        told = [f"{r.images}: AP {r.ap:.1f}, fidelity {r.fidelity:.1f}" for r in rows]
        print(reason or "; ".join(told), flush=True)
        return rows

    def _time(self) -> None:
        """Take the times of all programs of the model together, where some have none yet."""
        rows = [r for r in self._results.of(self._model) if not r.reason]
        programs = {r.quantizer: self._program(r.quantizer).with_suffix(".onnx") for r in rows}
        programs = {name: path for name, path in programs.items() if path.is_file()}
        rows = [r for r in rows if r.quantizer in programs]
        if not rows or (all(r.ms for r in rows) and not self._asked.times):
            return
        job = speed.Job(
            parsed=str(self._parsed),
            programs={n: str(p) for n, p in programs.items()},
            figures=str(self._figures),
        )
        if reason := self._child("quantizers.speed", job, 600):
            print(f"{self._model}: no times: {reason}")
            return
        ms = msgspec.json.decode(self._figures.read_bytes())
        self._results.put([replace(r, ms=ms[r.quantizer], float_ms=ms[speed.FLOAT]) for r in rows])

    def _child(self, module: str, job: msgspec.Struct, limit: float, install: str = "") -> str:
        """Run a module on a job in a process of its own; return why it failed, or nothing."""
        command = [sys.executable, "-m", module, msgspec.json.encode(job).decode()]
        here = str(Path(__file__).parents[1])
        log = self._folder / "log.txt"
        with log.open("wb") as file:
            child = subprocess.Popen(
                command, stdout=file, stderr=file, env={**os.environ, "PYTHONPATH": here}
            )
            try:
                code = child.wait(limit)
            except subprocess.TimeoutExpired:
                _end(child)
                return f"no end after {limit / 60:.0f} minutes"
            except BaseException:
                _end(child)
                raise
        return _reason(code, log.read_text(errors="replace"), install)


def _end(child: "subprocess.Popen[bytes]") -> None:
    """Stop a process as Ctrl-C does, so that it ends what it began; kill it if it does not."""
    child.send_signal(signal.SIGINT)
    try:
        child.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _reason(code: int, log: str, install: str) -> str:
    """Say in few words how a process failed; nothing where it did not."""
    if not code:
        return ""
    if code == -signal.SIGKILL:
        return "killed: out of memory, most often"
    if code < 0:
        return f"died of {signal.Signals(-code).name}"
    last = (log.strip().splitlines() or ["no word"])[-1]
    if last.startswith("ModuleNotFoundError") or MISSING in last:
        return f"{MISSING}: {install}"
    return last.replace("|", "/")[:90]


if __name__ == "__main__":
    main()
