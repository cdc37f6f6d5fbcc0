"""The fusion architectures: a file each, called after its name. See `fuse/arch.py` for the contract.

`ARCHS` finds the baselines of `fuse/baselines/` too, so that they are trained, shown and tested like the rest.
"""

from pathlib import Path

from cache_schema.registry import JoinedRegistry, Registry
from fuse.baselines import BASELINES

ARCHS = JoinedRegistry(Registry(__name__, Path(__file__).parent, "architecture"), BASELINES)
