"""`mer doctor`: what is installed, what device there is, what is missing, and how to mend it."""

from __future__ import annotations

import ctypes.util
import importlib
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from cache_schema.errors import SettingsError, StoreError, first_line
from cache_schema.storage import open_storage
from cache_schema.storage.local import LocalStorage
from cache_schema.store import MARKER

State = Literal["ok", "note", "missing"]

IMPORTS = {
    "torch": "torch",
    "transformers": "transformers",
    "av": "av",
    "opencv-python": "cv2",
    "zarr": "zarr",
    "pyarrow": "pyarrow",
    "h5py": "h5py",
    "dask": "dask",
    "openai-whisper": "whisper",
    "mediapipe": "mediapipe",
}
"""Distribution -> import name of what mer runs on."""

LIBRARIES = {
    "EGL": ("libegl1", "faces (mediapipe)"),
    "GLESv2": ("libgles2", "faces (mediapipe)"),
    "GL": ("libgl1", "OpenCV"),
    "glib-2.0": ("libglib2.0-0", "OpenCV"),
    "xcb": ("libxcb1", "OpenCV"),
}
"""System library -> (Debian package, who needs it)."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: its name.
        state: ok; note: works, but worth knowing; missing: something will not work.
        detail: what was found, and for anything but ok, how to mend it.
    """

    what: str
    state: State
    detail: str


def examine(store: str) -> list[Finding]:
    """Look at everything that `mer` needs; never raises for what it finds.

    Args:
        store: the feature store that would be used.
    """
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _python,
        _packages,
        _one_opencv,
        _device,
        _codecs,
        _system_libraries,
        _faces,
        _hub,
        _data_roots,
        lambda: _store(store),
    )
    return [finding for check in checks for finding in check()]


def _python() -> Iterator[Finding]:
    isolated = sys.prefix != sys.base_prefix or "CONDA_PREFIX" in os.environ
    yield Finding("Python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    if not isolated:
        yield Finding("environment", "note", "not an isolated environment; `make install` makes one in .venv")


def _packages() -> Iterator[Finding]:
    for distribution, module in IMPORTS.items():
        try:
            importlib.import_module(module)
            yield Finding(distribution, "ok", version(distribution))
        except PackageNotFoundError:
            yield Finding(distribution, "missing", "not installed: run `make install`")
        except (ImportError, OSError) as error:
            yield Finding(distribution, "missing", f"does not import: {first_line(error)}")


def _one_opencv() -> Iterator[Finding]:
    found = {}
    for distribution in ("opencv-python", "opencv-contrib-python"):
        try:
            found[distribution] = version(distribution)
        except PackageNotFoundError:
            continue
    if len(set(found.values())) > 1:
        versions = ", ".join(f"{k} {v}" for k, v in found.items())
        yield Finding("cv2", "missing", f"two OpenCVs own one folder: {versions}; install both at one version")


def _device() -> Iterator[Finding]:
    try:
        import torch

        from compute.products import pays
    except (ImportError, OSError):
        return
    if not torch.cuda.is_available():
        through = "oneDNN" if pays() else "torch's own library"
        cpu = f"CPU, {torch.get_num_threads()} threads, float32 products through {through}"
        yield Finding("device", "note", f"{cpu}; no CUDA device is visible to torch")
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        yield Finding("device", "ok", f"cuda:{index} {facts.name}, {facts.total_memory / 2**30:.0f} GiB")


def _codecs() -> Iterator[Finding]:
    try:
        import av
    except (ImportError, OSError):
        return
    absent = [
        name for name in ("h264", "hevc", "vp9", "mpeg4", "aac", "mp3", "flac") if name not in av.codecs_available
    ]
    if absent:
        yield Finding("codecs", "note", f"this build of PyAV does not decode {', '.join(absent)}")
    else:
        yield Finding("codecs", "ok", "H.264, HEVC, VP9, MPEG-4, AAC, MP3 and FLAC decode without system packages")


def _system_libraries() -> Iterator[Finding]:
    if platform.system() != "Linux":
        return
    for library, (package, user) in LIBRARIES.items():
        if ctypes.util.find_library(library) is None:
            yield Finding(f"lib{library}", "note", f"not found; {user} may need it: apt-get install {package}")


def _faces() -> Iterator[Finding]:
    from extract.faces import face_model

    try:
        yield Finding("face model", "ok", str(face_model()))
    except SettingsError as error:
        yield Finding("face model", "note", str(error))


def _hub() -> Iterator[Finding]:
    from huggingface_hub import constants

    mode = "offline (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else "downloads what is not there"
    yield Finding("Hugging Face cache", "ok", f"{constants.HF_HUB_CACHE}, {mode}")


def _data_roots() -> Iterator[Finding]:
    from extract.datasets import DATASETS

    base = os.environ.get("MER_DATA")
    if base is None:
        yield Finding(
            "MER_DATA", "note", "not set; name each data root with --root, or set it to the folder of them all"
        )
        return
    for name in DATASETS.names():
        if (Path(base) / name).is_dir():
            yield Finding(f"data: {name}", "ok", str(Path(base) / name))


def _store(store: str) -> Iterator[Finding]:
    try:
        place = open_storage(store)
        there = place.get(MARKER) is not None
        room = ""
        near = place
        if isinstance(place, LocalStorage):
            parent = next(p for p in (place.root, *place.root.absolute().parents) if p.is_dir())
            room = f"; {shutil.disk_usage(parent).free / 2**30:.0f} GiB free"
            near = LocalStorage(parent)
        how = near.prepare()
    except (StoreError, OSError) as error:
        why = str(error) if isinstance(error, StoreError) else f"{store}: {first_line(error)}."
        yield Finding("store", "missing", f"{why} Name another with --store.")
        return
    what = "there" if there else "will be made by the first `mer extract`"
    yield Finding("store", "ok", f"{place.location}: {what}; {how}: yes{room}")
