"""IEMOCAP: Interactive Emotional Dyadic Motion Capture, 10,039 utterances of ten actors in five sessions.

Provenance: Busso, Bulut, Lee, Kazemzadeh, Mower, Kim, Chang, Lee, Narayanan: "IEMOCAP: Interactive emotional dyadic
motion capture database", Language Resources and Evaluation 42(4), 2008, https://doi.org/10.1007/s10579-008-9076-6;
https://sail.usc.edu/iemocap/.
Licence: USC's release form, signed; research only.
Official counts: 10,039 utterances in 151 dialogues; by the majority of the annotators angry 1103, happy 595, excited
1041, sad 1084, neutral 1708, frustrated 1849, surprised 107, fearful 40, other 3, disgusted 2, no majority 2507.

Targets: `emotion4`, angry, happy, sad, neutral with excited counted as happy (5531 utterances); `emotion6`, happy,
sad, neutral, angry, excited, frustrated; valence, activation and dominance from 1 to 5. There are no official splits:
leave one session out with `--protocol loso:session`; a session is Ses01 of an id, a speaker Ses01F.

`emotion6` has the 7433 utterances of DialogueRNN and what followed it (5810 of sessions 1 to 4, 1623 of session 5): the
7380 majorities of the release, and 53 more as happy (648 for 595). No paper says which. They are the turns without a
majority where two of those who evaluated said happiness and nothing else; one of the two is the speaker (C-F1 and the
like: six actors evaluated themselves, which the majority does not count). This gives the published list, utterance by
utterance (COSMIC/feature-extraction/iemocap/iemocap.pkl of declare-lab/conv-emotion; the README of snailcoder/emodet
names the 53). That list settles no other emotion so; nor does `emotion4`, which has the majorities alone.

A recording shows both actors side by side; the one who wears the markers, whom the recording is named after (Ses01F:
the woman), is on the left, the other on the right. `region` is the speaker's half; the sound is that of sentences/wav,
where it is there, else the recording's.

Known defects and oddities:
- in an id as Ses01F_impro01_M000 the first letter says who wears the markers, the last who speaks;
- transcriptions have turns that nobody evaluated, and lines without a turn's name (as "M: [LAUGHTER]"): left out;
- words are aligned in sentences/ForcedAlignment (Sphinx; frames of 10 ms): where their letters are the transcription's
  they are `word_times`, which `words` takes; a few turns have none (Ses03M_impro03_M001), others say something else;
- macOS's `._` files lie beside annotations and recordings;
- the pictures (720 x 480 at 29.97 per second) have black bars above and below;
- markers are glued to the face of one actor: crops of faces are not alike.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import takewhile
from pathlib import Path

from cache_schema.errors import DataError
from cache_schema.samples import Corpus, Target, Utterance
from extract.alignment import word_times
from extract.dataset import (
    SEE_LAYOUT,
    Enumeration,
    Probe,
    entries,
    folders_below,
    read_text,
    require_root,
    require_text,
    some,
)

SUMMARY = "IEMOCAP: 10,039 utterances of ten actors in five sessions, four and six emotions (video, sound, text)"
LAYOUT = """\
ROOT/Session1/dialog/EmoEvaluation/Ses01F_impro01.txt      labels and times
ROOT/Session1/dialog/transcriptions/Ses01F_impro01.txt     texts
ROOT/Session1/dialog/avi/DivX/Ses01F_impro01.avi           pictures of both actors
ROOT/Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav
ROOT/Session1/sentences/ForcedAlignment/Ses01F_impro01/Ses01F_impro01_F000.wdseg     optional, when words are spoken
and so for Session2 to Session5; they may also lie one folder below ROOT (IEMOCAP_full_release).
Request: https://sail.usc.edu/iemocap/"""

