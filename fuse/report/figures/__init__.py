"""The figures that an architecture's paper draws, from a run: a room for each, found by the architecture's name.

A room has
    POOLED              names of drawn vectors, (B, d), that are wanted of many test utterances
    CHANGES             settings of the model that change nothing but what it draws
    whole(looked)       blocks about all test utterances
    one(seen)           figures of one utterance
"""

from __future__ import annotations

from pathlib import Path

from cache_schema.registry import Registry

FIGURES = Registry("fuse.report.figures", Path(__file__).parent, "architecture with figures of its own")
