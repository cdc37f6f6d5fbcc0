"""MERTools' feature folders: `NAME.npy` per sample, or a folder `NAME/` of one file per frame, and a file of labels.

Layout as the `read_data.py` of MERTools and MERBench reads it (https://github.com/zeroQiaoba/MERTools): a vector for
an utterance, a matrix (frames, width), or a folder whose files, sorted, are the frames. An empty array means that
nothing was found, as no face; it is absent here, not a frame of zeros. Labels are an `.npz` with `train_corpus`,
`test1_corpus`, ... of pickled dictionaries, read as data, or a CSV. A `val` of -10, or none, is no label.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cache_schema.errors import DataError, first_line
from cache_schema.exchange.foreign import (
    SPLIT_NAMES,
    Description,
    Foreign,
    ForeignArray,
    ForeignFeature,
    feature_name,
    modality_of,
    sha256_of,
)
from cache_schema.exchange.npy_files import read_npy, read_npz
from cache_schema.rows import Absent, Row
from cache_schema.samples import Split, Target, Utterance

SUMMARY = "npy feature folders of MERTools and MERBench with their label files (import)"
LAYOUT = """\
FEATURES/NAME.npy                   (width,) or (frames, width) of a sample; one FEATURES folder per SOURCE
FEATURES/NAME/*.npy                 or a folder of frames, in the order of their names
label.npz or .csv                   --set labels=FILE: {name: {emo, val}} per split, or columns name, discrete, valence
Say of which modality each folder is: --set 'modalities={"FEATURES": "speech"}'."""

NO_VALENCE = -10.0


class ImportConfig(Description):
    """What the folders and the labels are."""

    modalities: dict[str, str] = Field(default_factory=dict)
    """The modality of each folder, by its name, where that does not tell it (text, audio, vision, ...)."""
    names: dict[str, str] = Field(default_factory=dict)
    """What the features are called in the store, by the folder's name."""
    labels: str | None = None
    """The file of labels, .npz or .csv; None: no labels, and the samples are those of the folders."""
    emotion: str | None = "emotion"
    """The target that `emo` is of; null leaves it out."""
    valence: str | None = "valence"
    """The target that `val` is of; null leaves it out."""
    classes: tuple[str, ...] = ()
    """What the numbers in `emo` mean, in order; empty: they are called by their numbers."""
    columns: tuple[str, str, str] = ("name", "discrete", "valence")
    """The columns of a CSV of labels: name, emotion, valence."""


@contextmanager
def read(sources: Sequence[Path], config: ImportConfig) -> Iterator[Foreign]:
    """The samples and features of folders.

    Raises:
        DataError: a folder or the labels cannot be read.
        SettingsError: a folder's modality is not said.
    """
    folders = [_listing(source) for source in sources]
    notes: list[str] = []
    labelled = _labels(Path(config.labels), config, notes) if config.labels is not None else {}
    ids = list(labelled) or sorted({name for listing in folders for name in listing})
    utterances = [_utterance(id_, *labelled.get(id_, (None, {})), config) for id_ in ids]
    features = [_feature(s, listing, config) for s, listing in zip(sources, folders, strict=True)]
    for source, listing in zip(sources, folders, strict=True):
        if more := sorted(set(listing) - set(ids)):
            notes.append(f"{source}: {len(more)} samples without labels were left out, the first is {more[0]!r}.")
    targets = _targets(utterances, config)
    if config.emotion is not None and config.emotion not in [t.name for t in targets]:
        utterances = [u.model_copy(update={"labels": {}}) for u in utterances]
    yield Foreign(utterances, features, targets, notes=notes)


def _listing(folder: Path) -> dict[str, Path]:
    """The file or folder of each sample."""
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder of features.")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.is_dir() or path.suffix == ".npy":
            name = path.name if path.is_dir() else path.stem
            if name in found:
                raise DataError(f"{folder} has both {name}.npy and a folder {name}.")
            found[name] = path
    if not found:
        raise DataError(f"{folder} holds no .npy files.")
    return found


def _feature(folder: Path, listing: dict[str, Path], config: ImportConfig) -> ForeignFeature:
    modality = modality_of(folder.name, config.modalities, str(folder))
    first = next((f for f in map(_frames, listing.values()) if f.size), None)
    if first is None:
        raise DataError(f"{folder}: every sample is empty.")

    def row(id_: str) -> Row:
        found = _frames(listing[id_])
        return {"values": found} if found.size else Absent("an empty array: nothing was found")

    return ForeignFeature(
        name=feature_name(config.names.get(folder.name, folder.name)),
        modality=modality,
        arrays={"values": ForeignArray(first.dtype, first.shape[1:])},
        ids=listing.keys(),
        row=row,
        files={folder.name: sha256_of(folder)},
    )


def _frames(path: Path) -> NDArray[Any]:
    """A sample's frames (frames, width)."""
    if path.is_dir():
        pieces = [_frames(file) for file in sorted(path.glob("*.npy"))]
        pieces = [piece for piece in pieces if piece.size]
        if len({piece.shape[1:] for piece in pieces}) > 1:
            raise DataError(f"{path}: its files hold frames of different shapes.")
        return np.concatenate(pieces) if pieces else np.empty((0, 0), np.float32)
    values = read_npy(path)
    while values.ndim > 2 and values.shape[0] == 1:
        values = values[0]
    if values.ndim not in (1, 2):
        raise DataError(f"{path} has the shape {values.shape}; a vector or (frames, width) belongs there.")
    return values[None, :] if values.ndim == 1 else values


def _labels(path: Path, config: ImportConfig, notes: list[str]) -> dict[str, tuple[Split | None, dict[str, Any]]]:
    """The split and the labels of each sample."""
    if path.suffix == ".csv":
        return {name: (None, facts) for name, facts in _csv(path, config)}
    found: dict[str, tuple[Split | None, dict[str, Any]]] = {}
    parts: dict[Split | None, list[str]] = {}
    for key, array in read_npz(path).items():
        corpus = array.item() if isinstance(array, np.ndarray) and array.ndim == 0 else array
        split = SPLIT_NAMES.get(re.sub(r"[0-9]*(_corpus)?$", "", key))
        parts.setdefault(split, []).append(key)
        if not isinstance(corpus, dict) or not all(isinstance(one, dict) for one in corpus.values()):
            raise DataError(f"{path}: {key} is no dictionary of labels by sample.")
        for name, facts in corpus.items():
            if str(name) in found:
                raise DataError(f"{path}: {name!r} stands there twice.")
            found[str(name)] = (split, facts)
    notes += [
        f"{path.name}: {', '.join(keys)} are all of the split {split}." for split, keys in parts.items() if keys[1:]
    ]
    return found


def _csv(path: Path, config: ImportConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    name, emotion, valence = config.columns
    seen: set[str] = set()
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            table = csv.DictReader(lines, strict=True)
            for row in table:
                id_ = (row.get(name) or "").strip()
                if not id_ or id_ in seen:
                    raise DataError(f"{path}, line {table.line_num}: no {name}, or one that stands there twice.")
                seen.add(id_)
                yield id_, {"emo": row.get(emotion) or None, "val": row.get(valence) or None}
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV in UTF-8: {first_line(error)}.") from error


def _utterance(id_: str, split: Split | None, facts: dict[str, Any], config: ImportConfig) -> Utterance:
    labels: dict[str, str] = {}
    scores: dict[str, float] = {}
    emotion, valence = facts.get("emo"), facts.get("val")
    if config.emotion is not None and emotion is not None:
        labels[config.emotion] = _class(emotion, id_, config)
    if config.valence is not None and valence not in (None, ""):
        try:
            score = float(valence)
        except (TypeError, ValueError):
            raise DataError(f"{id_}: the val {valence!r} is no number.") from None
        if np.isfinite(score) and score != NO_VALENCE:
            scores[config.valence] = score
    return Utterance.parse({"id": id_, "split": split, "labels": labels, "scores": scores}, id_)


def _class(emotion: Any, id_: str, config: ImportConfig) -> str:
    if isinstance(emotion, str) or not config.classes:
        return str(emotion)
    if not isinstance(emotion, int | np.integer) or not 0 <= emotion < len(config.classes):
        raise DataError(f"{id_}: the emo {emotion!r} is no number of one of {', '.join(config.classes)}.")
    return config.classes[int(emotion)]


def _targets(utterances: Sequence[Utterance], config: ImportConfig) -> tuple[Target, ...]:
    """What the labels tell apart: an `emo` that is the same everywhere is none."""
    targets = []
    if config.emotion is not None:
        classes = config.classes or tuple(
            sorted(
                {u.labels[config.emotion] for u in utterances if u.labels},
                key=lambda c: (len(c) if c.isdecimal() else 0, c),
            )
        )
        if len(classes) > 1:
            targets.append(Target(name=config.emotion, kind="classification", classes=classes))
    if config.valence is not None and any(u.scores for u in utterances):
        targets.append(Target(name=config.valence, kind="regression"))
    return tuple(targets)
