"""What a store asks of the place where it lies; folders (`local.py`) and object stores (`objects.py`) provide it.

Keys are relative paths with forward slashes. Documents are written once and never replaced: correct by
immutability and put-if-absent, not by locks. Names that begin with a dot are temporary and belong to nobody.

Every step of the write protocol is logged before it is taken, at level DEBUG by the logger `cache_schema.storage`,
as `link features/...`: a test may end the process at any of them.
"""

from __future__ import annotations

import logging
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, ClassVar

from cache_schema.errors import StoreError

if TYPE_CHECKING:
    from zarr.abc.store import Store
    from zarr.storage import StorePath

TEMPORARY_SUFFIX = ".partial"
STEPS = logging.getLogger("cache_schema.storage")


class Storage(ABC):
    """A place for a store's files.

    Every method raises `StoreError` where the place refuses (no permission, no space, no such bucket, no connection).

    Attributes:
        location: the folder or the URL, as it was given.
        primitive: what makes put-if-absent work, as "hard links".
        replaced: what to say where it does not.
    """

    location: str
    primitive: ClassVar[str]
    replaced: ClassVar[str]

    def prepare(self) -> str:
        """Make the place where there is none, and try whether put-if-absent works there.

        Returns:
            What makes it work, as "hard links".

        Raises:
            StoreError: it does not work, with the reason.
        """
        key = f".probe.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}"
        try:
            if not self.put_if_absent(key, b"first") or self.put_if_absent(key, b"second"):
                raise StoreError(f"{self.location}: {self.replaced}")
        finally:
            self.delete(key)
        return self.primitive

    @abstractmethod
    def require_put_if_absent(self, key: str, data: bytes) -> None:
        """Refuse a place that by now would replace what lies under `key`; `data` is what lies there.

        Raises:
            StoreError: it was replaced (by the same bytes).
        """

    @abstractmethod
    def names(self, prefix: str) -> list[str]:
        """Sorted names directly below `prefix`, temporary ones left out; empty where there is no such folder."""

    @abstractmethod
    def temporary(self, prefix: str) -> list[str]:
        """Sorted names of what interrupted writers left directly below `prefix`."""

    @abstractmethod
    def files(self, prefix: str) -> dict[str, int]:
        """Size in bytes of every file below `prefix`, by its path relative to `prefix`."""

    @abstractmethod
    def get(self, key: str) -> bytes | None:
        """The bytes under `key`, or None where there is no such file."""

    def get_all(self, keys: Sequence[str]) -> Iterable[bytes | None]:
        """What `get` says of each of many small files, in order."""
        return map(self.get, keys)

    @abstractmethod
    def size(self, key: str) -> int | None:
        """Bytes under `key`, or None where there is no such file."""

    @abstractmethod
    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Make `data` visible under `key`, whole and durable, unless something is there already.

        Returns:
            Whether what lies under `key` now, read back, is `data`.

        Raises:
            StoreError: nothing can be read back, so that nobody knows whose file it is.
        """

    def reads_back(self, key: str, data: bytes) -> bool:
        """Whether `data` lies under `key`, where a file was just put; errors as in `put_if_absent`."""
        STEPS.debug("read back %s", key)
        found = self.get(key)
        if found is None:
            raise StoreError(
                f"{self.location}/{key} was written and cannot be read back: does somebody delete in this store?"
            )
        return found == data

    @abstractmethod
    def new_folder(self, prefix: str) -> None:
        """Begin the folder `prefix`.

        Raises:
            StoreError: there is one already.
        """

    @abstractmethod
    def sync(self, prefix: str) -> None:
        """Make every file and folder below `prefix`, and the name `prefix` itself, durable."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Delete the file under `key`, if there is one, durably."""

    @abstractmethod
    def delete_folder(self, prefix: str) -> None:
        """Delete everything below `prefix`, if there is anything."""

    @abstractmethod
    def age_hours(self, key: str) -> float | None:
        """Hours since anything under `key`, a file or a folder, was last changed; None where nothing is there."""

    @abstractmethod
    def zarr_store(self, prefix: str, *, read_only: bool) -> Store | StorePath:
        """The folder `prefix` as zarr reads and writes it."""

    @abstractmethod
    def explained(self, key: str) -> AbstractContextManager[None]:
        """Turn what the place refuses about `key` into a `StoreError` of one line; absence is left to the caller."""
