"""Foreign Arrow streams, checked before they are used: a bad offset in one would be read as memory of another's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache_schema.errors import DataError, first_line


def open_table(paths: Sequence[Path]) -> Any:
    """The table in Arrow streams, mapped, every offset checked.

    Raises:
        DataError: a file is no Arrow stream, is damaged, or they have different columns.
    """
    import pyarrow as pa

    tables = []
    for path in paths:
        try:
            table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
            table.validate(full=True)
            tables.append(table)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read as an Arrow stream: {first_line(error)}.") from error
    try:
        return pa.concat_tables(tables)
    except pa.ArrowException as error:
        raise DataError(f"{paths[0].parent}: its files have different columns: {first_line(error)}.") from error


def column_of(table: Any, name: str, where: str) -> Any:
    """A column.

    Raises:
        DataError: there is none.
    """
    if table.column_names.count(name) != 1:
        raise DataError(f"{where}: there is no column {name!r}; there are {', '.join(table.column_names)}.")
    return table.column(name)


def frames_of(
    table: Any, name: str, number: int, where: str, tail: tuple[int, ...] | None = None
) -> NDArray[Any] | None:
    """What a row has in a column of lists, as (frames, *tail); a list of numbers is one frame. None where it is null.

    Args:
        table: an Arrow table.
        name: the column.
        number: the row.
        where: what the table is called in messages.
        tail: shape of a frame; None: by the list itself.

    Raises:
        DataError: the column holds no lists of numbers, or lists of different lengths in one frame.
    """
    import pyarrow as pa

    scalar = column_of(table, name, where)[number]
    if not scalar.is_valid:
        return None
    if not hasattr(scalar, "values"):
        raise DataError(f"{where}: column {name!r} holds {scalar.type}, no lists of numbers.")
    values, shape = scalar.values, [len(scalar.values)]
    while (
        pa.types.is_list(values.type) or pa.types.is_large_list(values.type) or pa.types.is_fixed_size_list(values.type)
    ):
        lengths = set(values.value_lengths().to_pylist()) or {tail[len(shape) - 1] if tail else 0}
        if values.null_count or len(lengths) != 1:
            raise DataError(f"{where}: row {number} of {name!r} has frames of different shapes.")
        shape.append(lengths.pop())
        values = values.flatten()
    if values.null_count:
        raise DataError(f"{where}: row {number} of {name!r} has a null among its numbers.")
    found = np.asarray(values.to_numpy(zero_copy_only=False))
    if found.dtype.kind not in "biuf":
        raise DataError(f"{where}: column {name!r} holds {values.type}, no numbers.")
    if len(shape) == 1 and tail != ():
        return found[None, :]
    return found.reshape(shape)
