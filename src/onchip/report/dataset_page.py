"""A data set's findings as one HTML page that needs nothing else: pictures, classes, box sizes."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from onchip.dataset.boxes import SMALL, TINY, called, count
from onchip.dataset.check import Report
from onchip.dataset.facts import small
from onchip.dataset.findings import Finding, Kind, Mark, grouped, kinds
from onchip.dataset.source import Source
from onchip.dataset.yolo import Label
from onchip.errors import InputError
from onchip.progress import Progress, silent
from onchip.report.dataset import plain, verdict
from onchip.report.document import document, table
from onchip.vision.draw import color

SIDE = 340  # pixels of the longer side of a picture
QUALITY = 72
OF_ONE = 4  # pictures of one finding
OF_KIND = 9  # findings of one kind that are shown
OF_ALL = 160  # pictures of the page
LINES = 200  # findings of one kind that are listed
BOXES = 80  # labels that are drawn in one picture
DETAIL = 0.08  # a marked box smaller than this, in parts of the image, is shown close up
AROUND = 5  # how many times its size is shown then
OVER = ("edge", "label-range", "corners")  # kinds that want to be seen past the edge
MARGIN = 0.1
STEPS = 28  # bars of the histogram of box sizes
WHOLE = (0.0, 0.0, 1.0, 1.0)

STYLE = """<style>
:root { --error: #cf222e; --warning: #b26a00; --note: #57708c; --card: #8881; --ink: currentColor }
body { max-width: 1140px }
h1 small { font-weight: 400; opacity: .7; font-size: .95rem; display: block;
  overflow-wrap: anywhere }
.chips { display: flex; flex-wrap: wrap; gap: .4rem; margin: 1rem 0; padding: 0 }
.chips a { text-decoration: none; color: inherit; border: 1px solid var(--line);
  border-left: 4px solid; border-radius: 4px; padding: .1rem .55rem }
.chips b { font-variant-numeric: tabular-nums }
a.error { border-left-color: var(--error) } a.warning { border-left-color: var(--warning) }
a.note { border-left-color: var(--note) }
section { border-top: 1px solid var(--line); margin-top: 1.4rem }
section h2 { margin-top: 1rem; margin-bottom: .3rem }
h2 .level { font-size: .75rem; font-weight: 600; color: #fff; border-radius: 3px;
  padding: .12rem .45rem; vertical-align: 2px; margin-right: .5rem }
.level.error { background: var(--error) } .level.warning { background: var(--warning) }
.level.note { background: var(--note) }
h2 code { font-weight: 400; opacity: .6; margin-left: .4rem }
.why { margin: .3rem 0 .9rem; max-width: 60rem }
.why b { font-weight: 600 }
.shelf { display: flex; flex-wrap: wrap; gap: .8rem; align-items: flex-start }
.card { background: var(--card); border-radius: 6px; padding: .6rem; max-width: 100% }
.card > p { margin: 0 0 .5rem; font-size: .85rem; overflow-wrap: anywhere; width: 0;
  min-width: 100% }
.row { display: flex; gap: .6rem; flex-wrap: wrap }
.row figure { width: 15.5rem; max-width: 100% }
.wide figure { width: 21rem }
figcaption { font-size: .75rem; overflow-wrap: anywhere; margin-top: .2rem }
.shot { display: block; border-radius: 4px; background: #8883 }
.shot text { font: 600 11px system-ui, sans-serif; paint-order: stroke; stroke: #000;
  stroke-width: 3px; fill: #fff }
.gone { height: 9rem; display: grid; place-items: center; background: #8883; border-radius: 4px;
  font-size: .8rem; opacity: .7; text-align: center }
details { margin-top: .7rem; font-size: .85rem } summary { cursor: pointer }
details li { overflow-wrap: anywhere }
.bars { columns: 2; column-gap: 2rem; font-size: .85rem } .bars div { break-inside: avoid }
.bar { display: grid; grid-template-columns: 9rem 1fr 7rem; gap: .5rem; align-items: center }
.bar span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap }
.bar i { display: block; height: .62rem; border-radius: 2px; min-width: 1px }
.bar em { font-style: normal; text-align: right; font-variant-numeric: tabular-nums; opacity: .8 }
.s0 { background: #3b7dd8 } .s1 { background: #e08a1e } .s2 { background: #2f9e72 }
.key i { display: inline-block; width: .8rem; height: .62rem; border-radius: 2px;
  margin: 0 .3rem 0 1rem }
.sizes rect { fill: #3b7dd8 } .sizes .low { fill: #cf222e } .sizes .mid { fill: #e08a1e }
.sizes text { font: 11px system-ui, sans-serif; fill: currentColor }
.scroll { overflow-x: auto }
@media (max-width: 46rem) { .bars { columns: 1 } .bar { grid-template-columns: 6rem 1fr 6rem } }
</style>"""


@dataclass
class _Shelf:
    """How many pictures may still be shown, and what reads them."""

    source: Source
    left: int
    progress: Progress

    def take(self, wanted: int) -> int:
        """Return how many of the wanted pictures there is room for."""
        given = min(wanted, self.left)
        self.left -= given
        self.progress("pictures", OF_ALL - self.left, OF_ALL)
        return given


def page(found: Report, progress: Progress = silent) -> str:
    """Return the page. What cannot be read any more is said in its place."""
    groups = grouped(found.findings)
    shelf = _Shelf(found.source, OF_ALL, progress)
    sections = [_section(code, group, shelf) for code, group in groups]
    name = plain(found.source.path)
    state = "passed" if found.passed else "failed"
    parts = [
        STYLE,
        f'<h1><span class="{state}">{escape(verdict(found).capitalize())}</span>'
        f"<small>{escape(name)}</small></h1>",
        _summary(found),
        _chips(groups),
        *sections,
        _classes(found),
        _sizes(found),
    ]
    return document(f"{found.source.path.name}: {verdict(found)}", parts)


def _summary(found: Report) -> str:
    head = ["", "images", "label files", "unlabelled", "negatives", "boxes"]
    rows = [
        [p.name or "all", *(f"{n:,}" for n in (p.images, p.files, p.images - p.labelled))]
        + [f"{n:,}" for n in (p.negatives, p.boxes)]
        for p in found.parts
    ]
    return f'<div class="scroll">{table(head, rows)}</div>'


def _chips(groups: Sequence[tuple[str, list[Finding]]]) -> str:
    if not groups:
        return "<p>Nothing was found.</p>"
    made = (
        f'<a class="{kinds()[code].level}" href="#{code}">{escape(kinds()[code].title)} '
        f"<b>{len(group):,}</b></a>"
        for code, group in groups
    )
    return f'<nav class="chips">{"".join(made)}</nav>'


def _section(code: str, group: Sequence[Finding], shelf: _Shelf) -> str:
    kind = kinds()[code]
    cards = [_card(finding, shelf) for finding in _varied(group)]
    cards = [card for card in cards if card]
    if len(cards) == len(group):
        return _titled(code, kind, cards, "")
    listed = "".join(f"<li>{escape(f.text)}</li>" for f in group[:LINES])
    if len(group) > LINES:
        listed += f"<li>… and {len(group) - LINES:,} more (--json has all)</li>"
    is_open = " open" if not cards and len(group) <= 12 else ""
    shown = f" ({len(cards)} in pictures)" if cards and len(cards) < len(group) else ""
    summary = f"<summary>{count(len(group), 'place')}{shown}</summary>"
    return _titled(code, kind, cards, f"<details{is_open}>{summary}<ul>{listed}</ul></details>")


def _titled(code: str, kind: Kind, cards: Sequence[str], rest: str) -> str:
    shelf = f'<div class="shelf">{"".join(cards)}</div>' if cards else ""
    return (
        f'<section id="{code}"><h2><span class="level {kind.level}">{kind.level}</span>'
        f"{escape(kind.title)}<code>{code}</code></h2>{_why(kind)}{shelf}{rest}</section>"
    )


def _why(kind: Kind) -> str:
    return (
        f'<p class="why"><b>For training:</b> {escape(kind.means)}.<br>'
        f"<b>What to do:</b> {escape(kind.do)}.</p>"
    )


def _varied(group: Sequence[Finding]) -> list[Finding]:
    """Return findings with pictures, of as many different images as there are."""
    with_pictures = [f for f in group if f.images]
    first = {f.images[0]: f for f in reversed(with_pictures)}
    rest = (f for f in with_pictures if first[f.images[0]] is not f)
    chosen = [f for f in with_pictures if first[f.images[0]] is f][:OF_KIND]
    return [*chosen, *islice(rest, max(0, OF_KIND - len(chosen)))]


def _card(finding: Finding, shelf: _Shelf) -> str:
    images = finding.images[: shelf.take(min(OF_ONE, len(finding.images)))]
    if not images:
        return ""
    figures = [_figure(finding, image, shelf.source) for image in images]
    more = len(finding.images) - len(images)
    said = escape(finding.text) + (f" <b>and {more:,} more</b>" if more > 0 else "")
    wide = " wide" if len(images) == 1 else ""
    return f'<div class="card"><p>{said}</p><div class="row{wide}">{"".join(figures)}</div></div>'


def _figure(finding: Finding, image: Path, source: Source) -> str:
    splits = ", ".join(s for s in source.parts.get(image, ()) if s)
    name = source.said(image) + (f" · {splits}" if splits and len(finding.images) > 1 else "")
    marks = finding.marks if image == finding.images[0] else ()
    part = _close_up(marks)
    picture = small(image, SIDE, part)
    if picture is None:
        body = '<div class="gone">cannot be shown</div>'
    else:
        labels = _labels(source, image)
        body = _shot(picture, part, labels, marks, source.names, finding.code in OVER)
    note = " (close up)" if part != WHOLE else ""
    return f"<figure>{body}<figcaption>{escape(name)}{note}</figcaption></figure>"


def _labels(source: Source, image: Path) -> list[Label]:
    if image not in source.parts:
        return []
    try:
        rows = source.rows(image) or ()
    except InputError:
        return []
    return [row.label for row in rows if row.label is not None][:BOXES]


def _close_up(marks: Sequence[Mark]) -> tuple[float, float, float, float]:
    """Return the part of the image to show: all, or what is around a small marked box."""
    if not marks or max(marks[0].box[2:]) >= DETAIL:
        return WHOLE
    x, y, w, h = marks[0].box
    half = max(AROUND * max(w, h), DETAIL) / 2
    x, y = min(max(x, half), 1 - half), min(max(y, half), 1 - half)
    return (x - half, y - half, x + half, y + half)


def _shot(
    picture: cv2.typing.MatLike,
    part: tuple[float, float, float, float],
    labels: Iterable[Label],
    marks: Sequence[Mark],
    names: Sequence[str],
    over: bool,
) -> str:
    height, width = picture.shape[:2]
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    margin = round(MARGIN * max(width, height)) if over else 0
    view = (-margin, -margin, width + 2 * margin, height + 2 * margin)

    def rect(box: Sequence[float], extra: str) -> str:
        x, y, w, h = box
        left = (x - w / 2 - part[0]) / (part[2] - part[0]) * width
        top = (y - h / 2 - part[1]) / (part[3] - part[1]) * height
        wide, tall = w / (part[2] - part[0]) * width, h / (part[3] - part[1]) * height
        # A hostile label may be as large as it likes; nothing past the view is seen.
        left, top = _within(left), _within(top)
        return (
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{_within(wide):.1f}" '
            f'height="{_within(tall):.1f}" fill="none" {extra}/>'
        )

    def tag(mark: Mark, below: bool) -> str:
        x, y, w, h = mark.box
        left = (x - w / 2 - part[0]) / (part[2] - part[0]) * width
        edge = y + h / 2 if below else y - h / 2
        line = (edge - part[1]) / (part[3] - part[1]) * height + (15 if below else -5)
        left, line = min(max(left, 2), width - 2), min(max(line, 12), height - 4)
        end = ""
        if left > width / 2:
            end = ' text-anchor="end"'
            left = min(left + w / (part[2] - part[0]) * width, width - 2)
        return f'<text x="{left:.0f}" y="{line:.0f}"{end}>{escape(mark.text)}</text>'

    drawn = [
        rect(label.box, f'stroke="{_rgb(label.index)}" stroke-width="1.5" opacity=".9"')
        + f"<title>{escape(called(names, label.index))}</title>"
        for label in labels
    ]
    for number, mark in enumerate(marks):
        dash = ' stroke-dasharray="6 4"' if number % 2 else ""
        drawn.append(rect(mark.box, 'stroke="#fff" stroke-width="5"'))
        drawn.append(rect(mark.box, f'stroke="#e5202e" stroke-width="2.5"{dash}'))
    drawn += [tag(mark, number % 2 == 1) for number, mark in enumerate(marks) if mark.text]
    shapes = "".join(f"<g>{shape}</g>" for shape in drawn)
    return (
        f'<svg class="shot" viewBox="{view[0]} {view[1]} {view[2]} {view[3]}">'
        f'<image width="{width}" height="{height}" '
        f'href="data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}"/>'
        f"{shapes}</svg>"
    )


def _within(value: float) -> float:
    return min(max(value, -4.0 * SIDE), 4.0 * SIDE)


def _rgb(index: int) -> str:
    blue, green, red = color(max(index, 0))
    return f"#{red:02x}{green:02x}{blue:02x}"


def _classes(found: Report) -> str:
    size = max((len(c) for c in found.classes.values()), default=0)
    if not size:
        return ""
    most = max((max(c) for c in found.classes.values() if c), default=0) or 1
    names = [called(found.source.names, i) for i in range(size)]
    rows = []
    for index, name in enumerate(names):
        numbers = [counts[index] for counts in found.classes.values()]
        bars = "".join(
            f'<i class="s{k % 3}" style="width:{100 * n / most:.2f}%"></i>'
            for k, n in enumerate(numbers)
            if n
        )
        told = " / ".join(f"{n:,}" for n in numbers)
        rows.append(
            f'<div class="bar"><span title="{escape(name)}">{escape(name)}</span>'
            f"<div>{bars}</div><em>{told}</em></div>"
        )
    key = "".join(
        f'<i class="s{k % 3}"></i>{escape(split or "all")}' for k, split in enumerate(found.classes)
    )
    return (
        f'<section id="classes"><h2>Boxes of each class</h2><p class="key">{key}</p>'
        f'<div class="bars">{"".join(rows)}</div></section>'
    )


def _sizes(found: Report) -> str:
    """A histogram of the shorter sides of all boxes, in pixels of the training input."""
    if not len(found.sides):
        return ""
    least = np.clip(found.sides.min(axis=1), 1, found.imgsz)
    edges = np.geomspace(1, found.imgsz, STEPS + 1)
    numbers, _ = np.histogram(least, edges)
    wide, tall, low = 1000, 180, 24
    step = wide / STEPS
    bars = []
    for place, number in enumerate(numbers):
        size = tall * number / max(1, numbers.max())
        group = "low" if edges[place] < TINY else "mid" if edges[place] < SMALL else ""
        bars.append(
            f'<rect class="{group}" x="{place * step + 1:.1f}" y="{tall - size:.1f}" '
            f'width="{step - 2:.1f}" height="{size:.1f}"><title>{edges[place]:.0f} to '
            f"{edges[place + 1]:.0f} pixels: {number:,}</title></rect>"
        )
    ticks = [t for t in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024) if t <= found.imgsz]
    axis = "".join(
        f'<text x="{wide * np.log(t) / np.log(found.imgsz):.0f}" y="{tall + 16}">{t}</text>'
        for t in ticks
    )
    small_ones, tiny = int((least < SMALL).sum()), int((least < TINY).sum())
    return (
        f'<section id="sizes"><h2>Shorter side of the boxes, in pixels at {found.imgsz}</h2>'
        f'<svg class="sizes" viewBox="0 0 {wide} {tall + low}">{"".join(bars)}{axis}</svg>'
        f"<p>{tiny:,} of {count(len(least), 'box', 'boxes')} are under {TINY:g} pixels (red), "
        f"{small_ones:,} under {SMALL:g}.</p></section>"
    )
