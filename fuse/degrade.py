"""Data with a modality taken away or noised for a share of the utterances: what robustness is measured on.

Which utterances is drawn once per seed: a larger share holds those of a smaller one, and another modality the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

from cache_schema.errors import DataError, SettingsError
from fuse.data import Dataset, Selection, Splits, scales
from fuse.windows import Windowed


@dataclass(frozen=True)
class Degradation:
    """One modality, missing or noised for a share of the utterances that have it.

    Attributes:
        modality: which.
        share: of the utterances, from 0 to 1.
        kind: missing: the modality is not available. An utterance that has no other keeps it. noise: white noise is
            added to every frame.
        noise: its standard deviation, in those of each feature dimension over the data's own frames.
        seed: draws the utterances, and the noise.
    """

    modality: str
    share: float
    kind: Literal["missing", "noise"] = "missing"
    noise: float = 1.0
    seed: int = 0

    def of(self, data: Dataset) -> Dataset:
        """The degraded data.

        Raises:
            SettingsError: the data have no such modality, or the share is none.
            DataError: no utterance has another modality, so none could be missing.
        """
        if self.modality not in data.frames:
            raise SettingsError(f"{data.name} has no {self.modality} here; it has {', '.join(data.frames)}.")
        if not 0 <= self.share <= 1:
            raise SettingsError(f"A share of utterances lies between 0 and 1; {self.share:g} does not.")
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(data), generator=generator)
        column = data.modalities.index(self.modality)
        available = data.available.cpu()
        able = available[:, column]
        if self.kind == "missing":
            able = able & (available.sum(dim=1) > 1)
            if not able.any():
                raise DataError(f"{data.name}: no utterance has a modality beside {self.modality} that could be left.")
        candidates = order[able[order]]
        rows = candidates[: round(self.share * len(candidates))].to(data.dialogues.device)
        if self.kind == "missing":
            lengths = data.lengths[self.modality].clone()
            lengths[rows] = 0
            return replace(data, lengths={**data.lengths, self.modality: lengths})
        return self._noised(data, rows.tolist(), generator)

    def of_training(self, fold: Selection) -> Selection:
        """Training and validation degraded, a test split as it is."""
        train, val = self.of(fold.train), self.of(fold.val)
        return Splits(train, val, fold.open_test()) if isinstance(fold, Splits) else Selection(train, val)

    def _noised(self, data: Dataset, rows: list[int], generator: torch.Generator) -> Dataset:
        """Noised copies of the frames of `rows` behind the others, where nothing else points to."""
        if isinstance(data, Windowed):
            raise SettingsError(f"{data.name} is read in windows: noise needs all of it in memory.")
        if not rows:
            return data
        frames = data.frames[self.modality]
        _, deviation = scales(data, True)[self.modality]
        starts, lengths = data.starts[self.modality].clone(), data.lengths[self.modality]
        copies, laid, end = [], [], len(frames)
        for row in rows:
            begin, length = int(starts[row]), int(lengths[row])
            clean = frames[begin : begin + length]
            noise = torch.randn(clean.shape, generator=generator) * self.noise * deviation
            copies.append((clean.float() + noise.to(frames.device)).to(frames.dtype))
            laid.append(torch.arange(begin, begin + length, device=frames.device))
            starts[row] = end
            end += length
        index = torch.cat([torch.arange(len(frames), device=frames.device), *laid])
        return replace(
            data,
            frames={**data.frames, self.modality: torch.cat([frames, *copies])},
            starts={**data.starts, self.modality: starts},
            companions={
                name: replace(c, values=c.values[index], there=c.there[index]) if c.modality == self.modality else c
                for name, c in data.companions.items()
            },
        )
