"""Drawings of what a model computes within an utterance: heat maps, bars, lines over time, graphs, points.

Each is a `Figure`: SVG in the page's own colours, with a description that says what is strongest in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from fuse.metrics import Array
from fuse.report.page import Figure
from fuse.report.plot import COLOURS, DASHES, Plot, shortened, spread, svg, text

SHADES = 16
MOST_CELLS = 60
"""Rows or columns of a heat map; more are averaged in groups of neighbours, and the caption says so."""
MOST_NUMBERED = 8
"""Rows or columns of a heat map whose numbers are written into it."""
MOST_NAMED = 34
"""Rows or columns of a heat map that all have their names."""
LINE = 13.0
"""Pixels of a line of text."""
LEAST_SPREAD = 0.05
"""Of the largest number, by which others must differ from it to be drawn from the least one on."""
MOST_EDGES = 40
LETTER = 6.4
"""Pixels of a letter, about."""
LOWEST, HIGHEST = "var(--s2)", "var(--s1)"


def heat(
    title: str,
    values: Array,
    rows: Sequence[str],
    columns: Sequence[str],
    caption: str,
    row_name: str = "",
    column_name: str = "",
    ends: tuple[float, float] | None = None,
) -> Figure:
    """A matrix (R, C), the fuller the colour the larger; below zero in another colour.

    Args:
        title: what it is.
        values: finite numbers.
        rows, columns: a name of each.
        caption: what the reader should know.
        row_name, column_name: what rows and columns are.
        ends: the least number, which has no colour unless it is below zero, and the one of full colour; None: of the
            matrix itself.
    """
    values, rows, group_rows = _grouped(np.asarray(values, np.float64), list(rows))
    turned, columns, group_columns = _grouped(values.T, list(columns))
    values = turned.T
    for count, what in ((group_rows, row_name or "rows"), (group_columns, column_name or "columns")):
        caption += f" Up to {count} neighbouring {what} are averaged." if count > 1 else ""
    low, high = ends or _ends(values)
    numbered = max(values.shape) <= MOST_NUMBERED
    full = 0.6 if numbered else 1.0
    tall_cell, wide_cell = (40.0 if numbered else _side(count) for count in values.shape)
    left = 14 + LETTER * min(18, max(map(len, rows), default=1)) + (16 if row_name else 0)
    tall = LETTER * min(16, max(map(len, columns), default=1)) * 0.87 + 12
    width, height = len(columns) * wide_cell, len(rows) * tall_cell
    top = tall + (16 if column_name else 0)
    body = [f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" class="frame"/>']
    for colour, share in (
        (HIGHEST, np.clip(values / max(high, 1e-12), 0, 1) if low < 0 else _share(values, low, high)),
        (LOWEST, np.clip(values / min(low, -1e-12), 0, 1)),
    ):
        body += _cells(share, left, top, wide_cell, tall_cell, colour, full)
    if numbered:
        body += [
            text(left + (c + 0.5) * wide_cell, top + (r + 0.5) * tall_cell + 4, f"{v:.2f}", "middle")
            for (r, c), v in np.ndenumerate(values)
        ]
    for i, name in enumerate(rows):
        if i % math.ceil(LINE / tall_cell) == 0:
            body.append(text(left - 5, top + (i + 0.5) * tall_cell + 4, shortened(name, 18), "end"))
    for i, name in enumerate(columns):
        if i % math.ceil(LINE / wide_cell) == 0:
            x, y = left + (i + 0.5) * wide_cell, top - 5
            body.append(text(x, y, shortened(name, 16), "start", f'transform="rotate(-60 {x:.1f} {y:.1f})"'))
    if column_name:
        body.append(text(left + width / 2, 12, column_name, "middle", 'class="soft"'))
    if row_name:
        middle = top + height / 2
        turn = f'class="soft" transform="rotate(-90 11 {middle:.1f})"'
        body.append(text(11, middle, row_name, "middle", turn))
    body += _scale(left, top + height + 10, low, high, full)
    total = max(left + width + 14 + tall * 0.6, left + 250)
    size = f"{len(rows)} {row_name or 'rows'} by {len(columns)} {column_name or 'columns'}"
    described = f"{size}. {_strongest(values, rows, columns)}"
    return Figure(svg(total, top + height + 30, title, described, body), f"{title}. {caption}")


def _ends(values: Array) -> tuple[float, float]:
    """The least and the largest number; 0 instead of the least where all are about the same, so that chance does not
    look like a pattern."""
    low, high = float(values.min()), float(values.max())
    if low < 0 or high - low >= LEAST_SPREAD * high:
        return low, max(high, 0.0)
    return 0.0, high


def _side(count: int) -> float:
    """Pixels of a cell's side, of `count` that lie beside one another: wide enough for each name where they are few."""
    return min(26.0, max(LINE if count <= MOST_NAMED else 5.0, 380 / count))


