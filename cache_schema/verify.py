"""Checking a store: documents, digests and sizes; deep: the sha256 of every file."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from cache_schema.canonical import sha256_hex
from cache_schema.commits import Commit, commit_key, commit_names, parse_commit, planned_segments, require_planned
from cache_schema.errors import REPAIR, DamagedError, StoreError
from cache_schema.group import Group, group_key, read_group
from cache_schema.part_names import lost_names, unfollowed_names
from cache_schema.parts import Part, Samples, part_key, part_names, read_part
from cache_schema.registry import unknown_name
from cache_schema.storage import Storage
from cache_schema.store import FeatureStore, feature_folders, split_folder

Kind = Literal["part", "group", "commit", "data", "leftover", "unfinished"]


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    Attributes:
        kind: a damaged part, feature document (group), commit or data file; or a leftover: what an interrupted
            writer left behind, or one at work has not committed yet. A leftover is never read and is no damage.
            Unfinished: a deletion that is in force, but without the part that would tell if its file got lost; no
            damage either.
        dataset: in which dataset; empty for the store's own folder.
        feature: the feature, as "hubert@0123456789abcdef"; None for samples.
        segment: the segment's name; None where it is about no single one.
        file: the file, or for a leftover the folder, as a path in the store.
        what: what is wrong.
    """

    kind: Kind
    dataset: str
    feature: str | None
    segment: str | None
    file: str
    what: str

    @property
    def damage(self) -> bool:
        """Whether something is damaged; False for what is left over or unfinished."""
        return self.kind not in ("leftover", "unfinished")

    def as_json(self) -> dict[str, Any]:
        """Its attributes, and `damage`."""
        return {**asdict(self), "damage": self.damage}

    def __str__(self) -> str:
        place = "/".join(name for name in (self.dataset, self.feature) if name) or "the store"
        segment = f", segment {self.segment}" if self.segment else ""
        return f"{'damage' if self.damage else self.kind}: {place}{segment}: {self.file}: {self.what}"


def verify(
    store: FeatureStore, dataset: str | None = None, feature: str | None = None, deep: bool = False
) -> list[Finding]:
    """Check a store, which writers may be at work in.

    Args:
        store: which one; nothing that it has read before is relied on.
        dataset: only this dataset.
        feature: only features of this name; `name@fingerprint` is one of them.
        deep: read every byte and compare its sha256; otherwise documents, digests and sizes.

    Raises:
        StoreError: there is no such dataset, a document has a newer format, or a folder may not be read.
    """
    known = store.datasets()
    if dataset is not None and dataset not in known:
        raise StoreError(f"{store.location}: " + unknown_name("dataset", dataset, known))
    found: list[Finding] = []
    if dataset is None:
        found += [_leftover(Finding("leftover", "", None, None, name, "")) for name in store.storage.temporary("")]
    for name in known if dataset is None else [dataset]:
        found += _verify_dataset(store.storage, name, feature, deep)
    return found


@dataclass(frozen=True)
class _Listed:
    """A feature whose documents were read.

    Attributes:
        at: a finding about it, to be filled in.
        folder: its folder, as a key.
        group: its document.
        commits: those that are intact.
    """

    at: Finding
    folder: str
    group: Group
    commits: list[Commit]


def _verify_dataset(storage: Storage, dataset: str, feature: str | None, deep: bool) -> list[Finding]:
    found: list[Finding] = []
    listed: list[_Listed] = []
    for folder in feature_folders(storage, dataset):
        name, digits = split_folder(folder)
        if feature is None or feature == name or (feature.startswith(f"{name}@") and _begins(digits, feature)):
            at = Finding("data", dataset, f"{name}@{digits}", None, "", "")
            found += _read_documents(storage, at, folder, listed)
    # Parts after commits: whatever a commit is about was in the store before it.
    parts: list[Part] = []
    damaged: list[str] = []
    for name in part_names(storage, dataset):
        try:
            part = read_part(storage, dataset, name)
            part.utterances.check()
            parts.append(part)
        except DamagedError as error:
            damaged.append(name)
            found.append(_said(Finding("part", dataset, None, None, part_key(dataset, name), ""), error))
    for name, later in lost_names(parts, damaged).items():
        if storage.size(part_key(dataset, name)) is None:
            damaged.append(name)
            what = f"is missing; {later} was written after it"
            found.append(Finding("part", dataset, None, None, part_key(dataset, name), what))
    for name in unfollowed_names(parts):
        what = "the part after this deletion is missing: its writer was interrupted, or the part lost; `gc` writes it"
        found.append(Finding("unfinished", dataset, None, None, part_key(dataset, name), what))
    for name in storage.temporary(f"samples/{dataset}"):
        found.append(_leftover(Finding("leftover", dataset, None, None, f"samples/{dataset}/{name}", "")))
    samples = Samples(tuple(parts))
    for one in listed:
        found += _verify_feature(storage, one, samples, damaged, deep)
    return found


