"""The adapter of AI-Hub's set 263: CP949, spellings, majorities, what has no clip or no line."""

from __future__ import annotations

from pathlib import Path
from unicodedata import normalize

import pytest

from cache_schema.errors import DataError
from extract.dataset import Enumeration
from extract.datasets import aihub

HEADER = (
    "wav_id,발화문,상황,1번 감정,1번 감정세기,2번 감정,2번 감정세기,3번 감정,3번 감정세기,"
    "4번 감정,4번감정세기,5번 감정,5번 감정세기,나이,성별"
)


def line(
    name: str = "5e258fd1305bcf3ad153a6a4",
    text: str = "어, 청소 니가 대신 해 줘!",
    situation: str = "anger",
    votes: str = "Neutral Angry angry anger Sadness",
) -> str:
    pairs = ",".join(f"{vote},1" for vote in votes.split())
    return f'{name},"{text}",{situation},{pairs},27,male'


def write(root: Path, *lines: str, file: str = "4차년도.csv", encoding: str = "cp949") -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / file).write_bytes("\r\n".join([HEADER, *lines, ""]).encode(encoding))


def read(root: Path) -> Enumeration:
    return aihub.enumerate_corpus(root, lambda _: 2.5)


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\0")


def test_a_line_is_an_utterance_whose_emotion_three_of_five_name(tmp_path: Path) -> None:
    write(tmp_path, line())
    touch(tmp_path / "4차년도" / "5e258fd1305bcf3ad153a6a4.wav")
    found = read(tmp_path)
    assert found.corpus.language == "ko"
    assert found.utterances[0].model_dump(exclude_none=True) == {
        "id": "5e258fd1305bcf3ad153a6a4",
        "path": "4차년도/5e258fd1305bcf3ad153a6a4.wav",
        "duration": 2.5,
        "text": "어, 청소 니가 대신 해 줘!",
        "labels": {"emotion": "anger", "situation": "anger"},
        "scores": {},
    }


@pytest.mark.parametrize(
    ("votes", "emotion"),
    [
        ("happiness happiness happiness happiness happiness", "happiness"),
        ("Fear fear FEAR disgust surprise", "fear"),
        ("sad sadness Sadness angry angry", "sadness"),
        ("fear fear disgust disgust surprise", None),
        ("fear fear disgust anger surprise", None),
    ],
)
def test_without_a_majority_there_is_no_label(tmp_path: Path, votes: str, emotion: str | None) -> None:
    write(tmp_path, line(votes=votes))
    assert read(tmp_path).utterances[0].labels.get("emotion") == emotion


def test_the_three_years_are_read_where_they_lie_in_any_form_of_unicode(tmp_path: Path) -> None:
    names = ("4차년도", "5차년도", "5차년도_2차")
    for number, name in enumerate(names):
        write(tmp_path / "csvdata", line(f"id{number}"), file=normalize("NFD", f"{name}.csv"))
        touch(tmp_path / normalize("NFD", name) / "wav" / f"id{number}.wav")
    (tmp_path / "csvdata" / "other.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    found = read(tmp_path)
    assert [u.id for u in found.utterances] == ["id0", "id1", "id2"]
    assert all(u.path and (tmp_path / u.path).is_file() for u in found.utterances)


def test_tabs_and_the_encoding_of_a_saved_copy_are_no_matter(tmp_path: Path) -> None:
    write(tmp_path, line(text="나\t정말 \t슬퍼"), encoding="utf-8-sig")
    assert read(tmp_path).utterances[0].text == "나 정말 슬퍼"


def test_clips_without_lines_lines_without_clips_and_counts_are_told(tmp_path: Path) -> None:
    write(tmp_path, line("a"), line("b", votes="fear fear anger anger sad"), line("c"))
    touch(tmp_path / "4차년도" / "a.wav")
    touch(tmp_path / "4차년도" / "orphan.wav")
    touch(tmp_path / "again" / "a.wav")
    found = read(tmp_path)
    assert found.missing == 2
    assert found.notes == [
        "1 clips are there twice; the first was read.",
        "2 of 3 clips are absent: b, c.",
        "left out 1 clips without a line in the CSVs: orphan.",
        "not the whole release: 3 utterances, where AI-Hub has 43991.",
        "2 utterances have an emotion that three annotators agree on (anger 2, sadness 0, neutral 0, happiness 0, fear "
        "0, disgust 0, surprise 0); the paper on this set uses 30358 and does not say which.",
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([line(situation="bored")], r"4차년도\.csv, line 2: 상황: There is no emotion called 'bored'"),
        ([line(votes="fear fear fear glad fear")], r"line 2: 4번 감정: There is no emotion called 'glad'"),
        ([line("a"), line("a")], r"line 3: wav_id 'a' stands already at 4차년도\.csv, line 2"),
        ([line("../a")], r"line 2: wav_id is '\.\./a', not the name of a clip"),
        ([line() + ",more"], r"line 2: 16 fields where the header has 15"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, lines: list[str], message: str) -> None:
    write(tmp_path, *lines)
    with pytest.raises(DataError, match=message):
        read(tmp_path)
