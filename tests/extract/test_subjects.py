"""Physiology normalised per subject: over all recordings of a speaker, whoever extracts them and when."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cache_schema.plan import SegmentPlan
from cache_schema.store import FeatureStore
from extract.physiology import Channel, pooled, recordings
from extract.physiology.digests import digest_of
from extract.physiology.subjects import input_of, subject_moments
from extract.run import Report, extract
from extract.sources import replaced

SECONDS, HZ = 30, 8
LEVELS = {"ann-rest": ("Ann", 10.0), "ann-task": ("Ann", 30.0), "ben": ("Ben", 500.0), "nobody": (None, 70.0)}


def write(root: Path, name: str, level: float) -> None:
    """A recording with this mean and a standard deviation of 1."""
    values = np.random.default_rng(len(name)).normal(size=SECONDS * HZ)
    values = level + (values - values.mean()) / values.std()
    rows = "".join(f"{k / HZ},{float(value)!r}\n" for k, value in enumerate(values))
    (root / f"{name}.csv").write_text(f"time,EDA\n{rows}", encoding="utf-8")


def write_manifest(root: Path, levels: Mapping[str, tuple[str | None, float]] = LEVELS) -> None:
    rows = [{"id": name, "signals": f"{name}.csv", "speaker": speaker} for name, (speaker, _) in levels.items()]
    (root / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    data.mkdir()
    for name, (_, level) in LEVELS.items():
        write(data, name, level)
    write_manifest(data)
    return data


def run(root: Path, store: Path, *settings: str, said: list[str] | None = None, **more: Any) -> Report:
    settings = ("physio.output_dtype=float32", *(f"physio.{setting}" for setting in settings))
    say = (said if said is not None else []).append
    return extract("folder", root, str(store), encoders=["physio"], settings=settings, device="cpu", say=say, **more)


def values(store: Path) -> dict[str, NDArray[np.float32]]:
    """By sample (frames, 2): mean and standard deviation of the windows; of failed ones nothing."""
    feature = FeatureStore.open(store).feature("folder", "physio")
    without = feature.failures()
    return {id_: feature.read(id_)["values"] for id_ in feature.samples.ids if id_ not in without}


def bits(store: Path) -> dict[str, bytes]:
    return {id_: array.tobytes() for id_, array in values(store).items()}


def means(store: Path) -> dict[str, float]:
    return {id_: float(array[:, 0].mean()) for id_, array in values(store).items()}


def test_what_differs_between_a_subjects_recordings_stays_and_what_differs_between_subjects_goes(
    root: Path, tmp_path: Path
) -> None:
    """Ann's recordings lie 20 apart, each with sd 1: over both the mean is 20 and the sd is sqrt(1 + 10^2)."""
    said: list[str] = []
    run(root, tmp_path / "subject", said=said)
    apart = 10 / np.sqrt(101)
    expected = {"ann-rest": -apart, "ann-task": apart, "ben": 0.0, "nobody": 0.0}
    assert means(tmp_path / "subject") == pytest.approx(expected, abs=0.05)
    assert not any("speaker" in line for line in said), "one recording without a speaker is like any other"
    run(root, tmp_path / "recording", "normalize=recording")
    assert means(tmp_path / "recording") == pytest.approx(dict.fromkeys(LEVELS, 0.0), abs=0.05)
    run(root, tmp_path / "none", "normalize=none")
    assert means(tmp_path / "none") == pytest.approx({name: level for name, (_, level) in LEVELS.items()}, abs=0.3)
    spread = [values(tmp_path / how)["ann-task"][:, 1].mean() for how in ("subject", "recording", "none")]
    assert spread[0] * np.sqrt(101) == pytest.approx(spread[2], rel=1e-4)
    assert spread[1] == pytest.approx(spread[2], rel=1e-4)


def test_recordings_of_nobody_known_are_normalised_each_by_itself_which_is_said(root: Path, tmp_path: Path) -> None:
    said: list[str] = []
    write_manifest(root, {name: (None, level) for name, (_, level) in LEVELS.items()})
    run(root, tmp_path / "store", said=said)
    assert means(tmp_path / "store") == pytest.approx(dict.fromkeys(LEVELS, 0.0), abs=0.05)
    assert "physio: 4 recordings name no speaker: each is normalised by itself." in said


def test_pieces_and_workers_give_the_same_bits(root: Path, tmp_path: Path) -> None:
    run(root, tmp_path / "at once")
    done = FeatureStore.open(tmp_path / "at once")
    in_segments_of_one = FeatureStore.open(tmp_path / "by two", mode="a")
    in_segments_of_one.append_samples(done.samples("folder").corpus, done.samples("folder").utterances)
    in_segments_of_one.writer("folder", done.feature("folder", "physio").spec, SegmentPlan(max_rows=1))
    assert run(root, tmp_path / "by two", workers=2).workers
    run(root, tmp_path / "in pieces", limit=1)
    assert means(tmp_path / "in pieces") == pytest.approx({"ann-rest": 0.0}, abs=0.05), "all that is known of Ann"
    run(root, tmp_path / "in pieces")
    assert bits(tmp_path / "at once") == bits(tmp_path / "by two") == bits(tmp_path / "in pieces")


