"""Convolutions over sequences against the same of one sequence, and what dropout does to the maximum over time."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from fuse.nn.convolution import Convolutions


def test_it_is_the_maximum_over_each_sequences_own_frames() -> None:
    torch.manual_seed(0)
    model, lengths = Convolutions(3, (4, 5), kernel=3, dropout=0.5).eval(), torch.tensor([6, 1, 0])
    x = torch.randn(3, 6, 3) * (torch.arange(6) < lengths[:, None])[..., None]
    found = model(x, lengths)
    for row in range(2):
        h = x[row, : lengths[row]].T
        for layer in model.layers:
            h = F.relu(F.conv1d(h, layer.weight, layer.bias, padding="same"))  # type: ignore[arg-type]
        torch.testing.assert_close(found[row], h.max(dim=1).values)
    assert not found[2].any()


def test_dropout_does_not_scale_the_maximum() -> None:
    """After dropout the greatest of many frames is one that was scaled up; evaluation would find it smaller."""
    torch.manual_seed(0)
    x, lengths = torch.randn(4, 200, 3), torch.full((4,), 200)
    one = Convolutions(3, (8,), kernel=3, dropout=0.5)
    torch.testing.assert_close(one.train()(x, lengths), one.eval()(x, lengths))
    two = Convolutions(3, (8, 8), kernel=3, dropout=0.5)
    assert not torch.allclose(two.train()(x, lengths), two.eval()(x, lengths))
