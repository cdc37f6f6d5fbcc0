"""The errors that mer's users see: one line that says what, where and what to do."""

from __future__ import annotations

REPAIR = "`mer store repair --deep` drops what is damaged, and `mer extract` then computes only that again."
"""What to do about damage, for the end of a message."""


class MerError(Exception):
    """Something could not be done, for a reason that its reader can act on.

    The command line prints the message as one line and exits 1; a traceback appears only with `--debug`.
    """


class StoreError(MerError):
    """The feature store, or a document in it, is not what it must be."""


class DamagedError(StoreError):
    """Bytes in the store differ from what their commit recorded."""


class MissingFeature(StoreError):  # noqa: N818 - it names what is missing
    """A feature, or a sample's row in it, was asked for and is not in the store."""


class DataError(MerError):
    """A dataset, an annotation file or a clip is not what it must be."""


class SettingsError(MerError):
    """A setting has a wrong name or a wrong value."""


def first_line(error: BaseException) -> str:
    """What an error says, on one line; its type where it says nothing."""
    lines = str(getattr(error, "strerror", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
