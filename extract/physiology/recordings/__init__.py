"""Physiological recordings, each form in a file of its own: what is measured, and when.

    deap    sXX.dat or sXX.mat: a subject of DEAP, 40 channels at 128 Hz
    e4      a folder of an Empatica E4: EDA.csv, BVP.csv, ... each at its own rate, IBI.csv by beats
    table   any other .csv: a column `time` in seconds, and a column per channel; an empty cell is not measured

Each form's file has `channels(path)`, the names of what is measured by a look at names and headers alone, and
`read(path)`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from cache_schema.errors import DataError
from extract.decoding.containers import require_file
from extract.decoding.streams import StreamError
from extract.physiology import Recording
from extract.physiology.recordings import deap as deap
from extract.physiology.recordings import e4 as e4
from extract.physiology.recordings import table as table


class Form(Protocol):
    """A file of this folder."""

    def channels(self, path: Path) -> tuple[str, ...]:
        """What a recording measures."""
        ...

    def read(self, path: Path) -> Recording:
        """A whole recording."""
        ...


def channels(path: Path) -> tuple[str, ...]:
    """What a recording measures.

    Raises:
        DataError: it is of no known form, or cannot be read.
    """
    return _form(path).channels(path)


def read(path: Path) -> Recording:
    """A whole recording.

    Raises:
        DataError: it is of no known form, or not what its form must be.
    """
    return _form(path).read(path)


def _form(path: Path) -> Form:
    if path.is_dir():
        return e4
    try:
        require_file(path)  # a named pipe would be waited for
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except StreamError as error:
        raise DataError(f"{path} {error}.") from error
    if path.suffix in (".dat", ".mat"):
        return deap
    if path.suffix.lower() == ".csv":
        return table
    raise DataError(
        f"{path} is no physiological recording by its name: a .csv with a column `time`, a folder of an "
        "Empatica E4, or a subject's file of DEAP."
    )
