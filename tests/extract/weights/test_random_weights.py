"""Random checkpoints: the same bytes every time, whole or not at all, and worth learning from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cache_schema.errors import SettingsError
from cache_schema.samples import Utterance
from extract.encoder import Clip
from extract.encoders import ENCODERS
from extract.weights.checkpoints import resolve
from extract.weights.random_weights import make_random_checkpoint

WITH_WEIGHTS = [name for name in ENCODERS.names() if ENCODERS.load(name).HUB is not None]


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_the_same_arguments_give_the_same_bytes(name: str, tmp_path: Path) -> None:
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        make_random_checkpoint(name, tmp_path / folder, "small", seed)
    first, second, other = ({p.name: p.read_bytes() for p in (tmp_path / f).iterdir()} for f in "abc")
    assert first == second
    assert {key for key in first if first[key] != other[key]} == {"model.safetensors", "mer.json"}
    assert json.loads(first["mer.json"]) == {"weights": "random", "encoder": name, "size": "small", "seed": 0}
    assert "config.json" in first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c"]


def test_other_random_numbers_are_not_disturbed(tmp_path: Path) -> None:
    import torch

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    make_random_checkpoint("vit", tmp_path / "vit", "small", 0)
    assert torch.equal(torch.rand(3), expected)


def test_a_draw_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ENCODERS.load("vit"), "draw", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_random_checkpoint("vit", tmp_path / "vit", "small", 0)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "vit").mkdir()
    (tmp_path / "vit" / "mine.txt").write_text("mine")
    with pytest.raises(SettingsError, match="in use"):
        make_random_checkpoint("vit", tmp_path / "vit", "small", 0)
    assert [p.name for p in tmp_path.iterdir()] == ["vit"]
    assert (tmp_path / "vit" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(("name", "size"), [("mfcc", "small"), ("vit", "tiny"), ("vitt", "small")])
def test_what_has_no_random_weights_is_refused(name: str, size: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        make_random_checkpoint(name, tmp_path / "x", size, 0)


def test_a_tokenizer_learns_the_sentences(tmp_path: Path) -> None:
    make_random_checkpoint("roberta", tmp_path / "r", "small", 0, ["xylophone zebra"] * 20)
    vocabulary = json.loads((tmp_path / "r" / "tokenizer.json").read_text())["model"]["vocab"]
    assert "xylophone" in vocabulary and "Ġzebra" in vocabulary


def pictures(label: int, rng: np.random.Generator, side: int) -> np.ndarray:
    """Two frames of a noisy disc: high or low in the picture."""
    y, x = np.mgrid[:side, :side] / side
    centre = (0.35, 0.65)[label] + rng.normal(0, 0.03)
    disc = np.hypot(y - centre, x - 0.5 - rng.normal(0, 0.1)) < 0.2
    base = 90 + 100 * disc[..., None] + rng.normal(0, 20, (2, side, side, 3))
    return base.clip(0, 255).astype(np.uint8)


def speech(label: int, rng: np.random.Generator) -> np.ndarray:
    """Half a second of a buzzing voice, low or high, in noise."""
    pitch = (120, 300)[label] * np.exp(rng.normal(0, 0.08))
    t = np.arange(8000) / 16000
    wave = sum(np.sin(2 * np.pi * pitch * k * t + rng.uniform(0, 6)) / k for k in range(1, 12))
    return (0.1 * wave + rng.normal(0, 0.03, 8000)).clip(-1, 1).astype(np.float32)


def sentence(label: int, rng: np.random.Generator) -> str:
    words = (["happy", "great", "love", "fun"], ["sad", "awful", "hate", "pain"])[label]
    filler = ["the", "day", "was", "really", "you", "know", "and", "we"]
    chosen = [*rng.choice(words, 2), *rng.choice(filler, 5)]
    rng.shuffle(chosen)
    return " ".join(chosen)


@pytest.mark.parametrize("name", [name for name in WITH_WEIGHTS if name != "words"])  # times say nothing of a label
def test_a_linear_probe_learns_from_small_random_features(name: str, tmp_path: Path) -> None:
    """The demo learns from such features: what differs plainly in the input must differ in them, on new samples."""
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 2
    sentences = [sentence(label, rng) for label in labels]
    make_random_checkpoint(name, tmp_path / name, "small", 0, sentences)
    module = ENCODERS.load(name)
    checkpoint = resolve(name, module.HUB, str(tmp_path))
    config = module.Config.parse({"crop": "whole"} if "crop" in module.Config.model_fields else {}, name)
    needs = module.needs(config, checkpoint)
    clips = []
    for index, label in enumerate(labels):
        clip = Clip(Utterance(id=str(index), text=sentences[index]))
        if needs.audio_hz is not None:
            clip.audio[needs.audio_hz] = speech(label, rng)
        if needs.frames is not None:
            clip.frames[needs.frames] = pictures(label, rng, needs.frames.size)
        clips.append(clip)
    rows = module.Encoder(config, checkpoint, "cpu").encode(clips)
    means = np.stack([row["values"].astype(np.float64).mean(0) for row in rows])
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1)).fit(means[:48], labels[:48])
    assert probe.score(means[48:], labels[48:]) >= 0.85
