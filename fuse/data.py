"""A dataset's features, resident: flat tensors with offsets, and padded batches gathered from them.

Nothing is padded at rest. A batch is one `index_select` per modality; features keep the type in which they are stored
until then.

Axes: N utterances of a split, F frames of all utterances of a modality, M modalities, B utterances of a batch, T frames
of its longest, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from cache_schema.canonical import canonical_bytes, sha256_hex
from cache_schema.errors import DataError
from cache_schema.samples import Target
from fuse.arch import Batch, Unit

POOL = 16
JITTER = 0.2
NUMBERS = 2**25
"""How many numbers are held in double precision at a time: of a picture's frames fewer than of a vector's."""


@dataclass(frozen=True)
class Laid:
    """A companion of a modality: one row for each of its frames, of all utterances, one after the other.

    Attributes:
        modality: whose frames it lies on.
        values: (F, *tail).
        there: at which frames there is anything (F).
    """

    modality: str
    values: Shaped[Tensor, " F *_"]
    there: Bool[Tensor, " F"]

    def to(self, move: Callable[[Tensor], Tensor]) -> Laid:
        """The same with its tensors where `move` puts them."""
        return replace(self, values=move(self.values), there=move(self.there))


@dataclass(frozen=True)
class Dataset:
    """Utterances of one split, in corpus order. Splits of a dataset share their frames.

    Attributes:
        name: the dataset's name.
        ids: which utterances (N).
        target: what is predicted.
        labels: class index (N,) int64, 0 or 1 per class (N, C) float, or a number (N,) float; None: not known.
        frames: modality -> frames of all utterances, one after the other (F, *tail).
        starts: modality -> where in them each utterance begins (N,).
        lengths: modality -> how many it has (N,); 0 where the modality is not available.
        dialogues: number of each utterance's dialogue (N,); utterances of a dialogue are in order of their turns.
        companions: name -> what lies on a modality's frames.
    """

    name: str
    ids: tuple[str, ...]
    target: Target
    labels: Shaped[Tensor, " N *_"] | None
    frames: dict[str, Shaped[Tensor, " _ *_"]]
    starts: dict[str, Int[Tensor, " N"]]
    lengths: dict[str, Int[Tensor, " N"]]
    dialogues: Int[Tensor, " N"]
    companions: dict[str, Laid] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Its modalities, in the order of `available`."""
        return tuple(self.frames)

    @property
    def tails(self) -> dict[str, tuple[int, ...]]:
        """Shape of one frame of each modality."""
        return {m: tuple(x.shape[1:]) for m, x in self.frames.items()}

    @property
    def available(self) -> Bool[Tensor, "N M"]:
        """Which modalities each utterance has."""
        return torch.stack([self.lengths[m] > 0 for m in self.modalities], dim=1)

    def digest(self) -> str:
        """sha256 over the ids, in order: which utterances the split holds."""
        return sha256_hex(canonical_bytes(self.ids))

    def labels_digest(self) -> str:
        """sha256 over the labels, in order."""
        return sha256_hex(canonical_bytes(None if self.labels is None else self.labels.tolist()))

    def select(self, rows: Int[Tensor, " B"]) -> Dataset:
        """The utterances in `rows`, in that order, over the same frames."""
        return replace(
            self,
            ids=tuple(self.ids[i] for i in rows.tolist()),
            labels=None if self.labels is None else self.labels[rows],
            starts={m: s[rows] for m, s in self.starts.items()},
            lengths={m: n[rows] for m, n in self.lengths.items()},
            dialogues=self.dialogues[rows],
        )

    def keep_frames(self, modality: str, keep: Bool[Tensor, " F"]) -> Dataset:
        """The same without the frames of `modality` where `keep` is false, and what lies on them."""
        before = torch.cat([torch.zeros(1, dtype=torch.int64), keep.long().cumsum(0)])
        starts, lengths = self.starts[modality], self.lengths[modality]
        first, last = before[starts], before[starts + lengths]
        laid = {
            name: replace(c, values=c.values[keep], there=c.there[keep]) if c.modality == modality else c
            for name, c in self.companions.items()
        }
        return replace(
            self,
            frames={**self.frames, modality: self.frames[modality][keep]},
            starts={**self.starts, modality: first},
            lengths={**self.lengths, modality: last - first},
            companions=laid,
        )

    def to(self, device: torch.device | Callable[[Tensor], Tensor]) -> Dataset:
        """The same, resident on `device`, or with every tensor where a function puts it (`fuse.placement.Mover`)."""

        def move(x: Tensor) -> Tensor:
            return x.to(device) if isinstance(device, torch.device) else device(x)

        return replace(
            self,
            labels=None if self.labels is None else move(self.labels),
            frames={m: move(x) for m, x in self.frames.items()},
            starts={m: move(x) for m, x in self.starts.items()},
            lengths={m: move(x) for m, x in self.lengths.items()},
            dialogues=move(self.dialogues),
            companions={name: laid.to(move) for name, laid in self.companions.items()},
        )

    def batch(
        self, rows: Int[Tensor, " B"], unit: Unit = "utterance", frames: Mapping[str, int] | None = None
    ) -> Batch:
        """The utterances in `rows`, padded to the longest of them, in the type in which they are stored.

        What lies in the padding, or where a modality is not available, is some other frame: `fuse.model.Model` empties
        it. For unit=dialogue, utterances of one dialogue are expected together and in order.

        Args:
            rows: which.
            unit: what a dialogue is.
            frames: modality -> frames to which the batch is padded, at least as many as any of `rows` has. Nothing is
                then read back from the device, and the batch has no ids.
        """
        sequences, lengths, indices = {}, {}, {}
        for modality, flat in self.frames.items():
            length = self.lengths[modality][rows]
            longest = max(int(length.max()), 1) if frames is None else frames[modality]
            offset = torch.arange(longest, device=flat.device)
            index = (self.starts[modality][rows, None] + offset).clamp_(max=len(flat) - 1)
            sequences[modality] = _gathered(flat, index)
            lengths[modality], indices[modality] = length, index
        dialogue = torch.arange(len(rows), device=rows.device)
        position = torch.zeros_like(dialogue)
        if unit == "dialogue":
            _, dialogue, count = torch.unique_consecutive(
                self.dialogues[rows].cpu(), return_inverse=True, return_counts=True
            )
            position = torch.arange(len(rows)) - (count.cumsum(0) - count)[dialogue]
        return Batch(
            ids=tuple(self.ids[i] for i in rows.tolist()) if frames is None else (),
            sequences=sequences,
            lengths=lengths,
            available=torch.stack([length > 0 for length in lengths.values()], dim=1),
            target=None if self.labels is None else self.labels[rows],
            dialogue=dialogue.to(rows.device),
            position=position.to(rows.device),
            companions={n: _gathered(c.values, indices[c.modality]).float() for n, c in self.companions.items()},
            companions_there={n: c.there[indices[c.modality]] for n, c in self.companions.items()},
        )

    def batches(self, size: int, unit: Unit, generator: torch.Generator | None = None) -> Iterator[Batch]:
        """Every utterance once, in batches of about equal lengths.

        Args:
            size: utterances per batch; for unit=dialogue, whole dialogues with at least so many, the last batch aside.
            unit: what may not be torn apart.
            generator: shuffles; without one the order is that of the lengths, the same every time.
        """
        for _, batch in self.numbered(size, unit, generator):
            yield batch

    def numbered(
        self, size: int, unit: Unit, generator: torch.Generator | None = None
    ) -> Iterator[tuple[Int[Tensor, " B"], Batch]]:
        """As `batches`, each with its rows."""
        for rows in self.batch_rows(size, unit, generator):
            yield rows, self.batch(rows, unit)

    def most_batches(self, size: int) -> int:
        """How many batches an epoch has at most."""
        return math.ceil(len(self) / size)

    def parts(self) -> Iterator[Dataset]:
        """Every utterance once, in data sets that are resident one after the other: here this one."""
        yield self

    @property
    def cost(self) -> Float[Tensor, " N"]:
        """How many numbers each utterance has; on the CPU."""
        sizes = [n * math.prod(self.tails[m]) for m, n in self.lengths.items()]
        return torch.stack(sizes).sum(dim=0).double().cpu()

    def batch_rows(self, size: int, unit: Unit, generator: torch.Generator | None = None) -> list[Int[Tensor, " B"]]:
        """The rows of each of `batches`.

        Shuffled, utterances are permuted, sorted by length (its factor of at most 1 +- JITTER drawn anew, so that the
        same ones do not meet in every epoch) within pools of POOL batches, cut, and the batches permuted.
        """
        device = self.dialogues.device
        if unit == "dialogue":
            return [rows.to(device) for rows in self._dialogue_batches(size, generator)]
        cost = self.cost
        if generator is None:
            return [rows.to(device) for rows in _cut(torch.argsort(cost, stable=True), size)]
        order = torch.randperm(len(self), generator=generator)
        noise = 1 + JITTER * (2 * torch.rand(len(self), generator=generator, dtype=torch.float64) - 1)
        batches = []
        for pool in _cut(order, size * POOL):
            batches.extend(_cut(pool[torch.argsort(cost[pool] * noise[pool], stable=True)], size))
        return [batches[i].to(device) for i in torch.randperm(len(batches), generator=generator).tolist()]

    def _dialogue_batches(self, size: int, generator: torch.Generator | None) -> list[Tensor]:
        members: dict[int, list[int]] = {}
        for row, dialogue in enumerate(self.dialogues.tolist()):
            members.setdefault(dialogue, []).append(row)
        groups = [torch.tensor(rows) for rows in members.values()]
        shuffled = (
            range(len(groups)) if generator is None else torch.randperm(len(groups), generator=generator).tolist()
        )
        batches: list[list[Tensor]] = [[]]
        for index in shuffled:
            if sum(map(len, batches[-1])) >= size:
                batches.append([])
            batches[-1].append(groups[index])
        return [torch.cat(batch) for batch in batches]


