"""Results as text for a terminal: plain, aligned, without colours."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, get_args, get_origin

import msgspec

from onchip.artifact import Artifact
from onchip.measure.accuracy import Accuracy
from onchip.measure.frigate import AsFrigate
from onchip.measure.latency import Latency
from onchip.measure.proof import Proof, Row
from onchip.spec import Verdict
from onchip.targets.published import Published
from onchip.targets.target import Foresight, Target


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Align columns: the first to the left, the others to the right.

    >>> print(table(["a", "b"], [["x", "10"]]))
    a   b
    x  10
    """
    lines = [list(head), *(list(r) for r in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def verdicts(found: Iterable[Verdict]) -> list[str]:
    """One line each, the graver first."""
    order = {"error": 0, "warning": 1, "info": 2}
    names = {"error": "error", "warning": "warning", "info": "note"}
    return [f"{names[v.level]}: {v.message}" for v in sorted(found, key=lambda v: order[v.level])]


def size(count: int) -> str:
    """Bytes for people.

    >>> size(3400000)
    '3.4 MB'
    """
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def artifact(made: Artifact, path: str) -> str:
    """What an artifact is and how it came to be."""
    manifest = made.manifest
    head = manifest.head
    labels = ", ".join(head.labels[:6]) + (", …" if len(head.labels) > 6 else "")
    lines = [
        f"{path}: {manifest.source} for {manifest.target}",
        f"  head    {head.family}, {head.classes} classes ({labels})",
        f"  input   {manifest.input.describe()}",
        f"  cut at  {', '.join(head.end_nodes)}",
        *([f"  layout  {manifest.layout}"] if manifest.layout != "onchip" else []),
    ]
    for stage in manifest.stages:
        took = "skipped (nothing changed)" if stage.skipped else f"{stage.seconds:.1f} s"
        notes = "; ".join(f"{k} {v}" for k, v in stage.notes.items())
        lines.append(f"  {stage.name:<8} {took:<8} {notes}".rstrip())
    for name, record in manifest.payloads.items():
        lines.append(f"  {name:<8} {size(record.size):>8}  {record.file}")
    tools = ", ".join(f"{k} {v}" for k, v in manifest.tools.items())
    lines += [f"  tools   {tools}"] if tools else []
    return "\n".join([*lines, *verdicts(manifest.verdicts)])


def plan(made: Artifact, seen: Foresight, out: Path | None) -> str:
    """What a build would do."""
    manifest, head = made.manifest, made.manifest.head
    labels = ", ".join(head.labels[:6]) + (", …" if len(head.labels) > 6 else "")
    lines = [
        f"{manifest.source} for {manifest.target}, planned without the vendor's software",
        f"  head    {head.family}, {head.classes} classes ({labels})",
        f"  input   {manifest.input.describe()}",
        f"  start   {', '.join(seen.start_nodes)}",
        f"  end     {', '.join(seen.end_nodes)}",
        *(f"  {line}" for line in seen.forecast),
        *(f"  cannot  {line}" for line in seen.unsupported),
    ]
    for name, content in seen.files.items():
        lines += [f"  {out / name}"] if out else ["", f"{name}:", content.rstrip()]
    lines += [""] if seen.files and out is None else []
    return "\n".join([*lines, *verdicts((*manifest.verdicts, *seen.verdicts))])


def target(found: Target) -> str:
    """One chip: what is installed for it, and what was verified."""
    lines = [f"{found.name:<9} {found.title}"]
    for part in found.parts():
        state = part.found or f"not installed ({part.hint})"
        lines.append(f"          {part.name}: {state}")
    return "\n".join([*lines, f"          {found.verified}" if found.verified else ""]).rstrip()


def target_options(found: Target) -> list[str]:
    """A target's own options, with what is allowed."""
    known = msgspec.structs.fields(found.options)
    return [f"  {f.name}={f.default}   {_allowed(f.type)}" for f in known] or ["  none"]


def _allowed(kind: object) -> str:
    if get_origin(kind) is Literal:
        return " | ".join(str(v) for v in get_args(kind))
    return {bool: "true | false", int: "a number", float: "a number"}.get(kind, "text")  # type: ignore[call-overload]


def accuracy(found: Accuracy) -> str:
    """COCO metrics with the interval."""
    low, high = found.interval
    return (
        f"mAP50-95 {100 * found.map50_95:.1f} (95 % interval {100 * low:.1f} to {100 * high:.1f}), "
        f"mAP50 {100 * found.map50:.1f}, on {found.images} images"
    )


def as_frigate(found: AsFrigate) -> str:
    """Three readings of one program, and what Frigate's costs."""
    ways = (
        ("Frigate's decode, from 0.4", found.frigate),
        ("onchip's, from 0.4", found.same),
        ("onchip's, from 0.001", found.own),
    )
    rows = [
        [name, f"{100 * a.map50_95:.1f}", f"{100 * a.interval[0]:.1f} to {100 * a.interval[1]:.1f}",
         f"{100 * a.map50:.1f}"]
        for name, a in ways
    ]  # fmt: skip
    return "\n".join(
        [
            table(["read by", "mAP50-95", "95 % interval", "mAP50"], rows),
            "",
            f"On {found.frigate.images} images Frigate's decode costs {found.decode:.1f} points of "
            f"mAP50-95 against onchip's from the same score; another {found.threshold:.1f} points "
            "score less than 0.4, where Frigate does not look.",
        ]
    )


def latency(found: Latency, beside: Published | None = None) -> str:
    """Percentiles and parts, beside what the vendor publishes."""
    rows = [[name, f"{value:.1f}"] for name, value in found.parts.items()]
    whole = ", ".join(f"p{p} {v:.1f}" for p, v in found.whole.items())
    return "\n".join(
        [
            f"{found.fps:.1f} images per second, one after the other; {found.images} timed",
            f"whole, ms: {whole}",
            table(["part", "median ms"], rows),
            *(_beside(found, beside) if beside is not None else ()),
        ]
    )


def _beside(found: Latency, beside: Published) -> Iterable[str]:
    """What the vendor publishes, what that is here, and why the two may differ."""
    here = 1000 / found.parts["inference"]
    eight = f", {beside.eight:g} with eight at a time" if beside.eight else ""
    yield f"published for {beside.network}: {beside.one:g} a second, inference alone{eight}"
    yield f"  ({beside.source}); inference alone here: {here:.1f} a second, {here / beside.one:.0%}"
    rest = found.whole[50] - found.parts["inference"]
    yield f"why they differ: {rest:.1f} ms of each image here are not inference"
    yield from (f"  {reason}" for reason in beside.why)


def proof(found: Proof) -> str:
    """The proof table with its verdict."""
    head = ["stage"]
    if found.labelled:
        head += ["mAP50-95", "interval", "mAP50", "step", "drop", "its interval"]
    head += ["matched", "IoU", "score shift", "SQNR dB"]
    lines = [table(head, [_row(r, found.labelled) for r in found.rows])]
    lines += verdicts(found.verdicts)
    what = "with labels" if found.labelled else "without labels"
    if found.passed:
        lines.append(f"passed on {found.images} images {what}{_norm(found)}")
    else:
        lines.append(f"FAILED on {found.images} images {what}, first at: {found.broken}")
        lines += [f"  {f}" for f in found.failures]
        lines += [f"  cause: {c.message}" for c in found.causes if c.message not in found.failures]
    return "\n".join(lines)


def _norm(found: Proof) -> str:
    drop = found.rows[-1].drop
    if drop is None:
        return ""
    return f": {drop:z.1f} points lost in all (vendors' own builds lose a median of 1.2)"


def _row(row: Row, labelled: bool) -> list[str]:
    cells = [row.stage]
    if labelled and row.accuracy is not None:
        low, high = row.accuracy.interval
        drop = row.drop_interval
        cells += [
            f"{100 * row.accuracy.map50_95:.1f}",
            f"{100 * low:.1f} to {100 * high:.1f}",
            f"{100 * row.accuracy.map50:.1f}",
            f"{row.step:z.1f}" if row.step is not None else "",
            f"{row.drop:z.1f}" if row.drop is not None else "",
            f"{drop[0]:z.1f} to {drop[1]:z.1f}" if drop else "",
        ]
    worst = min(row.parity.sqnr_db.values(), default=None)
    return [
        *cells,
        f"{100 * row.parity.matched:.1f} %",
        f"{row.parity.mean_iou:.3f}",
        f"{row.parity.score_shift:+.3f}",
        f"{worst:.1f}" if worst is not None else "",
    ]
