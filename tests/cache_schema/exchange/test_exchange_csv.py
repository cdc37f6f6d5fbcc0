"""CSV matrices join as declared; what does not agree is refused with file and line."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache_schema.errors import DataError, MerError, SettingsError
from cache_schema.exchange.importing import ImportReport, import_features
from cache_schema.store import FeatureStore

RECIPE = """
title = "A small one"
licence = "CC0-1.0"
id_pattern = '(?P<dialogue>.+)_(?P<turn>[0-9]+)'
[targets.polarity]
kind = "classification"
classes = ["negative", "positive"]
codes = ["0", "1"]
[targets.strength]
kind = "regression"
[samples]
file = "samples.csv"
id = 0
text = 1
[samples.labels]
polarity = 3
strength = 2
[order.train]
file = "order_train.csv"
column = 0
by = "row"
[order.test]
file = "order_test.csv"
column = 0
by = "row"
[features.opensmile]
modality = "speech"
files = { train = "audio_train.csv", test = "audio_test.csv" }
labels = { polarity = -1 }
"""
FILES = {
    "samples.csv": 'v_1,"SO, YES",0.5,1\nv_10,NO,-1,0\nv_2,,0,0\nw_1,"a ""b""",2,1\n',
    "order_train.csv": "2,x\n0,x\n1,x\n",
    "order_test.csv": "3,x\n",
    "audio_train.csv": "3,30,0\n1,10,1.0\n2,20,0\n",
    "audio_test.csv": "4,40,1\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "data"
    place.mkdir()
    for name, text in FILES.items():
        (place / name).write_text(text)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return place


def bring_in(folder: Path, **options: Any) -> ImportReport:
    where = str(folder.parent / "store")
    options.setdefault("recipe", str(folder.parent / "recipe.toml"))
    return import_features("csv", [folder], where, "small", **options)


def test_rows_labels_texts_and_splits_join(folder: Path) -> None:
    report = bring_in(folder)
    assert report.splits == {"train": 3, "test": 1}
    store = FeatureStore.open(folder.parent / "store")
    samples = store.samples("small")
    assert samples.ids == ["v_1", "v_10", "v_2", "w_1"]
    assert samples.corpus.title == "A small one"
    assert [t.name for t in samples.corpus.targets] == ["polarity", "strength"]
    assert [(u.dialogue, u.turn) for u in samples.utterances] == [("v", 1), ("v", 10), ("v", 2), ("w", 1)]
    assert [u.text for u in samples.utterances] == ["SO, YES", "NO", None, 'a "b"']
    assert [u.labels["polarity"] for u in samples.utterances] == ["positive", "negative", "negative", "positive"]
    assert [u.scores["strength"] for u in samples.utterances] == [0.5, -1, 0, 2]
    values = store.feature("small", "opensmile").load(samples.ids).arrays["values"]
    np.testing.assert_array_equal(values, np.array([[1, 10], [2, 20], [3, 30], [4, 40]], np.float32))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "audio_train.csv",
            "3,30,0\n1,10,0\n2,20,0\n",
            "audio_train.csv, line 2: the polarity of 'v_1' is 0 here and 1",
        ),
        ("audio_train.csv", "3,30,0\n1,10,1\n", "2 lines for the 3 samples of train"),
        ("audio_train.csv", "3,30,0\n1,10,1\n2,20,0\n9,9,0\n", "line 4: there are more lines than the 3 samples"),
        ("audio_train.csv", "3,30,0\n1,1\n2,20,0\n", "line 2: 2 columns where the others have 3"),
        ("audio_test.csv", "4,40,4,1\n", "3 numbers where opensmile has 2"),
        ("audio_train.csv", "3,30,0\n1,ten,1\n2,20,0\n", "line 2: 'ten' is no number"),
        ("order_train.csv", "2\n0\n0\n", "'v_1' stands in opensmile twice"),
        ("order_train.csv", "2\n0\n4\n", "line 3: 4 is no row of the table of 4 samples"),
        ("order_train.csv", "2\n0\n1.5\n", "1.5 is no row"),
        ("order_test.csv", "0\n", "'v_1' stands in opensmile twice"),
        ("samples.csv", "v_1,a,0,1\nv_1,b,0,0\nv_2,,0,0\nw_1,c,2,1\n", "line 2: the id 'v_1' stands there twice"),
        ("samples.csv", "v1,a,0,1\nv_10,b,0,0\nv_2,,0,0\nw_1,c,2,1\n", "'v1' does not match id_pattern"),
        ("samples.csv", "v_1,a,0,2\nv_10,b,0,0\nv_2,,0,0\nw_1,c,2,1\n", "is 1 here and 2"),
        ("samples.csv", "v_1,a,x,1\nv_10,b,0,0\nv_2,,0,0\nw_1,c,2,1\n", "samples.csv, line 1: 'x' is no number"),
        ("samples.csv", 'v_1,"a,0,1\n', "cannot be read as CSV"),
    ],
)
def test_what_does_not_agree_is_refused(folder: Path, file: str, text: str, message: str) -> None:
    (folder / file).write_text(text)
    with pytest.raises(DataError) as refused:
        bring_in(folder)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (folder.parent / "store").exists()


