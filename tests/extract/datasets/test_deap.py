"""The DEAP adapter: both forms of the preprocessed release, ratings to classes, pickles that are programs."""

from __future__ import annotations

import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.io import savemat

from cache_schema.errors import DataError
from cache_schema.store import FeatureStore
from extract.dataset import Enumeration
from extract.datasets import deap
from extract.physiology import recordings


def ratings(seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(1, 9, (40, 4)).round(2)


def python2_pickle(**arrays: NDArray[np.float64]) -> bytes:
    """Arrays as Python 2 pickled them, which is how the release was made: their bytes are strings."""
    out = b"\x80\x02}("
    for name, array in arrays.items():
        shape = b"".join(b"M" + struct.pack("<H", n) for n in array.shape)
        data = array.astype("<f8").tobytes()
        out += b"U" + bytes([len(name)]) + name.encode()
        out += b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
        out += b"(K\x01(" + shape + b"tcnumpy\ndtype\n(U\x02f8K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        out += b"J\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<I", len(data)) + data + b"tb"
    return out + b"u."


def write(root: Path, *subjects: str, labels: NDArray[np.float64] | None = None) -> None:
    for subject in subjects:
        path = root / "data_preprocessed_python" / f"{subject}.dat"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(python2_pickle(data=np.zeros((1, 1, 1)), labels=ratings() if labels is None else labels))


def read(root: Path) -> Enumeration:
    return deap.enumerate_corpus(root, lambda _: None)


def test_all_subjects_make_the_official_count(tmp_path: Path) -> None:
    write(tmp_path, *(f"s{n:02}" for n in range(1, 33)))
    found = read(tmp_path)
    assert len(found.utterances) == 1280 and found.notes == []
    assert len({u.speaker for u in found.utterances}) == 32
    assert [u.id for u in found.utterances[:2]] == ["s01/video01", "s01/video02"]
    assert found.utterances[-1].id == "s32/video40"


def test_a_trial_is_the_minute_after_its_baseline(tmp_path: Path) -> None:
    labels = ratings()
    labels[1] = (5.01, 5.0, 1.0, 9.0)
    write(tmp_path, "s07", labels=labels)
    assert read(tmp_path).utterances[1].model_dump(exclude_none=True) == {
        "id": "s07/video02",
        "signals": "data_preprocessed_python/s07.dat",
        "start": 66.0,
        "end": 126.0,
        "duration": 60.0,
        "speaker": "s07",
        "labels": {"valence": "high", "arousal": "low", "quadrant": "high valence, low arousal"},
        "scores": {"valence_rating": 5.01, "arousal_rating": 5.0, "dominance_rating": 1.0, "liking_rating": 9.0},
    }


def test_matlab_files_and_the_table_of_ratings_say_the_same(tmp_path: Path) -> None:
    labels = ratings(3)
    write(tmp_path / "python", "s01", labels=labels)
    (tmp_path / "matlab").mkdir()
    savemat(tmp_path / "matlab" / "s01.mat", {"data": np.zeros((1, 1, 1)), "labels": labels})
    table = tmp_path / "table" / "metadata_csv" / "participant_ratings.csv"
    table.parent.mkdir(parents=True)
    (tmp_path / "table" / "s01.dat").write_bytes(b"not opened")
    lines = ["Participant_id,Trial,Experiment_id,Start_time,Valence,Arousal,Dominance,Liking,Familiarity"]
    for trial, video in enumerate(np.random.default_rng(0).permutation(40), 1):
        lines.append(f"1,{trial},{video + 1},1695918,{','.join(map(str, labels[video]))},3")
    table.write_text("\n".join(lines), encoding="utf-8")
    by_python, by_matlab, by_table = (read(tmp_path / name).utterances for name in ("python", "matlab", "table"))
    assert by_python[0].scores["arousal_rating"] == labels[0, 1]
    for other in (by_matlab, by_table):
        assert [(u.id, u.scores, u.labels) for u in other] == [(u.id, u.scores, u.labels) for u in by_python]


@pytest.mark.parametrize("form", ["dat", "mat"])
def test_a_subjects_signals_are_read(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings.deap, "SAMPLES", 6)
    data = np.random.default_rng(1).normal(size=(40, 40, 6))
    file = tmp_path / f"s01.{form}"
    if form == "dat":
        file.write_bytes(python2_pickle(data=data, labels=ratings()))
    else:
        savemat(file, {"data": data, "labels": ratings()})
    assert recordings.channels(file) == recordings.deap.CHANNELS and len(set(recordings.deap.CHANNELS)) == 40
    recording = recordings.read(file)
    assert list(recording.channels) == list(recordings.deap.CHANNELS)
    fz = recording.channels["Fz"]
    assert np.array_equal(fz.values.reshape(40, 6), data[:, 18]) and fz.spacing == 1 / 128
    assert np.array_equal(recordings.deap.read_ratings(file), ratings())
    monkeypatch.setattr(recordings.deap, "SAMPLES", 7)
    with pytest.raises(DataError, match=r"'data' must be numbers of the shape \(40, 40, 7\), and is float64"):
        recordings.read(file)


def test_a_pickle_that_is_a_program_is_never_run(tmp_path: Path) -> None:
    class Program:
        def __reduce__(self) -> tuple[object, tuple[str, ...]]:
            return (open, (str(tmp_path / "was run"), "w"))

    (tmp_path / "s01.dat").write_bytes(pickle.dumps({"labels": Program()}, protocol=2))
    with pytest.raises(DataError, match=r"s01\.dat: it names .*, and only numpy arrays and builtins are admitted"):
        read(tmp_path)
    assert not (tmp_path / "was run").exists()


def test_absent_subjects_are_told_and_other_files_left_alone(tmp_path: Path) -> None:
    write(tmp_path, "s01", "s33")
    (tmp_path / "data_preprocessed_python" / "readme.txt").write_text("", encoding="utf-8")
    found = read(tmp_path)
    assert len(found.utterances) == 40
    assert found.notes == ["not the whole release: 31 of 32 subjects are absent: s02, s03, s04, s05, s06 and 26 more."]


def test_what_is_wrong_with_a_file_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a", "s01", labels=np.zeros((39, 4)))
    with pytest.raises(DataError, match=r"s01\.dat: 'labels' must be numbers of the shape \(40, 4\)"):
        read(tmp_path / "a")
    write(tmp_path / "b", "s01", labels=np.full((40, 4), 9.5))
    with pytest.raises(DataError, match=r"s01\.dat, video 1: valence is 9\.5, and ratings are from 1 to 9"):
        read(tmp_path / "b")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "s01.mat").write_bytes(b"no Matlab at all")
    with pytest.raises(DataError, match=r"s01\.mat cannot be read as a Matlab file"):
        read(tmp_path / "c")
    write(tmp_path / "d", "s01")
    (tmp_path / "d" / "s01.mat").write_bytes(b"")
    with pytest.raises(DataError, match=r"s01 is there twice"):
        read(tmp_path / "d")
    write(tmp_path / "e", "s01")
    (tmp_path / "e" / "participant_ratings.csv").write_text("Participant_id,Valence\n1,2\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"there is no column 'Experiment_id'"):
        read(tmp_path / "e")


@pytest.mark.parametrize("damage", ["truncated", "zeros", "empty", "off the scale", "no labels", "a folder"])
def test_a_damaged_subject_is_forty_failures_and_no_end_of_the_run(
    tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its trials are known without it; the others' signals and ratings are those of a run without it."""
    monkeypatch.setattr(recordings.deap, "SAMPLES", 6)
    random = np.random.default_rng(2)
    files = {s: python2_pickle(data=random.normal(size=(40, 40, 6)), labels=ratings(s)) for s in (1, 2, 3)}
    bad = {
        "truncated": files[2][:-100],
        "zeros": bytes(1000),
        "empty": b"",
        "off the scale": python2_pickle(data=np.zeros((1, 1, 1)), labels=np.full((40, 4), 9.5)),
        "no labels": python2_pickle(data=np.zeros((40, 40, 6))),
        "a folder": None,
    }[damage]
    for number, content in files.items():
        file = tmp_path / "root" / f"s{number:02}.dat"
        file.parent.mkdir(exist_ok=True)
        if number != 2:
            file.write_bytes(content)
        elif bad is None:
            file.mkdir()
        else:
            file.write_bytes(bad)
    found = read(tmp_path / "root")
    assert [u.id for u in found.utterances] == [f"s{s:02}/video{v:02}" for s in (1, 2, 3) for v in range(1, 41)]
    assert [bool(u.labels and u.scores) for u in found.utterances] == [True] * 40 + [False] * 40 + [True] * 40
    (said,) = [note for note in found.notes if "s02" in note.partition(":")[0]]
    assert said.startswith("the 40 trials of s02 have no ratings: ") and "s02.dat" in said and "\n" not in said
    shutil.rmtree(tmp_path / "root" / "s02.dat") if bad is None else (tmp_path / "root" / "s02.dat").unlink()
    assert read(tmp_path / "root").utterances == [u for u in found.utterances if u.speaker != "s02"]


def test_a_damaged_subject_is_forty_recorded_failures(tmp_path: Path, mer: Callable[..., Any]) -> None:
    data = np.random.default_rng(0).integers(-9, 9, (40, 40, recordings.deap.SAMPLES), np.int8)
    good = pickle.dumps({"data": data, "labels": ratings()}, protocol=2)
    (tmp_path / "s01.dat").write_bytes(good[:-1000])
    (tmp_path / "s02.dat").write_bytes(good)
    words = ("extract", "--dataset", "deap", "--set", 'physio.channels=["GSR"]', "--max-failures", "99%")
    done = mer(*words, "--root", tmp_path, "--store", tmp_path / "store", "--limit", "41")
    assert done.code == 0 and "the 40 trials of s01 have no ratings: " in done.err, done.err
    feature = FeatureStore.open(tmp_path / "store").feature("deap", "physio")
    assert set(feature.failures()) == {f"s01/video{video:02}" for video in range(1, 41)}
    assert all(why.startswith("s01.dat: ") for why in feature.failures().values())
    assert feature.read("s02/video01")["there"].all()
