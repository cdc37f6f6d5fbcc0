"""MELD: Multimodal EmotionLines Dataset, 13,708 utterances of 1,432 dialogues from the series Friends.

Provenance: Poria, Hazarika, Majumder, Naik, Cambria, Mihalcea: "MELD: A Multimodal Multi-Party Dataset for
Emotion Recognition in Conversations", ACL 2019, https://aclanthology.org/P19-1050; annotations and the link
to the clips (MELD.Raw.tar.gz, 10.9 GB) at https://github.com/declare-lab/MELD.
Licence: GPL-3.0 for the release; the clips are excerpts of a television series, for research.
Official counts: train 9989 utterances in 1038 dialogues, dev 1109 in 114, test 2610 in 280.

Where files are looked for: one rule. Each of the three CSVs and each of the three clip folders may lie in the
root or up to two folders below it, so every way in which the nested archives unpack is read
(`train_splits`, `train/train_splits`, `MELD.Raw/train/train_splits`); one that is found twice is refused.

Known defects of the release, from the project's own issue tracker (number in brackets):
- dev dia110_utt7 is annotated and has no clip (22, 27); train dia125_utt3 is damaged (39, 52);
- test dia38_utt4 and dia220_utt0 last five and four minutes, train dia309_utt0 runs on into the title music:
  they are cut wrongly (20);
- clips without annotation: dev dia49_utt4, dia49_utt5, dia66_utt9, dia66_utt10, test dia108_utt2, some 130
  `final_videos_testdiaX_uttY.mp4` beside the test clips, and macOS's `._` files: left out, with a note;
- some releases of the CSVs carry Windows-1252 quotes as C1 control characters (U+0092) or worse: repaired;
- times: train dia338_utt3 lasts 6 ms by its times, test dia155_utt3 nothing: there the clip's header is asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from cache_schema.errors import DataError
from cache_schema.samples import Corpus, Split, Target, Utterance
from extract.dataset import (
    SEE_LAYOUT,
    Enumeration,
    Probe,
    control_character,
    entries,
    read_csv,
    read_text,
    require_root,
    some,
)

SUMMARY = "MELD: 13,708 utterances of Friends in dialogues, seven emotions, three sentiments (video, sound, text)"
LAYOUT = """\
ROOT/train_sent_emo.csv             ROOT/train_splits/diaX_uttY.mp4
ROOT/dev_sent_emo.csv               ROOT/dev_splits_complete/diaX_uttY.mp4
ROOT/test_sent_emo.csv              ROOT/output_repeated_splits_test/diaX_uttY.mp4
Files and folders may also lie up to two folders below ROOT, as the archives unpack: train/train_splits.
Annotations and clips: https://github.com/declare-lab/MELD"""

EMOTIONS = ("neutral", "joy", "sadness", "anger", "surprise", "fear", "disgust")
SENTIMENTS = ("neutral", "positive", "negative")
CORPUS = Corpus(
    name="meld",
    title="MELD: A Multimodal Multi-Party Dataset for Emotion Recognition in Conversations (Poria et al., ACL 2019)",
    licence="GPL-3.0",
    targets=(
        Target(name="emotion", kind="classification", classes=EMOTIONS),
        Target(name="sentiment", kind="classification", classes=SENTIMENTS),
    ),
)
ALIKE = CORPUS.model_copy(
    update={
        "title": "A corpus in the layout of MELD, other than its official release",
        "licence": "as its makers say (the official release of MELD: GPL-3.0)",
    }
)

OFFICIAL_COUNTS = {"train": 9989, "dev": 1109, "test": 2610}
CLIP_FOLDERS = {
    "train": "train_splits",
    "dev": "dev_splits_complete",
    "test": "output_repeated_splits_test",
}
SPLIT_OF: dict[str, Split] = {"train": "train", "dev": "val", "test": "test"}
KNOWN_DEFECTS = {
    "dev/dia110_utt7": "the official release has no clip for it",
    "train/dia125_utt3": "the official clip is damaged",
    "train/dia309_utt0": "the official clip is cut wrongly: it runs on into the title music (41 s)",
    "test/dia38_utt4": "the official clip is cut wrongly: 305 s",
    "test/dia220_utt0": "the official clip is cut wrongly: 235 s",
}
COLUMNS = ("Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID", "StartTime", "EndTime")
SHORTEST_PLAUSIBLE = 0.04
"""Seconds, a frame of film: times that say less are wrong, and the clip's header is asked."""

_CLOCK = re.compile(r"([0-9]{1,2}):(\d{2}):(\d{2})[,.](\d{1,3})")
_CP1252_HIGH = "".join(chr(b) for b in range(0x80, 0xC0)) + "".join(
    bytes([b]).decode("cp1252", errors="ignore") for b in range(0x80, 0xA0)
)
_MISREAD = re.compile(f"[\u00c2-\u00f4][{_CP1252_HIGH}]{{1,3}}")
_C1 = {b: bytes([b]).decode("cp1252", errors="replace") for b in range(0x80, 0xA0)}


