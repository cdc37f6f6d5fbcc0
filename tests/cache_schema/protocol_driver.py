"""A process that writes while others do, or that is killed at a step; run by the protocol's tests.

    kill STORE FIRST EVERY    for each traced step from FIRST on, EVERY apart: a forked writer is killed there,
                              then another process checks the store and finishes
    race STORE WRITERS        so many forked writers commit every segment at once; prints what each one won

The parent of the forks never touches zarr itself: its threads would not survive the fork.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet  # noqa: F401 - imported before the forks, as zarr is
import zarr  # noqa: F401
from store_builders import PLAN, PROVENANCE, assert_intact, build, corpus, rows, spec, utterances, write

from cache_schema import writer
from cache_schema.storage.local import LocalStorage
from cache_schema.store import FeatureStore
from cache_schema.verify import verify

FORK = multiprocessing.get_context("fork")
STEPS = (
    (os, "mkdir"),
    (os, "fsync"),
    (os, "link"),
    (os, "unlink"),
    (writer, "write_array"),
    (LocalStorage, "get"),
    (LocalStorage, "sync"),
)


def trace(step: Callable[[], None]) -> None:
    """Call `step` before and after every traced call."""
    for owner, name in STEPS:
        real = getattr(owner, name)

        def traced(*given: Any, _real: Any = real, **named: Any) -> Any:
            step()
            result = _real(*given, **named)
            step()
            return result

        setattr(owner, name, traced)


def make_and_write(folder: Path) -> None:
    build(folder, count=6)


def die_at(folder: Path, number: int) -> None:
    left = number

    def step() -> None:
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    trace(step)
    make_and_write(folder)


def check_and_finish(folder: Path) -> None:
    """What is visible is whole; what is not can be written; nothing is damaged before or after."""
    store = FeatureStore.open(folder, mode="a")
    assert not [f for f in verify(store, deep=True) if f.damage]
    for dataset in store.datasets():
        for feature in store.features(dataset):
            done = [i for i in feature.samples.ids if i not in {**feature.failures(), **feature.absences()}]
            feature.load(done, missing="mask")
            committed = feature.status()
            assert committed.done + committed.failed + committed.absent + committed.missing == committed.samples
    store.append_samples(corpus(), utterances(6))
    again = store.writer("toy", spec(), PLAN)
    write(again)
    assert again.todo() == []
    assert_intact(store)
    assert store.feature("toy", "toynet").status().missing == 0
    assert not [f for f in verify(store, deep=True) if f.damage]


def run(target: Callable[..., None], *given: Any) -> int | None:
    process = FORK.Process(target=target, args=given)
    process.start()
    process.join()
    return process.exitcode


def kill(base: Path, first: int, every: int) -> None:
    killed = 0
    number = first
    while True:
        folder = base / str(number)
        ended = run(die_at, folder, number)
        if ended == 0:
            break
        assert ended == -signal.SIGKILL, f"the writer ended with {ended} at step {number}"
        killed += 1
        left = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*")) if folder.exists() else []
        assert run(check_and_finish, folder) == 0, f"killed at step {number}, which left {left}"
        shutil.rmtree(folder)
        number += every
    print(json.dumps({"killed": killed, "steps": number}))  # noqa: T201 - the result


def commit_all(folder: Path, salt: int, start: Any, won: Any) -> None:
    store = FeatureStore.open(folder, mode="a")
    one = store.writer("toy", spec(), PLAN)
    one.is_committed = lambda segment: False  # type: ignore[method-assign]  # so that all of them reach the last step
    start.wait()
    mine = [
        segment.name
        for segment in one.segments()
        if one.commit(segment, rows(one, segment, salt), [None] * len(segment), PROVENANCE | {"salt": salt})
    ]
    won.put((salt, mine))


def create(folder: Path) -> None:
    FeatureStore.open(folder, mode="a").append_samples(corpus(), utterances(24))


def race(folder: Path, writers: int) -> None:
    assert run(create, folder) == 0
    start, won = FORK.Barrier(writers), FORK.Queue()
    processes = [FORK.Process(target=commit_all, args=(folder, salt, start, won)) for salt in range(writers)]
    for process in processes:
        process.start()
    results = dict(won.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
        assert process.exitcode == 0
    print(json.dumps(results))  # noqa: T201 - the result


if __name__ == "__main__":
    if sys.argv[1] == "kill":
        kill(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        race(Path(sys.argv[2]), int(sys.argv[3]))
