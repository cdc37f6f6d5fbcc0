"""What a model says about a split, in its order; the same batches every time.

Axes: N utterances of a split, C classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cache_schema.errors import MerError
from cache_schema.samples import Target
from fuse import metrics
from fuse.arch import probabilities
from fuse.data import Dataset
from fuse.model import Model
from fuse.training.losses import Loss


class DivergedError(MerError):
    """Training met a loss or a gradient that is not finite."""


@dataclass(frozen=True)
class Predictions:
    """What a model says about a split, in its order.

    Attributes:
        ids: which utterances (N).
        loss: mean loss against the labels, nan without labels.
        truth: as `Dataset.labels`, or None.
        prediction: class index (N,), 0 or 1 per class (N, C), or a number (N,).
        probabilities: (N, C); None for regression.
        drawn: the drawn quantities that are one number per utterance, each (N,).
    """

    ids: tuple[str, ...]
    loss: float
    truth: metrics.Array | None
    prediction: metrics.Array
    probabilities: metrics.Array | None
    drawn: dict[str, metrics.Array]

    def measure(self, target: Target) -> dict[str, float]:
        """The target's metrics."""
        if self.truth is None:
            raise MerError("Without labels there is nothing to measure.")
        return metrics.measure(target, self.truth, self.prediction)


@dataclass(frozen=True)
class Seen:
    """What an epoch is judged by: the mean loss on validation, and its metrics."""

    loss: float
    metrics: dict[str, float]


@torch.no_grad()
def predict(
    model: Model, data: Dataset, batch_size: int, criterion: Loss | None = None, context: str = ""
) -> Predictions:
    """What `model` says about `data`, in its order; the batches are the same every time.

    Args:
        model: trained, or in training.
        data: which utterances.
        batch_size: how many at a time.
        criterion: what the loss is measured with; None: it is not.
        context: with what an error begins.

    Raises:
        DivergedError: the output or the loss is not finite; says for which utterance, and which parameter is not.
    """
    model.eval()
    kind = data.target.kind
    logits: list[Tensor] = []
    drawn: dict[str, list[Tensor]] = {}
    rows: list[Tensor] = []
    for row, batch in data.numbered(batch_size, model.network.unit):
        output = model(batch)
        rows.append(row)
        logits.append(output.logits)
        for name, values in output.drawn.items():
            if values.ndim == 1:
                drawn.setdefault(name, []).append(values)
    back = torch.argsort(torch.cat(rows))
    ordered = torch.cat(logits)[back]
    require_finite(ordered, model, data, context)
    loss = float("nan")
    if criterion is not None:
        loss = finite_loss(criterion(ordered, data.labels).item(), data, context)
    prediction, chances = decided(ordered, kind)
    return Predictions(
        ids=data.ids,
        loss=loss,
        truth=None if data.labels is None else data.labels.cpu().numpy(),
        prediction=prediction.cpu().numpy(),
        probabilities=None if chances is None else chances.cpu().numpy(),
        drawn={name: torch.cat(parts)[back].cpu().numpy() for name, parts in drawn.items()},
    )


def require_finite(logits: Tensor, model: nn.Module, data: Dataset, context: str) -> None:
    """Refuse an output (N, *C) that is not finite.

    Raises:
        DivergedError: for which utterance, and which parameter is not finite either.
    """
    bad = ~torch.isfinite(logits).reshape(len(logits), -1).all(dim=1)
    if bad.any():
        raise DivergedError(
            f"{context}the model's output for {data.ids[int(bad.nonzero()[0])]!r} is not finite; {culprit(model)}. "
            "Try a lower lr, or look at this utterance's features."
        )


def finite_loss(loss: float, data: Dataset, context: str) -> float:
    """The mean loss on labelled data.

    Raises:
        DivergedError: it is not finite.
    """
    if not math.isfinite(loss):
        raise DivergedError(f"{context}the loss on {len(data)} utterances is {loss:g}. Try a lower lr.")
    return loss


def decided(logits: Tensor, kind: str) -> tuple[Tensor, Tensor | None]:
    """Predictions as in `Predictions`, and the probabilities; None for regression."""
    if kind == "regression":
        return logits, None
    chances = probabilities(logits, kind)
    return chances.argmax(dim=1) if kind == "classification" else (chances > 0.5).to(torch.int64), chances


def culprit(model: nn.Module) -> str:
    """The first parameter that is not finite, or whose gradient is not."""
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            return f"the first parameter that is not finite is {name}"
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            return f"all parameters are finite, the first gradient that is not belongs to {name}"
    return "all parameters are finite"