def enumerate_corpus(root: Path, probe: Probe) -> Enumeration:
    """All utterances in the order train, dev, test, each in the order of its CSV; ids as `train/dia0_utt0`.

    Raises:
        DataError: the root or a CSV is absent or found twice, or a line is not what it must be.
    """
    require_root(root)
    places = _find(root)
    absent = [name for name in map(_csv_name, OFFICIAL_COUNTS) if name not in places]
    if absent:
        raise DataError(f"{root} has no {' and no '.join(absent)}: all three are needed. {SEE_LAYOUT}")
    utterances: list[Utterance] = []
    notes: list[str] = []
    missing: list[str] = []
    counts: dict[str, int] = {}
    for dev_or, folder_name in CLIP_FOLDERS.items():
        folder = places.get(folder_name)
        if folder is None:
            notes.append(f"{folder_name} is absent: there are no clips of {dev_or}.")
        clips = {entry.name for entry in entries(folder)} if folder else set()
        below = folder.relative_to(root).as_posix() if folder else folder_name
        used: set[str] = set()
        for utterance in _read_split(dev_or, places[_csv_name(dev_or)]):
            clip = utterance.id.partition("/")[2] + ".mp4"
            used.add(clip)
            if clip not in clips:
                missing.append(utterance.id)
            elif utterance.duration is None:
                utterance = utterance.model_copy(update={"duration": probe(root / below / clip)})
            utterances.append(utterance.model_copy(update={"path": f"{below}/{clip}"}))
        counts[dev_or] = len(used)
        if extra := sorted(clips - used):
            notes.append(f"{below}: left out {len(extra)} files without annotation: {some(extra)}.")
    if missing:
        notes.append(f"{len(missing)} of {len(utterances)} clips are absent: {some(missing)}.")
    if counts == OFFICIAL_COUNTS:
        return Enumeration(CORPUS, utterances, notes, len(missing))
    found, official = ("/".join(map(str, c.values())) for c in (counts, OFFICIAL_COUNTS))
    notes.append(f"not the official release: {found} utterances in train/dev/test, where MELD has {official}.")
    return Enumeration(ALIKE, utterances, notes, len(missing))


def repair_encoding(text: str) -> str:
    """Undo what happened to Windows-1252 quotes in some copies of the CSVs.

    `you\\x92re` (bytes of Windows-1252 kept as C1 control characters), `youâ€™re` (UTF-8 read as Windows-1252)
    and `youÂ’re` (both) all become `you’re`.
    """
    return _MISREAD.sub(_reread, text).translate(_C1)


def _reread(match: re.Match[str]) -> str:
    try:
        data = b"".join(bytes([ord(c)]) if ord(c) < 0x100 else c.encode("cp1252") for c in match[0])
        return data.decode("utf-8")
    except UnicodeError:
        return match[0]


def _csv_name(dev_or: str) -> str:
    return f"{dev_or}_sent_emo.csv"


def _find(root: Path) -> dict[str, Path]:
    """Where each of the six names lies; see the rule at the head of the file."""
    csvs, clip_folders = set(map(_csv_name, CLIP_FOLDERS)), set(CLIP_FOLDERS.values())
    found: dict[str, Path] = {}
    folders = [root]
    for _ in range(3):
        below: list[Path] = []
        for entry in (entry for folder in folders for entry in entries(folder)):
            is_folder = entry.is_dir()
            if entry.name in (clip_folders if is_folder else csvs):
                if entry.name in found:
                    raise DataError(f"{entry.name} is there twice: {found[entry.name]} and {entry}. Keep one.")
                found[entry.name] = entry
            elif is_folder and not entry.name.startswith((".", "__MACOSX")):
                below.append(entry)
        folders = below
    return found


def _read_split(dev_or: str, file: Path) -> Iterator[Utterance]:
    """The utterances of one CSV, without their paths."""
    seen: dict[str, str] = {}
    for record in read_csv(file.name, read_text(file, fallback_encoding="cp1252")):
        lacking = [column for column in COLUMNS if column not in record.values]
        if lacking:
            raise DataError(f"{file}: there is no column {lacking[0]!r}; MELD's CSVs have {', '.join(COLUMNS)}.")
        row = {column: repair_encoding(value) for column, value in record.values.items()}
        dialogue, turn = (_number(record.where, row, column) for column in ("Dialogue_ID", "Utterance_ID"))
        name = f"{dev_or}/dia{dialogue}_utt{turn}"
        if name in seen:
            raise DataError(f"{record.where}: {name} stands already at {seen[name]}.")
        seen[name] = record.where
        for column in ("Utterance", "Speaker"):
            if control := control_character(row[column], allowed="\t\r\n"):
                raise DataError(f"{record.where}: {column} holds the control character {control}.")
        yield Utterance(
            id=name,
            duration=_duration(record.where, row),
            text=row["Utterance"] or None,
            speaker=row["Speaker"] or None,
            dialogue=f"{dev_or}/dia{dialogue}",
            turn=turn,
            split=SPLIT_OF[dev_or],
            labels={
                "emotion": _label(record.where, row, "Emotion", EMOTIONS),
                "sentiment": _label(record.where, row, "Sentiment", SENTIMENTS),
            },
            known_defect=KNOWN_DEFECTS.get(name),
        )


def _number(where: str, row: dict[str, str], column: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", row[column]):
        raise DataError(f"{where}: {column} is {row[column]!r}, not a number.")
    return int(row[column])


def _label(where: str, row: dict[str, str], column: str, classes: tuple[str, ...]) -> str:
    if row[column] not in classes:
        raise DataError(f"{where}: {column} is {row[column]!r}, not one of {', '.join(classes)}.")
    return row[column]


def _duration(where: str, row: dict[str, str]) -> float | None:
    """Seconds between the two times; None where they cannot be right."""
    start, end = (_milliseconds(where, row, column) for column in ("StartTime", "EndTime"))
    seconds = (end - start) / 1000
    return seconds if seconds >= SHORTEST_PLAUSIBLE else None


def _milliseconds(where: str, row: dict[str, str], column: str) -> int:
    match = _CLOCK.fullmatch(row[column])
    if match is None:
        raise DataError(f"{where}: {column} is {row[column]!r}, not of the form 00:16:16,059.")
    hours, minutes, seconds, fraction = match.groups()
    return ((int(hours) * 60 + int(minutes)) * 60 + int(seconds)) * 1000 + int(fraction.ljust(3, "0"))
