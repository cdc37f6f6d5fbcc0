"""Stored features, utterance by utterance, for whoever looks at all of them: memory holds a few at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from cache_schema.feature import Feature
from cache_schema.feature_spec import MASK

CHUNK = 256
"""Utterances that are in memory at once."""


def stored_frames(feature: Feature, ids: Sequence[str]) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.bool_]]]:
    """Of every utterance that has the feature: its place in `ids`, its values and which frames there are any in.

    Yields:
        (place, values (frames, width) with all but the first axis flattened, there (frames,)).

    Raises:
        DamagedError: what is stored is not what was written.
    """
    masked = any(array.name == MASK for array in feature.spec.arrays)
    for start in range(0, len(ids), CHUNK):
        ragged = feature.load(ids[start : start + CHUNK], ("values", MASK) if masked else ("values",), missing="mask")
        for index in np.flatnonzero(ragged.present).tolist():
            values = np.asarray(ragged.row(index), np.float32)
            there = ragged.row(index, MASK) if masked else np.ones(len(values), np.bool_)
            yield start + index, values.reshape(len(values), -1), there


def utterance_means(feature: Feature, ids: Sequence[str]) -> tuple[list[int], NDArray[np.float32]]:
    """The mean over the frames of each utterance: (places in `ids`, means (utterances, width)).

    Utterances without the feature, or without a single frame of it, are left out.
    """
    places, means = [], []
    for place, values, there in stored_frames(feature, ids):
        if there.any():
            places.append(place)
            means.append(values[there].mean(axis=0))
    return places, np.array(means, np.float32)


def standardised(means: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each number freed of its mean and scale over all rows (utterances, width); what never changes is left out."""
    spread = means.std(axis=0)
    standard: NDArray[np.float32] = (means - means.mean(axis=0))[:, spread > 0] / spread[spread > 0]
    return standard


def directions(standard: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each row over its length (utterances, width), so that a product of two is their correlation; 0 stays 0."""
    norms = np.linalg.norm(standard, axis=1, keepdims=True)
    unit: NDArray[np.float32] = np.divide(standard, norms, out=np.zeros_like(standard), where=norms > 0)
    return unit
