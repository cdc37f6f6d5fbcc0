"""ResNet's globally average-pooled map of every frame.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385.
Rate: `fps`. Width: the last stage's channels (512 for ResNet-18, as HFF's vision input, eq. 13-15).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache_schema.feature_spec import ArraySpec, FeatureSpec, Modality
from cache_schema.rows import Row
from extract.batching import Batches, budget_for
from extract.encoder import Clip, Languages, Needs, VisionConfig
from extract.frozen import feature_spec, load
from extract.vision import Pixels, encode_frames, face_assets, with_mask
from extract.weights.checkpoints import PREPROCESSOR, Checkpoint, HubCheckpoint

SUMMARY = "ResNet: the average-pooled feature map of each video frame"
MODALITY: Modality = "vision"
DEFAULT_FOR: Languages = "any"
HUB = HubCheckpoint("microsoft/resnet-18", licence="Apache-2.0", parameters=11_176_512, assets=PREPROCESSOR)
VERSION = 1


class Config(VisionConfig):
    """Settings of `resnet`."""


def describe(config: Config, checkpoint: Checkpoint) -> FeatureSpec:
    """What is stored for a clip: values (frames, channels); with crop=face also there (frames,).

    Raises:
        SettingsError: the checkpoint is of another model.
    """
    checkpoint.expect("resnet")
    values = ArraySpec(name="values", dtype=config.output_dtype, tail=(checkpoint.config["hidden_sizes"][-1],))
    return feature_spec(
        "resnet",
        MODALITY,
        "ResNetModel",
        VERSION,
        config,
        checkpoint,
        with_mask(config, values),
        config.fps,
        config.fps,
        face_assets(config),
    )


def needs(config: Config, checkpoint: Checkpoint) -> Needs:
    """Frames of the model's size."""
    return Needs(frames=Pixels.of(checkpoint).request(config))


class Encoder:
    """ResNet over frames.

    Args:
        config: its settings.
        checkpoint: its weights and preprocessor.
        device: torch device.
        budget: frames in one batch; None: by the device.
    """

    def __init__(self, config: Config, checkpoint: Checkpoint, device: str, budget: int | None = None) -> None:
        self.config, self.device = config, device
        self.batches = Batches(budget or budget_for(device, cpu=8, accelerator=512), device)
        self.pixels = Pixels.of(checkpoint)
        self.model = load("ResNetModel", checkpoint, device, config.compute_dtype)

    def encode(self, clips: Sequence[Clip]) -> Iterator[Row]:
        """One row per clip, in order."""
        return encode_frames(clips, self.pixels.request(self.config), self.config, self.batches, self._forward)

    def _forward(self, frames: NDArray[np.uint8]) -> dict[str, Any]:
        pixels = self.pixels.tensor(frames, self.device, self.model.dtype)
        return {"values": self.model(pixels).pooler_output.flatten(1)}


def draw(size: str, folder: Path, sentences: Sequence[str]) -> Any:
    """A ResNet of random weights; its preprocessor is written to `folder`."""
    from transformers import ConvNextImageProcessorPil, ResNetConfig, ResNetModel

    side = 64 if size == "small" else 224
    ConvNextImageProcessorPil(size={"shortest_edge": side}).save_pretrained(folder)
    channels, depths = ([32, 64, 128, 256], [1, 1, 1, 1]) if size == "small" else ([64, 128, 256, 512], [2, 2, 2, 2])
    config = ResNetConfig(embedding_size=channels[0], hidden_sizes=channels, depths=depths, layer_type="basic")
    return ResNetModel(config)
