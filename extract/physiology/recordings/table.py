"""A CSV of one's own: a column `time` in seconds, and a column of numbers for each channel.

An empty cell, or `nan`, is not measured: channels of different rates may share a file, each with cells where it has
samples.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from cache_schema.errors import DataError, first_line
from extract.physiology import Channel, Recording, make_channel

TIME = "time"
MOST_COLUMNS = 4096
LONGEST_HEADER = 1 << 20
"""Bytes of the longest first line that is read."""


def channels(path: Path) -> tuple[str, ...]:
    """The columns but `time`.

    Raises:
        DataError: the file has no such header.
    """
    return tuple(column for column in _header(path) if column != TIME)


def _header(path: Path) -> list[str]:
    """All columns, in their order."""
    try:
        with path.open("rb") as lines:
            first = lines.readline(LONGEST_HEADER)
        header = [column.strip() for column in next(csv.reader([first.decode("utf-8-sig").rstrip()]), [])]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {first_line(error)}.") from error
    if len(header) > MOST_COLUMNS:
        raise DataError(f"{path} has more columns than any recording: {MOST_COLUMNS} are read at most.")
    if not all(column.isprintable() for column in header):
        raise DataError(f"{path}: a column's name holds a control character.")
    if TIME not in header or len(header) < 2 or len(set(header)) < len(header) or "" in header:
        raise DataError(f"{path}: the first line must name a column `{TIME}` (seconds) and the channels, each once.")
    return header


def read(path: Path) -> Recording:
    """The recording; it lasts from its second 0 to the last row.

    Raises:
        DataError: a cell is no number, or time does not increase.
    """
    import pyarrow as pa
    import pyarrow.csv as pa_csv

    header = _header(path)
    try:
        rows = pa_csv.read_csv(
            path,
            read_options=pa_csv.ReadOptions(column_names=header, skip_rows=1),
            # a quote must not end with the block that it opens in
            parse_options=pa_csv.ParseOptions(newlines_in_values=True),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(header, pa.float64()),
                null_values=["", "nan", "NaN", "NA"],
            ),
        )
    except MemoryError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read: {first_line(error)}.") from error
    columns: dict[str, Any] = {name: rows[name].to_numpy() for name in header}
    times = columns.pop(TIME)
    if not len(times) or not np.isfinite(times).all():
        raise DataError(f"{path}: every row needs a time in seconds.")
    found: dict[str, Channel] = {}
    for name, values in columns.items():
        channel = make_channel(times, values, f"{path}, {name}")
        if channel is not None:
            found[name] = channel
    longest = max((channel.spacing for channel in found.values()), default=0.0)
    return Recording(found, float(times[-1]) + longest)
