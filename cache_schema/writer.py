"""The write protocol: a fresh attempt, read back, on disk, then one commit that makes it visible."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache_schema.arrays import open_array, read_frames, write_array
from cache_schema.canonical import canonical_bytes, sha256_hex
from cache_schema.commits import Commit, StoredFile, attempt_folder, commit_key, commit_names, expected_files
from cache_schema.errors import DamagedError, StoreError
from cache_schema.feature_spec import ArraySpec, FeatureSpec
from cache_schema.group import put_group
from cache_schema.parts import Part, Samples
from cache_schema.plan import Segment, SegmentPlan
from cache_schema.rows import Absent, Arrays, Failed, Row
from cache_schema.samples import Utterance
from cache_schema.storage import Storage


class FeatureWriter:
    """Writes one feature of one dataset; any number of them may write at once, on any number of machines.

    Args:
        storage: the store's folder.
        samples: the dataset's samples, as they are now; kept as an attribute.
        folder: the feature's folder.
        spec: what the feature is.
        plan: how its segments are cut if it is not in the store yet; what is stored goes before it.

    Raises:
        StoreError: the store holds this feature with a setting of another value.
    """

    def __init__(
        self, storage: Storage, samples: Samples, folder: str, spec: FeatureSpec, plan: SegmentPlan | None
    ) -> None:
        self.spec = spec
        self.folder = folder
        self._storage = storage
        self.samples = samples
        self._parts: dict[str, Part] = {part.name: part for part in samples.parts}
        self._group = put_group(storage, folder, spec, plan or SegmentPlan())

    @cached_property
    def _valid(self) -> dict[str, NDArray[np.bool_]]:
        """For each part, which of its rows no later part replaces or deletes."""
        parts = np.split(self.samples.order >= 0, self.samples.starts[1:-1])
        return {part.name: valid for part, valid in zip(self.samples.parts, parts, strict=True)}

    def segments(self) -> list[Segment]:
        """Every segment of the plan, in row order."""
        plan = self._group.plan
        return [s for p in self.samples.parts for s in plan.segments(p.name, p.utterances, self.spec)]

    def todo(self) -> list[Segment]:
        """The segments that nobody has committed and that hold at least one row that no later part replaces."""
        done = set(commit_names(self._storage, self.folder))
        return [s for s in self.segments() if s.name not in done and any(self.current(s))]

    def current(self, segment: Segment) -> list[bool]:
        """For each row of the segment, whether no later part replaces it; a replaced row is never read."""
        current: list[bool] = self._valid[segment.part][segment.start : segment.stop].tolist()
        return current

    def is_committed(self, segment: Segment) -> bool:
        """Whether somebody has committed the segment by now."""
        return self._storage.size(commit_key(self.folder, segment.name)) is not None

    def utterances(self, segment: Segment) -> list[Utterance]:
        """The segment's rows, in order."""
        return list(self._parts[segment.part].utterances[segment.start : segment.stop])

    def commit(
        self,
        segment: Segment,
        rows: Sequence[Row],
        inputs: Sequence[str | None],
        provenance: Mapping[str, Any],
    ) -> bool:
        """Write a segment and make it visible, unless somebody else did it first.

        A row with a non-finite value is stored as failed, with the reason.

        Args:
            segment: one of `segments()`.
            rows: for each of its rows, arrays by name (frames, *tail), or why there are none.
            inputs: for each of its rows the sha256 of the media file that was read, or None.
            provenance: who and what made it, in JSON form.

        Returns:
            True when this commit is the one in the store; False when somebody else's is.

        Raises:
            StoreError: rows of the wrong number, type or shape, or the store cannot be written.
        """
        utterances = self.utterances(segment)
        if not len(rows) == len(inputs) == len(utterances):
            raise StoreError(
                f"{self._where(segment)}: {len(rows)} rows and {len(inputs)} inputs for {len(utterances)} utterances."
            )
        checked = [self._checked(u, row) for u, row in zip(utterances, rows, strict=True)]
        self._require_json(segment, provenance)
        if self.is_committed(segment):
            return False
        attempt = uuid.uuid4().hex[:12]
        prefix = f"{self.folder}/{attempt_folder(segment, attempt)}"
        try:
            files = self._write(prefix, [row for row in checked if isinstance(row, dict)])
            record = Commit(
                fingerprint=self._group.fingerprint,
                part=segment.part,
                part_sha256=self._parts[segment.part].sha256,
                start=segment.start,
                stop=segment.stop,
                attempt=attempt,
                lengths=tuple(len(row["values"]) if isinstance(row, dict) else 0 for row in checked),
                failed={str(i): row.reason for i, row in enumerate(checked) if isinstance(row, Failed)},
                absent={str(i): row.reason for i, row in enumerate(checked) if isinstance(row, Absent)},
                inputs=tuple(inputs),
                files=files,
                provenance=dict(provenance),
            ).sealed()
        except BaseException:
            self._storage.delete_folder(prefix)
            raise
        mine = self._storage.put_if_absent(commit_key(self.folder, segment.name), record)
        if not mine:
            self._storage.delete_folder(prefix)
        return mine

    def _write(self, prefix: str, rows: Sequence[Arrays]) -> dict[str, StoredFile]:
        """Write an attempt, compare what can be read of it with what was meant, bring it to disk."""
        self._storage.new_folder(prefix)
        for array in self.spec.arrays:
            empty = np.empty((0, *array.tail), array.dtype)
            values = np.concatenate([empty, *(row[array.name] for row in rows)])
            place = f"{prefix}/{array.name}"
            with self._storage.explained(place):
                write_array(self._storage, place, array, values)
            self._require_same_bytes(place, array, values)
        files = {}
        for path in self._storage.files(prefix):
            data = self._storage.get(f"{prefix}/{path}") or b""
            files[path] = StoredFile(size=len(data), sha256=sha256_hex(data))
        frames = sum(len(row["values"]) for row in rows)
        if set(files) != expected_files(self.spec, frames):
            raise DamagedError(f"{prefix} holds other files than were written: {', '.join(sorted(files))}.")
        self._storage.sync(prefix)
        return files

    def _require_same_bytes(self, place: str, array: ArraySpec, values: NDArray[Any]) -> None:
        back = np.empty_like(values)
        document = self._storage.get(f"{place}/zarr.json") or b""
        stored = open_array(self._storage, place, array, len(values), document, reader="zarr")
        read_frames(stored, 0, len(values), back, place)
        if not np.array_equal(back.reshape(-1).view(np.uint8), values.reshape(-1).view(np.uint8)):
            raise DamagedError(f"{place} reads back other numbers than were written: is the disk failing?")

    def _checked(self, utterance: Utterance, row: Row) -> Row:
        """The row as it is stored: non-finite values and unprintable reasons dealt with."""
        if isinstance(row, Failed | Absent):
            return type(row)(one_line(row.reason) or "no reason was given")
        where = f"{self.spec.feature}: sample {utterance.id!r}"
        names = [array.name for array in self.spec.arrays]
        if set(row) != set(names):
            raise StoreError(f"{where} has arrays {', '.join(sorted(row))} where the feature has {', '.join(names)}.")
        frames = len(row["values"]) if row["values"].ndim else 0
        for array in self.spec.arrays:
            values = row[array.name]
            if values.dtype != np.dtype(array.dtype) or values.shape != (frames, *array.tail):
                raise StoreError(
                    f"{where}: {array.name} is {values.dtype} {values.shape} where {array.dtype} "
                    f"{(frames, *array.tail)} belongs (frames, *tail)."
                )
            if values.dtype.kind == "f":
                finite = np.isfinite(values)
                if not finite.all():
                    frame = int(np.argwhere(~finite)[0, 0])
                    return Failed(f"{array.name} is not finite at frame {frame} of {frames}")
        return row

    def _require_json(self, segment: Segment, provenance: Mapping[str, Any]) -> None:
        try:
            canonical_bytes(dict(provenance))
        except (TypeError, ValueError) as error:
            raise StoreError(f"{self._where(segment)}: the provenance has no JSON form: {error}.") from error

    def _where(self, segment: Segment) -> str:
        return f"{self.spec.feature}, segment {segment.name}"


def one_line(text: str) -> str:
    """`text` on one line, and without what UTF-8 cannot hold."""
    return " ".join(text.encode("utf-8", "backslashreplace").decode().split())
