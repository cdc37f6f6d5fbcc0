"""A store in an object store: S3 and what speaks its protocol, Google Cloud Storage, Azure; through obstore.

A put with `If-None-Match: *` makes a document visible: the server refuses it where the name exists, and a reader
sees all of an object or nothing. An acknowledged put is durable, so there is nothing to bring to disk.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import from_url
from zarr.storage import ObjectStore, StorePath

from cache_schema.errors import StoreError
from cache_schema.storage.interface import STEPS, TEMPORARY_SUFFIX, Storage

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

SINGLE_PUT_BYTES = 4 << 30
"""Larger objects go up in pieces; smaller ones at once, so that a killed writer leaves no pieces behind."""
CLIENT = {"timeout": "120s", "connect_timeout": "10s", "allow_http": True}
"""allow_http: where `AWS_ENDPOINT_URL` names an http server, it is meant."""
RETRY = {"max_retries": 6}
CONNECTIONS = 16
"""Small objects are read so many at a time."""
METADATA_SERVICE = "169.254.169.254"
"""Asked for credentials where the environment has none; it answers on the provider's own machines only."""
NO_CREDENTIALS = (
    "there are no credentials in the environment. For S3 set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, with "
    "AWS_REGION and AWS_ENDPOINT_URL where they are not the usual ones, or AWS_SKIP_SIGNATURE=true for a public "
    "bucket; files under ~/.aws are not read."
)

_used_by: int | None = None
"""The process in which obstore's threads run: they do not survive a fork, and a forked child would wait forever."""


