"""Batches of few fixed shapes: utterances sorted by length into buckets, each padded to its own longest.

Which utterances share a bucket never changes, so that a step of a bucket can be a CUDA graph. An epoch's batches are a
function of seed, stage and epoch alone, and the order of the buckets one of stage and epoch: several seeds that train
together are in the same bucket at every step, each with its own utterances.

Axes: N utterances, S seeds, K steps of an epoch, B utterances of a batch, M modalities, U units of whole batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from cache_schema.canonical import canonical_bytes, sha256_hex
from fuse.data import Dataset

BUCKETS = 8
"""At most so many lengths."""
UNITS = 256
"""Lengths at which a bucket may end, at most."""


@dataclass(frozen=True)
class Shape:
    """What the batches of a step have in common.

    Attributes:
        bucket: which one.
        size: B.
        frames: modality -> frames to which they are padded, as pairs.
    """

    bucket: int
    size: int
    frames: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Plan:
    """An epoch.

    Attributes:
        rows: the utterances of each step, a batch in each B columns; the columns that a short batch leaves are not
            read (S, K * B).
        shapes: of each step (K).
    """

    rows: Int[Tensor, "S _"]
    shapes: tuple[Shape, ...]


class Buckets:
    """A data set's utterances by length.

    Args:
        data: the utterances.
        size: B.
        most: how many buckets at most.
    """

    def __init__(self, data: Dataset, size: int, most: int = BUCKETS) -> None:
        self.size = size
        order = torch.argsort(data.cost, stable=True)
        self.steps = -(-len(order) // size)
        # Whole batches each: a single one of the epoch is short.
        units = torch.split(order, size * -(-self.steps // UNITS))
        lengths = {m: n.cpu().clamp(min=1) for m, n in data.lengths.items()}
        longest = np.array([[int(n[unit].max()) for n in lengths.values()] for unit in units])
        widths = np.array([math.prod(tail) for tail in data.tails.values()])
        ends = cheapest_cuts(np.array([len(unit) for unit in units]), longest, widths, most)
        self.members = [torch.cat(units[a:b]) for a, b in zip([0, *ends], ends, strict=False)]
        self.frames = [tuple((m, int(n[members].max())) for m, n in lengths.items()) for members in self.members]

    def shape(self, bucket: int, size: int) -> Shape:
        """Of a batch of a bucket."""
        return Shape(bucket, size, self.frames[bucket])

    def in_order(self) -> Plan:
        """Every utterance once, the same every time."""
        return self._plan([self.members], torch.arange(self.steps))

    def epoch(self, seeds: Sequence[int], stage: int, epoch: int) -> Plan:
        """Every utterance once for each seed."""
        mixed = []
        for seed in seeds:
            generator = torch.Generator().manual_seed(number_of("batches", seed, stage, epoch))
            mixed.append([rows[torch.randperm(len(rows), generator=generator)] for rows in self.members])
        generator = torch.Generator().manual_seed(number_of("buckets", stage, epoch))
        return self._plan(mixed, torch.randperm(self.steps, generator=generator))

    def _plan(self, members: Sequence[Sequence[Tensor]], order: Tensor) -> Plan:
        cut = [(bucket, rows) for bucket, own in enumerate(members[0]) for rows in torch.split(own, self.size)]
        shapes = [self.shape(bucket, len(rows)) for bucket, rows in cut]
        rows = torch.zeros(len(members), self.steps * self.size, dtype=torch.int64)
        for seed, each in enumerate(members):
            every = torch.cat(list(each))
            rows[seed, : len(every)] = every
        rows = rows.view(len(members), self.steps, self.size)[:, order].flatten(1)
        return Plan(rows, tuple(shapes[i] for i in order.tolist()))


def cheapest_cuts(
    counts: Int[np.ndarray, " U"], longest: Int[np.ndarray, "U M"], widths: Int[np.ndarray, " M"], most: int
) -> list[int]:
    """Where to cut neighbours into groups, each padded to its own longest: the fewest that hold the least numbers.

    Args:
        counts: utterances of each unit, which is not cut.
        longest: frames of its longest one, by modality.
        widths: numbers of a frame.
        most: groups at most.

    Returns:
        The end of each group.
    """
    units = len(counts)
    price = np.full((units + 1, units + 1), np.inf)  # of a group from a to b
    for a in range(units):
        price[a, a + 1 :] = np.cumsum(counts[a:]) * (np.maximum.accumulate(longest[a:], axis=0) @ widths)
    best, begins, costs = np.where(np.arange(units + 1), np.inf, 0.0), [], []
    for _ in range(min(most, units)):  # one group more never costs more
        total = best[:, None] + price
        begins.append(total.argmin(axis=0))
        best = total.min(axis=0)
        costs.append(best[units])
    ends = [units]
    for begin in begins[costs.index(costs[-1]) : 0 : -1]:
        ends.append(int(begin[ends[-1]]))
    return ends[::-1]


def number_of(*facts: object) -> int:
    """A number that seeds a generator: the same for the same facts, unrelated for others."""
    return int(sha256_hex(canonical_bytes(list(facts)))[:15], 16)
