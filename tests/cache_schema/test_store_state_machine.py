"""Whatever is done to a store, in whatever order, by writers of which some are killed: it reads as a dict would."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from store_builders import PROVENANCE, arrays, corpus, spec

from cache_schema.canonical import sha256_hex
from cache_schema.feature_spec import ArraySpec
from cache_schema.plan import Segment, SegmentPlan
from cache_schema.repair import gc, repair
from cache_schema.rows import Absent, Failed, Row
from cache_schema.samples import Utterance
from cache_schema.storage.interface import STEPS
from cache_schema.store import FeatureStore
from cache_schema.verify import verify
from cache_schema.writer import FeatureWriter

SPEC = spec(
    arrays=(ArraySpec(name="values", dtype="float16", tail=(3,)), ArraySpec(name="seen", dtype="bool", tail=()))
)
PLAN = SegmentPlan(max_rows=2)
IDS = st.lists(st.sampled_from([f"u{number}" for number in range(8)]), min_size=1, max_size=4, unique=True)
STEP = st.integers(0, 16)


def made(utterance: Utterance) -> Row:
    """What extraction makes of a sample, which its words decide."""
    seed = int(sha256_hex(f"{utterance.id} {utterance.text}".encode())[:8], 16)
    if seed % 7 == 0:
        return Failed("moov atom not found") if seed % 2 else Absent("no video stream")
    return arrays(SPEC, seed % 4, seed)


class Killed(BaseException):
    """The writer is dead: from here on nothing that it does reaches the store, its cleaning up included."""


class Death(logging.Handler):
    """Ends a writer at one of the steps that the storage logs, and keeps it dead."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self._left = after

    def emit(self, record: logging.LogRecord) -> None:
        self._left -= 1
        if self._left < 0:
            raise Killed


def dies(act: Callable[[], object], after: int) -> bool:
    """Whether `act` was killed before its end, at the step after so many."""
    death, level = Death(after), STEPS.level
    STEPS.addHandler(death)
    STEPS.setLevel(logging.DEBUG)
    try:
        act()
    except Killed:
        return True
    finally:
        STEPS.removeHandler(death)
        STEPS.setLevel(level)
    return False


