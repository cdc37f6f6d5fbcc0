"""What a dataset is: the contract of every file in `extract/datasets/`, and what these files share.

A dataset file has
    SUMMARY    one line for `mer datasets`
    LAYOUT     what to put where, several lines, for `mer datasets`
    enumerate_corpus(root, probe) -> Enumeration
               reads annotations and folder listings; of media it reads headers at most
"""

from __future__ import annotations

import csv
import io
import re
import stat
import wave
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath

from cache_schema.errors import DataError
from cache_schema.samples import Corpus, Utterance

SEE_LAYOUT = "`mer datasets` says what it must hold."
"""End of an error about a data root."""

Probe = Callable[[Path], float | None]
"""The duration in seconds by a media file's header; None where the header does not tell."""

BLANKS = " \t\r\n"
"""What is stripped around a value; not C1 controls, which may be quotes in a wrong encoding."""

LONGEST_NAME = 255
"""Bytes of the longest name of a file."""

LONGEST_SECONDS = 1e6
"""No recording is longer: eleven days."""

LEAST_HZ = 1000
"""Samples per second of the slowest sound whose header is believed."""

COUNT = re.compile("[0-9]{1,9}")
"""A number of a clip or a turn."""


@dataclass(frozen=True)
class Enumeration:
    """A dataset as it lies on this disk.

    Attributes:
        corpus: what it is.
        utterances: all of it, in the corpus's own order, those without a clip included.
        notes: lines for the user: what was left out and why.
        missing: number of utterances whose clip is named and is not there.
        channels: what the physiological recordings measure; empty where there are none.
    """

    corpus: Corpus
    utterances: list[Utterance]
    notes: list[str] = field(default_factory=list)
    missing: int = 0
    channels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Record:
    """A line of an annotation file.

    Attributes:
        where: file and line, as "train_sent_emo.csv, line 7".
        values: text by column name.
    """

    where: str
    values: dict[str, str]


def require_root(root: Path) -> None:
    """Refuse a data root that is not a folder.

    Raises:
        DataError: it is none.
    """
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise DataError(f"The data root {root} {what}. {SEE_LAYOUT}")


def entries(folder: Path) -> list[Path]:
    """What lies in a folder, sorted.

    Raises:
        DataError: the folder cannot be read.
    """
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}.") from error


def read_text(file: Path, fallback_encoding: str | None = None) -> str:
    """The text of an annotation file in UTF-8, with or without byte order mark; line ends are left as they are.

    Args:
        file: which file.
        fallback_encoding: how to read a file that is not UTF-8; None refuses it.

    Raises:
        DataError: it cannot be read or is not UTF-8.
    """
    try:
        if not stat.S_ISREG(file.stat().st_mode):  # a named pipe would be waited for
            raise DataError(f"{file} cannot be read: it is not a file.")
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if fallback_encoding is not None:
            return data.decode(fallback_encoding, errors="replace")
        line = data[: error.start].count(b"\n") + 1
        raise DataError(f"{file.name}, line {line}: not UTF-8. Save the file in UTF-8.") from error


def read_csv(name: str, text: str) -> Iterator[Record]:
    """The records of a CSV file; every value is text, whatever it begins with, stripped of surrounding blanks.

    Raises:
        DataError: no header, a column named twice, a quote that is not closed, a line with more or fewer fields
            than the header.
    """
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [column.strip() for column in next(lines, [])]
        twice = sorted({column for column in header if header.count(column) > 1})
        if not header or twice:
            raise DataError(
                f"{name}, line 1: " + (f"column {twice[0]!r} stands there twice." if twice else "no header.")
            )
        begin = lines.line_num + 1
        for fields in lines:
            where = f"{name}, line {begin}"
            begin = lines.line_num + 1
            if not fields:
                continue
            if len(fields) != len(header):
                raise DataError(
                    f"{where}: {len(fields)} fields where the header has {len(header)}: is a quote missing?"
                )
            yield Record(where, {column: value.strip(BLANKS) for column, value in zip(header, fields, strict=True)})
    except csv.Error as error:
        raise DataError(f"{name}, line {lines.line_num}: {error}.") from error


