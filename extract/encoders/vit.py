"""ViT's class token of every frame.

Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, arXiv:2010.11929.
Rate: `fps`. Width: the model's (768 for ViT-B/16). The token is read after the last layer norm.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache_schema.feature_spec import ArraySpec, FeatureSpec, Modality
from cache_schema.rows import Row
from extract.checkpoints import PREPROCESSOR, Checkpoint, HubCheckpoint
from extract.encoder import Clip, Languages, Needs, VisionConfig
from extract.frozen import budget_for, feature_spec, load
from extract.vision import Pixels, encode_frames

SUMMARY = "ViT: the class token of each video frame"
MODALITY: Modality = "vision"
DEFAULT_FOR: Languages = "any"
HUB = HubCheckpoint("google/vit-base-patch16-224-in21k", licence="Apache-2.0", assets=PREPROCESSOR)
VERSION = 1


class Config(VisionConfig):
    """Settings of `vit`."""


def describe(config: Config, checkpoint: Checkpoint) -> FeatureSpec:
    """What is stored for a clip: values (frames, width).

    Raises:
        SettingsError: the checkpoint is of another model.
    """
    checkpoint.expect("vit")
    values = ArraySpec(name="values", dtype=config.output_dtype, tail=(checkpoint.config["hidden_size"],))
    return feature_spec("vit", MODALITY, "ViTModel", VERSION, config, checkpoint, (values,), config.fps, config.fps)


def needs(config: Config, checkpoint: Checkpoint) -> Needs:
    """Frames of the model's size."""
    return Needs(frames=Pixels.of(checkpoint).request(config))


class Encoder:
    """ViT over frames.

    Args:
        config: its settings.
        checkpoint: its weights and preprocessor.
        device: torch device.
        budget: frames in one batch; None: by the device.
    """

    def __init__(self, config: Config, checkpoint: Checkpoint, device: str, budget: int | None = None) -> None:
        self.config, self.device = config, device
        self.budget = budget or budget_for(device, cpu=16, accelerator=256)
        self.pixels = Pixels.of(checkpoint)
        self.model = load("ViTModel", checkpoint, device, config.compute_dtype, add_pooling_layer=False)

    def encode(self, clips: Sequence[Clip]) -> Iterator[Row]:
        """One row per clip, in order."""
        return encode_frames(clips, self.pixels.request(self.config), self.config, self.budget, self._forward)

    def _forward(self, frames: NDArray[np.uint8]) -> Any:
        return self.model(self.pixels.tensor(frames, self.device, self.model.dtype)).last_hidden_state[:, 0]


def draw(size: str, folder: Path, sentences: Sequence[str]) -> Any:
    """A ViT of random weights; its preprocessor is written to `folder`."""
    from torch.nn.init import normal_
    from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

    side = 96 if size == "small" else 224
    processor = ViTImageProcessorPil(size={"height": side, "width": side}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    processor.save_pretrained(folder)
    shape = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
    small = shape | {"image_size": side, "patch_size": 16, "initializer_range": 0.1}
    model = ViTModel(ViTConfig(**(small if size == "small" else {})), add_pooling_layer=False)
    # Drawn as small as the other weights, positions would drown in the patches and the token could not see where.
    normal_(model.embeddings.position_embeddings)
    return model
