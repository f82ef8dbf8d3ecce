"""A run as a picture: SVG, written by hand, readable on light and dark pages."""

import math
from collections.abc import Mapping
from html import escape
from typing import Any, Final

from benchmarks.rounds import DIRECT, PROXY, RELAY_AGAIN

WIDTH: Final = 860
_LABELS: Final = 150
_FIGURES: Final = 80
_LINE: Final = 15
_GAP: Final = 34
_TOP: Final = 64

_COLOURS: Final = {
    PROXY: "#d9480f",
    "nginx": "#2b8a3e",
    "haproxy": "#5c940d",
    "vllm-router": "#1864ab",
    "vllm-router round-robin": "#4dabf7",
    "smg": "#5f3dc4",
    "relay": "#868e96",
    "litellm": "#a61e4d",
    "portkey": "#0b7285",
}
_OTHER_COLOUR: Final = "#495057"


def svg(found: Mapping[str, Any], title: str) -> str:
    """
    Return a chart of the CPU-microseconds of every program in every case of a run.

    A dot is the median over the rounds, the bar through it has the middle half of the rounds. The axis is logarithmic
    and the same for all cases.
    """
    groups = [(_heading(name, case), _rows(case)) for name, case in found["cases"].items()]
    axis = _Axis([value for _, rows in groups for _, _, *values in rows for value in values])
    height = _TOP + sum(_GAP + _LINE * (len(rows) - 1) for _, rows in groups) + 10
    where = found["machine"]
    subtitle = (
        f"dot: median of {found['rounds']} rounds; bar: middle half; {where['processor']}, {where.get('date', '')}"
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        'font-size="11" fill="#212529">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="22" font-size="15" font-weight="bold">{escape(title)}</text>',
        f'<text x="12" y="40" fill="#495057">{escape(subtitle)}</text>',
        *axis.lines(height),
    ]
    y = _TOP
    for heading, rows in groups:
        y += _GAP - _LINE
        parts.append(f'<text x="12" y="{y}" font-weight="bold">{escape(heading)}</text>')
        for row in rows:
            y += _LINE
            parts += _drawn(row, y, axis)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _heading(name: str, case: Mapping[str, Any]) -> str:
    failed = [program for program in case["lost"] if program not in case["programs"]]
    return f"{name}, per {case['unit']}" + (f" ({', '.join(failed)}: fails)" if failed else "")


#: A program, its median, and the ends of the middle half.
Row = tuple[str, float, float, float]


def _rows(case: Mapping[str, Any]) -> list[Row]:
    """Return the programs of a case, the cheapest first."""
    rows = [
        (name, figures["cpu_us"], *figures["cpu_us_quartiles"])
        for name, figures in case["programs"].items()
        if name not in (DIRECT, RELAY_AGAIN)
    ]
    return sorted(rows, key=lambda row: row[1])


class _Axis:
    """A logarithmic axis that holds all values."""

    def __init__(self, values: list[float]) -> None:
        present = [value for value in values if value > 0] or [1.0]
        self._low = math.floor(math.log10(min(present)))
        self._high = max(math.ceil(math.log10(max(present))), self._low + 1)

    def x(self, value: float) -> float:
        share = (math.log10(max(value, 10.0**self._low)) - self._low) / (self._high - self._low)
        return round(_LABELS + share * (WIDTH - _LABELS - _FIGURES), 1)

    def lines(self, height: int) -> list[str]:
        parts = []
        for power in range(self._low, self._high + 1):
            x = self.x(10.0**power)
            parts.append(f'<line x1="{x}" y1="{_TOP}" x2="{x}" y2="{height}" stroke="#e9ecef"/>')
            parts.append(f'<text x="{x}" y="{_TOP - 4}" text-anchor="middle" fill="#868e96">{10**power:,g} µs</text>')
        return parts


def _drawn(row: Row, y: int, axis: _Axis) -> list[str]:
    name, value, low, high = row
    colour, weight = _COLOURS.get(name, _OTHER_COLOUR), ' font-weight="bold"' if name == PROXY else ""
    middle, figure = y - 4, f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
    return [
        f'<text x="{_LABELS - 12}" y="{y}" text-anchor="end" fill="{colour}"{weight}>{escape(name)}</text>',
        f'<line x1="{axis.x(low)}" y1="{middle}" x2="{axis.x(high)}" y2="{middle}" stroke="{colour}" '
        'stroke-width="3" stroke-linecap="round" opacity="0.45"/>',
        f'<circle cx="{axis.x(value)}" cy="{middle}" r="4" fill="{colour}"/>',
        f'<text x="{WIDTH - 12}" y="{y}" text-anchor="end" fill="{colour}"{weight}>{figure}</text>',
    ]
