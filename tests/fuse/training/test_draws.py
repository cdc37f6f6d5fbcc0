"""Random numbers are those that were drawn before, or the layer is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fuse.training.draws import Counting, Drawn, NotDrawnBeforeError

X = torch.arange(12.0).view(2, 3, 2) + 1


def attend(dropout: float) -> Callable[[], Tensor]:
    module = nn.MultiheadAttention(2, 1, dropout=dropout, batch_first=True)
    return lambda: module(X, X, X, need_weights=False)[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "draw",
    [
        attend(0.5),
        lambda: F.scaled_dot_product_attention(X, X, X, None, 0.5),
        lambda: F.scaled_dot_product_attention(X, X, X, dropout_p=0.5),
        lambda: nn.LSTM(2, 2, 2, dropout=0.5)(X)[0],
        lambda: nn.Dropout1d()(X),
        lambda: torch.bernoulli(X / 12),
        lambda: torch.empty(3).uniform_(),
        lambda: torch.dropout(X, 0.5, True),
    ],
)
def test_what_draws_inside_of_it_is_refused(draw: Callable[[], Tensor]) -> None:
    with pytest.raises(NotDrawnBeforeError, match="draws inside"), Drawn(torch.rand(99), torch.randn(99)):
        draw()


@pytest.mark.parametrize(
    "work",
    [
        attend(0.0),
        lambda: F.scaled_dot_product_attention(X, X, X),
        lambda: nn.LSTM(2, 2, 2)(X)[0],
        lambda: nn.LSTM(2, 2, 2, dropout=0.5).eval()(X)[0],
    ],
)
def test_what_draws_nothing_is_let_through(work: Callable[[], Tensor]) -> None:
    with Counting() as counted:
        assert torch.isfinite(work()).all()
    assert counted.uniforms == counted.normals == 0


def test_layers_get_what_was_drawn_in_order() -> None:
    uniform, normal = torch.rand(17), torch.randn(5)

    def layers() -> tuple[Tensor, ...]:
        return nn.Dropout(0.25)(X), torch.rand(2, 2), torch.rand_like(X[0, 0, :1]), torch.randn((5,))

    with Counting() as counted:
        layers()
    assert (counted.uniforms, counted.normals) == (17, 5)
    with Drawn(uniform, normal):
        dropped, square, one, five = layers()
    torch.testing.assert_close(dropped, X * (uniform[:12].view_as(X) >= 0.25) / 0.75)
    assert torch.equal(square, uniform[12:16].view(2, 2)) and torch.equal(one, uniform[16:])
    assert torch.equal(five, normal)
