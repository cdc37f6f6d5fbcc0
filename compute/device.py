"""The device that a user means by --device."""

from __future__ import annotations

from cache_schema.errors import SettingsError, first_line
from cache_schema.registry import unknown_name

NAMES = ("auto", "cpu", "cuda", "cuda:0", "mps")
"""Such as are asked for; torch names all that it was ever ported to."""


def resolve_device(device: str) -> str:
    """The torch device that `device` means: auto is a GPU where there is one.

    Raises:
        SettingsError: torch knows no such device, or there is none on this machine.
    """
    if device == "cpu":
        return device
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        if "device type" in first_line(error):
            raise SettingsError(unknown_name("device", device, list(NAMES))) from error
        raise SettingsError(
            f"The device {device!r} cannot be used ({first_line(error).rstrip('.')}); `mer doctor` says which can be."
        ) from error
    return device
