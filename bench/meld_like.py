"""Random features with MELD-like lengths, for the benchmarks of training.

Utterances of 0.3 to 15 s, median 2.5 s. Rates, widths and types are those of mer's encoders; a word lasts 0.3 s and
is one to three tokens.

Axes: N utterances, F frames of all of them.
"""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from cache_schema.samples import Target
from fuse.data import Dataset, Laid

EMOTIONS = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")
TARGET = Target(name="emotion", kind="classification", classes=EMOTIONS)
LONGEST = 15.0
"""Seconds."""
SIGNAL = 0.3
"""How far a class's frames lie from the others', in standard deviations: so little that training has work to do."""
FACE_FOUND = 0.95


class Feature(NamedTuple):
    """An encoder's frames: how many per second and utterance, and their shape."""

    rate_hz: float
    extra: int
    tail: tuple[int, ...]


FEATURES = {
    "mfcc": Feature(100.0, 0, (40,)),
    "logmel": Feature(100.0, 0, (80,)),
    "hubert": Feature(50.0, 0, (768,)),
    "roberta": Feature(4.5, 2, (768,)),
    "koelectra": Feature(4.5, 2, (768,)),
    "resnet": Feature(5.0, 0, (512,)),
    "vit": Feature(5.0, 0, (50, 768)),
}


def durations(count: int, random: torch.Generator, longest: float = LONGEST) -> Tensor:
    """Seconds of each utterance (N,)."""
    return (2.5 * torch.exp(0.75 * torch.randn(count, generator=random))).clamp(0.3, longest)


def features_of(module: ModuleType) -> dict[str, str]:
    """Modality -> the feature that an architecture prefers of those that MELD has."""
    found = {m: next((n for n in names if n in FEATURES), "") for m, names in module.PREFERS.items()}
    return {modality: name for modality, name in found.items() if name}


def make_data(module: ModuleType, count: int, seed: int = 0, longest: float = LONGEST) -> Dataset:
    """What an architecture reads, as it lies in memory after loading: fp16, one after the other."""
    random = torch.Generator().manual_seed(seed)
    seconds = durations(count, random, longest)
    labels = torch.randint(0, len(EMOTIONS), (count,), generator=random)
    chosen = features_of(module)
    lengths = {m: (seconds * FEATURES[n].rate_hz).ceil().long() + FEATURES[n].extra for m, n in chosen.items()}
    starts = {m: n.cumsum(0) - n for m, n in lengths.items()}
    frames = {m: _frames(FEATURES[n].tail, lengths[m], labels, random) for m, n in chosen.items()}
    data = Dataset("bench", tuple(map(str, range(count))), TARGET, labels, frames, starts, lengths, torch.arange(count))
    companions = {}
    for name, companion in getattr(module, "COMPANIONS", {}).items():
        if companion.join == "words":
            companions[name] = _intervals(data, FEATURES[chosen["speech"]].rate_hz)
        else:
            there = torch.rand(len(frames[companion.modality]), generator=random) < FACE_FOUND
            points = torch.rand(len(there), *companion.tail, generator=random) * there[:, None, None]
            companions[name] = Laid(companion.modality, points.half(), there)
    return Dataset(**{**vars(data), "companions": companions})


def _frames(tail: tuple[int, ...], lengths: Tensor, labels: Tensor, random: torch.Generator) -> Tensor:
    means = SIGNAL * torch.randn(len(EMOTIONS), tail[-1], generator=random)
    frames = torch.empty(int(lengths.sum()), *tail, dtype=torch.float16)
    of = torch.repeat_interleave(labels, lengths)
    for first in range(0, len(frames), 4096):
        part = frames[first : first + 4096]
        noise = torch.randn(part.shape, generator=random)
        part.copy_(noise + means[of[first : first + 4096]].view(len(part), *[1] * (len(tail) - 1), -1))
    return frames


def _intervals(data: Dataset, rate_hz: float) -> Laid:
    """Each token but the two special ones lasts an equal share of its utterance."""
    tokens, speech = data.lengths["text"], data.lengths["speech"]
    place = torch.arange(int(tokens.sum())) - torch.repeat_interleave(data.starts["text"], tokens)
    inner = torch.repeat_interleave(tokens - 2, tokens)
    there = (place > 0) & (place <= inner)
    step = torch.repeat_interleave(speech, tokens) / inner.clamp(min=1)
    values = torch.stack([(place - 1) * step, place * step], dim=1) * there[:, None]
    return Laid("text", values.float(), there)
