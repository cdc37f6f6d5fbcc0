"""Sample tables: appended, merged, never changed."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_builders import PLAN, assert_intact, build, corpus, spec, utterances, write

from cache_schema.errors import MissingFeature, StoreError
from cache_schema.parts import METADATA_KEY, part_key, part_names
from cache_schema.samples import Target, Utterance
from cache_schema.store import FeatureStore
from cache_schema.verify import verify

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
UTTERANCE = st.builds(
    Utterance,
    id=st.sampled_from([f"u{i}" for i in range(6)] + ["ü/7 '", "dia0_utt1"]),
    path=st.none() | TEXT,
    start=st.none() | NUMBER,
    duration=st.none() | NUMBER,
    text=st.none() | TEXT,
    turn=st.none() | st.integers(-(2**63), 2**63 - 1),
    split=st.none() | st.sampled_from(["train", "val", "test"]),
    labels=st.dictionaries(TEXT, TEXT, max_size=2),
    scores=st.dictionaries(TEXT, NUMBER, max_size=2),
)
BATCH = st.lists(UTTERANCE, max_size=6, unique_by=lambda u: u.id)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["append", "again", "retitle", "delete", "restore"]), BATCH), max_size=8))
def test_appending_and_merging_act_like_a_dict(steps: list[tuple[str, list[Utterance]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore.open(Path(folder) / "store", mode="a")
        described = corpus()
        store.append_samples(described, [])
        model: dict[str, Utterance] = {}
        gone: dict[str, Utterance] = {}
        parts = 1
        for action, batch in steps:
            if action == "delete":
                ids = [u.id for u in batch if u.id in model]
                assert store.delete_samples("toy", ids) == len(ids)
                parts += 2 * bool(ids)
                gone.update({id_: model.pop(id_) for id_ in ids})
            elif action == "restore":
                ids = [u.id for u in batch if u.id in gone]
                assert store.restore_samples("toy", ids) == len(ids)
                parts += bool(ids)
                model.update({id_: gone.pop(id_) for id_ in ids})
            elif action == "again":
                ids = [u.id for u in batch if u.id in model]
                assert store.append_again("toy", ids) == len(ids)
                parts += bool(ids)
            else:
                changed = action == "retitle"
                described = corpus(title=described.title + "!") if changed else described
                batch = [u for u in batch if u.id not in gone]
                new = [u for u in batch if model.get(u.id) != u]
                assert store.append_samples(described, [*batch, *gone.values()]) == len(new)
                parts += bool(new) or changed
                model.update({u.id: u for u in batch})
            for seen in (store.samples("toy"), FeatureStore.open(Path(folder) / "store").samples("toy")):
                assert seen.ids == list(model)
                assert seen.utterances == list(model.values())
                assert seen.corpus == described
                assert seen.deleted == set(gone)
                assert len(seen.parts) == parts
        for id_, utterance in model.items():
            assert store.samples("toy")[id_] == utterance


def test_equal_rows_give_no_part_and_subsets_only_add(tmp_path: Path) -> None:
    store = FeatureStore.open(tmp_path / "store", mode="a")
    assert store.append_samples(corpus(), utterances(4)) == 4
    assert store.append_samples(corpus(), utterances(4)) == 0
    assert store.append_samples(corpus(), utterances(2)) == 0
    assert store.append_samples(corpus(), utterances(6)) == 2
    assert store.samples("toy").ids == [f"u{i}" for i in range(6)]
    assert len(store.samples("toy").parts) == 2
    assert "u5" in store.samples("toy") and "u6" not in store.samples("toy")


def test_a_changed_corpus_makes_a_part_without_rows(tmp_path: Path) -> None:
    store = build(tmp_path / "store", count=4)
    targets = (*corpus().targets, Target(name="valence", kind="regression", low=-1, high=1))
    assert store.append_samples(corpus(targets=targets), utterances(4)) == 0
    assert store.samples("toy").corpus.targets == targets
    assert len(store.samples("toy").parts) == 2
    assert store.writer("toy", spec()).todo() == []
    assert_intact(store)


def test_a_changed_row_has_no_features_until_it_is_extracted_again(tmp_path: Path) -> None:
    store = build(tmp_path / "store", count=8)
    changed = utterances(8)[2].model_copy(update={"text": "other words"})
    assert store.append_samples(corpus(), [changed]) == 1
    with pytest.raises(MissingFeature, match="'u2' was not extracted yet"):
        store.feature("toy", "toynet").load(["u2"])
    writer = store.writer("toy", spec())
    (segment,) = writer.todo()
    assert writer.utterances(segment) == [changed]
    write(writer)
    assert_intact(store)


def test_rows_appended_again_are_to_do_again(tmp_path: Path) -> None:
    store = build(tmp_path / "store", count=8)
    assert store.append_again("toy", ["u3", "u3"]) == 1
    assert store.append_again("toy", []) == 0
    writer = store.writer("toy", spec())
    (segment,) = writer.todo()
    assert [u.id for u in writer.utterances(segment)] == ["u3"]
    assert store.feature("toy", "toynet").status().missing == 1
    with pytest.raises(MissingFeature, match="u77"):
        store.append_again("toy", ["u77"])


def test_a_deleted_sample_is_gone_and_the_others_keep_their_features(tmp_path: Path) -> None:
    store = build(tmp_path / "store", count=8)
    before = store.feature("toy", "toynet")
    assert store.delete_samples("toy", ["u2", "u6", "u2"]) == 2
    for seen in (store, FeatureStore.open(tmp_path / "store")):
        feature = seen.feature("toy", "toynet")
        assert seen.samples("toy").ids == ["u0", "u1", "u3", "u4", "u5", "u7"]
        assert (feature.status().samples, feature.status().missing) == (6, 0)
        assert feature.digest() != before.digest()
        for ids in (["u2"], ["u1", "u6"]):
            with pytest.raises(MissingFeature, match=rf"the sample '{ids[-1]}' was deleted from the store"):
                feature.load(ids, missing="mask")
    assert_intact(store)
    assert store.writer("toy", spec()).todo() == []
    for id_, reason in {"u2": "was deleted", "u99": "no sample called 'u99'"}.items():
        with pytest.raises(MissingFeature, match=reason):
            store.delete_samples("toy", ["u1", id_])
    assert "u1" in store.samples("toy")


def test_extracting_the_corpus_again_does_not_bring_a_deleted_sample_back(tmp_path: Path) -> None:
    store = build(tmp_path / "store", count=8)
    store.delete_samples("toy", ["u2"])
    assert store.append_samples(corpus(), utterances(9)) == 1
    assert "u2" not in store.samples("toy") and "u8" in store.samples("toy")
    with pytest.raises(MissingFeature, match="'u1' was not deleted"):
        store.restore_samples("toy", ["u2", "u1"])
    assert store.restore_samples("toy", ["u2"]) == 1
    assert store.samples("toy").ids[-1] == "u2" and store.samples("toy").deleted == frozenset()
    write(store.writer("toy", spec()))
    assert_intact(store)
    assert not verify(store, deep=True)


def test_segments_whose_rows_were_all_deleted_are_not_to_do(tmp_path: Path) -> None:
    store = FeatureStore.open(tmp_path / "store", mode="a")
    store.append_samples(corpus(), utterances(8))
    store.delete_samples("toy", [f"u{i}" for i in range(5)])
    writer = store.writer("toy", spec(), PLAN)
    (segment,) = writer.todo()
    assert writer.current(segment) == [False, True, True, True]


def test_only_a_part_that_deletes_has_a_newer_format(tmp_path: Path) -> None:
    """A reader of version 1 refuses what it would get wrong, and reads everything else."""
    import pyarrow.parquet as pq

    store = build(tmp_path / "store", count=4)
    store.delete_samples("toy", ["u2", "u1"])
    documents = [
        json.loads(pq.read_metadata(tmp_path / "store" / part_key("toy", name)).metadata[METADATA_KEY])
        for name in part_names(store.storage, "toy")
    ]
    assert [document["format"] for document in documents] == [1, 2, 1]
    assert documents[1]["deleted"] == ["u1", "u2"] and "deleted" not in documents[0]
    assert {json.loads(p.read_bytes())["format"] for p in (tmp_path / "store").rglob("commits/*.json")} == {1}
    assert b'"format":1' in (tmp_path / "store" / "mer-store.json").read_bytes()


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ({"format": 1, "deleted": ["u1"]}, "a part of format 1 deletes nothing"),
        ({"format": 2, "deleted": "u1"}, "no list of ids or names"),
        ({"format": 2, "deleted": [1]}, "no list of ids or names"),
        ({"format": 3, "deleted": ["u1"]}, r"has format 3, .* up to 2\. Upgrade mer"),
    ],
)
def test_a_part_that_deletes_otherwise_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, member: dict[str, object], message: str
) -> None:
    from cache_schema import parts

    store = build(tmp_path / "store", count=4)
    real = parts.seal
    monkeypatch.setattr(parts, "seal", lambda document: real({**document, **member}))
    store.delete_samples("toy", ["u1"])
    with pytest.raises(StoreError, match=message):
        store.samples("toy")


def test_segments_whose_rows_were_all_replaced_are_not_to_do(tmp_path: Path) -> None:
    store = FeatureStore.open(tmp_path / "store", mode="a")
    store.append_samples(corpus(), utterances(8))
    store.append_again("toy", [f"u{i}" for i in range(4)])
    writer = store.writer("toy", spec(), PLAN)
    assert len(writer.segments()) == 3
    assert [writer.utterances(s)[0].id for s in writer.todo()] == ["u4", "u0"]


def test_two_appenders_that_saw_the_same_store_both_keep_their_rows(tmp_path: Path) -> None:
    first = FeatureStore.open(tmp_path / "store", mode="a")
    first.append_samples(corpus(), utterances(2))
    seen = first.samples("toy")
    second = FeatureStore.open(tmp_path / "store", mode="a")
    first._append(seen, corpus(), utterances(2, first=2))
    second._append(seen, corpus(), utterances(2, first=4))
    names = part_names(first.storage, "toy")
    assert [name[:10] for name in names] == ["part-00000", "part-00001", "part-00001"]
    assert set(FeatureStore.open(tmp_path / "store").samples("toy").ids) == {f"u{i}" for i in range(6)}


def test_what_cannot_be_stored_is_refused(tmp_path: Path) -> None:
    store = FeatureStore.open(tmp_path / "store", mode="a")
    with pytest.raises(StoreError, match="'u0' is given twice"):
        store.append_samples(corpus(), [*utterances(2), *utterances(1)])
    for name in ("", "../up", "a/b", ".hidden", "a b", "x" * 101):
        with pytest.raises(StoreError, match="cannot name a dataset"):
            store.append_samples(corpus(name=name), utterances(1))
    with pytest.raises(StoreError, match="column 'turn' cannot be stored"):
        store.append_samples(corpus(), [Utterance(id="a", turn=2**63)])
    with pytest.raises(StoreError, match="column 'text' cannot be stored"):
        store.append_samples(corpus(), [Utterance.model_construct(**(dict(utterances(1)[0]) | {"text": "\udc80"}))])
    assert store.datasets() == []
    assert list((tmp_path / "store").rglob("*.parquet")) == []


def test_datasets_are_apart(tmp_path: Path) -> None:
    store = build(tmp_path / "store", count=4)
    store.append_samples(corpus(name="other"), utterances(2))
    assert store.datasets() == ["other", "toy"]
    assert store.features("other") == []
    assert len(store.samples("toy")) == 4


def test_many_rows_make_one_small_part(tmp_path: Path) -> None:
    store = FeatureStore.open(tmp_path / "store", mode="a")
    many = [Utterance(id=f"u{i}", duration=3.0, text=f"words {i}", labels={"emotion": "joy"}) for i in range(20_000)]
    assert store.append_samples(corpus(), many) == len(many)
    assert store.append_samples(corpus(), many) == 0
    (part,) = (tmp_path / "store" / "samples" / "toy").iterdir()
    assert part.stat().st_size < 40 * len(many)


def test_there_is_no_part_after_the_last_number(tmp_path: Path) -> None:
    """Its name would have six digits, and no reader would list it."""
    from cache_schema.part_names import LAST_NUMBER
    from cache_schema.parts import write_part

    store = FeatureStore.open(tmp_path / "store", mode="a")
    write_part(store.storage, LAST_NUMBER, corpus(), utterances(2))
    assert store.samples("toy").ids == ["u0", "u1"]
    with pytest.raises(StoreError, match="toy has a part number 99999, and there can be none after it"):
        store.append_samples(corpus(), utterances(3))
