"""Foreign HDF5 files: only data that lies in the file itself is read, and no more of it than the file can hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cache_schema.errors import DataError, first_line

MOST_COMPRESSED = 1100
"""deflate shrinks by 1032 at most; a dataset that claims more bytes than that per stored byte was never written."""


@contextmanager
def hdf5_explained(where: str) -> Iterator[None]:
    """Turn what h5py raises about a file into one line."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, UnicodeError, MemoryError) as error:
        raise DataError(f"{where} cannot be read as HDF5: {first_line(error)}.") from error


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The HDF5 file at `path`, for reading.

    Raises:
        DataError: it cannot be read, or is none.
    """
    import h5py

    with hdf5_explained(str(path)):
        file = h5py.File(path, "r")
    try:
        yield file
    finally:
        file.close()


def member(group: Any, name: str, kind: str, where: str) -> Any:
    """The group or dataset called `name` directly in a group.

    Args:
        group: an h5py group.
        name: of the member.
        kind: "group" or "dataset".
        where: what the group is called in messages.

    Raises:
        DataError: there is none, it is a link to elsewhere, or its data lie outside the file or were never written.
    """
    import h5py

    with hdf5_explained(where):
        link = group.get(name, getlink=True)
        if link is None:
            raise DataError(f"{where} has no {name!r}.")
        if not isinstance(link, h5py.HardLink):
            raise DataError(f"{where}: {name!r} is a link to elsewhere, and links are not followed.")
        found = group[name]
        if not isinstance(found, h5py.Group if kind == "group" else h5py.Dataset):
            raise DataError(f"{where}: {name!r} is no {kind}.")
        if isinstance(found, h5py.Dataset):
            if found.external or found.is_virtual:
                raise DataError(f"{where}: the data of {name!r} lie in another file, which is not read.")
            if found.size and found.nbytes > MOST_COMPRESSED * found.id.get_storage_size():
                raise DataError(f"{where}: {name!r} claims {found.nbytes:,} bytes that are not in the file.")
    return found


def numbers(group: Any, name: str, where: str) -> Any:
    """A dataset of numbers; errors as in `member`."""
    found = member(group, name, "dataset", where)
    if found.dtype.kind not in "biuf" or not found.shape:
        raise DataError(f"{where}: {name!r} holds no array of numbers.")
    return found


def texts(group: Any, name: str, where: str) -> list[str]:
    """A dataset of strings, as a list; errors as in `member`."""
    found = member(group, name, "dataset", where)
    with hdf5_explained(where):
        values = found.asstr()[()]
        return [values] if isinstance(values, str) else [str(value) for value in values.reshape(-1)]
