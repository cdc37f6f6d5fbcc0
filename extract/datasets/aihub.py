"""AI-Hub's Korean emotional dialogue speech set: 43,991 utterances that users spoke to a dialogue app, seven emotions.

Provenance: "감정 분류를 위한 대화 음성 데이터셋" (dialogue speech for emotion classification), data set 263 of AI-Hub,
https://aihub.or.kr/aihubdata/data/view.do?dataSetSn=263; the set of Yi, Kwak, Shin: "A Complementary Fusion Framework
for Robust Multimodal Emotion Recognition", Electronics 14(22), 2025, https://doi.org/10.3390/electronics14224444.
Licence: AI-Hub's terms of use; for people and institutions in Korea, after an application.
Official counts: 43,991 utterances in three CSVs, one of the project's fourth year and two of its fifth. There are no
official splits, and neither speakers nor dialogues are told apart: folds can only be of single utterances
(`--protocol kfold:utterance:5 --group utterance=id`).

Classes: five people named the emotion of each utterance. `emotion` is what three or more of them named; an utterance
without such a majority has no label. `situation` is the emotion that the scenario was to bring about (column 상황).
The paper uses 30,358 utterances (anger 7333, sadness 7333, neutral 6261, happiness 3601, fear 2588, disgust 2339,
surprise 903); how it chose them it does not say, so the counts found are told beside these and not forced to them.

Where files are looked for: a CSV is any .csv up to two folders below the root with the columns wav_id, 발화문, 상황
and those of the five annotators; a clip is <wav_id>.wav up to four folders below.

Known defects of the release:
- the CSVs are in CP949; the column of the fourth annotator's strength lacks its blank (4번감정세기);
- emotions are written in several ways: Angry, angry, anger; Sadness, sad; with blanks;
- transcripts hold tabs; some sixteen lines have no clip, and as many clips no line.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from unicodedata import normalize

from cache_schema.errors import DataError
from cache_schema.registry import unknown_name
from cache_schema.samples import Corpus, Target, Utterance
from extract.dataset import (
    LONGEST_NAME,
    SEE_LAYOUT,
    Enumeration,
    Probe,
    Record,
    control_character,
    entries,
    folders_below,
    read_csv,
    read_text,
    require_root,
    some,
    sound_seconds,
)

SUMMARY = "AI-Hub 263: 43,991 Korean utterances to a dialogue app, seven emotions by five annotators (sound, text)"
LAYOUT = """\
ROOT/4차년도.csv         ROOT/4차년도/<wav_id>.wav
ROOT/5차년도.csv         ROOT/5차년도/<wav_id>.wav
ROOT/5차년도_2차.csv     ROOT/5차년도_2차/<wav_id>.wav
CSVs may lie up to two, clips up to four folders below ROOT, whatever the folders are called.
Application: https://aihub.or.kr/aihubdata/data/view.do?dataSetSn=263"""

EMOTIONS = ("anger", "sadness", "neutral", "happiness", "fear", "disgust", "surprise")
OFFICIAL_COUNT = 43_991
PAPER_COUNTS = dict(zip(EMOTIONS, (7333, 7333, 6261, 3601, 2588, 2339, 903), strict=True))
ANNOTATORS, MAJORITY = 5, 3
CORPUS = Corpus(
    name="aihub",
    title="Dialogue speech for emotion classification (감정 분류를 위한 대화 음성 데이터셋, AI-Hub data set 263)",
    licence="AI-Hub terms of use",
    language="ko",
    targets=(
        Target(name="emotion", kind="classification", classes=EMOTIONS),
        Target(name="situation", kind="classification", classes=EMOTIONS),
    ),
)

ID, TEXT, SITUATION = "wav_id", "발화문", "상황"
VOTES = tuple(f"{number}번 감정" for number in range(1, ANNOTATORS + 1))
SPELLINGS = {emotion: emotion for emotion in EMOTIONS} | {"angry": "anger", "sad": "sadness", "happy": "happiness"}


