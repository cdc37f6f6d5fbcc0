"""HuBERT frames of the speech.

Hsu et al., "HuBERT: Self-Supervised Speech Representation Learning by Masked Prediction of Hidden Units",
IEEE/ACM TASLP 2021, arXiv:2106.07447. Rate: 50 Hz at 16 kHz (stride 320, receptive field 400 samples). Width: the
model's (768 for hubert-base).

HuBERT-base normalises its first convolution over time (a group per channel), so plain padding would change a clip's
features. Here that norm reads each clip's own frames alone; nothing after it looks over a clip's end (tests).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cache_schema.errors import SettingsError
from cache_schema.feature_spec import ArraySpec, FeatureSpec, Modality
from cache_schema.rows import Failed, Row
from extract.batching import Batches, budget_for, to_device
from extract.encoder import Clip, EncoderConfig, Languages, Needs
from extract.frozen import feature_spec, load, stored
from extract.weights.checkpoints import PREPROCESSOR, Checkpoint, HubCheckpoint

SUMMARY = "HuBERT: a vector per 20 ms of speech"
MODALITY: Modality = "speech"
DEFAULT_FOR: Languages = "any"
HUB = HubCheckpoint("facebook/hubert-base-ls960", licence="Apache-2.0", parameters=94_371_712, assets=PREPROCESSOR)
VERSION = 1


class Config(EncoderConfig):
    """Settings of `hubert`."""

    layer: int | None = Field(default=None, ge=0)
    """Transformer layer whose output is stored: 1 is the first, 0 its input, None the model's last output."""


def describe(config: Config, checkpoint: Checkpoint) -> FeatureSpec:
    """What is stored for a clip: values (frames, width).

    Raises:
        SettingsError: the checkpoint is of another model, or has no such layer.
    """
    checkpoint.expect("hubert")
    layers = checkpoint.config["num_hidden_layers"]
    if config.layer is not None and config.layer > layers:
        raise SettingsError(f"hubert: layer = {config.layer}, and the checkpoint has {layers} layers.")
    rate = _rate(checkpoint) / int(np.prod(checkpoint.config["conv_stride"]))
    values = ArraySpec(name="values", dtype=config.output_dtype, tail=(checkpoint.config["hidden_size"],))
    return feature_spec("hubert", MODALITY, "HubertModel", VERSION, config, checkpoint, (values,), rate, rate)


def needs(config: Config, checkpoint: Checkpoint) -> Needs:
    """Sound at the rate that the model was trained on."""
    return Needs(audio_hz=_rate(checkpoint))


def _rate(checkpoint: Checkpoint) -> int:
    return int(checkpoint.preprocessor.get("sampling_rate", 16000))


def frames_of(samples: int, kernels: Sequence[int], strides: Sequence[int]) -> int:
    """How many frames a stack of convolutions makes of so many samples; 0 for too few."""
    for kernel, stride in zip(kernels, strides, strict=True):
        samples = (samples - kernel) // stride + 1 if samples >= kernel else 0
    return samples


def samples_for_one_frame(kernels: Sequence[int], strides: Sequence[int]) -> int:
    """The receptive field: the fewest samples that make a frame."""
    samples = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        samples = (samples - 1) * stride + kernel
    return samples


