"""What a run says of each class, which classes it takes for which, and whether its probabilities can be believed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fuse import metrics
from fuse.metrics import Array
from fuse.report.calibration import BINS, brier, certainty, reliability
from fuse.report.evidence import Evidence
from fuse.report.headline import plain, spread_of
from fuse.report.page import Block, Figure, Folded, Section, Side, Text
from fuse.report.plot import COLOURS, Plot, shortened, svg, text
from fuse.report.tables import Table

MOST = 20
"""More classes than these are a table alone, not a drawing."""


def per_class(runs: Sequence[Evidence]) -> Section | None:
    """Precision, recall and F1 of each class as means over the seeds, and the confusion matrix of their sum."""
    blocks: list[Block] = []
    for number, e in enumerate(runs, start=1):
        if e.target.kind == "regression":
            continue
        blocks.append(Text(e.name, "h3"))
        blocks.append(_table(e, number))
        if e.target.kind == "classification":
            blocks += _confusion(e, number)
        else:
            blocks.append(Text(f"Each label of {e.target.name} is judged by itself: there is no confusion matrix."))
    return Section("classes", "Classes", blocks) if blocks else None


def _each(e: Evidence, truth: Array, prediction: Array) -> dict[str, Array]:
    if e.target.kind == "multilabel":
        return metrics.per_label(truth, prediction)
    return metrics.per_class(metrics.confusion(truth, prediction, len(e.target.classes)))


def _table(e: Evidence, number: int) -> Table:
    each = [_each(e, e.truth, seen.prediction) for seen in e.seen.values()]
    names = [name for name in each[0] if name != "support"]
    rows = []
    for i, label in enumerate(e.target.classes):
        summaries = [metrics.summary([float(found[name][i]) for found in each]) for name in names]
        rows.append([label, str(int(each[0]["support"][i])), *(_short(s) for s in summaries)])
    caption = f"{e.name}: per class on test, mean ± standard deviation over the seeds"
    return Table(f"classes-{number}", caption, ["class", "support", *names], rows)


def _short(summary: dict[str, float]) -> str:
    return f"{summary['mean']:.4f}" + ("" if summary["sd"] is None else f" ± {summary['sd']:.4f}")


def _confusion(e: Evidence, number: int) -> list[Block]:
    classes = e.target.classes
    table = sum(metrics.confusion(e.truth, s.prediction, len(classes)) for s in e.seen.values())
    assert isinstance(table, np.ndarray)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    rows = [
        [name, *(f"{n} ({share:.1%})" for n, share in zip(table[i].tolist(), shares[i], strict=True))]
        for i, name in enumerate(classes)
    ]
    caption = f"{e.name}: confusion matrix on test, sum over {len(e.seen)} seeds (share of the true class)"
    full = Table(f"confusion-{number}", caption, ["true \\ predicted", *classes], rows)
    if len(classes) > MOST:
        return [full]
    return [_heatmap(e, table, shares), Folded("The same as a table", [full])]


def _heatmap(e: Evidence, table: Array, shares: Array) -> Figure:
    classes, n = e.target.classes, len(e.target.classes)
    side = max(34.0, min(74.0, 560 / n))
    left, top = 120.0, 58.0
    body = [text(left + side * n / 2, 14, "predicted", "middle", 'class="soft"')]
    turned = f'class="soft" transform="rotate(-90 12 {top + side * n / 2:.1f})"'
    body.append(text(12, top + side * n / 2, "true", "middle", turned))
    room = max(int(side / 6.6), 4)
    for i, name in enumerate(classes):
        middle = side * (i + 0.5)
        body.append(text(left - 8, top + middle + 4, shortened(name, 15), "end"))
        body.append(text(left + middle, top - 8, shortened(name, room), "middle"))
        for j in range(n):
            x, y = left + side * j, top + side * i
            body.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{side - 2:.1f}" height="{side - 2:.1f}" '
                f'style="fill:var(--heat)" fill-opacity="{0.03 + 0.62 * shares[i, j]:.3f}"/>'
            )
            large = side >= 44
            middle_y = y + side / 2 + (-1 if large else 4)
            body.append(text(x + side / 2 - 1, middle_y, f"{100 * shares[i, j]:.0f}%", "middle"))
            if large:
                body.append(text(x + side / 2 - 1, middle_y + 15, str(table[i, j]), "middle", 'font-size="10.5"'))
    described = "; ".join(
        f"of {name}, " + ", ".join(f"{100 * shares[i, j]:.0f}% {other}" for j, other in enumerate(classes))
        for i, name in enumerate(classes)
    )
    drawn = svg(left + side * n + 10, top + side * n + 8, f"Confusion matrix of {e.name}", f"{described}.", body)
    return Figure(drawn, f"Rows are true classes and sum to 100%; counts are sums over {len(e.seen)} seeds.")


def calibration(runs: Sequence[Evidence]) -> Section | None:
    """Expected calibration error, Brier score and log loss, and a reliability diagram of each run."""
    rows, figures = [], []
    for e in runs:
        if e.target.kind == "regression":
            continue
        each = [reliability(*certainty(e.target, seen)) for seen in e.seen.values()]
        errors = metrics.summary([r.error for r in each])
        scores = metrics.summary([brier(e.target, seen) for seen in e.seen.values()])
        nll = metrics.summary(e.losses.mean(axis=1).tolist())
        rows.append([e.name, *(spread_of(s) for s in (errors, scores, nll))])
        figures.append(_diagram(e, errors["mean"]))
    if not rows:
        return None
    columns = ["run", f"ECE ({BINS} bins)", "Brier score", "log loss (nats)"]
    caption = "Calibration on test: mean ± standard deviation [95% interval] over the seeds; lower is better"
    several = any(e.target.kind == "multilabel" for e in runs)
    note = (
        "ECE after Guo et al. 2017: predictions in bins of equal width by the probability of the predicted class; the "
        "weighted mean of the distances between how sure and how often right they are. Per seed, then summarised; the "
        "diagrams pool the seeds."
    )
    if several:
        note += " Of several labels, every label's probability counts by itself, against whether the label is there."
    return Section(
        "calibration", "Calibration", [Table("calibration", caption, columns, rows), Side(figures), Text(note)]
    )


def _diagram(e: Evidence, error: float) -> Figure:
    pairs = [certainty(e.target, seen) for seen in e.seen.values()]
    found = reliability(np.concatenate([c for c, _ in pairs]), np.concatenate([r for _, r in pairs]))
    filled = np.flatnonzero(found.count)
    described = "; ".join(
        f"{found.confidence[b]:.2f} sure, {found.right[b]:.2f} right, {int(found.count[b])} predictions" for b in filled
    )
    plot = Plot(
        f"Reliability of {e.name}",
        f"ECE {plain(error)}. By bin: {described}.",
        (0.0, 1.0),
        (0.0, 1.0),
        "probability of the predicted class" if e.target.kind == "classification" else "probability of a label",
        "share that is right" if e.target.kind == "classification" else "share that is there",
        width=330,
        height=312,
    )
    most = found.count.max()
    for b in filled:
        opacity = 0.15 + 0.55 * found.count[b] / most
        plot.bar(b / BINS, 0, (b + 1) / BINS, found.right[b], COLOURS[0], opacity)
    plot.straight(0, 0, 1, 1)
    plot.dots(found.confidence[filled].tolist(), found.right[filled].tolist(), COLOURS[1], 3)
    caption = f"{e.name}: ECE {error:.4f}. Darker bars hold more predictions; the dashed line is perfect calibration."
    return Figure(plot.svg(), caption)
