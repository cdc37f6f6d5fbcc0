"""The RAVDESS adapter: codes in names, modalities of one utterance, the copies that people have."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from cache_schema.errors import DataError
from extract.dataset import Enumeration
from extract.datasets import ravdess


def touch(root: Path, *names: str, data: bytes = b"\0") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def read(root: Path, seconds: float | None = 3.5) -> Enumeration:
    return ravdess.enumerate_corpus(root, lambda _: seconds)


def test_the_whole_release_has_its_official_counts(tmp_path: Path) -> None:
    for actor, emotion, intensity, statement, repetition in itertools.product(
        range(1, 25), range(1, 9), (1, 2), (1, 2), (1, 2)
    ):
        if (emotion, intensity) != (1, 2):
            name = f"Actor_{actor:02}/03-01-{emotion:02}-{intensity:02}-{statement:02}-{repetition:02}-{actor:02}.wav"
            touch(tmp_path, name)
    found = read(tmp_path)
    assert len(found.utterances) == ravdess.OFFICIAL_COUNT and found.notes == [] and found.missing == 0
    by_emotion = {e: sum(u.labels["emotion"] == e for u in found.utterances) for e in ravdess.EMOTIONS}
    assert by_emotion == {e: 96 if e == "neutral" else 192 for e in ravdess.EMOTIONS}
    assert len({u.speaker for u in found.utterances}) == 24
    assert len({u.id for u in found.utterances}) == 1440


def test_a_name_is_read_code_by_code(tmp_path: Path) -> None:
    touch(tmp_path, "Actor_16/03-01-05-02-02-01-16.wav")
    (utterance,) = read(tmp_path).utterances
    assert utterance.model_dump(exclude_none=True) == {
        "id": "01-05-02-02-01-16",
        "path": "Actor_16/03-01-05-02-02-01-16.wav",
        "duration": 3.5,
        "text": "Dogs are sitting by the door.",
        "speaker": "Actor_16",
        "labels": {"emotion": "angry", "intensity": "strong"},
        "scores": {},
    }


def test_modalities_of_one_utterance_are_one_sample(tmp_path: Path) -> None:
    code = "01-03-01-01-01-02"
    touch(tmp_path, f"Audio/Actor_02/03-{code}.wav", f"Video/Actor_02/02-{code}.mp4")
    (utterance,) = read(tmp_path).utterances
    assert (utterance.path, utterance.sound) == (f"Video/Actor_02/02-{code}.mp4", f"Audio/Actor_02/03-{code}.wav")
    touch(tmp_path, f"Video/Actor_02/01-{code}.mp4")
    (utterance,) = read(tmp_path).utterances
    assert (utterance.path, utterance.sound) == (f"Video/Actor_02/01-{code}.mp4", None)


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    name = "Actor_01/03-01-01-01-01-01-01.wav"
    touch(tmp_path, name, f"audio_speech_actors_01-24/{name}", "Actor_01/03-02-01-01-01-01-01.wav", "README.txt")
    found = read(tmp_path)
    assert [u.path for u in found.utterances] == [name]
    assert found.notes == [
        "left out 1 files of song.",
        "1 files are there twice; the first was read.",
        "left out 1 files with other names: README.txt.",
        "not the whole release: 1 utterances of 1 actors, where RAVDESS has 1440 of 24.",
    ]


def test_two_files_of_one_name_and_different_contents_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a/03-01-01-01-01-01-01.wav")
    touch(tmp_path, "b/03-01-01-01-01-01-01.wav", data=b"other")
    with pytest.raises(DataError, match="there twice with different contents"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("03-01-09-01-01-01-01.wav", "emotion 09, and there are 01 to 08"),
        ("03-01-01-01-01-01-25.wav", "actor 25, and there are 01 to 24"),
        ("04-01-01-01-01-01-01.wav", "modality 04"),
        ("03-01-01-00-01-01-01.wav", "intensity 00"),
    ],
)
def test_a_code_that_does_not_exist_is_named(tmp_path: Path, name: str, message: str) -> None:
    touch(tmp_path, name)
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_real_files_are_read(test_data: Path) -> None:
    from extract.decoding.media import probe

    found = ravdess.enumerate_corpus(test_data / "ravdess", probe)
    assert len(found.utterances) == 64
    assert {u.speaker for u in found.utterances} == {f"Actor_{n:02}" for n in range(1, 9)}
    assert all(sum(u.labels["emotion"] == e for u in found.utterances) == 8 for e in ravdess.EMOTIONS)
    assert all(u.duration is not None and 2 < u.duration < 6 for u in found.utterances)
    assert "64 utterances of 8 actors" in found.notes[-1]
