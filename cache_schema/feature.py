"""Reading a feature: every commit, size, frame count and checksum is checked, and nothing is missing silently."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cache_schema.arrays import StoredArray, open_array, read_frames
from cache_schema.canonical import canonical_bytes, sha256_hex
from cache_schema.commits import Commit, commit_key, parse_commit, planned_segments, require_planned, shard_path
from cache_schema.errors import REPAIR, DamagedError, MissingFeature, StoreError
from cache_schema.feature_spec import ArraySpec, FeatureSpec
from cache_schema.group import Group
from cache_schema.parts import Samples
from cache_schema.readers import batched, chosen_reader
from cache_schema.registry import unknown_name
from cache_schema.storage import Storage

STATES = ("missing", "done", "failed", "absent")


@dataclass(frozen=True)
class Status:
    """How much of a feature there is, in samples.

    Attributes:
        samples: of the dataset.
        done: have arrays.
        failed: could not be read or encoded.
        absent: have nothing of this modality.
        missing: were not extracted yet.
    """

    samples: int
    done: int
    failed: int
    absent: int
    missing: int


@dataclass(frozen=True)
class Ragged:
    """Samples of different lengths, one after the other, without padding.

    Attributes:
        arrays: name -> (total frames, *tail).
        offsets: where each sample begins; int64 (n + 1,).
        present: which samples have arrays; bool (n,). The others have no frames.
    """

    arrays: dict[str, NDArray[Any]]
    offsets: NDArray[np.int64]
    present: NDArray[np.bool_]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Frames of each sample; int64 (n,)."""
        return np.diff(self.offsets)

    def row(self, index: int, name: str = "values") -> NDArray[Any]:
        """A view of one sample's array (frames, *tail)."""
        return self.arrays[name][self.offsets[index] : self.offsets[index + 1]]

    def __len__(self) -> int:
        return len(self.present)


@dataclass(frozen=True)
class _Run:
    """Frames that lie one after the other both in a segment and in the target."""

    start: int
    stop: int
    target: int


@dataclass(frozen=True)
class _Table:
    """What became of each row of all parts, rows being counted through them.

    Attributes:
        state: index into STATES; int8 (rows,).
        segment: index of the row's commit among the feature's, -1 where there is none; int32 (rows,).
        row: the row's place in its segment; int32 (rows,).
        start: where its frames begin in its segment; int64 (rows,).
        frames: how many it has; int64 (rows,).
    """

    state: NDArray[np.int8]
    segment: NDArray[np.int32]
    row: NDArray[np.int32]
    start: NDArray[np.int64]
    frames: NDArray[np.int64]


