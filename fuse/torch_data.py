"""Stored features as torch data sets, for anybody's training loop; `store["meld"]["hubert"][id_]` is numpy.

In memory's reach, with any sampler, here one that puts samples of about one length into a batch:

    data = FeatureDataset({"speech": store["meld"]["hubert"], "text": store["meld"]["roberta"]}, missing="mask")
    batches = BucketSampler(data.total_lengths, batch_size=64, seed=0)
    for batch in DataLoader(data, batch_sampler=batches, collate_fn=pad): batch.values["speech"], batch.mask["speech"]

Larger than memory, read window by window ahead of the loop by threads, shuffled and bucketed within a window:

    stream = FeatureStream({"speech": store["meld"]["hubert"]}, batch_size=64, seed=0)
    for epoch in range(20):
        for batch in stream.batches(epoch): ...

A `DataLoader(stream, batch_size=None)` does the same. It needs no workers; with workers each reads its share of the
segments, and batches have the samples of one worker.

Axes: B samples of a batch, T frames of its longest, F frames of all of them, M features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

from cache_schema.errors import SettingsError
from cache_schema.feature import Feature, Ragged
from cache_schema.samples import Target
from cache_schema.window import WINDOW_BYTES, Window, WindowStream
from fuse.data import Dataset as Resident

POOL = 16


@dataclass(frozen=True)
class Item:
    """One sample.

    Attributes:
        id: which one.
        values: feature -> frames (T, *tail), in the stored type; none where the sample lacks the feature.
        available: which features it has (M).
    """

    id: str
    values: dict[str, Tensor]
    available: tuple[bool, ...]


@dataclass(frozen=True)
class Padded:
    """Samples, each feature padded with zeros to the longest of them.

    Attributes:
        ids: which samples.
        values: feature -> (B, T, *tail), in the stored type.
        lengths: feature -> frames that each sample has (B,).
        mask: feature -> where there are frames and no padding (B, T).
        available: which features each sample has (B, M), columns in the order of `values`.
    """

    ids: tuple[str, ...]
    values: dict[str, Tensor]
    lengths: dict[str, Tensor]
    mask: dict[str, Tensor]
    available: Tensor


@dataclass(frozen=True)
class Packed:
    """Samples one after the other, without padding.

    Attributes:
        ids: which samples.
        values: feature -> (F, *tail), in the stored type.
        offsets: feature -> where each sample begins, and their end (B + 1,).
        available: which features each sample has (B, M), columns in the order of `values`.
    """

    ids: tuple[str, ...]
    values: dict[str, Tensor]
    offsets: dict[str, Tensor]
    available: Tensor

    def sequence(self, feature: str) -> PackedSequence:
        """One feature as torch's recurrent layers take it.

        Raises:
            SettingsError: a sample has no frames of it, which torch does not allow.
        """
        lengths = self.offsets[feature].diff().tolist()
        if not all(lengths):
            raise SettingsError(f"{self.ids[lengths.index(0)]!r} has no frames of {feature}: torch packs none.")
        return pack_sequence(list(torch.split(self.values[feature], lengths)), enforce_sorted=False)


def pad(items: Sequence[Item]) -> Padded:
    """Collate samples into padded tensors; a `collate_fn`."""
    values, lengths, mask = {}, {}, {}
    for name in items[0].values:
        frames = [item.values[name] for item in items]
        lengths[name] = torch.tensor([len(x) for x in frames])
        longest = int(lengths[name].max())
        out = frames[0].new_empty(len(items), longest, *frames[0].shape[1:])
        for row, x in zip(out, frames, strict=True):
            row[: len(x)] = x
            row[len(x) :] = 0
        values[name] = out
        mask[name] = torch.arange(longest) < lengths[name][:, None]
    return Padded(_ids(items), values, lengths, mask, _available(items))


def pack(items: Sequence[Item]) -> Packed:
    """Collate samples into flat tensors; a `collate_fn`."""
    values, offsets = {}, {}
    for name in items[0].values:
        frames = [item.values[name] for item in items]
        values[name] = torch.cat(frames)
        offsets[name] = torch.tensor([0, *(len(x) for x in frames)]).cumsum(0)
    return Packed(_ids(items), values, offsets, _available(items))


class FeatureDataset(Dataset[Item]):
    """Samples of one dataset with one or several features, joined by id; map style.

    Args:
        features: name -> feature, all of one dataset.
        ids: which samples; None: all of the dataset.
        missing: raise where a sample lacks a feature, or give it no frames of it.
        resident: read everything now; otherwise a batch is read when it is asked for.

    Raises:
        MissingFeature: a sample lacks a feature, or there is no such sample.
        DamagedError: what is stored is not what was written.
    """

    def __init__(
        self,
        features: Mapping[str, Feature],
        ids: Sequence[str] | None = None,
        missing: Literal["raise", "mask"] = "raise",
        resident: bool = True,
    ) -> None:
        if not features:
            raise SettingsError("A data set needs at least one feature.")
        self.features = dict(features)
        first = next(iter(self.features.values()))
        self.ids = tuple(first.samples.ids if ids is None else ids)
        self.missing: Literal["raise", "mask"] = missing
        self.lengths = {name: feature.lengths(self.ids, missing) for name, feature in self.features.items()}
        """Frames of each sample by feature."""
        self._loaded = self._load(self.ids) if resident else None

    @property
    def total_lengths(self) -> NDArray[np.int64]:
        """Frames of each sample in all features together: what `BucketSampler` sorts by."""
        total: NDArray[np.int64] = np.stack(list(self.lengths.values())).sum(axis=0)
        return total

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Item:
        """The sample at `index`; errors as when the data set is made."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Several samples at once, as torch's loader asks for them."""
        if self._loaded is not None:
            return [_item(self.ids[index], self._loaded, index) for index in indices]
        ids = [self.ids[index] for index in indices]
        loaded = self._load(ids)
        return [_item(id_, loaded, place) for place, id_ in enumerate(ids)]

    def _load(self, ids: Sequence[str]) -> dict[str, Ragged]:
        return {name: feature.load(ids, missing=self.missing) for name, feature in self.features.items()}


