"""Reads a dataset from the feature store: which features, which utterances, what was left out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cache_schema.errors import DataError, SettingsError
from cache_schema.feature_spec import MASK
from cache_schema.plan import frame_bytes
from cache_schema.registry import unknown_name
from cache_schema.samples import SPLITS, Corpus, Split, Target, Utterance
from fuse.companions import BESIDE, Sources, require_extracted, with_companions
from fuse.data import Dataset
from fuse.windows import Windowed

if TYPE_CHECKING:
    from cache_schema.feature import Feature
    from cache_schema.store import FeatureStore


@dataclass(frozen=True)
class Whole:
    """What can be used of a dataset, resident, before it is split.

    Attributes:
        dataset: its name.
        utterances: those with a label and a modality.
        data: their features and labels, in the same order.
        left_out: without_label, without_split and without_partner: how many; empty: ids of samples without any
            modality.
    """

    dataset: str
    utterances: tuple[Utterance, ...]
    data: Dataset
    left_out: dict[str, Any]


def read(
    store: FeatureStore,
    dataset: str,
    chosen: Mapping[str, Feature],
    target: Target,
    drop_empty: bool = False,
    splits: Sequence[Split | None] = SPLITS,
    classes: Mapping[str, str] | None = None,
    ids: Collection[str] | None = None,
    companions: Sources | None = None,
    window_for: Callable[[int], int | None] = lambda needed: None,
) -> Whole:
    """Read a dataset's features and labels.

    Args:
        store: the feature store.
        dataset: name of a dataset in it.
        chosen: the feature of each modality.
        target: what is predicted; its classes are the common ones where `classes` is given.
        drop_empty: leave samples without any modality out, instead of raising.
        splits: the official splits of which utterances are read, None for those in no split; nothing of the others
            is.
        classes: class of the dataset -> class of `target`; utterances of other classes are left out, and counted.
        ids: only these are read.
        companions: what lies on the modalities' frames, and what it is made from.
        window_for: given the bytes of all frames, None to read them; else they stay in the store, to be read in
            windows of so many bytes.

    Raises:
        DataError: features are not extracted for all utterances, or a sample has no modality.
        StoreError: the store cannot be read.
    """
    corpus_target = choose_target(store.samples(dataset).corpus, target.name)
    listed = [u for u in store.samples(dataset).utterances if ids is None or u.id in ids]
    utterances, left_out = usable(listed, corpus_target, splits)
    if classes is not None:
        everything = utterances
        utterances = [renamed(u, target.name, classes) for u in everything if u.labels[target.name] in classes]
        left_out["without_partner"] = len(everything) - len(utterances)
    if not utterances:
        raise DataError(f"{dataset}: no utterance of a split has a label for {target.name}: nothing can be trained.")
    reader = Reader(dataset, target, dict(chosen), companions, {u.id: u for u in utterances})
    ids_of_all = [u.id for u in utterances]
    window_bytes = window_for(reader.bytes_needed(ids_of_all))
    whole = reader.read(ids_of_all) if window_bytes is None else reader.outline(ids_of_all, window_bytes)
    _require_some(whole)
    there = whole.available.any(dim=1)
    left_out["empty"] = [whole.ids[row] for row in torch.nonzero(~there).squeeze(1).tolist()]
    if left_out["empty"] and not drop_empty:
        raise DataError(
            f"{dataset}: {len(left_out['empty'])} utterances have none of {', '.join(chosen)}, the first is "
            f"{left_out['empty'][0]!r}. Leave them out with --set drop_empty=true."
        )
    rows = torch.nonzero(there).squeeze(1)
    kept = tuple(utterances[row] for row in rows.tolist())
    return Whole(dataset, kept, whole.select(rows), left_out)


def choose_features(
    store: FeatureStore,
    dataset: str,
    prefers: Mapping[str, Sequence[str]],
    modalities: Sequence[str] | None,
    features: Mapping[str, str],
) -> dict[str, Feature]:
    """The feature of each modality, in the order of `prefers`: the one that is named, the first that is preferred, or
    the only one that there is."""
    for name in [*(modalities or ()), *features]:
        if name not in prefers:
            raise SettingsError(unknown_name("modality of this architecture", name, list(prefers)))
    unused = [name for name in features if modalities is not None and name not in modalities]
    if unused:
        raise SettingsError(f"A feature was given for {unused[0]}, which is not among the modalities to use.")
    there = [feature.spec for feature in store.features(dataset)]
    chosen: dict[str, Feature] = {}
    for modality, preferred in prefers.items():
        if modalities is not None and modality not in modalities:
            continue
        beside = set(BESIDE) - set(preferred)
        known = {spec.feature for spec in there if spec.modality == modality and spec.feature not in beside}
        only = next(iter(known)) if len(known) == 1 else None
        wanted = features.get(modality) or next((name for name in preferred if name in known), only)
        if wanted is None:
            if modalities is not None or known:
                found = f"it has {', '.join(sorted(known))}: choose with --features" if known else "it has none"
                raise SettingsError(
                    f"{dataset}: the store has no {' or '.join(preferred)} feature for {modality}; {found}."
                )
            continue
        name, _, fingerprint = wanted.partition("@")
        feature = store.feature(dataset, name, fingerprint or None)
        if feature.spec.modality != modality:
            raise SettingsError(f"{name} is a feature of {feature.spec.modality}, not of {modality}.")
        chosen[modality] = feature
    if not chosen:
        readable = "; ".join(f"{modality}: {', '.join(names)}" for modality, names in prefers.items())
        raise SettingsError(
            f"{dataset}: the store has no feature that this architecture reads ({readable}): run `mer extract` first."
        )
    return chosen


def choose_target(corpus: Corpus, name: str | None) -> Target:
    """The target called `name`, or the corpus's first."""
    if name is None:
        return corpus.targets[0]
    for target in corpus.targets:
        if target.name == name:
            return target
    raise SettingsError(unknown_name(f"target of {corpus.name}", name, [t.name for t in corpus.targets]))


