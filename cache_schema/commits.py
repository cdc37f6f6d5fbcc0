"""The commit record: the only copy of a segment's offsets, and the only thing that makes its data visible."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, model_validator

from cache_schema.canonical import seal, unseal
from cache_schema.errors import REPAIR, DamagedError, SettingsError
from cache_schema.feature_spec import FeatureSpec
from cache_schema.format import BASE_FORMAT, require_known_format
from cache_schema.group import Group
from cache_schema.parts import Samples
from cache_schema.plan import Segment
from cache_schema.settings import Spec
from cache_schema.storage import Storage

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class StoredFile(Spec):
    """One file of an attempt."""

    size: NonNegativeInt
    """Bytes."""
    sha256: Digest
    """Digest of its bytes."""


class Commit(Spec):
    """What became of one segment."""

    format: int = BASE_FORMAT
    """Version of the store's format."""
    fingerprint: Digest
    """The feature's fingerprint."""
    part: str
    """Name of the part whose rows these are."""
    part_sha256: Digest
    """Digest of the part's bytes."""
    start: NonNegativeInt
    """First row in the part."""
    stop: NonNegativeInt
    """One past the last row."""
    attempt: str = Field(pattern=r"^[0-9a-f]{12}$")
    """Which of the attempts under `data/` it makes visible."""
    lengths: tuple[NonNegativeInt, ...]
    """Frames of each row; 0 for a row that failed or is absent."""
    failed: dict[str, str]
    """Reason by row, counted from `start`, of the rows that could not be read or encoded."""
    absent: dict[str, str]
    """Reason by row of the rows that have nothing of this modality."""
    inputs: tuple[Digest | None, ...]
    """sha256 of each row's media file; None where none was read."""
    files: dict[str, StoredFile]
    """Every file of the attempt, by its path in the attempt's folder."""
    provenance: dict[str, Any]
    """Host, device, library versions and time of whoever made it."""
    sha256: Digest | None = None
    """Digest of the record's own canonical bytes."""

    @model_validator(mode="after")
    def _rows_agree(self) -> Self:
        rows = self.stop - self.start
        if len(self.lengths) != rows or len(self.inputs) != rows:
            raise ValueError(f"{len(self.lengths)} lengths and {len(self.inputs)} inputs for {rows} rows")
        masked = [*self.failed, *self.absent]
        if len(set(masked)) != len(masked):
            raise ValueError("a row is said to be failed and absent")
        for row in masked:
            if not row.isdecimal() or int(row) >= rows or str(int(row)) != row:
                raise ValueError(f"{row!r} is no row of it")
            if self.lengths[int(row)]:
                raise ValueError(f"row {row} has frames and is said to have none")
        return self

    @property
    def segment(self) -> Segment:
        """Which rows it is about."""
        return Segment(self.part, self.start, self.stop)

    @property
    def folder(self) -> str:
        """The attempt's folder, relative to the feature's."""
        return attempt_folder(self.segment, self.attempt)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Where each row's frames begin; (rows + 1,), the last one being the number of frames."""
        return np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)]).astype(np.int64)

    @property
    def frames(self) -> int:
        """Frames of the whole segment."""
        return sum(self.lengths)

    @property
    def nbytes(self) -> int:
        """Bytes of its files."""
        return sum(file.size for file in self.files.values())

    def missing(self, row: int) -> str | None:
        """Why row `row` of the segment has no arrays; None where it has."""
        return self.failed.get(str(row)) or self.absent.get(str(row))

    def sealed(self) -> bytes:
        """The document's bytes, self-digest included."""
        return seal(self.model_dump(mode="json", exclude={"sha256"}))


def attempt_folder(segment: Segment, attempt: str) -> str:
    """Where an attempt at a segment lies, relative to the feature's folder."""
    return f"data/{segment.name}.{attempt}"


def commit_key(folder: str, segment: str) -> str:
    """Where the commit of the segment called `segment` lies."""
    return f"{folder}/commits/{segment}.json"


def commit_names(storage: Storage, folder: str) -> list[str]:
    """Names of the committed segments of the feature in `folder`."""
    return [n.removesuffix(".json") for n in storage.names(f"{folder}/commits") if n.endswith(".json")]


def expected_files(spec: FeatureSpec, frames: int) -> set[str]:
    """The files of an attempt with this many frames, by their paths in its folder."""
    files = {f"{array.name}/zarr.json" for array in spec.arrays}
    if frames:
        files |= {shard_path(array.name, len(array.tail) + 1) for array in spec.arrays}
    return files


def shard_path(array: str, dimensions: int) -> str:
    """The one shard of an array, by its path in the attempt's folder."""
    return f"{array}/c" + "/0" * dimensions


def planned_segments(group: Group, samples: Samples) -> dict[str, tuple[Segment, str]]:
    """Every segment that the feature's plan has, with its part's digest, by name."""
    return {
        segment.name: (segment, part.sha256)
        for part in samples.parts
        for segment in group.plan.segments(part.name, part.utterances, group.spec)
    }


def require_planned(planned: dict[str, tuple[Segment, str]], commit: Commit, folder: str) -> None:
    """Refuse a commit about rows that no part has.

    Raises:
        DamagedError: the part is gone or is another one, or the plan cuts it elsewhere.
    """
    if planned.get(commit.segment.name) != (commit.segment, commit.part_sha256):
        raise DamagedError(
            f"{commit_key(folder, commit.segment.name)} is about rows {commit.start} to {commit.stop} of "
            f"{commit.part}, which the dataset's samples do not have. {REPAIR}"
        )


def read_commit(storage: Storage, folder: str, name: str, group: Group) -> Commit | None:
    """The commit of the segment called `name` in the feature in `folder`; None where there is none.

    Raises:
        DamagedError: its bytes are not those that were written, or it is another segment's or feature's.
        StoreError: it has a newer format.
    """
    data = storage.get(commit_key(folder, name))
    return None if data is None else parse_commit(data, folder, name, group)


def parse_commit(data: bytes, folder: str, name: str, group: Group) -> Commit:
    """The commit whose document is `data`; errors as in `read_commit`."""
    key = commit_key(folder, name)
    document = unseal(data, key)
    require_known_format(document, key)
    try:
        commit = Commit.parse(document, key)
    except SettingsError as error:
        raise DamagedError(f"{key} is no commit of this format: {str(error).rstrip('.')}. {REPAIR}") from error
    if commit.segment.name != name or commit.fingerprint != group.fingerprint:
        raise DamagedError(
            f"{key} is the commit of segment {commit.segment.name} of feature {commit.fingerprint[:16]}. {REPAIR}"
        )
    if set(commit.files) != expected_files(group.spec, commit.frames):
        raise DamagedError(f"{key} does not list the files that its arrays consist of. {REPAIR}")
    return commit
