"""RAVDESS: Ryerson Audio-Visual Database of Emotional Speech and Song, 1,440 acted utterances of 24 actors.

Provenance: Livingstone, Russo: "The Ryerson Audio-Visual Database of Emotional Speech and Song (RAVDESS)",
PLoS ONE 13(5), 2018, https://doi.org/10.1371/journal.pone.0196391; the files at
https://zenodo.org/records/1188976.
Licence: CC BY-NC-SA 4.0.
Official counts: speech has 60 utterances of each of 24 actors, 1440: 192 of each emotion, 96 neutral ones. There are
no official splits: `--protocol kfold:speaker:6` keeps speakers apart.

A file's name is its annotation, seven codes of two digits: modality (01 sound and pictures, 02 pictures alone, 03 sound
alone), vocal channel (01 speech, 02 song), emotion, intensity, statement, repetition, actor. Files are looked for
up to three folders below the root, whatever the folders are called. An utterance is what modalities have in common:
the clip is 01 where it is there, else 02 with the sound of 03, else 03 alone; its id is the name without modality.

Known defects and oddities:
- a widely used copy holds every sound file twice, in Actor_XX/ and in audio_speech_actors_01-24/Actor_XX/: the first
  is read, where both have one size;
- song (02) has six emotions, and none by actor 18: left out, with a note;
- neutral exists in normal intensity only.
"""

from __future__ import annotations

import re
from pathlib import Path

from cache_schema.errors import DataError
from cache_schema.samples import Corpus, Target, Utterance
from extract.dataset import SEE_LAYOUT, Enumeration, Probe, entries, folders_below, require_root, some, sound_seconds

SUMMARY = "RAVDESS: 1,440 acted utterances of 24 actors, eight emotions, two intensities (video, sound, text)"
LAYOUT = """\
ROOT/Actor_XX/03-01-EE-II-SS-RR-XX.wav      speech, sound alone (Audio_Speech_Actors_01-24.zip)
ROOT/Actor_XX/01-01-EE-II-SS-RR-XX.mp4      speech, sound and pictures (Video_Speech_Actor_XX.zip)
Either is enough; with both, the video is read. Folders may be called anything, up to three below ROOT.
Files: https://zenodo.org/records/1188976"""

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
INTENSITIES = ("normal", "strong")
STATEMENTS = ("Kids are talking by the door.", "Dogs are sitting by the door.")
ACTORS = 24
OFFICIAL_COUNT = 1440
CORPUS = Corpus(
    name="ravdess",
    title="The Ryerson Audio-Visual Database of Emotional Speech and Song (Livingstone & Russo, PLoS ONE 2018)",
    licence="CC-BY-NC-SA-4.0",
    targets=(
        Target(name="emotion", kind="classification", classes=EMOTIONS),
        Target(name="intensity", kind="classification", classes=INTENSITIES),
    ),
)

BOTH, PICTURES, SOUND = "01", "02", "03"
SPEECH = "01"
_NAME = re.compile(r"(\d\d)-(\d\d-\d\d-\d\d-\d\d-\d\d-\d\d)\.(wav|mp4)", re.IGNORECASE)


def enumerate_corpus(root: Path, probe: Probe) -> Enumeration:
    """The speech utterances, sorted by actor and code; ids as `01-05-01-02-01-16`.

    Raises:
        DataError: the root is absent or holds no file with such a name, a code does not exist, or a file is there
            twice with different contents.
    """
    require_root(root)
    files, notes = _files(root)
    utterances = [_utterance(root, code, by_modality, probe) for code, by_modality in files.items()]
    utterances.sort(key=lambda utterance: (utterance.speaker or "", utterance.id))
    if len(utterances) != OFFICIAL_COUNT:
        actors = len({utterance.speaker for utterance in utterances})
        notes.append(
            f"not the whole release: {len(utterances)} utterances of {actors} actors, where RAVDESS has "
            f"{OFFICIAL_COUNT} of {ACTORS}."
        )
    return Enumeration(CORPUS, utterances, notes)


def _files(root: Path) -> tuple[dict[str, dict[str, Path]], list[str]]:
    """Code of a speech utterance -> modality -> file; and what was left out."""
    files: dict[str, dict[str, Path]] = {}
    song, copies, others = 0, 0, []
    for folder in folders_below(root, 3):
        for file in entries(folder):
            match = _NAME.fullmatch(file.name)
            if match is None or file.name.startswith("."):
                others += [] if file.is_dir() else [file.name]
            elif not match[2].startswith(SPEECH):
                song += 1
            else:
                _check(file, match[1], match[2])
                known = files.setdefault(match[2], {}).setdefault(match[1], file)
                if known is not file:
                    _require_copy(known, file)
                    copies += 1
    if not files:
        raise DataError(f"{root} has no speech files of RAVDESS (as 03-01-05-01-02-01-16.wav). {SEE_LAYOUT}")
    notes = [f"left out {song} files of song."] if song else []
    if copies:
        notes.append(f"{copies} files are there twice; the first was read.")
    if others:
        notes.append(f"left out {len(others)} files with other names: {some(sorted(others))}.")
    return files, notes


def _check(file: Path, modality: str, code: str) -> None:
    """Refuse a code that does not exist."""
    _, emotion, intensity, statement, repetition, actor = map(int, code.split("-"))
    highest = (
        ("modality", int(modality), 3),
        ("emotion", emotion, len(EMOTIONS)),
        ("intensity", intensity, len(INTENSITIES)),
        ("statement", statement, len(STATEMENTS)),
        ("repetition", repetition, 2),
        ("actor", actor, ACTORS),
    )
    for what, value, most in highest:
        if not 1 <= value <= most:
            raise DataError(f"{file}: the name says {what} {value:02}, and there are 01 to {most:02}. Rename the file.")


def _require_copy(first: Path, second: Path) -> None:
    if first.stat().st_size != second.stat().st_size:
        raise DataError(f"{first.name} is there twice with different contents: {first} and {second}. Keep one.")


def _utterance(root: Path, code: str, by_modality: dict[str, Path], probe: Probe) -> Utterance:
    _, emotion, intensity, statement, _, actor = map(int, code.split("-"))
    path = next(by_modality[m] for m in (BOTH, PICTURES, SOUND) if m in by_modality)
    sound = by_modality.get(SOUND) if BOTH not in by_modality and PICTURES in by_modality else None
    return Utterance(
        id=code,
        path=path.relative_to(root).as_posix(),
        sound=sound.relative_to(root).as_posix() if sound else None,
        duration=sound_seconds(path, probe),
        text=STATEMENTS[statement - 1],
        speaker=f"Actor_{actor:02}",
        labels={"emotion": EMOTIONS[emotion - 1], "intensity": INTENSITIES[intensity - 1]},
    )
