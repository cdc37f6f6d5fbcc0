"""From a store and a protocol to folds of resident data: one dataset, several jointly, or one to another.

With more than one dataset, ids, speakers and dialogues begin with the dataset's name, as `meld/dia0_utt0`, and classes
have their common names. What `load_selection` gives holds no test split: the test utterances are not even read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cache_schema.canonical import canonical_bytes, sha256_hex
from cache_schema.errors import DataError, SettingsError
from cache_schema.samples import SPLITS, Split, Target, Utterance
from cache_schema.storage import absolute_location
from fuse.arch import Companion
from fuse.common_labels import common_target
from fuse.companions import Sources, choose_companions
from fuse.data import Dataset, Selection, Splits, joined
from fuse.placement import window_for
from fuse.protocols import Cut, Protocol, cuts
from fuse.reader import Whole, choose_features, choose_target, describe_feature, in_dialogue_order, read

if TYPE_CHECKING:
    from cache_schema.feature import Feature
    from cache_schema.store import FeatureStore


@dataclass(frozen=True)
class Fold:
    """The splits of one fold; `name` says what is tested in it."""

    name: str
    splits: Splits


@dataclass(frozen=True)
class Source:
    """Where the numbers of a run come from; written into its folder.

    Attributes:
        store: the store's path, as given.
        dataset: the dataset's name; several, trained on jointly, with commas.
        corpora: what each dataset is: name, title, licence, language.
        target: what is predicted.
        features: per modality: name, fingerprint, digest of the whole feature, `rows`: that of the rows used, ...
        companions: the same of what each companion is made from.
        without: companions that there are not, and why.
        protocol: how the data were split.
        folds: per fold its name and its splits: number of utterances, sha256 over their ids, `labels`: over their
            labels, and of val and test `rows`: modality -> digest of their features.
        left_out: without_label, without_split, without_partner: how many; empty: ids of samples without any modality.
    """

    store: str
    dataset: str
    corpora: list[dict[str, str]]
    target: Target
    features: dict[str, dict[str, Any]]
    companions: dict[str, dict[str, Any]]
    without: dict[str, str]
    protocol: Protocol
    folds: list[dict[str, Any]]
    left_out: dict[str, Any]

    @property
    def digest(self) -> str:
        """sha256 over the used rows of all features, the ids and the labels: the exact data of the run."""
        rows = {name: f["rows"] for name, f in {**self.features, **self.companions}.items()}
        return sha256_hex(canonical_bytes([rows, self.folds]))

    @property
    def splits(self) -> dict[str, dict[str, Any]]:
        """The splits where there is one fold, else what is tested over all of them."""
        if len(self.folds) == 1:
            return dict(self.folds[0]["splits"])
        tested = [fold["splits"]["test"] for fold in self.folds]
        digest = sha256_hex(canonical_bytes([part["sha256"] for part in tested]))
        return {"test": {"utterances": sum(part["utterances"] for part in tested), "sha256": digest}}


@dataclass(frozen=True)
class Request:
    """What is read of a store for one architecture.

    Attributes:
        store: the feature store.
        dataset: name of a dataset in it, or several, joined by commas, to be trained on jointly.
        prefers: modality -> names of features, best first (`PREFERS` of an architecture).
        modalities: which to use; None: all of `prefers` that the store has a feature for.
        features: modality or companion -> feature to use instead of the preferred one, as "roberta" or "roberta@1a2b"
            with the beginning of a fingerprint.
        companions: those that the architecture reads (its `COMPANIONS`).
        device: where it is to be trained, which decides whether it fits there.
        window_bytes: read it in windows of so many bytes; None: where it does not fit.
        target: name of a target of the corpus; None: its first.
        drop_empty: leave samples without any modality out, instead of raising.
        protocol: how it is split.
    """

    store: str | Path
    dataset: str
    prefers: Mapping[str, Sequence[str]]
    modalities: Sequence[str] | None = None
    features: Mapping[str, str] | None = None
    target: str | None = None
    drop_empty: bool = False
    protocol: Protocol = field(default_factory=Protocol)
    companions: Mapping[str, Companion] = field(default_factory=dict)
    device: str = "cpu"
    window_bytes: int | None = None


def load_folds(request: Request) -> tuple[list[Fold], Source]:
    """Every fold of the protocol, over the same frames.

    Raises:
        SettingsError: a modality, feature, target or class that there is not, or a protocol that does not fit.
        DataError: features are not extracted for all utterances, a split is empty, or a sample has no modality.
        StoreError: the store cannot be read.
    """
    opened = Opened(request)
    protocol = request.protocol
    tested = opened.read(opened.tested, ("test",)) if opened.tested else None
    splits = ("train", "val") if tested else SPLITS
    whole = opened.read(opened.trained, (*splits, None) if protocol.whole else splits)
    folds = []
    for cut in cuts(request.dataset, whole.utterances, protocol, testless=tested is not None):
        train, val, test = (_part(whole, rows) for rows in (cut.train, cut.val, cut.test))
        if tested is not None:
            test = _part(tested, list(range(len(tested.utterances))))
        folds.append(Fold(_fold_name(cut, protocol), Splits(train, val, test)))
    return folds, opened.source(
        [f.splits for f in folds], [f.name for f in folds], [whole, *([tested] if tested else [])]
    )


def load_selection(request: Request) -> tuple[Selection, Source]:
    """What search may see: training and validation of the official splits. The test utterances are not read.

    Raises:
        SettingsError: the protocol makes folds, in which one's validation is another's test.
        MerError: as `load_folds`.
    """
    if not request.protocol.official:
        raise SettingsError(
            f"A search over {request.protocol.folds} would choose on utterances that other folds test: search on the "
            "official splits, or on a dataset without a test split."
        )
    opened = Opened(request)
    whole = opened.read(opened.trained, ("train", "val"))
    (cut,) = cuts(request.dataset, whole.utterances, request.protocol, testless=True)
    selection = Selection(_part(whole, cut.train), _part(whole, cut.val))
    return selection, opened.source([selection], [_fold_name(cut, request.protocol)], [whole])


def load_ids(request: Request, ids: Sequence[str]) -> tuple[Dataset, dict[str, str]]:
    """Chosen utterances of what `load_folds` read, in the given order, and per modality the digest of their features.

    Raises:
        DataError: some of them are no longer there.
    """
    opened = Opened(request)
    whole = opened.read([*opened.trained, *opened.tested], (*SPLITS, None), set(ids))
    rows = {id_: row for row, id_ in enumerate(whole.data.ids)}
    gone = [id_ for id_ in ids if id_ not in rows]
    if gone:
        raise DataError(
            f"{request.dataset}: {len(gone)} of the run's utterances can no longer be used, the first is {gone[0]!r}."
        )
    return whole.data.select(torch.tensor([rows[id_] for id_ in ids])), opened.rows_digest(ids)


class Opened:
    """The store, with the features and class names of every dataset that a request is about."""

    def __init__(self, request: Request) -> None:
        from cache_schema.store import FeatureStore

        self.request = request
        self.trained = [name.strip() for name in request.dataset.split(",") if name.strip()]
        self.tested = [request.protocol.test_on] if request.protocol.test_on else []
        self.names = [*self.trained, *self.tested]
        if len(set(self.names)) != len(self.names) or not self.trained:
            raise SettingsError(f"The datasets {', '.join(self.names)} must be one or more, each once.")
        if self.tested and not request.protocol.official:
            raise SettingsError(f"--test-on {self.tested[0]} already says what is tested: --protocol makes no sense.")
        self.store: FeatureStore = FeatureStore.open(request.store, mode="r")
        self.several = len(self.names) > 1
        self.first = self.names[0]
        corpus = self.store.samples(self.first).corpus
        self.features: dict[str, dict[str, Feature]] = {}
        self.companions: dict[str, Sources] = {}
        asked, modalities = dict(request.features or {}), request.modalities
        for name in self.names:
            own = {m: wanted for m, wanted in asked.items() if m not in request.companions}
            self.features[name] = choose_features(self.store, name, request.prefers, modalities, own)
            self.companions[name] = choose_companions(self.store, name, request.companions, self.features[name], asked)
            # The others have the same features as the first.
            modalities = list(self.features[name])
            asked = {m: f"{f.name}@{f.fingerprint}" for m, f in self._all(name).items()}
        self.without = {n: f"{name}: {why}" for name in self.names for n, why in self.companions[name].without.items()}
        for name in self.names:
            self.companions[name] = _only(self.companions[name], self.without)
        self.target = choose_target(corpus, request.target)
        self.classes: dict[str, dict[str, str]] = {}
        if self.several or request.protocol.labels:
            self.target, self.classes = common_target(
                {n: choose_target(self.store.samples(n).corpus, self.target.name) for n in self.names},
                request.protocol.labels,
                bool(self.tested),
            )

    def read(self, names: Sequence[str], splits: Sequence[Split | None], ids: set[str] | None = None) -> Whole:
        """These datasets' utterances of these official splits, joined where there are several."""
        wholes = []
        for name in names:
            prefix = f"{name}/" if self.several else ""
            only = None if ids is None else {i.removeprefix(prefix) for i in ids if i.startswith(prefix)}
            if only is not None and not only:
                continue
            whole = read(
                self.store,
                name,
                self.features[name],
                self.target,
                self.request.drop_empty,
                splits,
                self.classes.get(name),
                only,
                self.companions[name],
                self._window_for,
            )
            wholes.append(_prefixed(whole, prefix) if self.several else whole)
        if len(wholes) == 1:
            return wholes[0]
        return Whole(
            dataset=self.request.dataset,
            utterances=tuple(u for w in wholes for u in w.utterances),
            data=joined(self.request.dataset, [w.data for w in wholes]),
            left_out={what: count for w in wholes for what, count in w.left_out.items()},
        )

    def _window_for(self, needed: int) -> int | None:
        """Bytes of the windows in which a dataset is read, if it is; several at once are always read whole."""
        if not self.several:
            return window_for(needed, torch.device(self.request.device), self.request.window_bytes)
        if self.request.window_bytes is not None:
            raise SettingsError(f"{', '.join(self.names)}: several datasets are read whole, not in windows.")
        return None

    def digests(self) -> dict[str, list[str]]:
        """Of every feature that may be read, whole: dataset -> digests."""
        return {name: [f.digest() for f in self._all(name).values()] for name in self.names}

    def names_of(self, modalities: Sequence[str]) -> dict[str, str]:
        """The features of these modalities, and of the companions that were asked for, by name and fingerprint."""
        asked, companions = self.request.features or {}, self.companions[self.first].companions
        names = list(modalities)
        for name, companion in companions.items():
            if name in asked and {companion.modality, *companion.needs} <= set(modalities):
                names.append(name)
        read = self._all(self.first)
        return {name: f"{read[name].name}@{read[name].fingerprint}" for name in names}

    def rows_digest(self, ids: Sequence[str]) -> dict[str, str]:
        """Per modality and companion, a digest of the features of these utterances."""
        mine = {}
        for name in self.names:
            prefix = f"{name}/" if self.several else ""
            mine[name] = [i.removeprefix(prefix) for i in ids if i.startswith(prefix)]
        found = {}
        for part in self._all(self.first):
            each = [self._all(name)[part].digest_of(own) for name, own in mine.items() if own]
            found[part] = each[0] if len(each) == 1 else sha256_hex(canonical_bytes(each))
        return found

    def _all(self, name: str) -> dict[str, Feature]:
        """The features of a dataset's modalities and those that its companions are made from."""
        return {**self.features[name], **self.companions[name].features}

    def source(self, parts: Sequence[Selection], names: Sequence[str], wholes: Sequence[Whole]) -> Source:
        """What a run records."""
        rows = self.rows_digest([i for whole in wholes for i in whole.data.ids])
        described = {m: {**describe_feature(f), "rows": rows[m]} for m, f in self._all(self.first).items()}
        return Source(
            store=absolute_location(self.request.store),
            dataset=",".join(self.trained),
            corpora=[
                {"name": name} | self.store.samples(name).corpus.model_dump(include={"title", "licence", "language"})
                for name in self.names
            ],
            target=self.target,
            features={m: f for m, f in described.items() if m in self.features[self.first]},
            companions={n: f for n, f in described.items() if n in self.companions[self.first].features},
            without=self.without,
            protocol=self.request.protocol,
            folds=[{"name": name, "splits": self._describe(part)} for name, part in zip(names, parts, strict=True)],
            left_out={what: count for whole in wholes for what, count in whole.left_out.items()},
        )

    def _describe(self, part: Selection) -> dict[str, dict[str, Any]]:
        sides = {"train": part.train, "val": part.val}
        if isinstance(part, Splits):
            sides["test"] = part.open_test()
        found = {}
        for split, data in sides.items():
            found[split] = {"utterances": len(data), "sha256": data.digest(), "labels": data.labels_digest()}
            if split != "train":
                found[split]["rows"] = self.rows_digest(data.ids)
        return found


def _prefixed(whole: Whole, prefix: str) -> Whole:
    """The same, with names that say which dataset they are of."""

    def named(utterance: Utterance) -> Utterance:
        changes = {f: prefix + getattr(utterance, f) for f in ("id", "speaker", "dialogue") if getattr(utterance, f)}
        return utterance.model_copy(update=changes)

    return replace(
        whole,
        utterances=tuple(map(named, whole.utterances)),
        data=replace(whole.data, ids=tuple(prefix + i for i in whole.data.ids)),
        left_out={f"{what} ({whole.dataset})": count for what, count in whole.left_out.items()},
    )


def _only(sources: Sources, without: Mapping[str, str]) -> Sources:
    """The companions that every dataset has."""
    names = [n for n in sources.companions if n not in without]
    return Sources({n: sources.companions[n] for n in names}, {n: sources.features[n] for n in names}, dict(without))


def _part(whole: Whole, rows: list[int]) -> Dataset:
    return whole.data.select(
        torch.tensor(in_dialogue_order([whole.utterances[i] for i in rows], rows), dtype=torch.int64)
    )


def _fold_name(cut: Cut, protocol: Protocol) -> str:
    return f"{cut.name} to {protocol.test_on}" if protocol.test_on else cut.name