class StoreAsDict(RuleBasedStateMachine):
    """The model: samples by id in their order, those that were deleted, and those whose feature is there."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.samples: dict[str, Utterance] = {}
        self.deleted: dict[str, Utterance] = {}
        self.have: set[str] = set()
        self.words = 0

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @property
    def store(self) -> FeatureStore:
        """As another process would see it."""
        return FeatureStore.open(self.folder / "store", mode="a")

    @property
    def writer(self) -> FeatureWriter:
        return self.store.writer("toy", SPEC, PLAN)

    @initialize()
    def begin(self) -> None:
        self.store.append_samples(corpus(), [])

    def said(self, ids: list[str]) -> list[Utterance]:
        """Rows for these ids, each with words that no row had before."""
        self.words += 1
        return [Utterance(id=i, duration=1.0, text=f"{i}, {self.words}") for i in ids]

    def put(self, rows: list[Utterance]) -> None:
        self.samples.update({row.id: row for row in rows})
        self.have -= {row.id for row in rows}

    @rule(ids=IDS)
    def append_and_correct(self, ids: list[str]) -> None:
        rows = [row for row in self.said(ids) if row.id not in self.deleted]
        assert self.store.append_samples(corpus(), [*rows, *self.deleted.values()]) == len(rows)
        assert self.store.append_samples(corpus(), rows) == 0
        self.put(rows)

    @rule(ids=IDS, after=STEP)
    def append_and_die(self, ids: list[str], after: int) -> None:
        rows = [row for row in self.said(ids) if row.id not in self.deleted]
        store = self.store
        dies(lambda: store.append_samples(corpus(), rows), after)
        if self.store.samples("toy").utterances != list(self.samples.values()):
            self.put(rows)

    @precondition(lambda self: self.samples)
    @rule(data=st.data(), after=st.one_of(st.none(), STEP))
    def delete(self, data: st.DataObject, after: int | None) -> None:
        gone = data.draw(st.lists(st.sampled_from(list(self.samples)), min_size=1, max_size=2, unique=True))
        store = self.store
        if after is None:
            assert store.delete_samples("toy", gone) == len(gone)
        elif dies(lambda: store.delete_samples("toy", gone), after) and gone[0] in self.store.samples("toy"):
            return
        self.deleted.update({id_: self.samples.pop(id_) for id_ in gone})
        self.have -= set(gone)

    @precondition(lambda self: self.deleted)
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        back = data.draw(st.sampled_from(list(self.deleted)))
        assert self.store.restore_samples("toy", [back]) == 1
        self.put([self.deleted.pop(back)])

    def extract(self, writer: FeatureWriter, segment: Segment) -> None:
        rows = [made(u) for u in writer.utterances(segment)]
        assert writer.commit(segment, rows, [None] * len(rows), PROVENANCE)

    def ids_of(self, writer: FeatureWriter, segment: Segment) -> set[str]:
        """The samples whose valid rows the segment has."""
        pairs = zip(writer.utterances(segment), writer.current(segment), strict=True)
        return {u.id for u, current in pairs if current}

    @rule(most=st.integers(1, 9))
    def extract_some(self, most: int) -> None:
        writer = self.writer
        for segment in writer.todo()[:most]:
            self.extract(writer, segment)
            self.have |= self.ids_of(writer, segment)

    @rule(after=STEP)
    def extract_one_and_die(self, after: int) -> None:
        writer = self.writer
        for segment in writer.todo()[:1]:
            dies(lambda: self.extract(writer, segment), after)  # noqa: B023 - called at once
            if self.writer.is_committed(segment):
                self.have |= self.ids_of(writer, segment)

    @rule()
    def collect(self) -> None:
        gc(self.store, older_than_hours=0)
        assert verify(self.store, deep=True) == []

    @rule(data=st.data())
    def damage_and_repair(self, data: st.DataObject) -> None:
        files = sorted(p for p in (self.folder / "store").glob("features/toy/*/data/*/values/c/0/0") if p.is_file())
        committed = {segment.name for segment in self.writer.segments() if self.writer.is_committed(segment)}
        files = [p for p in files if p.relative_to(self.folder).parts[5].rpartition(".")[0] in committed]
        if not files:
            return
        file = data.draw(st.sampled_from(files))
        broken = bytearray(file.read_bytes())
        broken[data.draw(st.integers(0, len(broken) - 1))] ^= 1
        file.write_bytes(broken)
        writer = self.writer
        names = [finding.segment for finding in repair(self.store, deep=True)]
        for segment in writer.segments():
            if segment.name in names:
                self.have -= self.ids_of(writer, segment)
        assert not [finding for finding in verify(self.store, deep=True) if finding.damage]

    @invariant()
    def reads_as_the_model(self) -> None:
        if not (self.folder / "store").exists():
            return
        seen = FeatureStore.open(self.folder / "store")
        samples = seen.samples("toy")
        assert samples.utterances == list(self.samples.values())
        assert samples.deleted == set(self.deleted)
        for feature in seen.features("toy"):
            status = feature.status()
            assert status.missing == len(self.samples) - len(self.have)
            ragged = feature.load(samples.ids, ["values", "seen"], missing="mask")
            without = {**feature.failures(), **feature.absences()}
            for index, utterance in enumerate(samples.utterances):
                wanted = made(utterance)
                here = utterance.id in self.have
                assert ragged.present[index] == (here and isinstance(wanted, dict))
                if here and isinstance(wanted, dict):
                    for name, values in wanted.items():
                        np.testing.assert_array_equal(ragged.row(index, name), values)
                elif here and not isinstance(wanted, dict):
                    assert without[utterance.id] == wanted.reason
        assert not [finding for finding in verify(seen) if finding.damage]


class TestStoreAsDict(StoreAsDict.TestCase):  # type: ignore[misc]
    settings = settings(max_examples=8, stateful_step_count=16, deadline=None, suppress_health_check=list(HealthCheck))
