"""Companions: what lies on the frames of a modality beside its own values, made at load time from other features.

The contract, and what the features hold, are in the head of `fuse/arch.py`.

Axes: F frames of a modality of all utterances, T of one utterance, W words, S frames of what a companion is made from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from cache_schema.errors import DataError, SettingsError
from cache_schema.feature_spec import MASK
from fuse.arch import Companion
from fuse.data import Dataset, Laid

if TYPE_CHECKING:
    from cache_schema.feature import Feature
    from cache_schema.store import FeatureStore

SIBLING = {"words": "offsets", "time": MASK}
"""What is read beside `values`, by how a companion is joined."""
BESIDE = ("words", "landmarks")
"""Features that describe others' frames: a modality is not there because of them, nor is it read unless asked for."""


@dataclass(frozen=True)
class Sources:
    """What the companions of an architecture are made from in one dataset.

    Attributes:
        companions: those that there are, by name.
        features: the feature that each is made from.
        without: the others: name -> why there is none, and what the architecture then does.
    """

    companions: dict[str, Companion]
    features: dict[str, Feature]
    without: dict[str, str]


def choose_companions(
    store: FeatureStore,
    dataset: str,
    companions: Mapping[str, Companion],
    chosen: Mapping[str, Feature],
    features: Mapping[str, str],
) -> Sources:
    """The feature that each companion is made from, or why there is none.

    Args:
        store: the feature store.
        dataset: name of a dataset in it.
        companions: those that the architecture reads.
        chosen: the feature of each modality that is used.
        features: companion -> feature to use instead of the preferred one, as "words" or "words@1a2b"; other names
            are not looked at.

    Raises:
        SettingsError: a companion cannot be made from the feature that was asked for.
    """
    there = {feature.spec.feature for feature in store.features(dataset)}
    found: dict[str, Feature] = {}
    without: dict[str, str] = {}
    for name, companion in companions.items():
        wanted = features.get(name) or next((n for n in companion.features if n in there), None)
        if wanted is None:
            without[name] = f"the store has no {' or '.join(companion.features)} feature, so {companion.without}"
            continue
        feature_name, _, fingerprint = wanted.partition("@")
        feature = store.feature(dataset, feature_name, fingerprint or None)
        reason = _obstacle(companion, feature, chosen)
        if reason is None:
            found[name] = feature
        elif name in features:
            raise SettingsError(f"{dataset}: {name} cannot be made from {wanted}: {reason}.")
        else:
            without[name] = f"{reason}, so {companion.without}"
    return Sources({name: companions[name] for name in found}, found, without)


def _obstacle(companion: Companion, source: Feature, chosen: Mapping[str, Feature]) -> str | None:
    """Why a companion cannot be made from `source`; None where it can."""
    for modality in (companion.modality, *companion.needs):
        if modality not in chosen:
            return f"{modality} is not used"
    sibling = SIBLING[companion.join]
    if sibling not in [array.name for array in source.spec.arrays]:
        return f"{source.spec.feature} has no {sibling}"
    own = chosen[companion.modality].spec
    if companion.join == "words":
        if "offsets" not in [array.name for array in own.arrays]:
            return f"{own.feature} has no offsets"
        own = chosen["speech"].spec
    for spec in (own, *((source.spec,) if companion.join == "time" else ())):
        if spec.rate_hz is None:
            return f"{spec.feature} has no frame rate"
    return None


