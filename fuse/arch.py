"""What an architecture is, and what it is given: the contract of every file in `fuse/archs/`.

An architecture file has
    docstring   paper, section, how it differs, its readings, the axis legend
    PREFERS     modality -> names of the features that it reads, best first; its keys are the modalities it takes
    INPUTS      modality -> shape of one frame in the paper's set-up, for counting parameters
    TRAINING    the paper's training defaults, a `TrainConfig`
    ABLATIONS   the paper's ablation rows: name -> the fields of `Config` that it changes
    TABLES      the paper's ablation tables with its numbers, a tuple of `fuse.tables.Table`: `mer fuse ablate`
    Config      its settings, a `Spec`
    build(config, tails, target) -> Architecture
    canonical(config, modalities) -> Config
                optional: `config` with every field at its default that changes nothing for these modalities and the
                other fields (hff: `alignment` with time=dialogue). Cells of a table with the same canonical settings
                and modalities coincide by construction: one is run, the others are printed as ≡.

Blocks of a model may have a schedule of their own: `TrainConfig(groups={"cross": Group(scheduler="onecycle")})`
gives the parameters of the submodule `cross` other settings of the optimizer than the rest (`train_config.Group`).
Blocks that train apart are named in `stages`, and a late fusion fitted on validation in `fit_late_fusion`: see
`Architecture`.

A module takes flat parameters and never sees a config. It may rely on this about a batch: sequences are zero in their
padding and wherever a modality is not available, where the length is zero too (`fuse/model.py` sees to it).

Axes: B utterances of a batch, T_m frames or tokens of modality m, M modalities, C classes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from cache_schema.samples import Target

Unit = Literal["utterance", "dialogue"]


@dataclass(frozen=True)
class Batch:
    """Utterances, padded to the longest of each modality.

    Attributes:
        ids: which utterances.
        sequences: modality -> frames (B, T_m, *tail_m).
        lengths: modality -> frames that each utterance has (B,); 0 where the modality is not available.
        available: which modalities an utterance has (B, M), columns in the order of `sequences`.
        target: class index (B,) int64, one 0 or 1 per class (B, C) or a number (B,); None where it is not known.
        dialogue: number of the dialogue within the batch that each utterance belongs to (B,).
        position: place of the utterance within its dialogue, from 0 (B,). Where utterances are the unit, each one is
            a dialogue of its own.
    """

    ids: tuple[str, ...]
    sequences: dict[str, Shaped[Tensor, "B _ *_"]]
    lengths: dict[str, Int[Tensor, " B"]]
    available: Bool[Tensor, "B M"]
    target: Shaped[Tensor, " B *_"] | None
    dialogue: Int[Tensor, " B"]
    position: Int[Tensor, " B"]

    def replace(self, **changes: object) -> Batch:
        """A copy with other fields."""
        return replace(self, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Output:
    """What a model says about a batch.

    Attributes:
        logits: (B, C) before softmax or sigmoid; for regression the predicted numbers (B,).
        losses: further terms of the loss by name, weighted already, each a scalar.
        drawn: the quantities that the paper draws, by name, utterances along the first axis. Those with one number
            per utterance, (B,), are written beside the predictions.
    """

    logits: Float[Tensor, " B *_"]
    losses: dict[str, Float[Tensor, ""]] = field(default_factory=dict)
    drawn: dict[str, Shaped[Tensor, " B *_"]] = field(default_factory=dict)


class Architecture(nn.Module):
    """Base of every architecture's module.

    Attributes:
        unit: what may not be torn apart between batches; `dialogue` for a model that reads an utterance in the context
            of its predecessors.
        modalities: which it takes, in the order of a batch's `available` columns.
        stages: submodules that are trained one after the other, each by itself: with its own schedule (that of its
            group), early stopping and best epoch. What belongs to none of them is not trained by gradients.
        stage: the one that is being trained: `forward` then gives the logits and losses of that branch alone. None
            before and after, and always where there are no stages.
    """

    unit: Unit = "utterance"
    modalities: tuple[str, ...]
    stages: tuple[str, ...] = ()
    stage: str | None = None

    @abstractmethod
    def forward(self, batch: Batch) -> Output:
        """Predict, for each utterance of `batch`."""

    def fit_late_fusion(self, batches: Iterator[Batch]) -> None:
        """Fit what joins the branches, after training, on the validation split; nothing by default.

        Called once, in evaluation mode and without gradients, with the best weights in place. `batches` are labelled,
        already emptied where there is nothing (`Model.clean`), in the same order every time, and can be read once.
        """

    def __call__(self, batch: Batch) -> Output:
        output: Output = super().__call__(batch)
        return output


def outputs(target: Target) -> int:
    """How many numbers a model gives for an utterance: the number of classes, or 1."""
    return 1 if target.kind == "regression" else len(target.classes)


def probabilities(logits: Float[Tensor, "*_"], kind: str) -> Float[Tensor, "*_"]:
    """Class probabilities from logits: softmax over classes, or a sigmoid each for a multilabel target."""
    return torch.sigmoid(logits) if kind == "multilabel" else torch.softmax(logits, dim=-1)
