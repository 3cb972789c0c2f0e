"""The proof as one HTML page that needs nothing else: table, verdict, and pictures."""

import base64
from html import escape
from pathlib import Path

import cv2
import numpy as np

from onchip.artifact import Artifact
from onchip.measure.proof import Example, Proof, Row
from onchip.report.text import verdicts
from onchip.vision.draw import draw
from onchip.vision.preprocess import Image, read_image
from onchip.writing import write_whole

PICTURES = 6
WIDTH = 480  # pixels of one picture

STYLE = """
:root { color-scheme: light dark; --line: #8884; --good: #1a7f37; --bad: #cf222e; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1020px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem; margin-bottom: .2rem } h2 { font-size: 1.05rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid var(--line) }
th:first-child, td:first-child { text-align: left }
.passed { color: var(--good) } .failed { color: var(--bad) }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: .6rem; margin: .8rem 0 }
img { width: 100%; border-radius: 4px } figure { margin: 0 } figcaption { opacity: .75 }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem } dd { margin: 0 }
"""


def page(made: Artifact, proof: Proof) -> str:
    """Return the page.

    Raises:
        InputError: an image of the proof cannot be read any more.
    """
    manifest = made.manifest
    state = "passed" if proof.passed else "failed"
    facts = {
        "model": f"{manifest.source} (sha256 {manifest.source_sha256[:16]}…)",
        "target": f"{manifest.target}, " + ", ".join(f"{k} {v}" for k, v in manifest.tools.items()),
        "head": f"{manifest.head.family}, {manifest.head.classes} classes",
        "input": manifest.input.describe(),
        "cut at": ", ".join(manifest.head.end_nodes),
        "onchip": manifest.onchip,
    }
    parts = [
        f"<h1>{escape(manifest.source)} on {escape(manifest.target)}: "
        f'<span class="{state}">{state}</span></h1>',
        f"<p>{proof.images} images, {'with' if proof.labelled else 'without'} labels. Each row is "
        "one stage on the same images; figures are against the first row.</p>",
        _table(proof),
        *(f'<p class="failed">{escape(f)}</p>' for f in proof.failures),
        *(
            f"<p><b>Likely cause:</b> {escape(c.message)}</p>"
            for c in proof.causes
            if c.message not in proof.failures
        ),
        *(f"<p>{escape(v)}</p>" for v in verdicts((*proof.verdicts, *manifest.verdicts))),
        "<h2>The same images, original and build</h2>",
        *(_pair(e, manifest.head.labels, proof.rows[-1].stage) for e in _chosen(proof)),
        "<h2>What was built</h2><dl>",
        *(f"<dt>{k}</dt><dd>{escape(v)}</dd>" for k, v in facts.items()),
        "</dl>",
    ]
    title = f"<title>{escape(manifest.source)} on {escape(manifest.target)}: {state}</title>"
    start = '<!doctype html><html lang="en"><meta charset="utf-8">'
    start += '<meta name="viewport" content="width=device-width">'
    return f"{start}{title}<style>{STYLE}</style>" + "\n".join(parts) + "</html>\n"


def write(html: str, path: Path) -> None:
    """Write a page; it appears whole or not at all.

    Raises:
        InputError: it cannot be written there.
    """
    write_whole(path, html.encode())


def _table(proof: Proof) -> str:
    head = ["stage"]
    if proof.labelled:
        head += ["mAP50-95", "95 % interval", "mAP50", "step", "drop", "its interval"]
    head += ["matched", "IoU", "score shift", "worst SQNR"]
    rows = "".join(_row(r, proof.labelled) for r in proof.rows)
    return f"<table><tr>{''.join(f'<th>{h}</th>' for h in head)}</tr>{rows}</table>"


def _row(row: Row, labelled: bool) -> str:
    cells = [row.stage]
    if labelled and row.accuracy is not None:
        low, high = row.accuracy.interval
        interval = row.drop_interval
        cells += [
            f"{100 * row.accuracy.map50_95:.1f}",
            f"{100 * low:.1f} – {100 * high:.1f}",
            f"{100 * row.accuracy.map50:.1f}",
            f"{row.step:.1f}" if row.step is not None else "",
            f"{row.drop:.1f}" if row.drop is not None else "",
            f"{interval[0]:.1f} – {interval[1]:.1f}" if interval else "",
        ]
    worst = min(row.parity.sqnr_db.values(), default=None)
    cells += [
        f"{100 * row.parity.matched:.1f} %",
        f"{row.parity.mean_iou:.3f}",
        f"{row.parity.score_shift:+.3f}",
        f"{worst:.1f} dB" if worst is not None else "",
    ]
    return f"<tr>{''.join(f'<td>{c}</td>' for c in cells)}</tr>"


def _chosen(proof: Proof) -> list[Example]:
    """The images that differ most, and as many typical ones."""
    found = [e for e in proof.examples if len(e.first) or len(e.last)] or list(proof.examples)
    if len(found) <= PICTURES:
        return found
    half = PICTURES // 2
    middle = len(found) // 2
    return [*found[:half], *found[middle : middle + half]]


def _pair(example: Example, labels: tuple[str, ...], last: str) -> str:
    image = read_image(example.path)
    name = escape(example.path.name)
    return (
        '<div class="pair">'
        f"<figure>{_img(draw(image, example.first, labels))}"
        f"<figcaption>{name}, original</figcaption></figure>"
        f"<figure>{_img(draw(image, example.last, labels))}"
        f"<figcaption>{last}, {example.matched:.0%} matched</figcaption></figure></div>"
    )


def _img(image: Image) -> str:
    height = round(image.shape[0] * WIDTH / image.shape[1])
    small = np.asarray(cv2.resize(image, (WIDTH, height), interpolation=cv2.INTER_AREA), np.uint8)
    _, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 85])
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}">'
