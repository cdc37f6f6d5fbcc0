"""CMU-MOSEI: Multimodal Opinion Sentiment and Emotion Intensity, some 23,000 sentences of 3,293 YouTube monologues.

Provenance: Zadeh, Liang, Poria, Cambria, Morency: "Multimodal Language Analysis in the Wild: CMU-MOSEI Dataset and
Interpretable Dynamic Fusion Graph", ACL 2018, https://aclanthology.org/P18-1208; raw data, labels and folds of the CMU
Multimodal SDK, https://github.com/CMU-MultiComp-Lab/CMU-MultimodalSDK; label.csv and clips as MMSA gives them,
https://github.com/thuiar/MMSA.
Licence: the SDK's terms, for research; the videos belong to their makers.
Official counts: 16,326 sentences to train, 1,871 valid, 4,659 test, as the field reports them and label.csv lists them.
The SDK's label sequence has 23,259 labelled segments of 3,293 videos; the SDK itself aligned 22,860 in the folds
(16,327/1,871/4,662). So where label.csv is there it says which sentences belong, and the sequence gives the emotions,
which label.csv does not have.

Targets: sentiment from -3 to 3; six emotions, each from 0 to 3 and present above 0, several at a time (multilabel).

Clips are looked for in this order: cut videos, whole videos, whole sound; to the whole ones a sentence's times apply.
Each place may lie in the root or up to two folders below it.

Known defects, from the SDK's issue tracker (number in brackets):
- the test videos 7l3BNtSE0xc and dZFV0lyedX4 have no labels, and 66 labelled videos are in no fold (256): the latter
  have no split;
- twelve videos show nobody (88): faces are absent there;
- times of hh04W3xXa5s are wrong, and so are those of many videos that the release has whole and not cut (227);
- some cut videos are black (142);
- ids may begin with - or _, which spreadsheets spoil in label.csv.
Segments of the label sequence have no numbers: they are those of the transcript's lines with the same times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from cache_schema.errors import DataError
from cache_schema.samples import Corpus, Split, Target, Utterance
from extract.cmu_sdk import (
    HIGHEST,
    LOWEST,
    Clips,
    Place,
    ordered,
    read_folds,
    read_labels,
    read_sequence,
    require_sentiment,
    summed_up,
    with_word_times,
)
from extract.dataset import (
    COUNT,
    LONGEST_SECONDS,
    SEE_LAYOUT,
    Enumeration,
    Probe,
    entries,
    find_file,
    folders_below,
    read_text,
    require_root,
    require_text,
    sound_seconds,
)

SUMMARY = "CMU-MOSEI: 22,856 sentences of YouTube monologues, sentiment and six emotions (video, sound, text)"
LAYOUT = """\
ROOT/Raw/Videos/Segmented/Combined/VIDEO_CLIP.mp4       or Raw/VIDEO/CLIP.mp4, as MMSA cuts them
ROOT/Raw/Transcript/Segmented/Combined/VIDEO.txt        lines VIDEO___CLIP___START___END___TEXT
ROOT/CMU_MOSEI_Labels.csd                               labels of the SDK: sentiment and emotions
ROOT/label.csv                                          of MMSA: sentiment, text and the official 22,856
ROOT/CMU_MOSEI_TimestampedWords.csd                     optional, of the SDK: when each word is spoken
ROOT/cmu_mosei_std_folds.py                             folds of the SDK, or cmu_standard_folds.json; label.csv has them
One kind of labels is enough. Raw/Videos/Full/Combined and Raw/Audio/Full/WAV_16000 are read without cut videos.
https://github.com/CMU-MultiComp-Lab/CMU-MultimodalSDK, https://github.com/thuiar/MMSA"""

EMOTIONS = ("happy", "sad", "anger", "surprise", "disgust", "fear")
"""In the order of the label sequence's columns, which begins with the sentiment."""
STRONGEST = 3.0
CORPUS = Corpus(
    name="mosei",
    title="CMU-MOSEI: Multimodal Language Analysis in the Wild (Zadeh et al., ACL 2018)",
    licence="CMU Multimodal SDK terms, research only",
    targets=(
        Target(name="sentiment", kind="regression", low=LOWEST, high=HIGHEST),
        Target(name="emotion", kind="multilabel", classes=EMOTIONS),
    ),
)

