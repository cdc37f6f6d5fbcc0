"""Comparisons against scipy and against another formulation, on differences that are there and that are not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from toy_corpus import TARGETS

from cache_schema.errors import DataError
from fuse import metrics
from fuse.statistics import Measured, aligned, over_seeds, over_utterances

RANDOM = np.random.default_rng(3)


def guesses(truth: np.ndarray, right: float, seeds: int, random: np.random.Generator) -> Measured:
    """Predictions of which a share is right, by chance."""
    ids = tuple(f"u{i}" for i in range(len(truth)))
    wrong = lambda: (truth + random.integers(1, 3, len(truth))) % 3  # noqa: E731
    drawn = {s: np.where(random.random(len(truth)) < right, truth, wrong()) for s in range(seeds)}
    return Measured(ids, truth, drawn)


@pytest.mark.parametrize("count", [2, 5, 10])
def test_tests_over_seeds_are_scipys(count: int) -> None:
    first, second = RANDOM.normal(0.7, 0.02, count).tolist(), RANDOM.normal(0.68, 0.02, count).tolist()
    found = over_seeds(first, second)
    expected = stats.ttest_rel(first, second)
    assert found["p"] == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx((interval.low, interval.high))
    assert found["excludes_zero"] == (expected.pvalue < 0.05)
    assert over_seeds(first, second, "wilcoxon")["p"] == pytest.approx(stats.wilcoxon(first, second).pvalue)


def test_equal_seeds_and_equal_differences() -> None:
    assert over_seeds([0.5, 0.6], [0.5, 0.6])["p"] == 1.0 == over_seeds([0.5, 0.6], [0.5, 0.6], "wilcoxon")["p"]
    assert over_seeds([0.75, 0.5], [0.5, 0.25])["p"] == 0.0
    with pytest.raises(DataError, match="the same seeds, two or more"):
        over_seeds([0.5], [0.4])


def test_the_bootstrap_of_accuracy_is_that_of_the_mean_difference() -> None:
    truth = RANDOM.integers(0, 3, 150)
    first, second = guesses(truth, 0.8, 3, RANDOM), guesses(truth, 0.6, 3, RANDOM)
    found = over_utterances(TARGETS[0], first, second, draws=500)["accuracy"]
    hit = [np.mean([p == truth for p in run.predictions.values()], axis=0) for run in (first, second)]
    each = hit[0] - hit[1]
    assert found["difference"] == pytest.approx(each.mean())
    error = each.std() / np.sqrt(len(each))
    assert (found["low"], found["high"]) == pytest.approx(
        (each.mean() - 1.96 * error, each.mean() + 1.96 * error), abs=0.015
    )
    assert found["excludes_zero"] and found["p"] < 0.01


def test_the_bootstrap_finds_nothing_where_there_is_nothing() -> None:
    missed = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        truth = random.integers(0, 3, 80)
        runs = [guesses(truth, 0.7, 2, random) for _ in range(2)]
        missed += over_utterances(TARGETS[0], *runs, draws=100, seed=seed)["accuracy"]["excludes_zero"]
    assert missed <= 7, "a 95% interval leaves zero out in one of twenty"


def test_regression_has_its_metrics_and_the_order_of_utterances_does_not_matter() -> None:
    truth = RANDOM.uniform(-3, 3, 60)
    ids = tuple(f"u{i}" for i in range(60))
    first = Measured(ids, truth, {0: truth + 0.1, 1: truth - 0.1})
    second = Measured(ids, truth, {0: truth + RANDOM.normal(size=60)})
    found = over_utterances(TARGETS[2], first, second, draws=100)
    assert set(found) == set(metrics.names(TARGETS[2]))
    assert found["mae"]["high"] < 0 < found["pearson"]["low"]
    order = RANDOM.permutation(60)
    turned = Measured(tuple(ids[i] for i in order), truth[order], {0: second.predictions[0][order]})
    assert over_utterances(TARGETS[2], first, turned, draws=100) == found


def test_other_utterances_or_labels_are_refused() -> None:
    truth = np.array([0, 1, 2])
    first = Measured(("a", "b", "c"), truth, {0: truth})
    with pytest.raises(DataError, match="1 are in the first alone and 1 in the second, as 'c'"):
        aligned(first, Measured(("a", "b", "d"), truth, {0: truth}))
    with pytest.raises(DataError, match="different labels, first for 'b'"):
        aligned(first, Measured(("a", "b", "c"), np.array([0, 2, 2]), {0: truth}))
