"""The feature store of a lab: sample tables and features, shared by many readers and writers without locks.

`cache_schema/FORMAT.md` says what lies where, and what a reader or a writer in another language must do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, Self

from cache_schema.canonical import seal, unseal
from cache_schema.commits import commit_names
from cache_schema.errors import REPAIR, DamagedError, MissingFeature, StoreError
from cache_schema.feature import Feature
from cache_schema.feature_spec import FeatureSpec
from cache_schema.format import BASE_FORMAT, require_known_format
from cache_schema.group import group_key, read_group
from cache_schema.part_names import LAST_NUMBER, last_names, lost_names, part_number
from cache_schema.parts import Part, Samples, part_key, part_names, read_part, write_part
from cache_schema.plan import SegmentPlan
from cache_schema.registry import unknown_name
from cache_schema.samples import Corpus, Utterance
from cache_schema.storage import Storage, open_storage
from cache_schema.writer import FeatureWriter

MARKER = "mer-store.json"
MEND_MARKER = "It says nothing of what the store holds: put that of another folder, or bucket, in its place."
_DATASET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_FEATURE_FOLDER = re.compile(r"([a-z][a-z0-9_-]*)-([0-9a-f]{16})\.zarr")


class FeatureStore:
    """A store that exists; use `FeatureStore.open`.

    Attributes:
        location: where it lies, as it was given.
        storage: its folder.
        writable: whether it was opened for appending.
    """

    def __init__(self, location: str, storage: Storage, *, writable: bool) -> None:
        self.location = location
        self.storage = storage
        self.writable = writable
        self._parts: dict[tuple[str, str], Part] = {}
        self._samples: dict[str, Samples] = {}

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        mode: Literal["r", "a"] = "r",
        say: Callable[[str], None] = lambda line: None,
    ) -> Self:
        """Open the store at `path`.

        Args:
            path: a folder, or a URL as "s3://bucket/prefix" (`cache_schema.storage.open_storage`).
            mode: "r" to read; "a" to append too, which makes the store where there is none.
            say: called with a line about the place when a store was made.

        Raises:
            StoreError: there is no store, the folder holds something else, its format is newer, or no store can lie
                there.
            DamagedError: its marker is damaged.
        """
        storage = open_storage(path)
        location = str(path)
        data = storage.get(MARKER)
        if mode == "a" and data is None:
            say(f"Made a feature store in {location} ({_create(storage)}: yes).")
        elif mode == "a" and data is not None:
            storage.require_put_if_absent(MARKER, data)
        data = storage.get(MARKER)
        if data is None:
            storage.names("")  # says so where it is the bucket that is not there
            raise StoreError(f"{location} holds no feature store (no {MARKER}). `mer extract` makes one.")
        require_known_format(unseal(data, f"{location}/{MARKER}", MEND_MARKER), location)
        return cls(location, storage, writable=mode == "a")

    def datasets(self) -> list[str]:
        """The datasets that have samples or features, sorted."""
        found = {name for name in self.storage.names("samples") if part_names(self.storage, name)}
        return sorted(found | {n for n in self.storage.names("features") if feature_folders(self.storage, n)})

    def has_samples(self, dataset: str) -> bool:
        """Whether there are samples of a dataset; one whose only part was damaged, and dropped, has features alone."""
        return bool(part_names(self.storage, dataset))

    def append_samples(self, corpus: Corpus, utterances: Sequence[Utterance]) -> int:
        """Add the utterances that are new or changed; those that are there and not given stay.

        What was deleted stays deleted, so that extracting a corpus again does not bring it back;
        `restore_samples` does.

        Returns:
            Rows of the new part. No part is made where nothing is new; a corpus description that changed makes
            one, even without rows.

        Raises:
            StoreError: an id occurs twice, the dataset's name cannot name a folder, or the store is read-only.
        """
        self.require_writable()
        if not _DATASET.fullmatch(corpus.name):
            raise StoreError(
                f"{corpus.name!r} cannot name a dataset: use letters, digits, '.', '_', '-', a letter or digit first."
            )
        given: dict[str, Utterance] = {}
        for utterance in utterances:
            if utterance.id in given:
                raise StoreError(f"{corpus.name}: the id {utterance.id!r} is given twice; ids must be unique.")
            given[utterance.id] = utterance
        if not self.has_samples(corpus.name):
            write_part(self.storage, 0, corpus, utterances)
            return len(utterances)
        stored = self.samples(corpus.name)
        rows = stored.changed([u for u in utterances if u.id not in stored.deleted])
        if rows or stored.corpus != corpus:
            self._append(stored, corpus, rows)
        return len(rows)

    def append_again(self, dataset: str, ids: Sequence[str]) -> int:
        """Write the rows of these samples once more, so that their features are computed again.

        Returns:
            Rows of the new part.

        Raises:
            MissingFeature: there is no such sample.
            StoreError: no such dataset, or the store is read-only.
        """
        self.require_writable()
        stored = self.samples(dataset)
        rows = [stored[id_] for id_ in dict.fromkeys(ids)]
        if rows:
            self._append(stored, stored.corpus, rows)
        return len(rows)

    def delete_samples(self, dataset: str, ids: Sequence[str]) -> int:
        """Delete samples, for everybody who shares the store; the rest and its features stay as they are.

        A new part names them. Their rows in older parts and segments are no longer read by anybody, but their
        bytes remain there: nothing that is visible is ever changed.

        Returns:
            How many were deleted.

        Raises:
            MissingFeature: there is no such sample, or it was deleted before.
            StoreError: no such dataset, or the store is read-only.
        """
        self.require_writable()
        stored = self.samples(dataset)
        for id_ in ids:
            stored.place(id_)
        gone = list(dict.fromkeys(ids))
        if gone:
            self._append(stored, stored.corpus, [], gone)
        return len(gone)

    def restore_samples(self, dataset: str, ids: Sequence[str]) -> int:
        """Bring deleted samples back, as the rows that they last were, at the end; their features are missing then.

        Returns:
            How many came back.

        Raises:
            MissingFeature: a sample was not deleted.
            StoreError: no such dataset, or the store is read-only.
        """
        self.require_writable()
        stored = self.samples(dataset)
        last = {u.id: u for part in stored.parts for u in part.utterances if u.id in stored.deleted}
        for id_ in ids:
            if id_ not in last:
                raise MissingFeature(f"{dataset}: the sample {id_!r} was not deleted, so it cannot be restored.")
        rows = [last[id_] for id_ in dict.fromkeys(ids)]
        if rows:
            self._append(stored, stored.corpus, rows)
        return len(rows)

    def samples(self, dataset: str) -> Samples:
        """The samples of a dataset, as they are now.

        Raises:
            StoreError: there is no such dataset.
            DamagedError: a part is damaged.
        """
        parts = self._read_parts(dataset)
        if lost_names(parts):  # a listing may lack what was made while it was taken, but no second one lacks it too
            parts = self._read_parts(dataset)
        for lost, later in lost_names(parts).items():
            raise DamagedError(f"{part_key(dataset, lost)} is missing, after which {later} was written. {REPAIR}")
        merged = self._samples.get(dataset)
        if merged is None or merged.parts != parts:
            merged = self._samples[dataset] = Samples(parts)
        return merged

    def features(self, dataset: str) -> list[Feature]:
        """Every feature of a dataset, sorted by name and fingerprint; the commits of each are read when it is used.

        Raises:
            StoreError: there is no such dataset.
            DamagedError: a feature's own document is damaged.
        """
        self.samples(dataset)
        return [self._open(dataset, folder) for folder in self._feature_folders(dataset)]

    def feature(self, dataset: str, name: str, fingerprint: str | None = None) -> Feature:
        """The feature called `name`, whose fingerprint begins with `fingerprint` where that is given.

        Raises:
            MissingFeature: there is none, or several; the message lists them.
            StoreError: there is no such dataset.
            DamagedError: a document of the feature is damaged.
        """
        feature = self._open(dataset, self.feature_folder(dataset, name, fingerprint))
        feature.commits  # noqa: B018 - read now, so that damage is told here
        if fingerprint and not feature.fingerprint.startswith(fingerprint):
            raise MissingFeature(
                f"{dataset} has no {name!r} with fingerprint {fingerprint}; it has {feature.fingerprint}."
            )
        return feature

    def feature_folder(self, dataset: str, name: str, fingerprint: str | None = None) -> str:
        """Key of the folder of the feature called `name`, whatever state its documents are in.

        Raises:
            MissingFeature: there is none, or several; the message lists them.
            StoreError: there is no such dataset.
        """
        self.samples(dataset)
        known = [split_folder(folder) for folder in self._feature_folders(dataset)]
        found = [f"{n}-{d}" for n, d in known if n == name and d.startswith((fingerprint or "")[:16])]
        if len(found) == 1:
            return f"features/{dataset}/{found[0]}.zarr"
        fingerprints = ", ".join(f"{n}@{digits}" for n, digits in known if n == name)
        if found:
            raise MissingFeature(f"{dataset} has {len(found)} features called {name!r}; say which: {fingerprints}.")
        if fingerprints:
            raise MissingFeature(f"{dataset} has no {name!r} with fingerprint {fingerprint}; it has {fingerprints}.")
        raise MissingFeature(f"{dataset}: " + unknown_name("feature", name, sorted({n for n, _ in known})))

    def writer(self, dataset: str, spec: FeatureSpec, plan: SegmentPlan | None = None) -> FeatureWriter:
        """A writer of the feature `spec`; its document is put into the store, or compared with the stored one.

        Args:
            dataset: one that has samples.
            spec: what the feature is.
            plan: how its segments are cut if it is not in the store yet.

        Raises:
            StoreError: no such dataset, the store is read-only, or it holds this feature with another setting.
        """
        self.require_writable()
        folder = f"features/{dataset}/{spec.folder}"
        return FeatureWriter(self.storage, self.samples(dataset), folder, spec, plan)

    def require_writable(self) -> None:
        """Refuse to change a store that was opened for reading.

        Raises:
            StoreError: it was.
        """
        if not self.writable:
            raise StoreError(f"{self.location} was opened for reading only; open it with mode='a' to write.")

    def __getitem__(self, dataset: str) -> Dataset:
        """The dataset called `dataset`, as a mapping of feature names to features."""
        self.samples(dataset)
        return Dataset(self, dataset)

    def _read_parts(self, dataset: str) -> tuple[Part, ...]:
        names = part_names(self.storage, dataset)
        if not names and feature_folders(self.storage, dataset):
            raise StoreError(
                f"{self.location}: the dataset {dataset!r} has features, and its samples are gone: extract or import "
                "it again, which writes them."
            )
        if not names:
            raise StoreError(f"{self.location}: " + unknown_name("dataset", dataset, self.datasets()))
        for name in names:
            if (dataset, name) not in self._parts:
                self._parts[dataset, name] = read_part(self.storage, dataset, name)
        return tuple(self._parts[dataset, name] for name in names)

    def _append(self, stored: Samples, corpus: Corpus, rows: Sequence[Utterance], deleted: Sequence[str] = ()) -> None:
        names = [part.name for part in stored.parts]
        number = part_number(names[-1]) + 1
        # No commit is ever about a deletion: another part tells if its file is lost.
        followed = bool(deleted) and number < LAST_NUMBER
        name = write_part(self.storage, number, corpus, rows, deleted, last_names(names), followed=followed)
        if followed:
            write_part(self.storage, number + 1, corpus, [], after=[name])

    def _feature_folders(self, dataset: str) -> list[str]:
        """Folders of the features that have a document, or commits and should have one."""
        return [
            folder
            for folder in feature_folders(self.storage, dataset)
            if self.storage.size(group_key(folder)) is not None or commit_names(self.storage, folder)
        ]

    def _open(self, dataset: str, folder: str) -> Feature:
        committed = commit_names(self.storage, folder)
        group = read_group(self.storage, folder)
        if group is None:
            raise DamagedError(f"{group_key(folder)} is missing. `mer extract` with the same settings writes it again.")
        return Feature(self.storage, dataset, folder, group, committed, self.samples(dataset))


class Dataset:
    """One dataset of a store: `store[dataset][feature]`.

    Attributes:
        name: the dataset's name.
    """

    def __init__(self, store: FeatureStore, name: str) -> None:
        self.name = name
        self._store = store

    def __getitem__(self, feature: str) -> Feature:
        """The feature called `feature`; errors as in `FeatureStore.feature`."""
        return self._store.feature(self.name, feature)

    def __iter__(self) -> Iterator[str]:
        """The names of its features."""
        return iter(dict.fromkeys(feature.name for feature in self._store.features(self.name)))


def feature_folders(storage: Storage, dataset: str) -> list[str]:
    """Keys of the folders of a dataset's features."""
    folder = f"features/{dataset}"
    return [f"{folder}/{name}" for name in storage.names(folder) if _FEATURE_FOLDER.fullmatch(name)]


def split_folder(folder: str) -> tuple[str, str]:
    """Name and first 16 digits of the fingerprint of the feature in `folder`."""
    name, _, digits = folder.rpartition("/")[2].removesuffix(".zarr").rpartition("-")
    return name, digits


def _create(storage: Storage) -> str:
    """Make a store in a place that is absent or empty, and say what makes put-if-absent work there.

    Another process may do so at the same time.
    """
    others = storage.names("")
    if others and MARKER not in others:
        raise StoreError(f"{storage.location} holds {others[0]!r} and no feature store; give a new or empty folder.")
    primitive = storage.prepare()
    storage.put_if_absent(
        MARKER, seal({"format": BASE_FORMAT, "kind": "mer feature store", "put_if_absent": primitive})
    )
    return primitive
