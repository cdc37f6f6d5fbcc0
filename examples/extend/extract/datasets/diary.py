"""A video diary: one folder per person, one clip per day, the mood in the file's name (2024-05-01-happy.mp4).

Provenance and licence: made up for the documentation; replace this by where the corpus comes from, its terms, its
official counts, and its known defects.
"""

from __future__ import annotations

from pathlib import Path

from cache_schema.errors import DataError
from cache_schema.samples import Corpus, Target, Utterance
from extract.dataset import SEE_LAYOUT, Enumeration, Probe, entries, require_root

SUMMARY = "a video diary: one folder per person, the mood in the file's name"
LAYOUT = "ROOT/PERSON/DATE-MOOD.mp4    as anna/2024-05-01-happy.mp4"

MOODS = ("happy", "sad")
CORPUS = Corpus(
    name="diary",
    title="A video diary",
    licence="as its owner says",
    targets=(Target(name="mood", kind="classification", classes=MOODS),),
)


def enumerate_corpus(root: Path, probe: Probe) -> Enumeration:
    """All clips, by person and day.

    Raises:
        DataError: the root is absent, or a file's name ends in no mood.
    """
    require_root(root)
    utterances = []
    for person in entries(root):
        for clip in entries(person) if person.is_dir() else []:
            mood = clip.stem.rpartition("-")[2]
            if mood not in MOODS:
                raise DataError(f"{clip}: {mood!r} is no mood; it must be {' or '.join(MOODS)}. {SEE_LAYOUT}")
            utterances.append(
                Utterance(
                    id=f"{person.name}/{clip.stem}",
                    path=f"{person.name}/{clip.name}",
                    speaker=person.name,
                    duration=probe(clip),
                    labels={"mood": mood},
                )
            )
    return Enumeration(CORPUS, utterances)
