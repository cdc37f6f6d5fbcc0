"""Reading a shard of this format from a file, straight into its place, every chunk's checksum verified.

It is what `FORMAT.md` says of a shard and no more: inner chunks along the first axis, each the little-endian bytes and
their crc32c, and an index of (offset, size) at the end. Any other array is left to zarr.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

CRC_BYTES = 4
_ENTRY_BYTES = 16


def is_plain_shard(document: dict[str, Any], chunk_shape: tuple[int, ...]) -> bool:
    """Whether the array that `document`, a zarr.json, describes is one that `read_shard` can read."""
    codecs = document["codecs"]
    if [codec.get("name") for codec in codecs] != ["sharding_indexed"] or not hasattr(os, "preadv"):
        return False
    sharding = codecs[0]["configuration"]
    inner, index = sharding["codecs"], sharding["index_codecs"]
    named = [[codec["name"] for codec in chain] for chain in (inner, index)] == [["bytes", "crc32c"]] * 2
    little = all(c[0].get("configuration", {}).get("endian", "little") == "little" for c in (inner, index))
    shard = document["chunk_grid"]["configuration"]["chunk_shape"]
    return (
        named
        and little
        and sys.byteorder == "little"
        and sharding.get("index_location", "end") == "end"
        and document["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "/"}}
        and tuple(sharding["chunk_shape"]) == chunk_shape
        and shard[0] >= document["shape"][0]
        and tuple(shard[1:]) == chunk_shape[1:] == tuple(document["shape"][1:])
    )


def read_shard(path: Path, chunk: int, chunks: int, start: int, stop: int, out: NDArray[Any]) -> None:
    """Read frames [start, stop) into `out` (stop - start, *tail), which is contiguous.

    Args:
        path: the shard.
        chunk: frames of an inner chunk.
        chunks: how many there are.
        start: first frame.
        stop: one past the last.
        out: where they go.

    Raises:
        ValueError: the file is cut short, or a checksum does not match.
        OSError: it cannot be read.
    """
    frame_bytes = out[:1].nbytes
    size = chunk * frame_bytes
    crc = bytearray(CRC_BYTES)
    edge = np.empty(0, np.uint8)
    with path.open("rb", buffering=0) as file:
        index = _index(file.fileno(), chunks)
        for number in range(start // chunk, -(-stop // chunk)):
            low, high = max(start, number * chunk), min(stop, (number + 1) * chunk)
            place = out[low - start : high - start].reshape(-1).view(np.uint8)
            whole = high - low == chunk
            if not whole and not len(edge):
                edge = np.empty(size, np.uint8)
            data = place if whole else edge
            offset, stored = index[number].tolist()
            if stored != size + CRC_BYTES:
                raise ValueError(f"chunk {number} has {stored} bytes instead of {size + CRC_BYTES}")
            if os.preadv(file.fileno(), [data.data, crc], offset) != stored:
                raise ValueError(f"chunk {number} is cut short")
            if google_crc32c.value(data) != int.from_bytes(crc, "little"):
                raise ValueError(f"the checksum of chunk {number} does not match")
            if not whole:
                begin = (low - number * chunk) * frame_bytes
                place[:] = edge[begin : begin + len(place)]


def _index(file: int, chunks: int) -> NDArray[np.int64]:
    """Offset and size of each chunk; (chunks, 2)."""
    length = chunks * _ENTRY_BYTES + CRC_BYTES
    size = os.fstat(file).st_size
    if size < length:
        raise ValueError(f"{size} bytes are too few for its index")
    data = os.pread(file, length, size - length)
    if google_crc32c.value(data[:-CRC_BYTES]) != int.from_bytes(data[-CRC_BYTES:], "little"):
        raise ValueError("the checksum of its index does not match")
    return np.frombuffer(data[:-CRC_BYTES], "<i8").reshape(chunks, 2)
