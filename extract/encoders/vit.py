"""ViT's class token of every frame, on request with a grid of patch tokens and the class token's attention.

Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, arXiv:2010.11929.
Rate: `fps`. Width D: the model's (768 for ViT-B/16). Tokens are read after the last layer norm, or after an earlier
layer. P patches lie on a square (14 x 14 for ViT-B/16 at 224 pixels), rows from the top, and are averaged to g x g.

    values      (frames, D), or with `grid` (frames, 1 + g * g, D), the class token first
    attention   with `attention` (frames, P): the class token's attention to the patches in the last layer, head mean
    there       with crop=face (frames,): whether the frame has a face; the others are zero
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cache_schema.errors import SettingsError
from cache_schema.feature_spec import ArraySpec, FeatureSpec, Modality
from cache_schema.rows import Row
from extract.batching import Batches, budget_for
from extract.encoder import Clip, Languages, Needs, VisionConfig
from extract.frozen import feature_spec, load
from extract.vision import Pixels, encode_frames, face_assets, with_mask
from extract.weights.checkpoints import PREPROCESSOR, Checkpoint, HubCheckpoint

SUMMARY = "ViT: the class token of each video frame, on request with a grid of patch tokens"
MODALITY: Modality = "vision"
DEFAULT_FOR: Languages = "any"
HUB = HubCheckpoint(
    "google/vit-base-patch16-224-in21k", licence="Apache-2.0", parameters=85_798_656, assets=PREPROCESSOR
)
VERSION = 1


class Config(VisionConfig):
    """Settings of `vit`."""

    tokens: Literal["class", "grid"] = "class"
    """class: the class token of a frame; grid: the patch tokens too, averaged to `grid` x `grid`."""
    grid: int = Field(default=7, ge=1)
    """Side of the grid that the patch tokens are averaged to, for tokens=grid; 14 keeps all of ViT-B/16's."""
    attention: bool = False
    """Store the class token's attention to the patches beside the tokens, to be drawn."""
    layer: int | None = Field(default=None, ge=0)
    """Transformer layer whose output is stored: 1 is the first, 0 the embeddings, None the last, normalised."""


def describe(config: Config, checkpoint: Checkpoint) -> FeatureSpec:
    """What is stored for a clip: values (frames, D) or (frames, 1 + g * g, D), and attention (frames, P) on request.

    Raises:
        SettingsError: the checkpoint is of another model, has no such layer, or has fewer patches than the grid.
    """
    checkpoint.expect("vit")
    layers, side = checkpoint.config["num_hidden_layers"], _side(checkpoint)
    if config.layer is not None and config.layer > layers:
        raise SettingsError(f"vit: layer = {config.layer}, and the checkpoint has {layers} layers.")
    if config.tokens == "grid" and config.grid > side:
        raise SettingsError(f"vit: grid = {config.grid}, and the checkpoint has {side} x {side} patches a frame.")
    width = checkpoint.config["hidden_size"]
    tail = (1 + config.grid**2, width) if config.tokens == "grid" else (width,)
    arrays = [ArraySpec(name="values", dtype=config.output_dtype, tail=tail)]
    if config.attention:
        arrays.append(ArraySpec(name="attention", dtype=config.output_dtype, tail=(side**2,)))
    return feature_spec(
        "vit",
        MODALITY,
        "ViTModel",
        VERSION,
        config,
        checkpoint,
        with_mask(config, *arrays),
        config.fps,
        config.fps,
        face_assets(config),
    )


def needs(config: Config, checkpoint: Checkpoint) -> Needs:
    """Frames of the model's size."""
    return Needs(frames=Pixels.of(checkpoint).request(config))


def _side(checkpoint: Checkpoint) -> int:
    """Patches along one side of a frame."""
    return int(checkpoint.config["image_size"]) // int(checkpoint.config["patch_size"])


class Encoder:
    """ViT over frames.

    Args:
        config: its settings.
        checkpoint: its weights and preprocessor.
        device: torch device.
        budget: frames in one batch; None: by the device.
    """

    def __init__(self, config: Config, checkpoint: Checkpoint, device: str, budget: int | None = None) -> None:
        self.config, self.device, self.side = config, device, _side(checkpoint)
        self.batches = Batches(budget or budget_for(device, cpu=4, accelerator=256), device)
        self.pixels = Pixels.of(checkpoint)
        # Only the plain implementation of attention gives its weights.
        options = {"attn_implementation": "eager"} if config.attention else {}
        self.model = load("ViTModel", checkpoint, device, config.compute_dtype, add_pooling_layer=False, **options)

    def encode(self, clips: Sequence[Clip]) -> Iterator[Row]:
        """One row per clip, in order."""
        return encode_frames(clips, self.pixels.request(self.config), self.config, self.batches, self._forward)

    def _forward(self, frames: NDArray[np.uint8]) -> dict[str, Any]:
        config = self.config
        out = self.model(
            self.pixels.tensor(frames, self.device, self.model.dtype),
            output_hidden_states=config.layer is not None,
            output_attentions=config.attention,
        )
        tokens = out.last_hidden_state if config.layer is None else out.hidden_states[config.layer]
        found = {"values": on_grid(tokens, self.side, config.grid) if config.tokens == "grid" else tokens[:, 0]}
        if config.attention:
            found["attention"] = out.attentions[-1][:, :, 0, 1:].mean(dim=1)
        return found


def on_grid(tokens: Any, side: int, grid: int) -> Any:
    """Tokens (n, 1 + side * side, D) with the patches averaged to a grid: (n, 1 + grid * grid, D)."""
    from torch import cat
    from torch.nn.functional import adaptive_avg_pool2d

    patches = tokens[:, 1:].transpose(1, 2).unflatten(2, (side, side))
    return cat([tokens[:, :1], adaptive_avg_pool2d(patches, grid).flatten(2).transpose(1, 2)], dim=1)


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
