"""What became of the clips: the same file twice, odd durations, failures, and, where they are opened, silence."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cache_schema.rows import Absent
from cache_schema.samples import Utterance
from extract.decoding.quarantine import decode
from extract.encoder import Clip, Needs
from extract.health.finding import Examined, Finding, across, few

SHORTEST, LONGEST = 0.3, 60.0
"""Seconds; MELD's utterances are within."""
TOLERANCE = 1.0
"""Seconds by which features may be shorter or longer than the annotation says."""
SILENT_DB = -60.0
"""Full scale; of the loudest tenth of a clip's 50 ms frames."""
SOUND_HZ = 16000
AHEAD = 8
"""Clips decoded at once."""


def check(examined: Examined) -> Iterator[Finding]:
    """Everything that the store tells."""
    yield from _duplicates(examined)
    yield from _durations(examined)
    yield from _failures(examined)


def _duplicates(examined: Examined) -> Iterator[Finding]:
    """Utterances that were read from the same bytes, and from the same stretch of them."""
    groups: dict[str, list[int]] = defaultdict(list)
    for row, digest in _digests(examined).items():
        utterance = examined.utterances[row]
        groups[f"{digest} {utterance.start} {utterance.end} {utterance.region}"].append(row)
    twice = {name: rows for name, rows in groups.items() if len(rows) > 1}
    yield from duplicates(examined, "duplicates", list(twice.values()), "are the same file")


def duplicates(examined: Examined, check: str, groups: list[list[int]], what: str) -> Iterator[Finding]:
    """Groups of rows that are the same: a leak where one spans splits, a warning where labels disagree or none does."""
    numbered = {str(number): rows for number, rows in enumerate(groups)}
    torn = dict(across(examined.utterances, numbered))
    for level, mine in (("leak", torn), ("warning", {n: rows for n, rows in numbered.items() if n not in torn})):
        if not mine:
            continue
        ids = tuple(examined.utterances[row].id for rows in mine.values() for row in rows)
        pairs = [" = ".join(examined.utterances[row].id for row in rows[:3]) for rows in mine.values()]
        unequal = sum(len({str(examined.utterances[row].labels) for row in rows}) > 1 for rows in mine.values())
        where = " across splits" if level == "leak" else ""
        labels = f", {unequal} of them with different labels" if unequal else ""
        says = f"{len(mine)} groups of utterances {what}{where}{labels}: {few(pairs, 2)}"
        yield Finding(check, "leak" if level == "leak" else "warning", says, ids, {"groups": list(mine.values())})


def _digests(examined: Examined) -> dict[int, str]:
    """Row in corpus order -> digest of the file that any feature was read from; transcripts have none."""
    found: dict[int, str] = {}
    samples = examined.store.samples(examined.dataset)
    starts = {part.name: int(samples.starts[number]) for number, part in enumerate(samples.parts)}
    for feature in examined.store.features(examined.dataset):
        for commit in feature.commits.values():
            first = starts[commit.segment.part] + commit.segment.start
            for offset, digest in enumerate(commit.inputs):
                place = int(samples.order[first + offset])
                if digest is not None and place >= 0:
                    found.setdefault(place, digest)
    return found


def _durations(examined: Examined) -> Iterator[Finding]:
    """Very short and very long utterances, and features of another length than the annotation's."""
    known = [(u.duration, u.id) for u in examined.utterances if u.duration is not None]
    if known:
        seconds = np.array([pair[0] for pair in known])
        low, middle, high = np.percentile(seconds, [5, 50, 95])
        says = (
            f"{len(known)} of {len(examined.utterances)} known: {seconds.sum() / 3600:.2f} h, median {middle:.2f} s, "
            f"5% to 95% {low:.2f} to {high:.2f} s, longest {seconds.max():.2f} s"
        )
        yield Finding("durations", "note", says, numbers={"hours": float(seconds.sum() / 3600)})
    odd = tuple(id_ for length, id_ in known if not SHORTEST <= length <= LONGEST)
    if odd:
        says = f"{len(odd)} last less than {SHORTEST:g} s or more than {LONGEST:g} s: {few(odd)}"
        yield Finding("durations", "warning", says, odd)
    promised = {id_: length for length, id_ in known}
    for feature in examined.store.features(examined.dataset):
        if feature.spec.rate_hz is None:
            continue
        ids = [u.id for u in examined.utterances if u.id in promised]
        lengths = feature.lengths(ids, missing="mask") / feature.spec.rate_hz
        off = tuple(
            id_ for id_, length in zip(ids, lengths, strict=True) if length and abs(length - promised[id_]) > TOLERANCE
        )
        if off:
            says = f"{feature.name}: {len(off)} are more than {TOLERANCE:g} s off their annotated duration: {few(off)}"
            yield Finding("durations", "warning", says, off)


