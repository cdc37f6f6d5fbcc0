"""What every dataset file must be; a new one is picked up from the folder."""

from __future__ import annotations

import wave
from pathlib import Path

import pytest

from cache_schema.errors import DataError
from extract.dataset import SEE_LAYOUT, sound_seconds
from extract.datasets import DATASETS


@pytest.mark.parametrize("name", DATASETS.names())
def test_a_dataset_describes_itself(name: str) -> None:
    module = DATASETS.load(name)
    assert module.__doc__ and "licence" in module.__doc__.lower()
    assert isinstance(module.SUMMARY, str) and "\n" not in module.SUMMARY and len(module.SUMMARY) < 110
    assert "ROOT/" in module.LAYOUT and all(len(line) <= 120 for line in module.LAYOUT.splitlines())


@pytest.mark.parametrize("name", DATASETS.names())
def test_a_root_that_is_not_there_or_holds_nothing_is_an_error_of_one_line(name: str, tmp_path: Path) -> None:
    module = DATASETS.load(name)
    (tmp_path / "file").write_bytes(b"")
    for root in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(DataError) as error:
            module.enumerate_corpus(root, lambda _: None)
        assert str(root) in str(error.value) and str(error.value).endswith(SEE_LAYOUT)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as error:
        module.enumerate_corpus(tmp_path / "empty", lambda _: None)
    assert str(error.value).endswith(SEE_LAYOUT)
    assert "\n" not in str(error.value)


def test_the_header_of_a_wav_file_is_read_and_any_other_file_is_probed(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "tone.wav"), "wb") as sound:
        sound.setnchannels(2)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(4 * 12_000))
    assert sound_seconds(tmp_path / "tone.wav", lambda _: None) == 1.5
    for name, data in (("none.wav", b""), ("other.wav", b"RIFF....AVI "), ("absent.wav", None)):
        if data is not None:
            (tmp_path / name).write_bytes(data)
        assert sound_seconds(tmp_path / name, lambda file: float(len(file.name))) == len(name)
