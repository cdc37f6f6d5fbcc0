"""Empatica E4: a folder with a CSV per sensor, as the wristband's site exports a session.

EDA.csv (microsiemens, 4 Hz), BVP.csv (64 Hz), TEMP.csv (degrees Celsius, 4 Hz), HR.csv (beats a minute, 1 Hz, begins
10 s late), ACC.csv (three columns, 1/64 g, 32 Hz): the first row is the session's Unix time, the second the rate in Hz.
IBI.csv: the first row holds the Unix time, the others seconds since then and the interval between two beats that ends
there, in seconds; beats that the wristband was not sure of are left out, which are gaps. Format: info.txt in each
export. Second 0 of the recording is the earliest first row. tags*.csv (the button) are no signals.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache_schema.errors import DataError, first_line
from extract.dataset import LONGEST_SECONDS
from extract.physiology import Channel, Recording, make_channel

REGULAR = ("ACC", "BVP", "EDA", "HR", "TEMP")
BEATS = "IBI"
AXES = ("x", "y", "z")


def channels(path: Path) -> tuple[str, ...]:
    """The sensors whose files are there, ACC with an axis each.

    Raises:
        DataError: the folder holds none of them.
    """
    found = [name for name in (*REGULAR, BEATS) if (path / f"{name}.csv").is_file()]
    if not found:
        raise DataError(f"{path} holds no {', '.join(f'{n}.csv' for n in REGULAR)} or {BEATS}.csv of an Empatica E4.")
    return tuple(name for sensor in found for name in _names(sensor))


def read(path: Path) -> Recording:
    """The session.

    Raises:
        DataError: a file is not what the export makes.
    """
    begins: dict[str, float] = {}
    series: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    for sensor in dict.fromkeys(name.partition("_")[0] for name in channels(path)):
        file = path / f"{sensor}.csv"
        begin, times, values = _beats(file) if sensor == BEATS else _regular(file, len(_names(sensor)))
        for name, column in zip(_names(sensor), values.T, strict=True):
            begins[name], series[name] = begin, (times, column)
    zero = min(begins.values())
    if (apart := max(begins.values()) - zero) > LONGEST_SECONDS:
        raise DataError(f"{path}: its files begin up to {apart:g} s apart: not one session.")
    found: dict[str, Channel] = {}
    seconds = 0.0
    for name, (times, values) in series.items():
        times = times + (begins[name] - zero)
        channel = make_channel(times, values, f"{path}, {name}")
        if channel is not None:
            found[name], seconds = channel, max(seconds, float(times[-1]) + channel.spacing)
    return Recording(found, seconds)


def _names(sensor: str) -> tuple[str, ...]:
    return tuple(f"{sensor}_{axis}" for axis in AXES) if sensor == "ACC" else (sensor,)


def _regular(file: Path, columns: int) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """(Unix time of the first sample, seconds from it, values (samples, columns))."""
    table = _numbers(file, columns, skip=0)
    if len(table) < 2 or not (table[1] > 0).all() or not np.isfinite(table[:2]).all():
        raise DataError(f"{file}: the first two rows must be the session's time and a rate above 0 Hz.")
    return float(table[0, 0]), np.arange(len(table) - 2) / table[1, 0], table[2:]


def _beats(file: Path) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """(Unix time of the session, when each interval ends in seconds from it, intervals (beats, 1))."""
    with file.open(encoding="utf-8", errors="replace") as lines:
        head = lines.readline().partition(",")[0]
    try:
        begin = float(head)
    except ValueError as error:
        raise DataError(f"{file}: the first row must begin with the session's time, and it is {head!r}.") from error
    table = _numbers(file, 2, skip=1)
    if not np.isfinite([begin, *table[:, 0]]).all():
        raise DataError(f"{file}: every row needs a time in seconds.")
    return begin, table[:, 0], table[:, 1:]


def _numbers(file: Path, columns: int, skip: int) -> NDArray[np.float64]:
    """The rows after `skip` ones (rows, columns)."""
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "loadtxt: input contained no data")
            table = np.loadtxt(file, delimiter=",", skiprows=skip, ndmin=2, encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read: {first_line(error)}.") from error
    if not len(table):
        return np.empty((0, columns))
    if table.shape[1] != columns:
        raise DataError(f"{file} has {table.shape[1]} columns, and must have {columns}.")
    return table
