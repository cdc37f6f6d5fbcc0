"""How good predictions are, by the field's published protocols; and what several seeds say together.

Classification: scikit-learn's definitions, where a class that occurs in neither truth nor prediction has no part in a
macro mean, and a ratio 0 / 0 is 0. Sentiment from -3 to 3 has the protocols of CMU-MOSI and CMU-MOSEI, as Tsai et al.
2019 and those after them measure: acc7 and acc5, rounded to -3..3 and -2..2; acc2 and f1, negative against positive,
truths of 0 left out; acc2_nonneg and f1_nonneg, negative against the rest, 0 included. Both F1 are weighted.

Axes: N utterances, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache_schema.errors import DataError
from cache_schema.samples import Target

Array = NDArray[Any]
LOWER_IS_BETTER = frozenset({"loss", "mae", "mse", "rmse"})
CLASSIFICATION = ("accuracy", "macro_f1", "weighted_f1", "uar", "precision", "recall")
MULTILABEL = (*CLASSIFICATION, "micro_f1", "binary_f1", "subset_accuracy")
REGRESSION = ("mae", "mse", "rmse", "pearson", "ccc")
SENTIMENT = ("acc2", "f1", "acc2_nonneg", "f1_nonneg", "acc5", "acc7")


def names(target: Target) -> tuple[str, ...]:
    """The metrics of a target; those of SENTIMENT where its range is -3 to 3."""
    if target.kind != "regression":
        return MULTILABEL if target.kind == "multilabel" else CLASSIFICATION
    return REGRESSION + (SENTIMENT if (target.low, target.high) == (-3, 3) else ())


def measure(target: Target, truth: Array, prediction: Array) -> dict[str, float]:
    """Every metric of `names(target)`.

    Args:
        target: what is predicted.
        truth: class indices (N,), 0 or 1 per class (N, C), or numbers (N,).
        prediction: the same.

    Raises:
        DataError: there is nothing to measure, the shapes differ, or a value is not finite.
    """
    _check(truth, prediction)
    if target.kind == "classification":
        return classification(confusion(truth, prediction, len(target.classes)))
    if target.kind == "multilabel":
        return multilabel(truth, prediction)
    found = regression(truth, prediction)
    return found | sentiment(truth, prediction) if names(target) != REGRESSION else found


def confusion(truth: Array, prediction: Array, classes: int) -> NDArray[np.int64]:
    """How often class i (row) was taken for class j (column): (C, C).

    Raises:
        DataError: there is nothing to count, or something else than class indices.
    """
    _check(truth, prediction)
    for name, values in (("truth", truth), ("prediction", prediction)):
        if ((values < 0) | (values >= classes) | (values != np.floor(values))).any():
            raise DataError(f"A {name} is none of the class indices 0 to {classes - 1}.")
    return np.bincount(truth.astype(np.int64) * classes + prediction.astype(np.int64), minlength=classes**2).reshape(
        classes, classes
    )


def per_class(table: NDArray[np.int64]) -> dict[str, Array]:
    """Precision, recall, F1 and support of each class (C,), from a confusion matrix."""
    right, truths, predictions = np.diag(table), table.sum(axis=1), table.sum(axis=0)
    return {
        "precision": _ratio(right, predictions),
        "recall": _ratio(right, truths),
        "f1": _ratio(2 * right, truths + predictions),
        "support": truths,
    }


def classification(table: NDArray[np.int64]) -> dict[str, float]:
    """Accuracy, macro and weighted F1, unweighted average recall, macro precision and recall, of a confusion matrix."""
    each, n = per_class(table), table.sum()
    occurs = (table.sum(axis=0) + table.sum(axis=1)) > 0
    return {
        "accuracy": float(np.trace(table) / n),
        "macro_f1": float(each["f1"][occurs].mean()),
        "weighted_f1": float(each["f1"] @ each["support"] / n),
        "uar": float(each["recall"][each["support"] > 0].mean()),
        "precision": float(each["precision"][occurs].mean()),
        "recall": float(each["recall"][occurs].mean()),
    }


def per_label(truth: Array, prediction: Array) -> dict[str, Array]:
    """What is said of each label (C,), of 0 or 1 per label (N, C).

    precision, recall, f1 and support of its positives; accuracy; weighted_accuracy, the mean of the recall of its
    positives and of its negatives, where it has any; binary_f1, the F1 of either, weighted by how many there are. The
    last two are how CMU-MOSEI's emotions are measured (Zadeh et al. 2018; the weighted accuracy of Tong et al. 2017).

    Raises:
        DataError: there is nothing to measure, or a value is neither 0 nor 1.
    """
    _check(truth, prediction)
    if not (np.isin(truth, (0, 1)).all() and np.isin(prediction, (0, 1)).all()):
        raise DataError("Multilabel metrics take 0 or 1 per label.")
    yes = _one_side(truth, prediction)
    no = _one_side(1 - truth, 1 - prediction)
    sides = (yes["support"] > 0).astype(int) + (no["support"] > 0)
    return {
        **yes,
        "accuracy": (truth == prediction).mean(axis=0),
        "weighted_accuracy": (yes["recall"] + no["recall"]) / sides,
        "binary_f1": (yes["f1"] * yes["support"] + no["f1"] * no["support"]) / len(truth),
    }


def _one_side(truth: Array, prediction: Array) -> dict[str, Array]:
    """Precision, recall, F1 and support of each label's ones (C,)."""
    hit = (truth * prediction).sum(axis=0)
    truths, predictions = truth.sum(axis=0), prediction.sum(axis=0)
    return {
        "precision": _ratio(hit, predictions),
        "recall": _ratio(hit, truths),
        "f1": _ratio(2 * hit, truths + predictions),
        "support": truths,
    }


