"""What the dual-fusion framework computes on the way, from a run: graph, cross-attention, routing and late fusion."""

from __future__ import annotations

import numpy as np

from fuse.metrics import Array
from fuse.report.drawings import bars, heat
from fuse.report.look import Looked, Seen
from fuse.report.page import Block, Figure, Side, Text

POOLED = ()
CHANGES: dict[str, object] = {}
BRANCHES = {"cross": "cross-attention", "sum_product": "sum-product"}
MOST_EXPERTS = 12


def whole(looked: Looked) -> list[Block]:
    """How often each expert is chosen stands with the weights."""
    return [Text("How often each expert is chosen stands under modality weights and gates.")]


def one(seen: Seen) -> list[Block]:
    """The graph, what text and speech read of each other, where both branches send the utterance and what they say."""
    drawn, figures = seen.drawn, list[Figure]()
    partners = {"text": "speech", "speech": "text"}
    for branch, title in BRANCHES.items():
        if f"{branch}_graph" in drawn and seen.lengths.get("text") and seen.lengths.get("speech"):
            caption = "Algorithm 3: how much of each frame within its word a token reads, first layer."
            figures.append(
                _matrix(f"Graph of the {title} branch", drawn[f"{branch}_graph"], "text", "speech", seen, caption)
            )
    for modality, other in partners.items():
        name = f"attention_{modality}"
        if name in drawn and seen.lengths.get(modality) and seen.lengths.get(other):
            caption = "Algorithm 4: first layer, mean over heads."
            mean = drawn[name].mean(axis=0)
            figures.append(_matrix(f"Attention from {modality} to {other}", mean, modality, other, seen, caption))
    for branch, title in BRANCHES.items():
        if f"{branch}_gate" in drawn:
            gate = drawn[f"{branch}_gate"]
            order = np.argsort(-gate, kind="stable")[:MOST_EXPERTS]
            rows = [f"expert {i}" for i in order]
            caption = (
                f"The router's probabilities{f', the {MOST_EXPERTS} likeliest' if len(gate) > MOST_EXPERTS else ''}."
            )
            figures.append(bars(f"Routing of the {title} branch", rows, {"gate": gate[order].tolist()}, caption, ""))
    said = {title: drawn[f"{b}_probability"] for b, title in BRANCHES.items() if f"{b}_probability" in drawn}
    numbers = {title: float(drawn[f"{b}_prediction"]) for b, title in BRANCHES.items() if f"{b}_prediction" in drawn}
    caption = "Each branch alone."
    if "fusion" in drawn:
        shares = ", ".join(f"{v:.2f}" for v in drawn["fusion"])
        caption += f" Late fusion gives the cross-attention branch {shares}."
    if said:
        each = {title: values.tolist() for title, values in said.items()}
        figures.append(bars("What the branches say", seen.classes, each, caption, "probability"))
    if numbers:
        figures.append(bars("What the branches say", list(numbers), {"said": list(numbers.values())}, caption, ""))
    return [Side(figures)]


def _matrix(title: str, values: Array, rows: str, columns: str, seen: Seen, caption: str) -> Figure:
    names = seen.names(rows, values.shape[0]), seen.names(columns, values.shape[1])
    return heat(title, values, *names, caption, rows, columns)
