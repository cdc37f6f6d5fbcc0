"""How a run learnt, what it leans on, and where it fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fuse import metrics
from fuse.metrics import Array
from fuse.report.evidence import Evidence, History
from fuse.report.headline import plain, spread_of
from fuse.report.page import Block, Figure, Folded, Section, Side, Text
from fuse.report.plot import COLOURS, DASHES, Plot, spread
from fuse.report.tables import Table

MODALITIES = ("text", "speech", "vision")
MOST_DOTS = 2000
MOST_ROWS = 8
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def curves(runs: Sequence[Evidence]) -> Section:
    """Losses and the monitored metric by epoch, a line per seed, and the epoch that each training kept."""
    blocks: list[Block] = []
    for number, e in enumerate(runs, start=1):
        watched = e.run.training.monitor
        metric = e.first if watched == "loss" else watched
        blocks.append(Text(e.name, "h3"))
        for stage in dict.fromkeys(h.stage for h in e.histories):
            chosen = [h for h in e.histories if h.stage == stage]
            title = f"{e.name}{f', {stage}' if stage else ''}"
            blocks.append(
                Side(
                    [
                        _lines(chosen, title, "loss", [("train_loss", "training"), ("val_loss", "validation")]),
                        _lines(chosen, title, metric, [(f"val_{metric}", "validation")]),
                    ]
                )
            )
        kept = _kept(e, number, metric)
        blocks.append(kept if len(kept.rows) <= MOST_ROWS else Folded(kept.caption, [kept]))
    note = "A line per training (seed and fold); the dot is the epoch that was kept, chosen on validation alone."
    return Section("curves", "Learning curves", [Text(note), *blocks])


def _lines(histories: Sequence[History], title: str, what: str, series: Sequence[tuple[str, str]]) -> Figure:
    values = [v for h in histories for name, _ in series for v in h.columns[name]]
    last = max(max(h.columns["epoch"]) for h in histories)
    ends = "; ".join(
        f"{label} goes from {np.mean([h.columns[name][0] for h in histories]):.4g} to "
        f"{np.mean([h.columns[name][-1] for h in histories]):.4g}"
        for name, label in series
    )
    plot = Plot(
        f"{what} by epoch, {title}",
        f"{len(histories)} trainings of up to {last:.0f} epochs. On average over them, {ends}.",
        (1, max(last, 2)),
        spread(values),
        "epoch",
        what,
        top=28,
        whole=True,
    )
    thin = 1.8 if len(histories) <= 6 else 0.9
    for (name, _), colour, dash in zip(series, COLOURS, DASHES, strict=False):
        for h in histories:
            plot.line(h.columns["epoch"], h.columns[name], colour, dash, thin)
            best = max((i for i, b in enumerate(h.columns["best"]) if b), default=None)
            if best is not None:
                plot.dots([h.columns["epoch"][best]], [h.columns[name][best]], colour, 3)
    plot.legend([(label, c, d) for (_, label), c, d in zip(series, COLOURS, DASHES, strict=False)])
    return Figure(plot.svg(), f"{title}: {what} of {len(histories)} trainings.")


def _kept(e: Evidence, number: int, metric: str) -> Table:
    rows = []
    for h in e.histories:
        best = max((i for i, b in enumerate(h.columns["best"]) if b), default=-1)
        values = [h.columns[name][best] for name in ("train_loss", "val_loss", f"val_{metric}")]
        where = f"seed {h.seed}" + (f", fold {h.fold}" if e.folds > 1 else "") + (f", {h.stage}" if h.stage else "")
        rows.append([where, str(len(h.columns["epoch"])), f"{h.columns['epoch'][best]:.0f}", *map(plain, values)])
    columns = ["training", "epochs", "kept epoch", "training loss", "validation loss", f"validation {metric}"]
    return Table(f"epochs-{number}", f"{e.name}: the epoch that each training kept", columns, rows)


def weights(runs: Sequence[Evidence]) -> Section | None:
    """The quantities that are one number per utterance: weights and gates of the modalities, uncertainties."""
    blocks: list[Block] = []
    for number, e in enumerate(runs, start=1):
        if not e.drawn:
            continue
        blocks.append(Text(e.name, "h3"))
        counted = {name for name, v in e.drawn.items() if name.endswith("_expert")}
        measured = {name: v for name, v in e.drawn.items() if name not in counted}
        blocks.append(Side([_boxes(e, family, names) for family, names in _families(list(measured)).items()]))
        rows = []
        for name, values in measured.items():
            seeds = [_finite(v) for v in values]
            if not all(len(v) for v in seeds):
                rows.append([name, "no finite value in some seed", *["–"] * (len(QUANTILES) + 1)])
                continue
            ends = np.quantile(_finite(values), QUANTILES)
            missing = int((~np.isfinite(values)).sum())
            mean = spread_of(metrics.summary([float(v.mean()) for v in seeds]))
            rows.append([name, mean, *(f"{q:.4g}" for q in ends), str(missing)])
        if rows:
            columns = ["quantity", "mean over utterances", *(f"{q:.0%}" for q in QUANTILES), "not finite"]
            caption = f"{e.name}: on test; mean ± sd [95%] over the seeds, quantiles of utterances and seeds pooled"
            blocks.append(Table(f"weights-{number}", caption, columns, rows))
        if measured and e.target.kind == "classification":
            blocks.append(_by_class(e, measured, number))
        for name in sorted(counted):
            which, counts = np.unique(_finite(e.drawn[name]).astype(int), return_counts=True)
            order = np.argsort(-counts, kind="stable")[:10]
            rows = [[str(which[i]), str(counts[i]), f"{counts[i] / counts.sum():.1%}"] for i in order]
            caption = f"{e.name}: {name}, the ten most chosen of {len(which)}, utterances and seeds pooled"
            blocks.append(Table(f"{_file(name)}-{number}", caption, ["expert", "times", "share"], rows))
    if not blocks:
        return None
    note = (
        "What the architecture itself computes per utterance, as its predictions hold it. A weight is how much the "
        "model mixes in, not proof of what a modality contributes: ablations and robustness curves measure that."
    )
    return Section("weights", "Modality weights and gates", [Text(note), *blocks])


def _by_class(e: Evidence, measured: Mapping[str, Array], number: int) -> Table:
    rows = []
    for name, values in measured.items():
        each = [_finite(values[:, e.truth == c]) for c in range(len(e.target.classes))]
        rows.append([name, *(f"{v.mean():.4g}" if len(v) else "–" for v in each)])
    caption = f"{e.name}: means by true class, test utterances and seeds pooled"
    return Table(f"weights-by-class-{number}", caption, ["quantity", *e.target.classes], rows)


def _file(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in name)


def _finite(values: Array) -> Array:
    return values[np.isfinite(values)]


def _families(names: Sequence[str]) -> dict[str, list[str]]:
    """Quantities that are the same of each modality share a scale and a drawing."""
    found: dict[str, list[str]] = {}
    for name in names:
        head, _, tail = name.rpartition("_")
        found.setdefault(head if head and tail in MODALITIES else name, []).append(name)
    return found


def _boxes(e: Evidence, family: str, names: Sequence[str]) -> Figure:
    each = {name: _finite(e.drawn[name]) for name in names}
    each = {name: v for name, v in each.items() if len(v)}
    ends = {name: np.quantile(v, QUANTILES) for name, v in each.items()}
    described = "; ".join(f"{n}: median {q[2]:.3g}, half of all from {q[1]:.3g} to {q[3]:.3g}" for n, q in ends.items())
    labels = [name.removeprefix(f"{family}_") for name in each]
    plot = Plot(
        f"{family} of {e.name}",
        f"Over test utterances and seeds. {described}.",
        spread([float(v) for q in ends.values() for v in q]),
        (0, 1),
        family,
        width=430,
        height=64 + 36 * max(len(each), 1),
        left=110,
        rows=labels,
    )
    for row, (q, label) in enumerate(zip(ends.values(), labels, strict=True)):
        colour = COLOURS[MODALITIES.index(label) if label in MODALITIES else 0]
        plot.line([q[0], q[4]], [row, row], colour)
        plot.bar(q[1], row - 0.28, q[3], row + 0.28, colour)
        plot.line([q[2], q[2]], [row - 0.28, row + 0.28], colour, width=3)
    return Figure(plot.svg(), f"{family}: median, middle half and middle 90% of test utterances, seeds pooled.")


def regression(runs: Sequence[Evidence]) -> Section | None:
    """Predictions against truths, and the residuals by how high the truth is."""
    blocks: list[Block] = []
    for number, e in enumerate(runs, start=1):
        if e.target.kind != "regression":
            continue
        predictions = np.stack([s.prediction for s in e.seen.values()]).astype(np.float64)
        mean, truth = predictions.mean(axis=0), e.truth.astype(np.float64)
        blocks += [Text(e.name, "h3"), Side([_scatter(e, truth, mean), _histogram(e, mean - truth)])]
        edges = np.unique(np.quantile(truth, np.linspace(0, 1, 6)))
        place = np.clip(np.searchsorted(edges, truth, side="right") - 1, 0, max(len(edges) - 2, 0))
        rows = []
        for b in np.unique(place):
            at, high = place == b, edges[min(b + 1, len(edges) - 1)]
            residual = predictions[:, at] - truth[at]
            seeds = [metrics.summary(v.tolist()) for v in (residual.mean(axis=1), np.abs(residual).mean(axis=1))]
            rows.append([f"{edges[b]:.3g} to {high:.3g}", str(int(at.sum())), *map(spread_of, seeds)])
        columns = ["truth", "utterances", "mean residual", "mean absolute error"]
        caption = f"{e.name}: residuals (prediction minus truth) on test by fifths of the truth"
        blocks.append(Table(f"residuals-{number}", caption, columns, rows))
    return Section("residuals", "Predictions and residuals", blocks) if blocks else None


def _scatter(e: Evidence, truth: Array, mean: Array) -> Figure:
    rows = np.arange(len(truth))
    some = ""
    if len(rows) > MOST_DOTS:
        rows = np.sort(np.random.default_rng(0).choice(rows, MOST_DOTS, replace=False))
        some = f" {MOST_DOTS} of {len(truth)} utterances are drawn, chosen at random."
    found = metrics.regression(truth, mean)
    ends = spread([*truth.tolist(), *mean.tolist()])
    plot = Plot(
        f"Predictions of {e.name} against truths",
        f"{len(truth)} utterances, mean prediction over seeds: Pearson {found['pearson']:.3f}, CCC {found['ccc']:.3f}.",
        ends,
        ends,
        f"true {e.target.name}",
        "predicted, mean over seeds",
        width=370,
        height=350,
    )
    plot.straight(ends[0], ends[0], ends[1], ends[1])
    plot.dots(truth[rows].tolist(), mean[rows].tolist(), COLOURS[0], 2.4, 0.45)
    return Figure(plot.svg(), f"A dot per test utterance; the dashed line is a perfect prediction.{some}")


def _histogram(e: Evidence, residual: Array) -> Figure:
    counts, edges = np.histogram(residual, bins=25)
    plot = Plot(
        f"Residuals of {e.name}",
        f"Prediction minus truth: mean {residual.mean():.3f}, standard deviation {residual.std():.3f}, from "
        f"{residual.min():.3f} to {residual.max():.3f}.",
        (float(edges[0]), float(edges[-1])),
        (0, float(counts.max()) * 1.06),
        "prediction minus truth",
        "utterances",
        width=370,
        height=350,
    )
    for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True):
        plot.bar(float(left), 0, float(right), float(count), COLOURS[0])
    if edges[0] < 0 < edges[-1]:
        plot.straight(0, 0, 0, float(counts.max()))
    return Figure(plot.svg(), "Residuals of the mean prediction over the seeds.")


def hardest(runs: Sequence[Evidence], most: int, excerpts: Sequence[Block] = ()) -> Section:
    """The test utterances with the highest mean loss over the seeds, and their excerpts."""
    blocks: list[Block] = []
    for number, e in enumerate(runs, start=1):
        mean = e.losses.mean(axis=0)
        order = np.argsort(-mean, kind="stable")[:most]
        rows = []
        for i in order.tolist():
            said = [said_of(e, s.prediction[i]) for s in e.seen.values()]
            counts = {word: said.count(word) for word in dict.fromkeys(said)}
            shown = ", ".join(f"{word} ×{n}" if len(said) > 1 else word for word, n in counts.items())
            rows.append([e.ids[i], said_of(e, e.truth[i]), shown, f"{mean[i]:.4f}", f"{e.losses[:, i].min():.4f}"])
        kind = "squared error" if e.target.kind == "regression" else "-log p of the truth, nats"
        if e.target.kind == "multilabel":
            kind = "-log p of the truth, nats, mean over labels"
        columns = ["utterance", "truth", "predictions", "mean loss", "least loss of a seed"]
        caption = f"{e.name}: test utterances by loss ({kind}), highest mean over the seeds first"
        blocks.append(Table(f"hardest-{number}", caption, columns, rows))
    return Section("hardest", "Hardest utterances", [*blocks, *excerpts])


def said_of(e: Evidence, value: Array) -> str:
    """A truth or a prediction in words."""
    if e.target.kind == "classification":
        return e.target.classes[int(value)]
    if e.target.kind == "multilabel":
        return " + ".join(c for c, yes in zip(e.target.classes, value, strict=True) if yes) or "none"
    return f"{float(value):.3g}"
