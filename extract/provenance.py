"""Who and what made a segment: recorded with it, never part of its fingerprint."""

from __future__ import annotations

import platform
import sys
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
    """Host, device, torch's threads (None where it is not loaded), library versions and the time now (UTC).

    On a CPU the number of threads may change the last bits of a forward pass.
    """
    torch = sys.modules.get("torch")
    return {
        "host": platform.node(),
        "device": device,
        "threads": torch.get_num_threads() if torch is not None else None,
        "versions": versions(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@cache
def versions() -> dict[str, str]:
    """Of Python, mer, and what the features come from."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
