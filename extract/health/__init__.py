"""`mer check`: the health of a dataset before anything is trained on it.

Everything here looks at what the store has: the annotations (`annotation`), what became of each clip and which files
are the same (`media`), and the features' numbers (`features`). The clips themselves are opened only where a data root
is given (`media.sound`), and heard by Whisper only on request (`speech`).

A finding is a leak where one split tells something about another: the same recording, dialogue, speaker or text on both
sides. Some corpora are split so on purpose (MELD's speakers are in every split); what is known can be allowed by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from cache_schema.errors import DataError, SettingsError
from cache_schema.registry import unknown_name
from cache_schema.store import FeatureStore
from extract.health import annotation, features, media, speech
from extract.health.finding import Examined, Finding

CHECKS = (
    "classes",
    "speakers",
    "dialogues",
    "recordings",
    "texts",
    "duplicates",
    "near-duplicates",
    "durations",
    "rates of speech",
    "failures",
    "faces",
    "constant features",
    "silence",
    "transcripts",
)
"""Names of the checks, in the order in which they are told; those that can be a leak may be allowed."""


def examine(
    store_path: str,
    dataset: str,
    *,
    root: Path | None = None,
    weights: str | None = None,
    transcripts: bool = False,
    allow: Sequence[str] = (),
    similar: float = 0.995,
    device: str = "auto",
    progress: Callable[[int, int, int], None] = lambda done, total, failed: None,
) -> list[Finding]:
    """Look at a dataset; changes nothing.

    Args:
        store_path: the feature store.
        dataset: the dataset's name in it.
        root: the data root; None: no clip is opened.
        weights: as `--weights`, of the Whisper that hears the clips.
        transcripts: hear every clip and compare with its transcript; needs `root`.
        allow: checks whose leaks are known; they become notes.
        similar: features are near duplicates from this correlation on.
        device: torch device of Whisper.
        progress: called with (clips done, clips, 0) while clips are opened.

    Returns:
        What was found, in the order of `CHECKS`.

    Raises:
        StoreError: the store or the dataset is not there.
        DataError: the root is no folder.
        SettingsError: an unknown check to allow, or transcripts without a root.
    """
    for name in allow:
        if name not in CHECKS:
            raise SettingsError(unknown_name("check", name, list(CHECKS)))
    if transcripts and root is None:
        raise SettingsError("Hearing the clips needs them: name the data root with --root.")
    if root is not None and not root.is_dir():
        raise DataError(f"The data root {root} is no folder; name the one that `mer extract` read with --root.")
    store = FeatureStore.open(store_path, mode="r")
    examined = Examined(store, dataset, store.samples(dataset).utterances)
    found = [*annotation.check(examined), *media.check(examined), *features.check(examined, similar)]
    if root is not None:
        found += media.sound(examined, root, progress)
    if transcripts and root is not None:
        found += speech.check(examined, root, weights, device, progress)
    known = [replace(f, level="note") if f.level == "leak" and f.check in allow else f for f in found]
    return sorted(known, key=lambda f: CHECKS.index(f.check))
