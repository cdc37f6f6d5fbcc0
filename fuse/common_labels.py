"""What classes are called across datasets."""

from __future__ import annotations

from collections.abc import Mapping

from cache_schema.errors import DataError, SettingsError
from cache_schema.registry import unknown_name
from cache_schema.samples import Target


def common_target(
    targets: Mapping[str, Target], labels: Mapping[str, str], partners_only: bool
) -> tuple[Target, dict[str, dict[str, str]]]:
    """The target that datasets share, and what each one's classes are called in it.

    Args:
        targets: dataset -> its target; the last is the one that is tested on, with `partners_only`.
        labels: DATASET/CLASS or CLASS -> common name.
        partners_only: keep the classes alone that both the trained and the tested have.

    Raises:
        SettingsError: a label names no class, or fewer than two classes are left.
        DataError: the targets are of different kinds.
    """
    first = next(iter(targets.values()))
    if any(t.kind != "classification" for t in targets.values()):
        if labels or any(
            (t.kind, t.classes, t.low, t.high) != (first.kind, first.classes, first.low, first.high)
            for t in targets.values()
        ):
            raise DataError(
                f"{', '.join(targets)}: {first.name} can be joined across datasets by class, or where it is the same "
                "target in all of them; here it is neither."
            )
        return first, {}
    known = [n for d, t in targets.items() for c in t.classes for n in (c, f"{d}/{c}")]
    for name in labels:
        if name not in known:
            raise SettingsError(unknown_name("class to map", name, list(dict.fromkeys(known))))
    maps = {d: {c: labels.get(f"{d}/{c}", labels.get(c, c)) for c in t.classes} for d, t in targets.items()}
    *trained, last = maps.values()
    if partners_only:
        reached = {name for each in trained for name in each.values()}
        names = [n for n in dict.fromkeys(last.values()) if n in reached]
    else:
        names = list(dict.fromkeys(name for each in maps.values() for name in each.values()))
    if len(names) < 2:
        raise SettingsError(f"{', '.join(targets)} share {names or 'no class'}: map their classes with --map.")
    kept = {d: {c: name for c, name in each.items() if name in names} for d, each in maps.items()}
    return Target(name=first.name, kind="classification", classes=tuple(names)), kept
