"""Recognition against openai-whisper's own, with planted speech, and what becomes of it in a store."""

from __future__ import annotations

import shutil
import wave
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cache_schema.errors import SettingsError
from cache_schema.store import FeatureStore
from extract import recognition
from extract.recognition import Recogniser, name_of
from extract.run import extract
from extract.weights.checkpoints import Checkpoint
from extract.weights.random_weights import MARKER

LONG, SHORT = " Good night, and thank you.", " We will meet at nine."


@pytest.fixture
def checkpoint(small: Callable[[str], Checkpoint]) -> Checkpoint:
    return small("words")


class PlantedEncoder(torch.nn.Module):
    """Hears nothing but how much sound there is: the state of every frame is the mean of the spectrogram."""

    def __init__(self, frames: int, width: int) -> None:
        super().__init__()
        self.frames, self.width = frames, width
        self.place = torch.nn.Parameter(torch.zeros(1), requires_grad=False)  # a model lies where its weights do

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        return mel.mean(dim=(1, 2))[:, None, None].expand(-1, self.frames, self.width).clone()


class PlantedDecoder(torch.nn.Module):
    """Says a sentence for much sound, another for little, and that silence is no speech.

    Args:
        sentences: (least mean of the spectrogram, tokens), most first; below them all there is no speech.
        tokenizer: whisper's.
        vocabulary: how many tokens there are.
    """

    def __init__(self, sentences: list[tuple[float, list[int]]], tokenizer: Any, vocabulary: int) -> None:
        super().__init__()
        self.sentences, self.tokenizer, self.vocabulary = sentences, tokenizer, vocabulary
        self.blocks = torch.nn.ModuleList()
        self.place = 0
        self.register_buffer("positional_embedding", torch.zeros(448, 1))

    def forward(self, tokens: torch.Tensor, states: torch.Tensor, kv_cache: Any = None) -> torch.Tensor:
        first = tokens.shape[-1] > 1 or tokens[0, 0] == self.tokenizer.sot
        self.place = 0 if first else self.place + 1
        amount = float(states.mean())
        said = next((t for least, t in self.sentences if amount >= least), None)
        logits = torch.full((*tokens.shape, self.vocabulary), -20.0)
        if said is None:
            logits[..., self.tokenizer.no_speech] = 20.0
            logits[..., -1, self.tokenizer.eot] = 0.0  # unlikely, too: its text is not believed
            return logits
        logits[..., -1, said[self.place] if self.place < len(said) else self.tokenizer.eot] = 20.0
        return logits


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Every Whisper that is loaded says what is planted; gives the mean of all that it has heard."""
    from whisper.tokenizer import get_tokenizer

    heard: list[float] = []
    whole = recognition.load_whisper

    def load(checkpoint: Checkpoint, device: str) -> Any:
        model = whole(checkpoint, device)
        tokenizer = get_tokenizer(True, num_languages=model.num_languages, language="en", task="transcribe")
        begin = tokenizer.timestamp_begin
        said = [[begin, *tokenizer.encode(text), begin + 50] for text in (LONG, SHORT)]
        model.encoder = PlantedEncoder(model.dims.n_audio_ctx, model.dims.n_audio_state)
        model.encoder.register_forward_hook(lambda module, given, out: heard.append(float(out.mean())))
        model.decoder = PlantedDecoder([(0.05, said[0]), (0.01, said[1])], tokenizer, model.dims.n_vocab)
        return model

    monkeypatch.setattr(recognition, "load_whisper", load)
    return heard


def noise(seconds: float, level: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (level * rng.standard_normal(int(16000 * seconds))).astype(np.float32)


@pytest.mark.parametrize(("marked", "settings"), [(True, {"temperature": 0.0}), (False, {})])
def test_equals_whispers_own_transcription(
    checkpoint: Checkpoint, tmp_path: Path, marked: bool, settings: dict[str, float]
) -> None:
    """With drawn weights it says rubbish, the same rubbish; weights that say so are asked at one temperature."""
    from whisper import transcribe

    if not marked:
        folder = shutil.copytree(checkpoint.folder, tmp_path / "whisper", ignore=shutil.ignore_patterns(MARKER))
        checkpoint = replace(checkpoint, folder=folder)
    mine = Recogniser(checkpoint, "cpu", "de")
    sound = noise(1.0, 0.1)
    mine.model.dims.n_text_ctx = 14  # a short rubbish
    heard = mine.hear(sound)
    torch.manual_seed(0)
    theirs = transcribe(mine.model, sound, language="de", fp16=False, **settings)
    assert heard.text == recognition._plain(theirs["text"])
    assert heard.language == "de"
    assert not marked or mine.hear(sound) == heard


def test_what_is_said_is_heard_and_silence_is_not(checkpoint: Checkpoint, planted: list[float]) -> None:
    recogniser = Recogniser(checkpoint, "cpu", "en")
    assert recogniser.hear(noise(1.0, 0.3)).text == "We will meet at nine."
    assert recogniser.hear(noise(9.0, 0.3)).text == "Good night, and thank you."
    assert recogniser.hear(np.zeros(16000, np.float32)).text is None
    assert recogniser.hear(np.zeros(10, np.float32)).text is None
    assert len(planted) >= 3  # the ten samples aside


def test_longer_sound_than_a_window_is_heard_to_its_end(checkpoint: Checkpoint, planted: list[float]) -> None:
    heard = Recogniser(checkpoint, "cpu", "en").hear(noise(70.0, 0.3))
    assert heard.text is not None and heard.text.count(LONG.strip()) == len(planted) >= 3


def test_a_language_that_there_is_not_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(SettingsError, match="klingon"):
        Recogniser(checkpoint, "cpu", "klingon")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A loud clip, a silent one, one with a transcript, and one that is broken."""
    data = tmp_path / "data"
    data.mkdir()
    rows = ["id,path,text", "loud,loud.wav,", "silent,silent.wav,", 'given,given.wav,"As it was."', "bad,bad.wav,"]
    (data / "manifest.csv").write_text("\n".join(rows) + "\n", "utf-8")
    for name, level in (("loud", 0.3), ("silent", 0.0), ("given", 0.3)):
        with wave.open(str(data / f"{name}.wav"), "wb") as out:
            out.setparams((1, 2, 16000, 0, "NONE", ""))
            out.writeframes((noise(1.0, level).clip(-1, 1) * 32767).astype("<i2").tobytes())
    (data / "bad.wav").write_bytes(b"no media")
    return data


