"""All readers read the same numbers, and none reads a damaged shard; nothing is written with zarrs."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from store_builders import PLAN, assert_intact, build, rows, spec

from cache_schema import arrays as zarr_arrays
from cache_schema import readers
from cache_schema.errors import DamagedError
from cache_schema.feature import Feature
from cache_schema.feature_spec import ArraySpec
from cache_schema.readers import Reader, chosen_reader, using_reader
from cache_schema.store import FeatureStore
from cache_schema.window import WindowStream

READERS: list[Reader] = ["direct", "zarr", "zarrs"]
WIDE = spec(arrays=(ArraySpec(name="values", dtype="float16", tail=(7,)),))


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest) -> Any:
    if request.param == "zarrs":
        pytest.importorskip("zarrs")
    with using_reader(request.param):
        yield request.param


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureStore:
    """Segments of several chunks, the last chunk of a shard being cut short in most."""
    monkeypatch.setattr(zarr_arrays, "CHUNK_BYTES", 48)
    built = build(tmp_path / "store", count=30, of=WIDE)
    return FeatureStore.open(built.location)


def opened(store: FeatureStore) -> Feature:
    """The feature, with nothing open yet."""
    return FeatureStore.open(store.location)["toy"]["toynet"]


def present(feature: Feature) -> list[str]:
    return [id_ for id_ in feature.samples.ids if id_ not in ("u3", "u5")]


def test_every_selection_reads_the_same_numbers(store: FeatureStore, reader: Reader) -> None:
    assert_intact(store)
    feature = opened(store)
    assert chosen_reader(store.storage) == reader
    ids = present(feature)
    draw = random.Random(0)
    for count in (1, 2, 7, len(ids)):
        for _ in range(5):
            wanted = draw.sample(ids, count)
            ragged = feature.load(wanted, threads=draw.choice([1, 2, 3]))
            for place, id_ in enumerate(wanted):
                np.testing.assert_array_equal(ragged.row(place), feature[id_])


def test_no_flipped_bit_of_a_shard_is_read(store: FeatureStore, reader: Reader) -> None:
    """zarrs alone would read most of them: it verifies a chunk only where it decodes the whole shard."""
    for shard in sorted(Path(store.location).rglob("values/c/0/0"))[:2]:
        whole = shard.read_bytes()
        for place in range(0, len(whole), 3):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << place % 8
            shard.write_bytes(damaged)
            with pytest.raises(DamagedError, match="is damaged"):
                feature = opened(store)
                feature.load(present(feature))
        shard.write_bytes(whole)
    assert_intact(store)


def test_no_sample_is_read_with_a_flipped_bit(store: FeatureStore, reader: Reader) -> None:
    """One by one, a sample may be read where another chunk is damaged, but never with another number."""
    truth = {id_: opened(store)[id_] for id_ in present(opened(store))}
    shard = sorted(Path(store.location).rglob("values/c/0/0"))[0]
    whole = shard.read_bytes()
    for place in range(0, len(whole), 17):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        shard.write_bytes(damaged)
        feature = opened(store)
        for id_ in ("u0", "u1", "u2"):
            try:
                np.testing.assert_array_equal(feature[id_], truth[id_])
            except DamagedError as error:
                assert shard.parent.parent.parent.name in str(error)


@pytest.mark.parametrize("how", ["cut", "emptied", "grown", "deleted", "index"])
@pytest.mark.parametrize("when", ["before", "while"])
def test_a_shard_of_another_size_is_not_read(
    store: FeatureStore, reader: Reader, how: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cache_schema import feature as module

    shard = sorted(Path(store.location).rglob("values/c/0/0"))[0]
    whole = shard.read_bytes()
    content = {"cut": whole[:-7], "emptied": b"", "grown": whole + b"\0", "index": whole[-40:]}

    def damage() -> None:
        shard.unlink() if how == "deleted" else shard.write_bytes(content[how])

    real = module.read_frames

    def late(array: Any, start: int, stop: int, out: Any, where: str) -> None:
        if where in str(shard):
            damage()
        real(array, start, stop, out, where)

    if when == "before":
        damage()
    else:
        monkeypatch.setattr(module, "read_frames", late)
    with pytest.raises(DamagedError):
        feature = opened(store)
        feature.load(present(feature))


def test_an_array_of_another_layout_is_left_to_zarr(store: FeatureStore) -> None:
    from cache_schema.shards import is_plain_shard

    facts = json.loads(next(Path(store.location).rglob("values/zarr.json")).read_bytes())
    sharding = facts["codecs"][0]["configuration"]
    chunk = tuple(sharding["chunk_shape"])
    assert is_plain_shard(facts, chunk)
    at_start = [{"name": "sharding_indexed", "configuration": {**sharding, "index_location": "start"}}]
    packed = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "zstd"}, {"name": "crc32c"}]
    big = [{"name": "bytes", "configuration": {"endian": "big"}}, {"name": "crc32c"}]
    for other in (
        {"codecs": at_start},
        {"codecs": [{"name": "sharding_indexed", "configuration": {**sharding, "codecs": packed}}]},
        {"codecs": [{"name": "sharding_indexed", "configuration": {**sharding, "codecs": big}}]},
        {"codecs": sharding["codecs"]},
        {"shape": [facts["shape"][0] * 9, 7]},
        {"chunk_key_encoding": {"name": "v2", "configuration": {"separator": "."}}},
    ):
        assert not is_plain_shard({**facts, **other}, chunk)


def test_nothing_is_written_with_zarrs_whatever_zarr_is_configured_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zarrs = pytest.importorskip("zarrs")

    async def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("zarrs was asked to write")

    monkeypatch.setattr(zarrs.ZarrsCodecPipeline, "write", refuse)
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        built = build(tmp_path / "store", count=6)
        assert_intact(built)
        assert zarr.config.get("codec_pipeline.path") == "zarrs.ZarrsCodecPipeline"


def test_a_forked_process_whose_parent_used_zarrs_reads_without(store: FeatureStore) -> None:
    pytest.importorskip("zarrs")
    feature = opened(store)
    with using_reader("zarrs"):
        whole = feature.load(present(feature)).arrays["values"]
        assert readers._STATE.used and chosen_reader(store.storage) == "zarrs"
    receiving, sending = os.pipe()
    with using_reader("zarrs"):
        child = os.fork()
        if child == 0:
            try:
                again = feature.load(present(feature)).arrays["values"]
                same = np.array_equal(again, whole) and chosen_reader(store.storage) == "direct"
                os.write(sending, b"same" if same else b"differs")
            finally:
                os._exit(0)
    os.close(sending)
    with os.fdopen(receiving, "rb") as answer:
        assert answer.read() == b"same"
    os.waitpid(child, 0)


def test_windows_hold_each_sample_once_and_no_more_than_they_may(store: FeatureStore) -> None:
    feature = opened(store)
    total = feature.load(present(feature)).arrays["values"].nbytes
    stream = WindowStream({"toynet": feature}, window_bytes=total, seed=1, missing="mask")
    for epoch in range(2):
        windows = list(stream.windows(epoch))
        assert sorted(id_ for window in windows for id_ in window.ids) == sorted(feature.samples.ids)
        assert len(windows) >= 3
        for window in windows:
            assert window.features["toynet"].arrays["values"].nbytes <= total / 3
            assert [stream.ids[place] for place in window.places.tolist()] == list(window.ids)
            for place, id_ in enumerate(window.ids):
                if window.features["toynet"].present[place]:
                    np.testing.assert_array_equal(window.features["toynet"].row(place), feature[id_])
    shares = [id_ for k in range(3) for window in stream.windows(0, (k, 3)) for id_ in window.ids]
    assert sorted(shares) == sorted(feature.samples.ids)
    assert list(WindowStream({"toynet": feature}, ids=[]).windows()) == []


def test_samples_with_parts_and_deletions_stream_as_they_are_valid(tmp_path: Path) -> None:
    store = build(tmp_path / "store", count=12, of=WIDE)
    store.append_again("toy", ["u1", "u8"])
    store.delete_samples("toy", ["u2", "u9"])
    writer = store.writer("toy", WIDE, PLAN)
    for segment in writer.todo():
        writer.commit(segment, rows(writer, segment, salt=1), [None] * len(segment), {})
    feature = store["toy"]["toynet"]
    windows = list(WindowStream({"toynet": feature}, seed=0, missing="mask").windows())
    assert sorted(id_ for window in windows for id_ in window.ids) == sorted(
        {f"u{i}" for i in range(12)} - {"u2", "u9"}
    )
    for window in windows:
        for place, id_ in enumerate(window.ids):
            if window.features["toynet"].present[place]:
                np.testing.assert_array_equal(window.features["toynet"].row(place), feature[id_])


def test_plain_zarr_reads_a_segment_in_three_lines(tmp_path: Path) -> None:
    store = build(tmp_path / "store", count=4, of=WIDE)
    folder = tmp_path / "store" / store["toy"]["toynet"].folder
    commit = json.loads(next((folder / "commits").iterdir()).read_bytes())
    name = f"{commit['part'].removeprefix('part-')}-{commit['start']:07d}.{commit['attempt']}"
    values = np.split(
        np.asarray(zarr.open_array(folder / "data" / name / "values", mode="r")[:]), np.cumsum(commit["lengths"])
    )
    np.testing.assert_array_equal(values[1], store["toy"]["toynet"]["u1"])
