"""How results look on a terminal: tables and JSON on stdout, progress and messages on stderr."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from extract.run import Report
    from fuse.train import Result
    from fuse.training.loop import Epoch

OUT = Console(soft_wrap=True, highlight=False, markup=False, width=None if sys.stdout.isatty() else 160)
ERR = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)


def table_of(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def print_json(document: dict[str, Any]) -> None:
    print(json.dumps(document, indent=2, ensure_ascii=False, default=str))  # noqa: T201 - the result


def say(line: str) -> None:
    ERR.print(line)


def indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.strip().splitlines())


def print_report(report: Report) -> None:
    table = table_of("feature", "fingerprint", "samples", "written", "skipped", "failed", "absent", "encoded")
    for f in report.features:
        table.add_row(
            f.name + (" (random weights)" if f.random_weights else ""),
            f.fingerprint[:16],
            *(str(n) for n in (f.samples, f.written, f.skipped, f.failed, f.absent, f.encoded)),
        )
    OUT.print(table)
    for f in report.features:
        for reason, count in f.reasons.items():
            OUT.print(f"{f.name}: {count} x {reason}")
        if f.missing:
            OUT.print(f"{f.name}: {f.missing} utterances are not extracted yet")
    if all(f.skipped == f.samples for f in report.features):
        OUT.print("Nothing was left to do: no encoder ran.")
    OUT.print(f"Store: {report.store}  ({report.seconds:.1f} s)")


def print_result(result: Result) -> None:
    record = result.record
    apart = {f"test of {name}": found for name, found in result.by_dataset.items()}
    OUT.print(metrics_table({"test": result.test, "val": result.val, **apart}))
    if result.folds:
        first = next(iter(result.test))
        table = table_of("fold", "utterances", f"test {first} mean ± sd [95% interval of the mean]")
        for fold, part in zip(result.folds, record.folds, strict=True):
            table.add_row(fold["name"], str(part["splits"]["test"]["utterances"]), over_seeds(fold["test"][first]))
        OUT.print()
        OUT.print(table)
    tables = [seed.tables["test"] for seed in result.seeds]
    if tables[0]:
        OUT.print()
        OUT.print(class_table(tables))
    read = {**record.features, **record.companions}
    used = ", ".join(f"{m} {f['name']}@{f['fingerprint'][:8]}" for m, f in read.items())
    OUT.print(f"\n{record.arch}: {record.parameters:,} parameters; {used}")
    if record.random_weights:
        OUT.print("Features of random weights: a trial, not a result.")
    for companion, why in record.without.items():
        OUT.print(f"Without {companion}: {why}.")
    for what, count in record.left_out.items():
        if count:
            OUT.print(f"Left out, {what}: {count if isinstance(count, int) else len(count)}")
    OUT.print(f"Run: {result.run}  ({record.seconds:.1f} s)")


def print_profile(result: Result) -> None:
    """Where a training's time went, on stderr."""
    spent, trainings = sum(result.profile.values()), max(len(result.folds), 1) * len(result.seeds)
    table = table_of("part", "seconds", "share")
    for name, seconds in result.profile.items():
        table.add_row(name, f"{seconds:.2f}", f"{seconds / spent:.1%}")
    ERR.print(table)
    of = "1 training" if trainings == 1 else f"{trainings} trainings, side by side where there are several --jobs"
    ERR.print(f"Over {of}; {result.record.seconds:.1f} s in all.\n")


def print_architecture(found: dict[str, Any]) -> None:
    """An architecture on stdout, from `fuse.describe.describe`."""
    OUT.print(found["paper"].strip())
    for title in ("settings", "training"):
        table = table_of(title, "default", "values", "meaning")
        for field in found[title]:
            table.add_row(field["name"], json.dumps(field["default"]), field["type"], field["meaning"])
        OUT.print()
        OUT.print(table)
    rows = table_of("ablation", "what it sets")
    for name, changes in found["ablations"].items():
        rows.add_row(name, ", ".join(f"{key}={json.dumps(value)}" for key, value in changes.items()))
    sizes = table_of("block", "parameters")
    for name, count in found["parameters"].items():
        sizes.add_row(name, f"{count:,}")
    for table in (rows, sizes):
        OUT.print()
        OUT.print(table)
    reads = "; ".join(f"{modality}: {', '.join(names)}" for modality, names in found["modalities"].items())
    OUT.print(f"\nReads, best first: {reads}")
    for name, companion in found["companions"].items():
        OUT.print(
            f"Reads {name} on the frames of {companion['modality']}, from {' or '.join(companion['features'])}; "
            f"without, {companion['without']}."
        )
    OUT.print(f"Parameters are counted for seven classes and inputs of {found['inputs']}")


