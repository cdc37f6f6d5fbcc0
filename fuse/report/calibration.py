"""Whether probabilities mean what they say.

The expected calibration error and the reliability diagram are those of Guo et al. 2017, "On Calibration of Modern
Neural Networks": predictions in M bins of equal width by confidence; per bin how often they are right against how sure
they are; their absolute difference, weighted by the share of predictions.

Axes: N utterances, C classes, K predictions, M bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cache_schema.errors import DataError
from cache_schema.samples import Target
from fuse.metrics import Array
from fuse.prediction import Predictions

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """Per bin (M), from confidence 0 to 1.

    Attributes:
        count: how many predictions.
        confidence: their mean; nan in an empty bin.
        right: the share that is right; nan in an empty bin.
    """

    count: Array
    confidence: Array
    right: Array

    @property
    def error(self) -> float:
        """The expected calibration error, from 0 to 1."""
        filled = self.count > 0
        gap = np.abs(self.right[filled] - self.confidence[filled])
        return float(gap @ self.count[filled] / self.count.sum())


def certainty(target: Target, seen: Predictions) -> tuple[Array, Array]:
    """How sure each prediction is (K), and whether it is right (K).

    Classification: the probability of the predicted class, one per utterance. Multilabel: the probability of each label
    against whether it is there, K = N * C.

    Raises:
        DataError: there are no probabilities.
    """
    if seen.probabilities is None or seen.truth is None:
        raise DataError(f"{target.name} has no probabilities: it is a {target.kind} target.")
    chances = seen.probabilities.astype(np.float64)
    if target.kind == "multilabel":
        return chances.ravel(), (seen.truth == 1).ravel()
    return chances[np.arange(len(chances)), seen.prediction], seen.prediction == seen.truth


def reliability(confidence: Array, right: Array, bins: int = BINS) -> Reliability:
    """Bins of equal width, each without its lower end but the first.

    Args:
        confidence: from 0 to 1 (K).
        right: true or false (K).
        bins: how many.

    Raises:
        DataError: there is nothing to bin, or a confidence is not from 0 to 1.
    """
    if not len(confidence) or not ((confidence >= -1e-6) & (confidence <= 1 + 1e-6)).all():
        raise DataError("A calibration needs probabilities from 0 to 1.")
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    empty = np.full(bins, np.nan)
    sums = [np.bincount(place, weights=w, minlength=bins) for w in (confidence, right.astype(np.float64))]
    means = [np.divide(s, count, out=empty.copy(), where=count > 0) for s in sums]
    return Reliability(count, means[0], means[1])


def brier(target: Target, seen: Predictions) -> float:
    """Mean squared distance of the probabilities from the truth, summed over the classes (Brier 1950); the mean over
    the labels where there are several."""
    assert seen.probabilities is not None and seen.truth is not None
    chances = seen.probabilities.astype(np.float64)
    if target.kind == "multilabel":
        return float(((chances - seen.truth) ** 2).mean())
    return float(((chances - np.eye(chances.shape[1])[seen.truth]) ** 2).sum(axis=1).mean())
