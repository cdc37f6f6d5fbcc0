"""What the encoders over frozen torch models share: their specification, loading, inference and what is stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pickle import UnpicklingError
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cache_schema.errors import SettingsError, first_line
from cache_schema.feature_spec import ArraySpec, FeatureSpec, Modality
from cache_schema.rows import Failed
from compute.memory import keep_freed
from extract.encoder import EncoderConfig

if TYPE_CHECKING:
    from extract.weights.checkpoints import Checkpoint

UTTERANCES_PER_SECOND = 0.3
"""Of conversation (MELD: 3.2 s each): what segments of pooled features are sized with."""


def feature_spec(
    feature: str,
    modality: Modality,
    model: str,
    version: int,
    config: EncoderConfig,
    checkpoint: Checkpoint,
    arrays: tuple[ArraySpec, ...],
    rate_hz: float | None,
    nominal_rate_hz: float,
    assets: Mapping[str, str] = MappingProxyType({}),
) -> FeatureSpec:
    """The specification of a feature that a transformers model computes; loads no weights.

    Args:
        feature: its name.
        modality: which modality it describes.
        model: the model's class in transformers.
        version: of the encoder's code.
        config, checkpoint: the encoder's.
        arrays: what is stored.
        rate_hz: frames per second where frames are on a clock, before any pooling.
        nominal_rate_hz: frames per second that segments are sized with, before any pooling.
        assets: digests of what enters beside the checkpoint's own files.
    """
    rate_hz, nominal_rate_hz = rates(config, rate_hz, nominal_rate_hz)
    return FeatureSpec(
        feature=feature,
        modality=modality,
        encoder=f"transformers.{model}",
        version=version,
        arrays=arrays,
        rate_hz=rate_hz,
        nominal_rate_hz=nominal_rate_hz,
        settings=config.non_default(),
        full_settings=config.model_dump(mode="json"),
        checkpoint=checkpoint.name,
        revision=checkpoint.revision,
        weights_sha256=checkpoint.weights_sha256,
        random_weights=checkpoint.random,
        assets={**checkpoint.assets, **assets},
    )


def rates(config: EncoderConfig, rate_hz: float | None, nominal_rate_hz: float) -> tuple[float | None, float]:
    """The two rates of a feature's spec: those of its frames, or of one vector per utterance where it is pooled."""
    return (rate_hz, nominal_rate_hz) if config.pool == "none" else (None, UTTERANCES_PER_SECOND)


def load(model: str, checkpoint: Checkpoint, device: str, compute_dtype: str, **options: Any) -> Any:
    """A transformers model from a checkpoint's folder, for inference alone.

    Args:
        model: name of its class in transformers.
        checkpoint: where its weights lie; pickled ones are read as tensors only.
        device: torch device.
        compute_dtype: float32, bfloat16 or float16.
        options: of the class, as `add_pooling_layer`.

    Raises:
        SettingsError: weights of the model are missing in the checkpoint, or it cannot be read.
    """
    import torch
    import transformers
    from safetensors import SafetensorError

    from compute.modules import recast
    from compute.products import Linear

    with quiet():
        try:
            loaded, report = getattr(transformers, model).from_pretrained(
                checkpoint.folder,
                local_files_only=True,
                weights_only=True,
                dtype=torch.float32,
                output_loading_info=True,
                **options,
            )
        except (OSError, ValueError, RuntimeError, UnpicklingError, SafetensorError) as error:
            what = first_line(error)
            raise SettingsError(f"{checkpoint.encoder}: {checkpoint.folder} cannot be loaded ({what}).") from error
    lacking = sorted(set(report["missing_keys"]) - {"masked_spec_embed"})
    if lacking:
        raise SettingsError(
            f"{checkpoint.encoder}: {checkpoint.folder} lacks {len(lacking)} weights of {model}, as {lacking[0]!r}; "
            "fetch the checkpoint again."
        )
    keep_freed()
    recast(loaded, {torch.nn.Linear: Linear})
    return loaded.requires_grad_(False).eval().to(device=device, dtype=getattr(torch, compute_dtype))


@contextmanager
def quiet() -> Iterator[None]:
    """Loading without transformers' bars and notes on heads that are not used; missing weights are checked."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def inference() -> Iterator[None]:
    """No gradients, and convolutions in the full precision of their type, or a batch would change a feature."""
    import torch

    from compute.float32 import exact_cudnn

    with torch.inference_mode(), exact_cudnn():
        yield


def stored(values: NDArray[np.float32], config: EncoderConfig) -> NDArray[np.generic] | Failed:
    """Frames (n, *tail), pooled as the settings say, in the type they are stored in; or why they cannot be."""
    if config.pool != "none":
        values = values.mean(axis=0, keepdims=True) if config.pool == "mean" else values[:1]
    if not np.isfinite(values).all():
        return Failed(f"the encoder's values are not finite in compute_dtype={config.compute_dtype}")
    with np.errstate(over="ignore"):
        cast = values.astype(config.output_dtype)
    if not np.isfinite(cast).all():
        return Failed(
            f"values reach {np.abs(values).max():.3g}, beyond {config.output_dtype}: set output_dtype=float32"
        )
    return cast
