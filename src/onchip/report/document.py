"""Pages in one file: style, tables and pictures inside."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

import cv2

from onchip.vision.preprocess import Image
from onchip.writing import write_whole

STYLE = """
:root { color-scheme: light dark; --line: #8884; --good: #1a7f37; --bad: #cf222e; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1020px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem; margin-bottom: .2rem } h2 { font-size: 1.05rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid var(--line) }
th:first-child, td:first-child { text-align: left }
.passed { color: var(--good) } .failed { color: var(--bad) }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: .6rem }
h3 { font-size: .95rem; margin: 1.2rem 0 .4rem } code, pre { font-size: .85rem; overflow-x: auto }
svg { width: 100%; height: auto }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(24rem, 1fr)); gap: 1rem }
img { max-width: 100%; max-height: 24rem; border-radius: 4px }
figure { margin: 0 } figcaption { opacity: .75 }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem } dd { margin: 0 }
"""


def document(title: str, parts: Iterable[str]) -> str:
    """Return a whole page of these parts, which are HTML already."""
    start = '<!doctype html><html lang="en"><meta charset="utf-8">'
    start += '<meta name="viewport" content="width=device-width">'
    body = "\n".join(parts)
    return f"{start}<title>{escape(title)}</title><style>{STYLE}</style>{body}</html>\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; cells are plain text."""
    first = "".join(f"<th>{escape(h)}</th>" for h in head)
    cells = ("".join(f"<td>{escape(c)}</td>" for c in row) for row in rows)
    return f"<table><tr>{first}</tr>{''.join(f'<tr>{c}</tr>' for c in cells)}</table>"


def facts(found: Mapping[str, str]) -> str:
    """Return names and what is said of them."""
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in found.items())
    return f"<dl>{rows}</dl>"


def img(image: Image) -> str:
    """Return an image (BGR) as an element that carries its own bytes."""
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}">'


def write(html: str, path: Path) -> None:
    """Write a page; it appears whole or not at all.

    Raises:
        InputError: it cannot be written there.
    """
    write_whole(path, html.encode())
