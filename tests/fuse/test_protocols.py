"""Folds keep groups whole, validation is cut by group, classes are mapped, and search has no test split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_corpus import CLASSES, TARGETS, commit, rows_of, spec, utterances

from cache_schema.errors import DataError, SettingsError
from cache_schema.samples import Corpus, Target, Utterance
from cache_schema.store import FeatureStore
from fuse.archs.hff import PREFERS
from fuse.common_labels import common_target
from fuse.corpora import Request, load_folds, load_selection
from fuse.data import Selection, Splits
from fuse.protocols import Protocol, cuts, group_of

Build = Callable[..., Path]


def named(count: int = 120) -> list[Utterance]:
    """The toy utterances with IEMOCAP-like ids and seven speakers."""
    return [
        u.model_copy(update={"id": f"Ses0{i // 5 % 5 + 1}F_{u.id}", "speaker": f"s{i % 7}"})
        for i, u in enumerate(utterances(count))
    ]


def groups(samples: list[Utterance], rows: list[int], group: str) -> set[str]:
    return {group_of(samples[row], group, {}) for row in rows}


@pytest.mark.parametrize(
    ("folds", "group", "count"), [("kfold:speaker:3", "speaker", 3), ("loso:session", "session", 5)]
)
def test_every_utterance_is_tested_once_and_no_group_is_on_two_sides(folds: str, group: str, count: int) -> None:
    samples = named()
    found = cuts("toy", samples, Protocol(folds=folds))
    assert len(found) == count
    assert sorted(row for cut in found for row in cut.test) == list(range(len(samples)))
    for cut in found:
        sides = [groups(samples, rows, group) for rows in (cut.train, cut.val, cut.test)]
        assert all(sides) and not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]
        assert sorted(cut.train + cut.val + cut.test) == list(range(len(samples)))
    assert found == cuts("toy", samples, Protocol(folds=folds)), "the same folds every time"
    if folds.startswith("loso"):
        assert [cut.name for cut in found] == [f"Ses0{i}" for i in range(1, 6)]


def test_validation_is_cut_from_train_by_dialogue_where_there_is_none() -> None:
    samples = [u.model_copy(update={"split": "train"}) if u.split == "val" else u for u in named()]
    (cut,) = cuts("toy", samples, Protocol())
    assert [samples[row].split for row in cut.test] == ["test"] * 20
    assert not groups(samples, cut.train, "dialogue") & groups(samples, cut.val, "dialogue")
    assert {samples[row].split for row in cut.train + cut.val} == {"train"}
    dialogues = len(groups(samples, cut.val, "dialogue"))
    assert dialogues == round(0.15 * 20)
    (other,) = cuts("toy", samples, Protocol(val="speaker:0.3"))
    assert not groups(samples, other.train, "speaker") & groups(samples, other.val, "speaker")
    assert len(groups(samples, other.val, "speaker")) == 2


def test_a_group_is_a_field_or_what_a_pattern_finds() -> None:
    sample = named()[7]
    assert group_of(sample, "speaker", {}) == "s0" == group_of(sample, "subject", {})
    assert group_of(sample, "session", {}) == "Ses02"
    assert group_of(sample, "sex", {"sex": r"id:^Ses\d\d([FM])"}) == "F"
    assert group_of(sample, "session", {"session": "dialogue"}) == "d1"
    with pytest.raises(SettingsError, match=r"no group called 'actor'.*--group 'actor="):
        group_of(sample, "actor", {})
    with pytest.raises(DataError, match="it finds nothing in"):
        group_of(sample.model_copy(update={"id": "x"}), "session", {})
    with pytest.raises(DataError, match="has no speaker"):
        group_of(sample.model_copy(update={"speaker": None}), "speaker", {})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"folds": "kfold:speaker"}, "it is not official, kfold:GROUP:K"),
        ({"folds": "kfold:speaker:1"}, "K of 2 or more"),
        ({"folds": "loso"}, "loso:GROUP"),
        ({"val": "dialogue"}, "GROUP:SHARE"),
        ({"val": "dialogue:1.5"}, "GROUP:SHARE"),
        ({"folds": "ofical"}, r"no protocol called 'ofical'\. Did you mean 'official'\? Known: official, kfold, loso"),
        ({"folds": "kfolds:speaker:5"}, "no protocol called 'kfolds'. Did you mean 'kfold'"),
        ({"groups": {"a": "speker:x"}}, "no field to group by called 'speker'. Did you mean 'speaker'"),
        ({"groups": {"a": "id:("}}, "no regular expression"),
    ],
)
def test_wrong_protocols_are_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as error:
        Protocol.parse(settings, "protocol")
    assert "\n" not in str(error.value)


def test_protocols_that_do_not_fit_the_data_are_refused() -> None:
    samples = named()
    with pytest.raises(SettingsError, match="official validation split of 20"):
        cuts("toy", samples, Protocol(val="dialogue:0.1"))
    with pytest.raises(DataError, match="has 7 of speaker, too few for 9"):
        cuts("toy", samples, Protocol(folds="kfold:speaker:9"))
    alone = [u.model_copy(update={"dialogue": None, "speaker": None}) for u in samples if u.split != "val"]
    with pytest.raises(DataError, match="neither dialogues nor speakers"):
        cuts("toy", alone, Protocol())
    two = [u.model_copy(update={"speaker": f"s{i % 2}"}) for i, u in enumerate(samples)]
    with pytest.raises(DataError, match="training has one speaker"):
        cuts("toy", two, Protocol(folds="loso:speaker"))


@pytest.fixture(scope="module")
def two_stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Datasets `toy` and `other`, whose joy is called happy and which has neutral instead of sadness."""
    path = tmp_path_factory.mktemp("store") / "features"
    store = FeatureStore.open(path, mode="a")
    for name, classes in (("toy", CLASSES), ("other", ("anger", "happy", "neutral"))):
        names = dict(zip(CLASSES, classes, strict=True))
        target = TARGETS[0].model_copy(update={"classes": classes})
        samples = named(60)
        renamed = [u.model_copy(update={"labels": {"emotion": names[u.labels["emotion"]]}}) for u in samples]
        store.append_samples(Corpus(name=name, title=name, licence="none", targets=(target,)), renamed)
        commit(store, name, spec("text"), rows_of("text", samples))
    return path


