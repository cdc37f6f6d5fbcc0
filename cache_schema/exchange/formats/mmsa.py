"""MMSA's feature pickle: one dictionary per split with padded arrays (samples, frames, width) and lengths.

Keys as MMSA's `data_loader.py` reads and MMSA-FET writes them (https://github.com/thuiar/MMSA): raw_text, id, text,
audio, vision, text_bert, audio_lengths, vision_lengths, annotations, classification_labels, regression_labels and,
in SIMS, regression_labels_T, _A, _V. Aligned files have no lengths: their three modalities share the frames of the
text, whose length is what `text_bert` marks as read (its second row).

The pickle is read as data (`exchange/pickles.py`): code in it never runs. It is padding that is taken away, and only
where it is all zeros: by the lengths, at the end or at the beginning; without lengths nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cache_schema.errors import DataError, SettingsError
from cache_schema.exchange.foreign import (
    SPLIT_NAMES,
    Description,
    Foreign,
    ForeignArray,
    ForeignFeature,
    feature_name,
    one_source,
    sha256_of,
    unique,
)
from cache_schema.exchange.mmsa_export import KEYS, ExportConfig, write
from cache_schema.exchange.padding import Padded, Padding, frames_by_zeros, unpadded_side
from cache_schema.exchange.pickles import read_pickle
from cache_schema.rows import Absent, Row
from cache_schema.samples import Target, Utterance

SUMMARY = "the pickled dictionary of MMSA and MMSA-FET, aligned or unaligned (export, import)"
LAYOUT = """\
FILE.pkl                            {"train": {...}, "valid": {...}, "test": {...}}, each with
    id, raw_text                    lists of strings
    text, audio, vision             (samples, frames, width), zeros behind each sample's frames
    audio_lengths, vision_lengths   frames of each sample; not in aligned files
    regression_labels, classification_labels, annotations