def _share(values: Array, low: float, high: float) -> Array:
    share: Array = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    return share


def _grouped(values: Array, names: list[str]) -> tuple[Array, list[str], int]:
    """Rows averaged in groups of neighbours where they are too many, the first one's name on each."""
    size = math.ceil(len(values) / MOST_CELLS)
    if size <= 1:
        return values, names, 1
    starts = range(0, len(values), size)
    return np.stack([values[s : s + size].mean(axis=0) for s in starts]), [names[s] for s in starts], size


def _cells(
    share: Array, left: float, top: float, wide: float, tall: float, colour: str, full: float = 1.0
) -> list[str]:
    """The cells of each shade as one path, by their share (R, C) of the strongest, whose opacity is `full`."""
    shades, paths = np.rint(share * SHADES).astype(int), []
    for shade in range(1, SHADES + 1):
        steps = "".join(
            f"M{left + c * wide:.1f} {top + r * tall:.1f}h{wide:.4g}v{tall:.4g}h{-wide:.4g}z"
            for r, c in np.argwhere(shades == shade).tolist()
        )
        if steps:
            paths.append(f'<path d="{steps}" style="fill:{colour}" fill-opacity="{full * shade / SHADES:.3g}"/>')
    return paths


def _scale(left: float, top: float, low: float, high: float, full: float = 1.0) -> list[str]:
    """What no colour and full colour mean."""
    found, x = [], left
    for end, colour in ([(low, LOWEST), (0.0, "none")] if low < 0 else [(low, "none")]) + [(high, HIGHEST)]:
        found.append(
            f'<rect x="{x:.1f}" y="{top:.1f}" width="12" height="12" class="frame" style="fill:{colour}" '
            f'fill-opacity="{full:g}"/>'
        )
        found.append(text(x + 17, top + 10, f"{end:.3g}"))
        x += 84
    return found


def _strongest(values: Array, rows: Sequence[str], columns: Sequence[str]) -> str:
    order = np.argsort(-np.abs(values), axis=None, kind="stable")[:4]
    places = [np.unravel_index(i, values.shape) for i in order]
    return "Strongest: " + "; ".join(f"{rows[r]} with {columns[c]} {values[r, c]:.3g}" for r, c in places) + "."


def over_time(
    title: str, series: Mapping[str, Array], times: Array, caption: str, x_label: str, y_label: str
) -> Figure:
    """A line for each series (T) over the same times (T)."""
    values = [float(v) for each in series.values() for v in each]
    described = "; ".join(f"{name} from {v[0]:.3g} to {v[-1]:.3g}, mean {v.mean():.3g}" for name, v in series.items())
    x = (float(times[0]), float(times[-1])) if len(times) > 1 else (float(times[0]) - 0.5, float(times[0]) + 0.5)
    rows = 1 + int(sum(34 + LETTER * len(name) for name in series) // 380)
    plot = Plot(title, f"{described}.", x, spread(values), x_label, y_label, top=10 + 18 * rows)
    entries = []
    for i, (name, each) in enumerate(series.items()):
        colour, dash = COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)]
        plot.line(times.tolist(), each.tolist(), colour, dash)
        if len(times) < 30:
            plot.dots(times.tolist(), each.tolist(), colour, 2.4)
        entries.append((name, colour, dash))
    plot.legend(entries)
    return Figure(plot.svg(), f"{title}. {caption}")