class ObjectStorage(Storage):
    """A bucket, or what lies in one under a prefix; may be pickled into a spawned process.

    Args:
        location: as "s3://bucket/prefix"; credentials, region and endpoint are those of the environment.
    """

    primitive = "conditional writes"
    replaced = (
        "the server replaced an object although it was told not to (If-None-Match: *), so two writers would overwrite "
        "each other. A store needs a server with conditional writes: AWS S3, Google Cloud Storage, Azure, or a recent "
        "MinIO or Ceph."
    )

    def __init__(self, location: str) -> None:
        self.location = location
        self._opened: Any = None

    def require_put_if_absent(self, key: str, data: bytes) -> None:
        with self.explained(key):
            try:
                obstore.put(self._client, key, data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return
        raise StoreError(f"{self.location}: {self.replaced}")

    def names(self, prefix: str) -> list[str]:
        return [name for name in self._entries(prefix) if not name.startswith(".")]

    def temporary(self, prefix: str) -> list[str]:
        return [n for n in self._entries(prefix) if n.startswith(".") and n.endswith(TEMPORARY_SUFFIX)]

    def files(self, prefix: str) -> dict[str, int]:
        return {entry["path"].removeprefix(f"{prefix}/"): entry["size"] for entry in self._below(prefix)}

    def get(self, key: str) -> bytes | None:
        with self.explained(key):
            try:
                return bytes(obstore.get(self._client, key).bytes())
            except FileNotFoundError:
                return None

    def get_all(self, keys: Sequence[str]) -> Iterable[bytes | None]:
        """Several at a time: each answer takes its time to travel."""
        with ThreadPoolExecutor(CONNECTIONS) as threads:
            return list(threads.map(self.get, keys))

    def size(self, key: str) -> int | None:
        with self.explained(key):
            try:
                return int(obstore.head(self._client, key)["size"])
            except FileNotFoundError:
                return None

    def put_if_absent(self, key: str, data: bytes) -> bool:
        STEPS.debug("put if absent %s", key)
        with self.explained(key), suppress(AlreadyExistsError):
            try:
                obstore.put(self._client, key, data, mode="create", use_multipart=False)
            except FileNotFoundError as error:
                raise StoreError(f"{self._where(key)}: {_reason(error)}") from error
        return self.reads_back(key, data)

    def new_folder(self, prefix: str) -> None:
        """Folders are prefixes: there is nothing to make, but nothing may be there either."""
        STEPS.debug("make %s", prefix)
        if any(True for _ in self._below(prefix)):
            raise StoreError(f"{self._where(prefix)}: there is something already.")

    def sync(self, prefix: str) -> None:
        """Nothing to do: an acknowledged put is durable."""

    def delete(self, key: str) -> None:
        STEPS.debug("delete %s", key)
        with self.explained(key), suppress(FileNotFoundError):
            obstore.delete(self._client, key)

    def delete_folder(self, prefix: str) -> None:
        STEPS.debug("delete all of %s", prefix)
        keys = [entry["path"] for entry in self._below(prefix)]
        if keys:
            with self.explained(prefix), suppress(FileNotFoundError):
                obstore.delete(self._client, keys)

    def age_hours(self, key: str) -> float | None:
        times = [entry["last_modified"].timestamp() for entry in self._below(key)]
        with self.explained(key), suppress(FileNotFoundError):
            times.append(obstore.head(self._client, key)["last_modified"].timestamp())
        return (time.time() - max(times)) / 3600 if times else None

    def zarr_store(self, prefix: str, *, read_only: bool) -> StorePath:
        return StorePath(_ZarrObjects(self, read_only=read_only), prefix)

    @contextmanager
    def explained(self, key: str) -> Iterator[None]:
        try:
            yield
        except AlreadyExistsError:
            raise
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise StoreError(
                f"{self._where(key)}: {_reason(error)} Check the credentials and the rights that they give."
            ) from error
        except BaseError as error:
            raise StoreError(f"{self._where(key)}: {_reason(error)}") from error

    @property
    def _client(self) -> Any:
        """obstore's client, made when it is first needed; refused where it would never answer."""
        require_own_process(self.location)
        if self._opened is None:
            with self.explained(""):
                self._opened = from_url(self.location, client_options=CLIENT, retry_config=RETRY)  # type: ignore[call-overload]
        return self._opened

    def _entries(self, prefix: str) -> list[str]:
        with self.explained(prefix):
            found = obstore.list_with_delimiter(self._client, prefix or None)
        paths = [*found["common_prefixes"], *(entry["path"] for entry in found["objects"])]
        return sorted({path.rstrip("/").rpartition("/")[2] for path in paths})

    def _below(self, prefix: str) -> Iterable[Any]:
        with self.explained(prefix):
            for entries in obstore.list(self._client, prefix or None):
                yield from entries

    def _where(self, key: str) -> str:
        return f"{self.location}/{key}" if key else self.location

    def __getstate__(self) -> dict[str, Any]:
        return {"location": self.location, "_opened": None}


class _ZarrObjects(ObjectStore[Any]):
    """The same objects for zarr: errors explained, no pieces of uploads, no hang in a forked process."""

    def __init__(self, storage: ObjectStorage, *, read_only: bool) -> None:
        super().__init__(storage._client, read_only=read_only)
        self._storage = storage

    def with_read_only(self, read_only: bool = False) -> _ZarrObjects:
        return type(self)(self._storage, read_only=read_only)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        require_own_process(self._storage.location)
        with self._storage.explained(key):
            return await super().get(key, prototype, byte_range)

    async def set(self, key: str, value: Buffer) -> None:
        self._check_writable()
        STEPS.debug("put %s", key)
        data = value.as_buffer_like()
        with self._storage.explained(key):
            await obstore.put_async(self.store, key, data, use_multipart=len(value) > SINGLE_PUT_BYTES)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Only called for the folders above a new array, which zarr would make groups; they are none of its own."""

    def __reduce__(self) -> Any:
        return _reopened, (self._storage, self.read_only)


def _reopened(storage: ObjectStorage, read_only: bool) -> _ZarrObjects:
    return _ZarrObjects(storage, read_only=read_only)


def require_own_process(location: str) -> None:
    """Refuse to go on in a process that was forked after its parent had used an object store.

    Raises:
        StoreError: it was.
    """
    global _used_by
    if _used_by is None:
        _used_by = os.getpid()
    elif _used_by != os.getpid():
        raise StoreError(
            f"{location} cannot be used in a forked process: the connections stay with its parent. Start workers with "
            "'spawn' or 'forkserver' (in a DataLoader multiprocessing_context='forkserver'), or use threads."
        )


def _reason(error: BaseException) -> str:
    """What a server said, in one line: its code and message where it sent them."""
    text = str(error)
    told = re.search(r"<Code>(.*?)</Code>(?:\s*<Message>(.*?)</Message>)?", text, re.DOTALL)
    if METADATA_SERVICE in text:
        return NO_CREDENTIALS
    if told:
        return f"{told[1]}{f': {told[2]}' if told[2] else ''}."
    return text.partition("\n")[0].removesuffix(".") + "."
