"""The pipeline: every clip decoded once, every segment committed once, whatever stops it on the way."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_schema.errors import DataError, SettingsError, StoreError
from cache_schema.plan import SegmentPlan
from cache_schema.repair import repair
from cache_schema.store import FeatureStore
from cache_schema.verify import verify
from extract import pipeline
from extract.encoders import mfcc, roberta
from extract.run import Report, extract

FAST = ("roberta", "mfcc", "resnet")
LIGHT = ("mfcc", "logmel")
"""Encoders whose process begins without torch."""
TRAIN = 8
SAMPLES = 14


@pytest.fixture
def run(small_corpus: Path, small_weights: Path, tmp_path: Path) -> Any:
    """Extracts the small corpus into a store of this test; arguments replace its settings."""

    def extracted(**changes: Any) -> Report:
        settings: dict[str, Any] = {
            "dataset": "meld",
            "root": small_corpus,
            "store_path": str(tmp_path / "store"),
            "encoders": FAST,
            "weights": str(small_weights),
            "device": "cpu",
        }
        return extract(**(settings | changes))

    return extracted


@pytest.fixture
def own_corpus(small_corpus: Path, tmp_path: Path) -> Path:
    """A copy of the corpus that the test may damage."""
    return Path(shutil.copytree(small_corpus, tmp_path / "corpus"))


def plan_segments_of(store: Path, rows: int, **jobs: Any) -> None:
    """Put the features' documents into the store with a plan of small segments, which later writers then keep."""
    opened = FeatureStore.open(store, mode="a")
    for spec in jobs.values():
        opened.writer("meld", spec, SegmentPlan(max_rows=rows))


def contents(store: Path) -> dict[str, dict[str, bytes]]:
    """Every present sample's numbers, by feature and id."""
    opened = FeatureStore.open(store)
    samples = opened.samples("meld").ids
    return {
        feature.spec.folder: {
            id_: feature.read(id_)["values"].tobytes()
            for id_ in samples
            if id_ not in feature.failures() and id_ not in feature.absences()
        }
        for feature in opened.features("meld")
        if not feature.status().missing
    }