class Encoder:
    """HuBERT over clips, in batches of similar length.

    Args:
        config: its settings.
        checkpoint: its weights and preprocessor.
        device: torch device.
        budget: samples in one batch, padding included; None: by the device.
    """

    def __init__(self, config: Config, checkpoint: Checkpoint, device: str, budget: int | None = None) -> None:
        from transformers import Wav2Vec2FeatureExtractor

        self.config, self.device, self.rate = config, device, _rate(checkpoint)
        default = budget_for(device, cpu=20 * self.rate, accelerator=600 * self.rate)
        self.batches = Batches(budget or default, device)
        self.model = load("HubertModel", checkpoint, device, config.compute_dtype)
        self.normalise = Wav2Vec2FeatureExtractor.from_pretrained(checkpoint.folder, local_files_only=True)
        self.kernels, self.strides = self.model.config.conv_kernel, self.model.config.conv_stride
        self.fewest = samples_for_one_frame(self.kernels, self.strides)
        self.norm = None
        if self.model.config.feat_extract_norm == "group":
            first = self.model.feature_extractor.conv_layers[0]
            self.norm = first.layer_norm = own_frames_norm(first.layer_norm)

    def encode(self, clips: Sequence[Clip]) -> Iterator[Row]:
        """One row per clip, in order; `Failed` where the sound is too short for a frame."""
        sounds = [clip.audio[self.rate] for clip in clips]
        rows: list[Row] = [
            Failed(
                f"the sound has {len(s)} samples ({1000 * len(s) / self.rate:.1f} ms), and hubert needs at least "
                f"{self.fewest} ({1000 * self.fewest / self.rate:.1f} ms)"
            )
            for s in sounds
        ]
        readable = [i for i, sound in enumerate(sounds) if len(sound) >= self.fewest]
        chosen = [sounds[i] for i in readable]
        for items, found in self.batches.run(
            [len(sound) for sound in chosen], lambda items: {"values": self._forward([chosen[k] for k in items])}
        ):
            for k, item in enumerate(items):
                rows[readable[item]] = self._row(
                    found if isinstance(found, Failed) else found["values"][k], chosen[item]
                )
        yield from rows

    def _row(self, found: NDArray[np.float32] | Failed, sound: NDArray[np.float32]) -> Row:
        if isinstance(found, Failed):
            return Failed(f"the sound of {len(sound) / self.rate:.0f} s {found.reason}")
        values = stored(found[: frames_of(len(sound), self.kernels, self.strides)], self.config)
        return values if isinstance(values, Failed) else {"values": values}

    def _forward(self, sounds: Sequence[NDArray[np.float32]]) -> Any:
        """Hidden states (batch, frames, width) of a padded batch."""
        import torch

        padded = torch.zeros(len(sounds), max(map(len, sounds)))
        mask = torch.zeros(padded.shape, dtype=torch.long)
        for row, sound in enumerate(sounds):
            padded[row, : len(sound)] = torch.from_numpy(
                self.normalise(sound, sampling_rate=self.rate)["input_values"][0]
            )
            mask[row, : len(sound)] = 1
        if self.norm is not None:
            self.norm.frames = [frames_of(len(s), self.kernels[:1], self.strides[:1]) for s in sounds]
        layer = self.config.layer
        out = self.model(
            to_device(padded, self.device).to(self.model.dtype),
            to_device(mask, self.device) if len({len(s) for s in sounds}) > 1 else None,
            output_hidden_states=layer is not None,
        )
        return out.last_hidden_state if layer is None else out.hidden_states[layer]


def own_frames_norm(group_norm: Any) -> Any:
    """A GroupNorm of one channel a group whose mean and variance are over each clip's own frames.

    Set `frames`, the number of each clip's, before each forward; (batch, channels, time) in and out. What lies beyond a
    clip's frames is left as it is.
    """
    import torch

    class OwnFramesNorm(torch.nn.Module):
        frames: Sequence[int]

        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias, self.eps = group_norm.weight, group_norm.bias, group_norm.eps

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if min(self.frames) == x.shape[-1]:
                return self._normal(x)
            for own, count in zip(x, self.frames, strict=True):
                own[:, :count] = self._normal(own[None, :, :count])[0]
            return x

        def _normal(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.group_norm(x, x.shape[1], self.weight, self.bias, self.eps)

    return OwnFramesNorm()


def draw(size: str, folder: Path, sentences: Sequence[str]) -> Any:
    """A HuBERT of random weights; its preprocessor is written to `folder`."""
    from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

    Wav2Vec2FeatureExtractor(sampling_rate=16000, do_normalize=True).save_pretrained(folder)
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    small = {"conv_dim": (32,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    return HubertModel(HubertConfig(**(shape | small | {"initializer_range": 0.05} if size == "small" else {})))