class BucketSampler(Sampler[list[int]]):
    """Batches of samples of about one length; a `batch_sampler`. Every sample once an epoch.

    Args:
        lengths: frames of each sample (n,).
        batch_size: samples of a batch; the last one may have fewer.
        seed: shuffles, differently in each epoch; None: by length, the same every time.
        pool: shuffled samples are sorted by length within so many batches.

    Raises:
        SettingsError: the batch size or the pool is less than 1.
    """

    def __init__(
        self, lengths: Sequence[int] | NDArray[Any], batch_size: int, seed: int | None, pool: int = POOL
    ) -> None:
        _require_positive(batch_size=batch_size, pool=pool)
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.pool = pool
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the shuffle of the next pass; each pass then moves on by one."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        draw = None if self.seed is None else np.random.default_rng([self.seed, self.epoch])
        self.epoch += 1
        yield from (rows.tolist() for rows in _bucketed(self.lengths, self.batch_size, self.pool, draw))


class FeatureStream(IterableDataset[Any]):
    """Batches of one dataset's features, joined by id, that need not fit into memory.

    Args:
        features: name -> feature, all of one dataset.
        batch_size: samples of a batch; the last one of a window may have fewer.
        collate: `pad`, `pack` or a function of one's own, from items to a batch.
        ids: which samples, each once; None: all of the dataset.
        window_bytes: what may be held at once (`cache_schema.window`).
        seed: shuffles segments, and samples within a window; None: the order of the store, by length in a window.
        missing: raise where a sample lacks a feature, or give it no frames of it.
        threads: segments that are read at once.

    Raises:
        SettingsError: the batch size is less than 1.
        StoreError: an id is given twice, or the features are of several datasets.
        MissingFeature: a sample lacks a feature, or there is no such sample.
    """

    def __init__(
        self,
        features: Mapping[str, Feature],
        batch_size: int,
        collate: Callable[[Sequence[Item]], Any] = pad,
        ids: Sequence[str] | None = None,
        window_bytes: int = WINDOW_BYTES,
        seed: int | None = None,
        missing: Literal["raise", "mask"] = "raise",
        threads: int = 2,
    ) -> None:
        _require_positive(batch_size=batch_size)
        self.windows = WindowStream(features, ids, window_bytes, seed, missing, threads)
        self.batch_size = batch_size
        self.collate = collate
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the shuffle of the next pass; each pass then moves on by one.

        A loader whose workers do not persist starts each pass with what was chosen here.
        """
        self.epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        share = (0, 1) if worker is None else (worker.id, worker.num_workers)
        epoch, self.epoch = self.epoch, self.epoch + 1
        yield from self.batches(epoch, share)

    def batches(self, epoch: int = 0, share: tuple[int, int] = (0, 1)) -> Iterator[Any]:
        """Every sample once, or the k-th of n shares, as `collate` makes batches of them.

        Raises:
            DamagedError: what is stored is not what was written.
        """
        seed = self.windows.seed
        draw = None if seed is None else np.random.default_rng([seed, epoch, *share])
        for window in self.windows.windows(epoch, share):
            lengths = np.sum([ragged.lengths for ragged in window.features.values()], axis=0)
            for rows in _bucketed(lengths, self.batch_size, len(window), draw):
                yield self.collate([_item(window.ids[row], window.features, row) for row in rows.tolist()])


def window_dataset(window: Window, name: str, target: Target, labels: Tensor | None, dialogues: Tensor) -> Resident:
    """A window as the data set that `fuse` trains on, for batches of `fuse.arch.Batch`.

    Args:
        window: of a `WindowStream` whose features are called by their modalities.
        name: the dataset's name.
        target: what is predicted.
        labels: of all samples of the stream, in the order of its ids, or None.
        dialogues: number of the dialogue of each, in the same order. Windows are cut by segments of the store, which
            may tear a dialogue apart: train architectures with `unit = "utterance"` on them.
    """
    places = torch.from_numpy(window.places)
    return Resident(
        name=name,
        ids=window.ids,
        target=target,
        labels=None if labels is None else labels[places],
        frames={m: torch.from_numpy(ragged.arrays["values"]) for m, ragged in window.features.items()},
        starts={m: torch.from_numpy(ragged.offsets[:-1].copy()) for m, ragged in window.features.items()},
        lengths={m: torch.from_numpy(ragged.lengths) for m, ragged in window.features.items()},
        dialogues=dialogues[places],
    )


def _bucketed(lengths: NDArray[Any], size: int, pool: int, draw: np.random.Generator | None) -> list[NDArray[np.int64]]:
    """Rows of batches of about equal lengths: sorted within pools of `pool` batches of a shuffled order."""
    if draw is None:
        return _cut(np.argsort(lengths, kind="stable"), size)
    order = draw.permutation(len(lengths))
    pools = _cut(order, size * pool)
    batches = [batch for p in pools for batch in _cut(p[np.argsort(lengths[p], kind="stable")], size)]
    return [batches[index] for index in draw.permutation(len(batches))]


def _require_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise SettingsError(f"{name} = {number}: it must be at least 1.")


def _cut(rows: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _item(id_: str, loaded: Mapping[str, Ragged], row: int) -> Item:
    values = {name: torch.from_numpy(ragged.row(row)) for name, ragged in loaded.items()}
    return Item(id_, values, tuple(bool(ragged.present[row]) for ragged in loaded.values()))


def _ids(items: Sequence[Item]) -> tuple[str, ...]:
    return tuple(item.id for item in items)


def _available(items: Sequence[Item]) -> Tensor:
    return torch.tensor([item.available for item in items])
