"""When each word of the transcript is spoken: the corpus's own times, or Whisper's cross-attention.

Times that the corpus has are taken as they are (`Utterance.word_times`); elsewhere the transcript is aligned by force,
how and for sound of any length: `extract/alignment.py`. Rate: none, a frame is a word.

    values    (words, 2), start and end in seconds from the utterance's start, in order and within it
    offsets   (words, 2), the word's characters in the transcript, [start, end)

A word is what stands between two spaces, its punctuation included. Every word has a row; where words are spoken within
one frame of 20 ms, some have no length. A transcript that is longer than the model's context is a recorded failure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cache_schema.errors import SettingsError
from cache_schema.feature_spec import ArraySpec, FeatureSpec, Modality
from cache_schema.rows import Failed, Row
from extract.alignment import (
    GENERATION,
    SAMPLE_RATE_HZ,
    SAMPLES_PER_FRAME,
    align,
    given_times,
    load_whisper,
    require_language,
    words_of,
)
from extract.batching import budget_for
from extract.encoder import Clip, EncoderConfig, Languages, Needs
from extract.frozen import feature_spec
from extract.weights.checkpoints import Checkpoint, HubCheckpoint

SUMMARY = "Whisper: when each word of the transcript is spoken, by forced alignment, or as the corpus says"
MODALITY: Modality = "text"
DEFAULT_FOR: Languages = ()
HUB = HubCheckpoint("openai/whisper-base", licence="Apache-2.0", parameters=72_593_920, assets=(GENERATION,))
VERSION = 1
MULTILINGUAL_VOCABULARY = 51865
"""Tokens of the smallest vocabulary that has languages; English alone has 51864."""
WORDS_PER_SECOND = 2.5
"""Of conversation: what segments are sized with."""


class Config(EncoderConfig):
    """Settings of `words`; it always computes and stores in single precision: the times of a long clip need it."""

    output_dtype: Literal["float32"] = "float32"
    """Fixed: half precision cannot tell 20 ms apart beyond 32 s."""
    compute_dtype: Literal["float32"] = "float32"
    """Fixed: warping turns rounding into other times."""
    pool: Literal["none"] = "none"
    """Fixed: a mean of times means nothing."""
    language: str
    """Language of the speech, as Whisper names it: en, ko, de, ...; the corpus's, where it is not set."""
    given: bool = True
    """Take the times that the corpus itself has, where it has them, instead of aligning."""


def describe(config: Config, checkpoint: Checkpoint) -> FeatureSpec:
    """What is stored for a clip: values (words, 2) and offsets (words, 2).

    Raises:
        SettingsError: the checkpoint is of another model, or does not know the language.
    """
    checkpoint.expect("whisper")
    if checkpoint.config["vocab_size"] < MULTILINGUAL_VOCABULARY and config.language != "en":
        raise SettingsError(f"words: {checkpoint.folder} knows English alone, and language = {config.language!r}.")
    if config.language != "en":  # which every Whisper knows; asking for others loads torch
        require_language(config.language, "--set words.language=CODE")
    arrays = (
        ArraySpec(name="values", dtype="float32", tail=(2,)),
        ArraySpec(name="offsets", dtype="int32", tail=(2,)),
    )
    return feature_spec("words", MODALITY, "WhisperModel", VERSION, config, checkpoint, arrays, None, WORDS_PER_SECOND)


def needs(config: Config, checkpoint: Checkpoint) -> Needs:
    """The transcript, and sound at 16 kHz."""
    return Needs(text=True, audio_hz=SAMPLE_RATE_HZ)


class Encoder:
    """Whisper over clips, one by one: warping turns any difference between batches into other times.

    Args:
        config: its settings.
        checkpoint: its weights.
        device: torch device.
        budget: windows of 30 s in one batch, all of one clip; None: by the device.

    Raises:
        SettingsError: Whisper has no such language.
    """

    def __init__(self, config: Config, checkpoint: Checkpoint, device: str, budget: int | None = None) -> None:
        from whisper.tokenizer import get_tokenizer

        self.given = config.given
        self.budget = budget or budget_for(device, cpu=1, accelerator=16)
        self.model = load_whisper(checkpoint, device)
        try:
            self.tokenizer = get_tokenizer(
                self.model.is_multilingual,
                num_languages=self.model.num_languages,
                language=config.language,
                task="transcribe",
            )
        except ValueError as error:
            raise SettingsError(f"words: language = {config.language!r}: {error}.") from error

    def encode(self, clips: Sequence[Clip]) -> Iterator[Row]:
        """One row per clip, in order; `Failed` where the sound is shorter than a frame, or the transcript too long."""
        for clip in clips:
            yield self._row(clip)

    def _row(self, clip: Clip) -> Row:
        sound = clip.audio[SAMPLE_RATE_HZ]
        if len(sound) < SAMPLES_PER_FRAME:
            return Failed(f"the sound has {len(sound)} samples, and words needs at least {SAMPLES_PER_FRAME} (20 ms)")
        text, times = clip.utterance.text or "", clip.utterance.word_times
        words = words_of(text)
        offsets = np.array([(word.start, word.end) for word in words], np.int32)
        if self.given and times is not None:
            if len(times) != 2 * len(text.split()):
                return Failed(f"the corpus has times for {len(times) // 2} of {len(text.split())} words")
            return {"values": given_times(words, times, len(sound) / SAMPLE_RATE_HZ), "offsets": offsets}
        tokens = [self.tokenizer.encode(" " + word.text) for word in words]
        used = len(self.tokenizer.sot_sequence) + 2 + sum(map(len, tokens))
        most = self.model.dims.n_text_ctx
        if used > most:
            return Failed(f"the transcript has {used} tokens with the special ones, and the model takes {most}")
        values = self._aligned(sound, tokens)
        return values if isinstance(values, Failed) else {"values": values, "offsets": offsets}

    def _aligned(self, sound: NDArray[np.float32], tokens: Sequence[Sequence[int]]) -> NDArray[np.float32] | Failed:
        """The times of the words; with fewer windows at once, from then on, where the device's memory is short."""
        import torch

        while self.budget:
            try:
                return align(self.model, self.tokenizer, sound, tokens, self.budget)
            except torch.OutOfMemoryError:
                self.budget //= 2
        self.budget = 1
        return Failed(f"30 s of sound do not fit into the memory of {self.model.device}, even alone in a batch")


def draw(size: str, folder: Path, sentences: Sequence[str]) -> Any:
    """A Whisper of random weights; it needs no file beside them."""
    from transformers import WhisperConfig, WhisperModel

    width, layers, heads = (64, 2, 2) if size == "small" else (512, 6, 8)
    config = WhisperConfig(
        d_model=width,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        vocab_size=MULTILINGUAL_VOCABULARY,
    )
    return WhisperModel(config)
