"""The versions of the store's format, as `FORMAT.md` describes them.

A document carries the lowest version that says all that is in it, so that an older reader keeps what it can read
and refuses by name what it would get wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cache_schema.errors import DamagedError, StoreError

FORMAT_VERSION = 2
"""The highest version that is read."""
BASE_FORMAT = 1
"""The version of every document but those that delete samples."""
DELETING_FORMAT = 2
"""The version of a part that deletes samples: a reader of version 1 would go on showing them."""


def require_known_format(document: Mapping[str, Any], where: str) -> None:
    """Refuse a document of a format that this version does not know.

    Raises:
        StoreError: the format is newer.
        DamagedError: the document names no format.
    """
    version = document.get("format")
    if not isinstance(version, int) or version < 1:
        raise DamagedError(f"{where} names no format version.")
    if version > FORMAT_VERSION:
        raise StoreError(
            f"{where} has format {version}, and this version of mer reads formats up to {FORMAT_VERSION}. Upgrade mer."
        )
