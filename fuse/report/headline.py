"""The numbers first: every run's metrics with their spread over the seeds, and the runs against the first one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cache_schema.errors import DataError
from fuse import metrics
from fuse.compare import compare_runs
from fuse.report.evidence import Evidence
from fuse.report.page import Block, Figure, Folded, Section, Text
from fuse.report.plot import COLOURS, Plot, spread
from fuse.report.tables import Table
from fuse.statistics import DRAWS


def warnings(runs: Sequence[Evidence]) -> list[Block]:
    """What forbids taking a number for a result; before everything else."""
    found: list[Block] = []
    for e in runs:
        record = e.run.record
        if record.random_weights:
            which = [f["name"] for f in {**record.features, **record.companions}.values() if f["random_weights"]]
            found.append(
                Text(
                    f"{e.name}: RANDOM WEIGHTS. The features {', '.join(which)} come from encoders with random "
                    "weights. This is a trial of the pipeline; its numbers are no result.",
                    "warn",
                )
            )
        if record.training.get("shuffle_labels"):
            found.append(Text(f"{e.name}: trained on shuffled labels, on purpose.", "warn"))
        if record.degraded:
            d = record.degraded
            found.append(
                Text(
                    f"{e.name}: its training was degraded on purpose: {d.get('modality')} {d.get('kind')} in "
                    f"{d.get('share', 0):.0%} of the utterances.",
                    "warn",
                )
            )
        if len(record.seeds) < 2:
            found.append(Text(f"{e.name}: one seed, so nothing is known of its spread over seeds.", "warn"))
    return found


def headline(runs: Sequence[Evidence]) -> Section:
    """Mean, standard deviation and interval of each metric on test; every seed's value on request."""
    blocks: list[Block] = []
    for number, group in enumerate(_by_target(runs), start=1):
        target = group[0].target
        names = [m for m in metrics.names(target) if all(m in e.run.metrics["test"] for e in group)]
        if any(_tested(e) != _tested(group[0]) for e in group):
            why = "These runs were not all tested on the same utterances: their numbers cannot be set side by side."
            blocks.append(Text(why, "warn"))
        rows = [
            [e.name, str(len(e.ids)), str(len(e.seen)), *(spread_of(e.run.metrics["test"][m]) for m in names)]
            for e in group
        ]
        what = f"{target.name} ({target.kind})"
        caption = f"Test split, {what}: mean ± standard deviation [95% interval of the mean] over the seeds"
        blocks.append(Table(f"results-{number}", caption, ["run", "utterances", "seeds", *names], rows))
        blocks.append(_means(group, names[0]))
        long = []
        for e in group:
            for split in ("test", "val"):
                for m in names:
                    s = e.run.metrics[split].get(m)
                    if s is not None:
                        ends = ("–", "–") if s["ci95"] is None else (s["mean"] - s["ci95"], s["mean"] + s["ci95"])
                        values = [s["mean"], s["sd"], *ends]
                        seeds = " ".join(f"{v:.6g}" for v in s["per_seed"])
                        long.append([e.name, split, m, *map(plain, values), seeds])
        columns = ["run", "split", "metric", "mean", "sd", "low", "high", "per seed"]
        every = Table(f"results-{number}-all", f"All numbers of {what}", columns, long)
        blocks.append(Folded("Each number by itself, with validation and every seed", [every]))
    blocks.append(
        Text(
            "sd is the sample standard deviation over the seeds; the interval is Student's t for their mean. It tells "
            "how much the chance of training explains, and nothing of the choice of test utterances. With two or "
            "three seeds it is wide, and can reach beyond what the metric can be."
        )
    )
    return Section("results", "Results on the test split", blocks)


def _tested(e: Evidence) -> dict[str, Any]:
    return dict(zip(e.ids, e.truth.tolist(), strict=True))


def _by_target(runs: Sequence[Evidence]) -> list[list[Evidence]]:
    found: list[list[Evidence]] = []
    for e in runs:
        for group in found:
            if group[0].target == e.target:
                group.append(e)
                break
        else:
            found.append([e])
    return found


def _means(group: Sequence[Evidence], metric: str) -> Figure:
    each = [e.run.metrics["test"][metric] for e in group]
    reach = [v for s in each for v in (*s["per_seed"], s["mean"] - (s["ci95"] or 0), s["mean"] + (s["ci95"] or 0))]
    described = "; ".join(f"{e.name} {spread_of(s)}" for e, s in zip(group, each, strict=True))
    plot = Plot(
        f"{metric} on test, by run",
        f"Mean and 95% interval over the seeds, a dot per seed: {described}.",
        spread(reach),
        (0, 1),
        metric,
        width=620,
        height=58 + 34 * len(group),
        left=190,
        rows=[e.name for e in group],
    )
    for row, s in enumerate(each):
        _interval(plot, row, s["mean"], s["mean"] - (s["ci95"] or 0), s["mean"] + (s["ci95"] or 0), COLOURS[0])
        plot.dots(s["per_seed"], [row + 0.22] * len(s["per_seed"]), COLOURS[1], 2.6, 0.8)
    return Figure(plot.svg(), f"{metric}: mean and 95% interval over the seeds; small dots below: each seed.")