def test_a_recording_that_becomes_anothers_moves_both_subjects(root: Path, tmp_path: Path) -> None:
    """A manifest's mistake is mended: Ann's task was Ben's. Ann's other recording is all that is hers, then."""
    said: list[str] = []
    run(root, tmp_path / "store")
    mended = {name: ("Ben" if name == "ann-task" else speaker, level) for name, (speaker, level) in LEVELS.items()}
    write_manifest(root, mended)
    run(root, tmp_path / "store", said=said)
    run(root, tmp_path / "anew")
    assert bits(tmp_path / "store") == bits(tmp_path / "anew")
    assert means(tmp_path / "store")["ann-rest"] == pytest.approx(0.0, abs=0.05)
    assert any("the recordings of subjects changed" in line for line in said)


def test_a_recording_that_is_added_moves_its_subjects_others_and_nobody_elses(root: Path, tmp_path: Path) -> None:
    store, said = tmp_path / "store", list[str]()
    write_manifest(root, {name: given for name, given in LEVELS.items() if name != "ann-task"})
    run(root, store)
    before = bits(store)
    write_manifest(root)
    report = run(root, store, said=said)
    assert "physio: the recordings of subjects changed: 1 samples of theirs are normalised anew." in said
    assert report.features[0].encoded == 2, "the new one and Ann's other one"
    assert run(root, store).features[0].encoded == 0
    run(root, tmp_path / "at once")
    after = bits(store)
    assert after == bits(tmp_path / "at once")
    assert {name for name in before if before[name] != after[name]} == {"ann-rest"}


def test_a_run_of_the_first_utterances_loses_no_features_of_others(root: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    write_manifest(root, {name: given for name, given in LEVELS.items() if name != "ann-task"})
    run(root, store)
    write_manifest(root, {"ann-task": LEVELS["ann-task"]} | LEVELS)
    assert run(root, store, limit=1).features[0].encoded == 2, "the new one and Ann's other one"
    run(root, tmp_path / "at once")
    assert bits(store) == bits(tmp_path / "at once")


def test_a_damaged_recording_counts_for_nothing_until_it_is_mended(root: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    (root / "ann-task.csv").write_text("time,EDA\n0,1\n0,=1+1\n", encoding="utf-8")
    report = run(root, store)
    assert report.features[0].failed == 1
    write_manifest(root, {name: given for name, given in LEVELS.items() if name != "ann-task"})
    run(root, tmp_path / "without")
    assert bits(store) == bits(tmp_path / "without")
    write_manifest(root)
    write(root, "ann-task", 30.0)
    assert run(root, store, retry_failed=True).features[0].failed == 0
    run(root, tmp_path / "at once")
    assert bits(store) == bits(tmp_path / "at once")


def test_a_recording_that_is_lost_takes_no_features_with_it(root: Path, tmp_path: Path) -> None:
    run(root, tmp_path / "store")
    write(root, "ann-more", 20.0)
    write_manifest(root, LEVELS | {"ann-more": ("Ann", 20.0)})
    (root / "ann-task.csv").unlink()
    run(root, tmp_path / "store")
    assert set(values(tmp_path / "store")) == {*LEVELS, "ann-more"}


def test_a_replaced_recording_is_told_of_all_its_subjects_samples(root: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run(root, store)
    inputs = FeatureStore.open(store).feature("folder", "physio").inputs()
    both = input_of([digest_of(root / f"{name}.csv") for name in ("ann-rest", "ann-task")])
    assert inputs == {"ann-rest": both, "ann-task": both} | {
        name: digest_of(root / f"{name}.csv") for name in ("ben", "nobody")
    }
    assert list(replaced(FeatureStore.open(store), root)) == []
    write(root, "ann-task", 31.0)
    (found,) = replaced(FeatureStore.open(store), root)
    assert (found.path, found.samples) == ("ann-rest.csv, ann-task.csv", ("ann-rest", "ann-task"))
    assert run(root, store, retry_replaced=True).features[0].encoded == 2
    run(root, tmp_path / "at once")
    assert bits(store) == bits(tmp_path / "at once")


def test_moments_of_recordings_are_those_of_all_that_was_measured() -> None:
    random = np.random.default_rng(0)
    channels = [Channel(np.arange(n) / 4, random.normal(level, 2, n)) for n, level in ((40, 5.0), (90, -3.0), (1, 1e4))]
    channels[2] = Channel(np.arange(2) / 4, channels[2].values.repeat(2))
    together = np.concatenate([channel.values for channel in channels])
    found = pooled([channel.moments for channel in channels])
    assert (found.mean, found.sd) == pytest.approx((together.mean(), together.std()))
    slow, fast = Channel(np.arange(10) / 1.0, np.zeros(10)), Channel(np.arange(640) / 64, np.ones(640))
    assert pooled([slow.moments, fast.moments]).mean == pytest.approx(0.5), "by time, not by samples"


def test_real_sessions_of_one_subject(test_data: Path) -> None:
    """Two sessions of an Empatica E4, taken for one wearer's: every channel's moments are those of both together."""
    _, found = subject_moments(test_data / "e4", ("S01", "S02"))
    sessions = [recordings.read(test_data / "e4" / name) for name in ("S01", "S02")]
    assert set(found) == {"BVP", "EDA", "HR", "IBI", "TEMP"}
    for name in ("BVP", "EDA", "HR", "TEMP"):
        together = np.concatenate([session.channels[name].values for session in sessions])
        assert (found[name].mean, found[name].sd) == pytest.approx((together.mean(), together.std()), abs=1e-9)
        assert found[name].mean != pytest.approx(sessions[0].channels[name].moments.mean, rel=1e-3)
