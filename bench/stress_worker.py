"""The processes of the store's stress (`bench.stress`): writers that are killed, a reader, an S3 server.

Every value of the corpus is decided by its sample's id and the feature's version, so that any process can tell what a
sample must read as.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import random
import signal
import traceback
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet  # noqa: F401 - read once by the fork server, not by every writer
import zarr  # noqa: F401

from cache_schema.feature_spec import ArraySpec, FeatureSpec
from cache_schema.plan import Segment, SegmentPlan
from cache_schema.rows import Absent, Failed, Row
from cache_schema.samples import Corpus, Target, Utterance
from cache_schema.storage.interface import STEPS
from cache_schema.store import FeatureStore
from cache_schema.writer import FeatureWriter

DATASET = "stress"
BASE_SAMPLES = 64
APPENDED_SAMPLES = 8
PLAN = SegmentPlan(max_rows=8)
BUCKET = "lab"


def corpus() -> Corpus:
    """What the stressed dataset is."""
    target = Target(name="emotion", kind="classification", classes=("joy", "anger"))
    return Corpus(name=DATASET, title="Made for the stress", licence="CC0-1.0", targets=(target,))


def utterances(tag: str, count: int) -> list[Utterance]:
    """Samples called `tag`-0, `tag`-1, ..., some with a sound file or a region of their own."""
    return [
        Utterance(
            id=f"{tag}-{number}",
            path=f"clips/{tag}/{number}.mp4",
            duration=1.0 + number % 3,
            text=f"so, “{number}”" if number % 4 else None,
            split="train",
            labels={"emotion": "joy" if number % 2 else "anger"},
            scores={"valence": number / 3},
            sound=f"sounds/{number}.wav" if number % 5 == 1 else None,
            region=(0.0, 0.0, 0.5, 1.0) if number % 7 == 2 else None,
        )
        for number in range(count)
    ]


def spec(version: int) -> FeatureSpec:
    """A feature with a sibling array."""
    return FeatureSpec(
        feature="stressnet",
        modality="vision",
        encoder="bench.Stress",
        version=version,
        arrays=(
            ArraySpec(name="values", dtype="float16", tail=(32,)),
            ArraySpec(name="boxes", dtype="int32", tail=(4,)),
        ),
        rate_hz=5.0,
        nominal_rate_hz=5.0,
        full_settings={"fps": 5.0},
        weights_sha256="cd" * 32,
    )


def row(spec: FeatureSpec, id_: str) -> Row:
    """What a sample must read as: up to 7 frames, or why there are none."""
    digest = hashlib.sha256(f"{spec.version} {id_}".encode()).digest()
    if digest[0] < 12:
        return Failed(f"{id_}: moov atom not found")
    if digest[0] < 24:
        return Absent("no video stream")
    generator = np.random.default_rng(int.from_bytes(digest[1:9], "big"))
    frames = digest[9] % 8
    return {a.name: (generator.standard_normal((frames, *a.tail)) * 9).astype(a.dtype) for a in spec.arrays}


def assert_as_made(feature: Any) -> int:
    """Read every sample that is there and compare it; how many there were.

    Raises:
        AssertionError: a sample reads as something else.
    """
    names = [array.name for array in feature.spec.arrays]
    ids = feature.samples.ids
    ragged = feature.load(ids, names, missing="mask")
    without = {**feature.failures(), **feature.absences()}
    for index, id_ in enumerate(ids):
        wanted = row(feature.spec, id_)
        if ragged.present[index]:
            assert isinstance(wanted, dict), f"{id_} has arrays and should have none"
            for name in names:
                assert np.array_equal(ragged.row(index, name), wanted[name]), f"{id_} has other {name}"
        elif id_ in without:
            assert not isinstance(wanted, dict) and without[id_] == wanted.reason, f"{id_} has no arrays"
    return int(ragged.present.sum())


def commit(writer: FeatureWriter, segment: Segment, by: str) -> bool:
    """Compute a segment and commit it; whether this one is in the store."""
    ids = [u.id for u in writer.utterances(segment)]
    return writer.commit(segment, [row(writer.spec, i) for i in ids], [None] * len(ids), {"by": by})


def write(place: str, environment: Mapping[str, str], log: str, seed: int, die_at: int | None) -> None:
    """Extract one version of the feature after another, until killed: by the parent, or at protocol step `die_at`.

    The log gets a line before each segment is computed and one after it was committed, and says where it died.
    """
    os.environ.update(environment)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(line: str) -> None:
        os.write(descriptor, f"{line}\n".encode())

    if die_at is not None:
        _die_at(die_at, note)
    try:
        store = FeatureStore.open(place, mode="a")
        chance = random.Random(seed)
        if chance.random() < 0.15:
            store.append_samples(corpus(), utterances(f"by{seed}", APPENDED_SAMPLES))
        newest = len(store.storage.names(f"features/{DATASET}"))
        for version in itertools.count(max(1, newest - 1)):
            writer = store.writer(DATASET, spec(version), PLAN)
            todo = writer.todo()
            chance.shuffle(todo)
            for segment in todo:
                if not writer.is_committed(segment):
                    note(f"start {version} {segment.name}")
                    won = commit(writer, segment, str(seed))
                    note(f"{'won' if won else 'lost'} {version} {segment.name}")
    except BaseException:
        note(f"error {traceback.format_exc()!r}")
        raise


def finish(place: str, environment: Mapping[str, str], log: str) -> None:
    """Extract whatever is missing of every version that was begun."""
    os.environ.update(environment)
    store = FeatureStore.open(place, mode="a")
    with Path(log).open("w", encoding="utf-8") as lines:
        for version in range(1, len(store.storage.names(f"features/{DATASET}")) + 1):
            writer = store.writer(DATASET, spec(version), PLAN)
            for segment in writer.todo():
                lines.write(f"start {version} {segment.name}\n")
                won = commit(writer, segment, "finish")
                lines.write(f"{'won' if won else 'lost'} {version} {segment.name}\n")


def read(place: str, environment: Mapping[str, str], told: Connection, seed: int) -> None:
    """Read features of the store, over and over, until something comes through `told`; sends back what it saw."""
    os.environ.update(environment)
    chance = random.Random(seed)
    seen: dict[str, Any] = {"passes": 0, "samples": 0, "errors": []}
    while not told.poll():
        try:
            features = FeatureStore.open(place).features(DATASET)
            for feature in {features[-1].folder: features[-1], **_one(features, chance)}.values() if features else ():
                seen["samples"] += assert_as_made(feature)
                seen["passes"] += 1
        except Exception:  # noqa: BLE001 - whatever it is, a reader should not have met it
            seen["errors"].append(traceback.format_exc())
    told.send(seen)


def serve_s3(told: Connection) -> None:
    """An S3 server with an empty bucket, until something comes through `told`; first sends its address."""
    import urllib.request

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT")).close()
    told.send(endpoint)
    told.recv()
    server.stop()


def _one(features: list[Any], chance: random.Random) -> dict[str, Any]:
    feature = chance.choice(features)
    return {feature.folder: feature}


def _die_at(number: int, note: Any) -> None:
    """Kill this process when the storage logs its `number`-th step from now on."""
    left: Iterator[int] = itertools.count(number, -1)

    class Steps(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if next(left) == 0:
                note(f"step {record.getMessage()}")
                os.kill(os.getpid(), signal.SIGKILL)

    STEPS.addHandler(Steps())
    STEPS.setLevel(logging.DEBUG)
