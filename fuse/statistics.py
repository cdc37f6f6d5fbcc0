"""Whether one run is better than another: over the seeds, and over the utterances.

Over seeds: the differences of runs with the same seed, their mean with its Student-t interval, and the p-value of the
paired t test or of Wilcoxon's signed-rank test (Wilcoxon 1945). It says how much training's chance may explain.
Over utterances: the paired percentile bootstrap (Efron & Tibshirani 1993, chapter 16). Utterances are drawn anew with
replacement, the same for both runs and all seeds, and both are measured on them. It says how much the choice of the
test utterances may explain.

Axes: N utterances, S seeds, D draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from cache_schema.errors import DataError
from cache_schema.samples import Target
from fuse import metrics
from fuse.metrics import Array

SeedTest = Literal["t", "wilcoxon"]
DRAWS = 2000


@dataclass(frozen=True)
class Measured:
    """What a run's seeds said about the same utterances.

    Attributes:
        ids: which (N).
        truth: (N, ...), as in `fuse.prediction.Predictions`.
        predictions: per seed (N, ...).
    """

    ids: tuple[str, ...]
    truth: Array
    predictions: Mapping[int, Array]


def over_seeds(first: Sequence[float], second: Sequence[float], test: SeedTest = "t") -> dict[str, Any]:
    """`metrics.paired_difference` of first - second, with the two-sided p-value `p` of `test`.

    p is 1 where no seed differs. Wilcoxon's test cannot fall below 2 / 2^S: 0.0625 with five seeds.

    Raises:
        DataError: not the same number of seeds, or fewer than two.
    """
    from scipy import stats

    found = metrics.paired_difference(first, second)
    differences = np.asarray(found["per_seed"])
    if not differences.any():
        p = 1.0
    elif test == "wilcoxon":
        p = float(stats.wilcoxon(differences).pvalue)
    elif np.ptp(differences) == 0:
        p = 0.0
    else:
        p = float(stats.ttest_1samp(differences, 0.0).pvalue)
    return {**found, "test": test, "p": p}


def over_utterances(
    target: Target, first: Measured, second: Measured, draws: int = DRAWS, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Per metric the difference first - second, each a mean over its seeds, and its paired bootstrap.

    Returns:
        metric -> difference; the 95% interval's ends `low` and `high`; `excludes_zero`; and `p`, twice the smaller
        share of draws in which the difference is on one side of zero, itself counted among the draws.

    Raises:
        DataError: the runs did not measure the same utterances with the same labels.
    """
    second = aligned(first, second)
    n = len(first.ids)
    names = metrics.names(target)

    def difference(rows: Array) -> list[float]:
        truth = first.truth[rows]
        sides = []
        for run in (first, second):
            each = [metrics.measure(target, truth, p[rows]) for p in run.predictions.values()]
            sides.append([sum(e[m] for e in each) / len(each) for m in names])
        return [a - b for a, b in zip(*sides, strict=True)]

    seen = difference(np.arange(n))
    random = np.random.default_rng(seed)
    drawn = np.asarray([difference(random.integers(0, n, n)) for _ in range(draws)])
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    above, below = (drawn >= 0).sum(axis=0) + 1, (drawn <= 0).sum(axis=0) + 1
    p = np.minimum(1.0, 2 * np.minimum(above, below) / (draws + 1))
    return {
        name: {
            "difference": seen[i],
            "low": float(low[i]),
            "high": float(high[i]),
            "excludes_zero": bool(low[i] > 0 or high[i] < 0),
            "p": float(p[i]),
            "draws": draws,
        }
        for i, name in enumerate(names)
    }


def aligned(first: Measured, second: Measured) -> Measured:
    """`second` in the order of `first`.

    Raises:
        DataError: they are about other utterances, or differ in a label.
    """
    mine, others = set(first.ids), set(second.ids)
    if mine != others or len(first.ids) != len(second.ids):
        alone = sorted(mine ^ others)
        raise DataError(
            f"The runs were tested on different utterances: {len(mine - others)} are in the first alone and "
            f"{len(others - mine)} in the second, as {alone[0]!r}. Only runs with the same test split are compared."
        )
    place = {id_: row for row, id_ in enumerate(second.ids)}
    order = np.asarray([place[id_] for id_ in first.ids])
    truth = second.truth[order]
    if not np.array_equal(truth, first.truth):
        row = int(np.argwhere(truth != first.truth)[0][0])
        raise DataError(f"The runs have different labels, first for {first.ids[row]!r}: they cannot be compared.")
    return Measured(first.ids, truth, {seed: p[order] for seed, p in second.predictions.items()})