An export has text_lengths too, and no text_bert: use it in MMSA with use_bert false."""
FOLDER = False
__all__ = ["ExportConfig", "ImportConfig", "read", "write"]

_ORDER = ("Negative", "Weakly Negative", "Neutral", "Weakly Positive", "Positive")
_PARTS = {"": "", "_T": "_text", "_A": "_speech", "_V": "_vision"}


class ImportConfig(Description):
    """How the dictionary is read."""

    id_pattern: str | None = r"(?P<dialogue>.+)\$_\$(?P<turn>[0-9]+)|.*"
    """Regular expression for a whole id with the groups dialogue, turn or speaker; MMSA writes video$_$clip."""
    names: dict[str, str] = Field(default_factory=dict)
    """What the features text, audio and vision are called in the store, as {"text": "bert"}."""
    regression: str = "sentiment"
    """The target that regression_labels are of."""
    classification: str = "polarity"
    """The target that annotations and classification_labels are of."""
    padding: Padding = "check"
    """check: the lengths say how many frames, and all others must be zeros, behind or before them; back, front: they
    say it, unchecked, and padding is there; zeros: frames of zeros at either end are padding; none: nothing is."""


@contextmanager
def read(sources: Sequence[Path], config: ImportConfig) -> Iterator[Foreign]:
    """The samples and features of a pickle.

    Raises:
        DataError: it holds anything but arrays and builtins, or is not organised as MMSA's.
        SettingsError: nothing says how long the samples are.
    """
    path = one_source(sources, "a pickle of MMSA")
    where = str(path)
    document = read_pickle(path)
    if not isinstance(document, dict):
        raise DataError(f"{where} holds a {type(document).__name__}, not a dictionary of splits.")
    splits = {k: v for k, v in document.items() if isinstance(v, dict) and str(k).lower() in SPLIT_NAMES}
    if not splits or not all("id" in one for one in splits.values()):
        raise DataError(f"{where} has no splits with an 'id'; its keys are {', '.join(map(str, document))}.")
    notes = [f"{where}: {k!r} is no split and was left out." for k in document if k not in splits]
    ids = {split: [_text(i) for i in _flat(one["id"], f"{where}, {split}, id")] for split, one in splits.items()}
    unique((i for each in ids.values() for i in each), where)
    utterances, targets = _utterances(splits, ids, config, where)
    if any("text_bert" in one for one in splits.values()):
        notes.append("text_bert holds tokens for fine-tuning, no features: it was read for the lengths alone.")
    digest = {path.name: sha256_of(path)}
    features = [
        _feature(key, splits, ids, config, digest, where)
        for key in KEYS
        if any(len(one.get(key, ())) for one in splits.values())
    ]
    yield Foreign(utterances, features, targets, notes=notes)


def _flat(values: Any, where: str) -> list[Any]:
    """A list of plain values, one per sample."""
    found = np.ravel(values).tolist() if isinstance(values, np.ndarray) else values
    if not isinstance(found, list | tuple) or (isinstance(values, np.ndarray) and values.size != len(values)):
        raise DataError(f"{where} holds no list of one value per sample.")
    return list(found)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _per_sample(one: Mapping[str, Any], key: str, count: int, where: str) -> list[Any] | None:
    if key not in one:
        return None
    found = _flat(one[key], f"{where}, {key}")
    if len(found) != count:
        raise DataError(f"{where}: {len(found)} {key} for {count} samples.")
    return found


def _utterances(
    splits: Mapping[str, Any], ids: Mapping[str, list[str]], config: ImportConfig, where: str
) -> tuple[list[Utterance], tuple[Target, ...]]:
    utterances: list[Utterance] = []
    codes: dict[str, float] = {}
    scored: dict[str, None] = {}
    for split, one in splits.items():
        at, count = f"{where}, {split}", len(ids[split])
        texts = _per_sample(one, "raw_text", count, at)
        notes = _per_sample(one, "annotations", count, at)
        classes = _per_sample(one, "classification_labels", count, at)
        numbers = {
            config.regression + name: _per_sample(one, f"regression_labels{part}", count, at)
            for part, name in _PARTS.items()
        }
        for index, id_ in enumerate(ids[split]):
            labels: dict[str, str] = {}
            code = _finite(classes[index], at) if classes is not None else None
            label = _text(notes[index]) if notes is not None else None if code is None else f"{code:g}"
            if label and label != "nan":
                labels[config.classification] = label
                if codes.setdefault(label, len(codes) if code is None else code) != code and code is not None:
                    raise DataError(
                        f"{at}: {id_!r} is {label!r} with the label {code:g}, others with {codes[label]:g}."
                    )
            found = {n: _finite(values[index], at) for n, values in numbers.items() if values is not None}
            scores = {name: value for name, value in found.items() if value is not None}
            scored.update(dict.fromkeys(scores))
            text = _text(texts[index]) if texts is not None else ""
            facts = {"id": id_, "text": text or None, "split": SPLIT_NAMES[split.lower()]}
            utterances.append(Utterance.parse({**facts, "labels": labels, "scores": scores}, at))
    targets = [Target(name=name, kind="regression") for name in scored]
    if codes:
        natural = set(codes) <= set(_ORDER)
        ordered = sorted(codes, key=lambda c: (_ORDER.index(c) if natural else 0, codes[c], c))
        targets.append(Target(name=config.classification, kind="classification", classes=tuple(ordered)))
    return utterances, tuple(targets)


def _finite(value: Any, where: str) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise DataError(f"{where}: the label {value!r} is no number.") from None
    return number if np.isfinite(number) else None


def _feature(
    key: str,
    splits: Mapping[str, Any],
    ids: Mapping[str, list[str]],
    config: ImportConfig,
    files: dict[str, str],
    where: str,
) -> ForeignFeature:
    aligned = all("audio_lengths" not in one and "vision_lengths" not in one for one in splits.values())
    padded: dict[str, Padded] = {}
    first: NDArray[Any] | None = None
    for split, one in splits.items():
        at = f"{where}, {split}, {key}"
        values = one.get(key)
        if values is None or not len(ids[split]):
            continue
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf" or values.ndim not in (2, 3):
            raise DataError(f"{at} is no array (samples, frames, width) of numbers.")
        if len(values) != len(ids[split]):
            raise DataError(f"{at} has {len(values)} rows for {len(ids[split])} samples.")
        single = values.ndim == 2
        values = values[:, None, :] if single else values
        first = values if first is None else first
        lengths = [1] * len(values) if single else _lengths(key, one, values, aligned, config, at)
        padded.update({i: Padded(values[k], lengths[k]) for k, i in enumerate(ids[split])})
    assert first is not None  # `read` asks only for keys that some split has
    side: Literal["back", "front"] = unpadded_side(padded, config.padding, f"{where}, {key}")

    def row(id_: str) -> Row:
        one = padded[id_]
        if not one.frames:
            return Absent(f"{key} has no frames")
        return {"values": one.values[: one.frames] if side == "back" else one.values[len(one.values) - one.frames :]}

    return ForeignFeature(
        name=feature_name(config.names.get(key, key)),
        modality=KEYS[key],
        arrays={"values": ForeignArray(first.dtype, first.shape[2:])},
        ids=padded.keys(),
        row=row,
        files=files,
        settings={"key": key, "padding": config.padding},
        aligned=aligned,
    )


def _lengths(
    key: str, one: Mapping[str, Any], values: NDArray[Any], aligned: bool, config: ImportConfig, where: str
) -> list[int]:
    """Frames of each sample of a split."""
    if config.padding == "none":
        return [values.shape[1]] * len(values)
    if config.padding == "zeros":
        return [frames_by_zeros(each) for each in values]
    named = f"{key}_lengths" if f"{key}_lengths" in one else "text_lengths" if aligned else ""
    if named in one:
        found = _per_sample(one, named, len(values), where) or []
    elif "text_bert" in one and (aligned or key == "text"):
        tokens = one["text_bert"]
        if not isinstance(tokens, np.ndarray) or tokens.ndim != 3 or tokens.shape[:2] != (len(values), 3):
            raise DataError(f"{where}: text_bert is no array (samples, 3, tokens).")
        found = tokens[:, 1].sum(axis=1).tolist()
    else:
        raise SettingsError(
            f"{where}: nothing says how many frames each sample has (no {key}_lengths, no text_bert). Frames of zeros "
            "at the end may be padding, or real: say which with --set padding=zeros or --set padding=none."
        )
    if not all(float(n).is_integer() and 0 <= n <= values.shape[1] for n in found):
        raise DataError(f"{where}: lengths that are not between 0 and {values.shape[1]}.")
    return [int(n) for n in found]
