"""Convolutions over sequences against torch's and the same of one sequence, and what dropout does to the maximum over
time."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional as F

from fuse.nn.convolution import Convolution, Convolutions


@pytest.mark.parametrize(("frames", "kernel"), [(1, 5), (2, 3), (7, 1), (9, 3)])
def test_it_is_torchs_of_frames_as_they_lie(frames: int, kernel: int) -> None:
    """A small product, and one that torch gives to oneDNN; with the gradients of the frames and the parameters."""
    for width, channels, dtype in ((3, 4, torch.float64), (40, 640, torch.float32)):
        torch.manual_seed(0)
        ours = Convolution(width, channels, kernel).to(dtype)
        theirs = nn.Conv1d(width, channels, kernel, padding="same").to(dtype)
        theirs.load_state_dict(ours.state_dict())
        x = torch.randn(5, frames, width, dtype=dtype, requires_grad=True)
        found, expected = ours(x), theirs(x.transpose(1, 2)).transpose(1, 2)
        torch.testing.assert_close(found, expected)
        g = torch.randn_like(expected)
        ways = ((found, ours), (expected, theirs))
        gradients = [torch.autograd.grad(y, [x, *layer.parameters()], g) for y, layer in ways]
        torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-4 if dtype is torch.float32 else 1e-12)


def test_seeds_that_are_mapped_over_have_the_gradients_of_each() -> None:
    models = [Convolutions(3, (4, 5), kernel=3, dropout=0.0).double() for _ in range(3)]
    lengths = torch.tensor([6, 1, 0])
    x = torch.randn(3, 6, 3, dtype=torch.float64) * (torch.arange(6) < lengths[:, None])[..., None]

    def loss(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
        found: torch.Tensor = functional_call(models[0], parameters, (x, lengths))
        return found.square().sum()

    together = vmap(grad(loss))(stack_module_state(models)[0])
    for seed, model in enumerate(models):
        model(x, lengths).square().sum().backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(together[name][seed], parameter.grad)


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
