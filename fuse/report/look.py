"""A run's models once more on some of its test utterances, for what they compute on the way.

Axes: N utterances, T frames or tokens of a modality, P patches of a frame, d width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cache_schema.errors import DamagedError, StoreError
from cache_schema.feature_spec import MASK
from cache_schema.samples import Utterance
from fuse import run_files
from fuse.data import Dataset
from fuse.evaluate import recorded_data
from fuse.metrics import Array
from fuse.model import Model
from fuse.report.evidence import Evidence
from fuse.training.loop import reproducible

if TYPE_CHECKING:
    from cache_schema.feature import Feature
    from cache_schema.store import FeatureStore

MOST_POOLED = 300
"""Utterances whose vectors are projected; more are drawn at random."""
ATTENTION = "attention"
"""The array in which a vision feature keeps its class token's attention to the patches."""


@dataclass(frozen=True)
class Seen:
    """One test utterance as a model read it.

    Attributes:
        utterance: which, as the store has it.
        id: as the run calls it.
        classes: of the target; empty for regression.
        modalities: which the model takes, in its order.
        tokens: the text's tokens that it read, in words.
        times: modality -> seconds from the utterance's beginning at the middle of each frame (T), where that is known.
        lengths: modality -> frames or tokens; 0 where there is nothing.
        drawn: what the model drew, without the axis of utterances.
        attention: of vision's encoder, its class token's to the patches (T, P), where the store has it.
    """

    utterance: Utterance
    id: str
    classes: tuple[str, ...]
    modalities: tuple[str, ...]
    tokens: tuple[str, ...]
    times: dict[str, Array]
    lengths: dict[str, int]
    drawn: dict[str, Array]
    attention: Array | None

    def names(self, modality: str, count: int) -> list[str]:
        """What `count` steps of a modality are called: its tokens, or about when in the utterance they are."""
        if modality == "text" and count <= len(self.tokens):
            return list(self.tokens[:count])
        times = self.times.get(modality)
        if times is None or not len(times):
            return [str(i + 1) for i in range(count)]
        if count == len(times):
            return [f"{t:.2f} s" for t in times]
        return [f"{part.mean():.2f} s" for part in np.array_split(times, min(count, len(times)))] + [
            "" for _ in range(count - len(times))
        ]


@dataclass(frozen=True)
class Looked:
    """What was seen of a run.

    Attributes:
        evidence: the run.
        seed: whose model it is.
        examples: the chosen utterances.
        pooled: name -> vectors (N, d) of test utterances, those with all modalities alone.
    """

    evidence: Evidence
    seed: int
    examples: tuple[Seen, ...]
    pooled: dict[str, Array]


def look(
    e: Evidence,
    ids: Sequence[str],
    store: str | Path | None = None,
    pooled: Sequence[str] = (),
    changes: Mapping[str, Any] | None = None,
) -> Looked:
    """What the first seed's models draw of the utterances `ids`, and `pooled` of many.

    Args:
        e: the run.
        ids: of its test utterances.
        store: where the store is now; None: where it was.
        pooled: names of drawn vectors.
        changes: settings of the model that change nothing but what it draws.

    Raises:
        DamagedError: the data are no longer those of the run.
        MerError: the run's store cannot be read.
    """
    run = e.run
    seed = run.record.seeds[0]
    found: dict[str, Seen] = {}
    vectors: dict[str, list[Array]] = {name: [] for name in pooled}
    for fold in range(1, e.folds + 1):
        table = run_files.read_predictions(run.place(seed, fold) / run_files.PREDICTIONS, "test")
        tested = set(table["id"].to_pylist())
        wanted = [i for i in ids if i in tested]
        if not wanted and not (pooled and fold == 1):
            continue
        data, changed = recorded_data(run, "test", fold, store)
        if changed:
            raise DamagedError(f"the store's data are no longer those of the run ({'; '.join(changed)})")
        model = run.model(seed, fold=fold, changes=changes)
        with reproducible(seed, 1), torch.no_grad():
            for id_ in wanted:
                drawn, lengths = _drawn(model, data, id_)
                found[id_] = _seen(e, id_, drawn, lengths, store)
            if pooled and fold == 1:
                _pool(model, data, vectors, run.training.batch_size)
    joined = {name: np.concatenate(parts) for name, parts in vectors.items() if parts}
    return Looked(e, seed, tuple(found[i] for i in ids), joined)


