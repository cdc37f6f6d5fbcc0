"""Damage of every kind to every kind of file of a store: what `verify --deep` finds, and what a reader makes of it."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from bench.stress_worker import DATASET, PLAN, assert_as_made, commit, corpus, spec, utterances
from cache_schema import arrays
from cache_schema.errors import MerError
from cache_schema.samples import Utterance
from cache_schema.store import FeatureStore
from cache_schema.verify import verify

KINDS = {
    "marker": "mer-store.json",
    "samples": "samples/*/part-0000[01]-*.parquet",
    "deletion": "samples/*/part-0000[2-9]-*.parquet",
    "feature": "features/*/*/zarr.json",
    "commit": "features/*/*/commits/*.json",
    "array": "features/*/*/data/*/*/zarr.json",
    "shard": "features/*/*/data/*/*/c/**/0",
}
"""Files of a store by what they are; of the built store the parts from the third on delete or restore samples."""


@dataclass
class Outcome:
    """What became of one way of damaging one kind of file.

    Attributes:
        done: how often.
        found: by `verify --deep`, as damage or by refusing the store.
        left_over: by `verify --deep` as data that no commit names: a commit is gone, so nothing is wrong with the rest.
        refused: by the reader, in one clear error.
        right: times that the reader gave exactly what was written, or said of every sample that it lacks that it does.
        silent: what the reader gave as if nothing was wrong although it was other than what was written.
        missed: files whose damage `verify --deep` did not find.
    """

    done: int = 0
    found: int = 0
    left_over: int = 0
    refused: int = 0
    right: int = 0
    silent: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)

    def add(self, where: str, found: str, read: str) -> None:
        """Count one damage of the file `where`, as `look_for` and `read_all` judged it."""
        self.done += 1
        self.found += found == "damage"
        self.left_over += found == "leftover"
        self.refused += read == "refused"
        self.right += read == "right"
        if found == "nothing":
            self.missed.append(where)
        if read.startswith("silent"):
            self.silent.append(f"{where}: {read}")


@dataclass
class Damaged:
    """Outcomes by way and kind of file, as ("flip", "shard")."""

    outcomes: dict[tuple[str, str], Outcome]

    @property
    def missed(self) -> list[str]:
        """What `verify --deep` did not find."""
        return [f"{way} of {where}" for (way, _), o in self.outcomes.items() for where in o.missed]

    @property
    def silent(self) -> list[str]:
        """What a reader gave as if nothing was wrong."""
        return [f"{way} of {where}" for (way, _), o in self.outcomes.items() for where in o.silent]

    def __str__(self) -> str:
        lines = ["  damage    file       done  found  left over  refused  right"]
        totals: Counter[str] = Counter()
        for (way, kind), o in self.outcomes.items():
            lines.append(f"  {way:9} {kind:9} {o.done:5} {o.found:6} {o.left_over:10} {o.refused:8} {o.right:6}")
            totals[way] += o.done
        told = ", ".join(f"{number} {way}" for way, number in totals.items())
        wrong = [*(f"NOT FOUND: {text}" for text in self.missed), *(f"READ SILENTLY: {text}" for text in self.silent)]
        return "\n".join(
            [f"damage: {told}; {len(self.missed)} not found, {len(self.silent)} read silently", *lines, *wrong]
        )


def build(folder: Path) -> FeatureStore:
    """A store with a file of every kind: two parts, deletions and a restored sample, shards of several chunks."""
    store = FeatureStore.open(folder, mode="a")
    chunk, arrays.CHUNK_BYTES = arrays.CHUNK_BYTES, 600
    try:
        store.append_samples(corpus(), utterances("base", 20))
        store.append_samples(corpus(), utterances("more", 6))
        store.delete_samples(DATASET, ["base-3", "more-1"])
        store.restore_samples(DATASET, ["more-1"])
        store.delete_samples(DATASET, ["base-4"])
        for version in (1, 2):
            writer = store.writer(DATASET, spec(version), PLAN)
            for segment in writer.todo():
                commit(writer, segment, "build")
    finally:
        arrays.CHUNK_BYTES = chunk
    return store


def look_for(folder: Path) -> str:
    """What `verify --deep` says: "damage", "leftover" or "nothing"."""
    try:
        findings = verify(FeatureStore.open(folder), deep=True)
    except MerError:
        return "damage"
    return "damage" if any(f.damage for f in findings) else "leftover" if findings else "nothing"


def read_all(folder: Path, samples: list[Utterance]) -> str:
    """What a reader makes of the store: "refused", "right", or "silent: ..." with what it got wrong.

    Args:
        folder: the store.
        samples: those that it had before it was damaged.
    """
    try:
        store = FeatureStore.open(folder)
        features = store.features(DATASET)
        if store.samples(DATASET).utterances != samples or len(features) != 2:
            return "silent: other samples or features"
        for feature in features:
            assert_as_made(feature)
    except MerError as error:
        return "refused" if "\n" not in str(error) else f"silent: an error of several lines: {error}"
    except AssertionError as error:
        return f"silent: {error}"
    except Exception as error:  # noqa: BLE001 - an error that a user could not make out counts as a failure
        return f"silent: {type(error).__name__}: {error}"
    return "right"


def damage_everything(folder: Path, flips: int, truncations: int, every: int = 1, seed: int = 0) -> Damaged:
    """Build a store, and damage one file of it at a time; what became of it.

    Args:
        folder: an empty one.
        flips: single bits that are turned over, dealt out to the kinds of file.
        truncations: files that are cut somewhere.
        every: delete and empty only every so manieth file.
        seed: of the files, bits and lengths.
    """
    root = folder / "store"
    samples = build(root).samples(DATASET).utterances
    files = {kind: sorted(p for p in root.glob(pattern) if p.is_file()) for kind, pattern in KINDS.items()}
    assert {p for of in files.values() for p in of} == {p for p in root.rglob("*") if p.is_file()}
    assert (look_for(root), read_all(root, samples)) == ("nothing", "right"), "the store is whole before it is damaged"
    chance = random.Random(seed)
    outcomes = {(way, kind): Outcome() for way in ("flip", "truncate", "empty", "delete") for kind in KINDS}
    for way, kind, file in [
        *(("flip", k, chance.choice(files[k])) for k, _ in zip(itertools.cycle(KINDS), range(flips), strict=False)),
        *(
            ("truncate", k, chance.choice(files[k]))
            for k, _ in zip(itertools.cycle(KINDS), range(truncations), strict=False)
        ),
        *((way, k, file) for way in ("empty", "delete") for k in KINDS for file in files[k][::every]),
    ]:
        whole = file.read_bytes()
        if way == "delete":
            file.unlink()
        else:
            file.write_bytes(_damaged(whole, way, chance))
        where = file.relative_to(root).as_posix()
        outcomes[way, kind].add(where, look_for(root), read_all(root, samples))
        file.write_bytes(whole)
    assert (look_for(root), read_all(root, samples)) == ("nothing", "right")
    return Damaged(outcomes)


def _damaged(whole: bytes, way: str, chance: random.Random) -> bytes:
    if way == "flip":
        data = bytearray(whole)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        return bytes(data)
    return whole[: chance.randrange(1, len(whole))] if way == "truncate" else b""
