"""An analysis layer by layer, as text, as JSON-ready data, and as one HTML page with plots."""

from collections.abc import Sequence
from html import escape

import numpy as np

from onchip.analyze import Analysis, told
from onchip.artifact import Artifact
from onchip.measure.layers import NO_NOISE, LayerError
from onchip.report import document as html
from onchip.report.text import table, verdicts

WORST = 12  # layers in the text
HEAD = (
    *("layer", "op", "own cos", "own dB", "total cos", "total dB"),
    *("cut off", "at ends", "dead", "outlier"),
)
RAISING = "raising layers (--keep-float, --int16), as foreseen from each tensor's part:"
RAISING_HEAD = ("raised", "of the work", "error left", "next")
VENDOR = ("vendor own", "vendor total")


def text(found: Analysis, *, whole: bool = False) -> str:
    """The first thing to look at, the faults, and the layers with the largest errors."""
    chosen = found.errors
    if not whole:
        worst = sorted(found.errors, key=lambda e: e.own.sqnr_db)[:WORST]
        chosen = tuple(e for e in found.errors if e in worst)
    head = [*HEAD, *(VENDOR if found.vendor else ())]
    lines = [
        f"first: {found.first}",
        *(f"  also: {m}" for m in _more(found)),
        *verdicts(found.verdicts),
        *(f"  plan: {line}" for line in found.how),
        "",
        table(head, [_row(e, found) for e in chosen]),
    ]
    if len(chosen) < len(found.errors):
        left = len(found.errors) - len(chosen)
        lines.append(f"the {len(chosen)} worst of {len(found.errors)} by themselves; --all shows "
                     f"the other {left} too")  # fmt: skip
    lines.append(
        f"{found.images} images; the plan agrees {found.agreement:.1%} with the float network"
    )
    if found.raising:
        lines += ["", RAISING, table(RAISING_HEAD, _raising(found))]
    return "\n".join(lines)


def _raising(found: Analysis) -> list[list[str]]:
    """One row for each layer or few that are raised next."""
    rows, before = [], 0
    for step in found.raising:
        new = ", ".join(step.layers[before:])
        rows.append([f"{len(step.layers)}", f"{step.cost:.1%}", f"{step.error:.0%}", new])
        before = len(step.layers)
    return rows


def _more(found: Analysis) -> list[str]:
    return [told(f) for f in found.order[1:]]


def _row(error: LayerError, found: Analysis) -> list[str]:
    cells = [
        error.node,
        error.op,
        f"{error.own.cosine:.5f}",
        _decibels(error.own.sqnr_db),
        f"{error.total.cosine:.5f}",
        _decibels(error.total.sqnr_db),
        _share(error.saturated),
        _share(_stuck(error)),
        f"{len(silent(error))}/{error.channels}" if silent(error) else "",
        f"{error.weights.outlier:.1f}" if error.weights.outlier > 1 else "",
    ]
    if found.vendor:
        theirs = found.vendor.get(error.tensor)
        cells += [f"{theirs.own_cosine:.5f}", f"{theirs.total_cosine:.5f}"] if theirs else ["", ""]
    return cells


def silent(error: LayerError) -> list[int]:
    """Channels that say nothing: constant on the images, without weights, or never off one code."""
    return sorted({*error.constant, *error.weights.zero, *error.dead})


def _stuck(error: LayerError) -> float:
    """The share of values on the lowest or the highest code, where values go on beyond it."""
    step = (error.code_high - error.code_low) / 255
    beyond = error.low < error.code_low - step, error.high > error.code_high + step
    return sum(part for part, more in zip(error.ends, beyond, strict=True) if more)


def _share(part: float) -> str:
    return f"{part:.1%}" if part >= 0.0005 else ""


def _decibels(value: float) -> str:
    return "exact" if value >= NO_NOISE else f"{value:.1f}"


