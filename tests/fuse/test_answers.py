"""How sure an ensemble is: against the definitions, and against what several draws of one model say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fuse.answers import _weights, uncertainty
from fuse.nn.monte_carlo import average_draws


def test_it_is_sure_unsure_or_divided() -> None:
    sure, even = np.eye(3)[:1], np.full((1, 3), 1 / 3)
    assert uncertainty(sure, "classification") == {"entropy": 0.0}
    assert uncertainty(even, "classification")["entropy"] == pytest.approx(1.0)
    divided = uncertainty(np.eye(3), "classification")
    assert divided == {"entropy": pytest.approx(1.0), "disagreement": pytest.approx(1.0)}
    agreed = uncertainty(np.repeat(even, 4, axis=0), "classification")
    assert agreed == {"entropy": pytest.approx(1.0), "disagreement": pytest.approx(0.0, abs=1e-12)}
    assert uncertainty(np.array([[0.0, 1.0], [1.0, 1.0]]), "multilabel") == {
        "entropy": pytest.approx(0.5),
        "disagreement": pytest.approx(0.5),
    }


@pytest.mark.parametrize("kind", ["classification", "multilabel"])
def test_it_equals_the_entropies_of_several_draws_in_their_unit(kind: str) -> None:
    logits = torch.randn(5, 1, 4, generator=torch.Generator().manual_seed(0)).double()
    _, expected = average_draws(logits, kind)
    chances = torch.sigmoid(logits) if kind == "multilabel" else torch.softmax(logits, dim=-1)
    most = 4 * math.log(2) if kind == "multilabel" else math.log(4)
    found = uncertainty(chances[:, 0].numpy(), kind)
    assert found["entropy"] == pytest.approx(float(expected["predictive_entropy"]) / most)
    assert found["disagreement"] == pytest.approx(float(expected["mutual_information"]) / most)


def test_weights_are_what_every_modality_has() -> None:
    drawn = {"precision_text": 0.4, "precision_speech": 0.6, "alpha_text": 0.3, "alpha_speech": 0.7}
    drawn |= {"level_low": 0.2, "gate_text": 0.1, "sigma": 2.0}
    found = _weights(drawn, ("speech", "text"))
    assert list(found) == ["alpha", "precision"]
    assert found["alpha"] == {"text": 0.3, "speech": 0.7}
    assert _weights({"alpha_text": 1.0}, ("text",)) == {}
