"""Who and what made a segment: recorded with it, never part of its fingerprint."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "mer",
    "torch",
    "transformers",
    "av",
    "opencv-python",
    "mediapipe",
    "openai-whisper",
    "numpy",
    "scipy",
    "zarr",
)


def provenance(device: str) -> dict[str, object]:
    """Host, device, library versions and the time now (UTC)."""
    return {
        "host": platform.node(),
        "device": device,
        "versions": _versions(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
