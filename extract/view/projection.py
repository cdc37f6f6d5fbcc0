"""A feature's utterances as points in a plane, coloured by what they should, or should not, tell.

Each utterance is the mean over its frames, each number freed of its mean and scale. Beside the picture stands a number
that a picture cannot fake: how often an utterance's nearest neighbour, by all numbers and not by the two drawn, is of
the same kind, and how often it would be by chance. Where that is high for the speaker or the split, a model can use it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cache_schema.errors import DataError, SettingsError, StoreError
from cache_schema.registry import unknown_name
from cache_schema.samples import Corpus, Utterance
from cache_schema.store import FeatureStore
from extract.stored_frames import directions, standardised, utterance_means
from extract.view.colours import COLOURS, MARKERS, OTHERS

Method = Literal["pca", "tsne", "umap"]
METHODS: tuple[Method, ...] = ("pca", "tsne", "umap")
FORMATS = (".png", ".svg", ".pdf")
MOST_KINDS = len(COLOURS) - 1
"""Kinds with a colour of their own, the most frequent ones; the others are grey together."""
BLOCK = 2048
"""Utterances that are compared with all others at once."""


@dataclass(frozen=True)
class Neighbours:
    """How much a feature tells of one thing.

    Attributes:
        by: of what.
        kinds: how many different values there are.
        same: share of utterances whose nearest neighbour has the same value.
        chance: what it would be if neighbours were drawn.
    """

    by: str
    kinds: int
    same: float
    chance: float


def project(
    store_path: str, dataset: str, feature: str, fingerprint: str | None, by: Sequence[str], method: Method, out: Path
) -> list[Neighbours]:
    """Draw the projection, one panel for each of `by`.

    Args:
        store_path: the feature store.
        dataset, feature, fingerprint: which feature.
        by: what the points are coloured by: label (the corpus's first target), speaker, split, dialogue, or a target.
        method: pca; tsne (van der Maaten and Hinton, JMLR 9, 2008); umap, where umap-learn is installed.
        out: the picture, its form by its suffix.

    Returns:
        What the nearest neighbours tell, for each of `by`.

    Raises:
        SettingsError: an unknown `by`, method or suffix, or umap-learn is not installed.
        DataError: fewer than three utterances have the feature.
        StoreError: the feature is not there.
    """
    if out.suffix.lower() not in FORMATS:
        raise SettingsError(f"--out {out}: a picture's name ends in {', '.join(FORMATS)}.")
    store = FeatureStore.open(store_path, mode="r")
    samples = store.samples(dataset)
    kinds = {name: kind_of(samples.corpus, name) for name in by}
    found = store.feature(dataset, feature, fingerprint)
    places, means = utterance_means(found, [u.id for u in samples.utterances])
    if len(places) < 3:
        raise DataError(f"{dataset}: {len(places)} utterances have {feature}: nothing can be seen in fewer than 3.")
    utterances = [samples.utterances[place] for place in places]
    standard = standardised(means)
    if not standard.shape[1]:
        raise DataError(f"{dataset}: {feature} is the same in every utterance.")
    points, axes = plane(standard, method)
    nearest = _nearest(standard)
    told = []
    for name, kind in kinds.items():
        values = [kind(u) for u in utterances]
        told.append(_told(name, values, nearest))
    title = f"{dataset}: {feature}@{found.fingerprint[:8]}, {len(places)} utterances" + (
        " (random weights)" if found.spec.random_weights else ""
    )
    _draw(out, title, points, axes, {name: [kind(u) for u in utterances] for name, kind in kinds.items()}, told)
    return told


def kind_of(corpus: Corpus, name: str) -> Callable[[Utterance], str | None]:
    """What an utterance is, by a name of `by`.

    Raises:
        SettingsError: there is no such thing.
    """
    targets = {target.name: target for target in corpus.targets}
    plain: dict[str, Callable[[Utterance], str | None]] = {
        "speaker": lambda u: u.speaker,
        "split": lambda u: u.split,
        "dialogue": lambda u: u.dialogue,
    }
    target = corpus.targets[0] if name == "label" and corpus.targets else targets.get(name)
    if target is None:
        if name not in plain:
            raise SettingsError(unknown_name("thing to colour by", name, ["label", *plain, *targets]))
        return plain[name]
    if target.kind == "classification":
        return lambda u: u.labels.get(target.name)
    if target.kind == "regression":
        return lambda u: _third(u.scores.get(target.name), target.low, target.high)
    return lambda u: max(target.classes, key=lambda c: u.scores.get(f"{target.name}/{c}", 0.0)) if u.scores else None


def _third(value: float | None, low: float | None, high: float | None) -> str | None:
    """A number as one of three, by its range; by its sign where there is none."""
    if value is None:
        return None
    if low is None or high is None:
        return "negative" if value < 0 else "positive" if value > 0 else "zero"
    share = (value - low) / (high - low)
    return "low" if share < 1 / 3 else "high" if share > 2 / 3 else "middle"


def plane(standard: NDArray[np.float32], method: Method) -> tuple[NDArray[np.float64], tuple[str, str]]:
    """Points in a plane (utterances, 2), and what the axes are called; the same for the same input.

    Raises:
        SettingsError: umap-learn is not installed.
    """
    from sklearn.decomposition import PCA

    keep = min(50, *standard.shape)
    reduced = PCA(keep, random_state=0).fit(standard)
    points = reduced.transform(standard)
    if method == "pca":
        if keep == 1:
            points = np.column_stack([points, np.zeros(len(points))])
        shares = [*reduced.explained_variance_ratio_, 0.0]
        return points[:, :2], (f"first component ({shares[0]:.1%} of the variance)", f"second ({shares[1]:.1%})")
    if method == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(points) - 1) / 3)
        return TSNE(2, perplexity=perplexity, init="pca" if keep > 1 else "random", random_state=0).fit_transform(
            points
        ), ("t-SNE 1", "t-SNE 2")
    try:
        import umap
    except ImportError as error:
        raise SettingsError("--method umap needs umap-learn (pip install umap-learn); or take tsne.") from error
    return umap.UMAP(random_state=0).fit_transform(points), ("UMAP 1", "UMAP 2")


def _nearest(standard: NDArray[np.float32]) -> NDArray[np.int64]:
    """Each row's nearest other row by the angle between them (utterances,)."""
    unit = directions(standard)
    found = np.empty(len(unit), np.int64)
    for start in range(0, len(unit), BLOCK):
        block = unit[start : start + BLOCK] @ unit.T
        block[np.arange(len(block)), np.arange(start, start + len(block))] = -np.inf
        found[start : start + BLOCK] = block.argmax(axis=1)
    return found


def _told(name: str, values: Sequence[str | None], nearest: NDArray[np.int64]) -> Neighbours:
    known = [i for i, value in enumerate(values) if value is not None]
    count = Counter(values[i] for i in known)
    total = len(known)
    same = sum(values[i] == values[int(nearest[i])] for i in known) / max(1, total)
    chance = sum(n * (n - 1) for n in count.values()) / max(1, total * (total - 1))
    return Neighbours(name, len(count), same, chance)


def _draw(
    out: Path,
    title: str,
    points: NDArray[np.float64],
    axes: tuple[str, str],
    kinds: dict[str, list[str | None]],
    told: Sequence[Neighbours],
) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2 * len(kinds), 5.8), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    panels = figure.subplots(1, len(kinds), squeeze=False)[0]
    size = float(np.clip(4000 / len(points), 3, 30))
    for panel, (name, values), neighbours in zip(panels, kinds.items(), told, strict=True):
        for label, mask, style in _styles(values):
            panel.scatter(*points[mask].T, s=size, label=label, linewidths=0, alpha=0.75, **style)
        tells = f"the nearest neighbour is the same in {neighbours.same:.0%} (chance {neighbours.chance:.0%})"
        panel.set_title(f"by {name}: {tells if neighbours.kinds else 'no utterance has one'}", fontsize=10)
        panel.set_xlabel(axes[0])
        panel.set_ylabel(axes[1])
        panel.legend(fontsize=8, markerscale=1.5, loc="best")
    try:
        figure.savefig(out, dpi=150)
    except OSError as error:
        raise StoreError(f"{out} cannot be written: {error.strerror}.") from error


def _styles(values: Sequence[str | None]) -> list[tuple[str, NDArray[np.bool_], dict[str, Any]]]:
    """(label, which points, colour and marker) of each kind; the rarest kinds come together and first, to lie below."""
    count = Counter(value for value in values if value is not None)
    most = [kind for kind, _ in count.most_common(MOST_KINDS)]
    array = np.array([value or "" for value in values], object)
    others = np.array([value not in most for value in values])
    found: list[tuple[str, NDArray[np.bool_], dict[str, Any]]] = []
    if others.any():
        label = f"{len(count) - len(most)} others" if len(count) > len(most) else "not known"
        found.append((label, others, {"color": OTHERS, "marker": "."}))
    for kind, colour, marker in zip(most, COLOURS, MARKERS, strict=False):
        found.append((f"{kind} ({count[kind]})", array == kind, {"color": colour, "marker": marker}))
    return found
