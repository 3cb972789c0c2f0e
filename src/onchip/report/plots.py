"""Plots as SVG inside a page: they need nothing else, and follow the page's light or dark."""

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 480, 220
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 40
# Told apart by people with any kind of colour sight, on light and on dark.
INKS = ("#3b82c4", "#d97706", "#0f9d74", "#b5498f")
DASHES = ("", "6 3", "2 3", "8 3 2 3")


def lines(series: Mapping[str, Sequence[float]], below: str, first: int = 1) -> str:
    """Return curves over 1, 2, 3 …; values that are not finite leave a gap.

    Args:
        series: values by name, all of one length.
        below: what the numbers below count.
        first: the number of the first value.
    """
    count = max((len(v) for v in series.values()), default=0)
    known = [v for values in series.values() for v in values if math.isfinite(v)]
    if count < 2 or not known:
        return ""
    low, high = _bounds(known)
    parts = [_grid(low, high), _ticks_below(first, first + count - 1, below)]
    for place, (name, values) in enumerate(series.items()):
        ink, dash = INKS[place % len(INKS)], DASHES[place % len(DASHES)]
        path = _path(values, count, low, high)
        stroke = f'stroke="{ink}" stroke-width="2" stroke-dasharray="{dash}"'
        parts.append(f'<path d="{path}" fill="none" {stroke}/>')
        parts.append(_key(place, name, ink, dash))
    return _svg(parts, ", ".join(series))


def whiskers(rows: Mapping[str, tuple[float, float, float]], unit: str) -> str:
    """Return one line per name with a value and its interval: (value, low, high)."""
    if not rows:
        return ""
    low, high = _bounds([v for row in rows.values() for v in row])
    step, left = 26, 92
    height = step * len(rows) + 34

    def x(value: float) -> float:
        return left + (WIDTH - left - RIGHT) * (value - low) / (high - low)

    parts = []
    for value in _round_values(low, high):
        parts.append(_line(x(value), 4, x(value), height - 28, "#8884", 1))
        parts.append(_text(x(value), height - 14, f"{value:g}", "middle"))
    for place, (name, (value, least, most)) in enumerate(rows.items()):
        y = 16 + step * place
        parts.append(_text(left - 10, y + 4, name, "end"))
        parts.append(_line(x(least), y, x(most), y, INKS[0], 2))
        parts += [_line(x(v), y - 5, x(v), y + 5, INKS[0], 2) for v in (least, most)]
        parts.append(f'<circle cx="{x(value):.1f}" cy="{y}" r="4.5" fill="{INKS[0]}"/>')
    parts.append(_text(WIDTH - RIGHT, height - 1, unit, "end"))
    return _svg(parts, f"{unit} of {', '.join(rows)}", height)


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low == high:
        return low - 0.5, high + 0.5
    room = 0.05 * (high - low)
    return (0.0 if 0 <= low < 0.3 * high else low - room), high + room


def _round_values(low: float, high: float) -> list[float]:
    """About five round numbers between two."""
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step *= next((m for m in (1, 2, 5, 10) if (high - low) / (m * step) <= 6), 10)
    start = math.ceil(low / step)
    return [round(n * step, 10) for n in range(start, math.floor(high / step) + 1)]


def _y(value: float, low: float, high: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / (high - low))


def _path(values: Sequence[float], count: int, low: float, high: float) -> str:
    parts, pen = [], "M"
    for place, value in enumerate(values):
        if not math.isfinite(value):
            pen = "M"
            continue
        x = LEFT + (WIDTH - LEFT - RIGHT) * place / (count - 1)
        parts.append(f"{pen}{x:.1f} {_y(value, low, high):.1f}")
        pen = "L"
    return "".join(parts)


def _grid(low: float, high: float) -> str:
    parts = []
    for value in _round_values(low, high):
        y = _y(value, low, high)
        parts.append(_line(LEFT, y, WIDTH - RIGHT, y, "#8884", 1))
        parts.append(_text(LEFT - 6, y + 4, f"{value:g}", "end"))
    return "".join(parts)


def _ticks_below(first: int, last: int, name: str) -> str:
    parts = []
    for value in _round_values(first, last):
        if value == int(value):
            x = LEFT + (WIDTH - LEFT - RIGHT) * (value - first) / (last - first)
            parts.append(_text(x, HEIGHT - BOTTOM + 16, f"{value:g}", "middle"))
    return "".join(parts) + _text(WIDTH - RIGHT, HEIGHT - 6, name, "end")


def _key(place: int, name: str, ink: str, dash: str) -> str:
    x = LEFT + 108 * place
    line = (
        f'<line x1="{x}" y1="{HEIGHT - 10}" x2="{x + 18}" y2="{HEIGHT - 10}" stroke="{ink}" '
        f'stroke-width="2" stroke-dasharray="{dash}"/>'
    )
    return line + _text(x + 23, HEIGHT - 6, name, "start")


def _line(x1: float, y1: float, x2: float, y2: float, ink: str, width: float) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{ink}" '
        f'stroke-width="{width}"/>'
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="11" '
        f'fill="currentColor">{escape(text)}</text>'
    )


def _svg(parts: Sequence[str], name: str, height: int = HEIGHT) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(name)}">'
        f"{''.join(parts)}</svg>"
    )
