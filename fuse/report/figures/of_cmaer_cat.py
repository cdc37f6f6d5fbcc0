"""OF-CMAER-CAT's figures 2 and 4, from a run, and what its alignment and weights compute on the way.

Figure 3 compares models: that is the report's own comparison of runs.
"""

from __future__ import annotations

from fuse.report.drawings import bars, heat
from fuse.report.look import Looked, Seen
from fuse.report.page import Block, Figure, Side

POOLED = ()
CHANGES: dict[str, object] = {}
OVERALL = {"accuracy": 0.941, "precision": 0.948, "recall": 0.932, "macro_f1": 0.936, "uar": 0.929}
"""Figure 4 and table 3, means over the paper's three datasets."""
DATASETS = {"iemocap": 0.932, "mosei": 0.945, "deap": 0.946}
"""Figure 2, accuracies."""


def whole(looked: Looked) -> list[Block]:
    """Figures 2 and 4: accuracy by dataset and overall performance, beside the paper's."""
    found = looked.evidence.run.metrics
    named = {m: found["test"][m]["mean"] for m in OVERALL if m in found["test"]}
    if not named:
        return []
    caption = "Fig. 4: test, mean over the seeds; the paper's are means over its three datasets."
    series = {"ours": list(named.values()), "paper": [OVERALL[m] for m in named]}
    figures = [bars("Overall performance", list(named), series, caption, "")]
    own = {name: each["accuracy"]["mean"] for name, each in found.get("by_dataset", {}).items()}
    own = own or {looked.evidence.run.protocol.test_on or looked.evidence.run.record.dataset: named["accuracy"]}
    rows = [*own, *(name for name in DATASETS if name not in own)]
    series = {"ours": [own.get(name) for name in rows], "paper": [DATASETS.get(name) for name in rows]}
    caption = "Fig. 2: accuracy; what has no bar was not measured."
    return [Side([*figures, bars("Accuracy by dataset", rows, series, caption, "accuracy")])]


def one(seen: Seen) -> list[Block]:
    """Weights of the modalities, which aligns with which, and the attention from each to each."""
    drawn, figures = seen.drawn, list[Figure]()
    there = [m for m in seen.modalities if seen.lengths[m]]
    series = {"weight (10)": drawn["weights"].tolist()}
    gates = [float(drawn[f"gate_{m}"]) for m in seen.modalities if f"gate_{m}" in drawn]
    if gates:
        series["mean gate (7)"] = gates
    caption = "What each modality counts, and how far its gate lets the others in."
    figures.append(bars("Weights and gates", seen.modalities, series, caption, ""))
    if "alpha" in drawn:
        caption = "Equation 6: what modality j (column) counts for modality i (row)."
        figures.append(
            heat("Compatibility of the modalities", drawn["alpha"], seen.modalities, seen.modalities, caption)
        )
    for i in there:
        for j in there:
            if f"attention_{i}_{j}" in drawn:
                values = drawn[f"attention_{i}_{j}"]
                rows, columns = seen.names(i, values.shape[0]), seen.names(j, values.shape[1])
                caption = "Equation 4: where each step of one modality looks in the other."
                figures.append(heat(f"Attention from {i} to {j}", values, rows, columns, caption, i, j))
    return [Side(figures)]