def test_files_outside_the_folder_are_not_read(folder: Path) -> None:
    outside = folder.parent / "outside.csv"
    outside.write_text("1\n")
    for name in ("../outside.csv", str(outside), "missing.csv"):
        with pytest.raises(DataError, match=r"outside|has no"):
            bring_in(folder, settings=[f'order={{"train": {{"file": {json.dumps(name)}, "column": 0}}}}'])


def test_settings_that_do_not_fit(folder: Path) -> None:
    for options, message in (
        ({"recipe": None}, "which files are features"),
        ({"recipe": "mosy"}, "Did you mean 'mosi'"),
        ({"recipe": str(folder / "samples.csv")}, "recipe"),
        ({"settings": ["order={}"]}, "nothing says which samples"),
        ({"settings": ["targets={}"]}, "does not say what that is"),
        ({"settings": ["feature=1"]}, "Did you mean 'features'"),
        ({"settings": ["id_pattern=("]}, "no regular expression"),
    ):
        with pytest.raises(MerError, match=message):
            bring_in(folder, **options)  # type: ignore[arg-type]


def test_ids_in_the_matrix_need_no_table(folder: Path) -> None:
    (folder / "all.csv").write_text("name;one;two;score\nb;1;2;0.5\na;3;4;-1\n")
    settings = [
        "header=true",
        "delimiter=;",
        'targets={"valence": {"kind": "regression"}}',
        'features={"egemaps": {"modality": "speech", "files": {"all": "all.csv"}, "id": "name", '
        '"labels": {"valence": "score"}}}',
    ]
    bring_in(folder, recipe=None, settings=settings)
    store = FeatureStore.open(folder.parent / "store")
    assert store.samples("small").ids == ["b", "a"]
    assert store.samples("small")["a"].scores == {"valence": -1}
    np.testing.assert_array_equal(store.feature("small", "egemaps")["a"], [[3, 4]])


def test_folds_by_dialogue(folder: Path) -> None:
    folds = folder / "folds.json"
    folds.write_text(json.dumps({"small": {"train": ["v"], "valid": ["w_1"]}, "other": {"train": ["z"]}}))
    report = bring_in(folder, folds=f"{folds}:small")
    assert report.splits == {"train": 3, "val": 1}
    for name, message in (
        (f"{folds}:other", "none of the samples"),
        (str(folds), "KEY"),
        ("no.json", "cannot be read"),
    ):
        with pytest.raises(DataError, match=message):
            bring_in(folder, folds=name)
    folds.write_text(json.dumps({"train": ["v"], "test": ["v"]}))
    with pytest.raises(DataError, match="in train and in test"):
        bring_in(folder, folds=str(folds))


@pytest.mark.parametrize("cell", ["nan", "inf", "-Infinity", ""])
def test_non_finite_values_are_refused_or_masked_and_said_by_column(folder: Path, cell: str) -> None:
    (folder / "audio_train.csv").write_text(f"3,30,0\n1,{cell},1\n2,20,0\n")
    with pytest.raises(DataError, match=r"'v_1'; by column: values\[1\]: 1\."):
        bring_in(folder)
    assert not (folder.parent / "store").exists()
    report = bring_in(folder, non_finite="mask-samples")
    assert report.features[0].non_finite == {"values[1]": 1}
    assert any("values[1]: 1" in note for note in report.notes)
    assert report.features[0].failed == 1
    feature = FeatureStore.open(folder.parent / "store").feature("small", "opensmile")
    assert feature.failures() == {"v_1": "non-finite values in 1 of 1 frames"}


def test_a_value_that_the_type_cannot_hold_is_refused(folder: Path) -> None:
    (folder / "audio_train.csv").write_text("3,30,0\n1,70000,1\n2,20,0\n")
    with pytest.raises(DataError, match="float16 cannot hold; use --dtype float32"):
        bring_in(folder, dtype="float16")
    assert bring_in(folder).features[0].dtype == "float32"


def test_samples_with_the_same_numbers_are_said(folder: Path) -> None:
    (folder / "audio_train.csv").write_text("3,30,0\n3,30,1\n2,20,0\n")
    assert any("v_1, v_2" in note for note in bring_in(folder).notes)


def test_changed_join_is_another_feature(folder: Path) -> None:
    first = bring_in(folder).features[0].fingerprint
    (folder / "order_train.csv").write_text("2,y\n0,y\n1,y\n")
    assert bring_in(folder).features[0].fingerprint != first


