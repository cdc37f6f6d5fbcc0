"""`mer extract`: from a dataset's name to committed features, and what to say about it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

from cache_schema.errors import DataError, SettingsError
from cache_schema.parts import Samples
from cache_schema.registry import unknown_name
from cache_schema.samples import Utterance
from cache_schema.store import FeatureStore
from compute.device import resolve_device
from extract import cluster, pipeline, recognition
from extract.card import put_card
from extract.cluster import WorkerReport
from extract.dataset import Enumeration
from extract.datasets import DATASETS
from extract.decoding.quarantine import DEFAULT_LIMITS, DecodeLimits, probe
from extract.encoder import Crop
from extract.encoders import ENCODERS
from extract.physiology import subjects
from extract.pipeline import Job, Progress, Timing
from extract.sources import replaced
from extract.weights import checkpoints


@dataclass(frozen=True)
class FeatureReport:
    """What became of one feature.

    Attributes:
        name: the encoder's name.
        fingerprint: of the feature's spec.
        samples: utterances of the dataset in the store.
        written: utterances whose features this run committed.
        skipped: utterances that were committed before, by this or another run.
        failed: utterances with a recorded failure, in this run or an earlier one.
        absent: utterances that have nothing of this modality.
        encoded: utterances that the encoder really ran on.
        missing: utterances that are not extracted yet (with `--limit`).
        random_weights: the encoder's weights were drawn, not trained.
        reasons: each reason of failure or absence, with how many utterances have it.
    """

    name: str
    fingerprint: str
    samples: int
    written: int
    skipped: int
    failed: int
    absent: int
    encoded: int
    missing: int
    random_weights: bool
    reasons: dict[str, int]


@dataclass(frozen=True)
class Report:
    """What became of one `mer extract`.

    Attributes:
        dataset: name in the store.
        store: where the store lies.
        features: one per encoder.
        failed_utterances: utterances with at least one recorded failure.
        samples: utterances of the dataset in the store.
        notes: what the dataset's adapter has to say, as files that it left out.
        seconds: wall time.
        timing: where the main thread's time went; zeros where there were workers.
        workers: what each worker did; empty where this process did it all.
    """

    dataset: str
    store: str
    features: tuple[FeatureReport, ...]
    failed_utterances: int
    samples: int
    notes: tuple[str, ...]
    seconds: float
    timing: Timing
    workers: tuple[WorkerReport, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The object that `mer extract --json` prints."""
        return {
            "dataset": self.dataset,
            "store": self.store,
            "features": [asdict(f) for f in self.features],
            "samples": self.samples,
            "failed_utterances": self.failed_utterances,
            "notes": list(self.notes),
            "workers": [asdict(worker) for worker in self.workers],
            "seconds": round(self.seconds, 3),
        }