def enumerate_corpus(root: Path, probe: Probe) -> Enumeration:
    """All utterances in the order of the CSVs' names and lines; the id is the wav_id.

    Raises:
        DataError: the root is absent or holds no CSV of the set, or a line is not what it must be.
    """
    require_root(root)
    tables = _tables(root)
    if not tables:
        raise DataError(f"{root} has no CSV with the columns {ID}, {TEXT}, {SITUATION} and {VOTES[0]}. {SEE_LAYOUT}")
    clips, copies = _clips(root)
    utterances: list[Utterance] = []
    missing: list[str] = []
    seen: dict[str, str] = {}
    for record in (record for records in tables for record in records):
        name = _name(record)
        if name in seen:
            raise DataError(f"{record.where}: {ID} {name!r} stands already at {seen[name]}.")
        seen[name] = record.where
        path = clips.pop(name, None)
        if path is None:
            missing.append(name)
        utterances.append(_utterance(record, name, path, sound_seconds(root / path, probe) if path else None))
    notes = [f"{copies} clips are there twice; the first was read."] if copies else []
    if missing:
        notes.append(f"{len(missing)} of {len(utterances)} clips are absent: {some(missing)}.")
    if clips:
        notes.append(f"left out {len(clips)} clips without a line in the CSVs: {some(sorted(clips))}.")
    return Enumeration(CORPUS, utterances, notes + _counts(utterances), len(missing))


def _tables(root: Path) -> list[list[Record]]:
    """The records of each CSV of the set, in the order of their names."""
    files = [f for folder in folders_below(root, 2) for f in entries(folder) if f.suffix.lower() == ".csv"]
    tables = []
    for file in sorted(files, key=lambda f: (normalize("NFC", f.name), f)):
        if file.name.startswith("."):
            continue
        text = normalize("NFC", read_text(file, fallback_encoding="cp949"))
        header = {column.strip() for column in text.partition("\n")[0].replace('"', "").split(",")}
        if {ID, TEXT, SITUATION, *VOTES} <= header:
            tables.append(list(read_csv(normalize("NFC", file.name), text)))
    return tables


def _clips(root: Path) -> tuple[dict[str, str], int]:
    """wav_id -> path of every sound file, and how many are there twice."""
    clips: dict[str, str] = {}
    copies = 0
    for folder in folders_below(root, 4):
        for file in entries(folder):
            if file.suffix.lower() == ".wav" and not file.name.startswith("."):
                copies += file.stem in clips
                clips.setdefault(file.stem, file.relative_to(root).as_posix())
    return clips, copies


def _name(record: Record) -> str:
    name = record.values[ID]
    unlike = not name or "/" in name or "\\" in name or control_character(name)
    if unlike or len(f"{name}.wav".encode()) > LONGEST_NAME:
        raise DataError(f"{record.where}: {ID} is {name[:80]!r}, not the name of a clip.")
    return name


def _utterance(record: Record, name: str, path: str | None, duration: float | None) -> Utterance:
    text = " ".join(record.values[TEXT].split())
    if control := control_character(text):
        raise DataError(f"{record.where}: {TEXT} holds the control character {control}.")
    votes = [_emotion(record, column) for column in VOTES]
    emotion, count = Counter(votes).most_common(1)[0]
    labels = {"emotion": emotion} if count >= MAJORITY else {}
    return Utterance(
        id=name,
        path=path or f"{name}.wav",
        duration=duration,
        text=text or None,
        labels=labels | {"situation": _emotion(record, SITUATION)},
    )


def _emotion(record: Record, column: str) -> str:
    written = record.values[column].strip().lower()
    if written not in SPELLINGS:
        raise DataError(f"{record.where}: {column}: " + unknown_name("emotion", written, list(SPELLINGS)))
    return SPELLINGS[written]


def _counts(utterances: list[Utterance]) -> list[str]:
    """What there is to say of the counts beside the official ones and the paper's."""
    notes = []
    if len(utterances) != OFFICIAL_COUNT:
        notes.append(f"not the whole release: {len(utterances)} utterances, where AI-Hub has {OFFICIAL_COUNT}.")
    counts = Counter(u.labels.get("emotion") for u in utterances)
    if {emotion: counts[emotion] for emotion in EMOTIONS} != PAPER_COUNTS:
        found = ", ".join(f"{emotion} {counts[emotion]}" for emotion in EMOTIONS)
        notes.append(
            f"{len(utterances) - counts[None]} utterances have an emotion that three annotators agree on ({found}); "
            f"the paper on this set uses {sum(PAPER_COUNTS.values())} and does not say which."
        )
    return notes
