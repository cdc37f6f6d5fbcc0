"""Single utterances in the report: what the model drew of some of them, and excerpts of those that it finds hardest."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cache_schema.errors import MerError, SettingsError
from fuse.metrics import Array
from fuse.report.behaviour import said_of
from fuse.report.evidence import Evidence
from fuse.report.figures import FIGURES
from fuse.report.look import Looked, look
from fuse.report.page import Block, Excerpt, Facts, Folded, Section, Text

Excerpts = Callable[[Evidence, str], Excerpt]
"""An excerpt of an utterance of a run, by its id there."""


def figures(
    runs: Sequence[Evidence],
    most: int,
    utterances: Sequence[str] = (),
    store: str | Path | None = None,
    excerpts: Excerpts | None = None,
) -> Section | None:
    """The figures of each run's architecture; None: no run's architecture has any.

    Args:
        runs: what the report is about.
        most: how many utterances of each run, half of them the surest right ones and half the surest wrong ones.
        utterances: ids of these instead.
        store: where the runs' store is now; None: where it was.
        excerpts: gives the media of an utterance; None: none are shown.

    Raises:
        SettingsError: an utterance was tested by no run.
    """
    for id_ in utterances:
        if not any(id_ in e.ids for e in runs):
            near = difflib.get_close_matches(id_, [i for e in runs for i in e.ids], 1)
            hint = f" Did you mean {near[0]!r}?" if near else " The table of predictions in a run's folder has the ids."
            raise SettingsError(f"--utterance {id_}: no run of the report tested it.{hint}")
    blocks: list[Block] = []
    for e in runs:
        if e.run.record.arch not in FIGURES.names():
            continue
        room = FIGURES.load(e.run.record.arch)
        chosen = [i for i in utterances if i in e.ids] if utterances else surest(e, most)
        blocks.append(Text(e.name, "h3"))
        try:
            looked = look(e, chosen, store, room.POOLED, room.CHANGES)
        except MerError as error:
            why = str(error).rstrip(".")
            blocks.append(Text(f"Not drawn: {why}. A store that moved is named with --store.", "warn"))
            continue
        blocks += [*room.whole(looked), *_examples(looked, excerpts)]
    if not blocks:
        return None
    note = (
        "What the models compute on the way to their answers, read once more from the run's weights and store; of "
        "several seeds and folds by the first seed's model, in the fold that tests the utterance. Attention says what "
        "is read, not what decides."
    )
    return Section("figures", "Figures of the architecture", [Text(note), *blocks])


def _examples(looked: Looked, excerpts: Excerpts | None) -> list[Block]:
    e, blocks = looked.evidence, list[Block]()
    room = FIGURES.load(e.run.record.arch)
    seed = e.seen[looked.seed]
    for place, seen in enumerate(looked.examples):
        row = e.ids.index(seen.id)
        facts = [("Truth", said_of(e, e.truth[row])), (f"Seed {looked.seed} says", said_of(e, seed.prediction[row]))]
        if seed.probabilities is not None:
            chances = zip(e.target.classes, seed.probabilities[row].tolist(), strict=True)
            facts.append(("Probabilities", ", ".join(f"{c} {p:.2f}" for c, p in sorted(chances, key=lambda x: -x[1]))))
        if excerpts is None:
            facts.append(("Transcript", seen.utterance.text or "none"))
        missing = [m for m in seen.modalities if not seen.lengths[m]]
        facts += [("Not there", ", ".join(missing))] if missing else []
        own: list[Block] = [Facts(facts)]
        if excerpts is not None:
            own.append(excerpts(e, seen.id))
        own += room.one(seen)
        heading = f"{seen.id}: {_verdict(e, looked.seed, row)}"
        blocks += [Text(heading, "h4"), *own] if place == 0 else [Folded(heading, own)]
    return blocks


def _verdict(e: Evidence, seed: int, row: int) -> str:
    seen = e.seen[seed]
    said, truth = said_of(e, seen.prediction[row]), said_of(e, e.truth[row])
    if e.target.kind == "regression":
        return f"said {said}, truth {truth}"
    sure = _sureness(e, seed)[row]
    return f"said {said}, which is {'right' if said == truth else f'wrong, truth {truth}'} (sure to {sure:.2f})"


def _sureness(e: Evidence, seed: int) -> Array:
    """Of each test utterance (N): the probability of what was said, its mean over the labels where there are several;
    for regression minus the absolute error."""
    seen = e.seen[seed]
    if seen.probabilities is None:
        return -np.abs(np.asarray(seen.prediction, np.float64) - e.truth)
    chances = np.asarray(seen.probabilities, np.float64)
    if e.target.kind == "classification":
        said: Array = chances[np.arange(len(chances)), seen.prediction]
        return said
    each: Array = np.where(seen.prediction == 1, chances, 1 - chances).mean(axis=1)
    return each


def surest(e: Evidence, most: int) -> list[str]:
    """Ids of test utterances of which the first seed is surest, half of them right and half wrong as far as there are
    such; for regression the least and the greatest errors."""
    seed = e.run.record.seeds[0]
    sure = _sureness(e, seed)
    order = np.argsort(-sure, kind="stable").tolist()
    if e.target.kind == "regression":
        first, last = order[: (most + 1) // 2], order[::-1][: most // 2]
        return [e.ids[i] for i in dict.fromkeys([*first, *last])]
    same = e.seen[seed].prediction == e.truth
    right = same if same.ndim == 1 else same.all(axis=1)
    good, bad = ([i for i in order if bool(right[i]) is which] for which in (True, False))
    wrong = bad[: max(most // 2, most - len(good))]
    return [e.ids[i] for i in [*good[: most - len(wrong)], *wrong]]


def hardest_excerpts(runs: Sequence[Evidence], most: int, excerpts: Excerpts) -> list[Block]:
    """What the hardest utterances of each run sound and look like, on request."""
    note = "What follows is of the corpus itself: its terms say whether this file may be passed on."
    blocks: list[Block] = [Text("Excerpts", "h3"), Text(note)]
    for e in runs:
        mean = e.losses.mean(axis=0)
        for i in np.argsort(-mean, kind="stable")[:most].tolist():
            words = f"{e.name}, {e.ids[i]}: truth {said_of(e, e.truth[i])}, mean loss {mean[i]:.3f}"
            blocks.append(Folded(words, [excerpts(e, e.ids[i])]))
    return blocks