CODES = {
    "ang": "angry",
    "hap": "happy",
    "exc": "excited",
    "sad": "sad",
    "neu": "neutral",
    "fru": "frustrated",
    "sur": "surprised",
    "fea": "fearful",
    "dis": "disgusted",
    "oth": "other",
    "xxx": None,
}
FOUR = ("angry", "happy", "sad", "neutral")
SIX = ("happy", "sad", "neutral", "angry", "excited", "frustrated")
"""In the order of the published list, whose labels are indices."""
RATINGS = ("valence", "activation", "dominance")
CORPUS = Corpus(
    name="iemocap",
    title="IEMOCAP: Interactive emotional dyadic motion capture database (Busso et al., LREV 2008)",
    licence="USC release form, research only",
    targets=(
        Target(name="emotion4", kind="classification", classes=FOUR),
        Target(name="emotion6", kind="classification", classes=SIX),
        *(Target(name=name, kind="regression", low=1, high=5) for name in RATINGS),
    ),
)

OFFICIAL_COUNT = 10_039
OFFICIAL_FOUR = 5531
OFFICIAL_SIX = 7433
SESSIONS = tuple(f"Session{number}" for number in range(1, 6))
LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 0.5, 1.0)

_NUMBER = r"(\d{1,5}(?:\.\d{1,9})?)"
_EVALUATION = re.compile(
    rf"\[{_NUMBER} - {_NUMBER}\]\s+(\S+)\s+(\S+)\s+\[{_NUMBER}, {_NUMBER}, {_NUMBER}\]\s*", re.ASCII
)
_HAPPINESS_ALONE = re.compile(r"C-\w+:\s+Happiness;\s*\(.*\)\s*", re.ASCII)
_TURN = re.compile(r"((Ses0[1-5])([FM])_\w+)_([FM])\d{3}", re.ASCII)
_ALIGNED = re.compile(r"\s*(\d{1,7})\s+(\d{1,7})\s+-?\d+\s+(\S+)\s*", re.ASCII)
ALIGNED_FRAMES_PER_SECOND = 100
_TRANSCRIPT = re.compile(r"(Ses\w+)\s+\[[\d. -]*\]:(.*)", re.ASCII)


def enumerate_corpus(root: Path, probe: Probe) -> Enumeration:
    """All utterances by session and dialogue, each dialogue by time; ids as `Ses01F_impro01_F000`. No header is asked.

    Raises:
        DataError: the root is absent or holds no session, a session has no evaluations, or a line is not what it
            must be.
    """
    require_root(root)
    sessions = _sessions(root)
    texts, nameless = _texts(sessions)
    evaluated: dict[str, Utterance] = {}
    for session in sessions:
        for file in _annotations(session / "dialog" / "EmoEvaluation", needed=True):
            dialogue = sorted(_read_dialogue(session, file), key=lambda u: (u.start, u.end, u.id))
            for turn, utterance in enumerate(dialogue):
                if utterance.id in evaluated:
                    raise DataError(f"{utterance.id} is evaluated twice in {root}. Keep one evaluation of each turn.")
                update = {"turn": turn, "text": texts.get(utterance.id)}
                evaluated[utterance.id] = utterance.model_copy(update=update)
    utterances, missing, notes = _with_media(root, sessions, list(evaluated.values()))
    utterances, aligned = _with_word_times(sessions, utterances)
    notes += aligned
    if without := [u.id for u in utterances if u.text is None]:
        notes.append(f"{len(without)} of {len(utterances)} utterances have no transcription: {some(without)}.")
    if unevaluated := [name for name in texts if name not in evaluated]:
        notes.append(f"left out {len(unevaluated)} transcribed turns without evaluation: {some(unevaluated)}.")
    if nameless:
        notes.append(f"left out {nameless} lines of transcriptions that name no turn.")
    if missing:
        notes.append(f"{len(missing)} of {len(utterances)} utterances have no file: {some(missing)}.")
    notes += _counts(utterances, sessions)
    return Enumeration(CORPUS, utterances, notes, len(missing))


def _sessions(root: Path) -> list[Path]:
    found = [folder for folder in folders_below(root, 2) if folder.name in SESSIONS and folder != root]
    twice = sorted(name for name, count in Counter(folder.name for folder in found).items() if count > 1)
    if twice:
        first, second = (folder for folder in found if folder.name == twice[0])
        raise DataError(f"{twice[0]} is there twice: {first} and {second}. Keep one.")
    if not found:
        raise DataError(f"{root} has none of Session1 to Session5. {SEE_LAYOUT}")
    return sorted(found, key=lambda folder: folder.name)