def run(
    root: Path, checkpoint: Checkpoint, store: Path, recognise: str | None = None, weights: Any = None
) -> list[str]:
    said: list[str] = []
    weights = weights or f"words={checkpoint.folder},roberta=random-small"
    extract(
        "folder",
        root,
        str(store),
        encoders=["roberta"],
        weights=weights,
        device="cpu",
        recognise=recognise,
        say=said.append,
    )
    return said


def test_recognised_text_is_the_utterances_own_and_says_so_for_ever(
    root: Path, tmp_path: Path, checkpoint: Checkpoint, planted: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MER_CACHE", str(tmp_path / "cache"))
    store = tmp_path / "store"
    run(root, checkpoint, store)  # a dataset that is there already
    before = FeatureStore.open(store).samples("folder")
    assert [u.text for u in before.utterances] == [None, None, "As it was.", None]
    assert planted == []
    said = run(root, checkpoint, store, "en")
    assert any("2 of 3" in line or "3 of 3" in line for line in said), said
    samples = FeatureStore.open(store).samples("folder")
    by = {u.id: u for u in samples.utterances}
    assert samples.ids == ["loud", "silent", "given", "bad"]
    name = name_of(checkpoint)
    assert name == f"random sha256:{checkpoint.weights_sha256}"
    assert (by["loud"].text, by["loud"].recognised) == ("We will meet at nine.", name)
    assert (by["silent"].text, by["silent"].recognised) == (None, name)  # it was listened to
    assert (by["given"].text, by["given"].recognised) == ("As it was.", None)
    assert (by["bad"].text, by["bad"].recognised) == (None, None)  # it could not be
    feature = FeatureStore.open(store).feature("folder", "roberta")
    offsets = feature.load(["loud"], ("offsets",)).row(0, "offsets")
    assert offsets.max() == len("We will meet at nine.")
    assert feature.absences() == {
        "silent": "no speech was recognised in it",
        "bad": "the sample has no transcript",
    }
    heard = len(planted)
    run(root, checkpoint, store)  # neither forgets it nor listens again
    run(root, checkpoint, store, "en")
    after = FeatureStore.open(store).samples("folder")
    assert after.utterances == samples.utterances and len(after.parts) == len(samples.parts)
    assert len(planted) == heard


def test_a_transcript_that_comes_later_replaces_what_was_recognised(
    root: Path, tmp_path: Path, checkpoint: Checkpoint, planted: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MER_CACHE", str(tmp_path / "cache"))
    store = tmp_path / "store"
    run(root, checkpoint, store, "auto")
    manifest = root / "manifest.csv"
    manifest.write_text(manifest.read_text().replace("loud,loud.wav,", "loud,loud.wav,At ten."), "utf-8")
    run(root, checkpoint, store, "auto")
    (loud, *_) = FeatureStore.open(store).samples("folder").utterances
    assert (loud.text, loud.recognised) == ("At ten.", None)


def test_a_stopped_run_keeps_what_it_had_recognised(
    root: Path, tmp_path: Path, checkpoint: Checkpoint, planted: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recognition, "CHUNK", 1)
    store = tmp_path / "store"

    def stop(self: Recogniser, sound: np.ndarray, language: str | None = None) -> recognition.Heard:
        if float(np.abs(sound).max()) < 1e-6:
            raise KeyboardInterrupt
        return hear(self, sound)

    hear = Recogniser.hear
    monkeypatch.setattr(Recogniser, "hear", stop)
    with pytest.raises(KeyboardInterrupt):
        run(root, checkpoint, store, "en")
    (only,) = FeatureStore.open(store).samples("folder").utterances
    assert only.text == "We will meet at nine."
