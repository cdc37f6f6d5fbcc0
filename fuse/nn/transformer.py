"""The layer of a Transformer's encoder.

Axes: G sequences, T steps, S what is attended to, H heads, d model width.
"""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor, nn

from fuse.nn.attention import MultiHeadAttention


class EncoderLayer(nn.Module):
    """LayerNorm(MultiHead + residual), then LayerNorm(FFN + identity): a post-norm Transformer encoder layer.

    Self-attention where the steps are their own memory and residual (Vaswani et al. 2017, 3.1).

    Args:
        d: model width.
        heads: attention heads.
        head_width: width of a head.
        hidden: width of the feed-forward part.
        dropout: of each sublayer's output, before the residual is added (Vaswani et al. 2017, 5.4).
    """

    def __init__(self, d: int, heads: int, head_width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attend = MultiHeadAttention(d, heads, head_width)
        self.feed_forward = nn.Sequential(nn.Linear(d, hidden), nn.ReLU(), nn.Linear(hidden, d))
        self.norm_attention, self.norm_feed_forward = nn.LayerNorm(d), nn.LayerNorm(d)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "G T d"],
        memory: Float[Tensor, "G S d"],
        residual: Float[Tensor, "G T d"],
        visible: Bool[Tensor, "_ _ S"] | None,
    ) -> tuple[Float[Tensor, "G T d"], Float[Tensor, "G H T S"] | None]:
        """The layer's output and, after training, its attention weights."""
        read, weights = self.attend(x, memory, visible)
        y = self.norm_attention(self.dropout(read) + residual)
        return self.norm_feed_forward(y + self.dropout(self.feed_forward(y))), weights
