"""A folder and S3 behave the same; places that cannot hold a store are refused, and nothing hangs."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pytest
from store_builders import PLAN, assert_intact, build, corpus, row, spec, utterances, write

from cache_schema.errors import DamagedError, MerError, StoreError
from cache_schema.repair import gc, remove_feature, repair
from cache_schema.storage import absolute_location, open_storage
from cache_schema.storage.objects import ObjectStorage
from cache_schema.store import FeatureStore
from cache_schema.verify import verify


def overwrite(location: str, key: str, data: bytes) -> None:
    """What nobody may do to a store."""
    storage = open_storage(location)
    if isinstance(storage, ObjectStorage):
        obstore.put(storage._client, key, data)
    else:
        Path(location, key).write_bytes(data)


def shards(store: FeatureStore) -> list[str]:
    return sorted(key for key in store.storage.files("") if "/values/c/" in key)


def test_what_goes_in_comes_out(location: str) -> None:
    store = build(location, count=11)
    store.append_samples(corpus(), utterances(13))
    write(store.writer("toy", spec(), PLAN))
    store.delete_samples("toy", ["u2"])
    opened = FeatureStore.open(location)
    assert opened.datasets() == ["toy"]
    assert_intact(opened)
    assert verify(opened, deep=True) == []
    assert opened.storage.names("") == ["features", "mer-store.json", "samples"]
    assert opened.feature("toy", "toynet").summary()["done"] == 10


def test_nothing_but_the_format_s_files_is_stored(location: str) -> None:
    store = build(location, count=4)
    feature = store.feature("toy", "toynet")
    ((name, commit),) = feature.commits.items()
    (part,) = feature.samples.parts
    assert sorted(store.storage.files("")) == sorted(
        [
            "mer-store.json",
            f"samples/toy/{part.name}.parquet",
            f"{feature.folder}/zarr.json",
            f"{feature.folder}/commits/{name}.json",
            *(f"{feature.folder}/{commit.folder}/{path}" for path in commit.files),
        ]
    )


def test_making_a_store_says_what_makes_it_safe_and_writes_it_down(location: str) -> None:
    said: list[str] = []
    store = FeatureStore.open(location, mode="a", say=said.append)
    primitive = "conditional writes" if location.startswith("s3:") else "hard links"
    assert said == [f"Made a feature store in {location} ({primitive}: yes)."]
    assert json.loads(store.storage.get("mer-store.json") or b"")["put_if_absent"] == primitive
    FeatureStore.open(location, mode="a", say=said.append)
    assert len(said) == 1
    assert list(store.storage.files("")) == ["mer-store.json"], "the probe is gone"


def test_a_place_that_holds_something_else_is_refused(location: str) -> None:
    open_storage(location).put_if_absent("thesis.tex", b"x")
    with pytest.raises(StoreError, match=r"holds 'thesis\.tex' and no feature store"):
        FeatureStore.open(location, mode="a")
    with pytest.raises(StoreError, match=r"holds no feature store \(no mer-store\.json\)"):
        FeatureStore.open(location)


def test_put_if_absent_keeps_the_first(location: str) -> None:
    storage = open_storage(location)
    assert storage.put_if_absent("a/b.json", b"first")
    assert storage.put_if_absent("a/b.json", b"first")
    assert not storage.put_if_absent("a/b.json", b"second")
    assert storage.get("a/b.json") == b"first" and storage.size("a/b.json") == 5
    assert storage.names("a") == ["b.json"] and storage.files("a") == {"b.json": 5}
    age = storage.age_hours("a")
    assert age is not None and abs(age) < 0.01
    storage.delete("a/b.json")
    storage.delete("a/b.json")
    assert storage.get("a/b.json") is storage.size("a/b.json") is storage.age_hours("a/b.json") is None
    storage.delete_folder("absent")


def test_a_fresh_attempt_never_enters_another_s_folder(location: str) -> None:
    storage = open_storage(location)
    storage.new_folder("data/x")
    storage.put_if_absent("data/x/file", b"")
    with pytest.raises(StoreError, match="data/x"):
        storage.new_folder("data/x")


@pytest.mark.parametrize("how", ["flipped", "cut", "emptied", "deleted"])
def test_damage_is_named_by_segment_and_only_that_is_computed_again(location: str, how: str) -> None:
    store = build(location, count=10)
    key = shards(store)[1]
    whole = store.storage.get(key) or b""
    damaged = {"flipped": bytes([whole[0] ^ 1]) + whole[1:], "cut": whole[:-1], "emptied": b""}.get(how)
    overwrite(location, key, damaged) if damaged is not None else store.storage.delete(key)
    feature = FeatureStore.open(location).feature("toy", "toynet")
    with pytest.raises(DamagedError):
        feature.load(["u4", "u6"])
    (finding,) = [f for f in verify(FeatureStore.open(location), deep=True) if f.damage]
    assert finding.file == key and finding.segment is not None and finding.segment in key
    assert [f.segment for f in repair(store, deep=True)] == [finding.segment]
    writer = store.writer("toy", spec())
    assert [segment.name for segment in writer.todo()] == [finding.segment]
    write(writer)
    assert_intact(FeatureStore.open(location))
    assert verify(store, deep=True) == []


def test_gc_and_rm(location: str) -> None:
    store = build(location, count=6)
    folder = store.feature("toy", "toynet").folder
    attempt = f"{folder}/data/00000-0123456789abcdef-0000000.0123456789ab"
    abandoned = f"{attempt}/values/zarr.json"
    store.storage.put_if_absent(abandoned, b"{}")
    assert [(f.kind, f.file) for f in verify(store)] == [("leftover", attempt)]
    assert gc(store) == []
    assert [f.file for f in gc(store, older_than_hours=0)] == [attempt]
    assert verify(store) == [] and store.storage.size(abandoned) is None
    assert_intact(store)
    assert remove_feature(store, "toy", "toynet") == folder
    assert not [key for key in store.storage.files("") if key.startswith("features/")]
    assert store.features("toy") == []


@pytest.mark.parametrize("kind", ["commit", "group", "part"])
def test_damaged_documents_are_refused(location: str, kind: str) -> None:
    store = build(location, count=6)
    pattern = {"commit": "/commits/", "group": ".zarr/zarr.json", "part": ".parquet"}[kind]
    key = next(k for k in store.storage.files("") if pattern in k)
    whole = store.storage.get(key) or b""
    overwrite(location, key, whole[:20] + bytes([whole[20] ^ 4]) + whole[21:])
    with pytest.raises(StoreError):
        FeatureStore.open(location).feature("toy", "toynet")
    assert [f.kind for f in verify(store) if f.damage] == [kind]


def test_s3_keeps_what_it_acknowledged_when_the_answer_was_lost(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A put that is repeated because its answer was lost finds its own object; what is read back decides."""
    real = obstore.put
    monkeypatch.setattr(obstore, "put", lambda *given, **named: (real(*given, **named), real(*given, **named)))
    assert open_storage(s3).put_if_absent("a.json", b"mine")


