"""What a corpus is: utterances in order, with their labels, and what the labels mean.

Nouns: an `Utterance` is one sample; a `Corpus` describes the dataset that it comes from; a `Target` is
something that can be learnt from its labels. Stored as Parquet, one immutable part at a time
(`cache_schema/FORMAT.md`, "Samples").
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, NewType

from pydantic import Field, field_validator

from cache_schema.settings import Spec

Seconds = NewType("Seconds", float)

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class Target(Spec):
    """Something to predict: `emotion` of MELD, `sentiment` of MOSI."""

    name: str
    """The key under which an utterance's labels hold it."""
    kind: Literal["classification", "multilabel", "regression"]
    """classification: one of `classes`; multilabel: a score per class; regression: one number."""
    classes: tuple[str, ...] = ()
    """The label set, in the corpus's own order; empty for regression."""
    low: float | None = None
    """Least value of a regression target, where the corpus defines one (MOSI: -3)."""
    high: float | None = None
    """Greatest value of a regression target, where the corpus defines one (MOSI: 3)."""


class Corpus(Spec):
    """What a dataset is; stored with each part of its samples."""

    name: str
    """The dataset's name, as in `--dataset meld`."""
    title: str
    """Its full name and citation."""
    licence: str
    """The terms under which it may be used."""
    language: str = "en"
    """BCP 47 tag of the speech and the transcripts."""
    targets: tuple[Target, ...]
    """What can be learnt; the first is the default of `mer fuse train`."""


class Utterance(Spec):
    """One sample: a stretch of a clip in which one person speaks.

    Absent is `None`, never an empty string or a zero.
    """

    id: str = Field(min_length=1, max_length=512)
    """Unique in its dataset; stable across releases and machines."""
    path: str | None = None
    """The clip, relative to the data root, with forward slashes; None where there is no media."""
    start: float | None = None
    """Where in the clip the utterance begins, in seconds; None: at its beginning."""
    end: float | None = None
    """Where in the clip it ends, in seconds; None: at its end."""
    duration: float | None = None
    """Seconds by annotation or container header; it sizes segments and is no promise."""
    text: str | None = None
    """The transcript, as spoken; None where there is none."""
    recognised: str | None = None
    """What recognised `text` in the sound, as "openai/whisper-base sha256:..." with the digest of its weights; with
    `text` None: it heard no speech. None: `text` is the corpus's own."""
    word_times: tuple[float, ...] | None = None
    """When each word of `text` is spoken, where the corpus says it: begin and end in seconds from the utterance's
    begin, one word's after the other's. A word is what stands between white space."""
    speaker: str | None = None
    """Who speaks."""
    dialogue: str | None = None
    """The conversation it belongs to."""
    turn: int | None = None
    """Its place in the conversation, counted as the corpus counts."""
    split: Split | None = None
    """The official split; `dev` is called val."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Class labels by target name, as {"emotion": "joy"}."""
    scores: dict[str, float] = Field(default_factory=dict)
    """Numbers by target name: regression values; for a multilabel target one `target/class` each."""
    sound: str | None = None
    """A file of the data root that holds the sound of this utterance and nothing else; None: the sound is in `path`."""
    signals: str | None = None
    """The physiological recording, a file or folder of the data root; `start` and `end` count on its clock too."""
    region: tuple[float, float, float, float] | None = None
    """Where in the picture the speaker is: left, top, width and height as shares of the upright picture, as
    (0, 0, 0.5, 1) for its left half; None: the whole picture."""
    known_defect: str | None = None
    """What is known to be wrong with this clip in the official release."""

    @field_validator("region")
    @classmethod
    def _region(cls, region: tuple[float, float, float, float] | None) -> tuple[float, float, float, float] | None:
        if region is not None:
            left, top, width, height = region
            if not (min(left, top) >= 0 and min(width, height) > 0 and max(left + width, top + height) <= 1):
                raise ValueError("left, top, width and height are not shares of a picture")
        return region

    @field_validator("word_times")
    @classmethod
    def _word_times(cls, times: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if times is not None and (len(times) % 2 or any(a > b for a, b in pairwise((0.0, *times)))):
            raise ValueError("the times are no begins and ends of words in their order")
        return times
