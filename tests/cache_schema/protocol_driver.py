"""Processes that write, append and read at once, or that are killed at a step; run by the protocol's tests.

    kill PLACE FIRST EVERY    for each traced step from FIRST on, EVERY apart: a forked writer is killed there,
                              then another process checks the store, finishes and collects what was left
    race PLACE WRITERS        so many forked writers commit every segment at once; prints what each one won
    share PLACE WRITERS       so many writers extract what is to do, while one process reads all that there is and one
                              deletes and corrects samples; prints what each writer committed, and the reader's passes
    append PLACE WRITERS      so many processes append rows of their own at once
    busy PLACE DATASET        extract one feature of a dataset after another until killed; a line for each segment

A place is a folder or a URL. The parent of the forks touches neither zarr nor obstore itself: their threads would
not survive the fork.
"""

from __future__ import annotations

import itertools
import json
import logging
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow.parquet  # noqa: F401 - imported before the forks, as zarr is
import zarr  # noqa: F401
from store_builders import PLAN, PROVENANCE, arrays, assert_intact, build, corpus, row, rows, spec, utterances, write

from cache_schema import writer
from cache_schema.repair import gc
from cache_schema.storage import interface
from cache_schema.storage.local import LocalStorage
from cache_schema.store import FeatureStore
from cache_schema.verify import verify

FORK = multiprocessing.get_context("fork")
CALLS = (
    (os, "mkdir"),
    (os, "fsync"),
    (os, "link"),
    (os, "unlink"),
    (writer, "write_array"),
    (LocalStorage, "get"),
    (LocalStorage, "sync"),
)