def _drawn(model: Model, data: Dataset, id_: str) -> tuple[dict[str, Array], dict[str, int]]:
    """What is drawn of an utterance that is read alone, or within its dialogue where the model needs it."""
    row = data.ids.index(id_)
    rows = torch.tensor([row])
    if model.network.unit == "dialogue":
        rows = torch.nonzero(data.dialogues == data.dialogues[row]).squeeze(1)
    place = rows.tolist().index(row)
    output = model(data.batch(rows, model.network.unit))
    drawn = {name: values[place].numpy().astype(np.float64) for name, values in output.drawn.items()}
    return drawn, {m: int(n[row]) for m, n in data.lengths.items()}


def _pool(model: Model, data: Dataset, vectors: Mapping[str, list[Array]], batch_size: int) -> None:
    """Vectors of the utterances that have all modalities, of at most MOST_POOLED."""
    rows = torch.nonzero(data.available.all(dim=1)).squeeze(1)
    if len(rows) > MOST_POOLED:
        rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:MOST_POOLED]]
    if not len(rows):
        return
    for _, batch in data.select(rows).numbered(batch_size, model.network.unit):
        drawn: Mapping[str, Tensor] = model(batch).drawn
        for name, parts in vectors.items():
            if name in drawn:
                parts.append(drawn[name].numpy().astype(np.float64))


def _seen(
    e: Evidence, id_: str, drawn: dict[str, Array], lengths: dict[str, int], store_path: str | Path | None
) -> Seen:
    store, dataset, own = where(e, id_, store_path)
    samples = store.samples(dataset)
    utterance = samples.utterances[samples.numbers[own]]
    tokens: tuple[str, ...] = ()
    times: dict[str, Array] = {}
    attention = None
    for modality, facts in e.run.record.features.items():
        if not lengths[modality]:
            continue
        feature = store.feature(dataset, facts["name"], facts["fingerprint"])
        arrays = {array.name for array in feature.spec.arrays}
        kept = feature.load([own], (MASK,)).arrays[MASK] if MASK in arrays else np.ones(lengths[modality], np.bool_)
        if modality == "text":
            tokens = _tokens(feature, own, utterance.text or "", lengths[modality])
        elif feature.spec.rate_hz is not None:
            times[modality] = ((np.arange(len(kept)) + 0.5) / feature.spec.rate_hz)[kept]
        if modality == "vision" and ATTENTION in arrays:
            attention = np.asarray(feature.load([own], (ATTENTION,)).arrays[ATTENTION], np.float64)[kept]
    return Seen(
        utterance, id_, e.target.classes, tuple(e.run.record.features), tokens, times, lengths, drawn, attention
    )


def where(e: Evidence, id_: str, store_path: str | Path | None = None) -> tuple[FeatureStore, str, str]:
    """The store of an utterance of a run, its dataset there, and what it is called in that."""
    from cache_schema.store import FeatureStore

    record = e.run.record
    store = FeatureStore.open(record.store if store_path is None else store_path)
    if "," not in record.dataset and not e.run.protocol.test_on:
        return store, record.dataset, id_
    dataset, _, own = id_.partition("/")
    return store, dataset, own


def _tokens(feature: Feature, id_: str, text: str, count: int) -> tuple[str, ...]:
    """The tokens in words, by the characters of the text that they come from; special ones by their place."""
    try:
        spans = feature.load([id_], ("offsets",)).arrays["offsets"][:count].tolist()
    except StoreError:
        return tuple(f"token {i + 1}" for i in range(count))
    last = len(spans) - 1
    return tuple(
        text[a:b].strip() or ("[CLS]" if i == 0 else "[SEP]" if i == last else "[·]") for i, (a, b) in enumerate(spans)
    )
