"""Mending a store by taking away: what is damaged, what was left behind, what is not wanted any more.

Commits go first and data after them, so that whoever reads meanwhile sees a row as missing and never half of it.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from cache_schema.commits import commit_key, commit_names, read_commit
from cache_schema.errors import DamagedError, StoreError
from cache_schema.group import read_group
from cache_schema.part_names import last_names, lost_names, part_number
from cache_schema.parts import legible_document, part_key, part_names, read_part, write_part
from cache_schema.storage import Storage
from cache_schema.store import FeatureStore, feature_folders
from cache_schema.verify import Finding, verify

SAFE_HOURS = 48.0
UNKNOWN_DELETIONS = "If it deleted samples, they are back: delete them again."


def repair(
    store: FeatureStore, dataset: str | None = None, feature: str | None = None, deep: bool = False
) -> list[Finding]:
    """Verify, and drop what is damaged, so that the next `mer extract` computes that and nothing else.

    Returns:
        The damage that was found and dropped.

    Raises:
        StoreError: the store is read-only, or there is no such dataset.
    """
    store.require_writable()
    damage = [finding for finding in verify(store, dataset, feature, deep) if finding.damage]
    return [drop(store, finding) for finding in damage]


def drop(store: FeatureStore, finding: Finding) -> Finding:
    """Take the damaged thing away.

    A commit or a data file: the segment's commit, then its data. A part: the commits about its rows and their
    data, then the part; `mer extract` appends the samples again, and what the part deleted stays deleted where that
    can still be read. A feature's document: that alone; `mer extract` with the same settings writes it again and
    finds its commits.

    Returns:
        The finding, which says so where samples may have come back.

    Raises:
        StoreError: the store is read-only, or the finding is a leftover: `gc` removes these when they are old.
    """
    store.require_writable()
    storage = store.storage
    if not finding.damage:
        raise StoreError(f"{finding.file} may belong to a writer at work; `mer store gc` removes it when it is old.")
    if finding.kind == "part":
        name = finding.file.rpartition("/")[2].removesuffix(".parquet")
        for folder in feature_folders(storage, finding.dataset):
            for segment in commit_names(storage, folder):
                if segment.startswith(name.removeprefix("part-") + "-"):
                    _drop_segment(storage, folder, segment)
        known = _replace_part(storage, finding.dataset, name)
        storage.delete(part_key(finding.dataset, name))
        if not known:
            return replace(finding, what=f"{finding.what.rstrip('.')}. {UNKNOWN_DELETIONS}")
    elif finding.kind == "group":
        storage.delete(finding.file)
    elif finding.segment is not None:
        _drop_segment(storage, _folder(finding), finding.segment)
    return finding


def gc(store: FeatureStore, older_than_hours: float = SAFE_HOURS) -> list[Finding]:
    """Remove what interrupted writers left behind, if nothing in it changed for so long, and finish deletions.

    Args:
        store: which one.
        older_than_hours: a writer that is still at work must not be older than this.

    Returns:
        The leftovers that were removed, and the deletions that were finished.

    Raises:
        StoreError: the store is read-only.
    """
    store.require_writable()
    removed = []
    for finding in verify(store):
        age = store.storage.age_hours(finding.file) if not finding.damage else None
        if age is not None and age >= older_than_hours:
            if finding.kind == "unfinished":
                _follow(store, finding)
            else:
                store.storage.delete_folder(finding.file)
                store.storage.delete(finding.file)
            removed.append(finding)
    return removed


def remove_feature(store: FeatureStore, dataset: str, name: str, fingerprint: str | None = None) -> str:
    """Remove a feature, its commits first.

    Returns:
        The key of the folder that was removed.

    Raises:
        MissingFeature: there is no such feature, or several.
        StoreError: the store is read-only, or there is no such dataset.
    """
    store.require_writable()
    folder = store.feature_folder(dataset, name, fingerprint)
    for segment in commit_names(store.storage, folder):
        store.storage.delete(commit_key(folder, segment))
    store.storage.delete_folder(folder)
    return folder


def _folder(finding: Finding) -> str:
    return f"features/{finding.dataset}/{(finding.feature or '').replace('@', '-')}.zarr"


def _follow(store: FeatureStore, finding: Finding) -> None:
    """Write the part that tells if the deletion in `finding` gets lost."""
    samples = store.samples(finding.dataset)
    names = [part.name for part in samples.parts]
    name = finding.file.rpartition("/")[2].removesuffix(".parquet")
    after = {name, *last_names(names)}
    write_part(store.storage, part_number(names[-1]) + 1, samples.corpus, [], after=sorted(after))


def _replace_part(storage: Storage, dataset: str, name: str) -> bool:
    """Write a part without rows in the place of one that is damaged or lost, where later parts name it or it deleted
    samples; whether it is known what it deleted.
    """
    names = part_names(storage, dataset)
    others = []
    for other in names:
        with suppress(DamagedError):
            others += [read_part(storage, dataset, other)] if other != name else []
    document = legible_document(storage, dataset, name)
    deleted = document[1] if document else ()
    if deleted or name in lost_names(others):
        corpora = [document[0]] if document else [p.corpus for p in others if p.name < name] or [others[0].corpus]
        number = part_number(name)
        write_part(storage, number, corpora[-1], [], deleted, last_names(names, before=number), instead_of=name)
    return document is not None


def _drop_segment(storage: Storage, folder: str, segment: str) -> None:
    """Delete a commit, then the data that it made visible, where it can still be read which."""
    try:
        group = read_group(storage, folder)
        commit = read_commit(storage, folder, segment, group) if group else None
    except DamagedError:
        commit = None
    storage.delete(commit_key(folder, segment))
    if commit is not None:
        storage.delete_folder(f"{folder}/{commit.folder}")
