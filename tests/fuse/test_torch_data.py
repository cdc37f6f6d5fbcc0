"""Stored features as torch data sets: every sample once, as it was stored; padded, packed, bucketed; no fork hangs."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pad_packed_sequence
from torch.utils.data import DataLoader
from toy_corpus import TARGETS

from cache_schema.errors import MissingFeature, SettingsError, StoreError
from cache_schema.feature import Feature
from cache_schema.store import FeatureStore
from cache_schema.window import WindowStream
from fuse.torch_data import (
    BucketSampler,
    FeatureDataset,
    FeatureStream,
    Item,
    Packed,
    Padded,
    pack,
    pad,
    window_dataset,
)

SMALL = 1 << 12


def features(path: Path, *names: str) -> dict[str, Feature]:
    store = FeatureStore.open(path)
    return {name: store["toy"][name] for name in names or ("mfcc", "roberta", "resnet")}


def stored(of: dict[str, Feature]) -> dict[str, dict[str, np.ndarray | None]]:
    """Every sample's arrays, read one by one; None where there are none."""
    found: dict[str, dict[str, np.ndarray | None]] = {}
    for name, feature in of.items():
        gone = {**feature.failures(), **feature.absences()}
        for id_ in feature.samples.ids:
            found.setdefault(id_, {})[name] = None if id_ in gone else feature[id_]
    return found


def assert_padded(batch: Padded, wanted: dict[str, dict[str, np.ndarray | None]]) -> None:
    for column, (name, values) in enumerate(batch.values.items()):
        assert values.shape[:2] == batch.mask[name].shape == (len(batch.ids), int(batch.lengths[name].max()))
        assert torch.equal(batch.mask[name].sum(1), batch.lengths[name])
        for row, id_ in enumerate(batch.ids):
            truth = wanted[id_][name]
            assert bool(batch.available[row, column]) == (truth is not None)
            length = int(batch.lengths[name][row])
            assert length == (0 if truth is None else len(truth))
            if truth is not None:
                np.testing.assert_array_equal(values[row, :length].numpy(), truth)
                assert values.numpy().dtype == truth.dtype
            assert not values[row, length:].any() and batch.mask[name][row, :length].all()


@pytest.mark.parametrize("resident", [True, False])
def test_bucketed_padded_batches_of_several_features(toy_store: Path, resident: bool) -> None:
    of = features(toy_store)
    data = FeatureDataset(of, missing="mask", resident=resident)
    sampler = BucketSampler(data.total_lengths, batch_size=16, seed=0)
    batches = list(DataLoader(data, batch_sampler=sampler, collate_fn=pad))
    assert len(batches) == len(sampler)
    assert sorted(id_ for batch in batches for id_ in batch.ids) == sorted(data.ids)
    wanted = stored(of)
    for batch in batches:
        assert_padded(batch, wanted)


def test_packed_batches_and_what_recurrent_layers_take(toy_store: Path) -> None:
    of = features(toy_store, "roberta")
    data = FeatureDataset(of)
    wanted = stored(of)
    for batch in DataLoader(data, batch_size=7, collate_fn=pack):
        assert isinstance(batch, Packed) and batch.available.all()
        offsets = batch.offsets["roberta"].tolist()
        for row, id_ in enumerate(batch.ids):
            np.testing.assert_array_equal(
                batch.values["roberta"][offsets[row] : offsets[row + 1]], wanted[id_]["roberta"]
            )
        padded, lengths = pad_packed_sequence(batch.sequence("roberta"), batch_first=True)
        assert torch.equal(lengths, batch.offsets["roberta"].diff())
        assert torch.equal(padded[0, : lengths[0]], batch.values["roberta"][: lengths[0]])


def test_torch_packs_no_sample_without_frames(toy_store: Path) -> None:
    data = FeatureDataset(features(toy_store, "mfcc"), missing="mask")
    lacking = int(np.flatnonzero(data.lengths["mfcc"] == 0)[0])
    with pytest.raises(SettingsError, match=f"'{data.ids[lacking]}' has no frames of mfcc"):
        pack([data[lacking]]).sequence("mfcc")


def test_buckets_hold_each_sample_once_near_its_like_and_change_with_the_epoch() -> None:
    lengths = np.random.default_rng(0).integers(1, 500, 1000)
    sampler = BucketSampler(lengths, 32, seed=1)
    first, second = list(sampler), list(sampler)
    sampler.set_epoch(0)
    assert list(sampler) == first != second
    assert sorted(row for batch in first for row in batch) == list(range(1000))
    assert np.mean([lengths[batch].std() for batch in first]) < 0.3 * lengths.std()
    assert list(BucketSampler(lengths, 32, None)) == list(BucketSampler(lengths, 32, None))
    with pytest.raises(SettingsError, match="batch_size = 0: it must be at least 1"):
        BucketSampler(lengths, 0, seed=1)


