"""A part's rows: columns of a Parquet file, decoded when they are asked for; utterances are made row by row.

Listing a store of a million samples takes ids and durations; the rest is left as it lies in the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from threading import Lock
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from cache_schema.errors import REPAIR, DamagedError, first_line
from cache_schema.samples import Utterance

MAPS = ("labels", "scores")
_BLOCK = 4096
_UTTERANCES = TypeAdapter(list[Utterance])


class UtteranceTable(Sequence[Utterance]):
    """The rows of a part, in order.

    Args:
        data: the bytes of the Parquet file, which are those that were written.
        where: the file, for errors.

    Raises:
        DamagedError: here, it is no Parquet file, or has no ids or no durations of the right type; wherever rows are
            asked for, a page does not match its checksum or a value is not what the format allows.
    """

    def __init__(self, data: bytes, where: str) -> None:
        self._data = data
        self._where = where
        self._lock = Lock()
        self.ids = self._ids()
        """Id of each row: a `pyarrow.StringArray`."""
        self.durations = self._durations()
        """Seconds of each row, NaN where they are not known: float64 (rows,)."""

    def column(self, name: str) -> list[Any]:
        """A column as plain Python values; a column that is not there is None everywhere, or empty for a map."""
        return self._values(self._table, name)

    def check(self) -> None:
        """Make every row once.

        Raises:
            DamagedError: as above.
        """
        for _ in self:
            pass

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> Utterance: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Utterance, ...]: ...

    def __getitem__(self, index: int | slice) -> Utterance | tuple[Utterance, ...]:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                return tuple(self[row] for row in range(start, stop, step))
            return tuple(self._made(start, stop))
        row = range(len(self))[index]
        return self._made(row, row + 1)[0]

    def __iter__(self) -> Iterator[Utterance]:
        for start in range(0, len(self), _BLOCK):
            yield from self._made(start, min(start + _BLOCK, len(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        return UtteranceTable, (self._data, self._where)

    def _made(self, start: int, stop: int) -> list[Utterance]:
        table = self._table.slice(start, stop - start)
        columns = {name: self._values(table, name) for name in table.column_names}
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        try:
            return _UTTERANCES.validate_python(rows)
        except ValidationError as error:
            raise self._no_part(error) from error

    def _values(self, table: Any, name: str) -> list[Any]:
        import pyarrow as pa

        if name not in table.column_names:
            return [{} if name in MAPS else None for _ in range(len(table))]
        column = table.column(name)
        if column.null_count == len(column) and name not in MAPS:
            return [None] * len(column)
        values: list[Any] = column.to_pylist()
        try:
            if name in MAPS:
                return [dict(pairs or ()) for pairs in values]
            if pa.types.is_list(column.type):
                return [None if value is None else tuple(value) for value in values]
            return values
        except (TypeError, ValueError) as error:
            raise self._no_part(error) from error

    @cached_property
    def _table(self) -> Any:
        """All columns that this version knows, decoded once whichever thread asks first."""
        with self._lock:
            if "_table" not in self.__dict__:
                self.__dict__["_table"] = self._read([n for n in self._names if n in Utterance.model_fields])
            return self.__dict__["_table"]

    @cached_property
    def _names(self) -> list[str]:
        return list(self._file().schema_arrow.names)

    def _file(self) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.ParquetFile(pa.BufferReader(self._data), page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            raise self._no_part(error) from error

    def _read(self, names: list[str]) -> Any:
        import pyarrow as pa

        try:
            return self._file().read(columns=names)
        except (pa.ArrowException, OSError) as error:
            raise self._no_part(error) from error

    def _ids(self) -> Any:
        import pyarrow as pa
        import pyarrow.compute as pc

        if "id" not in self._names:
            raise self._no_part(ValueError("it has no column 'id'"))
        try:
            ids = self._read(["id"]).column("id").cast(pa.string()).combine_chunks()
        except pa.ArrowException as error:
            raise self._no_part(error) from error
        if ids.null_count or (len(ids) and pc.min(pc.binary_length(ids)).as_py() == 0):
            raise self._no_part(ValueError("a row has no id"))
        return ids

    def _durations(self) -> NDArray[np.float64]:
        import pyarrow as pa

        if "duration" not in self._names:
            return np.full(len(self.ids), np.nan)
        try:
            column = self._read(["duration"]).column("duration").cast(pa.float64()).combine_chunks()
        except pa.ArrowException as error:
            raise self._no_part(error) from error
        durations: NDArray[np.float64] = column.to_numpy(zero_copy_only=False)
        if np.count_nonzero(np.isfinite(durations)) != len(column) - column.null_count:
            raise self._no_part(ValueError("a duration is not finite"))
        return durations

    def _no_part(self, error: Exception) -> DamagedError:
        return DamagedError(f"{self._where} is no part of this format: {first_line(error).rstrip('.')}. {REPAIR}")
