"""The losses of the three kinds of target, with class weights, label smoothing and focusing.

Axes: B utterances of a batch, N utterances of the training split, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from cache_schema.errors import MerError, SettingsError
from cache_schema.samples import Target
from fuse import metrics
from fuse.data import Dataset
from fuse.training.config import TrainConfig


class Loss:
    """The loss of a target: cross-entropy, one binary cross-entropy per class, or squared or absolute error.

    With focal_gamma each cross-entropy counts (1 - p)^gamma, p being the probability of the truth (Lin et al. 2017).

    Args:
        config: class weights, label smoothing, focusing and which regression loss.
        train: the training split, whose labels the class weights are counted in.
    """

    def __init__(self, config: TrainConfig, train: Dataset) -> None:
        self.kind, self.regression_loss = train.target.kind, config.regression_loss
        self.label_smoothing, self.gamma = config.label_smoothing, config.focal_gamma
        self.weights: Tensor | None = None
        if config.class_weights == "balanced" and train.labels is not None:
            self.weights = balanced(train.labels, train.target)

    def __call__(self, logits: Tensor, labels: Tensor | None) -> Tensor:
        """Mean over the batch, weighted by class where there are weights; of logits (B, C) or predictions (B,)."""
        if labels is None:
            raise MerError("Without labels there is no loss.")
        if self.kind == "regression":
            return F.mse_loss(logits, labels) if self.regression_loss == "mse" else F.l1_loss(logits, labels)
        if self.kind == "multilabel":
            if not self.gamma:
                return F.binary_cross_entropy_with_logits(logits, labels, pos_weight=self.weights)
            each = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=self.weights, reduction="none")
            wrong = torch.sigmoid(torch.where(labels > 0, -logits, logits))
            return (focus(wrong, self.gamma) * each).mean()
        if not self.gamma:
            return F.cross_entropy(logits, labels, self.weights, label_smoothing=self.label_smoothing)
        each = F.cross_entropy(logits, labels, self.weights, reduction="none", label_smoothing=self.label_smoothing)
        right = logits.log_softmax(dim=1).gather(1, labels[:, None]).squeeze(1)
        wrong = -torch.expm1(right)
        total = len(labels) if self.weights is None else self.weights[labels].sum()
        return (focus(wrong, self.gamma) * each).sum() / total


def focus(wrong: Tensor, gamma: float) -> Tensor:
    """(1 - p)^gamma of each `wrong` = 1 - p; where that is nothing without a gradient, which has no bound there."""
    return wrong.clamp(min=torch.finfo(wrong.dtype).tiny) ** gamma


def balanced(labels: Tensor, target: Target) -> Tensor:
    """Weight of each class (C,): N / (C n_c), for multilabel negatives / positives; 1 for a class that never or always
    occurs."""
    if target.kind == "multilabel":
        positive = labels.sum(dim=0)
        return torch.where(
            (positive > 0) & (positive < len(labels)), (len(labels) - positive) / positive.clamp(min=1), 1.0
        )
    counts = torch.bincount(labels, minlength=len(target.classes)).float()
    return torch.where(counts > 0, len(labels) / (len(target.classes) * counts.clamp(min=1)), 1.0)


def check(config: TrainConfig, target: Target) -> None:
    """Refuse settings that mean nothing for the target.

    Raises:
        SettingsError: which one, and why.
    """
    known = ["loss", *metrics.names(target)]
    if config.monitor not in known:
        raise SettingsError(
            f"monitor = {config.monitor!r} is no metric of {target.name}: choose one of {', '.join(known)}."
        )
    if config.label_smoothing and target.kind != "classification":
        raise SettingsError(f"label_smoothing is for classification; {target.name} is a {target.kind} target.")
    for name, used in (("class_weights", config.class_weights != "none"), ("focal_gamma", config.focal_gamma > 0)):
        if used and target.kind == "regression":
            raise SettingsError(f"{name} means nothing for {target.name}: it is a regression target.")
