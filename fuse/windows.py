"""Data that fit neither the memory nor the device: read in windows from the store, behind the face of a data set.

Where utterances lie, their labels and their lengths are known at once; their frames are read by the window, the next
one while the last one is used (`cache_schema.window`). A window is a resident data set like any other: its batches are
made as they are everywhere. So a batch of the same utterances holds the same numbers. What differs is which utterances
can meet in one: shuffled, the store's blocks are drawn in random order, and utterances permuted within a window.

Axes: N utterances of a split, B utterances of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

from cache_schema.errors import DataError
from cache_schema.window import WINDOW_BYTES, WindowStream
from fuse.arch import Batch, Unit
from fuse.data import Dataset

if TYPE_CHECKING:
    from fuse.reader import Reader


@dataclass(frozen=True)
class Windowed(Dataset):
    """As `Dataset`, but `frames` and `companions` are empty and `starts` mean nothing: they are read when needed.

    Attributes:
        reader: reads utterances.
        window_bytes: what may be held at once.
    """

    reader: Reader | None = None
    window_bytes: int = WINDOW_BYTES

    def parts(self) -> Iterator[Dataset]:
        """Every utterance once, in data sets that are resident one after the other."""
        for _, part in self.windows("utterance"):
            yield part

    def most_batches(self, size: int) -> int:
        """How many batches an epoch has at most: each window ends with a short one."""
        return super().most_batches(size) + len(self._stream(None).blocks)

    def batch(
        self, rows: Int[Tensor, " B"], unit: Unit = "utterance", frames: Mapping[str, int] | None = None
    ) -> Batch:
        """The utterances in `rows`, read now."""
        return self._read(rows.tolist()).batch(torch.arange(len(rows), device=rows.device), unit, frames)

    def batch_rows(self, size: int, unit: Unit, generator: torch.Generator | None = None) -> list[Int[Tensor, " B"]]:
        """Not known before the windows are read: `numbered` gives rows and batches together.

        Raises:
            DataError: always.
        """
        raise DataError(f"{self.name} is read in windows: its batches come one after the other.")

    def numbered(
        self, size: int, unit: Unit, generator: torch.Generator | None = None
    ) -> Iterator[tuple[Int[Tensor, " B"], Batch]]:
        """Every utterance once, window by window: the rows of a batch, and the batch."""
        for rows, part in self.windows(unit, generator):
            for own, batch in part.numbered(size, unit, generator):
                yield rows[own], batch

    def windows(
        self, unit: Unit, generator: torch.Generator | None = None
    ) -> Iterator[tuple[Int[Tensor, " _"], Dataset]]:
        """Every utterance once: the rows of a window, and the window, resident where this data set's labels are.

        Args:
            unit: what may not be torn apart.
            generator: draws the order of the store's blocks; without one it is that of the store.
        """
        seed = None if generator is None else int(torch.randint(2**31, (1,), generator=generator))
        groups = [group.tolist() for group in self._stream(seed).groups()]
        if unit == "dialogue":
            groups = self._whole_dialogues(groups)
        with ThreadPoolExecutor(1, "window") as pool:
            ahead: Future[Dataset] | None = None
            try:
                for number, group in enumerate(groups):
                    part = self._read(group) if ahead is None else ahead.result()
                    ahead = pool.submit(self._read, groups[number + 1]) if number + 1 < len(groups) else None
                    yield torch.tensor(group, device=self.dialogues.device), part
                    del part
            finally:
                if ahead is not None:
                    ahead.cancel()

    def _stream(self, seed: int | None) -> WindowStream:
        assert self.reader is not None
        return WindowStream(self.reader.chosen, self.ids, self.window_bytes, seed, missing="mask")

    def _whole_dialogues(self, groups: Sequence[Sequence[int]]) -> list[list[int]]:
        """Each dialogue's utterances in the window in which the first of them is met, in their order."""
        members: dict[int, list[int]] = {}
        numbers = self.dialogues.tolist()
        for row, dialogue in enumerate(numbers):
            members.setdefault(dialogue, []).append(row)
        found = []
        for group in groups:
            own = dict.fromkeys(numbers[row] for row in group)
            found.append([row for dialogue in own for row in members.pop(dialogue, [])])
        return [group for group in found if group]

    def _read(self, rows: Sequence[int]) -> Dataset:
        """These utterances, resident; with this data set's labels and lengths, of which something may be hidden."""
        assert self.reader is not None
        part = self.reader.read([self.ids[row] for row in rows]).to(self.dialogues.device)
        index = torch.tensor(rows, device=self.dialogues.device)
        return replace(
            part,
            labels=None if self.labels is None else self.labels[index],
            lengths={m: n[index] for m, n in self.lengths.items()},
            dialogues=self.dialogues[index],
        )
