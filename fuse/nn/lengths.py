"""Sequences with lengths: masks and pooling that see no padding.

Axes: B sequences, T frames of the longest, S steps, D width.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F


def frame_mask(lengths: Int[Tensor, " B"], frames: int) -> Bool[Tensor, "B {frames}"]:
    """True where a frame belongs to its sequence, False in the padding."""
    return torch.arange(frames, device=lengths.device) < lengths[:, None]


def resample(x: Float[Tensor, "B T D"], lengths: Int[Tensor, " B"], steps: int) -> Float[Tensor, "B {steps} D"]:
    """Adaptive average pooling of each sequence's own frames to `steps` steps; an empty sequence gives zeros.

    Step s of a sequence of L frames is the mean of the frames from floor(s L / steps) up to ceil((s + 1) L / steps), as
    `torch.nn.functional.adaptive_avg_pool1d` has it for a sequence without padding. One step is the mean over time; a
    sequence shorter than `steps` has its frames repeated.
    """
    return pooling(lengths, torch.full_like(lengths, steps), x.shape[1], steps, x.dtype) @ x


def shorten(
    x: Float[Tensor, "B T D"], lengths: Int[Tensor, " B"], most: int
) -> tuple[Float[Tensor, "B S D"], Int[Tensor, " B"], Float[Tensor, "B S"]]:
    """Sequences of more than `most` frames pooled to `most` as `resample` does, shorter ones as they are.

    Returns:
        The frames, S = min(T, most) of them; the new lengths; and the times of the frames in old frames, frame k at
        k + 0.5, pooled with the frames.
    """
    time = (torch.arange(x.shape[1], device=x.device) + 0.5).to(x.dtype)
    if x.shape[1] <= most:
        return x, lengths, time.expand(len(x), -1)
    steps = lengths.clamp(max=most)
    weights = pooling(lengths, steps, x.shape[1], most, x.dtype)
    return weights @ x, steps, weights @ time


def pooling(
    lengths: Int[Tensor, " B"], steps: Int[Tensor, " B"], frames: int, most: int, dtype: torch.dtype
) -> Float[Tensor, "B {most} {frames}"]:
    """What each frame counts in each of a sequence's `steps` steps, of which none has more than `most`."""
    step = torch.arange(most, device=lengths.device)
    length, own = lengths[:, None], steps[:, None].clamp(min=1)
    first = (step * length) // own
    last = ((step + 1) * length + own - 1) // own
    frame = torch.arange(frames, device=lengths.device)
    inside = (frame >= first[..., None]) & (frame < last[..., None]) & (step < steps[:, None])[..., None]
    return inside.to(dtype) / (last - first).clamp(min=1)[..., None].to(dtype)


def average_pool(
    x: Float[Tensor, "B T D"], lengths: Int[Tensor, " B"], factor: int
) -> tuple[Float[Tensor, "B _ D"], Int[Tensor, " B"]]:
    """The means of every `factor` frames (B, ceil(T / factor), D), of a sequence's last ones as many as it has; and how
    many means each sequence has. `x` must be zero in its padding, and so is what comes back."""
    steps = -(-x.shape[1] // factor)
    padded = F.pad(x, (0, 0, 0, steps * factor - x.shape[1]))
    sums = padded.view(len(x), steps, factor, x.shape[2]).sum(dim=2)
    first = torch.arange(steps, device=x.device) * factor
    count = (lengths[:, None] - first).clamp(min=1, max=factor)
    return sums / count[..., None].to(x.dtype), (lengths + factor - 1) // factor
