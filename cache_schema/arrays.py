"""A segment's arrays as Zarr: one array, one shard, a checksum on every chunk of it."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cache_schema.errors import REPAIR, DamagedError, first_line
from cache_schema.feature_spec import ArraySpec
from cache_schema.plan import frame_bytes
from cache_schema.readers import Reader, chosen_reader, pipeline
from cache_schema.shards import is_plain_shard, read_shard
from cache_schema.storage import Storage
from cache_schema.storage.local import LocalStorage, explained

if TYPE_CHECKING:
    import zarr

CHUNK_BYTES = 1 << 20
SCRATCH_BYTES = 64 << 20
"""At most so much is kept by a thread that reads."""

_THREAD = threading.local()


def write_array(storage: Storage, prefix: str, spec: ArraySpec, values: NDArray[Any]) -> None:
    """Write `values` (frames, *tail) as the Zarr array under `prefix`, which must be empty."""
    import zarr
    from zarr.codecs import BytesCodec, Crc32cCodec

    frames = len(values)
    chunk = chunk_frames(spec, frames)
    with pipeline("zarr"):
        array = zarr.create_array(
            storage.zarr_store(prefix, read_only=False),
            shape=values.shape,
            chunks=(chunk, *spec.tail),
            shards=(max(1, -(-frames // chunk)) * chunk, *spec.tail),
            dtype=spec.dtype,
            fill_value=np.nan if spec.dtype.startswith("float") else np.dtype(spec.dtype).type(0),
            filters=None,
            serializer=BytesCodec(),
            compressors=[Crc32cCodec()],
            config={"write_empty_chunks": True},
            overwrite=False,
        )
    if frames:
        array[...] = values


def chunk_frames(spec: ArraySpec, frames: int) -> int:
    """Frames of an inner chunk: about 1 MiB, at least one frame, at most all of them."""
    return max(1, min(frames, CHUNK_BYTES // frame_bytes(spec)))


@dataclass(frozen=True)
class StoredArray:
    """One array of one segment, open for reading.

    Attributes:
        array: (frames, *tail), read by zarr's own codecs, which verify every chunk that they touch.
        file: its shard, where it is read directly.
        shard: the array with the shape of its whole shard, where that is read by zarrs.
    """

    array: zarr.Array[Any]
    file: Path | None = None
    shard: zarr.Array[Any] | None = None

    @property
    def chunk(self) -> int:
        """Frames of an inner chunk."""
        return int(self.array.chunks[0])

    @property
    def frames(self) -> int:
        """Frames of the segment."""
        return int(self.array.shape[0])


def open_array(
    storage: Storage, prefix: str, spec: ArraySpec, frames: int, document: bytes, reader: Reader | None = None
) -> StoredArray:
    """The Zarr array under `prefix`, which must be (frames, *tail); `document` are the bytes of its zarr.json.

    `reader` None: `chosen_reader`.

    Raises:
        DamagedError: it is no array or has another shape or type.
    """
    import zarr
    from zarr.storage import StorePath

    store = storage.zarr_store(prefix, read_only=True)
    place = store if isinstance(store, StorePath) else StorePath(store)
    try:
        facts = json.loads(document)
        with pipeline("zarr"):
            array = zarr.Array.from_dict(place, facts)
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{prefix}/zarr.json describes no array ({type(error).__name__}).") from error
    if array.shape != (frames, *spec.tail) or array.dtype != np.dtype(spec.dtype):
        raise DamagedError(
            f"{prefix} holds {array.dtype} {array.shape} where its commit says {spec.dtype} {(frames, *spec.tail)}."
        )
    reader = reader or chosen_reader(storage)
    if reader == "zarr" or array.shards is None or not is_plain_shard(facts, array.chunks):
        return StoredArray(array)
    if reader == "direct" and isinstance(storage, LocalStorage):
        return StoredArray(array, file=storage.root / prefix / "c" / Path(*["0"] * array.ndim))
    with pipeline("zarrs"):
        return StoredArray(array, shard=zarr.Array.from_dict(place, facts | {"shape": list(array.shards)}))


def read_frames(array: StoredArray, start: int, stop: int, out: NDArray[Any], where: str) -> None:
    """Read frames [start, stop) into `out` (stop - start, *tail), which is contiguous, checksums verified.

    zarrs (0.2.3) verifies the checksums of a shard's chunks only where it decodes the shard as a whole, padding of the
    last chunk included; a part of one it reads without. So whole segments alone are read with it, as whole shards.

    Raises:
        DamagedError: a checksum does not match; `where` names the file.
    """
    from zarr.core.buffer.cpu import NDBuffer

    if start == stop:
        return
    whole = start == 0 and stop == array.frames
    with _checksums_explained(where):
        if array.file is not None and array.array.shards is not None:
            chunks = array.array.shards[0] // array.chunk
            with explained(array.file):
                read_shard(array.file, array.chunk, chunks, start, stop, out)
        elif whole and array.shard is not None:
            padded = out if array.shard.shape == out.shape else _scratch(array.shard.shape, out.dtype)
            array.shard.get_basic_selection(slice(None), out=NDBuffer.from_numpy_array(padded))
            if padded is not out:
                out[:] = padded[: len(out)]
        else:
            rows = slice(None) if whole else slice(start, stop)
            array.array.get_basic_selection(rows, out=NDBuffer.from_numpy_array(out))


def _scratch(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Memory of this thread, used again by the next read: new pages for each segment would cost as much as reading."""
    size = math.prod(shape) * dtype.itemsize
    if size > SCRATCH_BYTES:
        return np.empty(shape, dtype)
    memory: NDArray[np.uint8] | None = getattr(_THREAD, "memory", None)
    if memory is None or len(memory) < size:
        memory = _THREAD.memory = np.empty(size, np.uint8)
    return memory[:size].view(dtype).reshape(shape)


@contextmanager
def _checksums_explained(where: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise DamagedError(f"{where} is missing. {REPAIR}") from error
    except ValueError as error:
        raise DamagedError(f"{where} is damaged: {first_line(error).rstrip('.')}. {REPAIR}") from error
    except RuntimeError as error:  # zarrs has one kind of error for all; asyncio's own are none of the file's
        if str(error).startswith("cannot schedule"):
            raise
        raise DamagedError(f"{where} is damaged: {first_line(error).rstrip('.')}. {REPAIR}") from error