def extract(
    dataset: str,
    root: Path,
    store_path: str,
    *,
    encoders: Sequence[str] = (),
    weights: str | None = None,
    name: str | None = None,
    crop: str = "whole",
    settings: Sequence[str] = (),
    device: str = "auto",
    limit: int | None = None,
    retry_failed: bool = False,
    retry_replaced: bool = False,
    workers: int = 1,
    scheduler: str | None = None,
    recognise: str | None = None,
    limits: DecodeLimits = DEFAULT_LIMITS,
    progress: Progress = lambda done, total, failed: None,
    say: Callable[[str], None] = lambda line: None,
) -> Report:
    """Extract features of a dataset into the store; what is there already is not touched.

    Args:
        dataset: which adapter reads `root`, as `meld` or `folder`.
        root: the data root.
        store_path: the store, a folder or a URL as s3://bucket/prefix; made if absent.
        encoders: which encoders run; empty: those that run by default on the corpus's language.
        weights: None for the Hugging Face hub or its local cache, a folder, `random` or `random-small`.
        name: the dataset's name in the store; None: the adapter's own.
        crop: which part of a picture the vision encoders see.
        settings: `encoder.field=value` assignments.
        device: torch device of the encoders; `auto`: a GPU where there is one.
        limit: read only the first utterances of the corpus, rounded up to whole segments, and of their subjects what is
            to be normalised anew.
        retry_failed: extract again the utterances that have a recorded failure.
        retry_replaced: extract again the utterances whose file is not the one that was extracted; reads every file.
        workers: processes on this machine, spread over its GPUs; 1: this one alone.
        scheduler: address or file of a running dask scheduler, whose workers extract instead.
        recognise: let Whisper write the transcripts that are missing: in a language (en, ko, ...), `corpus` for the
            corpus's own, or `auto`; None: they stay missing, but for those that it wrote before.
        limits: what decoding one clip may take.
        progress: called with (rows done, rows to do, rows failed).
        say: called with each line that is worth showing before the work begins.

    Raises:
        DataError: the data root is not what the adapter reads, or holds none of its clips.
        SettingsError: an unknown encoder, field or value, or weights that are not at hand.
        StoreError: the store cannot be written, or holds something else under this name.
    """
    started = time.perf_counter()
    for encoder in encoders:
        ENCODERS.require(encoder)  # a corpus takes longer to read than a name
    if crop not in get_args(Crop):
        raise SettingsError(unknown_name("crop", crop, list(get_args(Crop))))
    corpus = _enumerate(dataset, root, name)
    for note in corpus.notes:
        say(note)
    names = list(dict.fromkeys(encoders)) or by_default(corpus)
    texts = [encoder for encoder in names if ENCODERS.load(encoder).MODALITY == "text"]
    if not encoders and not texts and "text" in _modalities(corpus):
        say(f"No text encoder runs by default on {corpus.corpus.language!r}: name one with --encoders.")
    spoken = _spoken(corpus.corpus.language)
    for encoder in names:
        languages = ENCODERS.load(encoder).DEFAULT_FOR
        if languages != "any" and languages and spoken not in languages:
            say(f"{encoder} is for {', '.join(languages)}, and the corpus's language is {spoken!r}.")
    utterances = corpus.utterances[:limit] if limit is not None else corpus.utterances
    if any(ENCODERS.load(encoder).MODALITY != "text" for encoder in names):
        _refuse_all_missing(corpus, utterances, root)
    _refuse_stray_settings(settings, names)
    given: dict[str, Any] = {"crop": crop, "language": spoken}
    given |= {"channels": corpus.channels} if corpus.channels else {}
    plans = [_plan(encoder, weights, given, settings) for encoder in names]
    if crop != "whole" and not any(needs.frames for *_, needs in plans):
        say(f"--crop {crop} changes nothing: {', '.join(names)} read no pictures.")
    if any(needs.streams != ("text",) for *_, needs in plans):
        _refuse_all_missing(corpus, utterances, root)

    if scheduler is None and device != "auto":
        resolve_device(device)  # before anything is written
    listening = None if recognise is None else recognition.whisper_checkpoint(weights)
    store = FeatureStore.open(store_path, mode="a", say=say)
    _refuse_mixing(store, corpus, root)
    bereft: set[str | None] = set()
    if store.has_samples(corpus.corpus.name):
        before = store.samples(corpus.corpus.name)
        bereft = subjects.bereft(before, utterances)
        utterances = recognition.kept(utterances, before)
    if listening is not None:
        language = {"corpus": spoken, "auto": None}.get(recognise or "", recognise)
        keep, at = partial(store.append_samples, corpus.corpus), resolve_device(device)
        utterances = recognition.recognise_missing(utterances, root, listening, language, at, keep, say)
    elif texts and (silent := sum(recognition.is_wanted(u) and u.recognised is None for u in utterances)):
        say(f"{silent} of {len(utterances)} utterances have no transcript: --recognise lets Whisper write them.")
    store.append_samples(corpus.corpus, utterances)
    dataset_name = corpus.corpus.name
    deleted = store.samples(dataset_name).deleted.intersection(u.id for u in utterances)
    if deleted:
        say(f"Deleted samples, which stay out: {len(deleted)}. `mer store restore-samples` brings them back.")
    jobs = [
        Job(encoder, module, config, checkpoint, spec, needs, store.writer(dataset_name, spec))
        for encoder, module, config, checkpoint, spec, needs in plans
    ]
    only = {u.id for u in utterances} if limit is not None else None
    again = set[str]()
    if retry_failed:
        again |= {id_ for job in jobs for id_ in _feature(store, dataset_name, job).failures()}
    if retry_replaced:
        again |= {id_ for found in replaced(store, root, dataset_name) for id_ in found.samples}
    again &= {u.id for u in utterances}
    again |= _of_other_recordings(store, dataset_name, jobs, root, only, again, bereft, say)
    if again:
        only = only and only | again
        store.append_again(dataset_name, sorted(again))
        mine = {job.spec.folder for job in jobs}
        others = [f.name for f in store.features(dataset_name) if f.spec.folder not in mine]
        if others:
            say(f"{len(again)} samples are to be extracted again; run this for {', '.join(others)} too.")
        jobs = [replace(job, writer=store.writer(dataset_name, job.spec)) for job in jobs]
    shares: tuple[WorkerReport, ...] = ()
    if workers == 1 and scheduler is None:
        timing = pipeline.run(jobs, root, device, only, progress, limits)
    else:
        shares = cluster.run(
            store, dataset_name, jobs, root, device, workers, scheduler, limits, only=only, progress=progress, say=say
        )
        timing = Timing()
    put_card(store, dataset_name)
    seconds = time.perf_counter() - started
    return _report(store, dataset_name, jobs, corpus.notes, seconds, timing, shares)