@dataclass(frozen=True)
class Selection:
    """What training and search may see."""

    train: Dataset
    val: Dataset

    def to(self, device: torch.device | Callable[[Tensor], Tensor]) -> Selection:
        """Every split as `Dataset.to` moves it."""
        return Selection(self.train.to(device), self.val.to(device))


@dataclass(frozen=True)
class Splits(Selection):
    """The same, and the test split, sealed until the model is chosen."""

    _test: Dataset

    def open_test(self) -> Dataset:
        """The test split: for the one measurement after everything has been chosen."""
        return self._test

    def to(self, device: torch.device | Callable[[Tensor], Tensor]) -> Splits:
        """Every split as `Dataset.to` moves it; the test split stays sealed."""
        return Splits(self.train.to(device), self.val.to(device), self._test.to(device))


def joined(name: str, parts: Sequence[Dataset]) -> Dataset:
    """Datasets with the same modalities, companions and target, one after the other.

    Raises:
        DataError: they differ in any.
    """
    first = parts[0]
    for other in parts[1:]:
        if (other.tails, other.target, set(other.companions)) != (first.tails, first.target, set(first.companions)):
            raise DataError(f"{first.name} and {other.name} have other features or targets: they cannot be joined.")
    frames = {m: torch.cat([p.frames[m] for p in parts]) for m in first.frames}
    starts: dict[str, list[Tensor]] = {m: [] for m in frames}
    dialogues, used = [], 0
    begin = dict.fromkeys(frames, 0)
    for part in parts:
        for m in frames:
            starts[m].append(part.starts[m] + begin[m])
            begin[m] += len(part.frames[m])
        dialogues.append(part.dialogues + used)
        used = int(dialogues[-1].max()) + 1
    return Dataset(
        name=name,
        ids=tuple(i for p in parts for i in p.ids),
        target=first.target,
        labels=None if first.labels is None else torch.cat([p.labels for p in parts if p.labels is not None]),
        frames=frames,
        starts={m: torch.cat(s) for m, s in starts.items()},
        lengths={m: torch.cat([p.lengths[m] for p in parts]) for m in frames},
        dialogues=torch.cat(dialogues),
        companions={
            name: Laid(
                laid.modality,
                torch.cat([p.companions[name].values for p in parts]),
                torch.cat([p.companions[name].there for p in parts]),
            )
            for name, laid in first.companions.items()
        },
    )