def trace(step: Callable[[], None]) -> None:
    """Call `step` at every step that the storage logs, and before and after every traced call of a folder's."""

    class Steps(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            step()

    interface.STEPS.addHandler(Steps())
    interface.STEPS.setLevel(logging.DEBUG)
    for owner, name in CALLS:
        real = getattr(owner, name)

        def traced(*given: Any, _real: Any = real, **named: Any) -> Any:
            step()
            result = _real(*given, **named)
            step()
            return result

        setattr(owner, name, traced)


def make_and_write(place: str) -> None:
    build(place, count=6)


def die_at(place: str, number: int) -> None:
    left = number

    def step() -> None:
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    trace(step)
    make_and_write(place)


def check_and_finish(place: str) -> None:
    """What is visible is whole; what is not can be written; nothing is damaged before or after; gc leaves nothing."""
    store = FeatureStore.open(place, mode="a")
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
    feature = store.feature("toy", "toynet")
    assert feature.status().missing == 0
    assert not [f for f in verify(store, deep=True) if f.damage]
    gc(store, older_than_hours=0)
    assert verify(store, deep=True) == []
    files = store.storage.files("")
    assert len(files) == 3 + sum(1 + len(commit.files) for commit in feature.commits.values()), sorted(files)


def run(target: Callable[..., None], *given: Any) -> int | None:
    process = FORK.Process(target=target, args=given)
    process.start()
    process.join()
    return process.exitcode


def kill(base: str, first: int, every: int) -> None:
    killed = 0
    number = first
    while True:
        place = f"{base}/{number}"
        ended = run(die_at, place, number)
        if ended == 0:
            break
        assert ended == -signal.SIGKILL, f"the writer ended with {ended} at step {number}"
        killed += 1
        assert run(check_and_finish, place) == 0, f"killed at step {number} in {place}"
        shutil.rmtree(place, ignore_errors=True)
        number += every
    print(json.dumps({"killed": killed, "steps": number}))  # noqa: T201 - the result


def commit_all(place: str, salt: int, start: Any, won: Any) -> None:
    store = FeatureStore.open(place, mode="a")
    one = store.writer("toy", spec(), PLAN)
    one.is_committed = lambda segment: False  # type: ignore[method-assign]  # so that all of them reach the last step
    start.wait()
    mine = [
        segment.name
        for segment in one.segments()
        if one.commit(segment, rows(one, segment, salt), [None] * len(segment), PROVENANCE | {"salt": salt})
    ]
    won.put((salt, mine))


def create(place: str) -> None:
    FeatureStore.open(place, mode="a").append_samples(corpus(), utterances(24))


def together(place: str, targets: Sequence[Callable[..., None]]) -> dict[int, Any]:
    """Run each target in a process of its own, from the same moment on; what each put into the queue."""
    assert run(create, place) == 0
    start, results = FORK.Barrier(len(targets)), FORK.Queue()
    processes = [FORK.Process(target=target, args=(place, n, start, results)) for n, target in enumerate(targets)]
    for process in processes:
        process.start()
    found = dict(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return found


def extract(place: str, salt: int, start: Any, results: Any) -> None:
    """As `mer extract`: what is to do, shuffled, looked at again before each segment."""
    store = FeatureStore.open(place, mode="a")
    one = store.writer("toy", spec(), PLAN)
    start.wait()
    todo = one.todo()
    random.Random(salt).shuffle(todo)
    mine = [
        segment.name
        for segment in todo
        if not one.is_committed(segment) and one.commit(segment, rows(one, segment), [None] * len(segment), PROVENANCE)
    ]
    results.put((salt, mine))


def read(place: str, number: int, start: Any, results: Any) -> None:
    """Read all that there is, again and again, until nothing is missing; every pass sees whole samples only."""
    passes, seen = 0, set()
    start.wait()
    while True:
        store = FeatureStore.open(place)
        found = [f for f in store.features("toy") if f.name == "toynet"]
        if found:
            (feature,) = found
            ragged = feature.load(feature.samples.ids, missing="mask")
            for index, id_ in enumerate(feature.samples.ids):
                wanted = row(spec(), feature.samples[id_])
                if ragged.present[index]:
                    assert isinstance(wanted, dict)
                    np.testing.assert_array_equal(ragged.row(index), wanted["values"])
                    seen.add(id_)
            passes += 1
            if feature.status().missing == 0:
                break
    results.put((number, {"passes": passes, "seen": len(seen)}))


def edit(place: str, number: int, start: Any, results: Any) -> None:
    """Delete two samples and correct one, then extract whatever is missing."""
    store = FeatureStore.open(place, mode="a")
    start.wait()
    store.delete_samples("toy", ["u20", "u21"])
    store.append_samples(corpus(), [utterances(1)[0].model_copy(update={"text": "other words"})])
    mine = []
    while True:
        one = store.writer("toy", spec(), PLAN)
        for segment in one.todo():
            if one.commit(segment, rows(one, segment), [None] * len(segment), PROVENANCE):
                mine.append(segment.name)  # noqa: PERF401
        if store.feature("toy", "toynet").status().missing == 0:
            break
    results.put((number, mine))


def append(place: str, number: int, start: Any, results: Any) -> None:
    store = FeatureStore.open(place, mode="a")
    start.wait()
    for batch in range(3):
        store.append_samples(corpus(), utterances(4, first=100 + 12 * number + 4 * batch))
    results.put((number, "done"))


def busy(place: str, dataset: str) -> None:
    store = FeatureStore.open(place, mode="a")
    for version in itertools.count(1):
        one = store.writer(dataset, spec(version=version), PLAN)
        for segment in one.todo():
            made = [arrays(one.spec, 3, seed) for seed in range(len(segment))]
            one.commit(segment, list(made), [None] * len(segment), PROVENANCE)
            print(segment.name, flush=True)  # noqa: T201 - the result
            time.sleep(0.3)


if __name__ == "__main__":
    verb, place = sys.argv[1:3]
    if verb == "busy":
        busy(place, sys.argv[3])
    elif verb == "kill":
        kill(place, int(sys.argv[3]), int(sys.argv[4]))
    else:
        many = int(sys.argv[3])
        of = {"race": [commit_all] * many, "share": [*[extract] * many, read, edit], "append": [append] * many}
        print(json.dumps(together(place, of[verb])))  # noqa: T201 - the result