@pytest.fixture(scope="module")
def mosi(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    place = tmp_path_factory.mktemp("mosi") / "store"
    report = import_features("csv", [test_data / "mosi"], str(place), "mosi", recipe="mosi")
    assert report.splits == {"test": 752, "train": 1447}
    assert [(f.name, f.modality, f.width, f.done) for f in report.features] == [
        ("text-cnn", "text", (100,), 2199),
        ("opensmile", "speech", (73,), 2199),
        ("cnn3d", "vision", (100,), 2199),
    ]
    again = import_features("csv", [test_data / "mosi"], str(place), "mosi", recipe="mosi")
    assert (again.added, [f.written for f in again.features]) == (0, [0, 0, 0])
    return FeatureStore.open(place)


def _csv(path: Path) -> list[list[str]]:
    with path.open(newline="") as lines:
        return list(csv.reader(lines))


def test_mosi_lies_in_the_store_as_in_its_files(mosi: FeatureStore, test_data: Path) -> None:
    """Text is joined twice over: `text_S.csv` holds the row numbers and the numbers themselves."""
    transcripts = _csv(test_data / "mosi" / "transcripts.csv")
    samples = mosi.samples("mosi")
    assert samples.ids == [line[0] for line in transcripts]
    videos: dict[str, set[str | None]] = {"train": set(), "test": set()}
    for split in ("train", "test"):
        for line in _csv(test_data / "mosi" / f"text_{split}.csv"):
            number, text, _, label = transcripts[int(line[0])]
            utterance = samples[number]
            assert utterance.split == split
            assert utterance.text == text
            assert utterance.labels == {"polarity": ("negative", "positive")[int(label)]}
            assert f"{utterance.dialogue}_{utterance.turn}" == number
            videos[split].add(utterance.dialogue)
        lines = _csv(test_data / "mosi" / f"text_{split}.csv")
        ids = [transcripts[int(line[0])][0] for line in lines]
        stored = mosi.feature("mosi", "text-cnn").load(ids).arrays["values"]
        np.testing.assert_allclose(stored, np.array([line[1:] for line in lines], float), rtol=1e-6)
    assert (len(videos["train"]), len(videos["test"])) == (62, 31)
    assert not videos["train"] & videos["test"]


@pytest.mark.parametrize("name", ["opensmile", "cnn3d"])
def test_mosi_rows_are_those_of_their_videos(mosi: FeatureStore, name: str) -> None:
    """Speech and vision have no ids of their own: their rows differ least within videos where the order is right."""
    samples = mosi.samples("mosi")
    rows = [u for u in samples.utterances if u.split == "train"]
    rows.sort(key=lambda u: (-int(u.labels["polarity"] == "negative"), samples.ids.index(u.id)))
    values = mosi.feature("mosi", name).load([u.id for u in rows]).arrays["values"].astype(np.float64)
    values = (values - values.mean(0)) / np.where(values.std(0) > 0, values.std(0), 1)
    _, video = np.unique([u.dialogue for u in rows], return_inverse=True)

    def within(groups: np.ndarray) -> float:
        means = np.stack([values[groups == g].mean(0) for g in range(groups.max() + 1)])
        return float(((values - means[groups]) ** 2).sum())

    right = within(video)
    assert all(right < within(np.roll(video, shift)) for shift in (-5, -1, 1, 5, 50))


def test_mosi_repeats_are_said(mosi: FeatureStore, test_data: Path, tmp_path: Path) -> None:
    report = import_features("csv", [test_data / "mosi"], mosi.location, "mosi", recipe="mosi")
    told = " ".join(report.notes)
    assert "bOL9jKpeJRs_24, bOL9jKpeJRs_25" in told
    assert "8qrpnFRGt2A_13, 9qR7uwkblbs_33" in told
    assert "trained on the labels" in told


def test_mosi_with_a_swapped_line_is_refused(test_data: Path, tmp_path: Path) -> None:
    """Two lines of different polarity in another order are found by the label that every file repeats."""
    folder = tmp_path / "mosi"
    folder.mkdir()
    for file in (test_data / "mosi").glob("*.csv"):
        (folder / file.name).write_bytes(file.read_bytes())
    lines = (folder / "audio_test0.csv").read_text().splitlines()
    lines[0], lines[-1] = lines[-1], lines[0]
    (folder / "audio_test0.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"audio_test0\.csv, line 1: the polarity"):
        import_features("csv", [folder], str(tmp_path / "store"), "mosi", recipe="mosi")


def test_the_recipe_in_the_help_is_one(folder: Path) -> None:
    from cache_schema.exchange.formats import csv as format_csv

    example = "\n".join(line.strip() for line in format_csv.LAYOUT.splitlines() if line.startswith("    "))
    recipe = folder.parent / "help.toml"
    recipe.write_text(example[example.index("header = ") :])
    (folder / "samples.csv").write_text("id,text,label\na,one,1\nb,two,0\n")
    (folder / "order_train.csv").write_text("row\n1\n0\n")
    (folder / "audio_train.csv").write_text("x,y,label\n1,2,0\n3,4,1\n")
    bring_in(folder, recipe=str(recipe))
    np.testing.assert_array_equal(
        FeatureStore.open(folder.parent / "store").feature("small", "opensmile")["a"], [[3, 4]]
    )


def test_csv_is_imported_only(tmp_path: Path) -> None:
    from cache_schema.exchange.exporting import export_features

    with pytest.raises(SettingsError, match="not exported to"):
        export_features("csv", str(tmp_path), "x", [], tmp_path / "out")
