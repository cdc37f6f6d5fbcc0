"""Where the time goes: parts add up, nothing is measured unasked, on CUDA by events of the stream."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fuse.train import train_run
from fuse.training import timing
from fuse.training.timing import PARTS, NoTiming, Timing, total

SMALL = ["d=12", "steps=3", "layers=1", "heads=2", "head_width=4", "speech_channels=[4]", "max_epochs=2"]
CPU = torch.device("cpu")


def test_parts_add_up() -> None:
    watch = Timing(CPU)
    for _ in range(2):
        with watch.part("forward"):
            time.sleep(0.01)
    made = []
    for item in watch.over("batch", (time.sleep(0.01) or n for n in range(3))):  # type: ignore[func-returns-value]
        made.append(item)
        time.sleep(0.02)
    assert made == [0, 1, 2]
    assert list(watch.seconds) == ["batch", "forward"]
    assert 0.02 <= watch.seconds["forward"] < 0.05
    assert 0.03 <= watch.seconds["batch"] < 0.06, "what is done with an item is not part of making it"
    assert total([watch.seconds, watch.seconds, {}]) == {n: 2 * s for n, s in watch.seconds.items()}


def test_nothing_is_measured_unasked() -> None:
    watch = NoTiming()
    with watch.part("forward"):
        assert list(watch.over("batch", range(3))) == [0, 1, 2]
    assert watch.seconds == {}


def test_a_part_that_fails_counts() -> None:
    watch = Timing(CPU)
    with pytest.raises(ValueError, match="no"), watch.part("forward"):
        raise ValueError("no")
    assert "forward" in watch.seconds


def test_on_cuda_the_stream_keeps_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events stand in for a device on which everything takes one millisecond; it is waited for only when asked."""
    clock, waited = iter(range(1000)), []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = next(clock)

        def elapsed_time(self, other: Event) -> float:
            return float(other.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append(1))
    monkeypatch.setattr(timing, "PENDING", 3)
    watch = Timing(torch.device("cuda"))
    for _ in range(2):
        with watch.part("forward"):
            pass
    assert waited == []
    assert watch.seconds == {"forward": 0.002} and len(waited) == 1
    for _ in range(3):
        with watch.part("backward"):
            pass
    assert len(waited) == 2, "marks do not pile up"


def test_a_profiled_training_gives_the_same_numbers(toy_store: Path, tmp_path: Path) -> None:
    plain, profiled = (
        train_run(
            toy_store, "toy", "hff", assignments=SMALL, seeds=2, jobs=1, out=tmp_path / str(profile), profile=profile
        )
        for profile in (False, True)
    )
    assert profiled.test == plain.test
    assert plain.profile == {} and "profile" not in plain.as_json()
    assert set(profiled.profile) == set(PARTS) - {"step"}
    assert all(seconds > 0 for seconds in profiled.profile.values())
    assert sum(profiled.profile.values()) <= profiled.record.seconds


def test_the_split_is_printed_on_stderr_and_is_in_the_json(mer: Callable, toy_store: Path, tmp_path: Path) -> None:
    words = ["fuse", "train", "--arch", "hff", "--dataset", "toy", "--store", toy_store, "--out", tmp_path]
    words += ["--seeds", "1", "--jobs", "1", *(word for s in SMALL for word in ("--set", s))]
    done = mer(*words, "--profile", "--json")
    assert done.code == 0, done.err
    assert set(done.json["profile"]) == set(PARTS) - {"step"}
    assert "evaluation" in done.err and "Over 1 training" in done.err
