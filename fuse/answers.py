"""What a trained model says about utterances that nobody labelled: probabilities, how sure it is, and what it leans on.

All trainings of a run (seeds, and folds where there are several) answer as one ensemble (Lakshminarayanan et al.,
NeurIPS 2017, arXiv:1612.01474): probabilities are their mean, and where they differ is told apart from where each of
them is unsure (Depeweg et al., ICML 2018, arXiv:1710.07283, section 2).

Each utterance is answered alone, or within its conversation where the architecture reads one, so that no answer depends
on what else was asked.

Axes: K trainings, N utterances, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from cache_schema.errors import MerError
from cache_schema.feature_spec import MASK, MODALITIES, FeatureSpec
from cache_schema.samples import Target
from fuse import hub, run
from fuse.archs import ARCHS
from fuse.companions import Sources, with_companions
from fuse.data import Dataset, Laid
from fuse.model import Model
from fuse.placement import named_device
from fuse.prediction import Predictions
from fuse.reader import unlabelled
from fuse.training.seeds import assess

if TYPE_CHECKING:
    from cache_schema.feature import Feature
    from cache_schema.store import FeatureStore

WEIGHTS = ("alpha", "weight", "precision")
"""What architectures call how much each modality weighs; other families come after these."""


OWN = ("predictive_entropy", "mutual_information", "predictive_variance", "sigma")
"""What architectures call their own uncertainty, in nats, squared units of the target, or units of their states."""


@dataclass(frozen=True)
class Member:
    """One training of a run: its seed, its fold (None where there is one) and its model."""

    seed: int
    fold: int | None
    model: Model


@dataclass(frozen=True)
class Trained:
    """A trained model, or the ensemble that a run's trainings are.

    Attributes:
        source: where it came from, as it was given.
        arch: the architecture.
        dataset: what it was trained on.
        target: what it predicts.
        features: what it reads as each modality.
        companions: what it reads beside them, by the companion's name.
        members: its trainings.
    """

    source: str
    arch: str
    dataset: str
    target: Target
    features: dict[str, FeatureSpec]
    companions: dict[str, FeatureSpec]
    members: tuple[Member, ...]

    @property
    def specs(self) -> list[FeatureSpec]:
        """All features that it reads, each once."""
        found = {spec.fingerprint(): spec for spec in [*self.features.values(), *self.companions.values()]}
        return list(found.values())


@dataclass(frozen=True)
class Answer:
    """What is said about one utterance.

    Attributes:
        id: which.
        modalities: those that the model reads and the utterance has.
        missing: the others: modality -> why it is masked.
        prediction: a class, the classes that are (multilabel), or a number; None where no modality is there.
        probabilities: of each class, mean over the trainings; empty for regression.
        spread: standard deviation over the trainings of each class's probability, or of the number, under its target's
            name; empty where there is one training.
        uncertainty: `entropy`, that of the mean probabilities, from 0, sure, to 1, as likely as not (for multilabel the
            mean over the classes); `disagreement`, the part of it that is between the trainings (mutual information,
            in the same unit), where there are several.
        weights: how much the architecture says that each modality weighs, by what it calls it, mean over the trainings.
        drawn: everything else that the architecture draws as one number per utterance, mean over the trainings.
    """

    id: str
    modalities: tuple[str, ...]
    missing: dict[str, str]
    prediction: str | list[str] | float | None = None
    probabilities: dict[str, float] | None = None
    spread: dict[str, float] | None = None
    uncertainty: dict[str, float] | None = None
    weights: dict[str, dict[str, float]] | None = None
    drawn: dict[str, float] | None = None

    @property
    def own(self) -> dict[str, float]:
        """The uncertainty that the architecture itself draws, by its own name, where it has one."""
        return {name: value for name, value in (self.drawn or {}).items() if name in OWN}


def open_trained(source: str, seed: int | None = None, device: str = "cpu") -> Trained:
    """The model or models at `source`, ready to answer.

    Args:
        source: a run's folder, an exported model's, or `hf:ORG/NAME[@REVISION]`.
        seed: one of a run's seeds alone; None: all of them.
        device: where they answer.

    Raises:
        MerError: there is no such model or seed, or it does not tell what its features are made with.
    """
    where = named_device(device)
    if source.startswith("hf:") or (Path(source) / hub.CONFIG).is_file():
        found = hub.from_pretrained(source, where)
        card = found.card
        if seed not in (None, card.seed):
            raise MerError(f"{source} holds the model of seed {card.seed} alone, not of seed {seed}.")
        beside = {name: f for name, f in card.features.items() if name not in card.tails}
        own = {name: card.features[name] for name in card.tails}
        member = Member(card.seed, None, found.model)
        return Trained(
            source, card.arch, card.dataset, card.target, _specs(source, own), _specs(source, beside), (member,)
        )
    opened = run.load(source)
    record = opened.record
    folds = range(1, max(len(record.folds), 1) + 1)
    members = [
        Member(s, fold if len(folds) > 1 else None, opened.model(s, where, fold))
        for s in (record.seeds if seed is None else [seed])
        for fold in folds
    ]
    return Trained(
        source,
        record.arch,
        record.dataset,
        record.target,
        _specs(source, record.features, record),
        _specs(source, record.companions, record),
        tuple(members),
    )


def _specs(
    source: str, features: Mapping[str, dict[str, Any]], record: run.RunRecord | None = None
) -> dict[str, FeatureSpec]:
    """The specification of each feature; of a run that does not record it, out of the store that it was trained on.

    Raises:
        MerError: it is not to be had, or is not the one that the fingerprint was made of.
    """
    from cache_schema.store import FeatureStore

    found = {}
    for name, facts in features.items():
        if "spec" in facts:
            spec = FeatureSpec.parse(facts["spec"], f"{source}: {name}")
        elif record is not None:
            dataset = record.dataset.partition(",")[0]
            try:
                store = FeatureStore.open(record.store)
                spec = store.feature(dataset, facts["name"], facts["fingerprint"]).spec
            except MerError as error:
                raise MerError(
                    f"{source} was written by an earlier version, which recorded its features' settings in the store "
                    f"alone, and that cannot be read ({error}). Train again."
                ) from error
        else:
            raise MerError(f"{source} does not say how its features are made: export it again from its run.")
        if spec.fingerprint() != facts["fingerprint"]:
            raise MerError(
                f"{source}: the settings of {facts['name']} are not those of its fingerprint: it is damaged."
            )
        found[name] = spec
    return found


def answer(trained: Trained, store: FeatureStore, dataset: str) -> list[Answer]:
    """What a model says about every utterance of a dataset, in the dataset's order.

    Args:
        trained: the model.
        store: holds the model's features of all of the dataset's utterances, or why there are none.
        dataset: its name.

    Raises:
        MerError: a feature is not there, or the model's output is not finite.
    """
    read = {**trained.features, **trained.companions}
    features = {name: store.feature(dataset, spec.feature, spec.fingerprint()) for name, spec in read.items()}
    data, missing = _read(trained, store, dataset, features)
    there = data.available.any(dim=1)
    answers = {}
    for rows in _apart(data, torch.nonzero(there).squeeze(1), trained.members[0].model.network.unit):
        part = data.select(rows)
        said = [
            assess(member.model, part.to(_device(member.model)), max(len(part), 1), member.seed)
            for member in trained.members
        ]
        for place, id_ in enumerate(part.ids):
            answers[id_] = _joined(trained, part, place, said, missing[id_])
    return [answers.get(id_) or Answer(id_, (), missing[id_]) for id_ in data.ids]


def _device(model: Model) -> torch.device:
    return next(model.buffers()).device


def _apart(data: Dataset, rows: torch.Tensor, unit: str) -> list[torch.Tensor]:
    """The utterances one by one, or conversation by conversation where that is the unit."""
    if unit != "dialogue":
        return [rows[place : place + 1] for place in range(len(rows))]
    groups = data.dialogues[rows]
    return [rows[groups == number] for number in torch.unique(groups).tolist()]


def _read(
    trained: Trained, store: FeatureStore, dataset: str, features: Mapping[str, Feature]
) -> tuple[Dataset, dict[str, dict[str, str]]]:
    """The dataset resident, and for each utterance which modality it lacks, and why."""
    own = {m: features[m] for m in trained.features}
    utterances = store.samples(dataset).utterances
    data = unlabelled(dataset, utterances, trained.target, own)
    known = getattr(ARCHS.load(trained.arch), "COMPANIONS", {})
    beside = {name: features[name] for name in trained.companions}
    data = with_companions(data, own, Sources({name: known[name] for name in beside}, beside, {}))
    missing: dict[str, dict[str, str]] = {id_: {} for id_ in data.ids}
    for modality, feature in own.items():
        reasons = {**feature.failures(), **feature.absences()}
        if MASK in [array.name for array in feature.spec.arrays]:
            mask = feature.load(data.ids, (MASK,), missing="mask").arrays[MASK]
            data = data.keep_frames(modality, torch.from_numpy(mask))
        for id_, length in zip(data.ids, data.lengths[modality].tolist(), strict=True):
            if not length:
                missing[id_][modality] = reasons.get(id_, "nothing was found in any frame")
    return _never_empty(data), missing


def _never_empty(data: Dataset) -> Dataset:
    """A modality that nobody has still needs a frame to take padding from; it is masked."""
    empty = [m for m, frames in data.frames.items() if not len(frames)]
    frames = {m: x.new_zeros(1, *x.shape[1:]) if m in empty else x for m, x in data.frames.items()}
    companions = {
        name: Laid(c.modality, c.values.new_zeros(1, *c.values.shape[1:]), c.there.new_zeros(1))
        if c.modality in empty
        else c
        for name, c in data.companions.items()
    }
    return replace(data, frames=frames, companions=companions)


def _joined(
    trained: Trained, data: Dataset, place: int, said: Sequence[Predictions], missing: dict[str, str]
) -> Answer:
    """What the trainings say together about one utterance."""
    target = trained.target
    there = tuple(m for m in data.modalities if m not in missing)
    drawn = {name: float(np.mean([p.drawn[name][place] for p in said])) for name in said[0].drawn}
    weights = _weights(drawn, data.modalities)
    rest = {n: v for n, v in drawn.items() if not any(n == f"{f}_{m}" for f, each in weights.items() for m in each)}
    found = Answer(data.ids[place], there, missing, weights=weights, drawn=rest)
    if target.kind == "regression":
        numbers = np.array([float(p.prediction[place]) for p in said])
        spread = {target.name: float(numbers.std(ddof=1))} if len(said) > 1 else {}
        return replace(found, prediction=float(numbers.mean()), probabilities={}, spread=spread, uncertainty={})
    each = np.stack([np.asarray(p.probabilities)[place] for p in said]).astype(np.float64)
    mean = each.mean(axis=0)
    prediction: str | list[str] = target.classes[int(mean.argmax())]
    if target.kind == "multilabel":
        prediction = [name for name, p in zip(target.classes, mean, strict=True) if p > 0.5]
    spread = {}
    if len(said) > 1:
        spread = dict(zip(target.classes, each.std(axis=0, ddof=1).tolist(), strict=True))
    return replace(
        found,
        prediction=prediction,
        probabilities=dict(zip(target.classes, mean.tolist(), strict=True)),
        spread=spread,
        uncertainty=uncertainty(each, target.kind),
    )


def uncertainty(each: NDArray[np.float64], kind: str) -> dict[str, float]:
    """`entropy`, and `disagreement` where there are several trainings, as in `Answer`, of probabilities (K, C)."""

    def entropy(p: NDArray[np.float64]) -> float:
        if kind == "multilabel":
            p = np.stack([p, 1 - p])
            return float(-(p * np.log2(np.maximum(p, 1e-300))).sum(axis=0).mean())
        return float(-(p * np.log(np.maximum(p, 1e-300))).sum() / np.log(max(len(p), 2)))

    whole = entropy(each.mean(axis=0))
    found = {"entropy": whole}
    if len(each) > 1:
        found["disagreement"] = max(whole - float(np.mean([entropy(p) for p in each])), 0.0)
    return found


def _weights(drawn: Mapping[str, float], modalities: Sequence[str]) -> dict[str, dict[str, float]]:
    """Families of quantities that are drawn for every modality of several, those called weights first."""
    families: dict[str, dict[str, float]] = {}
    for name, value in drawn.items():
        family, _, modality = name.rpartition("_")
        if family and modality in MODALITIES:
            families.setdefault(family, {})[modality] = value
    whole = {f: each for f, each in families.items() if len(modalities) > 1 and set(each) == set(modalities)}
    order = sorted(whole, key=lambda f: WEIGHTS.index(f) if f in WEIGHTS else len(WEIGHTS))
    return {family: whole[family] for family in order}
