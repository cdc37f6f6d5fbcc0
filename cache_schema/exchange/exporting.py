"""`mer store export`: from a dataset's features to a foreign file or folder, which appears whole or not at all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cache_schema.errors import MissingFeature, SettingsError
from cache_schema.exchange.aside import written_aside
from cache_schema.exchange.formats import FORMATS
from cache_schema.feature import Feature
from cache_schema.rows import Absent, Failed, Row
from cache_schema.samples import Corpus, Utterance
from cache_schema.store import FeatureStore

BATCH = 64
"""Samples that are read at a time."""

Progress = Callable[[int, int, int], None]


@dataclass(frozen=True)
class Selection:
    """What is exported.

    Attributes:
        corpus: the dataset.
        utterances: the samples, in order.
        features: by the name that they get in the export.
        missing: for each feature the samples that have no arrays, with the reason.
        step: called after each sample of each feature that was read.
    """

    corpus: Corpus
    utterances: list[Utterance]
    features: dict[str, Feature]
    missing: dict[str, dict[str, Failed | Absent]]
    step: Callable[[], None] = field(default=lambda: None)

    def rows(self, name: str, utterances: Sequence[Utterance] | None = None) -> Iterator[tuple[Utterance, Row]]:
        """A feature's row of each sample, in order; a few are in memory at a time.

        Args:
            name: the feature's name in the export.
            utterances: which samples; None: all of the selection.
        """
        feature, missing = self.features[name], self.missing[name]
        arrays = [array.name for array in feature.spec.arrays]
        wanted = self.utterances if utterances is None else utterances
        for start in range(0, len(wanted), BATCH):
            batch = wanted[start : start + BATCH]
            there = [u.id for u in batch if u.id not in missing]
            loaded = feature.load(there, arrays)
            places = {id_: index for index, id_ in enumerate(there)}
            for utterance in batch:
                if utterance.id in places:
                    index = places[utterance.id]
                    yield utterance, {array: loaded.row(index, array) for array in arrays}
                else:
                    yield utterance, missing[utterance.id]
                self.step()

    def frames(self, name: str) -> dict[str, int]:
        """Frames of each sample of a feature, from the commits alone; 0 where it has no arrays."""
        feature = self.features[name]
        lengths: dict[str, int] = {}
        by_part: dict[str, dict[int, int]] = {}
        for commit in feature.commits.values():
            rows = by_part.setdefault(commit.part, {})
            rows.update({commit.start + i: length for i, length in enumerate(commit.lengths)})
        for utterance in self.utterances:
            part, row = feature.samples.place(utterance.id)
            lengths[utterance.id] = by_part.get(feature.samples.parts[part].name, {}).get(row, 0)
        return lengths


@dataclass(frozen=True)
class ExportReport:
    """What was exported.

    Attributes:
        dataset: its name.
        to: the new file or folder.
        samples: how many it holds.
        features: their names in it.
        left_out: samples that lack a feature and were left out.
        bytes: size of it all.
        notes: what is worth knowing.
        seconds: wall time.
    """

    dataset: str
    to: str
    samples: int
    features: list[str]
    left_out: int
    bytes: int
    notes: list[str]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """The object that `mer store export --json` prints."""
        return asdict(self)


def export_features(
    format_name: str,
    store_path: str,
    dataset: str,
    features: Sequence[str],
    to: Path,
    *,
    settings: Sequence[str] = (),
    drop_missing: bool = False,
    progress: Progress = lambda done, total, failed: None,
) -> ExportReport:
    """Export features of a dataset, with its samples and labels.

    Args:
        format_name: one of `FORMATS`.
        store_path: the store.
        dataset: the dataset's name in it.
        features: which, as "roberta" or "roberta@1a2b"; empty: all.
        to: the new file or folder.
        settings: `field=value` assignments for the format.
        drop_missing: leave out samples that lack one of the features.
        progress: called with (rows done, rows to do, rows failed).

    Raises:
        MissingFeature: no such feature, or samples are not extracted yet.
        SettingsError: an unknown format, field or value, or the target exists.
        DataError: the target cannot be written, or the format cannot hold the features.
        StoreError: the store cannot be read.
    """
    started = time.perf_counter()
    module = FORMATS.load(format_name)
    if not hasattr(module, "write"):
        raise SettingsError(f"{format_name} can be imported, not exported to. `mer store formats` lists both.")
    config = module.ExportConfig().with_assignments(list(settings), format_name)
    store = FeatureStore.open(store_path, mode="r")
    chosen = _chosen(store, dataset, features)
    utterances = store.samples(dataset).utterances
    missing = {name: _missing(feature, drop_missing) for name, feature in chosen.items()}
    lacking = {id_ for reasons in missing.values() for id_ in reasons}
    left_out = 0
    if drop_missing:
        left_out = sum(u.id in lacking for u in utterances)
        utterances = [u for u in utterances if u.id not in lacking]
    if not utterances:
        raise MissingFeature(f"{dataset}: no sample has all of {', '.join(chosen)}: there is nothing to export.")
    total, done = len(utterances) * len(chosen), 0

    def step() -> None:
        nonlocal done
        done += 1
        progress(done, total, 0)

    selection = Selection(store.samples(dataset).corpus, utterances, chosen, missing, step)
    with written_aside(to) as temporary:
        notes = list(module.write(selection, temporary, config))
    if left_out:
        notes.append(f"{left_out} samples that lack a feature were left out.")
    size = sum(p.stat().st_size for p in to.rglob("*") if p.is_file()) if to.is_dir() else to.stat().st_size
    elapsed = round(time.perf_counter() - started, 3)
    return ExportReport(dataset, str(to), len(utterances), list(chosen), left_out, size, notes, elapsed)


def _chosen(store: FeatureStore, dataset: str, names: Sequence[str]) -> dict[str, Feature]:
    if names:
        found = [store.feature(dataset, *_name_and_fingerprint(name)) for name in dict.fromkeys(names)]
    else:
        found = store.features(dataset)
    if not found:
        raise MissingFeature(f"{dataset} has no features to export.")
    counts = [feature.name for feature in found]
    return {f.name if counts.count(f.name) == 1 else f"{f.name}-{f.fingerprint[:8]}": f for f in found}


def _name_and_fingerprint(text: str) -> tuple[str, str | None]:
    name, _, fingerprint = text.partition("@")
    return name, fingerprint or None


def _missing(feature: Feature, drop_missing: bool) -> dict[str, Failed | Absent]:
    """The samples that have no arrays, with the reason; one that was not extracted yet is refused."""
    found: dict[str, Failed | Absent] = {id_: Failed(reason) for id_, reason in feature.failures().items()}
    found |= {id_: Absent(reason) for id_, reason in feature.absences().items()}
    status = feature.status()
    if status.missing and not drop_missing:
        raise MissingFeature(
            f"{feature.dataset}/{feature.name}: {status.missing} samples were not extracted yet. Finish the "
            "extraction, or leave them out with --drop-missing."
        )
    if status.missing:
        ragged = feature.load(feature.samples.ids, (), missing="mask")
        for id_, there in zip(feature.samples.ids, ragged.present.tolist(), strict=True):
            if not there and id_ not in found:
                found[id_] = Absent("was not extracted yet")
    return found