def _interval(plot: Plot, row: float, mean: float, low: float, high: float, colour: str) -> None:
    plot.line([low, high], [row, row], colour, width=3)
    plot.dots([mean], [row], colour, 5)


def compared(runs: Sequence[Evidence], draws: int = DRAWS) -> tuple[Section, list[dict[str, Any]]]:
    """Every other run against the first: the section, and per pair what `compare_runs` found or why it refused."""
    first, found = runs[0], []
    blocks: list[Block] = []
    pairs: list[tuple[Evidence, dict[str, Any]]] = []
    for other in runs[1:]:
        pair: dict[str, Any] = {"first": other.name, "second": first.name}
        try:
            pair = compare_runs(other.run.folder, first.run.folder, draws=draws) | pair
            pairs.append((other, pair))
        except DataError as error:
            pair["refused"] = f"{_named(str(error), (other, first))} First: {other.name}; second: {first.name}."
            blocks.append(Text(f"{other.name} is not compared with {first.name}. {pair['refused']}", "warn"))
        found.append(pair)
    if pairs:
        rows = [
            [
                other.name,
                metric,
                f"{each['utterances']['difference']:+.4f}",
                *_ends(each["seeds"]),
                *_ends(each["utterances"]),
            ]
            for other, pair in pairs
            for metric, each in pair["metrics"].items()
        ]
        blocks.insert(0, _forest(pairs, first))
        columns = ["run", "metric", "difference", "over seeds, 95%", "p", "over utterances, 95%", "p (bootstrap)"]
        blocks.append(Table("comparisons", f"Difference from {first.name}, on the same test utterances", columns, rows))
        common = "; ".join(f"{other.name}: {len(pair['seeds'])} common seeds" for other, pair in pairs)
        blocks.append(
            Text(
                f"Differences are run minus {first.name}. Over seeds: Student's t of the paired differences of the "
                f"common seeds ({common}). Over utterances: paired percentile bootstrap, {draws} draws, the same "
                "utterances for both runs. The p-values are not corrected for the number of comparisons "
                f"({len(rows)} rows here). For errors (mae, mse, rmse) a negative difference is the better one."
            )
        )
    return Section("comparison", f"Comparison with {first.name}", blocks), found


def _named(message: str, pair: Sequence[Evidence]) -> str:
    """A message with the runs' names in place of their folders."""
    for e in pair:
        message = message.replace(str(Path(e.run.folder)), e.name)
    return message


def _forest(pairs: Sequence[tuple[Evidence, dict[str, Any]]], first: Evidence) -> Figure:
    metric = next(iter(pairs[0][1]["metrics"]))
    each = [(other, pair["metrics"][metric]) for other, pair in pairs if metric in pair["metrics"]]
    reach = [0.0]
    for _, m in each:
        reach += [m["utterances"]["low"], m["utterances"]["high"]]
        reach += [m["seeds"]["low"], m["seeds"]["high"]] if m["seeds"] else []
    described = "; ".join(
        f"{other.name} {m['utterances']['difference']:+.4f}, over utterances {_ends(m['utterances'])[0]}, "
        f"over seeds {_ends(m['seeds'])[0]}"
        for other, m in each
    )
    plot = Plot(
        f"Difference in {metric} from {first.name}",
        f"With 95% intervals: {described}.",
        spread(reach),
        (0, 1),
        f"{metric}, run minus {first.name}",
        width=620,
        height=80 + 40 * len(each),
        left=190,
        top=26,
        rows=[other.name for other, _ in each],
    )
    plot.straight(0, -0.5, 0, len(each) - 0.5)
    for row, (_, m) in enumerate(each):
        u = m["utterances"]
        if m["seeds"]:
            _interval(plot, row - 0.14, m["seeds"]["mean"], m["seeds"]["low"], m["seeds"]["high"], COLOURS[0])
        _interval(plot, row + 0.14, u["difference"], u["low"], u["high"], COLOURS[1])
    plot.legend([("over seeds (upper)", COLOURS[0], ""), ("over utterances (lower)", COLOURS[1], "")])
    return Figure(plot.svg(), f"Differences in {metric} with 95% intervals; the dashed line is no difference.")


def _ends(found: dict[str, Any] | None) -> tuple[str, str]:
    if found is None:
        return "fewer than two common seeds", "–"
    return f"[{found['low']:+.4f}, {found['high']:+.4f}]", f"{found['p']:.3g}"


def plain(value: float | str | None) -> str:
    """A number for export."""
    return "–" if value is None else value if isinstance(value, str) else f"{value:.6g}"


def spread_of(summary: dict[str, Any]) -> str:
    """Mean ± sd [low, high]; the mean alone of one seed."""
    mean, sd, ci = summary["mean"], summary["sd"], summary["ci95"]
    return f"{mean:.4f}" if sd is None else f"{mean:.4f} ± {sd:.4f} [{mean - ci:.4f}, {mean + ci:.4f}]"
