"""The stress of extraction, in small: it runs as in the large, and it would notice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bench import hostile_signals, stress_media
from bench.hostile_annotations import CHANGES, ROOTS
from bench.hostile_signals import KINDS
from bench.stress_media import Run, compared, stress_annotations, stress_files, stress_signals
from extract.datasets import DATASETS


@pytest.fixture(autouse=True)
def two_encoders_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_here(root: Path, store: Path, encoders: Sequence[str], settings: Sequence[str]) -> Run:
        figures = stress_media.extract_and_measure(root, store, encoders, settings)
        return Run(stress_media.outcomes(store), **figures)

    monkeypatch.setattr(stress_media, "run_apart", run_here)
    monkeypatch.setattr(stress_media, "ENCODERS", ("mfcc", "resnet"))
    monkeypatch.setattr(stress_media, "RUNS_AT_ONCE", 1)


def test_damaged_files_among_good_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table = stress_files(Path("corpus"), files=45, good_clips=3, seed=0, with_bombs=False)
    assert "51 bad and 3 good ones" in table
    assert "bit by bit: mfcc 3, resnet 3" in table


def test_damaged_recordings_among_good_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostile_signals, "FORMS", ("table", "wrist"))
    monkeypatch.setattr(stress_media, "SIGNAL_SETTINGS", ('physio.channels=["EDA","TEMP","BVP"]',))
    table = stress_signals(tmp_path, count=len(KINDS), subjects=2, seed=0, with_bombs=False)
    assert f"{len(KINDS) + 8} bad and 4 good ones" in table
    assert "bit by bit: physio 4" in table
    failed = {line[2:28].strip(): line[28:].split() for line in table.splitlines() if line.startswith("  ")}
    assert failed["no recording at all"] == ["1", "0", "0"] and failed["good"] == ["0", "0", "4"]


def test_every_dataset_with_damaged_annotations(tmp_path: Path) -> None:
    table = stress_annotations(tmp_path, len(ROOTS) * len(CHANGES), seed=0)
    assert all(kind in table for kind in CHANGES)
    without = set(DATASETS.names()) - {name.partition(" ")[0] for name in ROOTS}
    assert without == {"ravdess"}, "its annotations are the names of its files"


def test_what_must_not_be_is_noticed() -> None:
    bad = {"mfcc": "failed: bad.mp4: End of file", "resnet": "absent: no pictures"}
    as_it_is = Run(
        {"bad": bad, "good": {"mfcc": "1", "resnet": "2"}},
        seconds=1, slowest=("bad", 0.1), run_mb=100, child_mb=100, children=4,
    )  # fmt: skip
    alone = replace(as_it_is, outcome={"good": as_it_is.outcome["good"]})
    assert "1 End of file" in compared({"bad": "truncated"}, ["good"], as_it_is, as_it_is, alone)
    otherwise = replace(alone, outcome={"good": {"mfcc": "1", "resnet": "3"}})
    with pytest.raises(AssertionError, match="'resnet': 0"):
        compared({"bad": "truncated"}, ["good"], as_it_is, as_it_is, otherwise)
    again = replace(as_it_is, outcome=as_it_is.outcome | {"bad": {"mfcc": "7", "resnet": "8"}})
    with pytest.raises(AssertionError, match="read differently a second time"):
        compared({"bad": "truncated"}, ["good"], as_it_is, again, alone)
    with pytest.raises(AssertionError, match="left out"):
        compared({"bad": "truncated", "worse": "truncated"}, ["good"], as_it_is, as_it_is, alone)
