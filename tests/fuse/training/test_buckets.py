"""Batches of few shapes: everybody once, little padding, the same for a seed whoever is beside it."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_corpus import load

from fuse.archs import hff
from fuse.data import Dataset
from fuse.training.buckets import Buckets, cheapest_cuts


@pytest.fixture(scope="module")
def data(toy_store: Path) -> Dataset:
    return load(toy_store, "toy", hff.PREFERS)[0].train


@pytest.mark.parametrize("size", [7, 16, 200])
def test_every_utterance_once_for_each_seed_in_batches_of_its_shape(data: Dataset, size: int) -> None:
    buckets = Buckets(data, size, most=4)
    plan = buckets.epoch([3, 5], stage=0, epoch=1)
    assert len(plan.shapes) == buckets.steps == -(-len(data) // size) and len(set(plan.shapes)) <= 5
    assert sorted(shape.size for shape in plan.shapes)[1:] == [size] * (buckets.steps - 1), "a single one is short"
    for own in plan.rows:
        batches = [own[k * size : k * size + shape.size] for k, shape in enumerate(plan.shapes)]
        assert sorted(torch.cat(batches).tolist()) == list(range(len(data)))
        for rows, shape in zip(batches, plan.shapes, strict=True):
            assert all(int(data.lengths[m][rows].max()) <= frames for m, frames in shape.frames)
            assert data.batch(rows, frames=dict(shape.frames)).sequences["text"].shape[1] == dict(shape.frames)["text"]


def test_batches_are_a_function_of_seed_and_epoch(data: Dataset) -> None:
    buckets = Buckets(data, 16)
    together, alone = buckets.epoch([0, 1], 0, 3), buckets.epoch([1], 0, 3)
    assert torch.equal(together.rows[1], alone.rows[0]) and together.shapes == alone.shapes
    assert not torch.equal(together.rows[0], together.rows[1])
    for other in (buckets.epoch([1], 0, 4), buckets.epoch([1], 1, 3)):
        assert not torch.equal(other.rows, alone.rows)
    assert torch.equal(buckets.in_order().rows, Buckets(data, 16).in_order().rows)


def test_a_static_batch_is_the_padded_one(data: Dataset) -> None:
    buckets = Buckets(data, 16)
    plan = buckets.epoch([0], 0, 1)
    rows, shape = plan.rows[0, :16], plan.shapes[0]
    batch, expected = data.batch(rows, frames=dict(shape.frames)), data.batch(rows)
    assert batch.ids == () and len(batch) == len(expected) == shape.size
    for modality, x in expected.sequences.items():
        inside = torch.arange(x.shape[1]) < expected.lengths[modality][:, None]
        assert torch.equal(batch.sequences[modality][:, : x.shape[1]][inside], x[inside])
    for name in ("available", "target", "dialogue", "position"):
        assert torch.equal(getattr(batch, name), getattr(expected, name))


def test_cuts_are_the_cheapest_there_are() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        units, most = int(random.integers(1, 8)), int(random.integers(1, 5))
        counts, longest = random.integers(1, 5, units), random.integers(1, 20, (units, 2))
        widths = random.integers(1, 4, 2)

        def price(ends: list[int], counts=counts, longest=longest, widths=widths) -> int:
            parts = zip([0, *ends], ends, strict=False)
            return int(sum(counts[a:b].sum() * (longest[a:b].max(axis=0) @ widths) for a, b in parts))

        every = [[*cut, units] for n in range(min(most, units)) for cut in itertools.combinations(range(1, units), n)]
        found, least = cheapest_cuts(counts, longest, widths, most), min(map(price, every))
        fewest = min(len(ends) for ends in every if price(ends) == least)
        assert (len(found), price(found)) == (fewest, least)


def test_equal_lengths_are_one_bucket() -> None:
    """More would shuffle less, and capture more, for nothing."""
    assert cheapest_cuts(np.full(5, 4), np.full((5, 2), 7), np.array([3, 1]), 4) == [5]