def scales(train: Dataset, standardize: bool) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and standard deviation of each feature dimension over the frames of `train`; 0 and 1 without `standardize`.

    A dimension that never varies has deviation 1.

    Raises:
        DataError: no utterance of `train` has one of the modalities.
    """
    for modality, lengths in train.lengths.items():
        if not lengths.any():
            raise DataError(
                f"{train.name}: no utterance of the training split has {modality}: leave it out with --modalities."
            )
    if not standardize:
        return {m: (torch.zeros(tail), torch.ones(tail)) for m, tail in train.tails.items()}
    total = {m: torch.zeros(tail).double() for m, tail in train.tails.items()}
    squares = {m: torch.zeros_like(x) for m, x in total.items()}
    count = dict.fromkeys(total, 0)
    for data in train.parts():
        for modality, frames in data.frames.items():
            rows = torch.nonzero(data.lengths[modality]).squeeze(1)
            spans = data.starts[modality][rows].tolist(), data.lengths[modality][rows].tolist()
            for start, length in _chunks(*spans, max(1, NUMBERS // math.prod(frames.shape[1:]))):
                part = frames[start : start + length].double()
                total[modality] += part.sum(dim=0).cpu()
                squares[modality] += part.square().sum(dim=0).cpu()
                count[modality] += length
    found = {}
    for modality in total:
        mean = total[modality] / count[modality]
        deviation = (squares[modality] / count[modality] - mean.square()).clamp(min=0).sqrt()
        constant = deviation <= 1e-6 * (1 + mean.abs())
        found[modality] = (mean.float(), torch.where(constant, 1.0, deviation).float())
    return found


def _gathered(frames: Shaped[Tensor, " F *_"], index: Int[Tensor, "B T"]) -> Shaped[Tensor, "B T *_"]:
    """The frames at `index`."""
    return frames.index_select(0, index.flatten()).view(*index.shape, *frames.shape[1:])


def _cut(rows: Tensor, size: int) -> list[Tensor]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def _chunks(starts: Sequence[int], lengths: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """Stretches of frames, neighbours joined, none much longer than `most`."""
    begin = end = -1
    for start, length in zip(starts, lengths, strict=True):
        if start != end or end - begin > most:
            if end > begin:
                yield begin, end - begin
            begin = start
        end = start + length
    if end > begin:
        yield begin, end - begin
