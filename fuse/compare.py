"""Two finished runs side by side: what `mer fuse compare` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cache_schema.errors import DataError
from fuse import metrics, run_files
from fuse.run import Run, load
from fuse.statistics import DRAWS, Measured, SeedTest, aligned, over_seeds, over_utterances


def compare_runs(
    first_path: str | Path, second_path: str | Path, *, test: SeedTest = "t", draws: int = DRAWS
) -> dict[str, Any]:
    """The differences first - second on the test split, over the seeds that both have and over the utterances.

    Args:
        first_path: a run's folder.
        second_path: another's.
        test: which paired test over the seeds.
        draws: how many bootstrap draws of the utterances.

    Returns:
        first, second: the folders; utterances; seeds: those that both have; metrics: metric -> `first` and `second`,
        each mean, sd, ci95 over its own seeds, `seeds` (see `statistics.over_seeds`; None where fewer than two are
        common) and `utterances` (see `statistics.over_utterances`).

    Raises:
        DataError: the runs have other targets, test utterances or labels.
        MerError: a run cannot be read.
    """
    runs = load(first_path), load(second_path)
    target = runs[0].record.target
    if runs[1].record.target != target:
        raise DataError(
            f"{runs[0].folder} predicts {target.name} ({target.kind}, {', '.join(target.classes) or 'a number'}) and "
            f"{runs[1].folder} something else: they cannot be compared."
        )
    first, second = (measured(run) for run in runs)
    second = aligned(first, second)
    common = [seed for seed in first.predictions if seed in second.predictions]
    bootstrapped = over_utterances(target, first, second, draws)
    found: dict[str, Any] = {}
    recorded = [set(run.metrics["test"]) for run in runs]
    for name in metrics.names(target):
        if not all(name in names for names in recorded):
            continue
        each = [{r["seed"]: r["metrics"]["test"][name] for r in run.metrics["per_seed"]} for run in runs]
        pairs = [[values[seed] for seed in common] for values in each]
        found[name] = {
            "first": metrics.summary(list(each[0].values())),
            "second": metrics.summary(list(each[1].values())),
            "seeds": over_seeds(pairs[0], pairs[1], test) if len(common) > 1 else None,
            "utterances": bootstrapped[name],
        }
    return {
        "first": str(runs[0].folder),
        "second": str(runs[1].folder),
        "utterances": len(first.ids),
        "seeds": common,
        "metrics": found,
    }


def measured(run: Run) -> Measured:
    """What a run's seeds predicted on test, over all folds.

    Raises:
        MerError: the predictions cannot be read.
    """
    seen = {s: run_files.read_seen(run.folder / f"seed-{s}", run.record.target, "test") for s in run.record.seeds}
    first = seen[run.record.seeds[0]]
    assert first.truth is not None  # read_seen gives it
    return Measured(first.ids, first.truth, {seed: each.prediction for seed, each in seen.items()})
