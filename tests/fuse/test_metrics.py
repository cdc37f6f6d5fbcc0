"""Metrics against scikit-learn and scipy, degenerate cases included."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from sklearn import metrics as sk

from cache_schema.errors import DataError
from cache_schema.samples import Target
from fuse import metrics

THREE = Target(name="emotion", kind="classification", classes=("a", "b", "c"))
LABELS = Target(name="emotions", kind="multilabel", classes=("a", "b", "c"))
SENTIMENT = Target(name="sentiment", kind="regression", low=-3, high=3)
AROUSAL = Target(name="arousal", kind="regression", low=1, high=9)
RANDOM = np.random.default_rng(0)
PATIENT = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
"""The same examples every time, however busy the machine is."""

CASES = [
    (RANDOM.integers(0, 3, 50), RANDOM.integers(0, 3, 50)),
    (np.array([0, 1, 2]), np.array([0, 1, 2])),
    (np.array([0, 0, 1]), np.array([1, 1, 0])),
    (np.array([0, 0, 0]), np.array([0, 0, 0])),
    (np.array([0, 0, 1, 1]), np.array([2, 2, 2, 2])),
    (np.array([0, 0, 1, 1]), np.array([0, 0, 0, 0])),
]


@pytest.mark.parametrize(("truth", "prediction"), CASES)
def test_classification_is_scikit_learns(truth: np.ndarray, prediction: np.ndarray) -> None:
    found = metrics.measure(THREE, truth, prediction)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {
            "accuracy": sk.accuracy_score(truth, prediction),
            "macro_f1": sk.f1_score(truth, prediction, average="macro", zero_division=0),
            "weighted_f1": sk.f1_score(truth, prediction, average="weighted", zero_division=0),
            "uar": sk.balanced_accuracy_score(truth, prediction),
            "precision": sk.precision_score(truth, prediction, average="macro", zero_division=0),
            "recall": sk.recall_score(truth, prediction, average="macro", zero_division=0),
        }
    assert tuple(found) == metrics.names(THREE)
    assert found == pytest.approx(expected)
    table = metrics.confusion(truth, prediction, 3)
    assert (table == sk.confusion_matrix(truth, prediction, labels=[0, 1, 2])).all()
    each = metrics.per_class(table)
    p, r, f, s = sk.precision_recall_fscore_support(truth, prediction, labels=[0, 1, 2], zero_division=0)
    for name, values in zip(("precision", "recall", "f1", "support"), (p, r, f, s), strict=True):
        np.testing.assert_allclose(each[name], values)


def integers(values: st.SearchStrategy[int], columns: int | None = None) -> st.SearchStrategy[np.ndarray]:
    """Two arrays of the same length, from 1 to 12 rows: degenerate ones come up by themselves."""

    def draw(n: int) -> st.SearchStrategy[np.ndarray]:
        return arrays(np.int64, (2, n) if columns is None else (2, n, columns), elements=values)

    return st.integers(1, 12).flatmap(draw)


@settings(PATIENT, max_examples=60)
@given(integers(st.integers(0, 3)))
def test_classification_of_anything_is_scikit_learns(both: np.ndarray) -> None:
    truth, prediction = both
    target = Target(name="emotion", kind="classification", classes=("a", "b", "c", "d"))
    found = metrics.measure(target, truth, prediction)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for average, names in (
            ("macro", ("precision", "recall", "macro_f1")),
            ("weighted", (None, None, "weighted_f1")),
        ):
            values = sk.precision_recall_fscore_support(truth, prediction, average=average, zero_division=0)
            for name, value in zip(names, values, strict=False):
                assert name is None or found[name] == pytest.approx(value)
        assert found["accuracy"] == pytest.approx(sk.accuracy_score(truth, prediction))
        assert found["uar"] == pytest.approx(sk.balanced_accuracy_score(truth, prediction))


@settings(PATIENT, max_examples=40)
@given(integers(st.integers(0, 1), columns=3))
def test_multilabel_is_scikit_learns(both: np.ndarray) -> None:
    truth, prediction = both
    found = metrics.measure(LABELS, truth, prediction)
    each = metrics.per_label(truth, prediction)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sides = [sk.balanced_accuracy_score(truth[:, c], prediction[:, c]) for c in range(3)]
        binary = [sk.f1_score(truth[:, c], prediction[:, c], average="weighted", zero_division=0) for c in range(3)]
    p, r, f, s = sk.precision_recall_fscore_support(truth, prediction, zero_division=0)
    for name, values in (("precision", p), ("recall", r), ("f1", f), ("support", s), ("weighted_accuracy", sides)):
        np.testing.assert_allclose(each[name], values)
    np.testing.assert_allclose(each["binary_f1"], binary)
    np.testing.assert_allclose(each["accuracy"], [sk.accuracy_score(truth[:, c], prediction[:, c]) for c in range(3)])
    expected = {
        "accuracy": 1 - sk.hamming_loss(truth, prediction),
        "macro_f1": sk.f1_score(truth, prediction, average="macro", zero_division=0),
        "weighted_f1": sk.f1_score(truth, prediction, average="weighted", zero_division=0),
        "uar": np.mean(sides),
        "precision": sk.precision_score(truth, prediction, average="macro", zero_division=0),
        "recall": sk.recall_score(truth, prediction, average="macro", zero_division=0),
        "micro_f1": sk.f1_score(truth, prediction, average="micro", zero_division=0),
        "binary_f1": np.mean(binary),
        "subset_accuracy": sk.accuracy_score(truth, prediction),
    }
    assert found == pytest.approx(expected)
    assert tuple(found) == metrics.names(LABELS)


@pytest.mark.parametrize("case", ["never", "always"])
def test_a_label_that_never_or_always_occurs(case: str) -> None:
    truth, constant = RANDOM.integers(0, 2, (40, 3)), int(case == "always")
    truth[:, 2] = constant
    found = metrics.per_label(truth, np.full_like(truth, constant))
    assert found["weighted_accuracy"][2] == 1.0 and found["weighted_accuracy"][0] == 0.5
    assert found["binary_f1"][2] == 1.0 and found["support"][2] == 40 * constant


def test_regression_is_scipys() -> None:
    truth = RANDOM.normal(size=60)
    prediction = 0.5 * truth + RANDOM.normal(size=60)
    found = metrics.regression(truth, prediction)
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(truth, prediction))
    assert found["mse"] == pytest.approx(sk.mean_squared_error(truth, prediction))
    assert found["rmse"] == pytest.approx(found["mse"] ** 0.5)
    assert found["pearson"] == pytest.approx(stats.pearsonr(truth, prediction).statistic)
    agreement = truth.var() + prediction.var() + (truth.mean() - prediction.mean()) ** 2
    assert found["ccc"] == pytest.approx(2 * np.cov(truth, prediction, ddof=0)[0, 1] / agreement)
    assert set(metrics.measure(AROUSAL, truth, prediction)) == set(metrics.REGRESSION)


def test_regression_of_constants() -> None:
    ones, line = np.ones(4), np.arange(4.0)
    assert metrics.regression(line, ones)["pearson"] == 0.0
    assert metrics.regression(ones, line)["pearson"] == 0.0
    assert metrics.regression(line, ones)["ccc"] == 0.0
    assert metrics.regression(ones, ones)["ccc"] == 1.0
    assert metrics.regression(line, line)["ccc"] == pytest.approx(1.0)
    assert metrics.regression(line, -line)["pearson"] == pytest.approx(-1.0)
    assert metrics.regression(np.full(3, 0.1), np.full(3, 0.1))["pearson"] == 0.0


numbers = st.integers(-5000, 5000).map(lambda n: n / 1000)


@settings(PATIENT, max_examples=60)
@given(st.integers(2, 12).flatmap(lambda n: arrays(np.float64, (2, n), elements=numbers)))
def test_regression_of_anything_has_a_second_formulation(both: np.ndarray) -> None:
    truth, prediction = both
    found = metrics.regression(truth, prediction)
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(truth, prediction))
    assert found["mse"] == pytest.approx(sk.mean_squared_error(truth, prediction))
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(truth, prediction))
    # Lin 1989: 1 - E[(t - p)^2] / what it would be of independent t and p.
    independent = truth.var() + prediction.var() + (truth.mean() - prediction.mean()) ** 2
    assert found["ccc"] == pytest.approx(1 - found["mse"] / independent if independent > 0 else 1.0, abs=1e-9)
    if min(np.ptp(truth), np.ptp(prediction)) > 0:
        assert found["pearson"] == pytest.approx(stats.pearsonr(truth, prediction).statistic, abs=1e-9)
    else:
        assert found["pearson"] == 0.0


scores = st.one_of(st.sampled_from([-3.0, -1.5, -0.5, 0.0, 0.5, 1.5, 2.5, 3.0]), st.floats(-4, 4, allow_nan=False))


def seven(value: float, most: int) -> int:
    """The nearest whole number, the even one of two, within -most .. most."""
    nearest = round(value)
    return max(-most, min(most, nearest))


@settings(PATIENT, max_examples=60)
@given(st.integers(1, 12).flatmap(lambda n: arrays(np.float64, (2, n), elements=scores)))
def test_sentiment_protocols_have_a_second_formulation(both: np.ndarray) -> None:
    truth, prediction = np.clip(both[0], -3, 3), both[1]
    found = metrics.measure(SENTIMENT, truth, prediction)
    assert tuple(found) == metrics.names(SENTIMENT)
    pairs = list(zip(truth.tolist(), prediction.tolist(), strict=True))
    for name, most in (("acc5", 2), ("acc7", 3)):
        assert found[name] == pytest.approx(sum(seven(t, most) == seven(p, most) for t, p in pairs) / len(pairs))
    told = [(t > 0, p > 0) for t, p in pairs if t != 0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for accuracy, f1, sides in (
            ("acc2", "f1", told),
            ("acc2_nonneg", "f1_nonneg", [(t >= 0, p >= 0) for t, p in pairs]),
        ):
            if not sides:
                assert (found[accuracy], found[f1]) == (0.0, 0.0)
                continue
            first, second = zip(*sides, strict=True)
            assert found[accuracy] == pytest.approx(sk.accuracy_score(first, second))
            assert found[f1] == pytest.approx(sk.f1_score(first, second, average="weighted", zero_division=0))


def test_sentiment_protocols_on_a_case_worked_by_hand() -> None:
    truth = np.array([-3.0, -0.4, 0.0, 0.6, 2.4, 3.0])
    prediction = np.array([-3.6, 0.2, -0.1, 0.9, 1.6, 2.2])
    found = metrics.measure(SENTIMENT, truth, prediction)
    # Without the truth of 0: -, -, +, +, + against -, +, +, +, +.
    assert found["acc2"] == pytest.approx(4 / 5)
    # F1 of - is 2/3 (2 of them), of + is 6/7 (3 of them).
    assert found["f1"] == pytest.approx((2 * 2 / 3 + 3 * 6 / 7) / 5)
    # Negative or not: -, -, n, n, n, n against -, n, -, n, n, n.
    assert found["acc2_nonneg"] == pytest.approx(4 / 6)
    # F1 of - is 1/2 (2 of them), of n is 3/4 (4 of them).
    assert found["f1_nonneg"] == pytest.approx((2 * 1 / 2 + 4 * 3 / 4) / 6)
    # Rounded: -3, 0, 0, 1, 2, 3 against -3, 0, 0, 1, 2, 2; within -2 .. 2 the last two are the same.
    assert found["acc7"] == pytest.approx(5 / 6)
    assert found["acc5"] == 1.0
    assert metrics.sentiment(np.zeros(3), np.ones(3))["acc2"] == 0.0


def test_sentiment_of_constant_predictions() -> None:
    truth = np.array([-2.0, -1.0, 0.0, 1.0, 2.0, 3.0])
    found = metrics.sentiment(truth, np.zeros(6))
    # 0 is not positive, and not negative.
    assert (found["acc2"], found["acc2_nonneg"], found["acc7"]) == pytest.approx((2 / 5, 4 / 6, 1 / 6))


@pytest.mark.parametrize(
    ("truth", "prediction"),
    [
        (np.array([1.0, np.nan]), np.ones(2)),
        (np.ones(2), np.array([np.inf, 1.0])),
        (np.ones(2), np.ones(3)),
        (np.ones(0), np.ones(0)),
    ],
)
def test_nothing_is_measured_on_what_is_not_a_number(truth: np.ndarray, prediction: np.ndarray) -> None:
    for measure in (metrics.regression, metrics.sentiment, metrics.multilabel, metrics.per_label):
        with pytest.raises(DataError):
            measure(truth, prediction)
    with pytest.raises(DataError):
        metrics.confusion(truth, prediction, 2)


@pytest.mark.parametrize("wrong", [3, -1, 0.5])
def test_what_is_no_class_is_refused(wrong: float) -> None:
    for truth, prediction in ((np.array([0, wrong]), np.zeros(2)), (np.zeros(2), np.array([wrong, 0]))):
        with pytest.raises(DataError, match="class indices 0 to 2"):
            metrics.confusion(truth, prediction, 3)


def test_what_is_neither_0_nor_1_is_refused() -> None:
    with pytest.raises(DataError, match="0 or 1"):
        metrics.multilabel(np.array([[0, 2]]), np.array([[0, 1]]))


def test_seeds_have_a_student_t_interval() -> None:
    values = [0.61, 0.64, 0.66, 0.6, 0.63]
    found = metrics.summary(values)
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert found["mean"] == pytest.approx(np.mean(values)) and found["sd"] == pytest.approx(np.std(values, ddof=1))
    assert found["mean"] - found["ci95"] == pytest.approx(low) and found["mean"] + found["ci95"] == pytest.approx(high)
    assert found["per_seed"] == values
    assert metrics.summary([0.5]) == {"mean": 0.5, "sd": None, "ci95": None, "per_seed": [0.5]}
    with pytest.raises(DataError):
        metrics.summary([0.5, float("nan")])


def test_paired_difference_is_the_paired_t_test() -> None:
    first, second = [0.7, 0.72, 0.69, 0.75], [0.68, 0.69, 0.69, 0.7]
    found = metrics.paired_difference(first, second)
    interval = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx((interval.low, interval.high))
    assert found["excludes_zero"] is False
    assert metrics.paired_difference([0.9, 0.91, 0.92], [0.5, 0.52, 0.51])["excludes_zero"] is True
    with pytest.raises(DataError):
        metrics.paired_difference([0.5, 0.6], [0.5])
