"""A small dataset with a signal in every modality, and how it gets into a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cache_schema.feature_spec import ArraySpec, FeatureSpec, Modality
from cache_schema.rows import Absent, Failed, Row
from cache_schema.samples import Target, Utterance
from cache_schema.store import FeatureStore
from fuse.corpora import Request, Source, load_folds
from fuse.data import Splits

CLASSES = ("anger", "joy", "sadness")
WIDTHS: dict[Modality, tuple[str, int]] = {"speech": ("mfcc", 6), "text": ("roberta", 8), "vision": ("resnet", 5)}
TARGETS = (
    Target(name="emotion", kind="classification", classes=CLASSES),
    Target(name="emotions", kind="multilabel", classes=CLASSES),
    Target(name="sentiment", kind="regression", low=-3, high=3),
)
SPLIT_OF = ("train", "train", "train", "train", "val", "test")


def spec(modality: Modality, width: int | None = None, **changes: object) -> FeatureSpec:
    """A small feature."""
    name, default = WIDTHS[modality]
    values = ArraySpec(name="values", dtype="float16", tail=(width or default,))
    facts = {"feature": name, "modality": modality, "encoder": "synthetic", "version": 1, "arrays": (values,)}
    return FeatureSpec(**{**facts, "nominal_rate_hz": 5.0, **changes})  # type: ignore[arg-type]


def utterances(count: int = 120, turns: int = 5) -> list[Utterance]:
    """`count` utterances in dialogues of `turns`, each dialogue in one split, classes in turn but shuffled."""
    drawn = np.random.default_rng(0).integers(0, len(CLASSES), count)
    found = []
    for i, label in enumerate(drawn.tolist()):
        dialogue = i // turns
        found.append(
            Utterance(
                id=f"d{dialogue}_u{i % turns}",
                duration=2.0,
                dialogue=f"d{dialogue}",
                turn=i % turns,
                split=SPLIT_OF[dialogue % len(SPLIT_OF)],  # type: ignore[arg-type]
                labels={"emotion": CLASSES[label]},
                scores={"sentiment": label - 1.0} | {f"emotions/{c}": float(label == k) for k, c in enumerate(CLASSES)},
            )
        )
    return found


def rows_of(modality: Modality, samples: list[Utterance], signal: float = 2.0) -> dict[str, Row]:
    """Frames whose mean says which class it is; a few rows failed or absent, never all of an utterance's."""
    random = np.random.default_rng(list(WIDTHS).index(modality))
    width = WIDTHS[modality][1]
    means = random.normal(size=(len(CLASSES), width))
    rows: dict[str, Row] = {}
    for i, utterance in enumerate(samples):
        frames = int(random.integers(1, 9))
        label = CLASSES.index(utterance.labels["emotion"])
        values = signal * means[label] + random.normal(size=(frames, width))
        rows[utterance.id] = {"values": values.astype(np.float16)}
        if modality == "speech" and i % 11 == 3:
            rows[utterance.id] = Failed("the clip is broken")
        if modality == "vision" and i % 7 == 2:
            rows[utterance.id] = Absent("there is no face")
    return rows


def commit(store: FeatureStore, dataset: str, feature: FeatureSpec, rows: dict[str, Row]) -> None:
    """Write a feature; utterances without a row stay uncommitted."""
    writer = store.writer(dataset, feature)
    for segment in writer.todo():
        ids = [u.id for u in writer.utterances(segment)]
        if all(i in rows for i in ids):
            writer.commit(segment, [rows[i] for i in ids], [None] * len(ids), {})


def load(store: Path, dataset: str, prefers: Mapping[str, Sequence[str]], **rest: Any) -> tuple[Splits, Source]:
    """The official splits of a dataset, and where they come from."""
    (fold,), source = load_folds(Request(store, dataset, prefers, **rest))
    return fold.splits, source