def test_everything_is_extracted_and_a_second_run_does_nothing(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run()
    assert [f.name for f in first.features] == list(FAST)
    for feature in first.features:
        assert (feature.samples, feature.written, feature.encoded) == (SAMPLES, SAMPLES, SAMPLES)
        assert (feature.skipped, feature.failed, feature.absent, feature.missing) == (0, 0, 0, 0)
    assert [f.random_weights for f in first.features] == [True, False, True]

    def refuse(*_: Any) -> None:
        raise AssertionError("an encoder was started, or a clip decoded, with nothing to do")

    for module in (mfcc, roberta):
        monkeypatch.setattr(module, "Encoder", refuse)
    monkeypatch.setattr(pipeline, "decode", refuse)
    for feature in run().features:
        assert (feature.written, feature.encoded, feature.skipped) == (0, 0, SAMPLES)


def test_a_clip_is_decoded_once_for_all_encoders(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: Counter[str] = Counter()
    real = pipeline.decode

    def counted(root: Path, utterance: Any, *given: Any) -> Any:
        decoded[utterance.id] += 1
        return real(root, utterance, *given)

    monkeypatch.setattr(pipeline, "decode", counted)
    run()
    assert len(decoded) == SAMPLES
    assert set(decoded.values()) == {1}


def test_windows_bound_memory_and_change_no_number(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(store_path=str(tmp_path / "whole"))
    sizes = []
    real = pipeline._collect

    def seen(*given: Any) -> Any:
        window = real(*given)
        sizes.append(len(window))
        return window

    monkeypatch.setattr(pipeline, "_collect", seen)
    monkeypatch.setattr(pipeline, "DECODE_BUDGET_BYTES", 300_000)
    run(store_path=str(tmp_path / "windows"))
    assert len(sizes) > 3
    assert sum(sizes) == SAMPLES
    whole, windows = contents(tmp_path / "whole"), contents(tmp_path / "windows")
    assert whole.keys() == windows.keys()
    for feature, rows in whole.items():
        for id_, values in rows.items():
            found, expected = (np.frombuffer(v, np.float16).astype(float) for v in (windows[feature][id_], values))
            np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)  # equal but for fp16's last digit


def test_the_order_of_the_stretches_changes_no_bit(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = {"as they come": lambda stretches: None, "reversed": lambda stretches: stretches.reverse()}
    run(limit=5, store_path=str(tmp_path / "specs"))
    spec = {f.name: f.spec for f in FeatureStore.open(tmp_path / "specs").features("meld")}
    for name, order in orders.items():
        store = tmp_path / name
        run(limit=1, store_path=str(store), encoders=["roberta"], settings=["roberta.layer=0"])
        opened = FeatureStore.open(store, mode="a")
        for feature in FAST:
            opened.writer("meld", spec[feature], SegmentPlan(max_rows=4))
        monkeypatch.setattr(pipeline.random, "shuffle", order)
        run(store_path=str(store))
    first, second = (contents(tmp_path / name) for name in orders)
    assert {spec[f].folder for f in FAST} <= first.keys()
    assert first == second


def test_a_missing_and_a_broken_clip_are_recorded_and_the_rest_is_extracted(run: Any, own_corpus: Path) -> None:
    (own_corpus / "train_splits" / "dia0_utt0.mp4").unlink()
    broken = own_corpus / "train_splits" / "dia0_utt1.mp4"
    broken.write_bytes(broken.read_bytes()[:3000])
    report = run(root=own_corpus)
    text, speech, vision = report.features
    assert (text.failed, text.written) == (0, SAMPLES)
    for feature in (speech, vision):
        assert (feature.failed, feature.written, feature.encoded) == (2, SAMPLES - 2, SAMPLES - 2)
        assert sum(feature.reasons.values()) == 2
    assert report.failed_utterances == 2
    store = FeatureStore.open(report.store)
    assert set(store.feature("meld", "mfcc").failures()) == {"train/dia0_utt0", "train/dia0_utt1"}


def test_mended_clips_are_extracted_by_retry_failed_and_only_then(
    run: Any, own_corpus: Path, small_corpus: Path
) -> None:
    clip = Path("train_splits", "dia0_utt0.mp4")
    (own_corpus / clip).unlink()
    run(root=own_corpus)
    shutil.copy(small_corpus / clip, own_corpus / clip)
    unasked = run(root=own_corpus)
    assert [f.failed for f in unasked.features] == [0, 1, 1]
    assert all(f.encoded == 0 for f in unasked.features)
    asked = run(root=own_corpus, retry_failed=True)
    assert [f.encoded for f in asked.features] == [1, 1, 1]
    assert asked.failed_utterances == 0
    assert [f.failed + f.missing for f in asked.features] == [0, 0, 0]
    anew = run(root=own_corpus, settings=["mfcc.n_mfcc=20"]).features[1]
    assert (anew.samples, anew.written, anew.encoded, anew.skipped) == (SAMPLES, SAMPLES, SAMPLES, 0)


def test_where_no_clip_is_there_nothing_is_begun(run: Any, own_corpus: Path, tmp_path: Path) -> None:
    for clip in own_corpus.rglob("*.mp4"):
        clip.unlink()
    with pytest.raises(DataError, match=r"none of the 14 clips is under .*dia0_utt0\.mp4"):
        run(root=own_corpus)
    assert not (tmp_path / "store").exists()
    assert run(root=own_corpus, encoders=["roberta"]).features[0].written == SAMPLES


def test_another_corpus_under_the_same_name_is_refused(run: Any, tmp_path: Path, small_corpus: Path) -> None:
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy(small_corpus / "train_splits" / "dia0_utt0.mp4", folder / f"{name}.mp4")
    run(dataset="folder", root=tmp_path / "one", encoders=["mfcc"])
    with pytest.raises(DataError, match=r"holds 1 utterances that .* does not list, as 'one'.*--name"):
        run(dataset="folder", root=tmp_path / "two", encoders=["mfcc"])
    report = run(dataset="folder", root=tmp_path / "two", encoders=["mfcc"], name="second")
    assert report.dataset == "second"
    assert FeatureStore.open(report.store).datasets() == ["folder", "second"]


def test_a_limit_extracts_the_first_utterances_and_the_rest_follows(run: Any) -> None:
    assert [f.written for f in run(limit=3).features] == [3, 3, 3]
    whole = run()
    assert [(f.samples, f.written, f.skipped) for f in whole.features] == [(SAMPLES, SAMPLES - 3, 3)] * 3


def test_samples_that_were_damaged_and_dropped_are_extracted_again(run: Any, tmp_path: Path) -> None:
    run(encoders=["mfcc"])
    (part,) = (tmp_path / "store").glob("samples/*/*.parquet")
    part.write_bytes(part.read_bytes()[:-1])
    repair(FeatureStore.open(tmp_path / "store", mode="a"))
    (feature,) = run(encoders=["mfcc"]).features
    assert feature.written == feature.samples == SAMPLES
    assert verify(FeatureStore.open(tmp_path / "store"), deep=True) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoders": ["roberto"]}, "no encoder called 'roberto'. Did you mean 'roberta'"),
        ({"settings": ["mfcc.hops=3"]}, "field"),
        ({"settings": ["vit.layer=3"]}, "vit.layer=3.*this run has roberta, mfcc, resnet"),
        ({"crop": "fce", "encoders": ["mfcc"]}, "no crop called 'fce'. Did you mean 'face'"),
        ({"settings": ["resnet.pool=men"]}, "resnet: There is no pool called 'men'. Did you mean 'mean'"),
        ({"device": "tpu9"}, "The device .tpu9. cannot be used"),
        ({"dataset": "mled"}, "no dataset called 'mled'. Did you mean 'meld'"),
    ],
)
def test_wrong_settings_are_named(run: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        run(**changes)


def test_an_error_while_writing_ends_the_run(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> bool:
        raise StoreError("the disk is full")

    monkeypatch.setattr("cache_schema.writer.FeatureWriter.commit", full)
    with pytest.raises(StoreError, match="the disk is full"):
        run()


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_stopped_goes_on_where_it_was(
    stop: signal.Signals, run: Any, small_corpus: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    report = run(store_path=str(tmp_path / "whole"), encoders=LIGHT)
    opened = FeatureStore.open(tmp_path / "whole")
    specs = {f.name: opened.feature("meld", f.name).spec for f in report.features}
    samples = opened.samples("meld")
    FeatureStore.open(store, mode="a").append_samples(samples.corpus, [samples[id_] for id_ in samples.ids])
    plan_segments_of(store, 1, mfcc=specs["mfcc"])
    plan_segments_of(store, 4, logmel=specs["logmel"])

    command = [sys.executable, "-c", SLOW_ENCODERS, "extract", "--dataset", "meld", "--root", str(small_corpus)]
    command += ["--store", str(store), "--encoders", ",".join(LIGHT)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": ROOT})
    commits = store / "features" / "meld" / specs["mfcc"].folder / "commits"
    deadline = time.monotonic() + 60
    while (len(list(commits.glob("*.json"))) < 3) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(stop)
    _, errors = process.communicate(timeout=30)
    if stop == signal.SIGINT:
        assert process.returncode == 1
        assert errors.strip().splitlines()[-1].startswith("mer: interrupted. What was finished is kept")

    before = {f.name: f.status().done for f in FeatureStore.open(store).features("meld")}
    assert 3 <= before["mfcc"] < SAMPLES
    after = {f.name: f for f in run(encoders=LIGHT).features}
    assert after["mfcc"].encoded == SAMPLES - before["mfcc"]
    assert all(f.missing == 0 and f.written + f.skipped == SAMPLES for f in after.values())
    assert contents(store)[specs["mfcc"].folder] == contents(tmp_path / "whole")[specs["mfcc"].folder]
    assert not [f for f in verify(FeatureStore.open(store), deep=True) if f.damage]


ROOT = str(Path(__file__).parents[2])
SLOW_ENCODERS = """
import time
import cli
from extract import pipeline
pipeline.DECODE_BUDGET_BYTES = 1
real = pipeline._encode
def slow(*given):
    time.sleep(0.05)
    return real(*given)
pipeline._encode = slow
cli.main()
"""


@dataclass(frozen=True)
class Piece:
    """As much of a segment as grouping reads."""

    part: str
    start: int
    stop: int


@given(
    st.lists(st.sampled_from([1, 2, 4, 8]), min_size=1, max_size=4),
    st.integers(1, 20),
    st.data(),
)
def test_segments_are_grouped_so_that_no_row_is_in_two_groups(sizes: list[int], rows: int, data: Any) -> None:
    todo: list[Any] = []
    for number, size in enumerate(sizes):
        pieces = [Piece(part, a, min(a + size, rows)) for part in ("a", "b") for a in range(0, rows, size)]
        todo += [(SimpleNamespace(number=number), piece) for piece in pieces if data.draw(st.booleans())]
    groups = pipeline.stretches_of(todo)
    assert sorted(map(repr, (pair for group in groups for pair in group))) == sorted(map(repr, todo))
    covered = [{(piece.part, row) for _, piece in group for row in range(piece.start, piece.stop)} for group in groups]
    assert sum(map(len, covered)) == len(set().union(*covered, set()))
