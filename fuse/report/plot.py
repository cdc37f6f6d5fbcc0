"""Plots as SVG that reads well in light and dark: lines and text in the page's colour, series in the page's variables.

Every plot has a title and a description for those who do not see it. Coordinates given to a `Plot` are data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

COLOURS = tuple(f"var(--s{i})" for i in range(1, 7))
DASHES = ("", "6 3", "2 3", "8 3 2 3")


def svg(width: float, height: float, title: str, description: str, body: Sequence[str]) -> str:
    """A drawing with its text alternative."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" style="--w:{width:g}px" aria-label="{escape(f"{title}. {description}")}">'
        f"<title>{escape(title)}</title><desc>{escape(description)}</desc>{''.join(body)}</svg>"
    )


def text(x: float, y: float, words: str, anchor: str = "start", extra: str = "") -> str:
    """Words at a place of the drawing, not of the data."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {extra}>{escape(words)}</text>'


def rule(x1: float, y1: float, x2: float, y2: float, kind: str = "axis") -> str:
    """A straight line of the drawing."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def ticks(low: float, high: float, count: int = 5, whole: bool = False) -> list[float]:
    """Round numbers from about `low` to about `high`."""
    from matplotlib.ticker import MaxNLocator

    found = MaxNLocator(count, integer=whole, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    margin = 1e-9 * max(abs(low), abs(high), 1e-12)
    return [float(t) for t in found if low - margin <= t <= high + margin]


def spread(values: Sequence[float], margin: float = 0.06) -> tuple[float, float]:
    """A range in which all finite values lie, never empty."""
    finite = [v for v in values if math.isfinite(v)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    room = (high - low) * margin or max(abs(low) * 0.01, 1e-3)
    return low - room, high + room


class Plot:
    """Axes to draw in.

    Args:
        title, description: the text alternative.
        x, y: the ranges of the data.
        x_label, y_label: what the axes are.
        width, height: of the drawing, pixels.
        left, bottom, top, right: margins, pixels.
        rows: names of rows instead of a vertical scale; row i is at y = i, from the top.
        whole: the horizontal scale counts.
    """

    def __init__(
        self,
        title: str,
        description: str,
        x: tuple[float, float],
        y: tuple[float, float],
        x_label: str,
        y_label: str = "",
        width: float = 430,
        height: float = 290,
        left: float = 64,
        bottom: float = 44,
        top: float = 14,
        right: float = 14,
        rows: Sequence[str] | None = None,
        whole: bool = False,
    ) -> None:
        self.title, self.description = title, description
        self.x, self.y = x, (len(rows) - 0.5, -0.5) if rows is not None else y
        self.width, self.height = width, height
        self.left, self.right, self.top, self.base = left, width - right, top, height - bottom
        self.body: list[str] = []
        for tick in ticks(*x, whole=whole):
            at = self.px(tick)
            self.body += [rule(at, top, at, self.base, "grid"), text(at, self.base + 16, f"{tick:g}", "middle")]
        if rows is None:
            for tick in ticks(*y):
                at = self.py(tick)
                self.body += [rule(left, at, self.right, at, "grid"), text(left - 7, at + 4, f"{tick:g}", "end")]
        for row, name in enumerate(rows or ()):
            self.body.append(text(left - 8, self.py(row) + 4, shortened(name, int(left / 6.4)), "end"))
        self.body.append(rule(left, self.base, self.right, self.base))
        self.body.append(rule(left, top, left, self.base))
        self.body.append(text((left + self.right) / 2, height - 8, x_label, "middle", 'class="soft"'))
        if y_label:
            middle = (top + self.base) / 2
            turned = f'class="soft" transform="rotate(-90 13 {middle:.1f})"'
            self.body.append(text(13, middle, y_label, "middle", turned))

    def px(self, x: float) -> float:
        """Where x is drawn."""
        return self.left + (x - self.x[0]) / (self.x[1] - self.x[0]) * (self.right - self.left)

    def py(self, y: float) -> float:
        """Where y is drawn."""
        return self.base - (y - self.y[0]) / (self.y[1] - self.y[0]) * (self.base - self.top)

    def line(self, xs: Sequence[float], ys: Sequence[float], colour: str, dash: str = "", width: float = 1.8) -> None:
        """Through points, broken where one is not finite."""
        pieces: list[list[str]] = [[]]
        for x, y in zip(xs, ys, strict=True):
            if math.isfinite(x) and math.isfinite(y):
                pieces[-1].append(f"{self.px(x):.1f},{self.py(y):.1f}")
            elif pieces[-1]:
                pieces.append([])
        for piece in pieces:
            if piece:
                self.body.append(
                    f'<polyline points="{" ".join(piece)}" style="stroke:{colour}" fill="none" '
                    f'stroke-width="{width:g}" stroke-linejoin="round" stroke-dasharray="{dash}"/>'
                )

    def dots(
        self, xs: Sequence[float], ys: Sequence[float], colour: str, radius: float = 3, opacity: float = 1
    ) -> None:
        """Points."""
        self.body += [
            f'<circle cx="{self.px(x):.1f}" cy="{self.py(y):.1f}" r="{radius:g}" style="fill:{colour}" '
            f'fill-opacity="{opacity:g}"/>'
            for x, y in zip(xs, ys, strict=True)
        ]

    def bar(self, x1: float, y1: float, x2: float, y2: float, colour: str, opacity: float = 0.35) -> None:
        """A filled rectangle between two corners."""
        left, right = sorted((self.px(x1), self.px(x2)))
        top, base = sorted((self.py(y1), self.py(y2)))
        self.body.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{base - top:.1f}" '
            f'style="fill:{colour};stroke:{colour}" fill-opacity="{opacity:g}"/>'
        )

    def straight(self, x1: float, y1: float, x2: float, y2: float) -> None:
        """A dashed line of reference."""
        self.body.append(rule(self.px(x1), self.py(y1), self.px(x2), self.py(y2), "zero"))

    def legend(self, entries: Sequence[tuple[str, str, str]]) -> None:
        """Name, colour and dash of each series, above the axes, which need a top margin of 22 per row of them."""
        x, y = self.left, 14.0
        for name, colour, dash in entries:
            room = 34 + 6.6 * len(name)
            if x > self.left and x + room > self.width:
                x, y = self.left, y + 18
            self.body.append(
                f'<line x1="{x:.1f}" y1="{y - 4:.1f}" x2="{x + 20:.1f}" y2="{y - 4:.1f}" style="stroke:{colour}" '
                f'stroke-width="2.5" stroke-dasharray="{dash}"/>'
            )
            self.body.append(text(x + 25, y, name))
            x += room

    def svg(self) -> str:
        """The drawing."""
        return svg(self.width, self.height, self.title, self.description, self.body)


def shortened(words: str, most: int) -> str:
    """With the middle left out where it is longer than `most` characters."""
    if len(words) <= most:
        return words
    half = max((most - 1) // 2, 1)
    return f"{words[:half]}…{words[-half:]}"
