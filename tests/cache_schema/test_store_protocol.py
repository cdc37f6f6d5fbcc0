"""The write protocol: nothing is visible before it is whole and on disk, whoever is killed and whoever races."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store_builders import PLAN, assert_intact, build, corpus, row, rows, spec, utterances, write

from cache_schema.errors import StoreError
from cache_schema.storage.local import LocalStorage
from cache_schema.store import FeatureStore
from cache_schema.verify import verify

HERE = Path(__file__).parent


def drive(*arguments: str) -> Any:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE)])}
    done = subprocess.run(
        [sys.executable, str(HERE / "protocol_driver.py"), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("first", range(4))
def test_a_writer_killed_at_any_step_leaves_a_store_that_reads_and_goes_on(tmp_path: Path, first: int) -> None:
    outcome = drive("kill", str(tmp_path / "stores"), str(7 + first * 16), "64")
    assert outcome["killed"] >= 3


@pytest.mark.parametrize("first", range(2))
def test_a_writer_to_s3_killed_at_any_step_leaves_a_store_that_reads_and_goes_on(s3: str, first: int) -> None:
    outcome = drive("kill", s3, str(1 + first * 11), "22")
    assert outcome["killed"] >= 2


def test_of_writers_that_race_for_the_same_segments_each_is_committed_once(location: str) -> None:
    won = drive("race", location, "3")
    store = FeatureStore.open(location)
    feature = store.feature("toy", "toynet")
    assert sorted(name for names in won.values() for name in names) == sorted(feature.commits)
    assert len(feature.commits) == 6
    by_salt = {name: int(salt) for salt, names in won.items() for name in names}
    for name, commit in feature.commits.items():
        assert commit.provenance["salt"] == by_salt[name]
        for number in range(commit.start, commit.stop):
            wanted = row(spec(), store.samples("toy").utterances[number], by_salt[name])
            if isinstance(wanted, dict):
                np.testing.assert_array_equal(feature[f"u{number}"], wanted["values"])
    assert verify(store, deep=True) == [], "whoever lost has taken its attempts away"


def test_writers_share_the_work_while_others_read_delete_and_correct(location: str) -> None:
    found = drive("share", location, "2")
    store = FeatureStore.open(location)
    first, second, reader, editor = (found[number] for number in ("0", "1", "2", "3"))
    feature = store.feature("toy", "toynet")
    assert sorted(first + second + editor) == sorted(feature.commits)
    assert reader["passes"] >= 1 and reader["seen"] >= 20, "of 24 two have no arrays, and two are deleted"
    assert store.samples("toy").ids == [f"u{i}" for i in range(24) if i not in (20, 21)]
    assert store.samples("toy")["u0"].text == "other words"
    assert feature.status().missing == 0
    assert_intact(store)
    assert verify(store, deep=True) == []


def test_processes_that_append_at_once_all_keep_their_rows(location: str) -> None:
    drive("append", location, "3")
    samples = FeatureStore.open(location).samples("toy")
    assert sorted(samples.ids) == sorted(f"u{i}" for i in [*range(24), *range(100, 136)])
    assert len(samples.parts) == 10


def test_a_commit_half_written_is_never_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the moment before the link, what a reader lists does not have the commit, and after it has all of it."""
    store = FeatureStore.open(tmp_path / "store", mode="a")
    store.append_samples(corpus(), utterances(4))
    writer = store.writer("toy", spec(), PLAN)
    seen = []
    real = os.link

    def watched(source: Any, target: Any) -> None:
        seen.append(FeatureStore.open(tmp_path / "store").feature("toy", "toynet").status().missing)
        real(source, target)
        seen.append(FeatureStore.open(tmp_path / "store").feature("toy", "toynet").status().missing)

    monkeypatch.setattr(os, "link", watched)
    write(writer)
    assert seen == [4, 0]


