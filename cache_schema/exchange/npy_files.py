"""Foreign `.npy` and `.npz` files."""

from __future__ import annotations

import io
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache_schema.errors import DataError, first_line
from cache_schema.exchange.pickles import unpickle

MAX_MEMBER_BYTES = 1 << 30
"""A larger array in an `.npz` file, or one that unpacks to more, is refused."""

_NO_ARRAY = (OSError, ValueError, TypeError, SyntaxError, OverflowError, EOFError, RecursionError, tokenize.TokenError)
"""What numpy raises about the head of a file that is no array."""


def read_npy(path: Path) -> NDArray[Any]:
    """The array in a `.npy` file.

    Raises:
        DataError: it cannot be read, holds Python objects, or has fewer bytes than it claims.
    """
    try:
        return np.array(np.lib.format.open_memmap(path, mode="r"))
    except _NO_ARRAY as error:
        raise DataError(f"{path} cannot be read as an array of numbers: {first_line(error)}.") from error


def read_npz(path: Path) -> dict[str, Any]:
    """The arrays in an `.npz` file, by name; objects are read as data, their code is never run (`pickles`).

    Raises:
        DataError: it cannot be read, or holds anything else than arrays and builtins.
    """
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.file_size > MAX_MEMBER_BYTES:
                    raise DataError(f"{path}: {member.filename} unpacks to {member.file_size:,} bytes; it is not read.")
                with archive.open(member) as file:
                    data = file.read(MAX_MEMBER_BYTES)
                found[member.filename.removesuffix(".npy")] = _array(data, f"{path}, {member.filename}")
    except (*_NO_ARRAY, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path} cannot be read as npz: {first_line(error)}.") from error
    return found


def _array(data: bytes, where: str) -> Any:
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = header(file)
    if dtype.hasobject:
        return unpickle(data[file.tell() :], where)
    if int(np.prod(shape, dtype=object)) * dtype.itemsize != len(data) - file.tell():
        raise DataError(f"{where} has another size than it claims.")
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)
