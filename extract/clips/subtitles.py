"""Transcripts of single clips: plain text, or what is said when (SubRip, WebVTT, or a table)."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from html import unescape
from pathlib import Path

from cache_schema.errors import DataError
from cache_schema.registry import unknown_name
from extract.dataset import BLANKS, read_csv, read_text, require_text

TIMED = (".srt", ".vtt", ".csv")
ENDINGS = (".txt", *TIMED)
COLUMNS = ("start", "end", "text", "speaker")
_STAMP = r"(?:(\d+):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})"
_TIMES = re.compile(rf"\s*{_STAMP}\s*-->\s*{_STAMP}")
_TAGS = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")


@dataclass(frozen=True)
class Line:
    """Something that is said in a clip.

    Attributes:
        text: the words; None where the transcript is empty.
        start, end: seconds from the clip's begin; None: the whole clip.
        speaker: who says it, where that is known.
    """

    text: str | None
    start: float | None = None
    end: float | None = None
    speaker: str | None = None


def read_transcript(file: Path) -> list[Line]:
    """What a transcript says, in the order of time; one line without times where it is plain text.

    `.txt` is plain text, `.srt` and `.vtt` are subtitles, of which the markup is dropped; `.csv` has the columns start
    and end (seconds), text and, if wanted, speaker.

    Raises:
        DataError: it cannot be read, says nothing, or has an end that is not after its start.
    """
    ending = file.suffix.lower()
    if ending not in ENDINGS:
        raise DataError(f"{file} is no transcript that is known by its ending: give {', '.join(ENDINGS)}.")
    text = read_text(file)
    if ending == ".txt":
        return [Line(require_text(file.name, "the transcript", " ".join(text.split())))]
    lines = _table(file.name, text) if ending == ".csv" else _subtitles(file.name, text)
    if not lines:
        raise DataError(f"{file} holds no line of text with its times.")
    return sorted(lines, key=lambda line: (line.start or 0.0, line.end or 0.0))


def _table(name: str, text: str) -> list[Line]:
    lines = []
    for record in read_csv(name, text):
        for column in record.values:
            if column not in COLUMNS:
                raise DataError(f"{record.where}: " + unknown_name("column", column, list(COLUMNS)))
        start, end = (_seconds(record.where, column, record.values.get(column, "")) for column in ("start", "end"))
        speaker = require_text(record.where, "speaker", record.values.get("speaker", ""))
        lines.append(_line(record.where, start, end, record.values.get("text", ""), speaker))
    return lines


def _seconds(where: str, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: {column} is {text!r}; it must be seconds.")
    return value


def _subtitles(name: str, text: str) -> list[Line]:
    """The cues of SubRip and WebVTT, which have their times alike; notes and styles have none."""
    lines = []
    rows = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    place = 0
    while place < len(rows):
        found = _TIMES.match(rows[place])
        if found is None:
            place += 1
            continue
        where = f"{name}, line {place + 1}"
        place += 1
        said = []
        while place < len(rows) and rows[place].strip():
            said.append(rows[place])
            place += 1
        words = unescape(_TAGS.sub("", " ".join(said)))
        lines.append(_line(where, _stamp(found.groups()[:4]), _stamp(found.groups()[4:]), words, None))
    return lines


def _stamp(parts: tuple[str | None, ...]) -> float:
    hours, minutes, seconds, thousandths = parts
    return 3600 * int(hours or 0) + 60 * int(minutes or 0) + int(seconds or 0) + float(f"0.{thousandths}")


def _line(where: str, start: float, end: float, text: str, speaker: str | None) -> Line:
    if not 0 <= start < end:
        raise DataError(f"{where}: from {start:g} s to {end:g} s is no stretch of a clip.")
    return Line(require_text(where, "the text", " ".join(text.split()).strip(BLANKS)), start, end, speaker)