def bars(
    title: str, rows: Sequence[str], series: Mapping[str, Sequence[float | None]], caption: str, x_label: str
) -> Figure:
    """A bar per row and series, from zero; None: there is no number."""
    there = [v for each in series.values() for v in each if v is not None]
    described = "; ".join(
        f"{row} " + ", ".join(f"{name} {each[i]:.3g}" for name, each in series.items() if each[i] is not None)
        for i, row in enumerate(rows)
    )
    high = max([*there, 0.0]) * 1.04 or 1.0
    several = len(series) > 1
    left = 24 + LETTER * min(30, max(map(len, rows), default=1))
    height = 50 + len(rows) * (12 + 13 * len(series)) + (18 if several else 0)
    ends = (min([*there, 0.0]), high)
    plot = Plot(
        title, f"{described}.", ends, (0, 1), x_label, width=left + 330, height=height, left=left,
        top=28 if several else 10, rows=rows,
    )  # fmt: skip
    thick = 0.8 / len(series)
    for s, each in enumerate(series.values()):
        for row, value in enumerate(each):
            if value is not None:
                at = row - 0.4 + s * thick
                plot.bar(0, at, value, at + thick * 0.9, COLOURS[s % len(COLOURS)], 0.35 if s == 0 else 0.12)
    if several:
        plot.legend([(name, COLOURS[i % len(COLOURS)], "") for i, name in enumerate(series)])
    return Figure(plot.svg(), f"{title}. {caption}")


def graph(title: str, nodes: Sequence[str], weights: Array, caption: str) -> Figure:
    """Directed edges (from row to column) between nodes on a circle, the thicker the stronger; loops are left out."""
    count, radius = len(nodes), 150.0
    edges = np.array(weights, np.float64)
    np.fill_diagonal(edges, 0)
    order = [np.unravel_index(i, edges.shape) for i in np.argsort(-edges, axis=None, kind="stable")[:MOST_EDGES]]
    shown = [(int(a), int(b), float(edges[a, b])) for a, b in order if edges[a, b] > 0]
    room = 16 + LETTER * min(16, max(map(len, nodes), default=1))
    middle_x, middle_y = room + radius, radius + 26
    angles = [2 * math.pi * i / max(count, 1) - math.pi / 2 for i in range(count)]
    at = [(middle_x + radius * math.cos(a), middle_y + radius * math.sin(a)) for a in angles]
    body = []
    most = max((w for *_, w in shown), default=1.0)
    for a, b, weight in reversed(shown):
        body.append(_arrow(at[a], at[b], (middle_x, middle_y), weight / most))
    for (x, y), angle, name in zip(at, angles, nodes, strict=True):
        body.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" style="fill:{COLOURS[1]}"/>')
        outward = math.cos(angle)
        anchor = "middle" if abs(outward) < 0.25 else "start" if outward > 0 else "end"
        body.append(text(x + 9 * outward, y + 4 + 12 * math.sin(angle), shortened(name, 16), anchor))
    listed = "; ".join(f"{nodes[a]} reads {nodes[b]} {w:.3g}" for a, b, w in shown[:5])
    caption += (
        f" The {len(shown)} strongest of {count * (count - 1)} edges." if len(shown) < count * (count - 1) else ""
    )
    described = f"{count} nodes. Strongest edges: {listed or 'none'}."
    return Figure(svg(2 * middle_x, 2 * middle_y, title, described, body), f"{title}. {caption}")


