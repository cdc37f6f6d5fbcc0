"""The folder where mer keeps what it fetched or drew: $MER_CACHE, else `~/.cache/mer`."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder; it need not exist."""
    return Path(os.environ.get("MER_CACHE") or Path.home() / ".cache" / "mer")
