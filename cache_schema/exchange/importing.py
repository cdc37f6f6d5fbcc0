"""`mer store import`: from foreign files to committed features.

Everything is read and checked before anything is written. What is written goes through the same parts, segments and
commits as extracted features, so that an import that was stopped goes on where it was, and one of the same files
under the same settings finds nothing to do.
"""

from __future__ import annotations

import platform
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from cache_schema.errors import DataError, SettingsError, first_line
from cache_schema.exchange.foreign import Description, Foreign
from cache_schema.exchange.formats import FORMATS
from cache_schema.exchange.merge import NewSamples, corpus_of, new_rows, with_folds, with_id_parts
from cache_schema.exchange.recipes import RECIPES
from cache_schema.exchange.survey import Kept, NonFinite, Survey, columns, stored_row, survey
from cache_schema.feature_spec import FeatureSpec
from cache_schema.plan import SegmentPlan
from cache_schema.rows import Absent
from cache_schema.store import FeatureStore
from cache_schema.writer import FeatureWriter

VERSION = 1
"""Raised whenever a change of the import changes the numbers that it stores."""

Progress = Callable[[int, int, int], None]


@dataclass(frozen=True)
class ImportedFeature:
    """What became of one feature.

    Attributes:
        name: in the store.
        fingerprint: of its specification.
        modality: which it describes.
        width: shape of one frame.
        dtype: type of its values.
        done: samples of the dataset that have arrays, by this or an earlier import.
        failed: samples whose values were masked, or failed in the files.
        absent: samples that the files do not have, or have nothing of.
        written: samples whose rows this import committed.
        frames: of this import's samples together.
        non_finite: "array[column]" -> number of values that were NaN or infinite.
    """

    name: str
    fingerprint: str
    modality: str
    width: tuple[int, ...]
    dtype: str
    done: int
    failed: int
    absent: int
    written: int
    frames: int
    non_finite: dict[str, int]


@dataclass(frozen=True)
class ImportReport:
    """What became of one import.

    Attributes:
        dataset: name in the store.
        store: where the store lies.
        samples: of the dataset.
        added: rows that this import added to it.
        splits: samples by split; None for those without one.
        features: one per imported feature.
        notes: what was left out, found twice, or masked.
        seconds: wall time.
    """

    dataset: str
    store: str
    samples: int
    added: int
    splits: dict[str, int]
    features: list[ImportedFeature]
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """The object that `mer store import --json` prints."""
        return asdict(self)


def import_features(
    format_name: str,
    sources: Sequence[Path],
    store_path: str,
    dataset: str,
    *,
    recipe: str | None = None,
    settings: Sequence[str] = (),
    dtype: Kept = "keep",
    non_finite: NonFinite = "refuse",
    folds: str | None = None,
    new_samples: NewSamples = "refuse",
    progress: Progress = lambda done, total, failed: None,
    say: Callable[[str], None] = lambda line: None,
) -> ImportReport:
    """Import features, samples and labels from foreign files.

    Args:
        format_name: one of `FORMATS`.
        sources: the files or folders.
        store_path: the store; made if absent.
        dataset: the dataset's name in the store.
        recipe: a TOML file of import settings, or the name of one of `RECIPES`.
        settings: `field=value` assignments, which go before the recipe.
        dtype: type of the stored values; keep: the files' own (float64 becomes float32).
        non_finite: what becomes of NaN and infinite values.
        folds: a file of splits, see `merge.with_folds`.
        new_samples: what becomes of samples that a dataset which is there already does not have.
        progress: called with (rows done, rows to do, rows failed).
        say: called with what was found about a new store.

    Raises:
        DataError: the files are not what they must be, or contradict the store.
        SettingsError: an unknown format, recipe, field or value.
        StoreError: the store cannot be written.
    """
    started = time.perf_counter()
    module = FORMATS.load(format_name)
    if not hasattr(module, "read"):
        raise SettingsError(f"{format_name} can be exported to, not imported. `mer store formats` lists both.")
    config = _config(format_name, module.ImportConfig, recipe, settings)
    for source in sources:
        if not source.exists():
            raise DataError(f"{source} does not exist.")
    stamps = [_stamp(source, store_path) for source in sources]
    with module.read(sources, config) as read:
        foreign: Foreign = read
        if not foreign.utterances or not foreign.features:
            raise DataError(f"{', '.join(map(str, sources))}: there are no samples or no features in it.")
        utterances = with_folds(with_id_parts(foreign.utterances, config.id_pattern), folds)
        corpus = corpus_of(dataset, foreign, config)
        ids = [u.id for u in utterances]
        steps = _Steps(progress, 2 * len(ids) * len(foreign.features))
        surveys = [survey(feature, ids, dtype, non_finite, steps.take) for feature in foreign.features]
        _require_unchanged(sources, stamps, store_path, "Import it again")
        notes = [*config.notes, *foreign.notes, *(note for found in surveys for note in _notes(found))]
        seconds = [u.duration for u in utterances]
        specs = [_spec(format_name, found, seconds, non_finite) for found in surveys]

        store = FeatureStore.open(store_path, mode="a", say=say)
        if store.has_samples(dataset):
            utterances, more = new_rows(store.samples(dataset), utterances, new_samples)
            corpus, notes = store.samples(dataset).corpus, notes + more
        added = store.append_samples(corpus, utterances)
        writers = [store.writer(dataset, spec) for spec in specs]
        written = _write(surveys, writers, non_finite, _provenance(format_name), steps)
        _require_unchanged(sources, stamps, store_path, "Remove its features with `mer store rm` and import it again")
    features = [_imported(store, dataset, s, spec, n) for s, spec, n in zip(surveys, specs, written, strict=True)]
    samples = store.samples(dataset)
    splits: dict[str, int] = {}
    for utterance in samples.utterances:
        splits[str(utterance.split)] = splits.get(str(utterance.split), 0) + 1
    elapsed = round(time.perf_counter() - started, 3)
    return ImportReport(dataset, store.location, len(samples), added, splits, features, notes, elapsed)


