"""What an architecture is, and what it is given: the contract of every file in `fuse/archs/`.

An architecture file has
    docstring   paper, section, how it differs, its readings, the axis legend
    PREFERS     modality -> names of the features that it reads, best first; its keys are the modalities it takes
    INPUTS      modality -> shape of one frame in the paper's set-up, for counting parameters
    TRAINING    the paper's training defaults, a `TrainConfig`
    ABLATIONS   the paper's ablation rows: name -> the fields of `Config` that it changes
    TABLES      the paper's ablation tables with its numbers, a tuple of `fuse.tables.Table`: `mer fuse ablate`
    COMPANIONS  optional: name -> `Companion`: inputs that lie on the frames of a modality, one array more for each
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
padding and wherever a modality is not available, where the length is zero too, and companions are zero wherever they
are not there (`fuse/model.py` sees to it).

Seeds and graphs. On a GPU a step is captured once and replayed, `torch.func` maps over seeds, and models are compiled
and exported: there a module may neither read a number back nor let a shape depend on one (no `.item()`, `nonzero`,
index by a mask or by a list). Where looking saves work, it asks `fuse.nn.fixed.shapes_are_fixed` first. What it draws,
dropout included, it draws by `torch.rand`, `torch.randn`, their `_like` forms and `nn.Dropout`, which are met on their
way (`fuse/training/draws.py`). An architecture that cannot keep to this trains all the same: its seeds one after the
other, without a graph.

Companions. An architecture may read more than one array per modality: the time interval of each text token, the facial
landmarks of each vision frame. A companion has a row for every frame of its modality and is always optional: a batch
holds it under its name where the store has what it is made from, and says for each frame whether it is there. A module
names those that it reads in `companions` and gets them as

    batch.companions.get("intervals")           (B, T_text, 2), zero where not there; None: the store has none at all
    batch.companions_there["intervals"]         (B, T_text) bool

    intervals   on text tokens, (2,): the token's first and past-last frame of speech, real numbers: seconds times the
                rate of the speech feature, before any pooling. A token has the interval of its word (from the first
                to the last, where it has several); special tokens have none. Not there without text and speech.
    landmarks   on vision frames, (P, 3): the points of the face in the frame, x and y in coordinates of the face crop,
                0..1 from its left upper corner, z in the same unit.

What they are made from in the store, by `fuse/companions.py`:

    words       `values` (W, 2) float32, start and end of each word in seconds from the clip's start;
                sibling `offsets` (W, 2) int32, the word's characters in the utterance's text, [start, end).
                The text feature's own sibling `offsets` (T, 2) has the same for its tokens, (0, 0) for special ones.
    landmarks   `values` (F, 478, 3) float at `rate_hz`, frame k of the crop that vision features of the same rate see;
                sibling `there` (F,) bool (tail ()): whether a face was found in the frame; values are 0 where none was.
                (Stored numbers must be finite, so what is not there needs a mask.)

Axes: B utterances of a batch, T_m frames or tokens of modality m, M modalities, C classes, P points of a face.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from cache_schema.errors import SettingsError
from cache_schema.samples import Target

Unit = Literal["utterance", "dialogue"]


@dataclass(frozen=True)
class Companion:
    """An input that lies on the frames of a modality.

    Attributes:
        modality: the modality whose frames it lies on.
        features: names of the store's features that it is made from, best first.
        join: how: `words` through the characters of words and tokens, `time` the frame nearest in time.
        tail: shape of one frame in the paper's set-up.
        needs: further modalities without which it has no meaning.
        without: what the architecture does where it is not there, as a phrase: runs and `mer fuse show` say it.
    """

    modality: str
    features: tuple[str, ...]
    join: Literal["words", "time"]
    tail: tuple[int, ...]
    without: str
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Batch:
    """Utterances, padded to the longest of each modality.

    Attributes:
        ids: which utterances; empty where a batch is made without asking the device which they are.
        sequences: modality -> frames (B, T_m, *tail_m).
        lengths: modality -> frames that each utterance has (B,); 0 where the modality is not available.
        available: which modalities an utterance has (B, M), columns in the order of `sequences`.
        target: class index (B,) int64, one 0 or 1 per class (B, C) or a number (B,); None where it is not known.
        dialogue: number of the dialogue within the batch that each utterance belongs to (B,).
        position: place of the utterance within its dialogue, from 0 (B,). Where utterances are the unit, each one is
            a dialogue of its own.
        companions: name -> its values on the frames of its modality (B, T_m, *tail).
        companions_there: name -> at which frames there are any (B, T_m).
    """

    ids: tuple[str, ...]
    sequences: dict[str, Shaped[Tensor, "B _ *_"]]
    lengths: dict[str, Int[Tensor, " B"]]
    available: Bool[Tensor, "B M"]
    target: Shaped[Tensor, " B *_"] | None
    dialogue: Int[Tensor, " B"]
    position: Int[Tensor, " B"]
    companions: dict[str, Shaped[Tensor, "B _ *_"]] = field(default_factory=dict)
    companions_there: dict[str, Bool[Tensor, "B _"]] = field(default_factory=dict)

    def __len__(self) -> int:
        """B."""
        return len(self.available)

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
        companions: those that it reads: name -> the modality, one of its own, whose frames they lie on.
        stages: submodules that are trained one after the other, each by itself: with its own schedule (that of its
            group), early stopping and best epoch. What belongs to none of them is not trained by gradients.
        stage: the one that is being trained: `forward` then gives the logits and losses of that branch alone. None
            before and after, and always where there are no stages.
    """

    unit: Unit = "utterance"
    modalities: tuple[str, ...]
    companions: Mapping[str, str] = MappingProxyType({})
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


def vector_widths(name: str, takes: Iterable[str], tails: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Width of each modality's frames, for an architecture that reads vectors.

    Args:
        name: the architecture's name.
        takes: the modalities that it takes.
        tails: shape of one frame of each modality.

    Raises:
        SettingsError: a modality that it does not take, or one whose frames are not vectors.
    """
    known = list(takes)
    for modality, tail in tails.items():
        if modality not in known or len(tail) != 1:
            raise SettingsError(
                f"{name} reads one vector per frame of {', '.join(known)}; {modality} has {tail}: choose "
                "another feature with --features."
            )
    return {modality: tail[0] for modality, tail in tails.items()}


def outputs(target: Target) -> int:
    """How many numbers a model gives for an utterance: the number of classes, or 1."""
    return 1 if target.kind == "regression" else len(target.classes)


def probabilities(logits: Float[Tensor, "*_"], kind: str) -> Float[Tensor, "*_"]:
    """Class probabilities from logits: softmax over classes, or a sigmoid each for a multilabel target."""
    return torch.sigmoid(logits) if kind == "multilabel" else torch.softmax(logits, dim=-1)
