"""Files as MMSA, CMU-MultimodalSDK and MERTools write them, good and hostile."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from cache_schema.errors import DataError, MerError, SettingsError
from cache_schema.exchange.importing import ImportReport, import_features
from cache_schema.store import FeatureStore

# ---------------------------------------------------------------------------------------------------- MMSA

LENGTHS = {"text": (3, 5, 2), "audio": (4, 6, 1), "vision": (2, 7, 7)}
WIDTHS = {"text": (5, 4), "audio": (6, 2), "vision": (7, 3)}


def mmsa(aligned: bool = False, front: bool = False) -> dict[str, Any]:
    """Three samples per split, with the keys and types of MMSA's unaligned_50.pkl and aligned_50.pkl."""
    generator = np.random.default_rng(0)
    document: dict[str, Any] = {}
    for number, split in enumerate(("train", "valid", "test")):
        one: dict[str, Any] = {
            "id": np.array([f"vid{number}$_${clip}" for clip in (1, 2, 10)]),
            "raw_text": np.array(["one", "two words", "three"], dtype=object),
            "annotations": np.array(["Negative", "Positive", "Neutral"]),
            "classification_labels": np.array([0.0, 2.0, 1.0]),
            "regression_labels": np.array([-1.5, 2.0, 0.0], np.float32),
        }
        for key, (frames, width) in WIDTHS.items():
            frames = 5 if aligned else frames
            values = np.zeros((3, frames, width), np.float32)
            for row in range(3):
                length = LENGTHS["text" if aligned else key][row]
                at = slice(frames - length, None) if front else slice(0, length)
                values[row, at] = generator.standard_normal((length, width))
            one[key] = values
            if key != "text" and not aligned:
                one[f"{key}_lengths"] = list(LENGTHS[key])
        mask = np.array([[1.0] * n + [0.0] * (5 - n) for n in LENGTHS["text"]])
        one["text_bert"] = np.stack([mask * 101, mask, mask * 0], axis=1)
        document[split] = one
    return document


def bring_in(format_name: str, source: Path | list[Path], *settings: str, **options: Any) -> ImportReport:
    sources = source if isinstance(source, list) else [source]
    store = sources[0].parent / "store"
    return import_features(format_name, sources, str(store), "peer", settings=settings, **options)


def pickled(folder: Path, document: Any) -> Path:
    path = folder / "features.pkl"
    path.write_bytes(pickle.dumps(document, 4))
    return path


@pytest.mark.parametrize("front", [False, True])
@pytest.mark.parametrize("aligned", [False, True])
def test_mmsa_padding_is_taken_away_by_the_lengths(tmp_path: Path, aligned: bool, front: bool) -> None:
    document = mmsa(aligned, front)
    report = bring_in("mmsa", pickled(tmp_path, {**document, "config": {"a": 1}}))
    assert report.splits == {"train": 3, "val": 3, "test": 3}
    assert any("config" in note for note in report.notes)
    store = FeatureStore.open(tmp_path / "store")
    for number, split in enumerate(document):
        for row, clip in enumerate((1, 2, 10)):
            id_ = f"vid{number}$_${clip}"
            utterance = store.samples("peer")[id_]
            assert (utterance.dialogue, utterance.turn) == (f"vid{number}", clip)
            assert utterance.text == ("one", "two words", "three")[row]
            assert utterance.labels == {"polarity": ("Negative", "Positive", "Neutral")[row]}
            assert utterance.scores == {"sentiment": (-1.5, 2.0, 0.0)[row]}
            for key in WIDTHS:
                length = LENGTHS["text" if aligned else key][row]
                padded = document[split][key][row]
                expected = padded[len(padded) - length :] if front else padded[:length]
                np.testing.assert_array_equal(store.feature("peer", key)[id_], expected)
    targets = {t.name: t for t in store.samples("peer").corpus.targets}
    assert targets["polarity"].classes == ("Negative", "Neutral", "Positive")
    assert targets["sentiment"].kind == "regression"


