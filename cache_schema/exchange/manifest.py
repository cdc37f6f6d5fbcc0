"""What mer's own exports say of themselves: a JSON document with the corpus and the features' specifications.

It is what makes HDF5, npy and Arrow exports come back as they were. An imported feature is nevertheless one of its
files: the specification that it had is provenance, and only what it says about clocks and random weights is taken.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cache_schema.errors import DataError, MerError
from cache_schema.exchange.exporting import Selection
from cache_schema.exchange.foreign import ForeignArray
from cache_schema.feature_spec import FeatureSpec
from cache_schema.rows import Absent, Failed
from cache_schema.samples import Corpus, Utterance

EXPORT_VERSION = 1


@dataclass(frozen=True)
class Exported:
    """A feature as the manifest has it.

    Attributes:
        spec: as it was in the store that it was exported from.
        fingerprint: as it was there.
    """

    spec: FeatureSpec
    fingerprint: str

    @property
    def arrays(self) -> dict[str, ForeignArray]:
        """Types and shapes of the arrays."""
        return {a.name: ForeignArray(np.dtype(a.dtype), a.tail) for a in self.spec.arrays}

    @property
    def origin(self) -> dict[str, Any]:
        """What is worth keeping as provenance."""
        names = ("encoder", "version", "settings", "checkpoint", "revision", "weights_sha256")
        facts = self.spec.model_dump(mode="json")
        return {"fingerprint": self.fingerprint, **{name: facts[name] for name in names}}


@dataclass(frozen=True)
class Manifest:
    """What an export says of itself.

    Attributes:
        corpus: the dataset.
        features: by name in the export.
    """

    corpus: Corpus
    features: dict[str, Exported]


def manifest_json(selection: Selection) -> str:
    """The document of an export."""
    document = {
        "mer_export": EXPORT_VERSION,
        "corpus": selection.corpus.model_dump(mode="json"),
        "features": {
            name: {"spec": f.spec.model_dump(mode="json"), "fingerprint": f.fingerprint}
            for name, f in selection.features.items()
        },
    }
    return json.dumps(document, ensure_ascii=False, allow_nan=False, sort_keys=True)


def parse_manifest(text: str | bytes, where: str) -> Manifest:
    """The manifest in a document.

    Raises:
        DataError: it is none, or one of a newer version.
    """
    try:
        document = json.loads(text)
        version = document["mer_export"]
        if version != EXPORT_VERSION:
            raise DataError(f"{where}: an export of version {version!r}, and this mer reads {EXPORT_VERSION}.")
        features = {
            name: Exported(FeatureSpec.parse(one["spec"], where), str(one["fingerprint"]))
            for name, one in document["features"].items()
        }
        return Manifest(Corpus.parse(document["corpus"], where), features)
    except DataError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, MerError) as error:
        raise DataError(f"{where} does not describe an export of mer ({type(error).__name__}: {error}).") from error


def utterance_json(utterance: Utterance) -> str:
    """A sample as one line of JSON; what is absent is left out."""
    return json.dumps(utterance.model_dump(mode="json", exclude_none=True), ensure_ascii=False, allow_nan=False)


def parse_utterance(text: str | bytes, where: str) -> Utterance:
    """A sample from a line of JSON.

    Raises:
        DataError: it is none.
    """
    try:
        return Utterance.parse(dict(json.loads(text)), where)
    except (ValueError, TypeError, RecursionError, MerError) as error:
        raise DataError(f"{where}: no sample of this format ({error}).") from error


def state_of(row: Mapping[str, Any] | Failed | Absent) -> tuple[str, str]:
    """("done", "failed" or "absent", the reason) of a row."""
    if isinstance(row, Failed | Absent):
        return ("failed" if isinstance(row, Failed) else "absent"), row.reason
    return "done", ""


def missing_row(state: str, reason: str, where: str) -> Failed | Absent:
    """The row that `state` and `reason` describe.

    Raises:
        DataError: there is no such state.
    """
    if state not in ("failed", "absent"):
        raise DataError(f"{where}: {state!r} is no state of a sample; known: done, failed, absent.")
    return Failed(reason) if state == "failed" else Absent(reason)