def data(found: Analysis) -> dict[str, object]:
    """Everything, with stable keys."""
    return {
        "target": found.target,
        "images": found.images,
        "agreement": round(found.agreement, 5),
        "first": found.first,
        "code": found.code or None,
        "layer": found.place or None,
        "causes": [
            {"code": c.code, "message": c.message, "layer": c.layer or None} for c in found.causes
        ],
        "faults": [
            {
                "layer": f.node,
                "tensor": f.tensor,
                "code": f.code,
                "message": f.message,
                "win": f.win,
                "win_db": f.win_db,
            }
            for f in found.faults
        ],
        "layers": [_layer(e, found) for e in found.errors],
        "how": list(found.how),
        "raising": [{"layers": r.layers, "cost": r.cost, "error": r.error} for r in found.raising],
        "verdicts": [
            {"code": v.code, "level": v.level, "message": v.message} for v in found.verdicts
        ],
    }


def _layer(error: LayerError, found: Analysis) -> dict[str, object]:
    theirs = found.vendor.get(error.tensor)
    return {
        "layer": error.node,
        "op": error.op,
        "tensor": error.tensor,
        "precision": error.precision,
        "own": _error(error.own.cosine, error.own.distance, error.own.sqnr_db),
        "total": _error(error.total.cosine, error.total.distance, error.total.sqnr_db),
        "possible_db": round(error.possible_db, 2),
        "values": [error.low, error.high],
        "codes": [error.code_low, error.code_high],
        "range_db": round(error.range_db, 2),
        "saturated": round(error.saturated, 6),
        "at_ends": [round(v, 6) for v in error.ends],
        "channels": error.channels,
        "dead_channels": list(error.dead),
        "constant_channels": list(error.constant),
        "zero_weight_channels": list(error.weights.zero),
        "shift_steps": round(error.shift, 3),
        "weight_db": round(error.weights.db, 2),
        "weight_possible_db": round(error.weights.possible_db, 2),
        "weight_outlier": round(error.weights.outlier, 2),
        "weight_outlier_channel": error.weights.channel,
        "histogram": _histogram(error),
        "vendor": None
        if theirs is None
        else {
            "own": {"cosine": theirs.own_cosine, "distance": theirs.own_distance},
            "total": {"cosine": theirs.total_cosine, "distance": theirs.total_distance},
        },
    }


def _histogram(error: LayerError) -> dict[str, object]:
    (low, high), parts = _bars(error)
    return {"low": low, "high": high, "parts": [round(v, 6) for v in parts]}


def _bars(error: LayerError) -> tuple[tuple[float, float], list[float]]:
    """The share of the float values in bars of one width, over all values and all codes."""
    ends = min(error.low, error.code_low), max(error.high, error.code_high)
    centers = np.clip(error.seen.centers, *ends)
    parts, _ = np.histogram(centers, BARS, ends, weights=error.seen.weights)
    return ends, [float(v) for v in parts]


def _error(cosine: float, distance: float, decibels: float) -> dict[str, float]:
    return {
        "cosine": round(cosine, 6),
        "distance": round(distance, 4),
        "sqnr_db": round(decibels, 2),
    }


BARS = 48
PLOT = (960, 240)  # pixels
SMALL = (320, 72)
RARE = 1e-5  # the share that a histogram's lowest bar stands for
TOP = 60.0  # dB at the upper end of the plot
MORE_STYLE = """
svg { width: 100%; height: auto; background: #8881; border-radius: 4px }
.own { fill: #0969da } .total { fill: none; stroke: #cf222e; stroke-width: 2 }
.axis { fill: currentColor; font: 11px system-ui } .grid { stroke: #8884 }
td:nth-child(2), th:nth-child(2) { text-align: left }
.values { fill: #0969da } .codes { fill: #1a7f3733; stroke: #1a7f37 }
figcaption { font-size: .8rem; overflow-wrap: anywhere }
"""


