"""What starting takes: the stages load nothing heavy before it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "whisper", "mediapipe", "cv2", "av", "sklearn", "pyarrow", "zarr", "numpy")


@pytest.mark.parametrize(
    "does",
    [
        "import fuse",
        "import sys, cli; sys.argv = ['mer', 'fuse', 'train', '--help']; cli.main()",
        "import sys, cli; sys.argv = ['mer', '--help']; cli.main()",
    ],
)
def test_nothing_heavy_is_loaded(does: str) -> None:
    code = f"""
import atexit, sys
atexit.register(lambda: print("loaded:", *(m for m in {HEAVY!r} if m in sys.modules), file=sys.stderr))
{does}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "loaded:"


def test_training_loads_no_encoders() -> None:
    code = "import sys, fuse.train; print(*{'transformers', 'whisper', 'mediapipe', 'cv2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
