"""The front as an SVG picture: for the report, where the page's colours apply, and alone, with its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_STYLE = """
:root{--ink:#1c2024;--muted:#636a74;--line:#dfe2e6;--fp32:#1f6fb2;--int8:#c2571a;--good:#2f855a;--panel:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e8eaed;--muted:#9aa3af;--line:#343a42;--fp32:#6fb3ec;
--int8:#f09a58;--good:#68c99a;--panel:#16191d}}
"""
#: Rules shared with the report's style sheet.
RULES = """
.chart text{font:12px system-ui,-apple-system,"Segoe UI",sans-serif;fill:var(--muted)}
.chart .name{fill:var(--ink);font-weight:600;
paint-order:stroke;stroke:var(--panel);stroke-width:5px;stroke-linejoin:round}
.chart .grid{stroke:var(--line);stroke-width:1}
.chart .base{stroke:var(--muted);stroke-width:1}
.chart .path{fill:none;stroke:var(--muted);stroke-width:1.5;stroke-opacity:.55}
.chart .limit{stroke:var(--good);stroke-width:1.5;stroke-dasharray:5 4}
.chart .within{fill:var(--good);fill-opacity:.07}
.chart .within-text{fill:var(--good)}
.chart .fp32{fill:var(--fp32);stroke:var(--panel);stroke-width:1.5}
.chart .int8{fill:var(--int8);stroke:var(--panel);stroke-width:1.5}
.chart .dense{fill:var(--panel);stroke-width:2.5}
.chart .dense.fp32{stroke:var(--fp32)}
.chart .dense.int8{stroke:var(--int8)}
.chart .faint{fill-opacity:.22;stroke:none}
.chart .alike{fill-opacity:.5}
.chart .ring{fill:none;stroke:var(--ink);stroke-width:1.5}
"""


@dataclass(frozen=True)
class Point:
    """A network in the picture.

    Args:
        x: Its cost.
        accuracy: In 0..1.
        kind: ``"fp32"`` or ``"int8"``.
        role: ``"front"``, ``"dense"`` or ``"tried"``.
        label: What it says where it is read aloud, or hovered.
        index: Number by which the report knows it, or None.
        recommended: Whether it is the one to take.
        name: Text beside it, or empty.
        alike: Whether a cheaper network on the front may be as accurate.
    """

    x: float
    accuracy: float
    kind: str
    role: str
    label: str
    index: int | None = None
    recommended: bool = False
    name: str = ""
    alike: bool = False


def scatter(
    points: Sequence[Point],
    *,
    x_title: str,
    y_title: str,
    x_limit: float | None = None,
    y_limit: float | None = None,
    width: int = 920,
    height: int = 440,
    alone: bool = False,
) -> str:
    """Draw cost against accuracy.

    Args:
        points: The networks.
        x_title: Name and unit of the cost.
        y_title: Name of the quality.
        x_limit: Largest cost that the budget allows.
        y_limit: Least accuracy that the budget allows.
        width: In pixels.
        height: In pixels.
        alone: Whether the picture brings its own colours.

    Returns:
        An ``<svg>`` element.
    """
    plot = _Plot(points, x_limit, y_limit, width, height)
    head = (
        f'<svg class="chart" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(y_title)} against {escape(x_title)}">'
    )
    parts = [head]
    if alone:
        parts.append(f"<style>{_STYLE}{RULES}</style>")
        parts.append(f'<rect width="{width}" height="{height}" rx="8" fill="var(--panel)"/>')
    parts += plot.budget() + plot.grid(x_title, y_title) + plot.path() + plot.marks() + plot.legend()
    return "".join([*parts, "</svg>"])


class _Plot:
    """Scales, and the pieces of the picture."""

    def __init__(
        self,
        points: Sequence[Point],
        x_limit: float | None,
        y_limit: float | None,
        width: int,
        height: int,
    ) -> None:
        self.points, self.x_limit, self.y_limit = points, x_limit, y_limit
        self.narrow = width < 560
        self.left, self.right, self.bottom = 58, width - 18, height - 46
        self.top = 60 if self.narrow else 40
        shown = [p for p in points if p.role != "tried"] or list(points)
        self.x_max = 1.06 * max([p.x for p in shown] + ([x_limit] if x_limit else []), default=1.0) or 1.0
        errors = [max(1 - p.accuracy, 1e-4) for p in shown] + ([1 - y_limit] if y_limit is not None else [])
        errors = [e for e in errors if e > 0] or [0.1]
        best, worst = min(errors), max(errors)
        self.log = worst / best > 5
        if self.log:
            self.low, self.high = best / 1.25, min(1.0, worst * 1.2)
        else:
            pad = max((worst - best) * 0.12, 0.002)
            self.low, self.high = max(0.0, best - pad), min(1.0, worst + pad)

    def x(self, value: float) -> float:
        share = min(max(value / self.x_max, 0.0), 1.0)
        return round(self.left + share * (self.right - self.left), 1)

    def y(self, accuracy: float) -> float:
        error = min(max(1 - accuracy, self.low), self.high)
        if self.log:
            share = math.log(error / self.low) / math.log(self.high / self.low)
        else:
            share = (error - self.low) / (self.high - self.low)
        return round(self.top + share * (self.bottom - self.top), 1)

    def inside(self, point: Point) -> bool:
        return point.x <= self.x_max and self.low <= max(1 - point.accuracy, 1e-4) <= self.high

    def grid(self, x_title: str, y_title: str) -> list[str]:
        parts = []
        for accuracy in self._accuracies():
            y = self.y(accuracy)
            parts.append(f'<line class="grid" x1="{self.left}" x2="{self.right}" y1="{y}" y2="{y}"/>')
            parts.append(
                f'<text x="{self.left - 8}" y="{y + 4}" text-anchor="end">{_percent(accuracy)}</text>'
            )
        step = nice(self.x_max / (4 if self.narrow else 7))
        for i in range(int(self.x_max / step) + 1):
            x = self.x(i * step)
            parts.append(f'<text x="{x}" y="{self.bottom + 18}" text-anchor="middle">{i * step:g}</text>')
        parts.append(
            f'<line class="base" x1="{self.left}" x2="{self.right}" y1="{self.bottom}" y2="{self.bottom}"/>'
        )
        middle = (self.left + self.right) / 2
        parts.append(
            f'<text x="{middle}" y="{self.bottom + 38}" text-anchor="middle">{escape(x_title)}</text>'
        )
        parts.append(f'<text x="12" y="20">{escape(y_title)}</text>')
        return parts

    def _accuracies(self) -> list[float]:
        if not self.log:
            step = nice((self.high - self.low) / 5)
            first = math.ceil((1 - self.high) / step - 1e-9)
            last = math.floor((1 - self.low) / step + 1e-9)
            return [round(i * step, 6) for i in range(first, last + 1)]
        candidates = [1 - m * 10.0**-e for e in range(6) for m in (5, 2, 1)] + [0.0, 0.3, 0.7]
        inside = sorted({round(a, 9) for a in candidates if self.low <= 1 - a <= self.high})
        kept: list[float] = []
        for accuracy in reversed(inside):
            if not kept or self.y(accuracy) - self.y(kept[-1]) >= 24:
                kept.append(accuracy)
        return kept

    def budget(self) -> list[str]:
        if self.x_limit is None and self.y_limit is None:
            return []
        right = self.x(self.x_limit) if self.x_limit is not None else self.right
        low = self.y(self.y_limit) if self.y_limit is not None else self.bottom
        box = f'width="{right - self.left}" height="{low - self.top}"'
        parts = [f'<rect class="within" x="{self.left}" y="{self.top}" {box}/>']
        if self.x_limit is not None:
            parts.append(
                f'<line class="limit" x1="{right}" x2="{right}" y1="{self.top}" y2="{self.bottom}"/>'
            )
        if self.y_limit is not None:
            parts.append(f'<line class="limit" x1="{self.left}" x2="{self.right}" y1="{low}" y2="{low}"/>')
        parts.append(
            f'<text class="within-text" x="{self.left + 8}" y="{self.top + 16}">within budget</text>'
        )
        return parts

    def path(self) -> list[str]:
        """A staircase through the front: what is the best accuracy up to each cost."""
        front = sorted((p for p in self.points if p.role == "front"), key=lambda p: (p.x, -p.accuracy))
        best: list[Point] = []
        for point in front:
            if not best or point.accuracy > best[-1].accuracy:
                best.append(point)
        if len(best) < 2:
            return []
        text = f"M{self.x(best[0].x)} {self.y(best[0].accuracy)}"
        for point in best[1:]:
            text += f"H{self.x(point.x)}V{self.y(point.accuracy)}"
        return [f'<path class="path" d="{text}"/>']

    def marks(self) -> list[str]:
        order = {"tried": 0, "dense": 1, "front": 2}
        return [self._mark(p) for p in sorted(self.points, key=lambda p: (order[p.role], p.recommended))]

    def _mark(self, point: Point) -> str:
        if point.role == "tried" and not self.inside(point):
            return ""
        x, y = self.x(point.x), self.y(point.accuracy)
        kind = (
            point.kind + {"dense": " dense", "tried": " faint", "front": " alike" * point.alike}[point.role]
        )
        shape = _shape(kind, x, y, 4.0 if point.role == "tried" else 6.5)
        ring = f'<circle class="ring" cx="{x}" cy="{y}" r="13"/>' if point.recommended else ""
        text = ""
        if point.name:
            end = x > (self.left + self.right) * 0.6
            at = f'x="{x + (-17 if end else 17)}" y="{y + (22 if y < self.top + 30 else -8)}"'
            anchor = "end" if end else "start"
            text = f'<text class="name" {at} text-anchor="{anchor}">{escape(point.name)}</text>'
        if point.index is None:
            return f"<g><title>{escape(point.label)}</title>{shape}{ring}{text}</g>"
        return (
            f'<g class="pt" tabindex="0" role="img" data-i="{point.index}" '
            f'aria-label="{escape(point.label)}">{ring}{shape}{text}'
            f'<circle cx="{x}" cy="{y}" r="14" fill="transparent"/></g>'
        )

    def legend(self) -> list[str]:
        items = [("fp32", "fp32"), ("int8", "int8"), ("fp32 dense", "dense"), ("fp32 faint", "tried")]
        present = {p.kind for p in self.points} | {p.role for p in self.points}
        if any(p.alike and p.role == "front" for p in self.points):
            items.append(("fp32 alike", "≈ cheaper"))
            present.add("≈ cheaper")
        items = [i for i in items if i[1] in present]
        room = {text: max(62, 22 + 7 * len(text)) for _, text in items}
        x, y = (18, 38) if self.narrow else (self.right - sum(room.values()) + 6, 16)
        parts = []
        for kind, text in items:
            parts.append(_shape(kind, x, y, 5.0))
            parts.append(f'<text x="{x + 11}" y="{y + 4}">{text}</text>')
            x += room[text]
        return parts


def _shape(kind: str, x: float, y: float, size: float) -> str:
    """A circle for floating point, a diamond for integers: not by colour alone."""
    if not kind.startswith("int8"):
        return f'<circle class="{kind}" cx="{x}" cy="{y}" r="{size + 0.5}"/>'
    box = f'x="{x - size}" y="{y - size}" width="{2 * size}" height="{2 * size}" rx="1.5"'
    return f'<rect class="{kind}" {box} transform="rotate(45 {x} {y})"/>'


def nice(value: float) -> float:
    """The least of 1, 2 and 5 times a power of ten that is not below a positive value."""
    power = 10.0 ** math.floor(math.log10(value))
    return next((m * power for m in (1, 2, 5) if m * power >= value * (1 - 1e-9)), 10 * power)


def _percent(accuracy: float) -> str:
    return f"{accuracy * 100:.6g}%"