def _config(format_name: str, model: type[Description], recipe: str | None, settings: Sequence[str]) -> Description:
    values: dict[str, Any] = {}
    if recipe is not None and Path(recipe).suffix == ".toml":
        try:
            values = tomllib.loads(Path(recipe).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SettingsError(f"{recipe} cannot be read as TOML: {first_line(error)}.") from error
    elif recipe is not None:
        found = RECIPES.load(recipe)
        if format_name != found.FORMAT:
            raise SettingsError(f"The recipe {recipe!r} is one for {found.FORMAT}, not for {format_name}.")
        values = found.SETTINGS
    return model.parse(values, recipe or format_name).with_assignments(list(settings), format_name)


def _spec(format_name: str, found: Survey, seconds: Sequence[float | None], non_finite: NonFinite) -> FeatureSpec:
    """The specification of an imported feature: its files' digests are what its numbers come from."""
    feature = found.feature
    settings = dict(feature.settings)
    if found.masked:
        settings["non_finite"] = non_finite
    known = [s for s in seconds if s is not None and s > 0]
    mean = float(np.mean(known)) if known else SegmentPlan().unknown_seconds
    nominal = feature.rate_hz or max(1.0, found.frames / max(1, found.rows)) / mean
    return FeatureSpec.parse(
        {
            "feature": feature.name,
            "modality": feature.modality,
            "encoder": f"imported:{format_name}",
            "version": VERSION,
            "arrays": found.arrays,
            "rate_hz": feature.rate_hz,
            "nominal_rate_hz": float(f"{nominal:.3g}"),
            "settings": settings,
            "full_settings": settings,
            "random_weights": feature.random_weights,
            "assets": dict(feature.files),
        },
        feature.name,
    )


def _write(
    surveys: Sequence[Survey],
    writers: Sequence[FeatureWriter],
    non_finite: NonFinite,
    provenance: dict[str, Any],
    steps: _Steps,
) -> list[int]:
    """Commit what is not committed yet; rows that were written, by feature."""
    todo = [writer.todo() for writer in writers]
    steps.expect(sum(len(segment) for segments in todo for segment in segments))
    written = [0] * len(writers)
    for index, (found, writer) in enumerate(zip(surveys, writers, strict=True)):
        facts = {**provenance, "imported": {**provenance["imported"], **found.feature.origin}}
        for segment in todo[index]:
            rows = [
                stored_row(found.feature, u.id, found.arrays, non_finite)
                if current
                else Absent("a later part of the samples replaces this row")
                for u, current in zip(writer.utterances(segment), writer.current(segment), strict=True)
            ]
            if writer.commit(segment, rows, [None] * len(rows), facts):
                written[index] += len(rows)
            steps.take(len(rows))
    return written


class _Steps:
    """Rows that were looked at and rows that were written, for a bar."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._done, self._total = progress, 0, total

    def take(self, rows: int) -> None:
        """So many more are done."""
        self._done += rows
        self._progress(self._done, self._total, 0)

    def expect(self, rows: int) -> None:
        """So many are left."""
        self._total = self._done + rows
        self.take(0)


def _stamp(path: Path, store_path: str) -> tuple[int, int, int]:
    """(files, bytes, last change in ns) of a file or a folder, a store in it left out: what another would change."""
    store = Path(store_path).absolute()
    files = [path] if path.is_file() else (p for p in path.absolute().rglob("*") if not p.is_relative_to(store))
    found = [p.stat() for p in files if p.is_file()]
    return len(found), sum(s.st_size for s in found), max((s.st_mtime_ns for s in found), default=0)


def _require_unchanged(
    sources: Sequence[Path], stamps: Sequence[tuple[int, int, int]], store_path: str, advice: str
) -> None:
    """The digests that were taken must be those of the numbers that were read."""
    for source, stamp in zip(sources, stamps, strict=True):
        if _stamp(source, store_path) != stamp:
            raise DataError(
                f"{source} was changed while it was imported: what was read is not what its digest says. {advice} "
                "when nobody writes to it."
            )


def _provenance(format_name: str) -> dict[str, Any]:
    return {
        "host": platform.node(),
        "device": "none",
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "imported": {"format": format_name},
    }


def _notes(found: Survey) -> list[str]:
    notes, name = [], found.feature.name
    if found.masked:
        notes.append(
            f"{name}: {len(found.masked)} samples have non-finite values, which were masked; "
            f"by column: {columns(found.non_finite)}."
        )
    if found.identical:
        shown = "; ".join(", ".join(group[:3]) for group in found.identical[:3])
        count = sum(map(len, found.identical))
        notes.append(f"{name}: {count} samples share their values with another one, to the bit: {shown}.")
    return notes


def _imported(store: FeatureStore, dataset: str, found: Survey, spec: FeatureSpec, written: int) -> ImportedFeature:
    status = store.feature(dataset, spec.feature, spec.fingerprint()).status()
    return ImportedFeature(
        name=spec.feature,
        fingerprint=spec.fingerprint(),
        modality=spec.modality,
        width=spec.values.tail,
        dtype=spec.values.dtype,
        done=status.done,
        failed=status.failed,
        absent=status.absent,
        written=written,
        frames=found.frames,
        non_finite=dict(found.non_finite),
    )
