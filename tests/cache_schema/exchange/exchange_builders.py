"""A small dataset with ragged features, siblings, failures and awkward ids, and what the exchange tests compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cache_schema.exchange.exporting import ExportReport, export_features
from cache_schema.exchange.importing import ImportReport, import_features
from cache_schema.feature_spec import ArraySpec, FeatureSpec
from cache_schema.plan import SegmentPlan
from cache_schema.rows import Absent, Failed, Row
from cache_schema.samples import Corpus, Target, Utterance
from cache_schema.store import FeatureStore

DATASET = "toy"
IDS = ("train/dia0_utt0", ".hidden", "ein „Satz“ ", "a%2Fb", "CON", "u5", "u6", "u7", "x" * 300, "u9")
CORPUS = Corpus(
    name=DATASET,
    title="A toy",
    licence="CC0-1.0",
    targets=(
        Target(name="emotion", kind="classification", classes=("joy", "anger")),
        Target(name="valence", kind="regression", low=-3, high=3),
    ),
)


def utterances(ids: tuple[str, ...] = IDS) -> list[Utterance]:
    """In the order train, val, test, none."""
    splits = ("train", "train", "train", "train", "val", "val", "test", "test", None, None)
    return [
        Utterance(
            id=id_,
            text=f"line\u2028one, “{i}” \x07" if i % 3 else None,
            speaker="Ann" if i % 2 else None,
            dialogue=f"d{i // 4}",
            turn=i if i % 4 else None,
            duration=0.1 + i / 3,
            split=splits[i],  # type: ignore[arg-type]
            labels={"emotion": ("joy", "anger")[i % 2]},
            scores={"valence": i / 7 - 1} if i % 5 else {},
            known_defect="cut" if i == 2 else None,
        )
        for i, id_ in enumerate(ids)
    ]


def specs() -> list[FeatureSpec]:
    return [
        FeatureSpec(
            feature="bert",
            modality="text",
            encoder="toys.Bert",
            version=1,
            arrays=(ArraySpec(name="values", dtype="float16", tail=(5,)),),
            nominal_rate_hz=3.0,
            random_weights=True,
        ),
        FeatureSpec(
            feature="text",
            modality="speech",
            encoder="toys.Named-like-a-column",
            version=1,
            arrays=(ArraySpec(name="values", dtype="float32", tail=(3,)),),
            rate_hz=4.0,
            nominal_rate_hz=4.0,
        ),
        FeatureSpec(
            feature="faces",
            modality="vision",
            encoder="toys.Faces",
            version=1,
            arrays=(
                ArraySpec(name="values", dtype="float16", tail=(2, 3)),
                ArraySpec(name="offsets", dtype="int32", tail=(4,)),
                ArraySpec(name="seen", dtype="bool", tail=()),
            ),
            rate_hz=5.0,
            nominal_rate_hz=5.0,
        ),
    ]


def row(spec: FeatureSpec, number: int) -> Row:
    """Row 3 failed, row 5 is absent (faces only), row 7 has no frames (faces only)."""
    generator = np.random.default_rng(number + 100 * len(spec.feature))
    if spec.feature == "faces" and number in (3, 5):
        return Failed("clip: moov atom not found") if number == 3 else Absent("no face: none")
    frames = 0 if spec.feature == "faces" and number == 7 else 1 + number % 4
    return {
        a.name: (generator.standard_normal((frames, *a.tail)) * 9).astype(a.dtype)
        if a.dtype != "bool"
        else generator.random((frames, *a.tail)) < 0.5
        for a in spec.arrays
    }


def build(
    path: Path, features: tuple[str, ...] = ("bert", "text", "faces"), ids: tuple[str, ...] = IDS
) -> FeatureStore:
    """A store with the dataset and these features."""
    store = FeatureStore.open(path, mode="a")
    store.append_samples(CORPUS, utterances(ids))
    for spec in specs():
        if spec.feature in features:
            writer = store.writer(DATASET, spec, SegmentPlan(max_rows=4))
            for segment in writer.todo():
                rows = [row(spec, ids.index(u.id)) for u in writer.utterances(segment)]
                assert writer.commit(segment, rows, [None] * len(rows), {"host": "box", "device": "cpu"})
    return store


def export(format_name: str, store: Path, to: Path, *features: str, **options: Any) -> ExportReport:
    return export_features(format_name, str(store), DATASET, features, to, **options)


def bring_in(format_name: str, source: Path, store: Path, dataset: str = DATASET, **options: Any) -> ImportReport:
    return import_features(format_name, [source], str(store), dataset, **options)


def assert_same_feature(old: FeatureStore, new: FeatureStore, name: str, new_name: str | None = None) -> None:
    """Every array of every sample, every failure and absence, to the bit."""
    was, now = old.feature(DATASET, name), new.feature(DATASET, new_name or name)
    assert now.spec.arrays == was.spec.arrays
    assert (now.spec.modality, now.spec.rate_hz, now.spec.random_weights) == (
        was.spec.modality,
        was.spec.rate_hz,
        was.spec.random_weights,
    )
    assert now.failures() == was.failures()
    assert now.absences() == was.absences()
    names = [a.name for a in was.spec.arrays]
    ids = old.samples(DATASET).ids
    before, after = was.load(ids, names, missing="mask"), now.load(ids, names, missing="mask")
    np.testing.assert_array_equal(before.offsets, after.offsets)
    for array in names:
        assert before.arrays[array].dtype == after.arrays[array].dtype
        np.testing.assert_array_equal(before.arrays[array], after.arrays[array])


def listing(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*")}
