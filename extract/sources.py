"""Whether the files that features were read from are still the same: their digests, compared with those recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cache_schema.store import FeatureStore
from extract.dataset import some
from extract.decoding.streams import StreamError
from extract.physiology.digests import digest_of
from extract.physiology.subjects import input_of, recordings_by_subject


@dataclass(frozen=True)
class Replaced:
    """A file whose content is not the one that a feature was read from.

    Attributes:
        dataset: its name in the store.
        path: the file, relative to the data root; of what is normalised by several recordings of a subject, all these.
        samples: the ids whose features are of the other content, in the corpus's order.
        features: the names of these features.
    """

    dataset: str
    path: str
    samples: tuple[str, ...]
    features: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Its attributes."""
        return asdict(self)

    def __str__(self) -> str:
        more = f" and {len(self.samples) - 1} more samples" if len(self.samples) > 1 else ""
        names = ", ".join(self.features)
        return f"replaced: {self.dataset}: {self.path}: {names} of {self.samples[0]}{more} were read from another file"


def replaced(
    store: FeatureStore,
    root: Path,
    dataset: str | None = None,
    progress: Callable[[str], None] = lambda path: None,
) -> Iterator[Replaced]:
    """Files below the root that are not those that the store's features were read from; every one is read once.

    A file that is not there, and one of which nothing was read, says nothing.

    Args:
        store: where the features are.
        root: the data root that the utterances' paths start from.
        dataset: only this one.
        progress: called with each path before it is read.
    """
    for name in store.datasets() if dataset is None else [dataset]:
        samples = store.samples(name)
        columns = [samples.column(column) for column in ("path", "sound", "signals")]
        speakers, by_subject = samples.column("speaker"), recordings_by_subject(samples)
        recorded = [
            (f.spec.feature, f.inputs(), f.spec.full_settings.get("normalize") == "subject")
            for f in store.features(name)
        ]
        digests: dict[str, str | None] = {}
        wrong: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
        for number, id_ in enumerate(samples.ids):
            own = [path for column in columns if (path := column[number]) is not None]
            recordings = by_subject.get(speakers[number] or "", ())
            for feature, inputs, of_subject in recorded:
                if id_ not in inputs:
                    continue
                several = of_subject and len(recordings) > 1
                files = list(recordings) if several else own
                for path in files:
                    if path not in digests:
                        progress(path)
                        digests[path] = _digest(root / path)
                there = [digest for path in files if (digest := digests[path]) is not None]
                expected = [input_of(there)] if several else there
                if len(there) == len(files) and inputs[id_] not in expected:
                    ids, features = wrong.setdefault(some(files) if several else " or ".join(files), ({}, {}))
                    ids[id_] = features[feature] = None
        for path, (ids, features) in wrong.items():
            yield Replaced(name, path, tuple(ids), tuple(features))


def _digest(path: Path) -> str | None:
    """sha256 of a file, or of a recording's folder; None where it is not there."""
    try:
        return digest_of(path)
    except (OSError, ValueError, StreamError):
        return None