OFFICIAL_COUNTS = {"train": 16_326, "val": 1871, "test": 4659}
SDK_COUNTS = {"train": 16_327, "val": 1871, "test": 4662}
LABEL_SEQUENCES = ("CMU_MOSEI_Labels.csd", "All Labels.csd")
WORD_SEQUENCES = ("CMU_MOSEI_TimestampedWords.csd", "words.csd")
PLACES = (
    Place("Raw/Videos/Segmented/Combined", "{video}_{clip}.mp4"),
    Place("Raw/{video}", "{clip}.mp4"),
    Place("Raw/Videos/Full/Combined", "{video}.mp4", whole=True),
    Place("Raw/Audio/Full/WAV_16000", "{video}.wav", whole=True),
)
TRANSCRIPTS = "Transcript/Segmented/Combined"
SEPARATOR = "___"
SAME_TIME = 0.05
"""Seconds by which the times of a label and of its line in the transcript may differ."""
NOBODY_SEEN = (
    "_HanACduNJk",
    "XPoY4LD-A1I",
    "dbpGH5iP0GE",
    "s53UAEi7JEY",
    "UPghCarcnMc",
    "FvoZgWvc3gc",
    "aI1tdJPHz2I",
    "Ve-mmCM8TI0",
    "pzUplbeH_fg",
    "AB1PbMaW03s",
    "faUvT7zfsyk",
    "a4PHWxILDp0",
)
KNOWN_DEFECTS = {
    **dict.fromkeys(NOBODY_SEEN, "nobody is seen in this video"),
    "hh04W3xXa5s": "the official times are wrong",
}

Key = tuple[str, int]


@dataclass(frozen=True)
class _Line:
    """A sentence of a transcript."""

    start: float
    end: float
    text: str | None


@dataclass(frozen=True)
class _Label:
    """What is known of a sentence; emotions in the order of EMOTIONS."""

    sentiment: float
    emotions: tuple[float, ...] | None = None
    split: Split | None = None
    text: str | None = None


def enumerate_corpus(root: Path, probe: Probe) -> Enumeration:
    """All sentences by split, video and number; ids as `03bSnISJMiM_1`.

    Raises:
        DataError: the root is absent or lacks labels, folds or transcripts, or one of the files is not what it must be.
    """
    require_root(root)
    sequence, table = find_file(root, LABEL_SEQUENCES), find_file(root, ["label.csv"])
    if sequence is None and table is None:
        raise DataError(f"{root} has neither {LABEL_SEQUENCES[0]} nor label.csv. {SEE_LAYOUT}")
    lines = _transcripts(root)
    if sequence is not None and not lines:
        raise DataError(f"{root} has no Raw/{TRANSCRIPTS}, whose times number the labels' segments. {SEE_LAYOUT}")
    notes: list[str] = []
    labels = _of_sequence(sequence, lines, notes) if sequence else {}
    if table:
        emotions = {key: label.emotions for key, label in labels.items()}
        labels = {
            (row.video, row.clip): _Label(row.sentiment, emotions.get((row.video, row.clip)), row.split, row.text)
            for row in read_labels(table)
        }
    folds = read_folds(root, "mosei") or {video: label.split for (video, _), label in labels.items() if label.split}
    if not folds:
        raise DataError(f"{root} has no file of folds, as cmu_mosei_std_folds.py. {SEE_LAYOUT}")
    clips = Clips(root, PLACES)
    utterances = [
        _utterance(root, key, label, folds.get(key[0]), lines.get(key), clips, probe)
        for key, label in ordered(labels, folds)
    ]
    spans = {f"{video}_{clip}": (line.start, line.end) for (video, clip), line in lines.items()}
    utterances, timed = with_word_times(root, WORD_SEQUENCES, utterances, spans)
    found = summed_up(CORPUS, utterances, folds, OFFICIAL_COUNTS, clips)
    found.notes.extend([*notes, *timed])
    if {split: sum(u.split == split for u in utterances) for split in SDK_COUNTS} == SDK_COUNTS:
        found.notes.append("these are the SDK's own counts; label.csv lists the official sentences.")
    return found


