"""What several draws of a stochastic model say together.

Axes: K draws, B utterances, C classes.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from cache_schema.errors import SettingsError


def average_draws(
    logits: Float[Tensor, "K B *C"], kind: str
) -> tuple[Float[Tensor, " B *C"], dict[str, Float[Tensor, " B"]]]:
    """The logits of the mean prediction, and how uncertain it is.

    Classification and multilabel (summed over the classes' own binary entropies) give `predictive_entropy`, the entropy
    of the mean probabilities, and `mutual_information`, what of it stems from the draws disagreeing, both in nats
    (Depeweg et al. 2018, section 2). Regression gives `predictive_variance`, the variance over the draws.

    Raises:
        SettingsError: `kind` is not one of a target's kinds.
    """
    if kind == "regression":
        return logits.mean(dim=0), {"predictive_variance": logits.var(dim=0, correction=0)}
    if kind == "classification":
        each = logits.log_softmax(dim=-1)
        mean = each.logsumexp(dim=0) - math.log(len(logits))
        entropy, expected = -(mean.exp() * mean).sum(dim=-1), -(each.exp() * each).sum(dim=-1).mean(dim=0)
    elif kind == "multilabel":
        yes, no = F.logsigmoid(logits), F.logsigmoid(-logits)
        mean_yes, mean_no = (t.logsumexp(dim=0) - math.log(len(logits)) for t in (yes, no))
        entropy = -(mean_yes.exp() * mean_yes + mean_no.exp() * mean_no).sum(dim=-1)
        expected = -(yes.exp() * yes + no.exp() * no).sum(dim=-1).mean(dim=0)
        mean = mean_yes - mean_no
    else:
        raise SettingsError(f"There is no kind of target called {kind!r}.")
    information = (entropy - expected).clamp(min=0)
    return mean, {"predictive_entropy": entropy, "mutual_information": information}


def noise_like(sigma: Float[Tensor, "*_"]) -> Float[Tensor, "*_"]:
    """A sample of N(0, sigma^2), elementwise, drawn in float32 whatever its type."""
    return torch.randn_like(sigma, dtype=torch.float32) * sigma
