"""Results as JSON-ready data, with stable keys."""

from pathlib import Path

import msgspec

from onchip.artifact import Artifact
from onchip.detections import Detections
from onchip.measure.accuracy import Accuracy
from onchip.measure.frigate import AsFrigate
from onchip.measure.latency import Latency
from onchip.measure.proof import Cause, Proof, Row
from onchip.spec import Verdict
from onchip.targets.published import Published
from onchip.targets.target import Foresight, Target

Data = dict[str, object]


def verdict(found: Verdict) -> Data:
    """One verdict."""
    return {"code": found.code, "level": found.level, "message": found.message}


def build(made: Artifact, path: Path, peak_rss_mb: float) -> Data:
    """What a build did."""
    manifest = made.manifest
    return {
        "artifact": str(path),
        "target": manifest.target,
        "stages": [
            {"name": s.name, "seconds": s.seconds, "skipped": s.skipped} for s in manifest.stages
        ],
        "peak_rss_mb": round(peak_rss_mb, 1),
        "verdicts": [verdict(v) for v in manifest.verdicts],
    }


def plan(made: Artifact, seen: Foresight) -> Data:
    """What a build would do."""
    manifest = made.manifest
    return {
        "source": manifest.source,
        "target": manifest.target,
        "family": manifest.head.family,
        "classes": manifest.head.classes,
        "input": msgspec.to_builtins(manifest.input),
        "start_nodes": list(seen.start_nodes),
        "end_nodes": list(seen.end_nodes),
        "ops_unsupported": list(seen.unsupported),
        "forecast": list(seen.forecast),
        "files": dict(seen.files),
        "verdicts": [verdict(v) for v in (*manifest.verdicts, *seen.verdicts)],
    }


def target(found: Target) -> Data:
    """One chip: what is installed for it, and what was verified."""
    return {
        "name": found.name,
        "title": found.title,
        "verified": found.verified,
        "parts": [{"name": p.name, "found": p.found or None} for p in found.parts()],
    }


def accuracy(found: Accuracy) -> Data:
    """COCO metrics, as parts of one."""
    return {
        "images": found.images,
        "map50_95": round(found.map50_95, 5),
        "map50": round(found.map50, 5),
        "interval": [round(v, 5) for v in found.interval],
    }


def as_frigate(found: AsFrigate) -> Data:
    """Frigate's reading, as of `accuracy`, and ours beside it; what is lost in points."""
    return {
        **accuracy(found.frigate),
        "own": {"0.4": accuracy(found.same), "0.001": accuracy(found.own)},
        "points_lost": {
            "decode": round(found.decode, 3),
            "threshold": round(found.threshold, 3),
        },
    }


def latency(found: Latency, beside: Published | None = None) -> Data:
    """Milliseconds, beside what the vendor publishes."""
    return {
        "fps": round(found.fps, 2),
        "images": found.images,
        "latency_ms": {f"p{p}": round(v, 3) for p, v in found.whole.items()},
        "stages_ms": {k: round(v, 3) for k, v in found.parts.items()},
        "published": msgspec.to_builtins(beside),
    }


def detections(found: Detections, labels: tuple[str, ...], source: str, frame: int) -> Data:
    """What is seen in one frame, in pixels of the original image."""
    return {
        "source": source,
        "frame": frame,
        "detections": [
            {
                "label": labels[label],
                "class_id": label,
                "score": round(score, 4),
                "box": [round(float(v), 2) for v in box],
            }
            for box, score, label in found
        ],
    }


def proof(found: Proof) -> Data:
    """The proof table with its verdict."""
    return {
        "stages": [_row(r) for r in found.rows],
        "images": found.images,
        "passed": found.passed,
        "broken": found.broken or None,
        "failures": list(found.failures),
        "cause": _cause(found.causes[0]) if found.causes else None,
        "causes": [_cause(c) for c in found.causes],
        "gate": {"max_drop": found.gate.max_drop, "min_match": found.gate.min_match},
        "verdicts": [verdict(v) for v in found.verdicts],
    }


def _cause(found: Cause) -> Data:
    return {"code": found.code, "stage": found.stage, "message": found.message}


def _row(row: Row) -> Data:
    found = row.accuracy
    return {
        "stage": row.stage,
        "map50_95": None if found is None else round(found.map50_95, 5),
        "map50": None if found is None else round(found.map50, 5),
        "interval": None if found is None else [round(v, 5) for v in found.interval],
        "step": None if row.step is None else round(row.step, 3),
        "drop": None if row.drop is None else round(row.drop, 3),
        "drop_interval": None
        if row.drop_interval is None
        else [round(v, 3) for v in row.drop_interval],
        "matched": round(row.parity.matched, 5),
        "mean_iou": round(row.parity.mean_iou, 5),
        "score_shift": round(row.parity.score_shift, 5),
        "sqnr_db": {k: round(v, 2) for k, v in row.parity.sqnr_db.items()},
    }