def with_companions(data: Dataset, chosen: Mapping[str, Feature], sources: Sources) -> Dataset:
    """The dataset with its companions resident.

    Where a feature failed or is absent for an utterance, its companion is not there.

    Raises:
        DataError: a feature is not extracted for all utterances.
        StoreError: the store cannot be read.
    """
    laid = {}
    for name, companion in sources.companions.items():
        source, own = sources.features[name], chosen[companion.modality]
        ragged = source.load(data.ids, ("values", SIBLING[companion.join]), missing="mask")
        require_extracted(data.name, source, data.ids, ragged.present)
        starts, lengths = data.starts[companion.modality].tolist(), data.lengths[companion.modality].tolist()
        tail = (2,) if companion.join == "words" else source.spec.values.tail
        frames = len(data.frames[companion.modality])
        values = np.zeros((frames, *tail), np.float32 if companion.join == "words" else source.spec.values.dtype)
        there = np.zeros(frames, np.bool_)
        spans = own.load(data.ids, ("offsets",), missing="mask") if companion.join == "words" else None
        for row, (start, length) in enumerate(zip(starts, lengths, strict=True)):
            if not length or not ragged.present[row]:
                continue
            place = slice(start, start + length)
            if spans is None:
                values[place], there[place] = nearest_in_time(
                    length, _rate(own), ragged.row(row), ragged.row(row, "there"), _rate(source)
                )
            else:
                values[place], there[place] = intervals_of_words(
                    spans.row(row, "offsets"), ragged.row(row, "offsets"), ragged.row(row), _rate(chosen["speech"])
                )
        laid[name] = Laid(companion.modality, torch.from_numpy(values), torch.from_numpy(there))
    return replace(data, companions=laid)


def intervals_of_words(
    tokens: NDArray[np.int32], words: NDArray[np.int32], seconds: NDArray[np.float32], rate_hz: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The interval of each token: from the start of its first word to the end of its last, in frames.

    A token has every word with which it shares a character of the text.

    Args:
        tokens: characters of each token, [start, end) (T, 2); an empty span for a special token.
        words: characters of each word, [start, end) (W, 2).
        seconds: start and end of each word (W, 2).
        rate_hz: frames per second.

    Returns:
        First and past-last frame (T, 2), 0 for a token without a word; which tokens have one (T,).
    """
    shared = (tokens[:, :1] < words[:, 1]) & (words[:, 0] < tokens[:, 1:])
    shared &= (tokens[:, :1] < tokens[:, 1:]) & (words[:, 0] < words[:, 1])
    there: NDArray[np.bool_] = np.any(shared, axis=1)
    first = np.where(shared, seconds[:, 0], np.inf).min(axis=1, initial=np.inf)
    last = np.where(shared, seconds[:, 1], -np.inf).max(axis=1, initial=-np.inf)
    frames = np.where(there[:, None], np.stack([first, last], axis=1), 0.0) * rate_hz
    return frames.astype(np.float32), there


def nearest_in_time(
    length: int, rate_hz: float, values: NDArray[Any], there: NDArray[np.bool_], source_hz: float
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """What lies at the middle of each frame: at equal rates the frame of the same number.

    Args:
        length: T, frames to lay it on.
        rate_hz: their rate.
        values: (S, *tail).
        there: at which of its frames there is anything (S,).
        source_hz: its rate.

    Returns:
        (T, *tail), 0 where there is nothing; where there is (T,).
    """
    at = np.floor((np.arange(length) + 0.5) * (source_hz / rate_hz)).astype(np.int64)
    inside = at < len(values)
    found = inside.copy()
    found[inside] &= there[at[inside]]
    laid = np.zeros((length, *values.shape[1:]), values.dtype)
    laid[found] = values[at[found]]
    return laid, found


def require_extracted(dataset: str, feature: Feature, ids: tuple[str, ...], present: NDArray[np.bool_]) -> None:
    """Refuse a feature of which neither data nor a failure or absence are recorded for some of `ids`.

    Raises:
        DataError: names the first.
    """
    if present.all():
        return
    explained = {**feature.failures(), **feature.absences()}
    missing = [i for i, there in zip(ids, present.tolist(), strict=True) if not there and i not in explained]
    if missing:
        raise DataError(
            f"{dataset}: {feature.spec.feature} is not extracted yet for {len(missing)} utterances, the first is "
            f"{missing[0]!r}: run `mer extract --dataset {dataset}`."
        )


def _rate(feature: Feature) -> float:
    """Frames per second of a feature that is known to have a rate."""
    assert feature.spec.rate_hz is not None
    return feature.spec.rate_hz
