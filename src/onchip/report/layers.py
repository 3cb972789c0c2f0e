"""An analysis layer by layer, as text, as JSON-ready data, and as one HTML page with plots."""

from collections.abc import Sequence
from html import escape

from onchip.analyze import Analysis
from onchip.artifact import Artifact
from onchip.measure.layers import NO_NOISE, LayerError
from onchip.report import document as html
from onchip.report.text import table, verdicts

WORST = 12  # layers in the text
HEAD = ("layer", "op", "own cos", "own dB", "total cos", "total dB", "cut off", "outlier")
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
    return "\n".join(lines)


def _more(found: Analysis) -> list[str]:
    lines = [c.message for c in found.causes]
    lines += [
        f"{f.node}: {f.message} (repaired: heads {f.win_db:+.1f} dB, agreement {f.win:+.1%})"
        for f in found.faults
    ]
    return lines[1:]


def _row(error: LayerError, found: Analysis) -> list[str]:
    cells = [
        error.node,
        error.op,
        f"{error.own.cosine:.5f}",
        _decibels(error.own.sqnr_db),
        f"{error.total.cosine:.5f}",
        _decibels(error.total.sqnr_db),
        f"{error.saturated:.1%}" if error.saturated >= 0.0005 else "",
        f"{error.outlier:.1f}" if error.outlier > 1 else "",
    ]
    if found.vendor:
        theirs = found.vendor.get(error.tensor)
        cells += [f"{theirs.own_cosine:.5f}", f"{theirs.total_cosine:.5f}"] if theirs else ["", ""]
    return cells


def _decibels(value: float) -> str:
    return "exact" if value >= NO_NOISE else f"{value:.1f}"


def data(found: Analysis) -> dict[str, object]:
    """Everything, with stable keys."""
    return {
        "target": found.target,
        "images": found.images,
        "agreement": round(found.agreement, 5),
        "first": found.first,
        "causes": [{"code": c.code, "message": c.message} for c in found.causes],
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
        "saturated": round(error.saturated, 6),
        "dead_channels": list(error.dead),
        "shift_steps": round(error.shift, 3),
        "weight_db": round(error.weight_db, 2),
        "weight_outlier": round(error.outlier, 2),
        "vendor": None
        if theirs is None
        else {
            "own": {"cosine": theirs.own_cosine, "distance": theirs.own_distance},
            "total": {"cosine": theirs.total_cosine, "distance": theirs.total_distance},
        },
    }


def _error(cosine: float, distance: float, decibels: float) -> dict[str, float]:
    return {
        "cosine": round(cosine, 6),
        "distance": round(distance, 4),
        "sqnr_db": round(decibels, 2),
    }


PLOT = (960, 240)  # pixels
TOP = 60.0  # dB at the upper end of the plot
MORE_STYLE = """
svg { width: 100%; height: auto; background: #8881; border-radius: 4px }
.own { fill: #0969da } .total { fill: none; stroke: #cf222e; stroke-width: 2 }
.axis { fill: currentColor; font: 11px system-ui } .grid { stroke: #8884 }
td:nth-child(2), th:nth-child(2) { text-align: left }
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
        f"<p>{found.images} images; the plan agrees {found.agreement:.1%} with the float "
        "network. Bars are what each layer keeps by itself, the line is what is left after all "
        "layers before it; higher is better.</p>",
        _plot(found.errors),
        html.table(head, [_row(e, found) for e in found.errors]),
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
