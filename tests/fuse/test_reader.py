"""Resident data: what is read from the store, what is left out, and how batches are gathered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_corpus import CLASSES, TARGETS, load, rows_of, spec, utterances

from cache_schema.errors import DataError, MissingFeature, SettingsError
from cache_schema.rows import Absent
from cache_schema.store import FeatureStore
from fuse.archs.hff import PREFERS
from fuse.data import Dataset, scales

Build = Callable[..., Path]


def test_every_utterance_has_its_own_frames_and_label(toy_store: Path) -> None:
    splits, source = load(toy_store, "toy", PREFERS)
    store = FeatureStore.open(toy_store)
    by_id = {u.id: u for u in utterances()}
    seen = 0
    for split, data in (("train", splits.train), ("val", splits.val), ("test", splits.open_test())):
        assert data.modalities == ("speech", "text", "vision")
        for rows in data.batch_rows(7, "utterance"):
            batch = data.batch(rows)
            for place, id_ in enumerate(batch.ids):
                seen += 1
                assert by_id[id_].split == split
                assert CLASSES[int(batch.target[place])] == by_id[id_].labels["emotion"]
                for column, (modality, name) in enumerate(
                    zip(data.modalities, ("mfcc", "roberta", "resnet"), strict=True)
                ):
                    length = int(batch.lengths[modality][place])
                    assert bool(batch.available[place, column]) == (length > 0)
                    if length:
                        stored = store["toy"][name][id_].astype(np.float32)
                        np.testing.assert_array_equal(batch.sequences[modality][place, :length], stored)
    assert seen == 120
    assert source.features["speech"]["failed"] == 11 and source.features["vision"]["absent"] == 17
    assert not splits.train.available.all()
    assert splits.train.frames["text"].dtype == torch.float16


def test_every_utterance_once_in_batches_of_about_equal_length(toy_store: Path) -> None:
    train = load(toy_store, "toy", PREFERS)[0].train
    first = train.batch_rows(16, "utterance", torch.Generator().manual_seed(0))
    assert sorted(torch.cat(first).tolist()) == list(range(len(train)))
    assert {len(rows) for rows in first} == {16}
    again = train.batch_rows(16, "utterance", torch.Generator().manual_seed(0))
    other = train.batch_rows(16, "utterance", torch.Generator().manual_seed(1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    cost = sum(train.lengths[m] * train.frames[m].shape[1] for m in train.modalities)
    spread = np.mean([float(cost[rows].float().std()) for rows in first])
    assert spread < 0.7 * float(cost.float().std())


def test_dialogues_stay_together_and_in_order(make_store: Build) -> None:
    samples = utterances()
    path = make_store([*samples[60:], *reversed(samples[:60])], modalities=("text",))
    train = load(path, "toy", PREFERS)[0].train
    turn = {u.id: (u.dialogue, u.turn) for u in samples}
    batches = list(train.batches(12, "dialogue", torch.Generator().manual_seed(0)))
    assert sorted(i for b in batches for i in b.ids) == sorted(train.ids)
    assert [len(b.ids) for b in batches[:-1]] == [15] * (len(batches) - 1)
    for batch in batches:
        for place, id_ in enumerate(batch.ids):
            dialogue, number = turn[id_]
            assert int(batch.position[place]) == number
            assert turn[batch.ids[place - number]] == (dialogue, 0)
        assert len(set(batch.dialogue.tolist())) == len({turn[i][0] for i in batch.ids})


def test_scales_are_those_of_the_training_frames_alone(toy_store: Path) -> None:
    splits, _ = load(toy_store, "toy", PREFERS)
    train = splits.train
    for modality, (mean, deviation) in scales(train, True).items():
        frames = np.concatenate(
            [
                train.frames[modality][start : start + length].numpy().astype(np.float64)
                for start, length in zip(train.starts[modality].tolist(), train.lengths[modality].tolist(), strict=True)
            ]
        )
        np.testing.assert_allclose(mean, frames.mean(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(deviation, frames.std(0), rtol=1e-5)
    mean, deviation = scales(train, False)["text"]
    assert not mean.any() and (deviation == 1).all()


def test_a_dimension_that_never_varies_is_not_blown_up() -> None:
    constant = Dataset(
        "toy", ("a", "b"), TARGETS[0], torch.tensor([0, 1]), {"text": torch.full((4, 2), 0.1).half()},
        {"text": torch.tensor([0, 2])}, {"text": torch.tensor([2, 2])}, torch.tensor([0, 1]),
    )  # fmt: skip
    mean, deviation = scales(constant, True)["text"]
    assert (deviation == 1).all() and torch.allclose(mean, torch.tensor(0.1), atol=1e-3)


def test_utterances_without_label_or_split_are_left_out_and_counted(make_store: Build) -> None:
    samples = utterances()
    samples[0] = samples[0].model_copy(update={"labels": {}})
    samples[1] = samples[1].model_copy(update={"split": None})
    splits, source = load(make_store(samples, {"text": rows_of("text", utterances())}, ("text",)), "toy", PREFERS)
    assert source.left_out == {"without_label": 1, "without_split": 1, "empty": []}
    assert samples[0].id not in splits.train.ids and len(splits.train) == source.splits["train"]["utterances"] == 78


def test_a_sample_without_any_modality_is_named_or_dropped(make_store: Build) -> None:
    samples = utterances()
    rows = {m: rows_of(m, samples) for m in ("text", "vision")}
    for modality in rows:
        rows[modality][samples[7].id] = Absent("nothing there")
    path = make_store(samples, rows, ("text", "vision"))
    with pytest.raises(
        DataError, match=r"1 utterances have none of text, vision, the first is 'd1_u2'.*drop_empty=true"
    ):
        load(path, "toy", PREFERS)
    splits, source = load(path, "toy", PREFERS, drop_empty=True)
    assert source.left_out["empty"] == ["d1_u2"] and "d1_u2" not in splits.train.ids


def test_features_that_are_not_there_for_everyone_are_asked_for(make_store: Build) -> None:
    path = make_store(modalities=("text",))
    store = FeatureStore.open(path, mode="a")
    more = [u.model_copy(update={"id": f"more_{u.id}"}) for u in utterances(3)]
    store.append_samples(store.samples("toy").corpus, more)
    with pytest.raises(
        DataError, match=r"roberta is not extracted yet for 3 utterances.*'more_d0_u0'.*mer extract --dataset toy"
    ):
        load(path, "toy", PREFERS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"modalities": ["txt"]}, "no modality of this architecture called 'txt'. Did you mean 'text'"),
        ({"features": {"text": "bert"}}, "bert"),
        ({"features": {"text": "mfcc"}}, "mfcc is a feature of speech, not of text"),
        ({"features": {"text": "roberta"}, "modalities": ["vision"]}, "text, which is not among the modalities"),
        ({"features": {"text": "roberta@ffff"}}, "fingerprint ffff"),
        ({"target": "emotoin"}, "Did you mean 'emotion'"),
    ],
)
def test_wrong_choices_are_explained(toy_store: Path, arguments: dict, message: str) -> None:
    with pytest.raises((SettingsError, MissingFeature), match=message):
        load(toy_store, "toy", PREFERS, **arguments)


def test_modalities_are_those_of_the_store_unless_chosen(make_store: Build, toy_store: Path) -> None:
    path = make_store(modalities=("text",))
    assert load(path, "toy", PREFERS)[0].train.modalities == ("text",)
    with pytest.raises(SettingsError, match="no resnet or vit feature for vision; it has none"):
        load(path, "toy", PREFERS, modalities=["vision"])
    assert load(toy_store, "toy", PREFERS, modalities=["vision", "text"])[0].train.modalities == ("text", "vision")
    with pytest.raises(SettingsError, match="mer extract"):
        load(make_store(modalities=()), "toy", PREFERS)


def test_the_only_feature_of_a_modality_is_read_and_of_two_others_none(make_store: Build) -> None:
    path = make_store(modalities=("text", "vision"))
    others = {**PREFERS, "vision": ("clip",)}
    assert load(path, "toy", others)[1].features["vision"]["name"] == "resnet"
    store = FeatureStore.open(path, mode="a")
    store.writer("toy", spec("vision", feature="vit"))
    with pytest.raises(SettingsError, match="no clip feature for vision; it has resnet, vit: choose with --features"):
        load(path, "toy", others)
    assert load(path, "toy", others, features={"vision": "resnet"})[1].features["vision"]["name"] == "resnet"


def test_targets_of_every_kind(toy_store: Path) -> None:
    labels = load(toy_store, "toy", PREFERS, target="emotions")[0].train.labels
    assert labels is not None and labels.shape[1] == 3 and (labels.sum(1) == 1).all()
    numbers = load(toy_store, "toy", PREFERS, target="sentiment")[0].train.labels
    assert numbers is not None and set(numbers.tolist()) == {-1.0, 0.0, 1.0}


def test_a_label_outside_the_classes_is_named(make_store: Build) -> None:
    samples = utterances()
    path = make_store(
        [samples[0].model_copy(update={"labels": {"emotion": "joi"}}), *samples[1:]],
        {"text": rows_of("text", samples)},
        ("text",),
    )
    with pytest.raises(DataError, match=r"d0_u0: .*'joi'. Did you mean 'joy'"):
        load(path, "toy", PREFERS)


def test_a_split_that_is_empty_is_an_error(make_store: Build) -> None:
    samples = [u for u in utterances() if u.split != "test"]
    with pytest.raises(DataError, match="no utterances to use in its test split"):
        load(make_store(samples, modalities=("text",)), "toy", PREFERS)