def multilabel(truth: Array, prediction: Array) -> dict[str, float]:
    """Of 0 or 1 per label (N, C): means over the labels of `per_label`, where nothing else is said.

    accuracy: share of labels that are right; uar: of weighted_accuracy; weighted_f1: F1 weighted by the positives;
    micro_f1: F1 of all labels' positives in one; subset_accuracy: share of utterances with every label right.
    """
    each = per_label(truth, prediction)
    positive = each["support"]
    return {
        "accuracy": float(each["accuracy"].mean()),
        "macro_f1": float(each["f1"].mean()),
        "weighted_f1": float(_ratio(np.asarray(each["f1"] @ positive), np.asarray(positive.sum()))),
        "uar": float(each["weighted_accuracy"].mean()),
        "precision": float(each["precision"].mean()),
        "recall": float(each["recall"].mean()),
        "micro_f1": float(
            _ratio(np.asarray(2 * (truth * prediction).sum()), np.asarray(truth.sum() + prediction.sum()))
        ),
        "binary_f1": float(each["binary_f1"].mean()),
        "subset_accuracy": float((truth == prediction).all(axis=1).mean()),
    }


def regression(truth: Array, prediction: Array) -> dict[str, float]:
    """Errors and correlations of numbers (N,), in float64.

    pearson is 0 where truth or prediction never varies, ccc is 1 where both are the same constant.
    """
    _check(truth, prediction)
    t, p = truth.astype(np.float64), prediction.astype(np.float64)
    error = p - t
    mse = float(np.mean(error**2))
    dt, dp = t - t.mean(), p - p.mean()
    covariance, spread = float(np.mean(dt * dp)), float(np.sqrt(np.mean(dt**2)) * np.sqrt(np.mean(dp**2)))
    agreement = float(np.mean(dt**2) + np.mean(dp**2) + (t.mean() - p.mean()) ** 2)
    varies = np.ptp(t) > 0 and np.ptp(p) > 0 and spread > 0
    return {
        "mae": float(np.mean(np.abs(error))),
        "mse": mse,
        "rmse": math.sqrt(mse),
        "pearson": float(np.clip(covariance / spread, -1, 1)) if varies else 0.0,
        "ccc": 2 * covariance / agreement if agreement > 0 else 1.0,
    }


def sentiment(truth: Array, prediction: Array) -> dict[str, float]:
    """The accuracies and F1 of CMU-MOSI/MOSEI on sentiment from -3 to 3; acc2 and f1 are 0 where every truth is 0."""
    _check(truth, prediction)
    nonzero = truth != 0
    signs = {"accuracy": 0.0, "weighted_f1": 0.0}
    if nonzero.any():
        signs = classification(confusion(truth[nonzero] > 0, prediction[nonzero] > 0, 2))
    nonneg = classification(confusion(truth >= 0, prediction >= 0, 2))
    return {
        "acc2": signs["accuracy"],
        "f1": signs["weighted_f1"],
        "acc2_nonneg": nonneg["accuracy"],
        "f1_nonneg": nonneg["weighted_f1"],
        "acc5": _rounded_accuracy(truth, prediction, 2),
        "acc7": _rounded_accuracy(truth, prediction, 3),
    }


def _rounded_accuracy(truth: Array, prediction: Array, most: int) -> float:
    """How often both round to the same of -most .. most; halves go to the even number, as in the field's code."""
    return float((np.round(np.clip(prediction, -most, most)) == np.round(np.clip(truth, -most, most))).mean())


def summary(per_seed: Sequence[float]) -> dict[str, Any]:
    """Mean, sample standard deviation and half width of the Student-t 95% interval of the mean over the seeds.

    With one seed sd and ci95 are None.
    """
    values = np.asarray(per_seed, dtype=np.float64)
    if not len(values) or not np.isfinite(values).all():
        raise DataError(f"There is no mean of {list(per_seed)}: a value is missing or not finite.")
    spread: dict[str, float | None] = {"sd": None, "ci95": None}
    if len(values) > 1:
        sd = float(values.std(ddof=1))
        spread = {"sd": sd, "ci95": _t975(len(values) - 1) * sd / math.sqrt(len(values))}
    return {"mean": float(values.mean()), **spread, "per_seed": [float(v) for v in values]}


def paired_difference(first: Sequence[float], second: Sequence[float]) -> dict[str, Any]:
    """`summary` of first - second, seed by seed, with the interval's ends `low` and `high` and whether it excludes 0.

    Raises:
        DataError: not the same number of seeds, or fewer than two.
    """
    if len(first) != len(second) or len(first) < 2:
        raise DataError(f"A paired difference needs the same seeds, two or more: got {len(first)} and {len(second)}.")
    found = summary([a - b for a, b in zip(first, second, strict=True)])
    low, high = found["mean"] - found["ci95"], found["mean"] + found["ci95"]
    return {**found, "low": low, "high": high, "excludes_zero": low > 0 or high < 0}


def _t975(freedom: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))


def _ratio(above: Array, below: Array) -> Array:
    return np.divide(above, below, out=np.zeros(np.shape(below)), where=below != 0)


def _check(truth: Array, prediction: Array) -> None:
    if truth.shape != prediction.shape or truth.size == 0:
        raise DataError(f"Metrics need as many predictions as truths: got {prediction.shape} for {truth.shape}.")
    for name, values in (("truth", truth), ("prediction", prediction)):
        if not np.isfinite(values).all():
            raise DataError(
                f"Metrics refuse a {name} that is not finite, first at row {np.argwhere(~np.isfinite(values))[0][0]}."
            )