def test_mmsa_without_lengths_is_not_guessed(tmp_path: Path) -> None:
    document = mmsa()
    for one in document.values():
        for key in ("text_bert", "audio_lengths", "vision_lengths"):
            del one[key]
        one["vision"][0, 0] = 0  # a real frame without a face, between others
    path = pickled(tmp_path, document)
    with pytest.raises(SettingsError, match="padding=zeros or --set padding=none"):
        bring_in("mmsa", path)
    zeros = {f.name: f for f in bring_in("mmsa", path, "padding=zeros").features}
    assert zeros["audio"].frames == 3 * sum(LENGTHS["audio"])
    none = {f.name: f for f in bring_in("mmsa", path, "padding=none").features}
    assert none["audio"].frames == 9 * 6
    assert zeros["audio"].fingerprint != none["audio"].fingerprint


def test_mmsa_lengths_that_cut_numbers_off_are_refused(tmp_path: Path) -> None:
    document = mmsa()
    document["train"]["audio"][:] = 1
    path = pickled(tmp_path, document)
    with pytest.raises(DataError, match=r"audio: the lengths and the zeros disagree.*'vid0\$_\$1'"):
        bring_in("mmsa", path)
    assert not (tmp_path / "store").exists()
    assert bring_in("mmsa", path, "padding=back").features[1].frames == 3 * sum(LENGTHS["audio"])