def usable(
    utterances: Sequence[Utterance], target: Target, splits: Sequence[Split | None] = SPLITS
) -> tuple[list[Utterance], dict[str, Any]]:
    """The utterances of `splits` that have the label, and how many were left out for want of it or of any split."""
    kept, counts = [], Counter({"without_label": 0, "without_split": 0})
    for utterance in utterances:
        if utterance.split not in splits:
            counts["without_split"] += utterance.split is None
        elif label_of(utterance, target) is None:
            counts["without_label"] += 1
        else:
            kept.append(utterance)
    return kept, dict(counts)


def renamed(utterance: Utterance, target: str, classes: Mapping[str, str]) -> Utterance:
    """The utterance with its class's common name."""
    return utterance.model_copy(update={"labels": {**utterance.labels, target: classes[utterance.labels[target]]}})


def label_of(utterance: Utterance, target: Target) -> int | float | list[float] | None:
    """A class index, a number, or 0 or 1 per class (1 where its score is above 0); None where the label is not known.

    Raises:
        DataError: a label is not one of the target's classes, or some of a multilabel target's scores are missing.
    """
    if target.kind == "regression":
        return utterance.scores.get(target.name)
    if target.kind == "multilabel":
        scores = [utterance.scores.get(f"{target.name}/{c}") for c in target.classes]
        if all(score is None for score in scores):
            return None
        if any(score is None for score in scores):
            raise DataError(f"{utterance.id} has scores for some classes of {target.name} only.")
        return [float(score > 0) for score in scores if score is not None]
    label = utterance.labels.get(target.name)
    if label is None:
        return None
    if label not in target.classes:
        raise DataError(f"{utterance.id}: " + unknown_name(f"class of {target.name}", label, list(target.classes)))
    return target.classes.index(label)