def _arrow(start: tuple[float, float], end: tuple[float, float], middle: tuple[float, float], share: float) -> str:
    """A line bent towards the middle, with a head at its end."""
    bend = [(s + e) / 2 + 0.25 * (m - (s + e) / 2) for s, e, m in zip(start, end, middle, strict=True)]
    x, y = end[0] - bend[0], end[1] - bend[1]
    length = math.hypot(x, y) or 1.0
    x, y = x / length, y / length
    tip = (end[0] - 6 * x, end[1] - 6 * y)
    back = (tip[0] - 6 * x, tip[1] - 6 * y)
    opacity = 0.2 + 0.7 * share
    return (
        f'<path d="M{start[0]:.1f} {start[1]:.1f}Q{bend[0]:.1f} {bend[1]:.1f} {back[0]:.1f} {back[1]:.1f}" fill="none" '
        f'style="stroke:{COLOURS[0]}" stroke-width="{0.6 + 2.6 * share:.2f}" stroke-opacity="{opacity:.2f}"/>'
        f'<path d="M{tip[0]:.1f} {tip[1]:.1f}L{back[0] - 3 * y:.1f} {back[1] + 3 * x:.1f}'
        f'L{back[0] + 3 * y:.1f} {back[1] - 3 * x:.1f}z" style="fill:{COLOURS[0]}" fill-opacity="{opacity:.2f}"/>'
    )


def points(title: str, groups: Mapping[str, Array], caption: str, described: str) -> Figure:
    """Points (n, 2) of each group in its own colour and shape; the axes have no unit."""
    every = np.concatenate(list(groups.values()))
    (left, right), (low, high) = spread(every[:, 0].tolist()), spread(every[:, 1].tolist())
    width, height, top = 400.0, 330.0, 26.0
    body = [f'<rect x="8" y="{top}" width="{width - 16}" height="{height - top - 8}" class="frame"/>']
    x_of = 16 + (every[:, 0] - left) / (right - left) * (width - 32)
    y_of = height - 16 - (every[:, 1] - low) / (high - low) * (height - top - 24)
    begin, x = 0, 12.0
    for i, (name, own) in enumerate(groups.items()):
        colour = f'style="fill:{COLOURS[i % len(COLOURS)]}"'
        for a, b in zip(x_of[begin : begin + len(own)], y_of[begin : begin + len(own)], strict=True):
            body.append(_mark(i, float(a), float(b), colour))
        begin += len(own)
        body += [_mark(i, x, 12, colour), text(x + 9, 16, name)]
        x += 28 + LETTER * len(name)
    return Figure(svg(width, height, title, described, body), f"{title}. {caption}")


def _mark(kind: int, x: float, y: float, colour: str) -> str:
    if kind % 3 == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2" {colour} fill-opacity="0.65"/>'
    if kind % 3 == 1:
        return f'<path d="M{x - 3:.1f} {y - 3:.1f}h6v6h-6z" {colour} fill-opacity="0.65"/>'
    return f'<path d="M{x:.1f} {y - 4:.1f}l4 7h-8z" {colour} fill-opacity="0.65"/>'


def grids(title: str, frames: Sequence[tuple[str, Array]], caption: str) -> Figure:
    """Square pictures side by side, each of numbers (g, g) under its name, all on one scale."""
    side, gap = 104.0, 14.0
    low, high = min(float(g.min()) for _, g in frames), max(float(g.max()) for _, g in frames)
    body, described = [], []
    for i, (name, grid) in enumerate(frames):
        left, cell = 8 + i * (side + gap), side / len(grid)
        body.append(f'<rect x="{left:.1f}" y="24" width="{side:g}" height="{side:g}" class="frame"/>')
        body += _cells(_share(grid, low, high), left, 24, cell, cell, HIGHEST)
        body.append(text(left, 17, name))
        row, column = np.unravel_index(int(grid.argmax()), grid.shape)
        described.append(f"{name}: most at row {row + 1}, column {column + 1} of {len(grid)}")
    body += _scale(8, side + 34, low, high)
    width = max(16 + len(frames) * (side + gap), 250)
    return Figure(svg(width, side + 54, title, "; ".join(described) + ".", body), f"{title}. {caption}")
