"""The data card of a dataset in a store: what it is, under which terms, how it was made, what it lacks.

After Gebru et al., "Datasheets for Datasets", CACM 64(12), 2021, arXiv:1803.09010.
"""

from __future__ import annotations

from collections import Counter

from cache_schema.feature import Feature
from cache_schema.responsible_use import PERSONAL, USES
from cache_schema.samples import SPLITS, Target, Utterance
from cache_schema.store import FeatureStore
from extract.encoders import ENCODERS


def data_card(store: FeatureStore, dataset: str) -> str:
    """The card, in Markdown.

    Raises:
        StoreError: there is no such dataset.
    """
    samples = store.samples(dataset)
    corpus, utterances = samples.corpus, samples.utterances
    features = store.features(dataset)
    random = any(feature.spec.random_weights for feature in features)
    trial = "**Some features came from random weights: a trial, not data.**\n\n" if random else ""
    sections = (
        ("Terms", f"Licence of the corpus: {corpus.licence}.\n\n{PERSONAL.strip()}"),
        ("What is in it", _contents(utterances, corpus.targets, corpus.language)),
        ("Features", _features(features)),
        ("What it lacks", _lacks(features)),
        ("What it is for, and what it is not", USES.strip()),
    )
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections)
    return f"# {dataset}: {corpus.title}\n\n{trial}{body}\n"


def _contents(utterances: list[Utterance], targets: tuple[Target, ...], language: str) -> str:
    speakers = {u.speaker for u in utterances if u.speaker is not None}
    seconds = [u.duration for u in utterances if u.duration is not None]
    recognised = sum(u.recognised is not None for u in utterances)
    lines = [f"- {len(utterances)} utterances, {len(speakers)} speakers, language {language}"]
    if seconds:
        lines.append(f"- {sum(seconds) / 3600:.2f} hours ({len(seconds)} utterances have a known duration)")
    counts = Counter(u.split for u in utterances)
    if set(counts) != {None}:
        lines.append("- " + ", ".join(f"{split}: {counts[split]}" for split in SPLITS))
    if recognised:
        lines.append(f"- {recognised} transcripts were recognised by a machine")
    for target in targets:
        if target.kind == "classification":
            labels = Counter(u.labels[target.name] for u in utterances if target.name in u.labels)
            lines.append(f"- {target.name}: " + ", ".join(f"{name} {labels[name]}" for name in target.classes))
        else:
            labelled = sum(any(s.partition("/")[0] == target.name for s in u.scores) for u in utterances)
            lines.append(f"- {target.name} ({target.kind}): {labelled} labelled")
    return "\n".join(lines)


def _features(features: list[Feature]) -> str:
    lines = ["| feature | computed by | weights' licence | fingerprint | done |", "|---|---|---|---|---|"]
    for feature in features:
        spec = feature.spec
        source = spec.checkpoint or spec.encoder
        lines.append(
            f"| {feature.name} | {source}{' (random weights)' if spec.random_weights else ''} | {_licence(feature)} "
            f"| `{feature.fingerprint}` | {feature.status().done} |"
        )
    return "\n".join(lines)


def _licence(feature: Feature) -> str:
    """Of the default checkpoint, where that is what computed it."""
    spec = feature.spec
    if spec.weights_sha256 is None:
        return "no weights"
    hub = ENCODERS.load(feature.name).HUB if feature.name in ENCODERS.names() else None
    return hub.licence if hub is not None and spec.checkpoint == hub.repo else "as their owner says"


def _lacks(features: list[Feature]) -> str:
    lines = []
    for feature in features:
        status = feature.status()
        parts = {"failed": status.failed, "have nothing of it": status.absent, "not extracted yet": status.missing}
        said = ", ".join(f"{count} {what}" for what, count in parts.items() if count)
        if said:
            lines.append(f"- {feature.name}: {said}")
    return "\n".join(lines) or "Nothing: every utterance has every feature."


def put_card(store: FeatureStore, dataset: str) -> None:
    """Write the card into the store, for people who look there; it replaces the last one.

    Raises:
        StoreError: it cannot be written.
    """
    key, data = f"cards/{dataset}.md", data_card(store, dataset).encode()
    if store.storage.get(key) == data:
        return
    store.storage.delete(key)
    store.storage.put_if_absent(key, data)
