"""Damage is found and never read: flipped bits, cut, emptied, deleted and exchanged files."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from store_builders import PLAN, assert_intact, build, corpus, spec, utterances, write

from cache_schema import arrays as zarr_arrays
from cache_schema.canonical import canonical_bytes, seal
from cache_schema.errors import DamagedError, StoreError
from cache_schema.repair import drop, gc, remove_feature, repair
from cache_schema.store import FeatureStore
from cache_schema.verify import Finding, verify

FLIPS_PER_KIND = 50
KINDS = {
    "marker": "mer-store.json",
    "part": "samples/toy/*.parquet",
    "group": "features/toy/*/zarr.json",
    "commit": "features/toy/*/commits/*.json",
    "array": "features/toy/*/data/*/*/zarr.json",
    "shard": "features/toy/*/data/*/*/c/**/0",
}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two parts and shards of several chunks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zarr_arrays, "CHUNK_BYTES", 40)
        folder = tmp_path_factory.mktemp("pristine") / "store"
        store = build(folder, count=6)
        store.append_samples(corpus(), utterances(9))
        write(store.writer("toy", spec()))
    return folder


@pytest.fixture
def copy(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "store"))


def read_everything(folder: Path) -> None:
    assert_intact(FeatureStore.open(folder))


def damage_found(folder: Path, deep: bool = True) -> list[Finding]:
    return [f for f in verify(FeatureStore.open(folder), deep=deep) if f.damage]


def files_of(folder: Path, kind: str) -> list[Path]:
    return sorted(p for p in folder.glob(KINDS[kind]) if p.is_file())


def test_the_pristine_store_has_files_of_every_kind(pristine: Path) -> None:
    known = {p for kind in KINDS for p in files_of(pristine, kind)}
    assert known == {p for p in pristine.rglob("*") if p.is_file()}
    assert damage_found(pristine) == []
    read_everything(pristine)


@pytest.mark.parametrize("kind", KINDS)
def test_no_flipped_bit_is_read_or_passes_verify(copy: Path, kind: str) -> None:
    draw = random.Random(kind)
    files = files_of(copy, kind)
    for number in range(FLIPS_PER_KIND):
        file = files[number % len(files)]
        whole = file.read_bytes()
        bit = draw.randrange(len(whole) * 8)
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        where = f"bit {bit} of {file.relative_to(copy)}"
        if kind == "marker":
            with pytest.raises(StoreError):
                FeatureStore.open(copy)
        else:
            with pytest.raises(StoreError):
                read_everything(copy)
                pytest.fail(f"{where} was read silently")
            findings = damage_found(copy, deep=kind == "shard" or number % 2 == 0)
            key = file.relative_to(copy).as_posix()
            assert key in [f.file for f in findings], f"{where} was not found"
            assert all(f.dataset == "toy" for f in findings)
        file.write_bytes(whole)
    read_everything(copy)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "marker"])
@pytest.mark.parametrize("how", ["cut", "grown", "emptied", "deleted"])
def test_files_that_were_cut_grown_emptied_or_deleted(copy: Path, kind: str, how: str) -> None:
    file = files_of(copy, kind)[0]
    whole = file.read_bytes()
    match how:
        case "deleted":
            file.unlink()
        case _:
            file.write_bytes({"cut": whole[:-1], "grown": whole + b"\0", "emptied": b""}[how])
    if kind == "commit" and how == "deleted":
        # Without its commit a segment was never extracted: nothing is damaged, and its data is left over.
        findings = verify(FeatureStore.open(copy), deep=True)
        assert [f.damage for f in findings] == [False]
        assert FeatureStore.open(copy).feature("toy", "toynet").status().missing > 0
        return
    with pytest.raises(StoreError) as refused:
        read_everything(copy)
    assert "\n" not in str(refused.value)
    if kind == "shard":
        assert re.search(r"segment .* (is missing|has \d+ bytes instead of \d+)\.", str(refused.value))
    quick = damage_found(copy, deep=False)
    assert quick, "sizes and documents are enough to find it"
    if not (kind == "part" and how == "deleted"):
        assert file.relative_to(copy).as_posix() in [f.file for f in quick]


def test_data_of_the_right_size_is_found_by_deep_alone(copy: Path) -> None:
    file = files_of(copy, "shard")[0]
    file.write_bytes(bytes(file.stat().st_size))
    assert damage_found(copy, deep=False) == []
    (finding,) = damage_found(copy)
    assert finding.kind == "data" and finding.file == file.relative_to(copy).as_posix()
    assert finding.feature is not None and finding.feature.startswith("toynet@")
    assert finding.segment is not None and finding.segment in finding.file
    assert str(finding) == (
        f"damage: toy/{finding.feature}, segment {finding.segment}: {finding.file}: "
        "does not match the sha256 in its commit"
    )
    assert finding.as_json()["damage"] is True


def swap_commits(folder: Path) -> None:
    first, second = files_of(folder, "commit")[:2]
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def copy_commit_of_another_feature(folder: Path) -> None:
    store = FeatureStore.open(folder, mode="a")
    write(store.writer("toy", spec(version=2), PLAN))
    theirs = folder / store.feature("toy", "toynet", spec(version=2).fingerprint()).folder
    ours = folder / store.feature("toy", "toynet", spec().fingerprint()).folder
    name = files_of(folder, "commit")[0].name
    shutil.copy(theirs / "commits" / name, ours / "commits" / name)


def rename_part(folder: Path) -> None:
    part = files_of(folder, "part")[0]
    part.rename(part.with_name("part-00000-0123456789abcdef.parquet"))


@pytest.mark.parametrize("exchange", [swap_commits, copy_commit_of_another_feature, rename_part])
def test_files_that_took_another_s_place_are_refused(copy: Path, exchange: Callable[[Path], None]) -> None:
    exchange(copy)
    store = FeatureStore.open(copy)
    with pytest.raises(DamagedError):
        store.feature("toy", "toynet", spec().fingerprint())
    assert damage_found(copy, deep=False)


def more_frames(commit: dict[str, Any]) -> None:
    commit["lengths"][0] += 1


def frames_of_a_failed_row(commit: dict[str, Any]) -> None:
    commit["lengths"][3], commit["lengths"][2] = commit["lengths"][2], 0


def one_file_less(commit: dict[str, Any]) -> None:
    del commit["files"]["boxes/zarr.json"]


def one_file_more(commit: dict[str, Any]) -> None:
    commit["files"]["more/zarr.json"] = commit["files"]["boxes/zarr.json"]


def one_length_less(commit: dict[str, Any]) -> None:
    commit["lengths"].pop()


def a_row_that_is_not_there(commit: dict[str, Any]) -> None:
    commit["absent"]["4"] = "beyond the segment"


def failed_and_absent(commit: dict[str, Any]) -> None:
    commit["absent"]["3"] = "failed too"


def unknown_member(commit: dict[str, Any]) -> None:
    commit["gain"] = 1


@pytest.mark.parametrize(
    "forge",
    [
        more_frames,
        frames_of_a_failed_row,
        one_file_less,
        one_file_more,
        one_length_less,
        a_row_that_is_not_there,
        failed_and_absent,
        unknown_member,
    ],
)
def test_a_commit_that_contradicts_itself_is_refused(copy: Path, forge: Callable[[dict[str, Any]], None]) -> None:
    """A writer with a fault seals its mistakes: the digest is right."""
    file = files_of(copy, "commit")[0]
    commit = json.loads(file.read_bytes())
    assert "3" in commit["failed"]
    forge(commit)
    file.write_bytes(seal(commit))
    with pytest.raises(DamagedError) as refused:
        read_everything(copy)
    assert forge is not more_frames or "where its commit says" in str(refused.value)


def test_a_group_with_another_fingerprint_is_refused(copy: Path) -> None:
    (file,) = files_of(copy, "group")
    group = json.loads(file.read_bytes())
    document = group["attributes"]["mer"]
    document["fingerprint"] = document["fingerprint"][:-4] + "0000"
    group["attributes"]["mer"] = json.loads(seal(document))
    file.write_bytes(canonical_bytes(group))
    with pytest.raises(DamagedError, match="is that of feature toynet-"):
        FeatureStore.open(copy).feature("toy", "toynet")


def test_pages_of_a_part_carry_checksums(copy: Path) -> None:
    import pyarrow.parquet as pq

    file = files_of(copy, "part")[0]
    column = pq.ParquetFile(file).metadata.row_group(0).column(0)
    data = bytearray(file.read_bytes())
    data[(column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size - 1] ^= 1
    digest = hashlib.sha256(data).hexdigest()[:16]
    file.with_name(f"part-00000-{digest}.parquet").write_bytes(data)
    file.unlink()
    with pytest.raises(DamagedError, match="CRC checksum"):
        FeatureStore.open(copy).samples("toy")


def test_a_shard_that_vanishes_while_it_is_read_is_not_read_as_fill_values(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cache_schema import feature as reader

    real = reader.read_frames

    def vanish(array: object, start: int, stop: int, out: object, where: str) -> None:
        (copy / where).unlink()
        real(array, start, stop, out, where)  # type: ignore[arg-type]

    monkeypatch.setattr(reader, "read_frames", vanish)
    with pytest.raises(DamagedError, match="is missing"):
        FeatureStore.open(copy).feature("toy", "toynet").load(["u0"])


def test_verify_does_not_rely_on_what_the_store_read_before(copy: Path) -> None:
    store = FeatureStore.open(copy)
    assert_intact(store)
    for kind in ("part", "group", "commit", "shard"):
        file = files_of(copy, kind)[0]
        whole = file.read_bytes()
        file.write_bytes(whole[:-1])
        assert [f for f in verify(store) if f.damage], kind
        file.write_bytes(whole)


def test_a_dataset_does_not_read_under_another_name(copy: Path) -> None:
    (copy / "samples" / "toy").rename(copy / "samples" / "renamed")
    with pytest.raises(DamagedError, match="is a part of the dataset 'toy'"):
        FeatureStore.open(copy).samples("renamed")


def test_verify_can_be_narrowed(copy: Path) -> None:
    store = FeatureStore.open(copy, mode="a")
    store.append_samples(corpus(name="other"), utterances(2))
    files_of(copy, "shard")[0].write_bytes(b"")
    assert len(verify(store, dataset="toy")) == 1
    assert verify(store, dataset="other") == []
    assert len(verify(store, "toy", "toynet")) == 1
    assert len(verify(store, "toy", f"toynet@{spec().fingerprint()[:8]}")) == 1
    assert verify(store, "toy", "toynet@0000") == []
    assert verify(store, "toy", "toy") == []
    with pytest.raises(StoreError, match="no dataset called 'tox'"):
        verify(store, dataset="tox")


@pytest.mark.parametrize("kind", ["group", "commit", "array", "shard", "part"])
@pytest.mark.parametrize("how", ["damaged", "deleted"])
def test_repair_drops_what_is_damaged_and_only_that_is_extracted_again(copy: Path, kind: str, how: str) -> None:
    before = {f.relative_to(copy).as_posix(): f.read_bytes() for f in copy.rglob("*") if f.is_file()}
    file = files_of(copy, kind)[-1]
    if how == "deleted":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1])
    store = FeatureStore.open(copy, mode="a")
    dropped = repair(store, deep=True)
    assert all(f.damage for f in dropped)
    assert damage_found(copy) == [] or kind == "group"
    store.append_samples(corpus(), utterances(9))
    writer = store.writer("toy", spec(), PLAN)
    todo = writer.todo()
    assert len(todo) == {"group": 0, "commit": 1, "array": 1, "shard": 1, "part": 1}[kind]
    write(writer, todo)
    assert damage_found(copy) == []
    assert_intact(FeatureStore.open(copy))
    kept = [key for key in before if (copy / key).is_file() and (copy / key).read_bytes() == before[key]]
    assert len(kept) >= len(before) - 7, "the other segments were not touched"


def test_errors_of_damage_say_what_to_do_and_findings_say_the_file_once(copy: Path) -> None:
    for kind in ("part", "group", "commit"):
        file = files_of(copy, kind)[0]
        whole = file.read_bytes()
        file.write_bytes(whole.replace(b'"sha256":"', b'"sha256":"0', 1) if kind != "part" else whole[:-9])
        with pytest.raises(DamagedError, match=r"altered or damaged .* `mer store repair --deep` drops"):
            read_everything(copy)
        (finding,) = (f for f in damage_found(copy) if f.kind == kind)
        assert str(finding).count(file.name) == 1 and "repair" not in str(finding)
        assert finding.what.startswith("does not match")
        file.write_bytes(whole)


def test_a_damaged_marker_is_mended_by_that_of_another_store(copy: Path, tmp_path: Path) -> None:
    marker = copy / "mer-store.json"
    marker.write_bytes(marker.read_bytes().replace(b"1", b"2", 1))
    with pytest.raises(DamagedError, match=r"nothing of what the store holds: put that of another folder, or bucket,"):
        FeatureStore.open(copy, mode="a")
    FeatureStore.open(tmp_path / "new", mode="a")
    shutil.copy(tmp_path / "new" / "mer-store.json", marker)
    assert damage_found(copy) == []
    assert_intact(FeatureStore.open(copy))


def test_a_dataset_whose_only_part_was_dropped_is_written_again(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    store = build(folder, count=4)
    (part,) = folder.glob("samples/toy/*.parquet")
    part.write_bytes(part.read_bytes()[:-1])
    repair(store)
    opened = FeatureStore.open(folder, mode="a")
    assert opened.datasets() == ["toy"] and not opened.has_samples("toy")
    with pytest.raises(StoreError, match="'toy' has features, and its samples are gone: extract or import it again"):
        opened.features("toy")
    opened.append_samples(corpus(), utterances(4))
    write(opened.writer("toy", spec(), PLAN))
    assert opened.has_samples("toy") and damage_found(folder) == []
    assert_intact(FeatureStore.open(folder))


@pytest.mark.parametrize("where", ["rows", "document"])
def test_repair_never_brings_deleted_samples_back_silently(copy: Path, where: str) -> None:
    store = FeatureStore.open(copy, mode="a")
    store.delete_samples("toy", ["u1", "u2"])
    store.restore_samples("toy", ["u2"])
    (file,) = copy.glob("samples/toy/part-00002-*")
    data = bytearray(file.read_bytes())
    data[{"rows": 5, "document": data.index(b'"deleted"') + 3}[where]] ^= 1
    file.write_bytes(data)
    (finding,) = repair(store)
    assert finding.kind == "part"
    if where == "rows":
        assert "are back" not in finding.what
        assert "u1" not in store.samples("toy"), "its sealed document tells what it deleted"
        assert store.samples("toy").ids[-1] == "u2", "and in which place"
    else:
        assert finding.what.endswith("If it deleted samples, they are back: delete them again.")
        assert "u1" in store.samples("toy")
    assert damage_found(copy) == []


def test_the_commit_goes_before_its_data(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cache_schema.storage.local import LocalStorage

    order = []
    real_delete, real_folder = LocalStorage.delete, LocalStorage.delete_folder
    monkeypatch.setattr(LocalStorage, "delete", lambda self, key: (order.append(key), real_delete(self, key))[1])
    monkeypatch.setattr(LocalStorage, "delete_folder", lambda self, key: (order.append(key), real_folder(self, key))[1])
    store = FeatureStore.open(copy, mode="a")
    files_of(copy, "shard")[0].write_bytes(b"")
    (finding,) = repair(store)
    assert ["/commits/" in key for key in order] == [True, False]
    assert finding.segment is not None and all(finding.segment in key for key in order)
    order.clear()
    remove_feature(store, "toy", "toynet")
    assert ["/commits/" in key for key in order] == [True] * (len(order) - 1) + [False]
    assert verify(store) == [] and store.features("toy") == []


def leave_behind(folder: Path) -> list[str]:
    """What killed writers leave: temporary files, an attempt, a feature's folder without a document."""
    feature = files_of(folder, "group")[0].parent
    attempt = next((feature / "data").iterdir())
    orphan = attempt.with_name(attempt.name.rpartition(".")[0] + ".0123456789ab")
    shutil.copytree(attempt, orphan)
    temporary = [
        feature / "commits" / ".x.json.1234.partial",
        feature / ".zarr.json.1234.partial",
        folder / "samples" / "toy" / ".part-00002.parquet.1234.partial",
    ]
    for path in temporary:
        path.write_bytes(b"half")
    unborn = feature.with_name("other-0123456789abcdef.zarr")
    unborn.mkdir()
    return sorted(p.relative_to(folder).as_posix() for p in [orphan, unborn, *temporary])


