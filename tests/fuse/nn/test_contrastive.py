"""InfoNCE against torch's cross-entropy, and over what is there."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from fuse.nn.contrastive import info_nce

ALL = torch.ones(6, dtype=torch.bool)


def test_it_is_the_cross_entropy_of_finding_the_own_candidate() -> None:
    anchors, candidates = torch.randn(2, 6, 4, dtype=torch.float64)
    similarity = F.cosine_similarity(anchors[:, None], candidates[None], dim=-1)
    expected = F.cross_entropy(similarity / 0.3, torch.arange(6), reduction="none")
    torch.testing.assert_close(info_nce(anchors, candidates, ALL, ALL, 0.3), expected)


def test_what_is_no_candidate_or_no_anchor_takes_no_part() -> None:
    anchors, candidates = torch.randn(2, 6, 4).requires_grad_()
    anchored = torch.tensor([True, False, True, False, False, True])
    candidate = torch.tensor([True, False, True, True, False, True])
    found = info_nce(anchors, candidates, anchored, candidate, 0.3)
    alone = info_nce(anchors[candidate], candidates[candidate], anchored[candidate], ALL[:4], 0.3)
    torch.testing.assert_close(found[candidate], alone)
    assert not found[~anchored].any()


def test_a_single_candidate_gives_nothing_and_zeros_give_no_nan() -> None:
    one = torch.tensor([True, False, False, False, False, False])
    anchors = torch.zeros(6, 4, requires_grad=True)
    loss = info_nce(anchors, torch.zeros(6, 4), one, one, 0.07)
    assert not loss.any()
    info_nce(anchors, torch.zeros(6, 4), ALL, ALL, 0.07).sum().backward()
    assert anchors.grad is not None and torch.isfinite(anchors.grad).all()