def page(made: Artifact, found: Analysis) -> str:
    """One page that needs nothing else: plots of both errors, the faults, and every layer."""
    title = f"{made.manifest.source} on {found.target}, layer by layer"
    head = [*HEAD, *(VENDOR if found.vendor else ())]
    parts = [
        f"<style>{MORE_STYLE}</style>",
        f"<h1>{escape(title)}</h1>",
        f"<p><b>First:</b> {escape(found.first)}</p>",
        *(f"<p>Also: {escape(m)}</p>" for m in _more(found)),
        *(f"<p>{escape(v)}</p>" for v in verdicts(found.verdicts)),
        "<h2>The plan</h2>",
        *(f"<p>{escape(line)}</p>" for line in found.how),
        *(
            [f"<p>{escape(RAISING)}</p>", html.table(RAISING_HEAD, _raising(found))]
            if found.raising
            else []
        ),
        "<h2>Layer by layer</h2>",
        f"<p>{found.images} images; the plan agrees {found.agreement:.1%} with the float "
        "network. Bars are what each layer keeps by itself, the line is what is left after all "
        "layers before it; higher is better.</p>",
        _plot(found.errors),
        html.table(head, [_row(e, found) for e in found.errors]),
        "<h2>Values and codes</h2>",
        "<p>How often each value is seen (the higher the more; steps of the height are powers of "
        "ten), and in green the range that has codes. Values outside are cut off; a range far "
        "wider than the values is coarse.</p>",
        '<div class="plots">',
        *(_values(e) for e in found.errors),
        "</div>",
    ]
    return html.document(title, parts)


def _plot(errors: Sequence[LayerError]) -> str:
    """SQNR in dB by layer: bars for own, a line for total."""
    width, height = PLOT
    left, bottom = 36, 18
    step = (width - left) / max(len(errors), 1)

    def y(value: float) -> float:
        return (height - bottom) * (1 - min(max(value, 0.0), TOP) / TOP)

    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="SQNR by layer">']
    for value in range(0, int(TOP) + 1, 20):
        parts.append(
            f'<line class="grid" x1="{left}" x2="{width}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
            f'<text class="axis" x="2" y="{y(value) + 4 if value < TOP else 11:.1f}">{value} dB'
            "</text>"
        )
    line = []
    for number, error in enumerate(errors):
        x, top = left + number * step, y(error.own.sqnr_db)
        name = f"{error.node}: own {_decibels(error.own.sqnr_db)} dB, total "
        name += f"{_decibels(error.total.sqnr_db)} dB"
        parts.append(
            f'<rect class="own" x="{x:.1f}" y="{top:.1f}" width="{max(step - 1, 0.5):.1f}" '
            f'height="{height - bottom - top:.1f}"><title>{escape(name)}</title></rect>'
        )
        line.append(f"{x + step / 2:.1f},{y(error.total.sqnr_db):.1f}")
    parts.append(f'<polyline class="total" points="{" ".join(line)}"/></svg>')
    return "".join(parts)


def _values(error: LayerError) -> str:
    """A histogram of a tensor's values, with the range of its codes drawn behind."""
    width, height = SMALL
    ends, parts = _bars(error)
    tall = np.clip(1 - np.log(np.maximum(parts, RARE)) / np.log(RARE), 0, 1) * (height - 8)
    step = width / BARS
    bars = "".join(
        f"M{i * step:.1f} {height}v-{v:.1f}h{step * 0.9:.1f}v{v:.1f}z"
        for i, v in enumerate(tall)
        if v > 0
    )
    x = [(v - ends[0]) / max(ends[1] - ends[0], 1e-12) * width
         for v in (error.code_low, error.code_high)]  # fmt: skip
    codes = f"M{x[0]:.1f} 0V{height}H{x[1]:.1f}V0z"
    said = (
        f"values {error.low:.4g} to {error.high:.4g}, codes {error.code_low:.4g} to "
        f"{error.code_high:.4g}; {_stuck(error):.1%} at the ends"
    )
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(said)}">'
        f'<path class="codes" d="{codes}"/><path class="values" d="{bars}"/></svg>'
        f"<figcaption>{escape(error.node)}: {said}</figcaption></figure>"
    )