def _failures(examined: Examined) -> Iterator[Finding]:
    """What each feature lacks, by reason."""
    for feature in examined.store.features(examined.dataset):
        status = feature.status()
        if status.missing:
            says = f"{feature.name}: {status.missing} of {status.samples} are not extracted yet"
            yield Finding("failures", "warning", says)
        failures = feature.failures()
        if failures:
            first = next(iter(failures.items()))
            says = f"{feature.name}: {len(failures)} failed, the first is {first[0]}: {first[1]}"
            yield Finding("failures", "warning", says, tuple(failures))
        faceless = {id_: why for id_, why in feature.absences().items() if "face" in why}
        others = tuple(id_ for id_ in feature.absences() if id_ not in faceless)
        if faceless:
            says = f"{feature.name}: {len(faceless)} of {status.samples} have no face: {few(list(faceless))}"
            yield Finding("faces", "warning", says, tuple(faceless))
        if others:
            says = f"{feature.name}: {len(others)} have nothing of this modality: {few(others)}"
            yield Finding("failures", "note", says, others)


def sound(examined: Examined, root: Path, progress: Callable[[int, int, int], None]) -> Iterator[Finding]:
    """Open every clip: which cannot be read, which have no sound, and which are silent."""
    silent, mute, unreadable = [], [], []
    for utterance, clip in opened(examined, root, Needs(audio_hz=SOUND_HZ), progress):
        if isinstance(clip.unreadable.get("audio"), Absent):
            mute.append(utterance.id)
        elif clip.unreadable:
            unreadable.append(utterance.id)
        elif loudness(clip) < SILENT_DB:
            silent.append(utterance.id)
    if silent:
        says = f"{len(silent)} are silent, below {SILENT_DB:g} dB of full scale: {few(silent)}"
        yield Finding("silence", "warning", says, tuple(silent))
    if mute:
        yield Finding("silence", "note", f"{len(mute)} have no sound: {few(mute)}", tuple(mute))
    if unreadable:
        says = f"{len(unreadable)} have no sound that can be read: {few(unreadable)}"
        yield Finding("silence", "warning", says, tuple(unreadable))


def opened(
    examined: Examined, root: Path, needs: Needs, progress: Callable[[int, int, int], None]
) -> Iterator[tuple[Utterance, Clip]]:
    """Every utterance that has a clip, decoded, a few ahead."""
    wanted = [u for u in examined.utterances if u.path is not None or u.sound is not None]
    with ThreadPoolExecutor(AHEAD) as pool:
        for start in range(0, len(wanted), AHEAD):
            some = wanted[start : start + AHEAD]
            yield from zip(some, pool.map(lambda u: decode(root, u, [needs]), some), strict=True)
            progress(min(start + AHEAD, len(wanted)), len(wanted), 0)


def loudness(clip: Clip) -> float:
    """Level of the loudest tenth of 50 ms frames, in dB of full scale; a clip of one loud word is not silent."""
    samples = clip.audio[SOUND_HZ].astype(np.float64)
    frame = SOUND_HZ // 20
    padded = np.pad(samples, (0, -len(samples) % frame)).reshape(-1, frame)
    power = np.sort((padded**2).mean(axis=1))[-max(1, len(padded) // 10) :].mean() if len(padded) else 0.0
    return float(10 * np.log10(power + 1e-20))