def path_inside(path: str, where: str, root: Path) -> str:
    """`path` relative to the root with forward slashes, `.` parts dropped.

    An absolute path is accepted where it lies below the root; whether the file exists is not asked. Links are followed:
    they are the word of who owns the folder, as a path in an annotation file is not.

    Raises:
        DataError: it leaves the data root, or is longer than any file's.
    """
    if any(len(part.encode(errors="replace")) > LONGEST_NAME for part in re.split(r"[/\\]", path)) or len(path) > 4000:
        raise DataError(f"{where}: no file has a path so long: {path[:80]!r}...")
    pure = PureWindowsPath(path) if "\\" in path else Path(path)
    if pure.is_absolute() or pure.drive:
        for base in (root.absolute(), root.resolve()):
            if pure.is_relative_to(base):
                pure = pure.relative_to(base)
                break
        else:
            raise DataError(f"{where}: path {path!r} lies outside the data root; put the clip below {root}.")
    if pure.root or ".." in pure.parts or not pure.parts:
        raise DataError(f"{where}: path {path!r} leaves the data root; name a file below {root}.")
    return pure.as_posix()


_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Unicode's categories Cc and Cs."""


def control_character(text: str, allowed: str = "") -> str | None:
    """The first control character or lone surrogate in `text` that is not among `allowed`, in escaped form."""
    if text.isprintable():
        return None
    for match in _CONTROL.finditer(text):
        if match[0] not in allowed:
            return match[0].encode("unicode_escape", "backslashreplace").decode("ascii")
    return None


def some(names: Sequence[str], at_most: int = 5) -> str:
    """The first names of a list and how many more there are, for a note."""
    more = len(names) - at_most
    return ", ".join(names[:at_most]) + (f" and {more} more" if more > 0 else "")


def folders_below(root: Path, depth: int) -> Iterator[Path]:
    """The root and the folders up to `depth` below it, level by level, hidden ones and macOS's copies left out.

    Raises:
        DataError: a folder cannot be read.
    """
    level = [root]
    for remaining in range(depth, -1, -1):
        yield from level
        if remaining:
            level = [
                entry
                for folder in level
                for entry in entries(folder)
                if not entry.name.startswith((".", "__MACOSX")) and entry.is_dir()
            ]


def find_file(root: Path, names: Sequence[str], depth: int = 2) -> Path | None:
    """The one file in the root, or up to `depth` folders below it, that has one of these names; None: there is none.

    Raises:
        DataError: there are two.
    """
    found = [folder / name for folder in folders_below(root, depth) for name in names if (folder / name).is_file()]
    if len(found) > 1:
        raise DataError(f"{found[0].name} and {found[1]} are both there, the first at {found[0].parent}. Keep one.")
    return found[0] if found else None


def sound_seconds(file: Path, probe: Probe) -> float | None:
    """The duration in seconds by the header: of a WAV file its first bytes, a thousand times as quick, else `probe`.

    The header of a WAV file that was written into a pipe promises more than there is; then `probe` is asked too.
    """
    try:
        size = file.stat().st_size if file.is_file() else 0
        if size:
            with wave.open(str(file)) as sound:
                frames, hz = sound.getnframes(), sound.getframerate()
                if frames * sound.getnchannels() * sound.getsampwidth() <= size and hz >= LEAST_HZ:
                    return float(frames / hz)
    except (wave.Error, EOFError, OSError, ZeroDivisionError):
        pass
    return probe(file)


def require_text(where: str, what: str, text: str) -> str | None:
    """A transcript or a name, stripped; None where it is empty.

    Raises:
        DataError: it holds a control character.
    """
    if control := control_character(text, allowed="\t\r\n"):
        raise DataError(f"{where}: {what} holds the control character {control}.")
    return text.strip(BLANKS) or None