def test_cross_corpus_maps_classes_and_says_what_has_no_partner(two_stores: Path) -> None:
    protocol = Protocol(test_on="other", labels={"other/happy": "joy"})
    (fold,), source = load_folds(Request(two_stores, "toy", PREFERS, protocol=protocol))
    assert source.target.classes == ("anger", "joy")
    assert all(i.startswith("toy/") for i in fold.splits.train.ids + fold.splits.val.ids)
    assert all(i.startswith("other/") for i in fold.splits.open_test().ids)
    by_id = {u.id: u for u in named(60)}
    for data in (fold.splits.train, fold.splits.open_test()):
        truth = [by_id[i.partition("/")[2]].labels["emotion"] for i in data.ids]
        assert [source.target.classes[k] for k in data.labels.tolist()] == truth
    sad = [u for u in named(60) if u.labels["emotion"] == "sadness"]
    assert source.left_out["without_partner (toy)"] == sum(u.split != "test" for u in sad)
    assert source.left_out["without_partner (other)"] == sum(u.split == "test" for u in sad)


def test_several_datasets_are_joined(two_stores: Path) -> None:
    protocol = Protocol(labels={"happy": "joy"})
    (fold,), source = load_folds(Request(two_stores, "toy,other", PREFERS, protocol=protocol))
    assert source.target.classes == ("anger", "joy", "sadness", "neutral")
    assert len(fold.splits.train) == 80 and len(set(fold.splits.train.ids)) == 80
    store = FeatureStore.open(two_stores)
    batch = fold.splits.train.batch(torch.tensor([0, 79]))
    for row, id_ in enumerate(batch.ids):
        dataset, _, own = id_.partition("/")
        stored = store[dataset]["roberta"][own]
        length = int(batch.lengths["text"][row])
        assert length == len(stored) and (batch.sequences["text"][row, :length].numpy() == stored).all()
    assert len(set(fold.splits.train.dialogues.tolist())) == 16, "dialogues of two datasets are never one"


def test_labels_that_map_nothing_are_refused(two_stores: Path) -> None:
    one = Target(name="emotion", kind="classification", classes=("a", "b"))
    with pytest.raises(SettingsError, match="no class to map called 'hapy'"):
        load_folds(Request(two_stores, "toy", PREFERS, protocol=Protocol(labels={"hapy": "joy"})))
    with pytest.raises(SettingsError, match="map their classes with --map"):
        common_target({"x": one, "y": TARGETS[0]}, {}, True)
    with pytest.raises(DataError, match="here it is neither"):
        common_target({"x": TARGETS[2], "y": TARGETS[2].model_copy(update={"high": 1.0})}, {}, False)


def test_search_reads_no_test_utterance(toy_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cache_schema.feature import Feature

    read: set[str] = set()
    original = Feature.load

    def spy(self: Feature, ids: Any, *rest: Any, **more: Any) -> Any:
        read.update(ids)
        return original(self, ids, *rest, **more)

    monkeypatch.setattr(Feature, "load", spy)
    selection, source = load_selection(Request(toy_store, "toy", PREFERS))
    test = {u.id for u in utterances() if u.split == "test"}
    assert read and not read & test
    assert type(selection) is Selection and not isinstance(selection, Splits) and not hasattr(selection, "open_test")
    assert set(source.folds[0]["splits"]) == {"train", "val"}
    with pytest.raises(SettingsError, match="other folds test"):
        load_selection(Request(toy_store, "toy", PREFERS, protocol=Protocol(folds="kfold:dialogue:3")))
