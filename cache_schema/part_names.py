"""What the names of a dataset's parts tell: their order, and whether one is lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cache_schema.parts import Part

LAST_NUMBER = 99_999
"""Of a part: its name has five digits."""


def last_names(names: Sequence[str], before: int = LAST_NUMBER + 1) -> tuple[str, ...]:
    """Those of a dataset's part names that have the highest number below `before`."""
    numbers = [number for number in map(part_number, names) if number < before]
    return tuple(name for name in names if numbers and part_number(name) == max(numbers))


def lost_names(parts: Sequence[Part], damaged: Sequence[str] = ()) -> dict[str, str]:
    """The parts that were there and are not, by name: the part that was written after each."""
    there = {part.name for part in parts} | {part.instead_of for part in parts} | set(damaged)
    return {name: part.name for part in parts for name in part.after if name not in there}


def unfollowed_names(parts: Sequence[Part]) -> list[str]:
    """The parts after which another was to be written that is not there: nobody would notice if they were lost."""
    named = {name for part in parts for name in part.after}
    return [part.name for part in parts if part.followed and part.name not in named]


def part_number(name: str) -> int:
    """The place of the part called `name` among its dataset's."""
    return int(name.split("-")[1])
