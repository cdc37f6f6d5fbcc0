"""What a feature is: the full specification that its fingerprint is made of."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from cache_schema.canonical import canonical_bytes, sha256_hex
from cache_schema.settings import Spec

SCHEMA_VERSION = 1

Modality = Literal["text", "speech", "vision", "physiology"]
MODALITIES: tuple[Modality, ...] = ("text", "speech", "vision", "physiology")
MASK = "there"
"""Name of the sibling, bool with an empty tail, that says at which frames there is anything, a face, say."""
Dtype = Literal["float16", "float32", "uint8", "int32", "bool"]


class ArraySpec(Spec):
    """One array of a feature; `values` comes first, its siblings share the frames."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """`values`, or a sibling's name as `offsets`."""
    dtype: Dtype
    """Type of a stored element."""
    tail: tuple[PositiveInt, ...]
    """Shape of one frame, without the time axis."""


class FeatureSpec(Spec):
    """Everything that determines a feature's numbers, and nothing else.

    Device, batch size, host and library versions are provenance: they stand in the commits.
    """

    feature: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    """The feature's name: the encoder's, as `hubert`."""
    modality: Modality
    """Which modality it describes."""
    encoder: str
    """The class or algorithm that computes it, as `transformers.RobertaModel`."""
    version: int = Field(ge=1)
    """Raised by hand whenever the extractor's code changes its numbers."""
    arrays: tuple[ArraySpec, ...] = Field(min_length=1)
    """What is stored for a sample, `values` first."""
    rate_hz: float | None = None
    """Frames per second of the clip, frame k covering [k, k + 1) / rate; None where frames are not on a clock."""
    nominal_rate_hz: float = Field(gt=0)
    """Frames per second that segments are sized with (equal to rate_hz where there is one)."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """The encoder's non-default settings (`Spec.non_default`)."""
    full_settings: dict[str, Any] = Field(default_factory=dict)
    """All of the encoder's settings, defaults included: stored, compared, not hashed."""
    checkpoint: str | None = None
    """Hub id or `random`; a local folder's weights are known by their digest, not by a path."""
    revision: str | None = None
    """The hub revision that was resolved, where there was one."""
    weights_sha256: str | None = None
    """Digest of the weights; None for an encoder without weights."""
    random_weights: bool = False
    """The weights were drawn, not trained: for trials only, and said so everywhere."""
    assets: dict[str, str] = Field(default_factory=dict)
    """sha256 of each other file that enters (tokenizer, preprocessor, face model), by name."""

    @model_validator(mode="after")
    def _values_first_and_names_unique(self) -> Self:
        names = [array.name for array in self.arrays]
        if names[0] != "values":
            raise ValueError(f"the first array must be called 'values', not {names[0]!r}")
        if len(set(names)) != len(names):
            raise ValueError(f"two arrays have the same name: {', '.join(names)}")
        return self

    @property
    def values(self) -> ArraySpec:
        """The specification of the `values` array."""
        return self.arrays[0]

    def fingerprint(self) -> str:
        """sha256 over the canonical JSON of the schema version and all non-default fields.

        Left out: `full_settings` (a default added later must not change it) and the hub id and revision,
        because the digest of the weights says which weights they are.
        """
        facts = self.non_default()
        for name in ("full_settings", "checkpoint", "revision"):
            facts.pop(name, None)
        return sha256_hex(canonical_bytes({"schema": SCHEMA_VERSION, **facts}))

    @property
    def folder(self) -> str:
        """The feature's folder name in the store."""
        return f"{self.feature}-{self.fingerprint()[:16]}.zarr"
