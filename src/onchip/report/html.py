"""The proof as one HTML page that needs nothing else: table, verdict, and pictures."""

from html import escape

from onchip.artifact import Artifact
from onchip.measure.proof import Proof, Row
from onchip.report.document import document, facts, table
from onchip.report.pictures import chosen, side_by_side
from onchip.report.text import verdicts

PICTURES = 6


def page(made: Artifact, proof: Proof) -> str:
    """Return the page.

    Raises:
        InputError: an image of the proof cannot be read any more.
    """
    source, chip = made.manifest.source, made.manifest.target
    state = "passed" if proof.passed else "failed"
    parts = [
        f'<h1>{escape(source)} on {escape(chip)}: <span class="{state}">{state}</span></h1>',
        *told(made, proof),
        "<h2>The same images, stage by stage</h2>",
        *pictures(made, proof, PICTURES),
        "<h2>What was built</h2>",
        facts(built(made)),
    ]
    return document(f"{source} on {chip}: {state}", parts)


def told(made: Artifact, proof: Proof) -> list[str]:
    """The table of a proof, and what it says in words."""
    return [
        f"<p>{proof.images} images, {'with' if proof.labelled else 'without'} labels. Each row is "
        "one stage on the same images; figures are against the first row.</p>",
        _table(proof),
        *(f'<p class="failed">{escape(f)}</p>' for f in proof.failures),
        *(
            f"<p><b>Likely cause:</b> {escape(c.message)}</p>"
            for c in proof.causes
            if c.message not in proof.failures
        ),
        *(f"<p>{escape(v)}</p>" for v in verdicts((*proof.verdicts, *made.manifest.verdicts))),
    ]


def pictures(made: Artifact, proof: Proof, most: int) -> list[str]:
    """Photos side by side: those that differ most, and typical ones."""
    labels = made.manifest.head.labels
    return [side_by_side(example, labels) for example in chosen(proof.examples, most)]


def built(made: Artifact) -> dict[str, str]:
    """What an artifact was made of."""
    manifest = made.manifest
    tools = ", ".join(f"{k} {v}" for k, v in manifest.tools.items())
    return {
        "model": f"{manifest.source} (sha256 {manifest.source_sha256[:16]}…)",
        "target": ", ".join(filter(None, (manifest.target, tools))),
        "head": f"{manifest.head.family}, {manifest.head.classes} classes",
        "input": manifest.input.describe(),
        "cut at": ", ".join(manifest.head.end_nodes),
        "onchip": manifest.onchip,
    }


def _table(proof: Proof) -> str:
    head = ["stage"]
    if proof.labelled:
        head += ["mAP50-95", "95 % interval", "mAP50", "step", "drop", "its interval"]
    head += ["matched", "IoU", "score shift", "worst SQNR"]
    return table(head, [_row(r, proof.labelled) for r in proof.rows])


def _row(row: Row, labelled: bool) -> list[str]:
    cells = [row.stage]
    if labelled and row.accuracy is not None:
        low, high = row.accuracy.interval
        interval = row.drop_interval
        cells += [
            f"{100 * row.accuracy.map50_95:.1f}",
            f"{100 * low:.1f} – {100 * high:.1f}",
            f"{100 * row.accuracy.map50:.1f}",
            f"{row.step:z.1f}" if row.step is not None else "",
            f"{row.drop:z.1f}" if row.drop is not None else "",
            f"{interval[0]:z.1f} – {interval[1]:z.1f}" if interval else "",
        ]
    worst = min(row.parity.sqnr_db.values(), default=None)
    return [
        *cells,
        f"{100 * row.parity.matched:.1f} %",
        f"{row.parity.mean_iou:.3f}",
        f"{row.parity.score_shift:+.3f}",
        f"{worst:.1f} dB" if worst is not None else "",
    ]