def test_a_stream_gives_every_sample_once_in_another_order_each_epoch(toy_store: Path) -> None:
    of = features(toy_store)
    wanted = stored(of)
    stream = FeatureStream(of, 16, window_bytes=SMALL, seed=3, missing="mask")
    orders = []
    for epoch in range(2):
        batches = list(stream.batches(epoch))
        for batch in batches:
            assert_padded(batch, wanted)
        orders.append([id_ for batch in batches for id_ in batch.ids])
        assert sorted(orders[-1]) == sorted(wanted)
    assert orders[0] != orders[1]
    assert [id_ for batch in stream.batches(0) for id_ in batch.ids] == orders[0]
    assert [id_ for batch in stream for id_ in batch.ids] == orders[0], "a pass begins at epoch 0"
    assert [id_ for batch in stream for id_ in batch.ids] == orders[1], "and moves on"


def test_a_stream_may_be_left_early_and_reads_only_what_is_asked_for(toy_store: Path) -> None:
    of = features(toy_store, "roberta")
    ids = of["roberta"].samples.ids[5:60:3]
    stream = FeatureStream(of, 4, pack, ids=ids, window_bytes=SMALL, seed=0)
    assert sorted(id_ for batch in stream.batches() for id_ in batch.ids) == sorted(ids)
    next(iter(stream))
    assert next(iter(FeatureStream(of, 4, list, ids=ids))).__class__ is list


def test_forked_workers_divide_the_samples_and_do_not_hang(toy_store: Path) -> None:
    of = features(toy_store, "roberta")
    of["roberta"].load(of["roberta"].samples.ids)  # the parent has used its reader, and its threads
    stream = FeatureStream(of, 8, window_bytes=SMALL, seed=0)
    forked = multiprocessing.get_context("fork")
    batches = list(DataLoader(stream, batch_size=None, num_workers=2, timeout=60, multiprocessing_context=forked))
    assert sorted(id_ for batch in batches for id_ in batch.ids) == sorted(of["roberta"].samples.ids)
    wanted = stored(of)
    for batch in batches:
        assert_padded(batch, wanted)


def test_what_a_spawned_worker_is_sent_reads_the_same(toy_store: Path) -> None:
    stream = FeatureStream(features(toy_store, "roberta"), 8, window_bytes=SMALL, seed=0)
    first = list(stream.batches())
    for batch, sent in zip(first, pickle.loads(pickle.dumps(stream)).batches(), strict=True):
        assert batch.ids == sent.ids and torch.equal(batch.values["roberta"], sent.values["roberta"])


def test_windows_make_the_batches_that_fuse_trains_on(toy_store: Path) -> None:
    of = {"speech": features(toy_store, "mfcc")["mfcc"], "text": features(toy_store, "roberta")["roberta"]}
    wanted = stored(of)
    stream = WindowStream(of, window_bytes=SMALL, seed=0, missing="mask")
    labels = torch.arange(len(stream))
    seen = []
    for window in stream.windows():
        data = window_dataset(window, "toy", TARGETS[0], labels, torch.arange(len(stream)))
        for batch in data.batches(8, "utterance", torch.Generator().manual_seed(0)):
            for place, id_ in enumerate(batch.ids):
                seen.append(id_)
                assert stream.ids[int(batch.target[place])] == id_
                for modality, sequence in batch.sequences.items():
                    truth = wanted[id_][modality]
                    length = int(batch.lengths[modality][place])
                    assert length == (0 if truth is None else len(truth))
                    if truth is not None:
                        np.testing.assert_array_equal(sequence[place, :length].numpy(), truth.astype(np.float32))
    assert sorted(seen) == sorted(stream.ids)


def test_what_is_missing_raises_unless_it_is_masked(toy_store: Path) -> None:
    of = features(toy_store)
    for make in (FeatureDataset, lambda f: FeatureStream(f, 8)):
        with pytest.raises(MissingFeature, match=r"toy/mfcc: sample 'd.*failed"):
            make(of)
    with pytest.raises(SettingsError, match="at least one feature"):
        FeatureDataset({})
    with pytest.raises(StoreError, match="given twice"):
        FeatureStream(of, 8, ids=["d0_u0", "d0_u0"], missing="mask")
    with pytest.raises(StoreError, match="features of one dataset"):
        FeatureStream({}, 8)
    with pytest.raises(MissingFeature, match="no sample called 'x'"):
        FeatureDataset(of, ids=["x"], missing="mask")


def test_the_three_lines_of_numpy(toy_store: Path) -> None:
    store = FeatureStore.open(toy_store)
    values = store["toy"]["roberta"]["d0_u0"]
    assert values.ndim == 2 and values.dtype == np.float16


def test_items_are_what_collate_functions_of_one_s_own_get(toy_store: Path) -> None:
    def mean(items: Any) -> torch.Tensor:
        assert all(isinstance(item, Item) for item in items)
        return torch.stack([item.values["roberta"].float().mean(0) for item in items])

    shapes = [batch.shape[0] for batch in FeatureStream(features(toy_store, "roberta"), 16, mean).batches()]
    assert sum(shapes) == len(features(toy_store)["roberta"].samples)