def _annotations(folder: Path, needed: bool = False) -> list[Path]:
    files = [f for f in entries(folder) if f.suffix == ".txt" and not f.name.startswith(".")] if folder.is_dir() else []
    if needed and not files:
        raise DataError(f"{folder} is absent or has no evaluations. {SEE_LAYOUT}")
    return files


def _read_dialogue(session: Path, file: Path) -> Iterator[Utterance]:
    """The evaluated utterances of a dialogue, without texts and media."""
    lines = read_text(file, fallback_encoding="cp1252").split("\n")
    for number, line in enumerate(lines, 1):
        if not line.startswith("["):
            continue
        where = f"{session.name}/{file.name}, line {number}"
        match = _EVALUATION.fullmatch(line)
        if match is None:
            raise DataError(f"{where}: not of the form [START - END] TURN EMOTION [V, A, D]: {line[:80]!r}.")
        start, end, name, code, *ratings = match.groups()
        turn = _TURN.fullmatch(name)
        if turn is None or turn[1] != file.stem or turn[2][-1] != session.name[-1]:
            raise DataError(f"{where}: {name!r} is no turn of the dialogue {file.stem} in {session.name}.")
        if code not in CODES:
            raise DataError(f"{where}: the emotion is {code!r}, not one of {', '.join(CODES)}.")
        if float(end) <= float(start):
            raise DataError(f"{where}: the turn ends at {end} s, not after its start, {start} s.")
        yield Utterance(
            id=name,
            start=float(start),
            end=float(end),
            duration=float(end) - float(start),
            speaker=turn[2] + turn[4],
            dialogue=turn[1],
            labels=_labels(CODES[code], takewhile(lambda other: not other.startswith("["), lines[number:])),
            scores=dict(zip(RATINGS, map(float, ratings), strict=True)),
            region=LEFT if turn[3] == turn[4] else RIGHT,
        )


def _labels(majority: str | None, evaluations: Iterable[str]) -> dict[str, str]:
    """Both targets' labels; `evaluations` are the lines below the turn's own, one `C-` line of each person."""
    four = "happy" if majority == "excited" else majority
    six = majority
    if majority is None and sum(_HAPPINESS_ALONE.fullmatch(line) is not None for line in evaluations) >= 2:
        six = "happy"
    labels = {"emotion4": four} if four in FOUR else {}
    return labels | ({"emotion6": six} if six in SIX else {})


def _texts(sessions: list[Path]) -> tuple[dict[str, str], int]:
    """Turn -> text, and how many lines name no turn."""
    texts: dict[str, str] = {}
    nameless = 0
    for session in sessions:
        for file in _annotations(session / "dialog" / "transcriptions"):
            for number, line in enumerate(read_text(file, fallback_encoding="cp1252").split("\n"), 1):
                match = _TRANSCRIPT.fullmatch(line.strip())
                if match is None:
                    nameless += bool(line.strip())
                elif text := require_text(f"{session.name}/{file.name}, line {number}", match[1], match[2]):
                    texts[match[1]] = text
    return texts, nameless