def metrics_table(splits: dict[str, dict[str, dict[str, Any]]]) -> Table:
    """Mean, standard deviation and 95% interval over the seeds of every metric."""
    table = table_of("metric", *(f"{split} mean ± sd [95% interval of the mean]" for split in splits))
    for metric in next(iter(splits.values())):
        table.add_row(metric, *(over_seeds(found[metric]) for found in splits.values()))
    return table


def over_seeds(found: dict[str, Any]) -> str:
    mean, sd, ci95 = found["mean"], found["sd"], found["ci95"]
    if sd is None:
        return f"{mean:.4f} (one seed)"
    return f"{mean:.4f} ± {sd:.4f} [{mean - ci95:.4f}, {mean + ci95:.4f}]"


def class_table(tables: list[dict[str, Any]]) -> Table:
    """Per class: mean F1 over the seeds, and the confusion matrix summed over them where there is one."""
    classes, counts = tables[0]["classes"], "confusion" in tables[0]
    table = table_of("true class", "f1", "support", *(f"→ {name}" for name in classes if counts))
    for row, name in enumerate(classes):
        each = [t["per_class"][name] for t in tables]
        cells = [str(sum(t["confusion"][row][column] for t in tables)) for column in range(len(classes)) if counts]
        table.add_row(name, f"{sum(e['f1'] for e in each) / len(each):.3f}", str(each[0]["support"]), *cells)
    return table


def print_demo(results: dict[str, Result], report: Report, as_json: bool) -> None:
    from fuse.metrics import paired_difference

    accuracy = {name: r.test["accuracy"] for name, r in results.items()}
    *single, fused = accuracy
    best = max(single, key=lambda name: accuracy[name]["mean"])
    gain = paired_difference(accuracy[fused]["per_seed"], accuracy[best]["per_seed"])
    if as_json:
        rows = {name: r.as_json() for name, r in results.items()}
        print_json({"extract": report.as_json(), "rows": rows, "best_single": best, "gain": gain})
        return
    table = table_of("hff on", "accuracy ± sd [95%]", "macro F1 ± sd [95%]", "weighted F1 ± sd [95%]")
    for name, r in results.items():
        table.add_row(name, *(over_seeds(r.test[m]) for m in ("accuracy", "macro_f1", "weighted_f1")))
    OUT.print()
    OUT.print(table)
    OUT.print()
    interval = f"paired 95% interval [{100 * gain['low']:.1f}, {100 * gain['high']:.1f}]"
    seeds = f"{interval} over {len(gain['per_seed'])} seeds"
    if gain["low"] > 0:
        points = f"by {100 * gain['mean']:.1f} points of accuracy"
        OUT.print(f"All three beat the best single modality ({best}) {points}, {seeds}.")
    else:
        points = f"{100 * gain['mean']:+.1f} points of accuracy"
        OUT.print(f"All three against the best single modality ({best}): {points}, {seeds}: more seeds would tell.")
    OUT.print(f"Drawn clips, random weights: this shows that the pipeline works. Run: {results[fused].run}")


SPEED_OVER_SECONDS = 600.0
"""A window of clips or an epoch may take a while; rate and time left are estimated over this long."""


@contextmanager
def row_bar(what: str) -> Iterator[Callable[[int, int, int], None]]:
    """A bar over utterances, called with (done, to do, failed)."""
    with _bar(what) as show:
        yield lambda done, total, failed: show(done, total, f"{failed} failed" if failed else "")


@contextmanager
def epoch_bar(runs: int | None) -> Iterator[Callable[[Epoch], None]]:
    """A bar over the epochs of `runs` trainings; its total is what they take if none stops early. None: it is not known
    beforehand how many there are, and the bar counts."""
    seen = itertools.count(1)
    with _bar("train") as show:
        yield lambda epoch: show(
            next(seen),
            None if runs is None else runs * epoch.folds * epoch.max_epochs,
            f"seed {epoch.seed}, epoch {epoch.epoch}: validation loss {epoch.val_loss:.3f}",
        )


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int | None, str], None]]:
    """A bar with a rate and the time left on stderr; nothing where stderr is not a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    shown = ERR.is_terminal
    with Progress(*columns, console=ERR, disable=not shown, speed_estimate_period=SPEED_OVER_SECONDS) as bar:
        task = bar.add_task(what, total=None, rate="", note="")

        def show(done: int, total: int | None, note: str) -> None:
            speed = bar.tasks[task].speed
            bar.update(task, completed=done, total=total, rate=f"{speed:.1f}/s" if speed else "", note=note)

        yield show
