"""What HFF's equations compute on the way, from a run. Its paper draws one result, the confusion matrix (Fig. 5)."""

from __future__ import annotations

import numpy as np

from fuse.metrics import Array
from fuse.report.drawings import bars, heat, over_time
from fuse.report.look import Looked, Seen
from fuse.report.page import Block, Figure, Side, Text

POOLED = ()
CHANGES: dict[str, object] = {}


def whole(looked: Looked) -> list[Block]:
    """Where figure 5 is."""
    kind = looked.evidence.target.kind
    return [Text("The confusion matrix (Fig. 5) stands under results by class.")] if kind == "classification" else []


def one(seen: Seen) -> list[Block]:
    """Weights of the modalities, attention and the weights over time of one utterance."""
    drawn, figures = seen.drawn, list[Figure]()
    for name, title, caption in (
        ("alpha", "Dynamic weights", "Equation 17, over the utterance's own steps."),
        ("precision", "Share of the precision", "Weights of equation 19: how sure each modality is."),
    ):
        if name in drawn and len(seen.modalities) > 1:
            figures.append(_shares(title, drawn[name], seen, caption))
    steps = [str(i + 1) for i in range(len(drawn["beta"]))]
    if "attention" in drawn:
        mean = drawn["attention"].mean(axis=0)
        columns = steps
        if mean.shape[1] != len(steps):  # over the modalities' streams
            columns = [f"{m} {s}" for s in steps for m in seen.modalities]
        caption = "Equations 21 to 23: first layer, mean over heads."
        figures.append(heat("Attention of level 2", mean, steps, columns, caption, "step", "reads step"))
    caption = "Equation 28: what each step counts in the utterance's vector."
    figures.append(bars("Weights over time", steps, {"beta": drawn["beta"].tolist()}, caption, "beta"))
    return [Side(figures)]


def _shares(title: str, values: Array, seen: Seen, caption: str) -> Figure:
    """Weights (T, M) as lines, of a single step as bars."""
    if len(values) == 1:
        return bars(title, seen.modalities, {"weight": values[0].tolist()}, caption, "weight")
    series = {m: values[:, i] for i, m in enumerate(seen.modalities)}
    return over_time(title, series, np.arange(1.0, len(values) + 1), caption, "step", "weight")