def _with_media(
    root: Path, sessions: list[Path], utterances: list[Utterance]
) -> tuple[list[Utterance], list[str], list[str]]:
    """The utterances with what there is of pictures and sound; the ids of those without either; notes."""
    placed: list[Utterance] = []
    missing: list[str] = []
    notes: list[str] = []
    avi: dict[str, tuple[str, set[str] | None]] = {}
    wav: dict[str, tuple[str, set[str] | None]] = {}
    for session in sessions:
        number = session.name[-1]
        below = session.relative_to(root).as_posix()
        for there, part, what in ((avi, "dialog/avi/DivX", "pictures"), (wav, "sentences/wav", "sentences' sound")):
            folder = session / part
            there[number] = (f"{below}/{part}", {e.name for e in entries(folder)} if folder.is_dir() else None)
            if there[number][1] is None:
                notes.append(f"{below}/{part} is absent: there are no {what} of {session.name}.")
    listed: dict[Path, set[str]] = {}
    for utterance in utterances:
        number, dialogue = utterance.id[4], utterance.dialogue or ""
        pictures, recordings = avi[number]
        sounds, dialogues = wav[number]
        path = sound = None
        if recordings is not None:
            path = f"{pictures}/{dialogue}.avi"
        folder = root / sounds / dialogue
        if dialogues and dialogue in dialogues and folder not in listed:
            listed[folder] = {entry.name for entry in entries(folder)}
        if f"{utterance.id}.wav" in listed.get(folder, ()):
            sound = f"{sounds}/{dialogue}/{utterance.id}.wav"
        if sound is None and f"{dialogue}.avi" not in (recordings or ()):
            missing.append(utterance.id)
            path = path or f"{sounds}/{dialogue}/{utterance.id}.wav"
        placed.append(utterance.model_copy(update={"path": path, "sound": sound}))
    return placed, missing, notes


def _with_word_times(sessions: list[Path], utterances: list[Utterance]) -> tuple[list[Utterance], list[str]]:
    """The utterances with the times of their words, where the release has them; notes."""
    folders = {session.name[-1]: session / "sentences" / "ForcedAlignment" for session in sessions}
    folders = {number: folder for number, folder in folders.items() if folder.is_dir()}
    listed: dict[Path, set[str]] = {}
    found, other = [], []
    for utterance in utterances:
        folder = folders[utterance.id[4]] / (utterance.dialogue or "") if utterance.id[4] in folders else None
        if folder is not None and folder not in listed:
            listed[folder] = {entry.name for entry in entries(folder)} if folder.is_dir() else set()
        if folder is not None and utterance.text is not None and f"{utterance.id}.wdseg" in listed[folder]:
            times = word_times(utterance.text, _aligned(folder / f"{utterance.id}.wdseg"))
            if times is None:
                other.append(utterance.id)
            utterance = utterance.model_copy(update={"word_times": times})
        found.append(utterance)
    if not folders:
        return found, []
    given = sum(u.word_times is not None for u in found)
    notes = [f"the release says when the words of {given} of {len(found)} utterances are spoken."]
    if other:
        notes.append(f"the alignment of {len(other)} utterances says other words than their text: {some(other)}.")
    return found, notes


def _aligned(file: Path) -> list[tuple[str, float, float]]:
    """Word, start and end in seconds of a .wdseg file, without silences and noises.

    Raises:
        DataError: the file cannot be read, or a line that begins with a number is not of its form.
    """
    words = []
    for number, line in enumerate(read_text(file, fallback_encoding="cp1252").split("\n"), 1):
        if not line.strip()[:1].isdigit():  # the header, and the total at the end
            continue
        match = _ALIGNED.fullmatch(line)
        if match is None or int(match[2]) < int(match[1]):
            raise DataError(f"{file}, line {number}: not of the form FIRST LAST SCORE WORD: {line[:80]!r}.")
        if not match[3].startswith(("<", "+", "[")):
            begin, end = int(match[1]), int(match[2]) + 1
            words.append((match[3], begin / ALIGNED_FRAMES_PER_SECOND, end / ALIGNED_FRAMES_PER_SECOND))
    return words


def _counts(utterances: list[Utterance], sessions: list[Path]) -> list[str]:
    four, six = (sum(name in u.labels for u in utterances) for name in ("emotion4", "emotion6"))
    notes = []
    if settled := [u.id for u in utterances if u.labels == {"emotion6": "happy"}]:
        notes.append(
            f"{len(settled)} utterances without a majority are happy in emotion6, as in the published {OFFICIAL_SIX}: "
            f"{some(settled)}."
        )
    if (len(utterances), four, six) != (OFFICIAL_COUNT, OFFICIAL_FOUR, OFFICIAL_SIX):
        notes.append(
            f"not the official release: {len(utterances)} utterances in {len(sessions)} sessions, {four} of four and "
            f"{six} of six emotions, where IEMOCAP has {OFFICIAL_COUNT} in 5, {OFFICIAL_FOUR} and {OFFICIAL_SIX}."
        )
    return notes
