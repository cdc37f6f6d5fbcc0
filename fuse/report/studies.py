"""Folds and datasets of a run, and what `mer fuse robustness --json` and `mer fuse ablate` found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cache_schema.errors import MerError, first_line
from fuse.ablate import TABLE
from fuse.report.drawings import bars
from fuse.report.evidence import Evidence
from fuse.report.headline import spread_of
from fuse.report.page import Block, Figure, Folded, Section, Side, Text
from fuse.report.plot import COLOURS, DASHES, Plot, spread
from fuse.report.tables import Table


def parts(runs: Sequence[Evidence]) -> Section | None:
    """Each fold's and each dataset's own test results, where there are several."""
    blocks: list[Block] = []
    for number, e in enumerate(runs, start=1):
        found = e.run.metrics
        folds = {f["name"]: f["test"] for f in found.get("folds", [])}
        for what, named in (("fold", folds), ("dataset", found.get("by_dataset", {}))):
            if named:
                names = list(next(iter(named.values())))
                rows = [[name, *(spread_of(each[m]) for m in names)] for name, each in named.items()]
                caption = f"{e.name}: test results of each {what}, mean ± sd [95% interval] over the seeds"
                blocks.append(Table(f"{what}s-{number}", caption, [what, *names], rows))
    return Section("parts", "Folds and datasets", blocks) if blocks else None


def read(paths: Sequence[str | Path]) -> list[tuple[str, dict[str, Any]]]:
    """The studies in these files or folders of ablations, with their names.

    Raises:
        MerError: one is not what `mer fuse robustness --json` or `mer fuse ablate` wrote.
    """
    found = []
    for path in map(Path, paths):
        files = sorted(path.glob(f"{TABLE}*.json")) if path.is_dir() else [path]
        if not files:
            raise MerError(
                f"{path} holds no finished table of an ablation: give it the command of `mer fuse ablate` again, which "
                "trains nothing that is there."
            )
        each = [_read(file) for file in files]
        joined: list[dict[str, Any]] = []
        for study in each:  # tables of one command stand together
            same = [s for s in joined if "tables" in s and [s[k] for k in OF_ALL] == [study[k] for k in OF_ALL]]
            if same:
                same[0]["tables"] += study["tables"]
            else:
                joined.append(study)
        found += [(path.name, study) for study in joined]
    return found


OF_ALL = ("arch", "dataset", "seeds")
"""What tables of one ablation have in common."""


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise MerError(f"{path} cannot be read as a study ({first_line(error)}).") from error
    try:
        document: dict[str, Any] = json.loads(text)
        _blocks(path.name, document, 0)
    except (ValueError, LookupError, TypeError, AttributeError, StopIteration) as error:
        raise MerError(
            f"{path} is no study: give what `mer fuse robustness RUN --json` printed, or the folder of `mer fuse "
            f"ablate` ({type(error).__name__})."
        ) from error
    return document


def section(studies: Sequence[tuple[str, dict[str, Any]]]) -> Section | None:
    """All of them."""
    blocks = [block for i, (name, s) in enumerate(studies, start=1) for block in _blocks(name, s, i)]
    return Section("studies", "Robustness and ablations", blocks) if blocks else None


def _blocks(name: str, study: dict[str, Any], number: int) -> list[Block]:
    if "curves" in study:
        return _robustness(study, number)
    if "tables" in study:
        return _ablation(study, number)
    raise ValueError(name)


def _robustness(study: dict[str, Any], number: int) -> list[Block]:
    shares, curves = study["shares"], study["curves"]
    metric = next(iter(next(iter(curves.values()))))
    run = Path(study["run"]).name
    what = f"{study['kind']} at {study['at']} time"
    if study["noise"] is not None:
        what += f", noise of {study['noise']:g} standard deviations"
    rows = [[m, *(spread_of(p) for p in curve[metric])] for m, curve in curves.items()]
    points = [p for curve in curves.values() for p in curve[metric]]
    ends = [v for p in points for v in (p["mean"] - (p["sd"] or 0), p["mean"] + (p["sd"] or 0))]
    described = "; ".join(
        f"{m} from {c[metric][0]['mean']:.4f} to {c[metric][-1]['mean']:.4f}" for m, c in curves.items()
    )
    plot = Plot(
        f"{metric} of {run} against the share of utterances that is {study['kind']}",
        f"From {shares[0]:.0%} to {shares[-1]:.0%} of utterances: {described}.",
        (min(shares), max(max(shares), min(shares) + 0.01)),
        spread(ends),
        f"share of utterances whose modality is {study['kind']}",
        metric,
        top=28,
        width=520,
    )
    series = list(zip(curves.items(), COLOURS, DASHES * 2, strict=False))
    for (_, curve), colour, dash in series:
        plot.line(shares, [p["mean"] for p in curve[metric]], colour, dash)
        for share, p in zip(shares, curve[metric], strict=True):
            plot.dots([share], [p["mean"]], colour)
            plot.line([share, share], [p["mean"] - (p["sd"] or 0), p["mean"] + (p["sd"] or 0)], colour, width=1)
    plot.legend([(m, colour, dash) for (m, _), colour, dash in series])
    caption = f"{run}: {metric}, {what}; mean and standard deviation over {len(study['seeds'])} seeds"
    return [
        Text(f"Robustness of {run}: {what}", "h3"),
        Side([Figure(plot.svg(), f"{caption}.")]),
        Table(f"robustness-{number}", f"{caption} [95%]", ["modality", *(f"{s:.0%}" for s in shares)], rows),
    ]


def _ablation(study: dict[str, Any], number: int) -> list[Block]:
    blocks: list[Block] = [Text(f"Ablation of {study['arch']} on {study['dataset']}", "h3")]
    for i, table in enumerate(study["tables"], start=1):
        notes: list[str] = []
        rows = [[row["name"], *(_cell(c, notes) for c in row["cells"])] for row in table["rows"]]
        caption = f"{table['title']}: ours over {study['seeds']} seeds, in percent (the paper's)"
        blocks.append(Table(f"ablation-{number}-{i}", caption, ["", *table["columns"]], rows))
        blocks += _bars(table)
        blocks += [Text(note) for note in dict.fromkeys(notes)]
    return blocks


def _bars(table: dict[str, Any]) -> list[Block]:
    """Each column of an ablation beside the paper's, where anything was measured."""
    figures = []
    names = [row["name"] for row in table["rows"]]
    for i, column in enumerate(table["columns"]):
        cells = [row["cells"][i] for row in table["rows"]]
        ours = [100 * c["ours"]["mean"] if "ours" in c else None for c in cells]
        papers = [None if c["paper"] is None else 100 * c["paper"] for c in cells]
        if any(value is not None for value in ours):
            series = {"ours": ours} | ({"paper": papers} if any(p is not None for p in papers) else {})
            caption = "Percent, mean over the seeds; what has no bar was not run or not reported."
            figures.append(bars(f"{table['title']}: {column}", names, series, caption, column))
    return [Folded(f"{table['title']} as bars", [Side(figures)])] if len(figures) > 2 else [Side(figures)]


def _cell(cell: dict[str, Any], notes: list[str]) -> str:
    paper = "" if cell["paper"] is None else f" ({100 * cell['paper']:.1f})"
    if "why" in cell:
        notes.append(f"–: {cell['why']}.")
        return f"–{paper}"
    ours, marks = cell["ours"], ""
    if "same" in cell:
        marks = "≡ "
        notes.append(f"≡: coincides by construction with {cell['same']}: one run serves both.")
    if "fewer" in cell:
        notes.append(f"*: {cell['fewer']}.")
    spread_ = "" if ours["sd"] is None else f" ± {100 * ours['sd']:.1f}"
    return f"{marks}{100 * ours['mean']:.1f}{spread_}{'*' if 'fewer' in cell else ''}{paper}"
