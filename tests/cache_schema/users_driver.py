"""Two users of one group and a stranger at one store, under the umask of a shared machine; run as root by a test.

    users_driver.py FOLDER SCRATCH    FOLDER belongs to the group; prints what each step said, empty where it was done

Everything is imported, and used once in SCRATCH, before the process becomes another user, who may have no right to
read this Python.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from store_builders import PLAN, assert_intact, corpus, spec, utterances, write

from cache_schema.errors import StoreError
from cache_schema.repair import gc, remove_feature, repair
from cache_schema.store import FeatureStore
from cache_schema.verify import verify

GROUP = 4711
ALICE, BOB, EVE = 4001, 4002, 4003


def write_until(place: Path, count: int) -> None:
    store = FeatureStore.open(place, mode="a")
    store.append_samples(corpus(), utterances(count))
    write(store.writer("toy", spec(), PLAN))
    assert_intact(store)


def mend(place: Path) -> None:
    store = FeatureStore.open(place, mode="a")
    for shard in place.glob("features/toy/*/data/*/values/c/0/0/0"):
        shard.unlink()
    assert len(repair(store)) >= 3
    write(store.writer("toy", spec()))
    gc(store, older_than_hours=0)
    assert_intact(store)
    assert verify(store, deep=True) == []


def remove(place: Path) -> None:
    store = FeatureStore.open(place, mode="a")
    remove_feature(store, "toy", "toynet")
    assert verify(store, deep=True) == []


def read(place: Path) -> None:
    assert_intact(FeatureStore.open(place))


def become(answers: Any, user: int, group: int, step: Callable[..., None], given: tuple[Any, ...]) -> None:
    os.setgroups([group])
    os.setgid(group)
    os.setuid(user)
    os.umask(0o002)
    try:
        step(*given)
        answers.put("")
    except StoreError as error:
        answers.put(str(error))


def as_user(user: int, group: int, step: Callable[..., None], *given: Any) -> str:
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=become, args=(answers, user, group, step, given))
    child.start()
    said: str = answers.get(timeout=30)
    child.join()
    assert child.exitcode == 0
    return said


def main(folder: Path, scratch: Path) -> None:
    for step in (lambda place: write_until(place, 9), read, mend, remove):
        step(scratch / "store")
    place = folder / "store"
    said = {
        "alice makes": as_user(ALICE, GROUP, write_until, place, 6),
        "bob goes on": as_user(BOB, GROUP, write_until, place, 9),
        "alice goes on": as_user(ALICE, GROUP, write_until, place, 12),
        "eve reads": as_user(EVE, EVE, read, place),
        "eve writes": as_user(EVE, EVE, write_until, place, 13),
        "owners": sorted({path.stat().st_uid for path in place.rglob("*")}),
        "groups": sorted({path.stat().st_gid for path in place.rglob("*")}),
        "bob mends": as_user(BOB, GROUP, mend, place),
    }
    place.chmod(0o2770)
    said["eve looks into a private store"] = as_user(EVE, EVE, read, place)
    said["bob removes"] = as_user(BOB, GROUP, remove, place)
    print(json.dumps(said))  # noqa: T201 - the result


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
