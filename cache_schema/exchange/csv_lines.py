"""Lines of foreign CSV files, columns by number or by name, and the numbers and labels in their cells."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache_schema.errors import DataError, first_line
from cache_schema.exchange.foreign import inside

Column = int | str
"""A column by number, counted from 0 or from -1 at the end, or by the name in the header."""

Place = Callable[[Column], int]
"""Where a column stands in a line."""


def csv_lines(folder: Path, name: str, header_line: bool, delimiter: str) -> Iterator[tuple[str, list[str], Place]]:
    """(where, cells, column -> place) of each line of a file; all lines are equally long."""
    path = inside(folder, name, "csv")
    try:
        with path.open(encoding="utf-8-sig", newline="") as opened:
            lines = csv.reader(opened, delimiter=delimiter, strict=True)
            header = [cell.strip() for cell in next(lines, [])] if header_line else []
            width = len(header) or None
            for cells in lines:
                where = f"{name}, line {lines.line_num}"
                if not cells:
                    continue
                width = len(cells) if width is None else width
                if len(cells) != width:
                    raise DataError(f"{where}: {len(cells)} columns where the others have {width}.")

                def place(column: Column, width: int = width, where: str = where) -> int:
                    return _place(column, header, width, where)

                yield where, cells, place
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV in UTF-8: {first_line(error)}.") from error


def _place(column: Column, header: Sequence[str], width: int, where: str) -> int:
    if isinstance(column, str):
        if header.count(column) != 1:
            raise DataError(f"{where}: the header has {header.count(column)} columns called {column!r}.")
        return header.index(column)
    if not -width <= column < width:
        raise DataError(f"{where}: there is no column {column}; there are {width}.")
    return column % width


def cell_number(cell: str, where: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise DataError(f"{where}: {cell!r} is no number.") from None


def cell_numbers(cells: Sequence[str], where: str) -> NDArray[np.float64]:
    """A line's numbers; an empty cell is a number that is not there, NaN."""
    try:
        return np.array([cell if cell.strip() else "nan" for cell in cells], np.float64)
    except ValueError:
        for cell in cells:
            if cell.strip():
                cell_number(cell, where)
        raise


def label_code(cell: str) -> str:
    """A label as it is compared: a whole number without its decimals."""
    text = cell.strip()
    try:
        value = float(text)
    except ValueError:
        return text
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
