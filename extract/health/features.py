"""What the features' numbers tell: values that never move, faces seldom seen, clips that are nearly the same."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from cache_schema.feature import Feature
from extract.health.finding import Examined, Finding, few
from extract.health.media import duplicates
from extract.stored_frames import directions, standardised, stored_frames

BLOCK = 2048
"""Rows that are compared with all others at once."""
SELDOM = 0.5
"""Share of its pictures in which a clip's face is there at least."""


def check(examined: Examined, similar: float) -> Iterator[Finding]:
    """Every feature of vectors."""
    for feature in examined.store.features(examined.dataset):
        if feature.status().done and feature.spec.values.dtype.startswith("float"):
            yield from _one(examined, feature, similar)


def _one(examined: Examined, feature: Feature, similar: float) -> Iterator[Finding]:
    rows, means, constant, broken, seldom = _summaries(examined, feature)
    name = feature.name
    ids = [u.id for u in examined.utterances]
    for check, level_rows, says in (
        ("constant features", broken, "have values that are no numbers"),
        ("constant features", constant, "never change from frame to frame"),
        ("faces", seldom, f"show their face in less than {SELDOM:.0%} of their pictures"),
    ):
        if level_rows:
            mine = tuple(ids[row] for row in level_rows)
            yield Finding(check, "warning", f"{name}: {len(mine)} {says}: {few(mine)}", mine)
    if len(rows) < 2:
        return
    still = int((means.std(axis=0) == 0).sum())
    if still:
        says = f"{name}: {still} of {means.shape[1]} numbers are the same in every utterance"
        yield Finding("constant features", "warning", says)
    if feature.spec.modality == "text":
        return  # equal transcripts are found by their text
    groups = [[rows[i] for i in group] for group in near(means, similar)]
    yield from duplicates(examined, "near-duplicates", groups, f"are nearly the same in {name}")


def _summaries(
    examined: Examined, feature: Feature
) -> tuple[list[int], NDArray[np.float32], list[int], list[int], list[int]]:
    """(rows that have the feature, their means (rows, width), rows that are constant, broken, seldom there)."""
    rows: list[int] = []
    means: list[NDArray[np.float32]] = []
    constant, broken, seldom = [], [], []
    for row, values, there in stored_frames(feature, [u.id for u in examined.utterances]):
        if there.mean() < SELDOM:
            seldom.append(row)
        values = values[there]
        if not np.isfinite(values).all():
            broken.append(row)
        elif len(values):
            if len(values) > 2 and (values.std(axis=0) == 0).all():
                constant.append(row)
            rows.append(row)
            means.append(values.mean(axis=0))
    return rows, np.array(means, np.float32), constant, broken, seldom


def near(means: NDArray[np.float32], similar: float) -> list[list[int]]:
    """Groups of rows (rows, width) that correlate by `similar` or more with another of the group.

    Each number is first freed of its mean and scale over all rows: frozen encoders' vectors all point the same way.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    unit = directions(standardised(means))
    found: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for start in range(0, len(unit), BLOCK):
        one, other = np.nonzero(unit[start : start + BLOCK] @ unit.T >= similar)
        keep = one + start < other
        found.append((one[keep] + start, other[keep]))
    first, second = (np.concatenate(side) for side in zip(*found, strict=True))
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(len(unit), len(unit)))
    _, labels = connected_components(graph, directed=False)
    order = np.argsort(labels, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    return [group.tolist() for group in groups if len(group) > 1]
