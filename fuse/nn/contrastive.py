"""Contrast of two embeddings of the same utterances against the other utterances of the batch.

Axes: B utterances, d width.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F


def info_nce(
    anchors: Float[Tensor, "B d"],
    candidates: Float[Tensor, "B d"],
    anchored: Bool[Tensor, " B"],
    candidate: Bool[Tensor, " B"],
    temperature: float,
) -> Float[Tensor, " B"]:
    """-log(exp(sim(a_n, c_n) / temperature) / sum_q exp(sim(a_n, c_q) / temperature)), sim the cosine (InfoNCE, van den
    Oord et al. 2018, equation 4).

    Args:
        anchors: a.
        candidates: c; that of the anchor's own utterance is the positive one.
        anchored: which utterances are anchors; 0 is given for the others.
        candidate: which utterances are candidates, every anchor among them. A single one gives 0.
        temperature: what similarities are divided by.
    """
    similarity = F.normalize(anchors, dim=1) @ F.normalize(candidates, dim=1).T / temperature
    own = torch.eye(len(anchors), dtype=torch.bool, device=anchors.device)
    loss = -similarity.masked_fill(~(candidate | own), float("-inf")).log_softmax(dim=1).diagonal()
    return torch.where(anchored, loss, 0.0)
