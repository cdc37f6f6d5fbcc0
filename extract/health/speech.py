"""Whether what is said is what the transcript says: Whisper's recognition against it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from compute.device import resolve_device
from extract.encoder import Needs
from extract.health.finding import Examined, Finding, Level
from extract.health.media import SOUND_HZ, opened

MISMATCH = 0.7
"""Word error rate from which on a transcript is suspected: recognition of laughing and shouting people is poor."""
FEWEST_WORDS = 4
"""Words in a transcript below which a single misheard word would make a mismatch."""


def check(
    examined: Examined, root: Path, weights: str | None, device: str, progress: Callable[[int, int, int], None]
) -> Iterator[Finding]:
    """Hear every clip that has a transcript.

    Raises:
        SettingsError: Whisper's weights are not at hand, or it does not know the corpus's language.
    """
    from extract.recognition import Recogniser, whisper_checkpoint

    language = examined.store.samples(examined.dataset).corpus.language.partition("-")[0].lower()
    recogniser = Recogniser(whisper_checkpoint(weights), resolve_device(device), language)
    normal = normalizer(language)
    suspects, heard = [], 0
    for utterance, clip in opened(examined, root, Needs(audio_hz=SOUND_HZ), progress):
        given = normal(utterance.text or "").split()
        if clip.unreadable or len(given) < FEWEST_WORDS or utterance.recognised is not None:
            continue
        heard += 1
        said = normal(recogniser.hear(clip.audio[SOUND_HZ]).text or "").split()
        rate = word_error_rate(given, said)
        if rate >= MISMATCH:
            suspects.append((rate, utterance.id))
    says = f"{len(suspects)} of {heard} transcripts differ from what is heard by {MISMATCH:.0%} of their words or more"
    worst = sorted(suspects, reverse=True)
    level: Level = "warning" if suspects else "note"
    numbers = {"word_error_rate": {id_: round(rate, 3) for rate, id_ in worst}}
    yield Finding("transcripts", level, says, tuple(id_ for _, id_ in worst), numbers)


def normalizer(language: str) -> Callable[[str], str]:
    """Whisper's own: case, punctuation and spelling that a recogniser is free to choose."""
    from whisper.normalizers import BasicTextNormalizer, EnglishTextNormalizer

    found: Callable[[str], str] = EnglishTextNormalizer() if language == "en" else BasicTextNormalizer()
    return found


def word_error_rate(given: list[str], said: list[str]) -> float:
    """Substitutions, insertions and deletions that turn `said` into `given`, over the words of `given`."""
    row = list(range(len(said) + 1))
    for i, word in enumerate(given, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(said, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (word != other))
    return row[-1] / max(1, len(given))
