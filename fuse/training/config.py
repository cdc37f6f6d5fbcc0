"""Settings of training: what every architecture can be trained with. Each architecture has its paper's own defaults."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cache_schema.settings import Spec
from fuse.precision import Precision

ClassificationMetric = Literal["accuracy", "macro_f1", "weighted_f1", "uar", "precision", "recall"]
MultilabelMetric = Literal["micro_f1", "binary_f1", "subset_accuracy"]
RegressionMetric = Literal["mae", "mse", "rmse", "pearson", "ccc"]
SentimentMetric = Literal["acc2", "f1", "acc2_nonneg", "f1_nonneg", "acc5", "acc7"]


Schedule = Literal["plateau", "onecycle", "cosine", "constant"]


class Group(Spec):
    """What a block of the model does otherwise than the rest; what is not set is as for the rest."""

    lr: float | None = Field(default=None, gt=0)
    """Learning rate of the block, the greatest for onecycle."""
    weight_decay: float | None = Field(default=None, ge=0)
    """Weight decay of the block."""
    scheduler: Schedule | None = None
    """Schedule of the block's learning rate."""


class TrainConfig(Spec):
    """How a model is trained and which of its epochs is kept. The test split has no part in any of it."""

    optimizer: Literal["adamw", "adam"] = "adamw"
    """adamw: decoupled weight decay (Loshchilov & Hutter 2019); adam: decay inside the gradient."""
    lr: float = Field(default=3e-4, gt=0)
    """Initial learning rate; for onecycle the greatest."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Weight decay of all parameters."""
    active_experts: bool = False
    """Experts that no utterance of a step was sent to stand still, moments and decay included: for so many experts that
    the optimizer is most of a step. Not the same as Adam over all of them (`fuse/kernels/active_adamw`)."""
    scheduler: Schedule = "plateau"
    """plateau: the rate is multiplied by `plateau_factor` when the monitored quantity stops improving; onecycle: up to
    `lr` and down to nothing over all steps of `max_epochs` (Smith & Topin 2019); cosine: down to nothing along half a
    cosine over them (Loshchilov & Hutter 2017); constant: as it is."""
    warmup: float = Field(default=0.3, gt=0, lt=1)
    """Share of the steps in which onecycle rises."""
    groups: dict[str, Group] = Field(default_factory=dict)
    """Blocks of the model (submodules, by name) with settings of their own."""
    plateau_factor: float = Field(default=0.5, gt=0, lt=1)
    """What the rate is multiplied by on a plateau."""
    plateau_patience: int = Field(default=2, ge=0)
    """Epochs without improvement that the plateau scheduler tolerates."""
    clip: float | None = Field(default=1.0, gt=0)
    """Greatest Euclidean norm of the whole gradient; null: no clipping."""
    batch_size: int = Field(default=64, ge=1)
    """Utterances per batch; where dialogues are the unit, whole dialogues with at least as many in all."""
    max_epochs: int = Field(default=50, ge=1)
    """Epochs after which training ends in any case."""
    patience: int = Field(default=5, ge=1)
    """Training stops after so many epochs without improvement on validation."""
    monitor: Literal["loss"] | ClassificationMetric | MultilabelMetric | RegressionMetric | SentimentMetric = "loss"
    """What is watched on validation: the loss, or one of the task's metrics."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: a class weighs as the inverse of its training frequency (multilabel: positives against negatives)."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Probability mass that classification targets spread evenly over all classes."""
    focal_gamma: float = Field(default=0.0, ge=0)
    """Focal loss (Lin et al. 2017): what is predicted well counts less, by (1 - p)^gamma; 0: plain cross-entropy."""
    modality_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability that training hides a modality of an utterance; one at least is always left."""
    regression_loss: Literal["mse", "mae"] = "mse"
    """What regression minimises: squared or absolute error."""
    precision: Precision = "fp32"
    """What training computes in (`fuse/precision.py`): fp32; bf16, whose numbers differ by its rounding; or auto, which
    is bf16 on a CPU with units for it, else fp32. Runs record which; validation and test are measured in fp32."""
    standardize: bool = True
    """Each feature dimension is shifted and scaled to mean 0 and deviation 1 over the training split's frames."""
    drop_empty: bool = False
    """Leave out, and list in the run, samples in which every modality failed or is absent; else they are an error."""
    shuffle_labels: bool = False
    """Permute the labels of training and validation: a sanity check, after which test results must fall to chance."""
