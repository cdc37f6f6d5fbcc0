"""HuBERT against transformers called plainly, a clip at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cache_schema.errors import SettingsError
from cache_schema.rows import Failed
from cache_schema.samples import Utterance
from extract.encoder import Clip
from extract.encoders import hubert
from extract.weights.checkpoints import Checkpoint, resolve

LENGTHS = (16000, 400, 16001, 35200, 719, 720, 16000, 8000)
FLOAT32 = hubert.Config(output_dtype="float32")


@pytest.fixture(scope="module")
def checkpoint(small: Callable[[str], Checkpoint]) -> Checkpoint:
    return small("hubert")


def sounds(lengths: tuple[int, ...] = LENGTHS) -> list[Clip]:
    rng = np.random.default_rng(0)
    scale = [0.01, 0.9, 0.1]
    made = [(rng.normal(0, scale[i % 3], n) + 0.05).clip(-1, 1).astype(np.float32) for i, n in enumerate(lengths)]
    return [Clip(Utterance(id=str(i)), audio={16000: sound}) for i, sound in enumerate(made)]


def expected(folder: Path, clips: list[Clip], layer: int | None) -> list[np.ndarray]:
    """transformers, one clip at a time, without padding."""
    from transformers import HubertModel, Wav2Vec2FeatureExtractor

    model = HubertModel.from_pretrained(folder).eval()
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(folder)
    rows = []
    for clip in clips:
        inputs = extractor(clip.audio[16000], sampling_rate=16000, return_tensors="pt")
        with torch.no_grad():
            out = model(inputs["input_values"], output_hidden_states=True)
        rows.append((out.last_hidden_state if layer is None else out.hidden_states[layer])[0].numpy())
    return rows


def assert_near(found: list[dict[str, np.ndarray]], expected: list[np.ndarray]) -> None:
    assert [row["values"].shape for row in found] == [e.shape for e in expected]
    for row, other in zip(found, expected, strict=True):
        assert np.linalg.norm(row["values"] - other) <= 1e-5 * np.linalg.norm(other)


@pytest.mark.parametrize("layer", [None, 0, 1])
def test_a_padded_batch_equals_transformers_on_each_clip_alone(checkpoint: Checkpoint, layer: int | None) -> None:
    config = hubert.Config(output_dtype="float32", layer=layer)
    found = list(hubert.Encoder(config, checkpoint, "cpu", budget=1 << 20).encode(sounds()))
    assert_near(found, expected(checkpoint.folder, sounds(), layer))


def test_plain_padding_would_have_changed_them(checkpoint: Checkpoint) -> None:
    """The reason for the clip's own norm: without it a batch differs from its clips."""
    from transformers import HubertModel

    clips = sounds((8000, 32000))
    model = HubertModel.from_pretrained(checkpoint.folder).eval()
    padded = torch.zeros(2, 32000)
    for row, clip in enumerate(clips):
        padded[row, : len(clip.audio[16000])] = torch.from_numpy(clip.audio[16000])
    mask = (torch.arange(32000) < torch.tensor([[8000], [32000]])).long()
    with torch.no_grad():
        batch = model(padded, mask).last_hidden_state[0, :24]
        alone = model(padded[:1, :8000]).last_hidden_state[0]
    assert (batch - alone).norm() > 1e-3 * alone.norm()


@pytest.mark.parametrize("stable", [False, True])
def test_layer_normed_models_too(checkpoint: Checkpoint, tmp_path: Path, stable: bool) -> None:
    """The large models: a layer norm in every convolution, and (`stable`) one before each attention."""
    from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

    torch.manual_seed(0)
    facts = HubertConfig.from_pretrained(checkpoint.folder).to_dict()
    config = HubertConfig(**{**facts, "feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": stable})
    HubertModel(config).save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(tmp_path)
    found = list(hubert.Encoder(FLOAT32, resolve("hubert", hubert.HUB, str(tmp_path)), "cpu").encode(sounds()))
    assert_near(found, expected(tmp_path, sounds(), None))


def test_too_short_a_sound_fails_with_the_needed_length(checkpoint: Checkpoint) -> None:
    first, failed, last = hubert.Encoder(FLOAT32, checkpoint, "cpu").encode(sounds((16000, 399, 400)))
    assert isinstance(failed, Failed)
    assert "400" in failed.reason and "25.0 ms" in failed.reason
    assert first["values"].shape == (49, 64)
    assert last["values"].shape == (1, 64)


def test_loudness_does_not_matter(checkpoint: Checkpoint) -> None:
    """The preprocessor normalises each clip to zero mean and unit variance."""
    (loud,) = sounds((16000,))
    quiet = Clip(loud.utterance, audio={16000: loud.audio[16000] * np.float32(0.1)})
    a, b = hubert.Encoder(FLOAT32, checkpoint, "cpu").encode([loud, quiet])
    assert np.linalg.norm(a["values"] - b["values"]) < 1e-3 * np.linalg.norm(a["values"])


def test_silence_is_finite(checkpoint: Checkpoint) -> None:
    clip = Clip(Utterance(id="u"), audio={16000: np.zeros(8000, np.float32)})
    (row,) = hubert.Encoder(FLOAT32, checkpoint, "cpu").encode([clip])
    assert np.isfinite(row["values"]).all()


@pytest.mark.parametrize("samples", [*range(395, 410), 719, 720, 721, 16000, 16319, 16320])
def test_frame_counts(samples: int) -> None:
    kernels, strides = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
    assert hubert.samples_for_one_frame(kernels, strides) == 400
    assert hubert.frames_of(samples, kernels, strides) == max(0, (samples - 400) // 320 + 1)


def test_a_layer_that_is_not_there_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(SettingsError, match="2 layers"):
        hubert.describe(hubert.Config(layer=3), checkpoint)
