"""What an encoder is, and what it is given: the contract of every file in `extract/encoders/`.

An encoder file has
    SUMMARY    one line for `mer encoders`
    MODALITY   which modality it describes
    DEFAULT_FOR  the languages of the corpora on which it runs when no encoder is named: "any", or BCP 47 tags; () for
               an encoder that runs on request alone
    Config     its settings, an `EncoderConfig`; the fields `crop` and `language`, where they have no default, are given
               by the run: what the user asks for, and the corpus's language
    HUB        `HubCheckpoint` with the default checkpoint, or None for an encoder without weights
    describe(config, checkpoint) -> FeatureSpec       reads configuration files and digests, loads no weights
    needs(config, checkpoint) -> Needs                what is to be decoded for it
    Encoder(config, checkpoint, device, budget=None)  heavy imports and weights happen here; budget: how much goes
                                                      through the model at once, by the device where None
        .encode(clips) -> Iterator[Row]               exactly one per clip, in order, each equal to what
                                                      the clip alone would have given
    draw(size, folder, sentences) -> model            a model of random weights (full or small), for an encoder that
                                                      has weights; writes its tokenizer or preprocessor to `folder`
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cache_schema.rows import Absent, Failed, Row
from cache_schema.samples import Utterance
from cache_schema.settings import Spec
from extract.faces import FaceTrack
from extract.physiology import SignalRequest, Signals

Stream = Literal["text", "audio", "video", "face", "signals"]
"""What a clip may have or lack; `face` is a face in its pictures."""
Crop = Literal["whole", "face"]
Languages = tuple[str, ...] | Literal["any"]


class EncoderConfig(Spec):
    """Settings that every encoder has."""

    output_dtype: Literal["float16", "float32"] = "float16"
    """Type in which features are stored; the encoder itself computes in `compute_dtype`."""
    compute_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type in which the encoder's forward pass runs; it changes the numbers, so it is in the fingerprint."""
    pool: Literal["none", "mean", "first"] = "none"
    """none: every frame; mean: one vector, the mean over the clip's frames; first: the first frame alone, which is the
    class token of a text encoder."""


class VisionConfig(EncoderConfig):
    """Settings of the encoders that read video frames."""

    fps: float = Field(default=5.0, gt=0, le=240)
    """Frames read per second of the clip, sampled by time and not by index."""
    crop: Crop
    """whole: the whole frame, resized to the encoder's square (aspect not kept, as ViTImageProcessor does); face: the
    square around the face that is seen largest for longest, the same for the whole clip (`extract/faces.py`)."""


@dataclass(frozen=True)
class FrameRequest:
    """Frames on a clock: frame k is the picture shown at (k + 0.5) / fps, cropped and resized once.

    Attributes:
        fps: frames per second of the clip.
        crop: which part of the picture.
        size: side of the square, in pixels; None for an encoder that reads the face and no pixels.
    """

    fps: float
    crop: Crop
    size: int | None


@dataclass(frozen=True)
class Needs:
    """What is to be decoded for an encoder.

    Attributes:
        text: the transcript is read.
        audio_hz: mono float32 sound at this sampling rate, or None.
        frames: pictures, or None.
        signals: physiological channels, or None.
        subject: all physiological recordings of the utterance's speaker, where they are normalised by several; which
            they are, the pipeline says utterance by utterance.
    """

    text: bool = False
    audio_hz: int | None = None
    frames: FrameRequest | None = None
    signals: SignalRequest | None = None
    subject: tuple[str, ...] = ()

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The streams of the clip that are read; all of them must be readable."""
        wanted: dict[Stream, bool] = {
            "text": self.text,
            "audio": self.audio_hz is not None,
            "video": self.frames is not None and self.frames.crop == "whole",
            "face": self.frames is not None and self.frames.crop == "face",
            "signals": self.signals is not None,
        }
        return tuple(stream for stream, read in wanted.items() if read)


@dataclass(frozen=True)
class Clip:
    """One utterance, decoded once for all encoders.

    Attributes:
        utterance: which one.
        audio: sampling rate in Hz -> mono samples in [-1, 1], float32 (samples,).
        frames: request -> RGB pictures, uint8 (frames, size, size, 3).
        faces: frames per second -> the clip's face at those frames, where it has one.
        signals: request -> the physiological channels on its clock.
        media_sha256: digest of the clip's file, or None where it has none that could be read.
        sound_sha256: digest of the file that the sound was read from: the clip's, or one of its own.
        signals_sha256: digest of the physiological recording, or of all that it was normalised by.
        unreadable: stream -> why an encoder of that stream cannot run: `Absent` where the clip has no such
            stream, `Failed` where it could not be read.
    """

    utterance: Utterance
    audio: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    frames: dict[FrameRequest, NDArray[np.uint8]] = field(default_factory=dict)
    faces: dict[float, FaceTrack] = field(default_factory=dict)
    signals: dict[SignalRequest, Signals] = field(default_factory=dict)
    media_sha256: str | None = None
    sound_sha256: str | None = None
    signals_sha256: str | None = None
    unreadable: dict[Stream, Absent | Failed] = field(default_factory=dict)

    def lacks(self, needs: Needs) -> Absent | Failed | None:
        """Why an encoder of these needs cannot run on the clip; None where it can."""
        reason = next((self.unreadable[stream] for stream in needs.streams if stream in self.unreadable), None)
        if reason is None and "face" in needs.streams and needs.frames and needs.frames.fps not in self.faces:
            return Absent("no face was found in the clip")
        return reason


class Encoder(Protocol):
    """A loaded encoder."""

    def encode(self, clips: Sequence[Clip]) -> Iterator[Row]:
        """Yield, for each clip in order, its arrays by name, or `Failed` with the reason.

        Only clips whose streams are readable are given. The arrays' first axis is time (frames, *tail),
        at least one frame, of the dtypes in the feature's spec.
        """
        ...