class Trace:
    """Every folder made, fsync, link and read, in order, with paths."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
        self.events: list[tuple[str, str]] = []
        self._root = root
        real_fsync, real_link, real_mkdir, real_get = os.fsync, os.link, os.mkdir, LocalStorage.get

        def fsync(descriptor: int) -> None:
            self._note("fsync", Path(f"/proc/self/fd/{descriptor}").readlink())
            real_fsync(descriptor)

        def link(source: Any, target: Any) -> None:
            self._note("link from", source)
            self._note("link", target)
            real_link(source, target)

        def mkdir(path: Any, *given: Any, **named: Any) -> None:
            real_mkdir(path, *given, **named)
            self._note("mkdir", path)

        def get(storage: LocalStorage, key: str) -> bytes | None:
            self._note("get", storage.root / key)
            return real_get(storage, key)

        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(os, "link", link)
        monkeypatch.setattr(os, "mkdir", mkdir)
        monkeypatch.setattr(LocalStorage, "get", get)

    def _note(self, what: str, path: Any) -> None:
        path = Path(path)
        name = path.relative_to(self._root).as_posix() if path.is_relative_to(self._root) else str(path)
        self.events.append((what, name))

    def first(self, what: str, path: str) -> int:
        assert (what, path) in self.events, f"no {what} of {path} among {self.events}"
        return self.events.index((what, path))

    def after(self, what: str, path: str, start: int) -> int:
        assert (what, path) in self.events[start:], f"no {what} of {path} after step {start} of {self.events}"
        return self.events.index((what, path), start)


def assert_put_if_absent(trace: Trace, key: str) -> int:
    """Temporary file on disk, link, folder on disk, read back; every folder above was brought to disk as well."""
    linked = trace.first("link", key)
    what, temporary = trace.events[linked - 1]
    folder, _, name = key.rpartition("/")
    assert what == "link from" and temporary.startswith(f"{folder}/.{name}.".lstrip("/"))
    assert trace.first("fsync", temporary) < linked
    on_disk = trace.after("fsync", folder or ".", linked)
    trace.after("get", key, on_disk)
    for made in [path for what, path in trace.events[:linked] if what == "mkdir" and key.startswith(f"{path}/")]:
        above = made.rpartition("/")[0] or "."
        assert trace.after("fsync", above, trace.first("mkdir", made)) < linked
    return linked


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="paths of file descriptors are read from /proc")
def test_every_file_and_folder_is_on_disk_before_it_is_visible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "store"
    trace = Trace(monkeypatch, root)
    store = build(root, count=4)
    feature = store.feature("toy", "toynet")
    ((name, commit),) = feature.commits.items()
    assert_put_if_absent(trace, "mer-store.json")
    assert_put_if_absent(trace, f"samples/toy/{store.samples('toy').parts[0].name}.parquet")
    assert_put_if_absent(trace, f"{feature.folder}/zarr.json")
    linked = assert_put_if_absent(trace, f"{feature.folder}/commits/{name}.json")

    attempt = f"{feature.folder}/{commit.folder}"
    files = [p for p in (root / attempt).rglob("*") if p.is_file()]
    assert len(files) == 2 * len(feature.spec.arrays)
    written = max(i for i, (what, path) in enumerate(trace.events) if what == "mkdir" and path.startswith(attempt))
    for path in [root / attempt, *(root / attempt).rglob("*")]:
        key = path.relative_to(root).as_posix()
        assert written < trace.first("fsync", key) < linked
        if path.is_file():
            assert trace.first("get", key) < linked, "read back"
    trace.after("fsync", f"{feature.folder}/data", trace.first("mkdir", attempt))
    assert any(
        what == "fsync" and path == f"{feature.folder}/data" and trace.first("mkdir", attempt) < i < linked
        for i, (what, path) in enumerate(trace.events)
    )


def test_put_if_absent_never_replaces(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    assert storage.put_if_absent("a/b.json", b"first")
    assert storage.put_if_absent("a/b.json", b"first")
    assert not storage.put_if_absent("a/b.json", b"second")
    assert storage.get("a/b.json") == b"first"
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.json"]


def test_who_wins_is_what_is_read_back_whatever_the_link_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On NFS a link may be made although its reply is lost, and the repeated call says that it exists."""
    real = os.link

    def lost_reply(source: Any, target: Any) -> None:
        real(source, target)
        raise FileExistsError(target)

    monkeypatch.setattr(os, "link", lost_reply)
    assert LocalStorage(tmp_path).put_if_absent("a.json", b"mine")


def test_a_file_system_that_refuses_is_explained_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StoreError, match=r"a\.json: Operation not permitted\. .*hard links"):
        LocalStorage(tmp_path).put_if_absent("a.json", b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_ends_a_segment_in_one_line_and_without_leftovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cache_schema import writer as module

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    store = FeatureStore.open(tmp_path / "store", mode="a")
    store.append_samples(corpus(), utterances(2))
    writer = store.writer("toy", spec())
    (segment,) = writer.segments()
    monkeypatch.setattr(module, "write_array", full)
    with pytest.raises(StoreError, match="No space left on device"):
        writer.commit(segment, rows(writer, segment), [None, None], {})
    monkeypatch.undo()
    assert verify(store) == []
    write(writer)
    assert_intact(store)
