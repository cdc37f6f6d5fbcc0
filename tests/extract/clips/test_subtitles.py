"""Transcripts of single clips, as other programs write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cache_schema.errors import DataError
from extract.clips.subtitles import Line, read_transcript

SRT = (
    "1\r\n00:00:01,500 --> 00:00:02,750\r\n<i>Well,</i>\r\nno &amp; yes.\r\n\r\n"
    "2\r\n01:00:00,000 --> 01:00:01,000\r\nOh!\r\n"
)
VTT = """WEBVTT - a talk

NOTE nobody says this

STYLE
::cue { color: red }

00:01.500 --> 00:02.750 align:start position:0%
<v Ines>Well, <c.loud>no</c> &amp; yes.

last
01:00:00.000 --> 01:00:01.000
Oh!
"""
TABLE = 'start,end,text,speaker\n3600,3601,Oh!,\n1.5,2.75,"Well, no & yes.",Ines\n'


def written(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode("utf-8"))
    return path


@pytest.mark.parametrize(
    ("name", "text"), [("a.srt", SRT), ("a.VTT", VTT), ("a.csv", TABLE), ("a.srt", "\ufeff" + SRT)]
)
def test_what_is_said_when(tmp_path: Path, name: str, text: str) -> None:
    first, second = read_transcript(written(tmp_path, name, text))
    assert (first.text, first.start, first.end) == ("Well, no & yes.", 1.5, 2.75)
    assert (second.text, second.start, second.end) == ("Oh!", 3600.0, 3601.0)
    assert first.speaker == ("Ines" if name == "a.csv" else None)


def test_plain_text_has_no_times(tmp_path: Path) -> None:
    assert read_transcript(written(tmp_path, "a.txt", " Well,\n  no.\n")) == [Line("Well, no.")]
    assert read_transcript(written(tmp_path, "a.txt", "\n")) == [Line(None)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.doc", "x", r"give \.txt, \.srt"),
        ("a.srt", "hello", "holds no line"),
        ("a.srt", "00:00:02,000 --> 00:00:01,000\nx\n", r"a\.srt, line 1: from 2 s to 1 s"),
        ("a.csv", "start,end,txt\n1,2,x\n", r"Did you mean 'text'"),
        ("a.csv", "start,end,text\none,2,x\n", r"line 2: start is 'one'"),
        ("a.csv", "start,end,text\nnan,2,x\n", r"start is 'nan'"),
        ("a.srt", "00:00:01,000 --> 00:00:02,000\n\x1b[31mx\n", "control character"),
        ("a.txt", "\udce9".encode("utf-8", "surrogateescape").decode("latin-1"), None),
    ],
)
def test_what_is_no_transcript_is_refused_by_its_line(
    tmp_path: Path, name: str, text: str, message: str | None
) -> None:
    path = written(tmp_path, name, text)
    if message is None:
        path.write_bytes(b"caf\xe9")
        message = "not UTF-8"
    with pytest.raises(DataError, match=message):
        read_transcript(path)
