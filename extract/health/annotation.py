"""What the annotations tell alone: class balance, and who or what is on both sides of a split."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

from cache_schema.samples import SPLITS, Split, Target, Utterance
from extract.health.finding import Examined, Finding, Level, across, few

LONG_TEXT = 8
"""Words from which on the same text twice is no everyday phrase."""
RARE = 0.01
"""Share of a split below which a class is rare."""
SLOWEST, FASTEST = 0.2, 7.0
"""Words per second of speech; beyond, a transcript does not belong to its clip, or the times are wrong."""


def check(examined: Examined) -> Iterator[Finding]:
    """Everything here."""
    for target in examined.store.samples(examined.dataset).corpus.targets:
        yield from _balance(examined.utterances, target)
    yield from _crossing(examined.utterances)
    yield from _texts(examined.utterances)
    yield from _rates(examined.utterances)


def _balance(utterances: Sequence[Utterance], target: Target) -> Iterator[Finding]:
    """How often each class occurs in each split, which are rare or absent, and who has no label."""
    without = tuple(u.id for u in utterances if not _is_labelled(u, target))
    if without:
        yield Finding("classes", "note", f"{target.name}: {len(without)} of {len(utterances)} have no label", without)
    splits: list[Split | None] = [split for split in SPLITS if any(u.split == split for u in utterances)]
    for split in splits or [None]:
        where = f"{target.name}, {split}" if split else target.name
        mine = [u for u in utterances if (split is None or u.split == split) and _is_labelled(u, target)]
        if target.kind == "regression":
            values = sorted(u.scores[target.name] for u in mine)
            if values:
                middle = values[len(values) // 2]
                says = f"{where}: {len(values)} from {values[0]:g} to {values[-1]:g}, median {middle:g}"
                yield Finding("classes", "note", says)
            continue
        count = Counter(name for u in mine for name in _classes(u, target))
        numbers = {name: count[name] for name in target.classes}
        shares = ", ".join(f"{name} {count[name]} ({count[name] / max(1, len(mine)):.1%})" for name in target.classes)
        yield Finding("classes", "note", f"{where}: {shares}", numbers=numbers)
        rare = [name for name in target.classes if count[name] < RARE * len(mine) or not count[name]]
        if rare:
            yield Finding("classes", "warning", f"{where}: below {RARE:.0%}: {', '.join(rare)}")


def _is_labelled(utterance: Utterance, target: Target) -> bool:
    if target.kind == "classification":
        return target.name in utterance.labels
    if target.kind == "regression":
        return target.name in utterance.scores
    return all(f"{target.name}/{name}" in utterance.scores for name in target.classes)


def _classes(utterance: Utterance, target: Target) -> list[str]:
    if target.kind == "classification":
        return [utterance.labels[target.name]]
    return [name for name in target.classes if utterance.scores[f"{target.name}/{name}"] > 0]


def _crossing(utterances: Sequence[Utterance]) -> Iterator[Finding]:
    """Speakers, dialogues and recordings that are in more than one split."""
    groupings: dict[str, Callable[[Utterance], str | None]] = {
        "speakers": lambda u: u.speaker,
        "dialogues": lambda u: u.dialogue,
        "recordings": lambda u: (u.path if u.start is not None else None) or u.signals,
    }
    for check, key in groupings.items():
        groups: dict[str, list[int]] = defaultdict(list)
        for row, utterance in enumerate(utterances):
            name = key(utterance)
            if name is not None:
                groups[name].append(row)
        torn = dict(across(utterances, groups))
        if torn:
            rows = sorted(row for members in torn.values() for row in members)
            says = f"{len(torn)} of {len(groups)} {check} are in more than one split: {few(list(torn))}"
            yield Finding(check, "leak", says, tuple(utterances[row].id for row in rows), {"names": sorted(torn)})


def _texts(utterances: Sequence[Utterance]) -> Iterator[Finding]:
    """The same long transcript twice: scripted corpora have it; across splits a model may know its label by heart."""
    groups: dict[str, list[int]] = defaultdict(list)
    for row, utterance in enumerate(utterances):
        plain = re.sub(r"[^\w\s]", "", (utterance.text or "").lower()).split()
        if len(plain) >= LONG_TEXT:
            groups[" ".join(plain)].append(row)
    twice = {text: rows for text, rows in groups.items() if len(rows) > 1}
    torn = dict(across(utterances, twice))
    levels: tuple[tuple[Level, dict[str, list[int]], str], ...] = (
        ("warning", torn, "in more than one split"),
        ("note", {text: rows for text, rows in twice.items() if text not in torn}, "more than once in one split"),
    )
    for level, texts, where in levels:
        if texts:
            ids = tuple(utterances[row].id for rows in texts.values() for row in rows)
            says = f"{len(texts)} transcripts of {LONG_TEXT} words or more occur {where}: {few(list(texts), 1)!r}"
            yield Finding("texts", level, says, ids)


def _rates(utterances: Sequence[Utterance]) -> Iterator[Finding]:
    """Transcripts that nobody could speak in their utterance's time, or that leave most of it silent."""
    odd = []
    for utterance in utterances:
        words = len((utterance.text or "").split())
        if words and utterance.duration and not SLOWEST <= words / utterance.duration <= FASTEST:
            odd.append((words / utterance.duration, utterance.id))
    if odd:
        worst = max(odd, key=lambda pair: max(pair[0] / FASTEST, SLOWEST / pair[0]))
        says = f"{len(odd)} are spoken at less than {SLOWEST:g} or more than {FASTEST:g} words per second"
        says += f": {worst[1]} at {worst[0]:.2g}"
        yield Finding("rates of speech", "warning", says, tuple(id_ for _, id_ in odd))