def _transcripts(root: Path) -> dict[Key, _Line]:
    """(video, clip) -> sentence."""
    lines: dict[Key, _Line] = {}
    folders = [f for base in folders_below(root, 2) if (f := base / TRANSCRIPTS).is_dir()]
    for file in (file for folder in folders for file in entries(folder)):
        if file.suffix != ".txt" or file.name.startswith("._"):
            continue
        for number, line in enumerate(read_text(file, fallback_encoding="cp1252").split("\n"), 1):
            if not line.strip():
                continue
            where = f"{file.name}, line {number}"
            begun = line.removeprefix(file.stem + SEPARATOR)
            parts = begun.split(SEPARATOR, 3)
            if begun == line or len(parts) != 4 or not COUNT.fullmatch(parts[0].strip()):
                raise DataError(f"{where}: not of the form VIDEO___CLIP___START___END___TEXT: {line[:80]!r}.")
            lines[file.stem, int(parts[0])] = _Line(
                _seconds(where, parts[1]), _seconds(where, parts[2]), require_text(where, "the text", parts[3])
            )
    return lines


def _seconds(where: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= LONGEST_SECONDS:
        raise DataError(f"{where}: {text!r} is no time in seconds.")
    return value


def _of_sequence(file: Path, lines: dict[Key, _Line], notes: list[str]) -> dict[Key, _Label]:
    """The labels of the sequence, numbered by the transcripts' lines with their times."""
    by_video: dict[str, list[tuple[int, _Line]]] = {}
    for (video, clip), line in lines.items():
        by_video.setdefault(video, []).append((clip, line))
    labels: dict[Key, _Label] = {}
    unmatched = repeated = 0
    for video, (features, intervals) in read_sequence(file, width=1 + len(EMOTIONS)).items():
        for segment, (values, (start, end)) in enumerate(zip(features.tolist(), intervals.tolist(), strict=True)):
            where = f"{file.name}, {video}, segment {segment}"
            if not all(0 <= value <= STRONGEST for value in values[1:]):
                raise DataError(f"{where}: an emotion of {values[1:]} is not from 0 to 3.")
            label = _Label(require_sentiment(where, values[0]), tuple(values[1:]))
            distances = [
                (abs(line.start - start) + abs(line.end - end), clip)
                for clip, line in by_video.get(video, ())
                if abs(line.start - start) <= SAME_TIME and abs(line.end - end) <= SAME_TIME
            ]
            key = (video, min(distances)[1]) if distances else None
            unmatched += key is None
            repeated += key in labels
            if key is not None:
                labels.setdefault(key, label)
    if unmatched:
        notes.append(f"left out {unmatched} labelled segments with the times of no line of the transcripts.")
    if repeated:
        notes.append(f"left out {repeated} labelled segments whose times are those of one before.")
    return labels


def _utterance(
    root: Path, key: Key, label: _Label, split: Split | None, line: _Line | None, clips: Clips, probe: Probe
) -> Utterance:
    video, clip = key
    path, whole, there = clips.find(video, clip, timed=line is not None)
    duration = line.end - line.start if line else sound_seconds(root / path, probe) if there else None
    emotions = zip(EMOTIONS, label.emotions or (), strict=False)
    return Utterance(
        id=f"{video}_{clip}",
        path=path,
        start=line.start if whole and line else None,
        end=line.end if whole and line else None,
        duration=duration if duration is None or duration > 0 else None,
        text=label.text or (line.text if line else None),
        dialogue=video,
        turn=clip,
        split=split,
        scores={"sentiment": label.sentiment} | {f"emotion/{emotion}": value for emotion, value in emotions},
        known_defect=KNOWN_DEFECTS.get(video),
    )
