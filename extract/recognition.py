"""What is said where there is no transcript: openai-whisper's recognition.

Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", ICML 2023, arXiv:2212.04356. It is
`whisper.transcribe` with its defaults, in single precision: beam of one, higher temperatures only where the text
repeats itself or is unlikely, windows of 30 s one after the other. What is drawn there begins with the same seed for
every utterance, so that a text depends on its sound alone. Of random weights no temperature makes words: they are asked
once, the likeliest token each time.

A recognised text is the utterance's text in the store: what encodes it and what aligns it count its characters. With it
stands what recognised it (`Utterance.recognised`), and so it does where no speech was heard.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache_schema.errors import SettingsError
from cache_schema.parts import Samples
from cache_schema.samples import Utterance
from extract.alignment import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME, load_whisper, require_language
from extract.decoding.quarantine import decode
from extract.encoder import Needs
from extract.encoders import words
from extract.frozen import inference
from extract.weights.checkpoints import Checkpoint, resolve

CHUNK = 500
"""Utterances after which what was recognised is kept."""
AHEAD = 8
"""Utterances whose sound is decoded at once."""


@dataclass(frozen=True)
class Heard:
    """What was heard in a sound.

    Attributes:
        text: the words; None: no speech.
        language: as Whisper names it: that which was given, or the likeliest one.
    """

    text: str | None
    language: str


def whisper_checkpoint(weights: str | None) -> Checkpoint:
    """The Whisper that `--weights` means, the same as the one that aligns words.

    Raises:
        SettingsError: it is not at hand, or of another model.
    """
    checkpoint = resolve("words", words.HUB, weights)
    checkpoint.expect("whisper")
    return checkpoint


def name_of(checkpoint: Checkpoint) -> str:
    """What is written beside a text that this checkpoint recognised."""
    return f"{checkpoint.name or 'whisper'} sha256:{checkpoint.weights_sha256}"


class Recogniser:
    """A loaded Whisper.

    Args:
        checkpoint: its weights.
        device: torch device.
        language: of the speech, as Whisper names it: en, ko, de, ...; None: it finds out from the first 30 s of each
            sound.

    Raises:
        SettingsError: Whisper has no such language, or these weights know English alone.
    """

    def __init__(self, checkpoint: Checkpoint, device: str, language: str | None) -> None:
        if language is not None:
            require_language(language)
        self.model = load_whisper(checkpoint, device)
        if not self.model.is_multilingual and language not in (None, "en"):
            raise SettingsError(f"{checkpoint.folder} knows English alone, and the speech is {language!r}.")
        self.language = language
        self.name = name_of(checkpoint)
        self.settings = {"temperature": 0.0} if checkpoint.random else {}

    def hear(self, sound: NDArray[np.float32], language: str | None = None) -> Heard:
        """What is said in a sound, mono at 16 kHz, of any length; in `language`, where the own one is not known."""
        import torch
        from whisper import transcribe

        language = self.language or language
        if len(sound) < SAMPLES_PER_FRAME:
            return Heard(None, language or "en")
        with inference(), torch.random.fork_rng(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Performing inference on CPU when CUDA is available")
            torch.manual_seed(0)
            found = transcribe(self.model, sound, language=language, fp16=False, **self.settings)
        return Heard(_plain(found["text"]), found["language"])


def _plain(text: str) -> str | None:
    """One line of printable characters; None where there are none."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split()) or None


def is_wanted(utterance: Utterance) -> bool:
    """Whether an utterance has no transcript and something to listen to."""
    return not (utterance.text or "").strip() and (utterance.path or utterance.sound) is not None


def recognised(
    utterances: Sequence[Utterance], root: Path, recogniser: Recogniser, language: str | None = None
) -> Iterator[tuple[Utterance, str | None]]:
    """Each utterance with what is said in it, in order, and the language; as it was, without, where it cannot be heard.

    Args:
        utterances: without transcripts.
        root: the data root that their paths start from.
        recogniser: what listens.
        language: of the speech, where the recogniser's own is not known.
    """
    need = Needs(audio_hz=SAMPLE_RATE_HZ)
    with ThreadPoolExecutor(4, "decode") as pool:
        for begin in range(0, len(utterances), AHEAD):
            group = utterances[begin : begin + AHEAD]
            for utterance, clip in zip(group, pool.map(lambda u: decode(root, u, [need]), group), strict=True):
                if "audio" in clip.unreadable:
                    yield utterance, None
                    continue
                heard = recogniser.hear(clip.audio[SAMPLE_RATE_HZ], language)
                update = {"text": heard.text, "recognised": recogniser.name}
                yield utterance.model_copy(update=update), heard.language


def kept(utterances: Sequence[Utterance], stored: Samples) -> list[Utterance]:
    """The utterances, with what was recognised in them before and is in the store.

    A corpus does not tell it when it is read again; where it has a transcript by now, that is taken.
    """
    by = dict(zip(stored.ids, stored.column("recognised"), strict=True))
    found = []
    for utterance in utterances:
        if by.get(utterance.id) is not None and is_wanted(utterance):
            old = stored[utterance.id]
            if all(getattr(old, name) == getattr(utterance, name) for name in ("path", "start", "end", "sound")):
                utterance = utterance.model_copy(update={"text": old.text, "recognised": old.recognised})
        found.append(utterance)
    return found


def recognise_missing(
    utterances: Sequence[Utterance],
    root: Path,
    checkpoint: Checkpoint,
    language: str | None,
    device: str,
    keep: Callable[[list[Utterance]], object],
    say: Callable[[str], None],
) -> list[Utterance]:
    """The utterances, with texts for those that have none, or one that another checkpoint recognised.

    Args:
        utterances: of a corpus, with what was recognised before (`kept`).
        root: the data root.
        checkpoint: Whisper's; loaded only if there is something to listen to.
        language: of the speech; None: Whisper finds out.
        device: torch device.
        keep: called every `CHUNK` utterances with all up to there, so that a run that is stopped loses no more.
        say: called with lines about how far it is.
    """
    name = name_of(checkpoint)
    found = [
        u.model_copy(update={"text": None, "recognised": None}) if u.recognised not in (None, name) else u
        for u in utterances
    ]
    todo = [place for place, u in enumerate(found) if is_wanted(u) and u.recognised is None]
    if not todo:
        return found
    say(f"{len(todo)} of {len(found)} utterances have no transcript: {checkpoint.name or checkpoint.folder} listens.")
    recogniser = Recogniser(checkpoint, device, language)
    silent = unheard = 0
    for begin in range(0, len(todo), CHUNK):
        places = todo[begin : begin + CHUNK]
        for place, (utterance, _) in zip(places, recognised([found[p] for p in places], root, recogniser), strict=True):
            found[place] = utterance
            silent += utterance.recognised is not None and utterance.text is None
            unheard += utterance.recognised is None
        keep(found[: places[-1] + 1])
        say(
            f"{begin + len(places)} of {len(todo)} were listened to: no speech in {silent}, "
            f"no sound that can be read in {unheard}."
        )
    return found
