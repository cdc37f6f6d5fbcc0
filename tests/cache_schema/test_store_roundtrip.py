"""What goes into the store comes out of it, and what is not in it is said to be missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store_builders import (
    MEDIA,
    PLAN,
    PROVENANCE,
    arrays,
    assert_intact,
    build,
    corpus,
    row,
    rows,
    spec,
    utterances,
    write,
)

from cache_schema import arrays as zarr_arrays
from cache_schema.errors import DamagedError, MissingFeature, StoreError
from cache_schema.feature_spec import ArraySpec
from cache_schema.plan import SegmentPlan
from cache_schema.rows import Absent, Failed
from cache_schema.store import FeatureStore
from cache_schema.verify import verify


def test_ragged_rows_with_siblings_come_back_exactly(tmp_path: Path) -> None:
    store = build(tmp_path / "store", count=11)
    assert_intact(store)
    assert_intact(FeatureStore.open(tmp_path / "store"))
    assert not verify(store, deep=True)


def test_status_reasons_and_summary(tmp_path: Path) -> None:
    store = build(tmp_path / "store", count=10)
    store.append_samples(corpus(), utterances(12))
    feature = store.feature("toy", "toynet")
    status = feature.status()
    assert (status.samples, status.done, status.failed, status.absent, status.missing) == (12, 8, 1, 1, 2)
    assert feature.failures() == {"u3": "clips/3.mp4: moov atom not found"}
    assert feature.absences() == {"u5": "no audio stream"}
    summary = feature.summary()
    assert summary["hosts"] == ["box"] and summary["devices"] == ["cpu"]
    assert summary["versions"] == {"numpy": ["2.0"]}
    assert summary["first_time"] == summary["last_time"] == PROVENANCE["time"]
    assert summary["random_weights"] is False
    on_disk = sum(f.stat().st_size for f in (tmp_path / "store" / feature.folder / "data").rglob("*") if f.is_file())
    assert summary["bytes"] == on_disk


@pytest.mark.parametrize("chunk_bytes", [1 << 20, 64])
@pytest.mark.parametrize("ids", ["forward", "backward", "some", "twice", "one", "none"])
def test_any_order_of_ids_reads_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ids: str, chunk_bytes: int
) -> None:
    monkeypatch.setattr(zarr_arrays, "CHUNK_BYTES", chunk_bytes)
    store = build(tmp_path / "store", count=40)
    present = [i for i in store.samples("toy").ids if i not in ("u3", "u5")]
    wanted = {
        "forward": present,
        "backward": present[::-1],
        "some": present[2:30:5] + present[:2],
        "twice": ["u8", "u9", "u9", "u8"],
        "one": ["u21"],
        "none": [],
    }[ids]
    feature = store.feature("toy", "toynet")
    ragged = feature.load(wanted, ("values", "boxes"))
    assert ragged.present.all() and len(ragged) == len(wanted)
    assert (
        ragged.offsets.dtype == np.int64
        and ragged.offsets[0] == 0
        and ragged.offsets[-1] == len(ragged.arrays["boxes"])
    )
    by_id = {u.id: u for u in store.samples("toy").utterances}
    for index, id_ in enumerate(wanted):
        expected: Any = row(feature.spec, by_id[id_])
        np.testing.assert_array_equal(ragged.row(index), expected["values"])
        np.testing.assert_array_equal(ragged.row(index, "boxes"), expected["boxes"])
        assert ragged.lengths[index] == len(expected["values"])


def test_whole_segments_are_read_into_the_target_without_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = build(tmp_path / "store", count=40)
    feature = store.feature("toy", "toynet")
    reads: list[tuple[int, int, bool]] = []
    from cache_schema import feature as reader

    real = reader.read_frames
    monkeypatch.setattr(
        reader,
        "read_frames",
        lambda array, start, stop, out, where: (
            reads.append((start, stop, out.base is not None)),
            real(array, start, stop, out, where),
        ),
    )
    ids = [i for i in store.samples("toy").ids if i not in ("u3", "u5")]
    feature.load(ids)
    assert len(reads) == len(feature.commits)
    whole = {commit.frames for commit in feature.commits.values()}
    assert all(start == 0 and stop in whole and into_view for start, stop, into_view in reads)


def test_indexing_reads_values(tmp_path: Path) -> None:
    store = build(tmp_path / "store")
    wanted: Any = row(spec(), store.samples("toy")["u4"])
    np.testing.assert_array_equal(store["toy"]["toynet"]["u4"], wanted["values"])
    read = store["toy"]["toynet"].read("u4")
    assert list(read) == ["values", "boxes", "seen"]
    np.testing.assert_array_equal(read["seen"], wanted["seen"])
    assert list(store["toy"]) == ["toynet"]


@pytest.mark.parametrize(
    ("id_", "message"),
    [
        ("u3", "toy/toynet: sample 'u3' failed: clips/3.mp4: moov atom not found"),
        ("u5", "toy/toynet: sample 'u5' has none: no audio stream"),
        ("u11", "toy/toynet: sample 'u11' was not extracted yet"),
        ("u99", "there is no sample called 'u99'"),
    ],
)
def test_a_missing_row_raises_with_its_reason(tmp_path: Path, id_: str, message: str) -> None:
    store = build(tmp_path / "store")
    store.append_samples(corpus(), utterances(12))
    feature = store.feature("toy", "toynet")
    with pytest.raises(MissingFeature, match="(?i)" + message):
        feature.load(["u1", id_])
    with pytest.raises(MissingFeature):
        feature.read(id_)


def test_a_mask_leaves_missing_rows_without_frames(tmp_path: Path) -> None:
    feature = build(tmp_path / "store").feature("toy", "toynet")
    ragged = feature.load(["u2", "u3", "u7", "u5", "u4"], missing="mask")
    assert ragged.present.tolist() == [True, False, True, False, True]
    assert ragged.lengths.tolist() == [3, 0, 0, 0, 1]
    with pytest.raises(MissingFeature, match="u99"):
        feature.load(["u99"], missing="mask")


def test_a_feature_without_any_frame(tmp_path: Path) -> None:
    store = FeatureStore.open(tmp_path / "store", mode="a")
    store.append_samples(corpus(), utterances(3))
    writer = store.writer("toy", spec())
    (segment,) = writer.segments()
    assert writer.commit(segment, [Failed("broken"), Absent("none"), arrays(spec(), 0, 0)], [None] * 3, {})
    feature = store.feature("toy", "toynet")
    assert feature.read("u2")["values"].shape == (0, 3, 2)
    assert feature.status().done == 1
    assert not verify(store, deep=True)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_recorded_as_failed(tmp_path: Path, bad: float) -> None:
    store = FeatureStore.open(tmp_path / "store", mode="a")
    store.append_samples(corpus(), utterances(2))
    writer = store.writer("toy", spec())
    good, broken = arrays(spec(), 4, 0), arrays(spec(), 4, 1)
    broken["values"][2, 1, 0] = bad
    assert writer.commit(writer.segments()[0], [good, broken], [None, None], {})
    feature = store.feature("toy", "toynet")
    assert feature.failures() == {"u1": "values is not finite at frame 2 of 4"}
    np.testing.assert_array_equal(feature["u0"], good["values"])


def _with(name: str, value: Any) -> dict[str, Any]:
    return arrays(spec(), 4, 0) | {name: value}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (_with("values", np.zeros((4, 3, 2), np.float32)), r"sample 'u1': values is float32 .* float16"),
        (_with("values", np.zeros((4, 3, 3), np.float16)), r"values is float16 \(4, 3, 3\) where"),
        (_with("boxes", np.zeros((5, 4), np.int32)), r"boxes is int32 \(5, 4\) where int32 \(4, 4\)"),
        (_with("values", np.float16(0)), r"values is float16 \(\)"),
        (_with("more", np.zeros(4)), "has arrays boxes, more, seen, values where"),
        ({"values": np.zeros((4, 3, 2), np.float16)}, "has arrays values where the feature has values, boxes, seen"),
    ],
)
def test_arrays_of_another_kind_are_refused_and_nothing_is_written(tmp_path: Path, wrong: Any, message: str) -> None:
    store = FeatureStore.open(tmp_path / "store", mode="a")
    store.append_samples(corpus(), utterances(2))
    writer = store.writer("toy", spec())
    with pytest.raises(StoreError, match=message):
        writer.commit(writer.segments()[0], [arrays(spec(), 4, 0), wrong], [None, None], {})
    assert writer.todo() == writer.segments()
    assert not (tmp_path / "store" / writer.folder / "data").exists()


def test_wrong_numbers_of_rows_and_provenance_without_json_are_refused(tmp_path: Path) -> None:
    store = FeatureStore.open(tmp_path / "store", mode="a")
    store.append_samples(corpus(), utterances(2))
    writer = store.writer("toy", spec())
    (segment,) = writer.segments()
    good = rows(writer, segment)
    with pytest.raises(StoreError, match="1 rows and 2 inputs for 2 utterances"):
        writer.commit(segment, good[:1], [None, None], {})
    with pytest.raises(StoreError, match="2 rows and 1 inputs for 2 utterances"):
        writer.commit(segment, good, [None], {})
    with pytest.raises(StoreError, match="provenance has no JSON form"):
        writer.commit(segment, good, [None, None], {"device": object()})
    assert not verify(store)


def test_a_failing_write_leaves_no_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cache_schema import writer as module

    store = FeatureStore.open(tmp_path / "store", mode="a")
    store.append_samples(corpus(), utterances(2))
    writer = store.writer("toy", spec())

    def full(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "sha256_hex", full)
    with pytest.raises(KeyboardInterrupt):
        write(writer)
    assert not verify(store, deep=True)
    assert writer.todo() == writer.segments()


def test_what_reads_back_differently_is_not_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cache_schema import writer as module

    real = module.write_array
    monkeypatch.setattr(
        module,
        "write_array",
        lambda storage, place, array, values: real(
            storage, place, array, -values if array.name == "values" else values
        ),
    )
    store = FeatureStore.open(tmp_path / "store", mode="a")
    store.append_samples(corpus(), utterances(2))
    writer = store.writer("toy", spec())
    with pytest.raises(DamagedError, match="reads back other numbers"):
        write(writer)
    assert writer.todo() == writer.segments()


def test_a_file_too_many_in_an_attempt_is_not_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cache_schema import writer as module

    real = module.write_array

    def strange(storage: Any, place: str, array: Any, values: Any) -> None:
        real(storage, place, array, values)
        storage.put_if_absent(f"{place}/c/1/0/0", b"strange")

    monkeypatch.setattr(module, "write_array", strange)
    store = FeatureStore.open(tmp_path / "store", mode="a")
    store.append_samples(corpus(), utterances(2))
    writer = store.writer("toy", spec())
    with pytest.raises(DamagedError, match=r"holds other files than were written: .*values/c/1/0/0"):
        write(writer)
    assert writer.todo() == writer.segments() and verify(store) == [], "and is taken away"


def test_the_input_digests_and_reasons_are_in_the_commit(tmp_path: Path) -> None:
    store = FeatureStore.open(tmp_path / "store", mode="a")
    store.append_samples(corpus(), utterances(3))
    writer = store.writer("toy", spec())
    (segment,) = writer.segments()
    reason = "broken\n  in two \udcff lines"
    writer.commit(segment, [Failed(reason), Failed(""), arrays(spec(), 1, 0)], [MEDIA, None, MEDIA], PROVENANCE)
    (commit,) = store.feature("toy", "toynet").commits.values()
    assert commit.inputs == (MEDIA, None, MEDIA)
    assert commit.provenance == PROVENANCE
    assert commit.failed == {"0": "broken in two \\udcff lines", "1": "no reason was given"}


def test_a_second_commit_of_a_segment_is_not_made(tmp_path: Path) -> None:
    store = build(tmp_path / "store", count=4)
    writer = store.writer("toy", spec(), PLAN)
    (segment,) = writer.segments()
    assert not writer.commit(segment, rows(writer, segment, salt=1), [None] * 4, {})
    assert_intact(store)
    assert not verify(store, deep=True)


def test_the_digest_identifies_the_data(tmp_path: Path) -> None:
    first = build(tmp_path / "a", count=9).feature("toy", "toynet").digest()
    store = FeatureStore.open(tmp_path / "a", mode="a")
    assert store.feature("toy", "toynet").digest() == first
    store.append_samples(corpus(), utterances(10))
    assert store.feature("toy", "toynet").digest() != first
    before = store.feature("toy", "toynet").digest()
    write(store.writer("toy", spec()))
    assert store.feature("toy", "toynet").digest() != before


def test_features_are_found_by_name_and_fingerprint(tmp_path: Path) -> None:
    store = build(tmp_path / "store", count=4)
    other = spec(random_weights=True)
    write(store.writer("toy", other))
    digits = sorted([spec().fingerprint(), other.fingerprint()])
    with pytest.raises(
        MissingFeature, match=rf"2 features called 'toynet'.*toynet@{digits[0][:16]}, toynet@{digits[1][:16]}"
    ):
        store.feature("toy", "toynet")
    for wanted in (spec(), other):
        for prefix in (wanted.fingerprint()[:6], wanted.fingerprint()):
            assert store.feature("toy", "toynet", prefix).spec == wanted
    assert [f.summary()["random_weights"] for f in store.features("toy")] == [d == other.fingerprint() for d in digits]
    with pytest.raises(MissingFeature, match="no 'toynet' with fingerprint 0000"):
        store.feature("toy", "toynet", "0000")
    with pytest.raises(MissingFeature, match="no 'toynet' with fingerprint"):
        store.feature("toy", "toynet", spec().fingerprint()[:-1] + "x")
    with pytest.raises(MissingFeature, match=r"There is no feature called 'toyned'. Did you mean 'toynet'\?"):
        store.feature("toy", "toyned")
    with pytest.raises(StoreError, match=r"There is no dataset called 'tox'\. Did you mean 'toy'"):
        store.feature("tox", "toynet")
    with pytest.raises(StoreError, match=r"There is no array called 'box'\. Did you mean 'boxes'"):
        store.feature("toy", "toynet", spec().fingerprint()).load([], ["box"])


def test_opening(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no feature store"):
        FeatureStore.open(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(StoreError, match=r"holds 'thesis\.tex' and no feature store"):
        FeatureStore.open(tmp_path / "full", mode="a")
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["thesis.tex"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError):
        FeatureStore.open(tmp_path / "file", mode="a")
    (tmp_path / "new" / ".snapshot").mkdir(parents=True)
    FeatureStore.open(tmp_path / "new", mode="a")
    reader = FeatureStore.open(tmp_path / "new")
    assert reader.datasets() == []
    with pytest.raises(StoreError, match="opened for reading only"):
        reader.append_samples(corpus(), utterances(1))


def test_a_newer_format_is_refused_by_name(tmp_path: Path) -> None:
    import json

    from cache_schema.canonical import seal

    store = build(tmp_path / "store", count=4)
    commit = next((tmp_path / "store").rglob("commits/*.json"))
    marker = tmp_path / "store" / "mer-store.json"
    for file in (commit, marker):
        file.write_bytes(seal(json.loads(file.read_bytes()) | {"format": 3}))
    with pytest.raises(
        StoreError, match=r"has format 3, and this version of mer reads formats up to 2\. Upgrade mer\."
    ):
        store.feature("toy", "toynet")
    with pytest.raises(StoreError, match="Upgrade mer"):
        verify(store)
    with pytest.raises(StoreError, match="Upgrade mer"):
        FeatureStore.open(tmp_path / "store")


@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8", "int32", "bool"])
def test_every_dtype_has_its_fill_value_and_codecs(tmp_path: Path, dtype: Any) -> None:
    import json

    of = spec(arrays=(ArraySpec(name="values", dtype=dtype, tail=(5,)),))
    store = build(tmp_path / "store", count=3, of=of)
    assert_intact(store)
    document = json.loads(next((tmp_path / "store").rglob("values/zarr.json")).read_bytes())
    assert document["fill_value"] == {"float16": "NaN", "float32": "NaN", "bool": False}.get(dtype, 0)
    (sharding,) = document["codecs"]
    assert [c["name"] for c in sharding["configuration"]["codecs"]] == ["bytes", "crc32c"]
    assert [c["name"] for c in sharding["configuration"]["index_codecs"]] == ["bytes", "crc32c"]


def test_an_all_zero_segment_is_stored(tmp_path: Path) -> None:
    store = FeatureStore.open(tmp_path / "store", mode="a")
    store.append_samples(corpus(), utterances(1))
    writer = store.writer("toy", spec(arrays=(ArraySpec(name="values", dtype="float16", tail=(3,)),)))
    writer.commit(writer.segments()[0], [{"values": np.zeros((4, 3), np.float16)}], [None], {})
    np.testing.assert_array_equal(store["toy"]["toynet"]["u0"], np.zeros((4, 3), np.float16))


def test_the_stored_plan_is_used(tmp_path: Path) -> None:
    store = FeatureStore.open(tmp_path / "store", mode="a")
    store.append_samples(corpus(), utterances(10))
    first = store.writer("toy", spec(), SegmentPlan(max_rows=2))
    second = store.writer("toy", spec(), SegmentPlan(max_rows=8))
    assert second.segments() == first.segments()
    assert [len(s) for s in first.segments()] == [2] * 5
