"""Writing MMSA's feature pickle; `formats/mmsa.py` says how it is organised."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cache_schema.errors import DataError, SettingsError
from cache_schema.exchange.exporting import Selection
from cache_schema.feature_spec import Modality
from cache_schema.registry import unknown_name
from cache_schema.samples import SPLITS, Split, Target, Utterance
from cache_schema.settings import Spec

KEYS: dict[str, Modality] = {"text": "text", "audio": "speech", "vision": "vision"}
"""What MMSA calls the modalities."""
MMSA_SPLIT: dict[Split, str] = {"train": "train", "val": "valid", "test": "test"}


class ExportConfig(Spec):
    """What the dictionary holds."""

    aligned: bool = False
    """Whether frame k of all three modalities belong together; then no audio_lengths and vision_lengths are written."""
    regression: str | None = None
    """The target of regression_labels; default the first regression target."""
    classification: str | None = None
    """The target of classification_labels and annotations; default the first classification target."""
    leave_out: bool = False
    """Leave out samples without a split or without the labels, instead of refusing."""


def write(selection: Selection, to: Path, config: ExportConfig) -> list[str]:
    """Write the pickle; see `foreign.py` for the contract."""
    chosen = _chosen(selection)
    regression = _target(selection, config.regression, "regression")
    classification = _target(selection, config.classification, "classification")
    if regression is None and classification is None:
        raise DataError(f"{selection.corpus.name} has no regression and no classification target for MMSA.")
    kept = _kept(selection, regression, classification, config.leave_out)
    lengths = {key: selection.frames(name) for key, name in chosen.items()}
    if config.aligned:
        for utterance in kept:
            if len({counts[utterance.id] for counts in lengths.values()}) > 1:
                found = ", ".join(f"{key} {counts[utterance.id]}" for key, counts in lengths.items())
                raise DataError(f"{utterance.id}: its modalities are not aligned ({found} frames).")
    document: dict[str, dict[str, Any]] = {}
    for split in SPLITS:
        rows = [u for u in kept if u.split == split]
        one: dict[str, Any] = {"id": [u.id for u in rows], "raw_text": [u.text or "" for u in rows]}
        for key, name in chosen.items():
            longest = max((lengths[key][u.id] for u in kept), default=0)
            width = selection.features[name].spec.values.tail[0]
            values = np.zeros((len(rows), longest, width), np.float32)
            for index, (_, row) in enumerate(selection.rows(name, rows)):
                if isinstance(row, dict):
                    values[index, : len(row["values"])] = row["values"]
            one[key] = values
            if key == "text" or not config.aligned:
                one[f"{key}_lengths"] = [lengths[key][u.id] for u in rows]
        if regression is not None:
            one["regression_labels"] = np.array([u.scores[regression.name] for u in rows], np.float64)
        if classification is not None:
            one["annotations"] = [u.labels[classification.name] for u in rows]
            one["classification_labels"] = np.array([classification.classes.index(a) for a in one["annotations"]])
        document[MMSA_SPLIT[split]] = one
    with to.open("xb") as file:
        pickle.dump(document, file, protocol=4)
    return _notes(selection, kept, document, regression)


def _chosen(selection: Selection) -> dict[str, str]:
    """The feature of each of MMSA's keys."""
    chosen: dict[str, str] = {}
    for name, feature in selection.features.items():
        key = next((k for k, modality in KEYS.items() if modality == feature.spec.modality), None)
        if key is None:
            raise SettingsError(f"{name} is a feature of {feature.spec.modality}, which MMSA does not have.")
        if key in chosen:
            raise SettingsError(f"{chosen[key]} and {name} are both of {feature.spec.modality}: name one feature each.")
        if len(feature.spec.values.tail) != 1:
            raise DataError(f"{name} has frames of the shape {feature.spec.values.tail}; MMSA reads vectors.")
        if selection.missing[name] and any(u.id in selection.missing[name] for u in selection.utterances):
            first = next(u.id for u in selection.utterances if u.id in selection.missing[name])
            raise DataError(
                f"{name}: {len(selection.missing[name])} samples have none, the first is {first!r}, and MMSA has no "
                "way to say so. Leave them out with --drop-missing."
            )
        chosen[key] = name
    return chosen


def _target(selection: Selection, name: str | None, kind: str) -> Target | None:
    there = {t.name: t for t in selection.corpus.targets if t.kind == kind}
    if name is None:
        return next(iter(there.values()), None)
    if name not in there:
        raise SettingsError(unknown_name(f"{kind} target", name, list(there)))
    return there[name]


def _kept(
    selection: Selection, regression: Target | None, classification: Target | None, leave_out: bool
) -> list[Utterance]:
    kept = [
        u
        for u in selection.utterances
        if u.split is not None
        and (regression is None or regression.name in u.scores)
        and (classification is None or classification.name in u.labels)
    ]
    lacking = len(selection.utterances) - len(kept)
    if lacking and not leave_out:
        raise DataError(
            f"{lacking} of {len(selection.utterances)} samples have no split or no label. Leave them out with --set "
            "leave_out=true."
        )
    if not kept:
        raise DataError("No sample has a split and the labels: there is nothing to export.")
    return kept


def _notes(
    selection: Selection, kept: Sequence[Utterance], document: Mapping[str, Any], regression: Target | None
) -> list[str]:
    notes = []
    if len(kept) < len(selection.utterances):
        notes.append(f"{len(selection.utterances) - len(kept)} samples without a split or a label were left out.")
    if regression is None:
        notes.append("There are no regression_labels, which MMSA's trainers read: the dataset has no numbers for them.")
    if empty := [split for split, one in document.items() if not one["id"]]:
        notes.append(f"No samples in {', '.join(empty)}: MMSA needs some.")
    if absent := [key for key in KEYS if key not in document["train"]]:
        notes.append(f"Nothing for {', '.join(absent)}: MMSA reads all three.")
    if untold := sum(u.text is None for u in kept):
        notes.append(f"{untold} samples have no transcript: their raw_text is empty.")
    for name, feature in selection.features.items():
        if len(feature.spec.arrays) > 1:
            notes.append(f"{name}: only its values were exported, MMSA has no place for other arrays.")
    return notes
