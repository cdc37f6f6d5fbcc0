"""Trainings that are more than the cores take turns on them."""

from __future__ import annotations

import multiprocessing
import os
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
    free: Any = multiprocessing.get_context("spawn").SimpleQueue()  # who waits first is served first
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
    first = [min(i for i, event in enumerate(events) if event[0] == seed) for seed in range(3)]
    last = [max(i for i, event in enumerate(events) if event[0] == seed) for seed in range(3)]
    assert max(first) < min(last), "each began before any had ended"
    assert [free.get(), free.get()] == [None, None] and free.empty()
    assert sorted(failed) == ([f"seed {seed}" for seed in range(3)] if fails else [])


def on_cores(free: Any, found: Any, times: int) -> None:
    """In a process of its own: where it is told to stay, one after the other."""
    workers._free = free
    for _ in range(times):
        found.put((workers._on_a_core(), os.sched_getaffinity(0)))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no process")
def test_a_process_stays_on_its_core_where_it_has_one() -> None:
    context = multiprocessing.get_context("spawn")
    every = os.sched_getaffinity(0)
    free, found = context.SimpleQueue(), context.SimpleQueue()
    own = {None: every, 10**6: every, max(every): {max(every)}}  # the second is not there: the process stays free
    for core in own:
        free.put(core)
    process = context.Process(target=on_cores, args=(free, found, len(own)))
    process.start()
    assert dict(found.get() for _ in own) == own
    process.join(timeout=30)
