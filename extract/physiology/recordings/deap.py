"""DEAP: one subject's file of the preprocessed release, sXX.dat (a pickle, read as data) or sXX.mat.

`data` (40 videos, 40 channels, 8064 samples at 128 Hz; EEG in microvolts) and `labels` (40, 4): valence, arousal,
dominance, liking. The trials follow one another as one recording of 40 x 63 s; the first 3 s of each are its baseline.
Channels in the order of the release's notes ("Geneva order"): 32 of EEG by their places in the 10-20 system, then eight
of the body.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache_schema.errors import DataError, first_line
from cache_schema.exchange.pickles import read_pickle
from extract.physiology import Recording, make_channel

VIDEOS, SAMPLES, HZ = 40, 8064, 128
BASELINE_SECONDS = 3.0
TRIAL_SECONDS = SAMPLES / HZ
RATINGS = 4
EEG = (
    "Fp1", "AF3", "F3", "F7", "FC5", "FC1", "C3", "T7", "CP5", "CP1", "P3", "P7", "PO3", "O1", "Oz", "Pz",
    "Fp2", "AF4", "Fz", "F4", "F8", "FC6", "FC2", "Cz", "C4", "T8", "CP6", "CP2", "P4", "P8", "PO4", "O2",
)  # fmt: skip
BODY = ("hEOG", "vEOG", "zEMG", "tEMG", "GSR", "respiration", "plethysmograph", "temperature")
CHANNELS = (*EEG, *BODY)


def channels(path: Path) -> tuple[str, ...]:
    """The 40 channels, the same in every file."""
    return CHANNELS


def read(path: Path) -> Recording:
    """A subject's signals.

    Raises:
        DataError: the file cannot be read, or its arrays are not those of DEAP.
    """
    data = _array(path, "data", (VIDEOS, len(CHANNELS), SAMPLES))
    times = np.arange(VIDEOS * SAMPLES) / HZ
    found = {}
    for index, name in enumerate(CHANNELS):
        channel = make_channel(times, data[:, index].reshape(-1), f"{path}, {name}")
        if channel is not None:
            found[name] = channel
    return Recording(found, VIDEOS * TRIAL_SECONDS)


def read_ratings(path: Path) -> NDArray[np.float64]:
    """Valence, arousal, dominance and liking of each video (videos, 4), float64.

    Raises:
        DataError: as `read`.
    """
    return _array(path, "labels", (VIDEOS, RATINGS))


def _array(path: Path, name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """An array of the file; code in a pickle is never run."""
    values = read_pickle(path) if path.suffix == ".dat" else _read_matlab(path, name)
    array = values.get(name) if isinstance(values, dict) else None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu" or array.shape != shape:
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "nothing"
        raise DataError(f"{path}: {name!r} must be numbers of the shape {shape}, and is {found}.")
    return array.astype(np.float64, copy=False)


def _read_matlab(path: Path, name: str) -> dict[str, Any]:
    from scipy.io import loadmat

    try:
        found: dict[str, Any] = loadmat(path, variable_names=[name])
    except Exception as error:
        raise DataError(f"{path} cannot be read as a Matlab file: {first_line(error)}.") from error
    return found
