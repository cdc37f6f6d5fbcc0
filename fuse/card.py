"""The model card of a run: what it was trained on, what it gave, what it is not for.

After Mitchell et al., "Model Cards for Model Reporting", FAT* 2019, arXiv:1810.03993. Everything in it comes from the
run's own documents, so that it says nothing that was not recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cache_schema.responsible_use import USES
from cache_schema.samples import Target
from fuse.run import RunRecord

CARD = "README.md"
WEAK = 0.5
"""A class of a lower mean F1 is named among the limits."""


def model_card(record: RunRecord, metrics: Mapping[str, Any], use: str) -> str:
    """The card, in Markdown with the metadata that the Hugging Face hub reads.

    Args:
        record: the run's run.json.
        metrics: its metrics.json.
        use: a line of Python that loads the model.
    """
    datasets = ", ".join(record.dataset.split(","))
    sections = (
        ("Use", f"```python\n{use}\n```"),
        ("Results", _results(record, metrics)),
        ("Training data", _data(record)),
        ("Inputs", _inputs(record)),
        ("Limits", _limits(record, metrics)),
        ("What it is for, and what it is not", USES.strip()),
        ("How it was made", _provenance(record)),
    )
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections)
    trial = "**Its features came from random weights: a trial, not a result.**\n\n" if record.random_weights else ""
    return f"{_metadata(record)}\n# {record.arch} on {datasets}\n\n{trial}{_summary(record)}\n\n{body}\n"


def _metadata(record: RunRecord) -> str:
    tags = ["emotion-recognition", "multimodal", record.arch]
    return f"---\nlibrary_name: mer\ntags: [{', '.join(tags)}]\n---\n"


def _summary(record: RunRecord) -> str:
    target = record.target
    what = {"classification": "one of", "multilabel": "any of"}.get(target.kind)
    named = f"{what} {', '.join(target.classes)}" if what else "a number" + _range(target)
    return (
        f"Predicts *{target.name}* ({named}) of an utterance from its {', '.join(record.features)}. "
        f"{record.parameters:,} parameters; {len(record.seeds)} seeds were trained and all are here."
    )


def _range(target: Target) -> str:
    return "" if target.low is None or target.high is None else f" from {target.low:g} to {target.high:g}"


def _results(record: RunRecord, metrics: Mapping[str, Any]) -> str:
    lines = ["| metric | test, mean ± sd over seeds | 95% interval of the mean |", "|---|---|---|"]
    for name, value in metrics["test"].items():
        mean, half = value["mean"], value["ci95"]
        interval = "one seed has none" if half is None else f"{mean - half:.4f} to {mean + half:.4f}"
        spread = "" if value["sd"] is None else f" ± {value['sd']:.4f}"
        lines.append(f"| {name} | {mean:.4f}{spread} | {interval} |")
    return "\n".join(lines) + "\n\nEpochs were chosen on validation; the test split was measured once per seed."


def _data(record: RunRecord) -> str:
    lines = [f"- {c['title']}; licence: {c['licence']}; language: {c['language']}" for c in record.corpora]
    lines += [f"- {split}: {facts['utterances']} utterances" for split, facts in record.splits.items()]
    if len(record.folds) > 1:
        lines.append(f"- {len(record.folds)} folds: {', '.join(str(fold['name']) for fold in record.folds)}")
    if record.left_out.get("without_label"):
        lines.append(f"- {record.left_out['without_label']} utterances without a label were left out")
    return "\n".join(lines)


def _inputs(record: RunRecord) -> str:
    lines = []
    for name, feature in {**record.features, **record.companions}.items():
        spec = feature.get("spec", {})
        source = spec.get("checkpoint") or spec.get("encoder") or ""
        weights = f", weights sha256 {spec['weights_sha256'][:16]}" if spec.get("weights_sha256") else ""
        random = ", random weights" if feature.get("random_weights") else ""
        lines.append(f"- {name}: {feature['name']} ({source}{weights}{random}), fingerprint `{feature['fingerprint']}`")
    return "\n".join(lines)


def _limits(record: RunRecord, metrics: Mapping[str, Any]) -> str:
    languages = sorted({str(c["language"]) for c in record.corpora})
    lines = [
        f"- It knows the language of its data ({', '.join(languages) or 'not recorded'}), its speakers and its "
        "recording conditions; nothing was measured on others.",
        "- Its labels are what annotators agreed on; where they did not, there is no truth to be measured against.",
    ]
    weak = _weakest(metrics.get("per_seed", []))
    if weak:
        shown = ", ".join(f"{name} ({value:.2f})" for name, value in weak)
        lines.append(f"- Classes with a mean F1 below {WEAK:g} on test: {shown}.")
    lines += [f"- Without {name}: {why}." for name, why in record.without.items()]
    if record.degraded:
        lines.append(f"- Trained on data that were degraded on purpose: {record.degraded}.")
    return "\n".join(lines)


def _weakest(per_seed: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
    """Classes and their mean F1 on test where it is low, the lowest first."""
    scores: dict[str, list[float]] = {}
    for seed in per_seed:
        for name, figures in seed.get("tables", {}).get("test", {}).get("per_class", {}).items():
            scores.setdefault(name, []).append(float(figures["f1"]))
    means = {name: sum(values) / len(values) for name, values in scores.items()}
    return sorted(((n, m) for n, m in means.items() if m < WEAK), key=lambda pair: pair[1])


def _provenance(record: RunRecord) -> str:
    lines = [
        f"- command: `{' '.join(record.command)}`",
        f"- {record.created}, {record.seconds:.0f} s on {record.hardware.get('name', record.device)}",
        f"- seeds: {', '.join(map(str, record.seeds))}",
        f"- data: sha256 `{record.store_digest}`",
        f"- versions: {', '.join(f'{name} {version}' for name, version in record.versions.items())}",
        "- settings and digests of every split: `run.json`",
    ]
    return "\n".join(lines)