def test_who_wins_on_s3_is_what_is_read_back_whatever_the_server_said(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(s3)
    assert storage.put_if_absent("a.json", b"another's")
    monkeypatch.setattr(obstore, "put", lambda *given, **named: {"e_tag": "of nothing", "version": None})
    assert not storage.put_if_absent("a.json", b"mine")


def test_a_commit_that_cannot_be_read_back_keeps_its_data(location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a moment on NFS: it may be one's own, so nothing that it names may be deleted."""
    store = FeatureStore.open(location, mode="a")
    store.append_samples(corpus(), utterances(4))
    writer = store.writer("toy", spec(), PLAN)
    real = type(store.storage).get
    with monkeypatch.context() as patch, pytest.raises(StoreError, match="cannot be read back"):
        patch.setattr(type(store.storage), "get", lambda self, key: None if "/commits/" in key else real(self, key))
        write(writer)
    assert_intact(FeatureStore.open(location))
    assert verify(store, deep=True) == []


def test_a_server_that_ignores_conditions_is_refused(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = obstore.put
    store = FeatureStore.open(f"{s3}/earlier", mode="a")
    monkeypatch.setattr(obstore, "put", lambda *given, **named: real(*given, **{**named, "mode": "overwrite"}))
    for location in (f"{s3}/new", store.location):
        with pytest.raises(StoreError, match="server replaced an object although it was told not to"):
            FeatureStore.open(location, mode="a")
    assert store.storage.names("") == ["mer-store.json"]
    assert open_storage(f"{s3}/new").files("") == {}
    FeatureStore.open(store.location)


def test_a_folder_without_hard_links_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StoreError, match=r"Operation not permitted\. A store needs a file system with hard links"):
        FeatureStore.open(tmp_path / "store", mode="a")
    assert list((tmp_path / "store").iterdir()) == []
    monkeypatch.setattr(os, "link", os.replace)
    with pytest.raises(StoreError, match="a hard link replaced a file that was there"):
        FeatureStore.open(tmp_path / "store", mode="a")


def test_a_file_that_a_reader_on_nfs_has_open_does_not_stop_a_removal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = build(tmp_path / "store", count=4)
    real = os.rmdir

    def busy(path: Any, **named: Any) -> None:
        if str(path).endswith("0"):
            raise OSError(errno.ENOTEMPTY, "Directory not empty")
        real(path, **named)

    monkeypatch.setattr(os, "rmdir", busy)
    overwrite(store.location, shards(store)[0], b"")
    assert len(repair(store)) == 1
    monkeypatch.undo()
    (left,) = verify(store)
    assert left.kind == "leftover", "for gc, when nobody reads it any more"
    write(store.writer("toy", spec()))
    assert_intact(store)
    gc(store, older_than_hours=0)
    assert verify(store, deep=True) == []


@pytest.mark.parametrize(
    "location",
    [
        "memory://x",
        "gcs+fsspec://b/p",
        "simplecache::s3://b/p",
        "fsspec::s3://b",
        "s3::b/p",
        "ftp://host/x",
        "hdfs://h/p",
    ],
)
@pytest.mark.parametrize("mode", ["r", "a"])
def test_fsspec_is_refused_with_the_reason(location: str, mode: Any) -> None:
    with pytest.raises(StoreError, match=r"no put-if-absent.*in 2 of 40 races.*lost silently") as refused:
        FeatureStore.open(location, mode=mode)
    assert "\n" not in str(refused.value)


def test_other_places_are_refused_with_their_reasons(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from zarr.storage import FsspecStore

    with pytest.raises(StoreError, match=r"FsspecStore is no location.*2 of 40 races"):
        FeatureStore.open(FsspecStore.from_url("memory://x"), mode="a")  # type: ignore[arg-type]
    for location, why in {
        "https://host/store": "cannot list or keep files",
        "s3://": "not of the form s3://BUCKET/PREFIX",
        "s3://b/p?x=1": "not of the form s3://BUCKET/PREFIX",
    }.items():
        with pytest.raises(StoreError, match=why):
            FeatureStore.open(location)
    with pytest.raises(StoreError, match="a slash was lost"):
        FeatureStore.open(Path("s3://bucket/p"), mode="a")
    with pytest.raises(StoreError, match="credentials do not belong") as refused:
        FeatureStore.open("s3://key:secret@bucket/p")
    assert "secret" not in str(refused.value)
    for mode in ("r", "a"):
        with pytest.raises(StoreError, match="NoSuchBucket: The specified bucket does not exist") as refused:
            FeatureStore.open("s3://nobody/store", mode=mode)  # type: ignore[arg-type]
        assert "\n" not in str(refused.value)
    monkeypatch.setattr("cache_schema.storage.objects.RETRY", {"max_retries": 0})
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match=r"^s3://b/store.*127\.0\.0\.1:9") as refused:
        FeatureStore.open("s3://b/store")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (
            obstore.exceptions.PermissionDeniedError("...<Code>AccessDenied</Code>\n<Message>Access Denied</Message>"),
            "AccessDenied: Access Denied. Check the credentials and the rights that they give.",
        ),
        (
            obstore.exceptions.GenericError("Generic S3 error: PUT http://169.254.169.254/latest/api/token\nDebug"),
            "there are no credentials in the environment. For S3 set AWS_ACCESS_KEY_ID and ",
        ),
    ],
    ids=["wrong", "missing"],
)
def test_wrong_and_missing_credentials_are_told_in_one_line(
    s3: str, monkeypatch: pytest.MonkeyPatch, error: Exception, why: str
) -> None:
    def refuse(*_: Any) -> None:
        raise error

    monkeypatch.setattr(obstore, "get", refuse)
    with pytest.raises(StoreError) as refused:
        FeatureStore.open(s3)
    assert str(refused.value).startswith(f"{s3}/mer-store.json: {why}") and "\n" not in str(refused.value)