def _of_other_recordings(
    store: FeatureStore,
    dataset: str,
    jobs: Sequence[Job],
    root: Path,
    only: set[str] | None,
    again: set[str],
    bereft: set[str | None],
    say: Callable[[str], None],
) -> set[str]:
    """Samples, normalised by other recordings, of subjects that are bereft of some or of which more is extracted."""
    samples, found = store.samples(dataset), set[str]()
    for job in jobs:
        if job.needs.signals is None or job.needs.signals.normalize != "subject":
            continue
        if len(nobodys := subjects.without_subject(samples)) > 1:
            say(f"{job.name}: {len(nobodys)} recordings name no speaker: each is normalised by itself.")
        todo = [job.writer.utterances(segment) for _, segment in pipeline.unfinished([job], only)]
        touched = bereft | {u.speaker for rows in todo for u in rows} | {samples[id_].speaker for id_ in again}
        if other := subjects.outdated(samples, _feature(store, dataset, job).inputs(), touched, root):
            say(f"{job.name}: the recordings of subjects changed: {len(other)} samples of theirs are normalised anew.")
            found.update(other)
    return found - again


def by_default(corpus: Enumeration) -> list[str]:
    """The encoders that run where none is named: those for what the corpus has, and for its language, by name."""
    spoken, has = _spoken(corpus.corpus.language), _modalities(corpus)
    modules = {name: ENCODERS.load(name) for name in ENCODERS.names()}
    return [
        name
        for name, module in modules.items()
        if module.MODALITY in has and (module.DEFAULT_FOR == "any" or spoken in module.DEFAULT_FOR)
    ]


def _modalities(corpus: Enumeration) -> set[str]:
    """What the corpus may have anything of, by what it names; where there are clips, somebody may speak in them."""
    media = any(u.path is not None or u.sound is not None for u in corpus.utterances)
    found = {"text", "speech", "vision"} if media else set[str]()
    found |= {"text"} if any(u.text is not None for u in corpus.utterances) else set()
    return found | ({"physiology"} if corpus.channels else set())


def _spoken(language: str) -> str:
    """The language of a BCP 47 tag, without script and region."""
    return language.partition("-")[0].lower()


def _enumerate(dataset: str, root: Path, name: str | None) -> Enumeration:
    module = DATASETS.load(dataset)
    found: Enumeration = module.enumerate_corpus(root, probe)
    if name is not None:
        found = replace(found, corpus=found.corpus.model_copy(update={"name": name}))
    if not found.utterances:
        raise DataError(f"{dataset}: {root} lists no utterance; `mer datasets` says what it must hold.")
    return found


