"""The report of a run as one page that needs nothing else."""

import csv
import platform
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from onchip.measure.accuracy import Accuracy
from onchip.report import html
from onchip.report.document import document, facts, table
from onchip.report.plots import lines, whiskers
from onchip.run.ledger import Step
from onchip.run.outcome import Built, Outcome, line
from onchip.targets.target import installed

PICTURES = 6
PACKAGES = (
    "onchip",
    "numpy",
    "onnx",
    "onnxruntime",
    "opencv-python-headless",
    "ultralytics",
    "torch",
)
QUALITY = {"mAP50": "metrics/mAP50(B)", "mAP50-95": "metrics/mAP50-95(B)"}
LOSSES = {"box": "box_loss", "class": "cls_loss", "edges": "dfl_loss"}


def page(done: Outcome) -> str:
    """Return the page.

    Raises:
        InputError: a photo of a proof cannot be read any more.
    """
    good = done.exit_code == 0
    state = f'<span class="{"passed" if good else "failed"}">{done.state}</span>'
    parts = [
        f"<h1>{escape(done.project.name)}: {state}</h1>",
        table(list(SUMMARY), [_summary(b) for b in done.builds]),
        *(p for b in done.builds for p in _build(b)),
        *_training(done.results),
        "<h2>Step by step</h2>",
        table(["step", "seconds", "", "what came of it"], [_step(s) for s in done.steps]),
        "<h2>The same by hand</h2>",
        f"<pre>{escape(chr(10).join(s.command for s in done.steps if s.command))}</pre>",
        "<h2>Made with</h2>",
        facts(_versions(done.builds)),
    ]
    return document(f"{done.project.name}: {done.state}", parts)


SUMMARY = (
    "target",
    "mAP50-95 before",
    "after",
    "lost",
    "its interval",
    "matched",
    "IoU",
    "verdict",
)


def _summary(built: Built) -> list[str]:
    if built.proof is None:
        return [built.target, *[""] * (len(SUMMARY) - 2), f"{built.verdict}: {built.error}"]
    first, last = built.proof.rows[0], built.proof.rows[-1]
    before, after = (
        f"{100 * r.accuracy.map50_95:.1f}" if r.accuracy else "" for r in (first, last)
    )
    low_high = last.drop_interval
    return [
        built.target,
        before,
        after,
        f"{last.drop:z.1f}" if last.drop is not None else "",
        f"{low_high[0]:z.1f} – {low_high[1]:z.1f}" if low_high else "",
        f"{100 * last.parity.matched:.1f} %",
        f"{last.parity.mean_iou:.3f}",
        built.verdict,
    ]


def _build(built: Built) -> list[str]:
    title = f"<h2>{escape(built.target)}: {escape(built.verdict)}</h2>"
    if built.error is not None or built.proof is None or built.artifact is None:
        hint = built.error.hint if built.error else ""
        return [
            title,
            f'<p class="failed">{escape(str(built.error))}</p>',
            f"<p>{escape(hint)}</p>",
        ]
    rows = {r.stage: _points(r.accuracy) for r in built.proof.rows if r.accuracy is not None}
    return [
        title,
        *html.told(built.artifact, built.proof),
        f'<div class="plots">{whiskers(rows, "mAP50-95 with its 95 % interval")}</div>',
        *html.pictures(built.artifact, built.proof, PICTURES),
        facts(html.built(built.artifact)),
    ]


def _points(found: Accuracy) -> tuple[float, float, float]:
    low, high = found.interval
    return 100 * found.map50_95, 100 * low, 100 * high


def _training(results: Path | None) -> list[str]:
    rows = read_results(results) if results is not None else {}
    if not rows:
        return []
    quality = {n: rows[c] for n, c in QUALITY.items() if c in rows}
    plots = [lines(quality, "epoch")]
    for name, column in LOSSES.items():
        both = {f"{name}, {part}": rows.get(f"{part}/{column}", []) for part in ("train", "val")}
        plots.append(lines({n: v for n, v in both.items() if v}, "epoch"))
    return ["<h2>Training</h2>", f'<div class="plots">{"".join(plots)}</div>']


def read_results(path: Path) -> dict[str, list[float]]:
    """Read a trainer's results.csv: columns by name; what is no number is nan.

    A table that a killed run left half-written gives the rows that are whole.
    """
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            rows = [[c.strip() for c in row] for row in csv.reader(file)]
    except (OSError, csv.Error):
        return {}
    whole = [row for row in rows[1:] if len(row) == len(rows[0])]
    return (
        {name: [_number(row[i]) for row in whole] for i, name in enumerate(rows[0])} if rows else {}
    )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _step(step: Step) -> list[str]:
    return [step.name, f"{step.seconds:.1f}", "unchanged" if step.skipped else "", line(step.said)]


def _versions(builds: Sequence[Built]) -> Mapping[str, str]:
    found = {"machine": f"{platform.platform()}, Python {platform.python_version()}"}
    found |= {name: known for name in PACKAGES if (known := installed(name))}
    for built in builds:
        if built.artifact is not None:
            found.update(built.artifact.manifest.tools)
    return found
