"""Small plots as SVG text, readable on a light and on a dark page, without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

_COLOURS = ("#1f77b4", "#d95f02", "#2ca02c", "#9467bd", "#c2185b", "#7f7f7f")
# Mid tones stand out on both; text and lines follow the page's scheme.
_STYLE = """
  svg { font: 12px system-ui, sans-serif; color-scheme: light dark; }
  text { fill: #333; } .axis { stroke: #777; } .grid { stroke: #8884; } .limit { stroke: #d62728; }
  .title { font-size: 13px; font-weight: 600; } .small { font-size: 11px; }
  @media (prefers-color-scheme: dark) { text { fill: #ddd; } .axis { stroke: #999; } }
"""


@dataclass
class Panel:
    """One plot of a figure: bars, or lines over numbers.

    Attributes:
        title: What it shows.
        y: Name of the vertical axis.
        x: Name of the horizontal axis.
        log_x: Whether the horizontal axis is logarithmic.
        log_y: Whether the vertical axis is logarithmic.
        limit: A value to mark by a dashed line, for instance a threshold.
    """

    title: str
    y: str
    x: str = ""
    log_x: bool = False
    log_y: bool = False
    limit: float | None = None
    _bars: list[tuple[str, float, float]] = field(default_factory=list)
    _lines: list[tuple[str, list[tuple[float, float]]]] = field(default_factory=list)

    def bar(self, name: str, value: float, spread: float = 0.0) -> Panel:
        """Add a bar with an error of `spread` to either side; returns the panel."""
        self._bars.append((name, float(value), float(spread)))
        return self

    def line(self, name: str, points: Sequence[tuple[float, float]]) -> Panel:
        """Add a line through points (x, y); returns the panel."""
        self._lines.append((name, [(float(x), float(y)) for x, y in points]))
        return self

    def draw(self, left: float, top: float, width: float, height: float) -> list[str]:
        """The SVG elements of the panel inside a rectangle."""
        box = _Box(left + 56, top + 42, width - 72, height - 100)
        out = [_text(left + 8, top + 16, self.title, "title")]
        values = [v for _, value, spread in self._bars for v in (value - spread, value + spread)]
        values += [y for _, points in self._lines for _, y in points]
        values += [self.limit] if self.limit is not None else []
        scale = _Scale.of(values or [0.0, 1.0], self.log_y, zero=bool(self._bars))
        for tick in scale.ticks():
            at = box.top + box.height * (1 - scale(tick))
            out.append(_line(box.left, at, box.left + box.width, at, "grid"))
            out.append(_text(box.left - 6, at + 4, _short(tick), "small", "end"))
        out.append(_line(box.left, box.top, box.left, box.top + box.height, "axis"))
        out.append(_line(box.left, box.top + box.height, box.left + box.width, box.top + box.height, "axis"))
        out.append(_text(box.left - 48, box.top - 8, self.y, "small"))
        out += self._draw_bars(box, scale) + self._draw_lines(box, scale)
        if self.limit is not None:
            at = box.top + box.height * (1 - scale(self.limit))
            out.append(_line(box.left, at, box.left + box.width, at, "limit", ' stroke-dasharray="5 4"'))
        return out

    def _draw_bars(self, box: _Box, scale: _Scale) -> list[str]:
        out: list[str] = []
        step = box.width / max(len(self._bars), 1)
        floor = box.top + box.height
        for k, (name, value, spread) in enumerate(self._bars):
            middle = box.left + step * (k + 0.5)
            at = box.top + box.height * (1 - scale(value))
            out.append(
                f'<rect x="{middle - step * 0.32:.1f}" y="{at:.1f}" width="{step * 0.64:.1f}" '
                f'height="{max(floor - at, 0):.1f}" fill="{_COLOURS[0]}"/>'
            )
            if spread:
                ends = [box.top + box.height * (1 - scale(v)) for v in (value - spread, value + spread)]
                out.append(_line(middle, ends[0], middle, ends[1], "axis"))
            out.append(_text(middle, at - 4, _short(value), "small", "middle"))
            turn = f' transform="rotate(-24 {middle:.1f} {floor + 14:.1f})"'
            out.append(_text(middle, floor + 14, name, "small", "end", turn))
        return out

    def _draw_lines(self, box: _Box, scale: _Scale) -> list[str]:
        if not self._lines:
            return []
        across = _Scale.of([x for _, points in self._lines for x, _ in points], self.log_x)
        floor = box.top + box.height
        out = [_text(box.left + box.width, floor + 30, self.x, "small", "end")]
        for tick in across.ticks():
            out.append(
                _text(box.left + box.width * across(tick), floor + 15, _short(tick), "small", "middle")
            )
        for k, (name, points) in enumerate(self._lines):
            colour = _COLOURS[k % len(_COLOURS)]
            places = [
                (box.left + box.width * across(x), box.top + box.height * (1 - scale(y))) for x, y in points
            ]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
            out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
            at = box.left + (box.width / max(len(self._lines), 1)) * k
            out.append(f'<rect x="{at:.1f}" y="{floor + 38:.1f}" width="10" height="10" fill="{colour}"/>')
            out.append(_text(at + 14, floor + 47, name, "small"))
        return out


def figure(
    title: str, panels: Sequence[Panel], *, columns: int = 2, width: int = 460, height: int = 300
) -> str:
    """Lay panels out in a grid.

    Args:
        title: Accessible title of the figure.
        panels: The plots.
        columns: Plots in a row.
        width: Width of a plot in pixels.
        height: Height of a plot in pixels.

    Returns:
        A complete SVG document.
    """
    columns = max(1, min(columns, len(panels)))
    rows = -(-len(panels) // columns)
    body = [
        part
        for k, p in enumerate(panels)
        for part in p.draw(k % columns * width, k // columns * height, width, height)
    ]
    size = (
        f'viewBox="0 0 {columns * width} {rows * height}" width="{columns * width}" height="{rows * height}"'
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    return (
        "\n".join([head, f"<title>{escape(title)}</title>", f"<style>{_STYLE}</style>", *body, "</svg>"])
        + "\n"
    )


@dataclass(frozen=True)
class _Box:
    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    log: bool

    @classmethod
    def of(cls, values: Sequence[float], log: bool, zero: bool = False) -> _Scale:
        finite = [v for v in values if math.isfinite(v) and (v > 0 or not log)] or [1.0]
        low, high = min(finite), max(finite)
        if log:
            return cls(math.log10(low) - 0.1, math.log10(high) + 0.15, True)
        low, high = (min(low, 0.0), max(high, 0.0)) if zero else (low, high)
        room = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
        return cls(low if zero and low == 0 else low - room, high + room, False)

    def __call__(self, value: float) -> float:
        if self.log:
            value = math.log10(value) if value > 0 else self.low
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)

    def ticks(self) -> list[float]:
        if self.log:
            whole = range(math.ceil(self.low), math.floor(self.high) + 1)
            every = max(1, -(-len(whole) // 6))
            return [10.0**k for k in whole[::every]]
        rough = (self.high - self.low) / 6
        unit = 10 ** math.floor(math.log10(rough))
        step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= rough)
        first = math.ceil(self.low / step)
        return [step * k for k in range(first, math.floor(self.high / step) + 1)]


def _short(value: float) -> str:
    if value and (abs(value) >= 1e4 or abs(value) < 1e-3):
        return f"{value:.0e}".replace("e+0", "e").replace("e-0", "e-")
    if value == round(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}"{more}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str, more: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"{more}/>'