def _plan(encoder: str, weights: str | None, given: dict[str, Any], settings: Sequence[str]) -> tuple[Any, ...]:
    """(name, module, config, checkpoint, spec, needs) of an encoder; no weights are loaded.

    Args:
        encoder, weights, settings: as `extract` has them.
        given: what the run gives to encoders whose settings ask for it.
    """
    module = ENCODERS.load(encoder)
    asked = {name for name, field in module.Config.model_fields.items() if field.is_required()}
    if "channels" in asked and "channels" not in given:
        raise SettingsError(f"{encoder} reads physiological recordings, and the dataset has none.")
    config = module.Config.parse({name: value for name, value in given.items() if name in asked}, encoder)
    mine = [s.removeprefix(f"{encoder}.") for s in settings if s.startswith(f"{encoder}.")]
    config = config.with_assignments(mine, encoder)
    for channel in getattr(config, "channels", ()):
        if channel not in given["channels"]:
            raise SettingsError(
                f"{encoder}: " + unknown_name("channel of this dataset", channel, list(given["channels"]))
            )
    checkpoint = None
    if module.HUB is not None:
        checkpoint = checkpoints.resolve(encoder, module.HUB, weights)
    return encoder, module, config, checkpoint, module.describe(config, checkpoint), module.needs(config, checkpoint)


def _refuse_stray_settings(settings: Sequence[str], encoders: Sequence[str]) -> None:
    for setting in settings:
        if setting.partition(".")[0] not in encoders:
            raise SettingsError(
                f"--set {setting!r}: settings of an encoder are written encoder.field=value; "
                f"this run has {', '.join(encoders)}."
            )


def _refuse_all_missing(corpus: Enumeration, utterances: Sequence[Utterance], root: Path) -> None:
    paths = {path for u in utterances for path in (u.path, u.sound, u.signals) if path is not None}
    if paths and not any((root / p).exists() for p in paths):
        texts = [e for e in by_default(corpus) if ENCODERS.load(e).MODALITY == "text"]
        raise DataError(
            f"{corpus.corpus.name}: none of the {len(paths)} clips is under {root} (the first would be {min(paths)}). "
            f"Check --root, or extract the transcripts alone with --encoders {texts[0] if texts else 'NAME'}."
        )


def _refuse_mixing(store: FeatureStore, corpus: Enumeration, root: Path) -> None:
    name = corpus.corpus.name
    if not store.has_samples(name):
        return
    known = {u.id for u in corpus.utterances}
    strange = [id_ for id_ in store.samples(name).ids if id_ not in known]
    if strange:
        raise DataError(
            f"The store's dataset {name!r} holds {len(strange)} utterances that {root} does not list, "
            f"as {strange[0]!r}. For another corpus, give it a name of its own with --name."
        )


def _feature(store: FeatureStore, dataset: str, job: Job) -> Any:
    return store.feature(dataset, job.spec.feature, job.spec.fingerprint())


def _report(
    store: FeatureStore,
    dataset: str,
    jobs: Sequence[Job],
    notes: Sequence[str],
    seconds: float,
    timing: Timing,
    shares: tuple[WorkerReport, ...],
) -> Report:
    features = []
    failed: set[str] = set()
    samples = store.samples(dataset)
    for job in jobs:
        feature = _feature(store, dataset, job)
        status, failures, absences = feature.status(), feature.failures(), feature.absences()
        failed |= set(failures)
        features.append(
            FeatureReport(
                name=job.name,
                fingerprint=job.spec.fingerprint(),
                samples=status.samples,
                written=job.written,
                skipped=status.samples - status.missing - job.committed_rows,
                failed=status.failed,
                absent=status.absent,
                encoded=job.encoded,
                missing=status.missing,
                random_weights=job.spec.random_weights,
                reasons=_grouped({**failures, **absences}, samples),
            )
        )
    return Report(
        dataset, store.location, tuple(features), len(failed), len(samples), tuple(notes), seconds, timing, shares
    )


def _grouped(reasons: dict[str, str], samples: Samples) -> dict[str, int]:
    """How many utterances have each reason, most frequent first; the clip's own name is no part of a reason."""
    files = [samples.column(name) for name in ("path", "sound", "signals")] if reasons else []
    bare = []
    for id_, reason in reasons.items():
        for column in files:
            reason = reason.removeprefix(f"{column[samples.numbers[id_]]}: ")
        bare.append(reason)
    return dict(Counter(bare).most_common())
