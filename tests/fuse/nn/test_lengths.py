"""Pooling that sees no padding, against torch's own on each sequence alone."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from fuse.nn.lengths import average_pool, frame_mask, resample, shorten


@pytest.mark.parametrize("steps", [1, 2, 5, 16])
def test_resampling_is_adaptive_average_pooling_of_each_sequence_alone(steps: int) -> None:
    lengths = torch.tensor([1, 2, 5, 11, 23])
    x = torch.randn(5, 23, 3, dtype=torch.float64)
    out = resample(x, lengths, steps)
    for row, length in enumerate(lengths.tolist()):
        alone = F.adaptive_avg_pool1d(x[row, :length].T[None], steps)[0].T
        torch.testing.assert_close(out[row], alone)


def test_an_empty_sequence_gives_zeros() -> None:
    x = torch.ones(2, 4, 3)
    assert resample(x, torch.tensor([0, 4]), 5).sum((1, 2)).tolist() == [0.0, 15.0]


def test_masks() -> None:
    assert frame_mask(torch.tensor([0, 2]), 3).tolist() == [[False, False, False], [True, True, False]]


def test_what_is_too_long_is_pooled_and_its_times_with_it() -> None:
    lengths = torch.tensor([0, 3, 8, 9, 23])
    x = torch.randn(5, 23, 3, dtype=torch.float64)
    x[~frame_mask(lengths, 23)] = 0
    out, short, times = shorten(x, lengths, 8)
    assert short.tolist() == [0, 3, 8, 8, 8] and out.shape == (5, 8, 3)
    middles = torch.arange(23, dtype=torch.float64) + 0.5
    for row, length in enumerate(lengths.tolist()):
        kept = min(length, 8)
        for value, mine in ((x[row], out[row]), (middles[:, None], times[row, :, None])):
            alone = F.adaptive_avg_pool1d(value[:length].T[None], kept)[0].T if length > 8 else value[:length]
            torch.testing.assert_close(mine[:kept], alone)
        assert not out[row, kept:].any()


def test_what_is_short_enough_stays_as_it_is() -> None:
    x, lengths = torch.randn(2, 4, 3), torch.tensor([2, 4])
    out, short, times = shorten(x, lengths, 4)
    assert out is x and short is lengths and times.tolist() == [[0.5, 1.5, 2.5, 3.5]] * 2


def test_means_of_few_frames_are_those_of_their_own() -> None:
    x = torch.randn(2, 7, 3)
    x[1, 5:] = 0
    means, lengths = average_pool(x, torch.tensor([7, 5]), 3)
    assert lengths.tolist() == [3, 2]
    torch.testing.assert_close(means[0], torch.stack([x[0, :3].mean(0), x[0, 3:6].mean(0), x[0, 6]]))
    torch.testing.assert_close(means[1], torch.stack([x[1, :3].mean(0), x[1, 3:5].mean(0), torch.zeros(3)]))
