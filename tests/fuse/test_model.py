"""What a CPU does in another order for speed gives the same numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fuse import model
from fuse.archs.symphonia import one_filter
from fuse.nn.fixed import shapes_are_fixed


@pytest.mark.parametrize("block", [1, 60, model.BLOCK])
def test_block_after_block_is_standardised_as_the_whole(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, lengths = torch.randn(3, 5, 7, 4).half(), torch.tensor([5, 0, 2])
    x[1], x[2, 2:] = torch.nan, torch.inf
    scale, shift = torch.rand(7, 4), torch.randn(7, 4)
    whole = model.standardized(x.clone().requires_grad_(), lengths, scale, shift).detach()
    monkeypatch.setattr(model, "BLOCK", block)
    found = model.standardized(x, lengths, scale, shift)
    assert torch.equal(found, whole) and found.dtype == torch.float32
    assert not found[1].any() and not found[2, 2:].any() and found.isfinite().all()
    torch.testing.assert_close(found[0], x[0].float() * scale + shift)


def test_an_empty_batch_is_standardised() -> None:
    assert model.standardized(torch.empty(0, 5, 4), torch.empty(0).long(), torch.ones(4), torch.zeros(4)).shape == (
        0,
        5,
        4,
    )


def test_what_is_exported_holds_no_lengths() -> None:
    class Standardized(nn.Module):
        def forward(self, *given: torch.Tensor) -> torch.Tensor:
            return model.standardized(*given)

    rest = torch.rand(4), torch.randn(4)
    one, other = ((torch.randn(3, 5, 4), torch.tensor(lengths), *rest) for lengths in ([5, 0, 2], [1, 4, 5]))
    exported = torch.export.export(Standardized(), one, strict=False).module()
    for given in (one, other):
        torch.testing.assert_close(exported(*given), model.standardized(*given))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.jit ends, some day
def test_shapes_are_fixed_while_traced() -> None:
    seen: list[bool] = []

    def look(x: torch.Tensor) -> torch.Tensor:
        seen.append(shapes_are_fixed(x))
        return x + 1

    look(torch.ones(2))
    torch.jit.trace(look, torch.ones(2), check_trace=False)
    assert seen == [False, True]


def test_one_filter_over_many_pictures_is_a_convolution() -> None:
    maps, bias = (torch.rand(6, 1, 9, 9) < 0.2).float(), torch.randn(1, requires_grad=True)
    weight = torch.randn(1, 1, 5, 5, requires_grad=True)
    found, wanted = one_filter(maps, weight, bias), F.conv2d(maps, weight, bias, padding=2)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    upstream = torch.randn_like(wanted)
    for one, other in zip(
        torch.autograd.grad(found, (weight, bias), upstream),
        torch.autograd.grad(wanted, (weight, bias), upstream),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert one_filter(maps[:0], weight, bias).shape == (0, 1, 9, 9)
