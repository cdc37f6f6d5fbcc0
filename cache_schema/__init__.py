"""What the feature store means: samples, specs, fingerprints, segments, commits. Needs no torch.

`FeatureStore.open(path)` is the door, `MerError` the base of every error that mer raises on purpose.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cache_schema.errors import MerError
    from cache_schema.store import FeatureStore

__all__ = ["FeatureStore", "MerError"]


def __getattr__(name: str) -> Any:
    if name == "FeatureStore":
        from cache_schema.store import FeatureStore

        return FeatureStore
    if name == "MerError":
        from cache_schema.errors import MerError

        return MerError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
