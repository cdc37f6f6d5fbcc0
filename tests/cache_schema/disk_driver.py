"""A store on a file system that fills up, or that becomes read-only; run by a test where it may mount one.

    disk_driver.py full PLACE        PLACE is a tmpfs of 400 KiB
    disk_driver.py read-only PLACE   PLACE is a tmpfs

Prints what the store said, as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from store_builders import PLAN, PROVENANCE, arrays, assert_intact, build, corpus, rows, spec, utterances, write

from cache_schema.errors import StoreError
from cache_schema.feature_spec import ArraySpec
from cache_schema.repair import gc
from cache_schema.store import FeatureStore
from cache_schema.verify import verify


def refusal(act: Callable[[], object]) -> str:
    try:
        act()
    except StoreError as error:
        return str(error)
    raise AssertionError("it was not refused")


def remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)


def full(place: Path) -> list[str]:
    store = build(place / "store", count=6)
    large = spec(feature="large", arrays=(ArraySpec(name="values", dtype="float32", tail=(1000,)),))
    writer = store.writer("toy", large, PLAN)
    made = {segment.name: [arrays(large, 20, n) for n in range(len(segment))] for segment in writer.segments()}

    def fill() -> None:
        for segment in writer.todo():
            writer.commit(segment, made[segment.name], [None] * len(segment), PROVENANCE)

    said = [refusal(fill)]
    # Whatever is left is filled up, so that a document has no room either.
    blocks = place / "blocks"
    with blocks.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    many = utterances(400)
    said.append(refusal(lambda: store.append_samples(corpus(), many)))
    seen = FeatureStore.open(place / "store")
    assert_intact(seen)
    assert verify(seen, deep=True) == [], "neither damage nor leftovers"
    blocks.unlink()
    remount(place, "size=20m")
    fill()
    store.append_samples(corpus(), many)
    assert verify(FeatureStore.open(place / "store"), deep=True) == []
    assert store.feature("toy", "large").status().done == 6
    return said


def read_only(place: Path) -> list[str]:
    build(place / "store", count=6)
    remount(place, "ro")
    assert_intact(FeatureStore.open(place / "store"))
    store = FeatureStore.open(place / "store", mode="a")
    assert verify(store, deep=True) == [] and gc(store, older_than_hours=0) == []
    writer = store.writer("toy", spec(), PLAN)
    assert writer.todo() == [] and store.append_samples(corpus(), utterances(6)) == 0, "nothing to do, nothing refused"
    said = [
        refusal(lambda: store.append_samples(corpus(), utterances(9))),
        refusal(lambda: store.delete_samples("toy", ["u1"])),
        refusal(lambda: store.writer("toy", spec(version=2), PLAN)),
        refusal(lambda: FeatureStore.open(place / "another", mode="a")),
    ]
    remount(place, "rw")
    (segment, *_) = writer.segments()
    store.storage.delete(f"{writer.folder}/commits/{segment.name}.json")
    remount(place, "ro")
    said.append(refusal(lambda: writer.commit(segment, rows(writer, segment), [None] * len(segment), PROVENANCE)))
    remount(place, "rw")
    gc(store, older_than_hours=0)
    write(writer)
    assert_intact(store)
    assert verify(store, deep=True) == []
    return said


if __name__ == "__main__":
    print(json.dumps({"full": full, "read-only": read_only}[sys.argv[1]](Path(sys.argv[2]))))  # noqa: T201 - the result
