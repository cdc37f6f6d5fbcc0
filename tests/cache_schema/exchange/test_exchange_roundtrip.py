"""What is exported comes back as it was, whole or not at all; what is imported is known by its files."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exchange_builders import (
    CORPUS,
    DATASET,
    IDS,
    assert_same_feature,
    bring_in,
    build,
    export,
    listing,
    specs,
    utterances,
)

from cache_schema.errors import DamagedError, DataError, MissingFeature, SettingsError
from cache_schema.exchange.formats import FORMATS
from cache_schema.store import FeatureStore
from cache_schema.verify import verify
from cache_schema.writer import FeatureWriter

LOSSLESS = ("hdf5", "npy", "arrow")
WRITERS = [name for name in FORMATS.names() if hasattr(FORMATS.load(name), "write")]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return build(tmp_path_factory.mktemp("exchange") / "store")


def options(format_name: str) -> dict[str, Any]:
    """MMSA has no word for failed samples, nor for samples without a split."""
    return {"settings": ["leave_out=true"], "drop_missing": True} if format_name == "mmsa" else {}


def features_of(format_name: str) -> tuple[str, ...]:
    return ("bert", "text") if format_name == "mmsa" else ()


def test_every_format_is_here() -> None:
    assert set(WRITERS) == {*LOSSLESS, "mmsa"}
    assert set(FORMATS.names()) == {*WRITERS, "csd", "csv", "mertools"}
    for name in FORMATS.names():
        module = FORMATS.load(name)
        assert module.SUMMARY
        assert module.LAYOUT
        for model in (module.ImportConfig, getattr(module, "ExportConfig", module.ImportConfig)):
            assert all(field.description for field in model.model_fields.values())


@pytest.mark.parametrize("format_name", LOSSLESS)
def test_samples_labels_and_features_come_back_exactly(format_name: str, store: FeatureStore, tmp_path: Path) -> None:
    report = export(format_name, Path(store.location), tmp_path / "out")
    assert (report.samples, set(report.features)) == (len(IDS), {"bert", "text", "faces"})
    bring_in(format_name, tmp_path / "out", tmp_path / "new")
    new = FeatureStore.open(tmp_path / "new")
    assert new.samples(DATASET).corpus == CORPUS
    assert new.samples(DATASET).utterances == utterances()
    for spec in specs():
        assert_same_feature(store, new, spec.feature)
        imported = new.feature(DATASET, spec.feature).spec
        assert imported.encoder == f"imported:{format_name}"
        assert imported.assets
    assert not verify(new, deep=True)


@pytest.mark.parametrize("format_name", WRITERS)
def test_same_files_are_a_no_op_and_changed_files_another_feature(
    format_name: str, store: FeatureStore, tmp_path: Path
) -> None:
    export(format_name, Path(store.location), tmp_path / "out", *features_of(format_name), **options(format_name))
    first = bring_in(format_name, tmp_path / "out", tmp_path / "new")
    assert first.added == first.samples
    assert all(f.written == first.samples for f in first.features)
    before = listing(tmp_path / "new")
    again = bring_in(format_name, tmp_path / "out", tmp_path / "new")
    assert (again.added, [f.written for f in again.features]) == (0, [0] * len(again.features))
    assert listing(tmp_path / "new") == before

    changed = build(tmp_path / "other", ids=(*IDS[:-1], "another"))
    export(format_name, Path(changed.location), tmp_path / "out2", *features_of(format_name), **options(format_name))
    other = bring_in(format_name, tmp_path / "out2", tmp_path / "new", dataset="other")
    if format_name != "mmsa":  # there the last sample has no split and is left out
        assert {f.fingerprint for f in other.features}.isdisjoint(f.fingerprint for f in first.features)


def test_another_type_is_another_feature_and_explicit(store: FeatureStore, tmp_path: Path) -> None:
    export("hdf5", Path(store.location), tmp_path / "out.h5", "text")
    kept = bring_in("hdf5", tmp_path / "out.h5", tmp_path / "new")
    half = bring_in("hdf5", tmp_path / "out.h5", tmp_path / "new", dtype="float16")
    assert [kept.features[0].dtype, half.features[0].dtype] == ["float32", "float16"]
    assert kept.features[0].fingerprint != half.features[0].fingerprint
    new = FeatureStore.open(tmp_path / "new")
    values = [new.feature(DATASET, "text", r.features[0].fingerprint)["u9"] for r in (kept, half)]
    np.testing.assert_array_equal(values[0].astype(np.float16), values[1])


@pytest.mark.parametrize("aligned", [False, True])
def test_mmsa_comes_back(store: FeatureStore, tmp_path: Path, aligned: bool) -> None:
    settings = ["leave_out=true", f"aligned={str(aligned).lower()}"]
    report = export("mmsa", Path(store.location), tmp_path / "out.pkl", "bert", "text", settings=settings)
    assert any("vision" in note for note in report.notes)
    document = pickle.loads((tmp_path / "out.pkl").read_bytes())  # our own, as MMSA loads it
    assert list(document) == ["train", "valid", "test"]
    expected = {"id", "raw_text", "text", "audio", "text_lengths", "annotations", "classification_labels"}
    expected |= {"regression_labels"} | (set() if aligned else {"audio_lengths"})
    assert set(document["train"]) == expected
    assert document["train"]["text"].shape == (3, 4, 5)
    assert document["train"]["text"].astype(np.float32).dtype == np.float32

    bring_in("mmsa", tmp_path / "out.pkl", tmp_path / "new", settings=['names={"text": "bert", "audio": "text"}'])
    new = FeatureStore.open(tmp_path / "new")
    kept = [u for u in utterances() if u.split and "valence" in u.scores]
    assert new.samples(DATASET).ids == [u.id for u in kept]
    for utterance in kept:
        found = new.samples(DATASET)[utterance.id]
        assert found.split == utterance.split
        assert found.labels["polarity"] == utterance.labels["emotion"]
        assert found.scores["sentiment"] == utterance.scores["valence"]
        for name in ("bert", "text"):
            old_values = store.feature(DATASET, name)[utterance.id].astype(np.float32)
            np.testing.assert_array_equal(new.feature(DATASET, name)[utterance.id], old_values)


def test_mmsa_refuses_what_it_has_no_word_for(store: FeatureStore, tmp_path: Path) -> None:
    at = Path(store.location)
    for features, settings, message in (
        (("faces",), [], "vectors"),
        (("bert",), [], "no split or no label"),
        (("bert",), ["regression=mood"], "valence"),
    ):
        with pytest.raises((DataError, SettingsError), match=message):
            export("mmsa", at, tmp_path / "out.pkl", *features, settings=settings)
    assert not listing(tmp_path)


def test_a_missing_feature_is_refused_or_left_out(tmp_path: Path) -> None:
    store = build(tmp_path / "store")
    store.append_samples(CORPUS, [utterances()[0].model_copy(update={"id": "new"})])
    with pytest.raises(MissingFeature, match="--drop-missing"):
        export("npy", tmp_path / "store", tmp_path / "out")
    report = export("npy", tmp_path / "store", tmp_path / "out", "faces", drop_missing=True)
    assert (report.samples, report.left_out) == (len(IDS) - 2, 3)


@pytest.mark.parametrize("format_name", WRITERS)
def test_nothing_is_overwritten(format_name: str, store: FeatureStore, tmp_path: Path) -> None:
    for target in (tmp_path / "file", tmp_path / "folder", tmp_path / "link"):
        if target.name == "file":
            target.write_bytes(b"mine")
        elif target.name == "folder":
            target.mkdir()
        else:
            target.symlink_to("nowhere")
        before = listing(tmp_path)
        with pytest.raises(SettingsError, match="exists already"):
            export(format_name, Path(store.location), target, *features_of(format_name), **options(format_name))
        assert listing(tmp_path) == before
    assert (tmp_path / "file").read_bytes() == b"mine"


class Stopped(BaseException):
    """As Ctrl-C arrives."""


@pytest.mark.parametrize("stop", [Stopped, OSError, MemoryError])
@pytest.mark.parametrize("format_name", WRITERS)
def test_a_stopped_export_leaves_nothing(
    format_name: str,
    stop: type[BaseException],
    store: FeatureStore,
    tmp_path: Path,
) -> None:
    def stop_at(done: int, total: int, failed: int) -> None:
        if done == 5:
            assert listing(tmp_path) or format_name == "mmsa", "it writes aside; a pickle is written at the end"
            assert not (tmp_path / "out").exists()
            raise stop("now")

    with pytest.raises((stop, DataError)):
        export(
            format_name,
            Path(store.location),
            tmp_path / "out",
            *features_of(format_name),
            progress=stop_at,
            **options(format_name),
        )
    assert not listing(tmp_path)


def test_a_pickle_that_is_half_written_is_none(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(document: object, file: Any, protocol: int) -> None:
        file.write(pickle.dumps(document, protocol)[:100])
        assert not (tmp_path / "out").exists()
        raise Stopped

    monkeypatch.setattr(pickle, "dump", half)
    with pytest.raises(Stopped):
        export("mmsa", Path(store.location), tmp_path / "out", "bert", **options("mmsa"))
    assert not listing(tmp_path)


def test_a_target_that_appears_meanwhile_is_left_alone(store: FeatureStore, tmp_path: Path) -> None:
    def another(done: int, total: int, failed: int) -> None:
        (tmp_path / "out").write_bytes(b"mine")

    with pytest.raises(SettingsError, match="exists already"):
        export("hdf5", Path(store.location), tmp_path / "out", progress=another)
    assert listing(tmp_path) == {"out"}
    assert (tmp_path / "out").read_bytes() == b"mine"


@pytest.mark.parametrize("format_name", LOSSLESS)
def test_a_stopped_import_goes_on_where_it_was(
    format_name: str, store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(format_name, Path(store.location), tmp_path / "out")
    commits = 0
    commit = FeatureWriter.commit

    def stop_at_second(self: FeatureWriter, *words: Any) -> bool:
        nonlocal commits
        commits += 1
        if commits == 2:
            raise Stopped
        return commit(self, *words)

    with monkeypatch.context() as patched:
        patched.setattr(FeatureWriter, "commit", stop_at_second)
        with pytest.raises(Stopped):
            bring_in(format_name, tmp_path / "out", tmp_path / "new")
    assert not [f for f in verify(FeatureStore.open(tmp_path / "new"), deep=True) if f.damage]
    report = bring_in(format_name, tmp_path / "out", tmp_path / "new")
    assert report.added == 0
    new = FeatureStore.open(tmp_path / "new")
    for spec in specs():
        assert_same_feature(store, new, spec.feature)


def test_a_file_that_changes_meanwhile_is_refused(store: FeatureStore, tmp_path: Path) -> None:
    export("hdf5", Path(store.location), tmp_path / "out.h5", "bert")

    def touch(done: int, total: int, failed: int) -> None:
        os.utime(tmp_path / "out.h5", ns=(1, done))

    with pytest.raises(DataError, match="was changed while it was imported"):
        bring_in("hdf5", tmp_path / "out.h5", tmp_path / "new", progress=touch)
    assert not (tmp_path / "new").exists()


def test_a_damaged_store_is_not_exported(tmp_path: Path) -> None:
    build(tmp_path / "store", features=("bert",))
    shard = max((tmp_path / "store" / "features").rglob("0"), key=lambda p: p.stat().st_size if p.is_file() else -1)
    shard.write_bytes(_flip(shard.read_bytes(), 3))
    with pytest.raises(DamagedError):
        export("npy", tmp_path / "store", tmp_path / "out")
    assert listing(tmp_path) == {"store", *(f"store/{name}" for name in listing(tmp_path / "store"))}


def test_progress_ends_where_it_said(store: FeatureStore, tmp_path: Path) -> None:
    seen: list[tuple[int, int, int]] = []
    export("npy", Path(store.location), tmp_path / "out", progress=lambda *at: seen.append(at))
    assert seen[-1] == (3 * len(IDS), 3 * len(IDS), 0)
    for rows in (6 * len(IDS), 3 * len(IDS)):
        bring_in("npy", tmp_path / "out", tmp_path / "new", progress=lambda *at: seen.append(at))
        assert seen[-1] == (rows, rows, 0)


def test_into_a_dataset_that_is_there(store: FeatureStore, tmp_path: Path) -> None:
    export("hdf5", Path(store.location), tmp_path / "out.h5", "bert")
    build(tmp_path / "same", features=("text",))
    report = bring_in("hdf5", tmp_path / "out.h5", tmp_path / "same")
    assert (report.added, report.samples) == (0, len(IDS))
    assert_same_feature(store, FeatureStore.open(tmp_path / "same"), "bert")

    fewer = FeatureStore.open(tmp_path / "fewer", mode="a")
    more = [utterances()[0], utterances()[1].model_copy(update={"id": "elsewhere"})]
    fewer.append_samples(CORPUS, more)
    with pytest.raises(DataError, match="--new-samples"):
        bring_in("hdf5", tmp_path / "out.h5", tmp_path / "fewer")
    skipped = bring_in("hdf5", tmp_path / "out.h5", tmp_path / "fewer", new_samples="skip")
    assert (skipped.samples, skipped.added, skipped.features[0].done) == (2, 0, 1)
    feature = FeatureStore.open(tmp_path / "fewer").feature(DATASET, "bert")
    assert "has no such sample" in feature.absences()["elsewhere"]
    added = bring_in("hdf5", tmp_path / "out.h5", tmp_path / "fewer", new_samples="add")
    assert (added.samples, added.added, added.features[0].done) == (len(IDS) + 1, len(IDS) - 1, len(IDS))

    wrong = FeatureStore.open(tmp_path / "wrong", mode="a")
    wrong.append_samples(CORPUS, [utterances()[0].model_copy(update={"labels": {"emotion": "anger"}})])
    with pytest.raises(DataError, match=r"labels\.emotion = 'joy'.*'anger'"):
        bring_in("hdf5", tmp_path / "out.h5", tmp_path / "wrong", new_samples="add")


def test_arrow_lies_as_load_from_disk_reads_it(store: FeatureStore, tmp_path: Path) -> None:
    import pyarrow as pa

    export("arrow", Path(store.location), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "dataset_dict.json").read_text()) == {
        "splits": ["train", "validation", "test", "unsplit"]
    }
    for split, count in (("train", 4), ("validation", 2), ("test", 2), ("unsplit", 2)):
        folder = tmp_path / "out" / split
        state = json.loads((folder / "state.json").read_text())
        assert set(state) == {
            "_data_files", "_fingerprint", "_format_columns", "_format_kwargs", "_format_type",
            "_output_all_columns", "_split",
        }  # fmt: skip
        assert json.loads((folder / "dataset_info.json").read_text())["license"] == "CC0-1.0"
        with pa.memory_map(str(folder / state["_data_files"][0]["filename"])) as file:
            table = pa.ipc.open_stream(file).read_all()
        assert len(table) == count
        assert table.schema.field("bert").type == pa.list_(pa.list_(pa.float16(), 5))
        assert table.schema.field("faces").type == pa.list_(pa.list_(pa.list_(pa.float16(), 3), 2))


def test_arrow_by_the_library_itself(store: FeatureStore, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the datasets library is not installed")
    export("arrow", Path(store.location), tmp_path / "out")
    loaded = datasets.load_from_disk(str(tmp_path / "out"))
    assert loaded["train"][0]["id"] == IDS[0]
    values = np.array(loaded["train"][0]["bert"], np.float16)
    np.testing.assert_array_equal(values, store.feature(DATASET, "bert")[IDS[0]])
    assert loaded["train"][3]["faces"] is None


def test_a_foreign_arrow_dataset(tmp_path: Path) -> None:
    import pyarrow as pa

    folder = tmp_path / "hub"
    folder.mkdir()
    table = pa.table(
        {
            "utt": ["a", "b", "c"],
            "said": ["one", None, "three"],
            "emo": ["joy", "joy", "anger"],
            "score": [0.5, None, -1.0],
            "audio": [[[1.0, 2.0], [3.0, 4.0]], None, [[5.0, 6.0]]],
            "vector": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]],
        }
    )
    with (
        pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as to,
    ):
        to.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    with pytest.raises(SettingsError, match="which columns are features"):
        bring_in("arrow", folder, tmp_path / "new")
    settings = [
        "id=utt",
        "text=said",
        'labels={"emotion": "emo", "valence": "score"}',
        'features={"audio": "speech", "vector": "text"}',
    ]
    report = bring_in("arrow", folder, tmp_path / "new", settings=settings)
    assert [f.width for f in report.features] == [(2,), (3,)]
    dataset = FeatureStore.open(tmp_path / "new")
    assert dataset.samples(DATASET)["c"].scores == {"valence": -1.0}
    assert [t.kind for t in dataset.samples(DATASET).corpus.targets] == ["classification", "regression"]
    np.testing.assert_array_equal(dataset.feature(DATASET, "audio")["a"], [[1, 2], [3, 4]])
    np.testing.assert_array_equal(dataset.feature(DATASET, "vector")["b"], [[4, 5, 6]])
    assert dataset.feature(DATASET, "audio").absences() == {"b": "audio is null"}


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :]


def _cut(data: bytes, at: int) -> bytes:
    return data[:at]


@pytest.fixture(scope="module", params=LOSSLESS)
def exported(request: pytest.FixtureRequest, store: FeatureStore, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("exported")
    export(request.param, Path(store.location), folder / "out")
    return request.param, folder / "out"


def _files(top: Path) -> Iterator[Path]:
    return iter([top] if top.is_file() else sorted(p for p in top.rglob("*") if p.is_file()))


@pytest.mark.parametrize("damage", [_flip, _cut])
def test_damaged_files_give_one_line_or_another_feature(
    exported: tuple[str, Path], damage: Callable[[bytes, int], bytes], tmp_path: Path
) -> None:
    """Foreign files have no checksums of their own: damage is refused, or it is other numbers under another digest."""
    format_name, top = exported
    intact = bring_in(format_name, top, tmp_path / "intact")
    fingerprints = {f.fingerprint for f in intact.features}
    generator = np.random.default_rng(0)
    for number, file in enumerate(list(_files(top))[:: {"npy": 16, "arrow": 2, "hdf5": 1}[format_name]]):
        whole = file.read_bytes()
        if not whole:
            continue
        try:
            for trial in range(6 if format_name == "hdf5" else 1):
                file.write_bytes(damage(whole, int(generator.integers(len(whole)))))
                at = tmp_path / f"{number}-{trial}"
                try:
                    report = bring_in(format_name, top, at)
                except (DataError, SettingsError):
                    assert not at.exists(), "nothing was written"
                else:
                    assert {f.fingerprint for f in report.features} != fingerprints or _same_numbers(at, tmp_path)
        finally:
            file.write_bytes(whole)


def _same_numbers(one: Path, folder: Path) -> bool:
    """What was damaged is no part of the features: a label, or a document that is not hashed."""
    new, old = FeatureStore.open(one), FeatureStore.open(folder / "intact")
    for spec in specs():
        assert_same_feature(old, new, spec.feature)
    return True
