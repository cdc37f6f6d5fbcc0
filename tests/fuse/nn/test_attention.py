"""Attention over few keys, which a CPU computes in a way of its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fuse.nn.attention import FEW, FewKeys, attention


def heads(queries: int, keys: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (3, 2, _, 5), laid out as a projection leaves them."""
    torch.manual_seed(queries)
    found = [torch.randn(3, n, 2, 5, dtype=dtype).transpose(1, 2).requires_grad_() for n in (queries, keys, keys)]
    return found[0], found[1], found[2]


def visible(queries: int, keys: int) -> Tensor:
    """For every query of every sequence some of the keys, at least one."""
    seen = torch.rand(3, 1, queries, keys) < 0.5
    return seen | (torch.arange(keys) == 0)


@pytest.mark.parametrize("masked", [False, True], ids=["all keys", "some keys"])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (8, 8), (20, 3), (2, FEW - 1), (4, FEW)])
def test_attention_is_torchs(queries: int, keys: int, masked: bool) -> None:
    inputs = heads(queries, keys)
    mask = visible(queries, keys) if masked else None
    found, weights = attention(*inputs, mask, 0.3, False)
    wanted = F.scaled_dot_product_attention(*inputs, mask, scale=0.3)
    assert weights is None
    torch.testing.assert_close(found, wanted)
    upstream = torch.randn_like(wanted)
    gradients = torch.autograd.grad(found, inputs, upstream)
    torch.testing.assert_close(gradients, torch.autograd.grad(wanted, inputs, upstream), rtol=1e-4, atol=1e-5)
    weighed, weights = attention(*inputs, mask, 0.3, True)
    torch.testing.assert_close(weighed, found)
    assert weights is not None and weights.shape == (3, 2, queries, keys)


def test_few_keys_have_the_gradients_of_finite_differences() -> None:
    inputs, mask = heads(4, 6, torch.float64), visible(4, 6)
    assert torch.autograd.gradcheck(lambda *x: FewKeys.apply(*x, mask, 0.4), inputs)
    assert torch.autograd.gradgradcheck(lambda *x: FewKeys.apply(*x, mask, 0.4), inputs)


def test_gradients_of_gradients_are_those_of_the_plain_operations() -> None:
    """Where the outer gradient needs none itself, which gradgradcheck does not ask."""
    inputs, mask = heads(4, 6, torch.float64), visible(4, 6)
    found = []
    for weighed in (False, True):
        read, _ = attention(*inputs, mask, 0.4, weighed)
        first = torch.autograd.grad(read.sum(), inputs, create_graph=True)
        found.append(torch.autograd.grad(torch.stack([g.square().sum() for g in first]).sum(), inputs))
    for own, expected in zip(*found, strict=True):
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(own, expected)


def test_great_scores_do_not_overflow() -> None:
    q, k, v = (x.detach() for x in heads(3, 4))
    found, _ = attention(1e4 * q, k, v, None, 1.0, False)
    nearest = (q @ k.mT).argmax(dim=-1)
    torch.testing.assert_close(found, torch.take_along_dim(v, nearest[..., None], dim=2), rtol=1e-3, atol=1e-3)


def test_in_bf16_it_computes_in_float32() -> None:
    inputs = [x.detach().bfloat16() for x in heads(5, 6)]
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = attention(*inputs, None, 0.3, False)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, attention(*(x.float() for x in inputs), None, 0.3, False)[0])