def test_leftovers_are_no_damage_and_are_never_read(copy: Path) -> None:
    left = leave_behind(copy)
    findings = verify(FeatureStore.open(copy), deep=True)
    assert sorted(f.file for f in findings) == left
    assert not any(f.damage for f in findings)
    read_everything(copy)
    assert len(FeatureStore.open(copy).features("toy")) == 1


def test_gc_removes_leftovers_when_they_are_old(copy: Path) -> None:
    left = leave_behind(copy)
    store = FeatureStore.open(copy, mode="a")
    with pytest.raises(StoreError, match="may belong to a writer at work"):
        drop(store, verify(store)[0])
    assert gc(store) == []
    assert sorted(f.file for f in gc(store, older_than_hours=0)) == left
    assert verify(store, deep=True) == []
    assert_intact(store)


def test_gc_takes_a_strange_file_beside_committed_data_and_leaves_the_data(copy: Path) -> None:
    strange = files_of(copy, "shard")[0].with_name(".nfs0000000000000001")
    strange.write_bytes(b"")
    empty = next(copy.glob("features/toy/*/data")) / "00000-0123456789abcdef-0000000.0123456789ab"
    empty.mkdir()
    store = FeatureStore.open(copy, mode="a")
    left = sorted(p.relative_to(copy).as_posix() for p in (strange, empty))
    assert sorted(f.file for f in gc(store, older_than_hours=0)) == left
    assert not strange.exists() and not empty.exists()
    assert verify(store, deep=True) == []
    assert_intact(store)


