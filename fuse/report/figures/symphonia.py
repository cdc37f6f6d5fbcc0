"""SYMPHONIA's figures 2 to 9, from a run. Figure 10 is drawn with the ablation, 11 are the examples themselves."""

from __future__ import annotations

import math

import numpy as np

from fuse.metrics import Array
from fuse.report.drawings import bars, graph, grids, heat, over_time, points
from fuse.report.look import Looked, Seen
from fuse.report.page import Block, Figure, Side, Text

POOLED = ("face", "text", "c_ft", "c_tf")
CHANGES = {"activation": True}
LEVELS = ("low", "mid", "fusion")
MOST_TOKENS = 32
MOST_FRAMES = 4
LEAST_DIFFERENCE = 1e-6
"""Of two patches' shares, below which they are the same."""
LEAST_POINTS = 5
"""Utterances for a projection."""


def whole(looked: Looked) -> list[Block]:
    """Figure 8: embeddings of face and text before and after alignment; figure 6 over all utterances."""
    blocks: list[Block] = []
    figures = []
    for title, face, text in (
        ("Before alignment: h_T and the text embedding", "face", "text"),
        ("After alignment: c_tf and c_ft", "c_tf", "c_ft"),
    ):
        if face in looked.pooled and len(looked.pooled[face]) >= LEAST_POINTS:
            figures.append(_projection(title, looked.pooled[face], looked.pooled[text]))
    levels = [f"level_{name}" for name in LEVELS]
    if all(name in looked.evidence.drawn for name in levels):
        mean = [float(np.nanmean(looked.evidence.drawn[name])) for name in levels]
        caption = "Fig. 6: mean over test utterances and seeds; they sum to 1."
        figures.append(bars("Contribution of each fusion level", LEVELS, {"mean": mean}, caption, "weight (29)"))
    if figures:
        blocks.append(Side(figures))
    else:
        blocks.append(Text("Embeddings before and after alignment (Fig. 8) need a model of face and text."))
    blocks.append(
        Text(
            "Ablation bars (Fig. 10) stand under robustness and ablations, where --study names one. The examples below "
            "are those of Fig. 11: the surest answers, and beside the right ones wrong ones too."
        )
    )
    return blocks


def _projection(title: str, face: Array, text: Array) -> Figure:
    """Both modalities' vectors of the same utterances (N, d) in one plane."""
    from sklearn.manifold import TSNE

    both = np.concatenate([face, text])
    plane = TSNE(2, perplexity=min(30.0, (len(both) - 1) / 3), init="pca", random_state=0).fit_transform(both)
    lengths = np.linalg.norm(face, axis=1) * np.linalg.norm(text, axis=1)
    cosine = float(((face * text).sum(axis=1) / np.maximum(lengths, 1e-12)).mean())
    caption = f"Fig. 8: t-SNE of {len(face)} test utterances; mean cosine of an utterance's two vectors {cosine:.3f}."
    described = f"{len(face)} points of the face, {len(text)} of text; mean cosine of an utterance's two {cosine:.3f}."
    return points(title, {"face": plane[: len(face)], "text": plane[len(face) :]}, caption, described)


def one(seen: Seen) -> list[Block]:
    """Figures 2 to 7 and 9 of one utterance."""
    figures: list[Figure] = []
    blocks: list[Block] = []
    drawn = seen.drawn
    if seen.lengths.get("vision"):
        frames = np.unique(np.linspace(0, seen.lengths["vision"] - 1, MOST_FRAMES).round().astype(int))
        names = seen.names("vision", seen.lengths["vision"])
        if seen.attention is not None:
            shown = [(names[t], _square(seen.attention[t])) for t in frames]
            figures.append(grids("ViT: attention of the class token", shown, "Fig. 2: last layer, mean over heads."))
        else:
            blocks.append(
                Text(
                    "ViT's attention (Fig. 2) is not drawn: the vision feature does not hold it. Extract vit with "
                    "--set vit.attention=true, and train on that."
                )
            )
        if "mask" in drawn and np.ptp(drawn["mask"]) < LEAST_DIFFERENCE:
            blocks.append(Text("All patches count the same (6): there are no landmarks of this utterance."))
        elif "mask" in drawn:
            shown = [(names[t], _square(drawn["mask"][t])) for t in frames]
            caption = "How much each patch counts (6), from where eyes, brows and mouth are."
            figures.append(grids("Landmark mask", shown, caption))
        times = seen.times.get("vision", np.arange(seen.lengths["vision"], dtype=np.float64))
        clock = "seconds" if "vision" in seen.times else "frame"
        if "activation" in drawn:
            each = drawn["activation"]
            series = {c: each[:, i] for i, c in enumerate(seen.classes)} if each.ndim == 2 else {"prediction": each}
            caption = "Fig. 3: what the head makes of each state of the LSTM alone."
            figures.append(over_time("Activation over time", series, times, caption, clock, "probability"))
        if "gamma_face" in drawn and seen.lengths.get("text"):
            caption = "What the text embedding reads of the states (20, mirrored)."
            figures.append(over_time("Attention to frames", {"gamma": drawn["gamma_face"]}, times, caption, clock, ""))
    count = min(seen.lengths.get("text", 0), MOST_TOKENS)
    if count:
        figures += _of_text(seen, count)
    if "levels" in drawn:
        caption = "Fig. 6: weights (29) of this utterance."
        levels = {"weight": drawn["levels"].tolist()}
        figures.append(bars("Contribution of each fusion level", LEVELS, levels, caption, "weight"))
    if "head_attention" in drawn:
        mean = drawn["head_attention"].mean(axis=0)
        names = [str(i + 1) for i in range(len(mean))]
        caption = "Fig. 9: first layer, mean over heads. The tokens are parts of f_high (33) and have no names."
        figures.append(heat("Attention of the head over its tokens", mean, names, names, caption, "query", "key"))
    return [Side(figures), *blocks]


def _of_text(seen: Seen, count: int) -> list[Figure]:
    drawn, tokens = seen.drawn, seen.names("text", count)
    cut = f" The first {count} tokens." if count < seen.lengths["text"] else ""
    rows = {"salience (18)": drawn["beta"][:count]}
    if "gamma_text" in drawn and seen.lengths.get("vision"):
        rows["from the face (20)"] = drawn["gamma_text"][:count]
    weights = np.stack(list(rows.values()))
    figures = [heat("Attention to tokens", weights, list(rows), tokens, f"Fig. 4: a row for each attention.{cut}")]
    caption = f"Fig. 5: edges of graph attention (15), mean over heads.{cut}"
    figures.append(graph("Graph of the tokens", tokens, drawn["graph"][:count, :count], caption))
    for when, name in (("before", "similarity_before"), ("after", "similarity_after")):
        values = drawn[name][:count, :count]
        ends = (min(0.0, float(values.min())), 1.0)
        caption = f"Fig. 7: cosine similarity of each two tokens.{cut}"
        figures.append(heat(f"Tokens {when} graph attention", values, tokens, tokens, caption, ends=ends))
    return figures


def _square(patches: Array) -> Array:
    """The patches (P) as they lie on the picture."""
    side = math.isqrt(patches.shape[-1])
    return patches.reshape(side, side)