def test_mmsa_infinite_values_are_refused_or_masked(tmp_path: Path) -> None:
    """As in the -inf that MMSA's loader sets to zero."""
    document = mmsa()
    document["train"]["audio"][1, 2, 0] = -np.inf
    path = pickled(tmp_path, document)
    with pytest.raises(DataError, match=r"by column: values\[0\]: 1"):
        bring_in("mmsa", path)
    frames = bring_in("mmsa", path, non_finite="mask-frames")
    assert [f.non_finite for f in frames.features] == [{}, {"values[0]": 1}, {}]
    store = FeatureStore.open(tmp_path / "store")
    audio = store.feature("peer", "audio", frames.features[1].fingerprint)["vid0$_$2"]
    np.testing.assert_array_equal(audio, np.delete(document["train"]["audio"][1], 2, axis=0))
    samples = bring_in("mmsa", path, non_finite="mask-samples")
    assert samples.features[1].fingerprint != frames.features[1].fingerprint
    assert samples.features[0].fingerprint == frames.features[0].fingerprint
    document = mmsa(aligned=True)
    document["train"]["audio"][1, 2, 0] = np.nan
    with pytest.raises(SettingsError, match="mask-samples"):
        bring_in("mmsa", pickled(tmp_path, document), non_finite="mask-frames")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: [1], "holds a list"),
        (lambda d: {"a": 1}, "no splits"),
        (lambda d: {**d, "train": {}}, "no splits"),
        (lambda d: d["train"].update(id=["a", "a", "b"]) or d, "'a' stands there twice"),
        (lambda d: d["train"].update(id=["a", "b"]) or d, "has 3 rows for 2|for 2 samples"),
        (lambda d: d["train"].update(audio=np.zeros((3, 6, 2, 2))) or d, "no array"),
        (lambda d: d["train"].update(audio=np.array([["a"] * 3] * 3)) or d, "no array"),
        (lambda d: d["train"].update(audio=np.zeros((3, 6, 9))) or d, r"has the shape \(\d, 9\), not|not \(\d, 9\)"),
        (lambda d: d["train"].update(audio_lengths=[1, 2]) or d, "2 audio_lengths for 3"),
        (lambda d: d["train"].update(audio_lengths=[1, 2, 7]) or d, "between 0 and 6"),
        (lambda d: d["train"].update(audio_lengths=[1, 2, -1]) or d, "between 0 and 6"),
        (lambda d: d["train"].update(regression_labels=["x", 1, 2]) or d, "no number"),
        (lambda d: d["train"].update(classification_labels=[0, 0, 1]) or d, "with the label"),
        (lambda d: d["train"].update(text_bert=np.zeros((3, 2, 5))) or d, "text_bert"),
    ],
)
def test_mmsa_files_that_are_none(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        bring_in("mmsa", pickled(tmp_path, change(mmsa())))
    assert not (tmp_path / "store").exists()


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def test_mmsa_pickle_with_code(tmp_path: Path) -> None:
    document = mmsa()
    document["train"]["audio"] = Touch(tmp_path / "pwned")
    with pytest.raises(DataError, match=r"system.*Nothing of it was run"):
        bring_in("mmsa", pickled(tmp_path, document))
    assert not (tmp_path / "pwned").exists()


# ---------------------------------------------------------------------------------------------------- csd


def csd(path: Path, name: str, entries: dict[str, tuple[Any, Any]], **metadata: Any) -> Path:
    """A computational sequence, written as the SDK's `write_CSD` does: entry -> (features, intervals)."""
    with h5py.File(path, "w") as file:
        data = file.create_group(f"{name}/data")
        for entry, (features, intervals) in entries.items():
            group = data.create_group(entry)
            group.create_dataset("features", data=features)
            group.create_dataset("intervals", data=np.array(intervals, np.float32).reshape(-1, 2))
        head = file[name].create_group("metadata")
        for key, value in {"root name": name, **metadata}.items():
            head.create_dataset(key, (1,), dtype=h5py.special_dtype(vlen=str))
            head[key][0] = json.dumps(value)
    return path


def test_csd_whole_sequences_are_cut_by_the_labels(tmp_path: Path) -> None:
    step = [[k / 10, (k + 1) / 10] for k in range(30)]
    audio = {v: (np.arange(60).reshape(30, 2) + 100 * n, step) for n, v in enumerate(("a", "b"))}
    words = [b"sp", b"so", b"good", b"sp", b"bad"]
    text = {"a": (np.array(words)[:, None], [[0, 0.4], [0.5, 0.7], [0.8, 0.95], [1.0, 1.5], [2.05, 2.1]])}
    labels = {
        "a": ([[-1.0, 1], [2.5, 0], [0, 0]], [[0.5, 1.0], [2.05, 2.3], [2.4, 2.4]]),
        "b": ([[0.5, np.nan]], [[9.0, 10.0]]),
    }
    csd(tmp_path / "COVAREP.csd", "COVAREP", audio)
    csd(tmp_path / "words.csd", "words", text)
    csd(tmp_path / "labels.csd", "Opinion Labels", labels, **{"dimension names": ["sentiment", "happy"]})
    with pytest.raises(SettingsError, match="COVAREP"):
        bring_in("csd", tmp_path, "labels=Opinion Labels")
    report = import_features(
        "csd",
        [tmp_path],
        str(tmp_path / "store"),
        "peer",
        settings=["labels=Opinion Labels", 'modalities={"COVAREP": "speech"}'],
    )
    assert any("1 intervals last no time" in note for note in report.notes)
    store = FeatureStore.open(tmp_path / "store")
    samples = store.samples("peer")
    assert samples.ids == ["a[0]", "a[1]", "b[0]"]
    first = samples["a[0]"]
    assert (first.dialogue, first.turn, first.text) == ("a", 0, "so good")
    assert (first.start, first.end, first.duration) == (0.5, 1.0, 0.5)
    assert first.scores == {"sentiment": -1, "happy": 1}
    assert samples["b[0]"].scores == {"sentiment": 0.5}
    feature = store.feature("peer", "covarep")
    np.testing.assert_array_equal(feature["a[0]"], audio["a"][0][5:10])
    np.testing.assert_array_equal(feature["a[1]"], audio["a"][0][20:23])  # frame 20 reaches into it
    assert "no frame" in feature.absences()["b[0]"]
    assert set(feature.spec.assets) == {"COVAREP.csd", "labels.csd"}


def test_csd_segments_as_align_leaves_them(tmp_path: Path) -> None:
    names = ("v[0]", "v[10]", "v[2]")
    for name, width in (("glove", 3), ("facet", 2)):
        csd(tmp_path / f"{name}.csd", name, {n: (np.full((4, width), k), [[0, 1]] * 4) for k, n in enumerate(names)})
    csd(tmp_path / "y.csd", "y", {n: ([[float(k)]], [[k, k + 1]]) for k, n in enumerate(names)})
    settings = ["labels=y", 'label_names=["sentiment"]', 'modalities={"glove": "text", "facet": "vision"}']
    sources = [tmp_path / "glove.csd", tmp_path / "facet.csd", tmp_path / "y.csd"]
    with pytest.raises(SettingsError, match="label_names"):
        bring_in("csd", sources, "labels=y", settings[2])
    report = bring_in("csd", sources, *settings, folds=_folds(tmp_path, {"train": ["v"]}))
    assert report.splits == {"train": 3}
    store = FeatureStore.open(tmp_path / "store")
    assert store.samples("peer").ids == ["v[0]", "v[2]", "v[10]"]
    assert store.samples("peer")["v[2]"].scores == {"sentiment": 2.0}
    np.testing.assert_array_equal(store.feature("peer", "glove")["v[10]"], np.full((4, 3), 1))


def _folds(folder: Path, folds: dict[str, list[str]]) -> str:
    path = folder / "folds.json"
    path.write_text(json.dumps(folds))
    return str(path)


def _external_link(group: Any, folder: Path) -> None:
    del group["features"]
    group["features"] = h5py.ExternalLink(str(folder / "secret.h5"), "/x")


def _soft_link(group: Any, folder: Path) -> None:
    del group["features"]
    group["features"] = h5py.SoftLink("/m/data/v[1]/features")


def _external_data(group: Any, folder: Path) -> None:
    del group["features"]
    (folder / "secret").write_bytes(bytes(range(64)))
    group.create_dataset("features", (16, 1), "f4", external=[(str(folder / "secret"), 0, 64)])


def _virtual(group: Any, folder: Path) -> None:
    del group["features"]
    layout = h5py.VirtualLayout((4, 1), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "secret.h5"), "x", (4, 1))
    group.create_virtual_dataset("features", layout)