def test_gc_asks_for_the_newest_file_of_an_attempt(copy: Path) -> None:
    import os
    import time

    left = [copy / key for key in leave_behind(copy)]
    old = time.time() - 49 * 3600
    for top in left:
        for path in [*top.rglob("*"), top]:
            os.utime(path, (old, old))
    fresh = next(p for p in copy.glob("features/toy/*/data/*.0123456789ab/**/0") if p.is_file())
    os.utime(fresh)
    store = FeatureStore.open(copy, mode="a")
    assert len(gc(store)) == len(left) - 1
    assert fresh.exists()


def test_a_reader_may_not_repair(copy: Path) -> None:
    store = FeatureStore.open(copy)
    for action in (repair, gc):
        with pytest.raises(StoreError, match="opened for reading only"):
            action(store)
    with pytest.raises(StoreError, match="opened for reading only"):
        remove_feature(store, "toy", "toynet")


@pytest.mark.parametrize("which", [0, 1, 2, 3])
def test_a_lost_part_is_noticed_by_what_was_written_after_it(copy: Path, which: int) -> None:
    """Also one that no commit is about, as one that deletes samples: they would be back without a word."""
    store = FeatureStore.open(copy, mode="a")
    store.delete_samples("toy", ["u1"])
    store.append_again("toy", ["u2"])
    parts = files_of(copy, "part")
    assert len(parts) == 5
    parts[which].unlink()
    for read in (FeatureStore.open(copy).samples, FeatureStore.open(copy).features):
        with pytest.raises(DamagedError, match=f"{parts[which].name} is missing, after which part-0000{which + 1}-"):
            read("toy")
    assert parts[which].relative_to(copy).as_posix() in [f.file for f in damage_found(copy, deep=False)]
    told = [f.what for f in repair(store) if f.kind == "part"]
    assert len(told) == 1 and told[0].endswith("If it deleted samples, they are back: delete them again.")
    assert damage_found(copy) == []
    store.append_samples(corpus(), utterances(9))
    write(store.writer("toy", spec(), PLAN))
    assert_intact(FeatureStore.open(copy))
    assert ("u1" in store.samples("toy")) == (which == 2)


def test_a_deletion_whose_second_part_is_missing_holds_and_gc_finishes_it(copy: Path) -> None:
    store = FeatureStore.open(copy, mode="a")
    store.delete_samples("toy", ["u1"])
    deletion, after = files_of(copy, "part")[-2:]
    after.unlink()
    assert "u1" not in FeatureStore.open(copy).samples("toy")
    (finding,) = verify(FeatureStore.open(copy))
    assert str(finding).startswith("unfinished: toy: ") and not finding.damage
    assert finding.file == deletion.relative_to(copy).as_posix()
    assert repair(store) == [] and gc(store) == [] and deletion.exists(), "its writer may be at work"
    assert gc(store, older_than_hours=0) == [finding]
    assert files_of(copy, "part")[-1].read_bytes() == (copy / "samples" / "toy" / after.name).read_bytes()
    assert deletion.exists() and verify(store, deep=True) == []
    after.unlink()
    store.append_again("toy", ["u2"])
    assert verify(store) == [], "any later part tells of it too"