def test_a_file_url_is_a_folder(tmp_path: Path) -> None:
    build((tmp_path / "a b").as_uri(), count=4)
    assert_intact(FeatureStore.open(tmp_path / "a b"))


def test_locations_from_another_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_location("features") == str(tmp_path / "features")
    assert absolute_location(tmp_path) == str(tmp_path)
    assert absolute_location("s3://lab/features") == "s3://lab/features"


def in_a_child(method: str, target: Callable[..., Any], *given: Any) -> Any:
    """What `target` puts into a queue, from a child process that must answer in time."""
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    child = context.Process(target=target, args=(answers, *given))
    child.start()
    try:
        return answers.get(timeout=20)
    finally:
        child.kill()
        child.join()


def read_one(answers: Any, source: Any) -> None:
    try:
        feature = source if not isinstance(source, str) else FeatureStore.open(source)["toy"]["toynet"]
        answers.put(feature["u1"])
    except MerError as error:
        answers.put(str(error))


def test_a_spawned_child_reads_from_s3_by_location_and_by_pickle(s3: str) -> None:
    build(s3, count=4)
    feature = FeatureStore.open(s3)["toy"]["toynet"]
    wanted: Any = row(spec(), utterances(2)[1])
    for source in (s3, feature):
        assert np.array_equal(feature["u1"], wanted["values"])
        assert np.array_equal(pickle.loads(pickle.dumps(feature))["u1"], wanted["values"])
        assert np.array_equal(in_a_child("spawn", read_one, source), wanted["values"])


def test_a_forked_child_says_why_it_cannot_read_from_s3_and_does_not_hang(s3: str) -> None:
    build(s3, count=4)
    feature = FeatureStore.open(s3)["toy"]["toynet"]
    feature["u1"]
    for source in (s3, feature):
        assert "cannot be used in a forked process" in in_a_child("fork", read_one, source)
