"""Reading a feature: every commit, size, frame count and checksum is checked, and nothing is missing silently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from cache_schema.arrays import open_array, read_frames
from cache_schema.canonical import canonical_bytes, sha256_hex
from cache_schema.commits import Commit, planned_segments, require_planned, shard_path
from cache_schema.errors import REPAIR, DamagedError, MissingFeature, StoreError
from cache_schema.feature_spec import ArraySpec, FeatureSpec
from cache_schema.group import Group
from cache_schema.parts import Samples
from cache_schema.registry import unknown_name
from cache_schema.storage import Storage

if TYPE_CHECKING:
    import zarr


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


class Feature:
    """One feature of one dataset, as it was committed when it was first asked.

    Args:
        storage: the store's folder.
        dataset: the dataset's name.
        folder: the feature's folder, as a key.
        group: the folder's document.
        commits: the parsed commits, by segment name.
        samples: the dataset's samples, listed after the commits were.

    Raises:
        DamagedError: a commit is about rows that the samples do not have.
    """

    def __init__(
        self, storage: Storage, dataset: str, folder: str, group: Group, commits: dict[str, Commit], samples: Samples
    ) -> None:
        self.dataset = dataset
        self.folder = folder
        self.spec: FeatureSpec = group.spec
        self.fingerprint = group.fingerprint
        self.samples = samples
        self.commits = commits
        self._storage = storage
        self._opened: dict[tuple[str, str], zarr.Array[Any]] = {}
        planned = planned_segments(group, samples)
        for commit in commits.values():
            require_planned(planned, commit, folder)
        self._steps = [group.plan.rows_per_segment(part.utterances, group.spec) for part in samples.parts]
        self._by_start = {(commit.part, commit.start): commit for commit in commits.values()}

    @property
    def name(self) -> str:
        """The feature's name, as "hubert"."""
        return self.spec.feature

    def status(self) -> Status:
        """How many samples are done, failed, absent and missing."""
        count = {"done": 0, "failed": 0, "absent": 0, "missing": 0}
        for id_ in self.samples.ids:
            count[self._state(id_)[0]] += 1
        return Status(samples=len(self.samples), **count)

    def failures(self) -> dict[str, str]:
        """The reason of every sample that could not be read or encoded, by id."""
        return self._reasons("failed")

    def absences(self) -> dict[str, str]:
        """The reason of every sample that has nothing of this modality, by id."""
        return self._reasons("absent")

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
    ) -> Ragged:
        """Read samples into one flat array per name, in the order of `ids`.

        Args:
            ids: which samples; an id may occur twice.
            arrays: which arrays of the feature.
            missing: raise where a sample has no arrays, or give it no frames and leave it out of `present`.

        Raises:
            MissingFeature: a sample has no arrays, or is not in the dataset; the first is named, with the reason.
            DamagedError: what is stored is not what was written.
            StoreError: the feature has no such array.
        """
        specs = [self._array_spec(name) for name in arrays]
        present = np.zeros(len(ids), np.bool_)
        offsets = np.zeros(len(ids) + 1, np.int64)
        runs: dict[str, list[_Run]] = {}
        lacking: list[tuple[str, str]] = []
        target = 0
        for index, id_ in enumerate(ids):
            state, commit, row = self._state(id_)
            if commit is None or state != "done":
                lacking.append((id_, _why(state, commit, row)))
            else:
                present[index] = True
                start, stop = int(commit.offsets[row]), int(commit.offsets[row + 1])
                _extend(runs.setdefault(commit.segment.name, []), _Run(start, stop, target))
                target += stop - start
            offsets[index + 1] = target
        if lacking and missing == "raise":
            more = f" {len(lacking) - 1} more samples have none." if len(lacking) > 1 else ""
            raise MissingFeature(f"{self._label}: sample {lacking[0][0]!r} {lacking[0][1]}.{more}")
        loaded = {spec.name: np.empty((target, *spec.tail), spec.dtype) for spec in specs}
        for segment, pieces in runs.items():
            for spec in specs:
                self._read_runs(self.commits[segment], spec, pieces, loaded[spec.name])
        return Ragged(loaded, offsets, present)

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

    def _state(self, id_: str) -> tuple[str, Commit | None, int]:
        """What became of a sample: (done, failed, absent or missing; its commit; its row there)."""
        part, row = self.samples.place(id_)
        in_segment = row % self._steps[part]
        commit = self._by_start.get((self.samples.parts[part].name, row - in_segment))
        if commit is None:
            return "missing", None, 0
        if str(in_segment) in commit.failed:
            return "failed", commit, in_segment
        return ("absent" if str(in_segment) in commit.absent else "done"), commit, in_segment

    def _reasons(self, wanted: str) -> dict[str, str]:
        found = {}
        for id_ in self.samples.ids:
            state, commit, row = self._state(id_)
            if state == wanted and commit is not None:
                found[id_] = commit.missing(row) or ""
        return found

    def _read_runs(self, commit: Commit, spec: ArraySpec, runs: Sequence[_Run], out: NDArray[Any]) -> None:
        """Read pieces of a segment's array to their places in `out`.

        A piece costs the chunks that it touches; where pieces would touch more than lies between the first and
        the last of them, that stretch is read once.
        """
        runs = [run for run in runs if run.stop > run.start]
        if not runs:
            return
        array = self._open(commit, spec)
        where = f"{self.folder}/{commit.folder}/{shard_path(spec.name, len(spec.tail) + 1)}"
        low, high = min(run.start for run in runs), max(run.stop for run in runs)
        chunk = array.chunks[0]
        if len(runs) == 1 or sum(run.stop - run.start + chunk for run in runs) <= high - low:
            for run in runs:
                read_frames(array, run.start, run.stop, out[run.target : run.target + run.stop - run.start], where)
        else:
            stretch = np.empty((high - low, *spec.tail), spec.dtype)
            read_frames(array, low, high, stretch, where)
            for run in runs:
                out[run.target : run.target + run.stop - run.start] = stretch[run.start - low : run.stop - low]
        self._require_sizes(commit, spec)

    def _open(self, commit: Commit, spec: ArraySpec) -> zarr.Array[Any]:
        key = (commit.segment.name, spec.name)
        if key not in self._opened:
            self._require_sizes(commit, spec)
            path = f"{spec.name}/zarr.json"
            place = f"{self.folder}/{commit.folder}"
            if sha256_hex(self._storage.get(f"{place}/{path}") or b"") != commit.files[path].sha256:
                raise DamagedError(f"{place}/{path} differs from what segment {key[0]} recorded. {REPAIR}")
            self._opened[key] = open_array(self._storage, f"{place}/{spec.name}", spec, commit.frames)
        return self._opened[key]

    def _require_sizes(self, commit: Commit, spec: ArraySpec) -> None:
        """Zarr reads a missing or empty shard as fill values, so this is asked before and after each read."""
        for path, file in commit.files.items():
            if path.startswith(f"{spec.name}/"):
                key = f"{self.folder}/{commit.folder}/{path}"
                size = self._storage.size(key)
                if size != file.size:
                    found = "is missing" if size is None else f"has {size} bytes instead of {file.size}"
                    raise DamagedError(f"{self._label}, segment {commit.segment.name}: {key} {found}. {REPAIR}")


def _extend(runs: list[_Run], run: _Run) -> None:
    """Add a run, joined to the last one where it follows it both in the segment and in the target."""
    if runs:
        last = runs[-1]
        if last.stop == run.start and last.target + last.stop - last.start == run.target:
            runs[-1] = _Run(last.start, run.stop, last.target)
            return
    runs.append(run)


def _why(state: str, commit: Commit | None, row: int) -> str:
    if commit is None:
        return "was not extracted yet"
    return f"{'failed' if state == 'failed' else 'has none'}: {commit.missing(row)}"