@dataclass(frozen=True)
class Reader:
    """Reads utterances of a dataset as they are trained on.

    Attributes:
        dataset: its name.
        target: what is predicted.
        chosen: the feature of each modality.
        companions: what lies on the modalities' frames, and what it is made from.
        utterances: those that can be read, by id.
    """

    dataset: str
    target: Target
    chosen: dict[str, Feature]
    companions: Sources | None
    utterances: dict[str, Utterance]

    def read(self, ids: Sequence[str]) -> Dataset:
        """These utterances, resident, with companions; without the frames that hold nothing.

        Raises:
            DataError: features are not extracted for all of them.
            StoreError: the store cannot be read.
        """
        data = labelled(self.dataset, [self.utterances[i] for i in ids], self.target, self.chosen)
        if self.companions is not None:
            data = with_companions(data, self.chosen, self.companions)
        for modality, mask in self._masks(ids).items():
            data = data.keep_frames(modality, mask)
        return data

    def outline(self, ids: Sequence[str], window_bytes: int) -> Windowed:
        """These utterances with their frames left in the store. Errors as in `read`."""
        data = labelled(self.dataset, [self.utterances[i] for i in ids], self.target, self.chosen, frames=False)
        lengths = dict(data.lengths)
        for modality, mask in self._masks(ids).items():
            before = torch.cat([torch.zeros(1, dtype=torch.int64), mask.long().cumsum(0)])
            first = data.starts[modality]
            lengths[modality] = before[first + lengths[modality]] - before[first]
        fields = {name: value for name, value in vars(data).items() if name not in ("lengths", "companions")}
        return Windowed(**fields, lengths=lengths, reader=self, window_bytes=window_bytes)

    def bytes_needed(self, ids: Sequence[str]) -> int:
        """Memory that the frames of these utterances take, and what their companions are made from."""
        features = [*self.chosen.values(), *(() if self.companions is None else self.companions.features.values())]
        return sum(int(f.lengths(ids, "mask").sum()) * frame_bytes(f.spec.values) for f in features)

    def _masks(self, ids: Sequence[str]) -> dict[str, Tensor]:
        """Of the features that say where there is something: which of their frames do."""
        found = {}
        for modality, feature in self.chosen.items():
            if MASK in [array.name for array in feature.spec.arrays]:
                found[modality] = torch.from_numpy(feature.load(ids, (MASK,), missing="mask").arrays[MASK])
        return found


def labelled(
    dataset: str,
    utterances: Sequence[Utterance],
    target: Target,
    chosen: Mapping[str, Feature],
    frames: bool = True,
) -> Dataset:
    """All utterances' features and labels as flat tensors; failed and absent ones have length 0."""
    data = unlabelled(dataset, utterances, target, chosen, frames)
    dtype = torch.int64 if target.kind == "classification" else torch.float32
    return replace(data, labels=torch.tensor([label_of(u, target) for u in utterances], dtype=dtype))


def unlabelled(
    dataset: str,
    utterances: Sequence[Utterance],
    target: Target,
    chosen: Mapping[str, Feature],
    frames: bool = True,
) -> Dataset:
    """The same without labels; without `frames` none are read, and `starts` say where they would lie."""
    ids = tuple(u.id for u in utterances)
    flat: dict[str, Tensor] = {}
    starts: dict[str, Tensor] = {}
    lengths: dict[str, Tensor] = {}
    for modality, feature in chosen.items():
        ragged = feature.load(ids, ("values",) if frames else (), missing="mask")
        require_extracted(dataset, feature, ids, ragged.present)
        values = feature.spec.values
        nothing = np.empty((0, *values.tail), values.dtype)
        flat[modality] = torch.from_numpy(ragged.arrays["values"] if frames else nothing)
        starts[modality] = torch.from_numpy(ragged.offsets[:-1].copy())
        lengths[modality] = torch.from_numpy(np.diff(ragged.offsets))
    numbers: dict[object, int] = {}
    dialogues = [numbers.setdefault((u.split, u.dialogue or ("alone", u.id)), len(numbers)) for u in utterances]
    return Dataset(dataset, ids, target, None, flat, starts, lengths, torch.tensor(dialogues))


def _require_some(data: Dataset) -> None:
    for modality, lengths in data.lengths.items():
        if not lengths.any():
            raise DataError(f"{data.name}: every utterance's {modality} failed or is absent: leave {modality} out.")


def in_dialogue_order(utterances: Sequence[Utterance], rows: Sequence[int]) -> list[int]:
    """`rows` with each dialogue's utterances together, by turn, dialogues in the order in which they begin."""

    def dialogue(utterance: Utterance) -> tuple[str | None, str]:
        return utterance.split, utterance.dialogue or f"alone {utterance.id}"

    first: dict[tuple[str | None, str], int] = {}
    for place, utterance in enumerate(utterances):
        first.setdefault(dialogue(utterance), place)

    def key(place: int) -> tuple[int, int, int]:
        utterance = utterances[place]
        turn = place if utterance.turn is None else utterance.turn
        return first[dialogue(utterance)], turn, place

    return [rows[place] for place in sorted(range(len(rows)), key=key)]


def describe_feature(feature: Feature) -> dict[str, Any]:
    """What a run records of a feature."""
    status = feature.status()
    return {
        "name": feature.spec.feature,
        "fingerprint": feature.spec.fingerprint(),
        "folder": feature.folder,
        "digest": feature.digest(),
        "tail": list(feature.spec.values.tail),
        "rate_hz": feature.spec.rate_hz,
        "random_weights": feature.spec.random_weights,
        "spec": feature.spec.model_dump(mode="json"),
        "failed": status.failed,
        "absent": status.absent,
    }
