"""Small batches for the baselines' own tests."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch

from cache_schema.samples import Target
from fuse.arch import Batch
from fuse.model import Model

CLASSES = Target(name="emotion", kind="classification", classes=("anger", "joy", "sadness"))
LABELS = Target(name="emotions", kind="multilabel", classes=("anger", "joy", "sadness"))
SENTIMENT = Target(name="sentiment", kind="regression", low=-3, high=3)
TARGETS = (CLASSES, LABELS, SENTIMENT)
TAILS: dict[str, tuple[int, ...]] = {"text": (5,), "speech": (4,), "vision": (3,)}


def make(
    module: ModuleType, target: Target = CLASSES, tails: Mapping[str, tuple[int, ...]] = TAILS, **changes: Any
) -> Model:
    """A baseline behind its door, in float64, ready to predict."""
    torch.manual_seed(0)
    taken = {m: tail for m, tail in tails.items() if m in module.PREFERS}
    return Model.unscaled(module.build(module.Config(**changes), taken, target), taken).double().eval()


def batch(count: int = 5, frames: int = 7, available: list[list[bool]] | None = None) -> Batch:
    """Random sequences of 1 to `frames` frames; `available` has a row per utterance."""
    random = torch.Generator().manual_seed(1)
    there = torch.ones(count, 3, dtype=torch.bool) if available is None else torch.tensor(available)
    sequences = {
        m: torch.randn(count, frames, *tail, generator=random, dtype=torch.float64) for m, tail in TAILS.items()
    }
    lengths = {m: torch.randint(1, frames + 1, (count,), generator=random) for m in TAILS}
    return Batch(
        ids=tuple(f"u{i}" for i in range(count)),
        sequences=sequences,
        lengths=lengths,
        available=there,
        target=torch.arange(count) % 3,
        dialogue=torch.arange(count),
        position=torch.zeros(count, dtype=torch.int64),
    )


SOME_ABSENT = [[True, True, True], [True, False, True], [False, True, False], [True, True, False], [False, False, True]]


def without_gradient(model: Model, loss: torch.Tensor) -> list[str]:
    """The parameters that `loss` does not reach."""
    model.zero_grad()
    loss.backward()
    return [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
