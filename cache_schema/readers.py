"""Which implementation reads the arrays.

- direct (`cache_schema.shards`): from local folders; the fastest, and it verifies every chunk that it touches.
- zarr: zarr's own codecs; from object stores, and where an array is not laid out as this format says.
- zarrs: optional, chosen by `using_reader` alone. Nothing is ever written with it: it leaves torn shards when it is
  killed. A process that was forked after its parent had used it would wait for threads that it does not have.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib.util import find_spec
from threading import RLock
from typing import Literal

from cache_schema.storage import Storage
from cache_schema.storage.local import LocalStorage

Reader = Literal["direct", "zarr", "zarrs"]

_PIPELINES: dict[Reader, str] = {
    "zarr": "zarr.core.codec_pipeline.BatchedCodecPipeline",
    "zarrs": "zarrs.ZarrsCodecPipeline",
}
_BATCH = 64


class _State:
    """Of this process.

    Attributes:
        lock: zarr looks the pipeline up in a configuration that all threads share.
        wanted: what `using_reader` asks for.
        used: zarrs was used here.
        barred: it was used by the process that this one was forked from.
        loading: how many loads have chunks decoded in batches now.
        settings: what they changed of zarr's configuration, to be put back by the last of them.
    """

    def __init__(self) -> None:
        self.lock = RLock()
        self.wanted: Reader | None = None
        self.used = False
        self.barred = False
        self.loading = 0
        self.settings = ExitStack()

    def forked(self) -> None:
        self.lock = RLock()
        self.loading = 0
        self.barred = self.barred or self.used


_STATE = _State()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_STATE.forked)


def chosen_reader(storage: Storage) -> Reader:
    """What reads arrays of `storage` in this process: what `using_reader` wants where that can be, else the fastest."""
    if not isinstance(storage, LocalStorage) or _STATE.wanted == "zarr":
        return "zarr"
    if _STATE.wanted == "zarrs" and zarrs_installed() and not _STATE.barred:
        return "zarrs"
    return "direct"


@contextmanager
def using_reader(reader: Reader) -> Iterator[None]:
    """Read with this one in all threads, as comparisons need; where it cannot be used, with another."""
    before, _STATE.wanted = _STATE.wanted, reader
    try:
        yield
    finally:
        _STATE.wanted = before


@contextmanager
def pipeline(reader: Reader) -> Iterator[None]:
    """Arrays that are made or opened within use this reader, whatever the user's configuration of zarr says."""
    import zarr

    with _STATE.lock, zarr.config.set({"codec_pipeline.path": _PIPELINES[reader]}):
        _STATE.used = _STATE.used or reader == "zarrs"
        yield


@contextmanager
def batched() -> Iterator[None]:
    """While a load goes on, zarr's own codecs take the chunks of a shard together, not each in a task of its own.

    They look that up in zarr's configuration while they read, in a thread of zarr's.
    """
    import zarr

    with _STATE.lock:
        _STATE.loading += 1
        if _STATE.loading == 1:
            _STATE.settings.enter_context(zarr.config.set({"codec_pipeline.batch_size": _BATCH}))
    try:
        yield
    finally:
        with _STATE.lock:
            _STATE.loading -= 1
            if _STATE.loading == 0:
                _STATE.settings.close()


@cache
def zarrs_installed() -> bool:
    """Whether the optional `zarrs` is there."""
    return find_spec("zarrs") is not None