def _bomb(group: Any, folder: Path) -> None:
    del group["features"]
    group.create_dataset("features", (1 << 40, 4), "f8", chunks=(1 << 16, 4), compression="gzip")


def _strings(group: Any, folder: Path) -> None:
    del group["features"]
    group.create_dataset("features", data=["x"] * 4, dtype=h5py.string_dtype())


def _structure(group: Any, folder: Path) -> None:
    del group["features"]
    group["features"] = np.zeros(4, [("a", "f4")])


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_external_link, "link to elsewhere"),
        (_soft_link, "link to elsewhere"),
        (_external_data, "in another file"),
        (_virtual, "in another file"),
        (_bomb, "not in the file"),
        (_strings, "no features|features"),
        (_structure, "neither numbers nor words"),
    ],
)
def test_csd_that_reaches_elsewhere(tmp_path: Path, harm: Any, message: str) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = np.ones((4, 1), np.float32)
    path = csd(tmp_path / "m.csd", "m", {f"v[{n}]": (np.ones((4, 1), np.float32), [[0, 1]] * 4) for n in (0, 1)})
    with h5py.File(path, "r+") as file:
        harm(file["m/data/v[0]"], tmp_path)
    with pytest.raises(DataError, match=message):
        bring_in("csd", path, 'modalities={"m": "speech"}')
    assert not (tmp_path / "store").exists()


def test_csd_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "m.csd"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(DataError, match="cannot be read as HDF5"):
        bring_in("csd", path)
    with h5py.File(path, "w") as file:
        file["a/data"] = 1
        file["b"] = 1
    with pytest.raises(DataError, match="one root"):
        bring_in("csd", path)
    with h5py.File(path, "w") as file:
        file["a/data"] = 1
    with pytest.raises(DataError, match="no group"):
        bring_in("csd", path)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"no \.csd files"):
        bring_in("csd", tmp_path / "none")


# ---------------------------------------------------------------------------------------------------- MERTools


@pytest.fixture
def mertools(tmp_path: Path) -> Path:
    """Three features and labels, as `read_data.py` and the preprocessing of MERBench have them."""
    generator = np.random.default_rng(0)
    for name, shape in (("wav2vec-large-UTT", (4,)), ("bert-FRA", (3, 5))):
        (tmp_path / name).mkdir()
        for sample in ("s1", "s2", "s3", "extra"):
            np.save(tmp_path / name / f"{sample}.npy", generator.standard_normal(shape).astype(np.float32))
    faces = tmp_path / "clip-faces"
    faces.mkdir()
    for sample in ("s1", "s2"):
        (faces / sample).mkdir()
        for frame in range(2):
            np.save(faces / sample / f"{frame:05d}.npy", np.full(6, frame, np.float16))
    np.save(faces / "s3.npy", np.array([]))
    np.savez(
        tmp_path / "label.npz",
        train_corpus={"s1": {"emo": 1, "val": np.float64(0.5)}, "s2": {"emo": 0, "val": -10}},  # type: ignore[arg-type]
        test1_corpus={"s3": {"emo": 1, "val": ""}},  # type: ignore[arg-type]
        test2_corpus={},  # type: ignore[arg-type]
    )
    return tmp_path