class Feature:
    """One feature of one dataset, with the commits that were there when it was opened.

    Args:
        storage: the store's folder.
        dataset: the dataset's name.
        folder: the feature's folder, as a key.
        group: the folder's document.
        committed: the names of the committed segments; each commit is read when the first of them is needed.
        samples: the dataset's samples, listed after the commits were.
    """

    def __init__(
        self, storage: Storage, dataset: str, folder: str, group: Group, committed: Sequence[str], samples: Samples
    ) -> None:
        self.dataset = dataset
        self.folder = folder
        self.spec: FeatureSpec = group.spec
        self.fingerprint = group.fingerprint
        self.samples = samples
        self._storage = storage
        self._group = group
        self._committed = tuple(committed)
        self._opened: dict[tuple[str, str, str], StoredArray] = {}

    @cached_property
    def commits(self) -> dict[str, Commit]:
        """The commits, by segment name.

        Raises:
            DamagedError: one is damaged, or is about rows that the samples do not have.
        """
        planned = planned_segments(self._group, self.samples)
        commits = {}
        documents = self._storage.get_all([commit_key(self.folder, name) for name in self._committed])
        for name, data in zip(self._committed, documents, strict=True):
            if data is not None:
                commit = parse_commit(data, self.folder, name, self._group)
                require_planned(planned, commit, self.folder)
                commits[name] = commit
        return commits

    @property
    def name(self) -> str:
        """The feature's name, as "hubert"."""
        return self.spec.feature

    def status(self) -> Status:
        """How many samples are done, failed, absent and missing."""
        count = np.bincount(self._table.state[self.samples.rows], minlength=len(STATES)).tolist()
        return Status(samples=len(self.samples), **dict(zip(STATES, count, strict=True)))

    def failures(self) -> dict[str, str]:
        """The reason of every sample that could not be read or encoded, by id."""
        return self._reasons("failed")

    def absences(self) -> dict[str, str]:
        """The reason of every sample that has nothing of this modality, by id."""
        return self._reasons("absent")

    def inputs(self) -> dict[str, str]:
        """sha256 of the media file that each sample was read from, by id; those of which none was read are left out."""
        rows, found = self.samples.rows, {}
        for number in np.flatnonzero(self._table.segment[rows] >= 0).tolist():
            row = rows[number]
            digest = self._in_order[self._table.segment[row]].inputs[self._table.row[row]]
            if digest is not None:
                found[self.samples.ids[number]] = digest
        return found

    def digest_of(self, ids: Sequence[str]) -> str:
        """Identifies the exact data of these samples: sha256 over the fingerprint and, in their order, each one's state
        and place, and the digests of the commits that hold them. What else the dataset has does not matter.
        """
        commits: dict[str, str | None] = {}
        rows = []
        for id_ in ids:
            state, commit, row = self._state(id_)
            if commit is not None:
                commits[commit.segment.name] = commit.sha256
            rows.append([state, None if commit is None else commit.segment.name, row])
        return sha256_hex(canonical_bytes({"fingerprint": self.fingerprint, "rows": rows, "commits": commits}))

    def digest(self) -> str:
        """Identifies the exact data: sha256 over the fingerprint and the digests of the parts and the commits."""
        facts = {
            "fingerprint": self.fingerprint,
            "parts": [part.sha256 for part in self.samples.parts],
            "commits": {name: commit.sha256 for name, commit in self.commits.items()},
        }
        return sha256_hex(canonical_bytes(facts))

    def read(self, id_: str) -> dict[str, NDArray[Any]]:
        """A sample's arrays by name, each (frames, *tail).

        Raises:
            MissingFeature: the sample failed, has nothing of this modality, or was not extracted yet.
            DamagedError: what is stored is not what was written.
        """
        ragged = self.load([id_], tuple(array.name for array in self.spec.arrays))
        return ragged.arrays

    def __getitem__(self, id_: str) -> NDArray[Any]:
        """A sample's values (frames, *tail); errors as in `read`."""
        return self.load([id_]).arrays["values"]

    def load(
        self,
        ids: Sequence[str],
        arrays: Sequence[str] = ("values",),
        missing: Literal["raise", "mask"] = "raise",
        threads: int = 2,
    ) -> Ragged:
        """Read samples into one flat array per name, in the order of `ids`.

        Args:
            ids: which samples; an id may occur twice.
            arrays: which arrays of the feature.
            missing: raise where a sample has no arrays, or give it no frames and leave it out of `present`.
            threads: segments that are read at once.

        Raises:
            MissingFeature: a sample has no arrays, or is not in the dataset; the first is named, with the reason.
            DamagedError: what is stored is not what was written.
            StoreError: the feature has no such array.
        """
        specs = [self._array_spec(name) for name in arrays]
        rows, present = self._rows_of(ids, missing)
        offsets = np.concatenate([[0], np.cumsum(self._table.frames[rows])]).astype(np.int64)
        loaded = {spec.name: np.empty((offsets[-1], *spec.tail), spec.dtype) for spec in specs}
        self._read_rows(rows, offsets, loaded, threads)
        return Ragged(loaded, offsets, present)

    def lengths(self, ids: Sequence[str], missing: Literal["raise", "mask"] = "raise") -> NDArray[np.int64]:
        """Frames of each sample, (n,); no data are read. Errors as in `load`; masked samples have none."""
        rows, _ = self._rows_of(ids, missing)
        return self._table.frames[rows]

    def rows_per_segment(self, part: int) -> int:
        """Rows of a segment of the part with this index."""
        return self._group.plan.rows_per_segment(self.samples.parts[part].utterances, self.spec)

    def summary(self) -> dict[str, Any]:
        """What `mer store ls` and `show` say: what it is, how much there is, who made it, when and with what."""
        status = self.status()
        made = [commit.provenance for commit in self.commits.values()]
        times = sorted(str(p["time"]) for p in made if "time" in p)
        versions: dict[str, set[str]] = {}
        for p in made:
            for package, version in dict(p.get("versions", {})).items():
                versions.setdefault(package, set()).add(str(version))
        return {
            "dataset": self.dataset,
            "feature": self.name,
            "fingerprint": self.fingerprint,
            "modality": self.spec.modality,
            "encoder": self.spec.encoder,
            "checkpoint": self.spec.checkpoint,
            "random_weights": self.spec.random_weights,
            "arrays": {a.name: f"{a.dtype} ({', '.join(['frames', *map(str, a.tail)])})" for a in self.spec.arrays},
            **{name: getattr(status, name) for name in ("samples", "done", "failed", "absent", "missing")},
            "frames": sum(commit.frames for commit in self.commits.values()),
            "segments": len(self.commits),
            "bytes": sum(commit.nbytes for commit in self.commits.values()),
            "hosts": sorted({str(p["host"]) for p in made if "host" in p}),
            "devices": sorted({str(p["device"]) for p in made if "device" in p}),
            "versions": {package: sorted(found) for package, found in sorted(versions.items())},
            "first_time": times[0] if times else None,
            "last_time": times[-1] if times else None,
        }

    @property
    def _label(self) -> str:
        return f"{self.dataset}/{self.name}"

    def _array_spec(self, name: str) -> ArraySpec:
        for array in self.spec.arrays:
            if array.name == name:
                return array
        raise StoreError(f"{self._label}: " + unknown_name("array", name, [a.name for a in self.spec.arrays]))

    @cached_property
    def _table(self) -> _Table:
        total = int(self.samples.starts[-1])
        state = np.full(total, STATES.index("missing"), np.int8)
        segment, row = np.full(total, -1, np.int32), np.zeros(total, np.int32)
        start, frames = np.zeros(total, np.int64), np.zeros(total, np.int64)
        first = {p.name: n for p, n in zip(self.samples.parts, self.samples.starts.tolist(), strict=False)}
        for number, commit in enumerate(self.commits.values()):
            here = slice(first[commit.part] + commit.start, first[commit.part] + commit.stop)
            state[here] = STATES.index("done")
            for name, reasons in (("failed", commit.failed), ("absent", commit.absent)):
                state[[here.start + int(i) for i in reasons]] = STATES.index(name)
            segment[here], row[here] = number, np.arange(len(commit.lengths))
            start[here], frames[here] = commit.offsets[:-1], commit.lengths
        return _Table(state, segment, row, start, frames)

    @cached_property
    def _in_order(self) -> list[Commit]:
        return list(self.commits.values())

    def _state(self, id_: str) -> tuple[str, Commit | None, int]:
        """What became of a sample: (one of STATES; its commit; its row there)."""
        row = self.samples.rows[self.samples.number(id_)]
        segment = int(self._table.segment[row])
        return (
            STATES[self._table.state[row]],
            self._in_order[segment] if segment >= 0 else None,
            int(self._table.row[row]),
        )

    def _rows_of(
        self, ids: Sequence[str], missing: Literal["raise", "mask"]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The samples' rows, rows being counted through all parts, and which of them have arrays."""
        rows = self.samples.rows[[self.samples.number(id_) for id_ in ids]] if len(ids) else np.empty(0, np.int64)
        present = self._table.state[rows] == STATES.index("done")
        if missing == "raise" and not present.all():
            lacking = np.flatnonzero(~present).tolist()
            more = f" {len(lacking) - 1} more samples have none." if len(lacking) > 1 else ""
            first = ids[lacking[0]]
            raise MissingFeature(f"{self._label}: sample {first!r} {_why(*self._state(first))}.{more}")
        return rows, present

    def _reasons(self, wanted: str) -> dict[str, str]:
        rows = self.samples.rows
        found = {}
        for number in np.flatnonzero(self._table.state[rows] == STATES.index(wanted)).tolist():
            row = rows[number]
            commit = self._in_order[self._table.segment[row]]
            found[self.samples.ids[number]] = commit.missing(int(self._table.row[row])) or ""
        return found

    def _read_rows(
        self, rows: NDArray[np.int64], offsets: NDArray[np.int64], out: dict[str, NDArray[Any]], threads: int
    ) -> None:
        """Read the frames of `rows` to where `offsets` says in the arrays of `out`, several segments at once."""
        rows, targets = rows[np.diff(offsets) > 0], offsets[:-1][np.diff(offsets) > 0]
        if not len(rows):
            return
        segment, start = self._table.segment[rows], self._table.start[rows]
        stop = start + self._table.frames[rows]
        # A run ends where the next row lies in another segment, or elsewhere than right behind this one.
        breaks = np.flatnonzero((segment[1:] != segment[:-1]) | (start[1:] != stop[:-1])) + 1
        first, last = np.concatenate([[0], breaks]), np.concatenate([breaks, [len(rows)]]) - 1
        runs: dict[int, list[_Run]] = {}
        columns = (segment[first], start[first], stop[last], targets[first])
        for number, begin, end, target in zip(*(column.tolist() for column in columns), strict=True):
            runs.setdefault(number, []).append(_Run(begin, end, target))
        jobs = [(number, self._array_spec(name)) for number in runs for name in out]

        def read(job: tuple[int, ArraySpec]) -> None:
            number, spec = job
            self._read_runs(self._in_order[number], spec, runs[number], out[spec.name])

        if len(jobs) == 1 or threads == 1:
            for job in jobs:
                read(job)
            return
        with batched(), ThreadPoolExecutor(threads, "read") as pool:
            for _ in pool.map(read, jobs):
                pass

    def _read_runs(self, commit: Commit, spec: ArraySpec, runs: Sequence[_Run], out: NDArray[Any]) -> None:
        """Read pieces of a segment's array to their places in `out`.

        A piece costs the chunks that it touches; where pieces would touch more than lies between the first and
        the last of them, that stretch is read once. zarrs reads whole segments only, and that faster.
        """
        array = self._open(commit, spec)
        where = f"{self.folder}/{commit.folder}/{shard_path(spec.name, len(spec.tail) + 1)}"
        low, high = min(run.start for run in runs), max(run.stop for run in runs)
        touched = sum(run.stop - run.start + array.chunk for run in runs)
        whole = array.shard is not None and 2 * min(touched, high - low) > array.frames
        if whole:
            low, high = 0, array.frames
        if runs == [_Run(low, high, runs[0].target)] or (not whole and touched <= high - low):
            for run in runs:
                read_frames(array, run.start, run.stop, out[run.target : run.target + run.stop - run.start], where)
        else:
            stretch = np.empty((high - low, *spec.tail), spec.dtype)
            read_frames(array, low, high, stretch, where)
            for run in runs:
                out[run.target : run.target + run.stop - run.start] = stretch[run.start - low : run.stop - low]
        self._require_sizes(commit, spec)

    def _open(self, commit: Commit, spec: ArraySpec) -> StoredArray:
        key = (commit.segment.name, spec.name, chosen_reader(self._storage))
        if key not in self._opened:
            self._require_sizes(commit, spec)
            path = f"{spec.name}/zarr.json"
            place = f"{self.folder}/{commit.folder}"
            document = self._storage.get(f"{place}/{path}") or b""
            if sha256_hex(document) != commit.files[path].sha256:
                raise DamagedError(f"{place}/{path} differs from what segment {key[0]} recorded. {REPAIR}")
            self._opened[key] = open_array(self._storage, f"{place}/{spec.name}", spec, commit.frames, document)
        return self._opened[key]

    def __getstate__(self) -> dict[str, Any]:
        """Without open arrays: another process opens its own."""
        return {**self.__dict__, "_opened": {}}

    def _require_sizes(self, commit: Commit, spec: ArraySpec) -> None:
        """Zarr reads a missing or empty shard as fill values, so this is asked before and after each read."""
        for path, file in commit.files.items():
            if path.startswith(f"{spec.name}/"):
                key = f"{self.folder}/{commit.folder}/{path}"
                size = self._storage.size(key)
                if size != file.size:
                    found = "is missing" if size is None else f"has {size} bytes instead of {file.size}"
                    raise DamagedError(f"{self._label}, segment {commit.segment.name}: {key} {found}. {REPAIR}")


def _why(state: str, commit: Commit | None, row: int) -> str:
    if commit is None:
        return "was not extracted yet"
    return f"{'failed' if state == 'failed' else 'has none'}: {commit.missing(row)}"
