"""What the architectures are measured against: a file each, under the same contract (`fuse/arch.py`)."""

from pathlib import Path

from cache_schema.registry import Registry

BASELINES = Registry(__name__, Path(__file__).parent, "baseline")
