"""Stage one: from media to the feature store. `extract.extract` does what `mer extract` does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from extract.run import extract

__all__ = ["extract"]


def __getattr__(name: str) -> Any:
    if name == "extract":
        from extract.run import extract

        return extract
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
