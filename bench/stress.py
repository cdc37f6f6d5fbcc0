"""Stress of the feature store: writers that are killed while others read, and damage of every file.

    python -m bench.stress [kills] [flips] [truncations]

Three writers at a time extract into one store, each in a process of its own that dies by SIGKILL: at a random moment,
or at a step of the write protocol that it has drawn beforehand. A reader reads and compares all the while. Then the
work is finished, and the store is compared with one that nobody was killed in. Once in a folder, once on S3 (moto's
server, in a process of its own). After that each kind of damage is done to every kind of file (`bench.stress_damage`).
The figures of one run are in `bench/results/stress.md`.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import stress_damage, stress_worker
from bench.stress_worker import BASE_SAMPLES, BUCKET, DATASET, PLAN, corpus, utterances
from cache_schema.part_names import part_number
from cache_schema.parts import write_part
from cache_schema.repair import gc
from cache_schema.store import FeatureStore
from cache_schema.verify import verify

WRITERS = 3
STEPS = 60
"""A writer that dies at a step dies at one of its first so many."""
LONGEST_LIFE = 2.0
"""Seconds, at most, of a writer that dies at a random moment."""


@dataclass
class Killed:
    """What a run of killed writers came to; `check` has raised if anything was lost, changed or left.

    Attributes:
        place: where the store lay.
        at_steps: kills at a logged step, by the step's first words.
        at_random: kills at a random moment.
        segments: committed in the end.
        computed: how often a segment was begun.
        again: computations that a kill made necessary once more.
        lost: computations that another writer's commit came before.
        most_per_kill: of the segments that one kill cost, the most.
        leftovers: what gc removed.
        reads: passes of the reader over a feature.
        samples: that it compared.
        seconds: of the whole.
    """

    place: str
    at_steps: Counter[str]
    at_random: int
    segments: int
    computed: int
    again: int
    lost: int
    most_per_kill: int
    leftovers: int
    reads: int
    samples: int
    seconds: float

    def __str__(self) -> str:
        at = ", ".join(f"{number} {step}" for step, number in self.at_steps.most_common())
        return "\n".join(
            [
                f"{self.place}: {sum(self.at_steps.values()) + self.at_random} kills in {self.seconds:.0f} s",
                f"  {self.at_random} at random moments, {sum(self.at_steps.values())} at steps ({at})",
                f"  {self.segments} segments committed, all of them as in a store without kills",
                f"  {self.computed} computations: {self.again} were lost to a kill and done again (at most "
                f"{self.most_per_kill} per kill), {self.lost} were done by two writers at once",
                f"  reader: {self.reads} passes, {self.samples} samples compared, 0 errors",
                f"  gc removed {self.leftovers} leftovers; only referenced files are left",
            ]
        )


@dataclass
class _Writer:
    process: Any
    log: Path
    deadline: float | None


def kill_writers(place: str, environment: Mapping[str, str], kills: int, scratch: Path, seed: int = 0) -> Killed:
    """Run the stress in one place.

    Args:
        place: a folder or URL at which there is no store yet.
        environment: variables that every process needs to reach it.
        kills: how many writers die.
        scratch: a folder for the writers' logs and the store without kills.
        seed: of the moments, steps and orders.

    Raises:
        AssertionError: something was lost, read wrongly, left over or computed too often; the message says what.
    """
    started = time.monotonic()
    scratch.mkdir(parents=True, exist_ok=True)
    os.environ.update(environment)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bench.stress_worker"])
    FeatureStore.open(place, mode="a").append_samples(corpus(), utterances("base", BASE_SAMPLES))
    told, theirs = context.Pipe()
    reader = context.Process(target=stress_worker.read, args=(place, dict(environment), theirs, seed), daemon=True)
    reader.start()
    logs = _kill(context, place, environment, kills, scratch, random.Random(seed))
    last = scratch / "finish.log"
    finishing = context.Process(target=stress_worker.finish, args=(place, dict(environment), str(last)))
    finishing.start()
    finishing.join()
    assert finishing.exitcode == 0, "the work could not be finished"
    told.send("enough")
    seen = told.recv()
    reader.join()
    assert not seen["errors"], f"{len(seen['errors'])} errors in the reader, the first:\n{seen['errors'][0]}"
    lines = [log.read_text(encoding="utf-8").splitlines() for log in [*logs, last]]
    counts = _count(lines)
    store = FeatureStore.open(place, mode="a")
    segments = _compare_with_reference(store, counts.pop("won"), scratch / "reference")
    leftovers = _collect(store)
    return Killed(
        place=place.partition("://")[0] if "://" in place else "folder",
        at_steps=Counter(_verb(line) for of_one in lines for line in of_one if line.startswith("step ")),
        at_random=sum(not any(line.startswith("step ") for line in of_one) for of_one in lines[:-1]),
        segments=segments,
        again=counts["computed"] - counts["lost"] - segments,
        leftovers=leftovers,
        reads=seen["passes"],
        samples=seen["samples"],
        seconds=time.monotonic() - started,
        **counts,
    )


def _kill(
    context: Any, place: str, environment: Mapping[str, str], kills: int, scratch: Path, chance: random.Random
) -> list[Path]:
    """Keep three writers alive until so many have died; their logs."""
    alive: list[_Writer] = []
    logs: list[Path] = []
    while len(logs) < kills or alive:
        while len(alive) < WRITERS and len(logs) < kills:
            number = len(logs)
            log = scratch / f"writer-{number}.log"
            log.touch()
            die_at = chance.randrange(STEPS) if number % 2 else None
            deadline = None if number % 2 else time.monotonic() + chance.uniform(0.05, LONGEST_LIFE)
            given = (place, dict(environment), str(log), number, die_at)
            process = context.Process(target=stress_worker.write, args=given)
            process.start()
            alive.append(_Writer(process, log, deadline))
            logs.append(log)
        time.sleep(0.005)
        for writer in list(alive):
            if writer.deadline is not None and time.monotonic() > writer.deadline:
                os.kill(writer.process.pid, signal.SIGKILL)
                writer.process.join()
            if not writer.process.is_alive():
                alive.remove(writer)
                ended = writer.process.exitcode
                assert ended == -signal.SIGKILL, f"a writer ended with {ended}: {writer.log.read_text()[-3000:]}"
    return logs


def _count(logs: list[list[str]]) -> dict[str, Any]:
    """What the logs say of segments, after asserting that no kill cost more than one and nobody won twice."""
    won: Counter[str] = Counter()
    computed = lost = most = 0
    for lines in logs:
        kinds = Counter(line.partition(" ")[0] for line in lines)
        won.update(line.partition(" ")[2] for line in lines if line.startswith("won "))
        computed += kinds["start"]
        lost += kinds["lost"]
        most = max(most, kinds["start"] - kinds["won"] - kinds["lost"])
    assert most <= 1, f"one kill cost {most} segments"
    twice = [name for name, times in won.items() if times > 1]
    assert not twice, f"two writers were told that they had committed {', '.join(twice)}"
    return {"won": set(won), "computed": computed, "lost": lost, "most_per_kill": most}


def _compare_with_reference(store: FeatureStore, won: set[str], folder: Path) -> int:
    """Compare every byte that says something with a store that one undisturbed process wrote; how many segments."""
    reference = FeatureStore.open(folder, mode="a")
    samples = store.samples(DATASET)
    for part in samples.parts:
        rows = list(part.utterances)
        name = write_part(reference.storage, part_number(part.name), part.corpus, rows, after=part.after)
        assert name == part.name, f"{part.name} has other bytes than {name}"
    committed = set()
    for feature in store.features(DATASET):
        writer = reference.writer(DATASET, feature.spec, PLAN)
        for segment in writer.todo():
            stress_worker.commit(writer, segment, "reference")
        wanted = reference.feature(DATASET, feature.name, feature.fingerprint)
        assert feature.status().missing == 0
        assert feature.commits.keys() == wanted.commits.keys()
        own = {"attempt", "provenance", "sha256"}
        for name, commit in feature.commits.items():
            ours, theirs = commit.model_dump(exclude=own), wanted.commits[name].model_dump(exclude=own)
            assert ours == theirs, f"{feature.spec.version} {name} differs from the one without kills"
            committed.add(f"{feature.spec.version} {name}")
        stress_worker.assert_as_made(feature)
    assert won <= committed, f"committed and gone: {sorted(won - committed)}"
    return len(committed)


def _collect(store: FeatureStore) -> int:
    """Assert that nothing is damaged, and that gc leaves nothing that no document names; what it removed."""
    damage = [finding for finding in verify(store, deep=True) if finding.damage]
    assert not damage, f"{len(damage)} damaged, the first: {damage[0]}"
    removed = len(gc(store, older_than_hours=0))
    assert verify(store, deep=True) == []
    wanted = {"mer-store.json", *(f"samples/{DATASET}/{p.name}.parquet" for p in store.samples(DATASET).parts)}
    for feature in store.features(DATASET):
        wanted |= {f"{feature.folder}/zarr.json"}
        for name, commit in feature.commits.items():
            wanted |= {f"{feature.folder}/commits/{name}.json"}
            wanted |= {f"{feature.folder}/{commit.folder}/{path}" for path in commit.files}
    left = set(store.storage.files("")) ^ wanted
    assert not left, f"beside what documents name: {sorted(left)}"
    return removed


def _verb(line: str) -> str:
    """`step put if absent features/...` as `put if absent`."""
    words = line.removeprefix("step ").split()
    return " ".join(word for word in words if "/" not in word and "." not in word)


@contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """An S3 server in a process of its own; yields the variables that lead to it."""
    context = multiprocessing.get_context("spawn")
    told, theirs = context.Pipe()
    server = context.Process(target=stress_worker.serve_s3, args=(theirs,), daemon=True)
    server.start()
    try:
        yield {
            "AWS_ENDPOINT_URL": told.recv(),
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }
    finally:
        told.send("enough")
        server.join(10)
        server.kill()


def main(kills: int, flips: int, truncations: int) -> None:
    """Run all of it, and print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        print(kill_writers(f"{folder}/store", {}, kills, Path(folder, "logs")), flush=True)
    with tempfile.TemporaryDirectory() as folder, s3_server() as environment:
        print(kill_writers(f"s3://{BUCKET}/store", environment, kills, Path(folder, "logs")), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        print(stress_damage.damage_everything(Path(folder), flips, truncations))


if __name__ == "__main__":
    main(*(int(given) for given in [*sys.argv[1:], "200", "1000", "200"][:3]))
