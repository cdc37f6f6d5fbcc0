"""What the shell offers after Tab: names of datasets, encoders, architectures, checkpoints and features.

Looked up in folders, in modules' names and in the store that is named on the line; nothing heavy is imported, and an
error offers nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

import typer


def _quiet(offer: Callable[[typer.Context, str], Iterable[str]]) -> Callable[[typer.Context, str], list[str]]:
    """Those offers that begin as the word does; after a comma, of a list's last word."""

    @wraps(offer)
    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        head, comma, word = incomplete.rpartition(",")
        try:
            return [f"{head}{comma}{name}" for name in offer(ctx, incomplete) if name.startswith(word)]
        except Exception:  # noqa: BLE001 - whatever is wrong is told when the command is run
            return []

    return complete


@_quiet
def archs(ctx: typer.Context, incomplete: str) -> list[str]:
    """Architectures and baselines."""
    from fuse.archs import ARCHS

    return ARCHS.names()


@_quiet
def encoders(ctx: typer.Context, incomplete: str) -> list[str]:
    """Encoders."""
    from extract.encoders import ENCODERS

    return ENCODERS.names()


@_quiet
def models(ctx: typer.Context, incomplete: str) -> list[str]:
    """Checkpoints."""
    from extract.weights.models import names

    return names()


@_quiet
def adapters(ctx: typer.Context, incomplete: str) -> list[str]:
    """Datasets that can be read."""
    from extract.datasets import DATASETS

    return DATASETS.names()


@_quiet
def stored_datasets(ctx: typer.Context, incomplete: str) -> list[str]:
    """Datasets of the store on the line."""
    return list(_store(ctx).datasets())


@_quiet
def stored_features(ctx: typer.Context, incomplete: str) -> list[str]:
    """Features of the dataset on the line."""
    return [str(feature.name) for feature in _store(ctx).features(str(ctx.params["dataset"]))]


def _store(ctx: typer.Context) -> Any:
    from cache_schema.store import FeatureStore

    return FeatureStore.open(str(ctx.params.get("store") or "./features"), mode="r")
