"""What a run makes of a corpus's language, and of encoders that read more than their modality tells."""

from __future__ import annotations

import wave
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cache_schema.errors import DataError
from cache_schema.store import FeatureStore
from extract.dataset import Probe, sound_seconds
from extract.datasets import folder
from extract.run import extract
from extract.weights.checkpoints import Checkpoint

LISTED = "id,path\na,a.wav\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One second of silence, without a transcript, so that no model need run."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "manifest.csv").write_text(LISTED, encoding="utf-8")
    write_wav(data / "a.wav")
    return data


def write_wav(file: Path) -> None:
    with wave.open(str(file), "wb") as out:
        out.setparams((1, 2, 16000, 0, "NONE", ""))
        out.writeframes(bytes(32000))


def speak(monkeypatch: pytest.MonkeyPatch, language: str) -> None:
    """Let a folder's corpus be of this language."""
    read = folder.enumerate_corpus

    def spoken(root: Path, probe: Probe) -> object:
        found = read(root, probe)
        return replace(found, corpus=found.corpus.model_copy(update={"language": language}))

    monkeypatch.setattr(folder, "enumerate_corpus", spoken)


@pytest.mark.parametrize(("settings", "language"), [([], "ko"), (["words.language=de"], "de")])
def test_words_are_aligned_in_the_corpus_language_or_in_the_one_that_is_set(
    root: Path,
    tmp_path: Path,
    small: Callable[[str], Checkpoint],
    monkeypatch: pytest.MonkeyPatch,
    settings: list[str],
    language: str,
) -> None:
    speak(monkeypatch, "ko-KR")
    store = str(tmp_path / "store")
    weights = str(small("words").folder)
    extract("folder", root, store, encoders=["words"], weights=weights, settings=settings, name="c", device="cpu")
    feature = FeatureStore.open(store).feature("c", "words")
    assert feature.spec.settings == {"language": language}
    assert feature.failures() == {}


def test_an_encoder_for_another_language_is_told(
    root: Path, tmp_path: Path, small: Callable[[str], Checkpoint]
) -> None:
    said: list[str] = []
    weights = str(small("koelectra").folder)
    extract("folder", root, str(tmp_path / "store"), encoders=["koelectra"], weights=weights, say=said.append)
    assert "koelectra is for ko, and the corpus's language is 'en'." in said


def test_a_crop_that_no_encoder_sees_is_told(root: Path, tmp_path: Path) -> None:
    said: list[str] = []
    extract("folder", root, str(tmp_path / "store"), encoders=["mfcc"], crop="face", say=said.append)
    assert "--crop face changes nothing: mfcc read no pictures." in said


def test_words_alone_asks_for_its_clips(root: Path, tmp_path: Path, small: Callable[[str], Checkpoint]) -> None:
    (root / "a.wav").unlink()
    weights = str(small("words").folder)
    with pytest.raises(DataError, match="none of the 1 clips"):
        extract("folder", root, str(tmp_path / "store"), encoders=["words"], weights=weights)
    assert not (tmp_path / "store").exists()


def test_the_duration_of_a_wav_file_is_its_headers_where_the_file_is_as_long(tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    write_wav(file)
    assert sound_seconds(file, lambda _: None) == 1.0
    whole = bytearray(file.read_bytes())
    whole[40:44] = b"\xff\xff\xff\xff"  # as FFmpeg writes it into a pipe
    file.write_bytes(whole)
    assert sound_seconds(file, lambda _: 0.5) == 0.5
