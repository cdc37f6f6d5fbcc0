"""What the files of a finished run say, read once for all sections.

Axes: N test utterances, C classes, S seeds.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from cache_schema.errors import DamagedError, DataError, SettingsError
from cache_schema.samples import Target
from fuse import metrics, run_files
from fuse.metrics import Array
from fuse.prediction import Predictions
from fuse.run import Run, load


@dataclass(frozen=True)
class History:
    """One training's epochs: its seed, fold (from 1) and stage, and per epoch a value of each column."""

    seed: int
    fold: int
    stage: str
    columns: dict[str, list[float]]


@dataclass(frozen=True)
class Evidence:
    """A run and what it wrote.

    Attributes:
        name: what the report calls it.
        run: the run.
        seen: per seed its predictions on test, in the same order, over all folds.
        drawn: quantity -> (S, N), those that are one number per utterance; nan where a fold does not have it.
    """

    name: str
    run: Run
    seen: dict[int, Predictions]
    drawn: dict[str, Array]

    @property
    def target(self) -> Target:
        """What is predicted."""
        return self.run.record.target

    @property
    def first(self) -> str:
        """The metric that figures show: the first of its target."""
        return metrics.names(self.target)[0]

    @property
    def ids(self) -> tuple[str, ...]:
        """The test utterances (N)."""
        return next(iter(self.seen.values())).ids

    @property
    def truth(self) -> Array:
        """Their labels, as in `Predictions`."""
        found = next(iter(self.seen.values())).truth
        assert found is not None  # read_seen gives it
        return found

    @property
    def folds(self) -> int:
        """How many."""
        return max(len(self.run.record.folds), 1)

    @cached_property
    def losses(self) -> Array:
        """Per seed and utterance (S, N): -log p of the true class (nats), its mean over the labels where there are
        several, or the squared error. A probability below 1e-12 counts as 1e-12."""
        each = []
        for seen in self.seen.values():
            if seen.probabilities is None:
                each.append((seen.prediction.astype(np.float64) - self.truth) ** 2)
                continue
            chances = seen.probabilities.astype(np.float64)
            if self.target.kind == "classification":
                each.append(-np.log(np.maximum(chances[np.arange(len(chances)), self.truth], 1e-12)))
            else:
                right = np.where(self.truth == 1, chances, 1 - chances)
                each.append(-np.log(np.maximum(right, 1e-12)).mean(axis=1))
        return np.stack(each)

    @cached_property
    def histories(self) -> list[History]:
        """The trainings' epochs, by seed, fold and stage."""
        return [
            history
            for seed in self.run.record.seeds
            for fold in range(1, self.folds + 1)
            for history in _histories(self.run.place(seed, fold) / run_files.HISTORY, seed, fold)
        ]


def gather(paths: Sequence[str | Path]) -> list[Evidence]:
    """Read runs, in order.

    Raises:
        SettingsError: none is given, or one twice.
        DataError: a run's seeds were not tested on the same utterances.
        MerError: one is no run, or its predictions cannot be read.
    """
    folders = [Path(path) for path in paths]
    if not folders:
        raise SettingsError("A report is about one run or more: name their folders.")
    seen: set[Path] = set()
    for folder in folders:
        if folder.resolve() in seen:
            raise SettingsError(f"{folder} is given twice.")
        seen.add(folder.resolve())
    last = [folder.resolve().name for folder in folders]
    names = [
        name if last.count(name) == 1 else f"{folder.resolve().parent.name}/{name}"
        for folder, name in zip(folders, last, strict=True)
    ]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    return [_read(name, load(folder)) for name, folder in zip(names, folders, strict=True)]


def _read(name: str, run: Run) -> Evidence:
    target, seen = run.record.target, {}
    for seed in run.record.seeds:
        seen[seed] = run_files.read_seen(run.folder / f"seed-{seed}", target, "test")
    first = next(iter(seen.values()))
    for seed, found in seen.items():
        if found.ids != first.ids or not np.array_equal(found.truth, first.truth):  # type: ignore[arg-type]
            raise DataError(f"{run.folder}: seed {seed} was tested on other utterances or labels than the first one.")
    return Evidence(name, run, seen, _drawn(run, first.ids))


def _drawn(run: Run, ids: Sequence[str]) -> dict[str, Array]:
    """What the predictions hold beside the target's own columns, of each fold where there are several."""
    classes = run.record.target.classes
    own = {"id", "split", "target", "prediction"}
    own |= {f"{p}_{c}" for p in ("target", "prediction", "probability") for c in classes}
    place = {id_: i for i, id_ in enumerate(ids)}
    found: dict[str, Array] = {}
    for row, seed in enumerate(run.record.seeds):
        for fold in range(1, max(len(run.record.folds), 1) + 1):
            table = run_files.read_predictions(run.place(seed, fold) / run_files.PREDICTIONS, "test")
            at = [place[id_] for id_ in table["id"].to_pylist()]
            for column in table.column_names:
                if column not in own:
                    values = found.setdefault(column, np.full((len(run.record.seeds), len(ids)), np.nan))
                    values[row, at] = table[column].to_numpy()
    return found


def _histories(path: Path, seed: int, fold: int) -> list[History]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        stages = list(dict.fromkeys(row["stage"] for row in rows))
        return [
            History(
                seed,
                fold,
                stage,
                {
                    name: [float(row[name]) for row in rows if row["stage"] == stage]
                    for name in rows[0]
                    if name != "stage"
                },
            )
            for stage in stages
        ]
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise DamagedError(f"{path} cannot be read as a training's history: the run is damaged.") from error