MODALITIES = 'modalities={"wav2vec-large-UTT": "speech", "bert-FRA": "text", "clip-faces": "vision"}'


def test_mertools_folders(mertools: Path) -> None:
    folders = [mertools / name for name in ("wav2vec-large-UTT", "bert-FRA", "clip-faces")]
    settings = [MODALITIES, f"labels={mertools / 'label.npz'}", 'classes=["neutral", "angry"]']
    report = bring_in("mertools", folders, *settings)
    assert report.splits == {"train": 2, "test": 1}
    assert any("test1_corpus, test2_corpus are all of the split test" in note for note in report.notes)
    assert sum("'extra'" in note for note in report.notes) == 2
    store = FeatureStore.open(mertools / "store")
    samples = store.samples("peer")
    assert [(u.labels, u.scores) for u in samples.utterances] == [
        ({"emotion": "angry"}, {"valence": 0.5}),
        ({"emotion": "neutral"}, {}),
        ({"emotion": "angry"}, {}),
    ]
    speech = np.load(folders[0] / "s1.npy")
    np.testing.assert_array_equal(store.feature("peer", "wav2vec-large-utt")["s1"], speech[None])
    np.testing.assert_array_equal(store.feature("peer", "bert-fra")["s2"], np.load(folders[1] / "s2.npy"))
    faces = store.feature("peer", "clip-faces")
    np.testing.assert_array_equal(faces["s2"], [[0] * 6, [1] * 6])
    assert faces.spec.values.dtype == "float16"
    assert "nothing was found" in faces.absences()["s3"]


def test_mertools_labels_in_csv(mertools: Path) -> None:
    labels = mertools / "label-disdim.csv"
    labels.write_text("name,discrete,valence\ns2,happy,1.5\ns1,sad,\n")
    bring_in("mertools", mertools / "bert-FRA", MODALITIES, f"labels={labels}", 'names={"bert-FRA": "bert"}')
    samples = FeatureStore.open(mertools / "store").samples("peer")
    assert [(u.id, u.labels, u.scores) for u in samples.utterances] == [
        ("s2", {"emotion": "happy"}, {"valence": 1.5}),
        ("s1", {"emotion": "sad"}, {}),
    ]


def test_mertools_hostile_files(mertools: Path) -> None:
    pwned = mertools / "pwned"
    evil = np.empty(1, object)
    evil[0] = Touch(pwned)
    np.savez(mertools / "evil.npz", train_corpus={"s1": Touch(pwned)})  # type: ignore[arg-type]
    for settings, message in (
        ([MODALITIES, f"labels={mertools / 'evil.npz'}"], "Nothing of it was run"),
        ([MODALITIES, f"labels={mertools / 'bert-FRA' / 's1.npy'}"], "npz"),
        (["modalities={}"], "of which modality"),
        ([MODALITIES, f"labels={mertools / 'label.npz'}", 'classes=["one"]'], "emo 1 is no number of one"),
    ):
        with pytest.raises(MerError, match=message):
            bring_in("mertools", mertools / "bert-FRA", *settings)
    np.save(mertools / "bert-FRA" / "s1.npy", evil, allow_pickle=True)
    with pytest.raises(DataError, match=r"s1\.npy"):
        bring_in("mertools", mertools / "bert-FRA", MODALITIES)
    np.save(mertools / "bert-FRA" / "s1.npy", np.ones((3, 4), np.float32))
    with pytest.raises(DataError, match="shape"):
        bring_in("mertools", mertools / "bert-FRA", MODALITIES)
    assert not pwned.exists()
    assert not (mertools / "store").exists()
