"""Trainings that are more than the cores take turns on them."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from fuse.training import workers

EPOCHS = 20


@pytest.mark.parametrize("fails", [False, True])
def test_trainings_take_turns_on_the_cores_and_leave_them_free(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    """Three on two cores: never three at a time, each sees the others go on, and in the end both cores are free, also
    when trainings fail."""
    told: Any = queue.SimpleQueue()
    free: Any = queue.SimpleQueue()
    for _ in range(2):
        free.put(None)
    busy: list[int] = []
    most: list[int] = []
    begun = threading.Barrier(3)
    failed: list[str] = []

    def train_seed(job: object, seed: int, fold: str, progress: Callable[[object], None]) -> str:
        for epoch in range(EPOCHS):
            busy.append(seed)
            time.sleep(0.001)
            most.append(len(busy))
            busy.remove(seed)
            progress((seed, epoch))
        if fails:
            raise ValueError(f"seed {seed}")
        return fold

    def work(seed: int) -> None:
        begun.wait()
        try:
            assert workers._work("job", seed, "all") == "all"
        except ValueError as error:
            failed.append(str(error))

    monkeypatch.setattr(workers, "_events", told)
    monkeypatch.setattr(workers, "_free", free)
    monkeypatch.setattr(workers, "_load_job", lambda path: path)
    monkeypatch.setattr(workers, "train_seed", train_seed)
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
        assert not thread.is_alive()
    assert max(most) <= 2
    events = [told.get_nowait() for _ in range(3 * EPOCHS)]
    assert sorted(events) == [(seed, epoch) for seed in range(3) for epoch in range(EPOCHS)]
    assert [free.get_nowait(), free.get_nowait()] == [None, None] and free.empty()
    assert sorted(failed) == ([f"seed {seed}" for seed in range(3)] if fails else [])
