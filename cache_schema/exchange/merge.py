"""Imported samples beside those that the store has: ids' own parts, official folds, and no contradiction."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from cache_schema.errors import DataError, SettingsError
from cache_schema.exchange.foreign import Description, Foreign, read_json, split_named
from cache_schema.parts import Samples
from cache_schema.samples import Corpus, Split, Target, Utterance

NewSamples = Literal["refuse", "add", "skip"]
_GROUPS = ("dialogue", "turn", "speaker")


def with_id_parts(utterances: Sequence[Utterance], pattern: str | None) -> list[Utterance]:
    """Fill what an utterance does not say from its id.

    Args:
        utterances: as the files have them.
        pattern: regular expression for whole ids with the groups dialogue, turn or speaker; None: nothing is filled.

    Raises:
        SettingsError: it is no regular expression, or has other groups.
        DataError: an id does not match, or its turn is no number.
    """
    if pattern is None:
        return list(utterances)
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise SettingsError(f"id_pattern = {pattern!r} is no regular expression: {error}.") from error
    if not compiled.groupindex or set(compiled.groupindex) - set(_GROUPS):
        raise SettingsError(f"id_pattern = {pattern!r}: its named groups must be some of {', '.join(_GROUPS)}.")
    return [_with_parts(utterance, compiled) for utterance in utterances]


def _with_parts(utterance: Utterance, pattern: re.Pattern[str]) -> Utterance:
    match = pattern.fullmatch(utterance.id)
    if match is None:
        raise DataError(f"The id {utterance.id!r} does not match id_pattern {pattern.pattern!r}.")
    parts: dict[str, Any] = {k: v for k, v in match.groupdict().items() if v and getattr(utterance, k) is None}
    if "turn" in parts:
        if not re.fullmatch(r"[0-9]{1,18}", parts["turn"]):
            raise DataError(f"The id {utterance.id!r} gives the turn {parts['turn']!r}, which is no number.")
        parts["turn"] = int(parts["turn"])
    return utterance.model_copy(update=parts)


def with_folds(utterances: Sequence[Utterance], folds: str | None) -> list[Utterance]:
    """Give each utterance the split in which a file of folds lists its id or its dialogue.

    Args:
        utterances: what to split.
        folds: a JSON file {split: [id or dialogue, ...]}, or "FILE:KEY" for such an object under a key of the file;
            None: the utterances keep their splits. What is in no fold has no split.

    Raises:
        DataError: the file is no such file, lists something in two splits, or none of the utterances.
    """
    if folds is None:
        return list(utterances)
    file, _, key = (folds, "", "") if Path(folds).exists() else folds.rpartition(":")
    document = read_json(Path(file or folds))
    if key:
        document = document.get(key) if isinstance(document, dict) else None
    if not isinstance(document, dict) or not all(isinstance(names, list) for names in document.values()):
        raise DataError(f"{folds} is no object {{split: [id, ...]}}; name the key that holds it as FILE:KEY.")
    split_of: dict[str, Split] = {}
    for name, members in document.items():
        split = split_named(name, folds)
        for member in map(str, members):
            if split_of.setdefault(member, split) != split:
                raise DataError(f"{folds}: {member!r} is in {split_of[member]} and in {split}.")
    found = [split_of.get(u.id) or split_of.get(u.dialogue or "") for u in utterances]
    if not any(found):
        raise DataError(
            f"{folds} lists none of the samples, nor a dialogue of them, as {utterances[0].id!r}: is it of another "
            "dataset, or does the import need an id_pattern with the dialogue?"
        )
    return [u.model_copy(update={"split": split}) for u, split in zip(utterances, found, strict=True)]


def corpus_of(dataset: str, foreign: Foreign, config: Description) -> Corpus:
    """The description of a new dataset: what the files say, then what the settings say.

    Raises:
        DataError: the labels are not those of the targets.
    """
    if foreign.corpus is not None:
        corpus = foreign.corpus.model_copy(update={"name": dataset})
    else:
        corpus = Corpus(
            name=dataset,
            title=config.title or f"{dataset}, imported",
            licence=config.licence or "not known: it was imported without its terms",
            language=config.language,
            targets=foreign.targets,
        )
    for target in corpus.targets:
        _require_known_classes(target, foreign.utterances)
    return corpus


def _require_known_classes(target: Target, utterances: Sequence[Utterance]) -> None:
    if target.kind != "classification":
        return
    for utterance in utterances:
        label = utterance.labels.get(target.name)
        if label is not None and label not in target.classes:
            raise DataError(f"{utterance.id}: {label!r} is no class of {target.name} ({', '.join(target.classes)}).")


def new_rows(stored: Samples, given: Sequence[Utterance], policy: NewSamples) -> tuple[list[Utterance], list[str]]:
    """The utterances that a dataset lacks, and notes about the others.

    A sample that is there keeps its row, since its features are those of that row: what the import says of it
    beyond that is not taken, and what it says against it is refused.

    Args:
        stored: the dataset as it is.
        given: what is imported.
        policy: whether samples that the dataset does not have are refused, added or skipped.

    Raises:
        DataError: a fact in the import is another one than in the store, or there are new samples to be refused.
    """
    new = [u for u in given if u.id not in stored]
    if new and policy == "refuse":
        raise DataError(
            f"{stored.corpus.name}: {len(new)} of {len(given)} samples are not in the store's dataset of "
            f"{len(stored)}, the first is {new[0].id!r} (the store has {next(iter(stored.ids), None)!r}). "
            "Add or leave them with --new-samples add or skip, or give the dataset another name."
        )
    lacking: dict[str, int] = {}
    for utterance in given:
        if utterance.id in stored:
            for fact in _more_than(stored[utterance.id], utterance):
                lacking[fact] = lacking.get(fact, 0) + 1
    notes = [
        f"{count} samples that the store has keep their rows without the import's {fact}."
        for fact, count in lacking.items()
    ]
    if new and policy == "skip":
        notes.append(f"{len(new)} samples that the dataset does not have were left out, the first is {new[0].id!r}.")
    return (new if policy == "add" else []), notes


def _more_than(stored: Utterance, given: Utterance) -> list[str]:
    """The facts that `given` has and `stored` lacks; one that differs is refused."""
    before, after = _facts(stored), _facts(given)
    for fact, value in after.items():
        if before.get(fact, value) != value:
            raise DataError(
                f"{given.id}: the import says {fact} = {value!r}, and the store has {before[fact]!r}: is it another "
                "dataset, or another release? Import it under another name."
            )
    return [fact for fact in after if fact not in before]


def _facts(utterance: Utterance) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for name in type(utterance).model_fields:
        value = getattr(utterance, name)
        if isinstance(value, dict):
            facts.update({f"{name}.{key}": inner for key, inner in value.items()})
        elif value is not None and name != "id":
            facts[name] = value
    return facts
