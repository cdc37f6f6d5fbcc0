"""What every check gives and takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from cache_schema.samples import Utterance
from cache_schema.store import FeatureStore

Level = Literal["leak", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        check: the check's name.
        level: leak: one split tells about another; warning: probably not meant; note: worth knowing.
        says: what, in a sentence.
        ids: the utterances that it is about.
        numbers: what was counted, for `--json`.
    """

    check: str
    level: Level
    says: str
    ids: tuple[str, ...] = ()
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Examined:
    """What the checks look at.

    Attributes:
        store: the feature store.
        dataset: name in it.
        utterances: its samples, in order.
    """

    store: FeatureStore
    dataset: str
    utterances: Sequence[Utterance]


def across(utterances: Sequence[Utterance], groups: dict[str, list[int]]) -> Iterator[tuple[str, list[int]]]:
    """The groups of rows whose utterances are in more than one split."""
    for name, rows in groups.items():
        if len({utterances[row].split for row in rows} - {None}) > 1:
            yield name, rows


def few(names: Sequence[str], most: int = 3) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