def _begins(digits: str, feature: str) -> bool:
    return digits.startswith(feature.partition("@")[2][:16])


def _read_documents(storage: Storage, at: Finding, folder: str, listed: list[_Listed]) -> Iterator[Finding]:
    """Read a feature's document and commits into `listed`; yield what is wrong with them."""
    names = commit_names(storage, folder)
    try:
        group = read_group(storage, folder)
    except DamagedError as error:
        yield _said(replace(at, kind="group", file=group_key(folder)), error)
        return
    if group is None:
        if names:
            yield replace(at, kind="group", file=group_key(folder), what="is missing")
        else:
            yield _leftover(replace(at, file=folder))
        return
    commits = []
    keys = [commit_key(folder, name) for name in names]
    for name, key, data in zip(names, keys, storage.get_all(keys), strict=True):
        try:
            commits += [parse_commit(data, folder, name, group)] if data is not None else []
        except DamagedError as error:
            yield _said(replace(at, kind="commit", segment=name, file=key), error)
    listed.append(_Listed(at, folder, group, commits))


def _verify_feature(
    storage: Storage, one: _Listed, samples: Samples, damaged: list[str], deep: bool
) -> Iterator[Finding]:
    planned = planned_segments(one.group, samples)
    present = storage.files(one.folder)
    accounted = {"zarr.json", *(f"commits/{name}.json" for name in commit_names(storage, one.folder))}
    small = [f"{one.folder}/{c.folder}/{path}" for c in one.commits for path in c.files if path.endswith("zarr.json")]
    documents = dict(zip(small, storage.get_all(small), strict=True))
    for commit in one.commits:
        name = commit.segment.name
        if commit.part not in damaged:
            try:
                require_planned(planned, commit, one.folder)
            except DamagedError as error:
                yield _said(replace(one.at, kind="commit", segment=name, file=commit_key(one.folder, name)), error)
        for path, file in commit.files.items():
            inside = f"{commit.folder}/{path}"
            accounted.add(inside)
            key = f"{one.folder}/{inside}"
            wrong = None
            if inside not in present:
                wrong = "is missing"
            elif present[inside] != file.size:
                wrong = f"has {present[inside]} bytes instead of {file.size}"
            elif key in documents or deep:
                data = documents[key] if key in documents else storage.get(key)
                if sha256_hex(data or b"") != file.sha256:
                    wrong = "does not match the sha256 in its commit"
            if wrong:
                yield replace(one.at, segment=name, file=key, what=wrong)
    committed = {commit.folder for commit in one.commits}
    attempts = {f"data/{name}" for name in storage.names(f"{one.folder}/data")}
    stray = {_attempt_or_file(path, committed) for path in present.keys() - accounted}
    for path in sorted(stray | (attempts - committed)):
        yield _leftover(replace(one.at, file=f"{one.folder}/{path}"))


def _attempt_or_file(path: str, committed: Collection[str]) -> str:
    """The attempt's folder for a file of an attempt that is not committed, else the file itself."""
    pieces = path.split("/")
    folder = "/".join(pieces[:2])
    return folder if pieces[0] == "data" and folder not in committed else path


def _leftover(at: Finding) -> Finding:
    return replace(at, kind="leftover", what="no commit refers to it: a writer is at work, or was interrupted")


def _said(at: Finding, error: DamagedError) -> Finding:
    """The finding of an error, which names the file, and what to do about damage, once more."""
    return replace(at, what=str(error).removeprefix(f"{at.file} ").removesuffix(f" {REPAIR}"))
