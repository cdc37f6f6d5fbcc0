"""Features that do not fit into memory: read in windows, the next one while the last one is used.

A window is some whole blocks of samples that lie together in the store, blocks being drawn in random order. What is
held at once is bounded by `window_bytes`, however large the store is. Threads read; nothing is forked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cache_schema.errors import StoreError
from cache_schema.feature import Feature, Ragged
from cache_schema.plan import frame_bytes

WINDOW_BYTES = 384 << 20
"""Held at once: the window in use, the next one, and the one before while it is given up."""
_HELD = 3
_BLOCKS = 4


@dataclass(frozen=True)
class Window:
    """Samples that are in memory together.

    Attributes:
        ids: which samples, in the order of the store (n).
        places: where each one stands in the ids that the stream was given; int64 (n,).
        features: each feature's frames, samples in the order of `ids`.
    """

    ids: tuple[str, ...]
    places: NDArray[np.int64]
    features: dict[str, Ragged]

    def __len__(self) -> int:
        return len(self.ids)


class WindowStream:
    """Samples of one dataset with one or several features, joined by id, as a stream of windows.

    Args:
        features: name -> feature; all of one dataset.
        ids: which samples, each once; None: all of the dataset.
        window_bytes: what may be held at once; a block of the store that is larger is held all the same.
        seed: shuffles the blocks, differently in each epoch; None: the order of the store.
        missing: raise where a sample lacks a feature, or give it no frames and leave it out of `present`.
        threads: segments that are read at once.

    Raises:
        StoreError: there is no feature, the features are of several datasets, or an id is given twice.
        MissingFeature: a sample lacks a feature, or there is no such sample.
    """

    def __init__(
        self,
        features: Mapping[str, Feature],
        ids: Sequence[str] | None = None,
        window_bytes: int = WINDOW_BYTES,
        seed: int | None = None,
        missing: Literal["raise", "mask"] = "raise",
        threads: int = 2,
    ) -> None:
        if len({feature.dataset for feature in features.values()}) != 1:
            raise StoreError(
                "A stream is of the features of one dataset; " + (", ".join(features) or "none") + " given."
            )
        if ids is not None and len(set(ids)) != len(ids):
            raise StoreError("An id is given twice; a stream gives each sample once.")
        first = next(iter(features.values()))
        self.features = dict(features)
        self.ids = tuple(first.samples.ids if ids is None else ids)
        self.window_bytes = window_bytes
        self.seed = seed
        self.missing: Literal["raise", "mask"] = missing
        self.threads = threads
        sizes = {name: feature.lengths(self.ids, missing) for name, feature in self.features.items()}
        self.lengths: dict[str, NDArray[np.int64]] = sizes
        """Frames of each sample by feature, in the order of `ids`."""
        self._bytes = np.zeros(len(self.ids), np.int64)
        for name, feature in self.features.items():
            self._bytes += sizes[name] * frame_bytes(feature.spec.values)
        self.blocks = self._cut(first)
        """Places of samples that are neighbours in the store."""

    def __len__(self) -> int:
        """Samples of an epoch."""
        return len(self.ids)

    def windows(self, epoch: int = 0, share: tuple[int, int] = (0, 1)) -> Iterator[Window]:
        """Every sample once.

        Args:
            epoch: another one has another order, where there is a seed.
            share: (k, n) for the k-th of n readers that divide the samples among them.

        Raises:
            DamagedError: what is stored is not what was written.
        """
        groups = self.groups(epoch, share)
        if not groups:
            return
        with ThreadPoolExecutor(1, "window") as pool:
            ahead: Future[Window] = pool.submit(self._load, groups[0])
            try:
                for group in groups[1:]:
                    ready = ahead.result()
                    ahead = pool.submit(self._load, group)
                    yield ready
                    del ready
                yield ahead.result()
            finally:
                ahead.cancel()

    def _cut(self, first: Feature) -> list[NDArray[np.int64]]:
        """The samples' places in blocks of neighbours: of as many rows as a segment of one of the features has.

        The largest such block that leaves room for several in a window is taken: every feature with longer segments
        reads parts of one, and every feature with shorter ones whole ones.
        """
        samples = first.samples
        rows = samples.rows[[samples.number(id_) for id_ in self.ids]] if self.ids else np.empty(0, np.int64)
        part = np.searchsorted(samples.starts, rows, side="right") - 1
        in_part = rows - samples.starts[part]
        mean = float(self._bytes.mean()) if len(rows) else 0.0
        steps = np.ones(len(samples.parts), np.int64)
        for index in range(len(samples.parts)):
            known = sorted({feature.rows_per_segment(index) for feature in self.features.values()})
            fitting = [step for step in known if step * mean * _HELD * _BLOCKS <= self.window_bytes]
            steps[index] = max(fitting, default=known[0])
        order = np.argsort(rows, kind="stable")
        keys = np.stack([part, in_part // steps[part]])[:, order]
        breaks = np.flatnonzero((keys[:, 1:] != keys[:, :-1]).any(axis=0)) + 1
        return [block for block in np.split(order, breaks) if len(block)]

    def groups(self, epoch: int = 0, share: tuple[int, int] = (0, 1)) -> list[NDArray[np.int64]]:
        """The places of each window's samples: blocks in a drawn order, as many as fit."""
        order = np.arange(len(self.blocks))
        if self.seed is not None:
            np.random.default_rng([self.seed, epoch]).shuffle(order)
        most = self.window_bytes / _HELD
        groups: list[list[NDArray[np.int64]]] = []
        size = 0
        for number in order[share[0] :: share[1]].tolist():
            block = self.blocks[number]
            cost = int(self._bytes[block].sum())
            if not groups or size + cost > most:
                groups.append([])
                size = 0
            groups[-1].append(block)
            size += cost
        return [np.concatenate(group) for group in groups]

    def _load(self, places: NDArray[np.int64]) -> Window:
        ids = tuple(self.ids[place] for place in places.tolist())
        loaded = {
            name: feature.load(ids, missing=self.missing, threads=self.threads)
            for name, feature in self.features.items()
        }
        return Window(ids, places, loaded)
