"""Which utterances a model is trained, chosen and tested on: official splits, folds by group, another corpus.

A group is what may not be on two sides of a cut: a speaker, a session, a subject, a dialogue. It is a field of the
utterance, or what a pattern finds in one (`Protocol.groups`). A validation part that a dataset does not have is cut
from train by group too, so that nobody is in both.

Each `Cut` holds rows of a list of utterances. The rows of test go into nothing but the test split.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field, field_validator

from cache_schema.errors import DataError, SettingsError
from cache_schema.registry import unknown_name
from cache_schema.samples import SPLITS, Utterance
from cache_schema.settings import Spec

OFFICIAL = "official"
KINDS = (OFFICIAL, "kfold", "loso")
VAL_SHARE = 0.15
GROUP_FIELDS = ("id", "speaker", "dialogue", "path")
KNOWN_GROUPS = {"speaker": "speaker", "subject": "speaker", "dialogue": "dialogue", "session": r"id:^Ses\d+"}
"""Groups that need no declaration; the sessions are those of IEMOCAP's file names, as in Ses01F_impro01_F000."""


class Protocol(Spec):
    """How a dataset is split. Recorded with every run."""

    folds: str = OFFICIAL
    """official: the dataset's own splits; kfold:GROUP:K: every group is tested in one of K folds; loso:GROUP: a fold
    per group (leave one speaker, session or subject out)."""
    val: str = ""
    """GROUP:SHARE, as dialogue:0.1: how validation is cut from train. Empty: the official one, where there is none
    0.15 of the dialogues or else speakers; with folds, 0.15 of the groups that the folds are made of."""
    groups: dict[str, str] = Field(default_factory=dict)
    """Further groups: name -> FIELD, or FIELD:PATTERN, what a regular expression (its first group, if it has one) finds
    in id, speaker, dialogue or path, as {"session": "id:^Ses[0-9]+"}."""
    test_on: str = ""
    """Another dataset, whose test split is the test split; training and validation are the first one's."""
    labels: dict[str, str] = Field(default_factory=dict)
    """What classes are called across datasets: DATASET/CLASS, or CLASS of any of them, -> common name; others keep
    theirs. A class without a partner in the other dataset of `test_on` is left out, and counted."""

    @field_validator("folds")
    @classmethod
    def _folds(cls, text: str) -> str:
        kind, *rest = text.split(":")
        numbered = kind == "kfold" and len(rest) == 2 and rest[1].isdecimal() and int(rest[1]) >= 2
        if kind not in KINDS:
            raise ValueError(unknown_name("protocol", kind, list(KINDS)))
        if text != OFFICIAL and not numbered and not (kind == "loso" and len(rest) == 1 and rest[0]):
            raise ValueError("it is not official, kfold:GROUP:K with K of 2 or more, or loso:GROUP")
        return text

    @field_validator("val")
    @classmethod
    def _val(cls, text: str) -> str:
        group, _, share = text.partition(":")
        if text and not (group and re.fullmatch(r"0?\.\d+", share) and float(share) > 0):
            raise ValueError("it is not of the form GROUP:SHARE, as dialogue:0.1")
        return text

    @field_validator("groups")
    @classmethod
    def _groups(cls, groups: dict[str, str]) -> dict[str, str]:
        for rule in groups.values():
            field, _, pattern = rule.partition(":")
            if field not in GROUP_FIELDS:
                raise ValueError(unknown_name("field to group by", field, list(GROUP_FIELDS)))
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression ({error})") from error
        return groups

    @property
    def official(self) -> bool:
        """Whether the dataset's own test split is the test split."""
        return self.folds == OFFICIAL

    @property
    def whole(self) -> bool:
        """Whether what lies in no official split is used too."""
        return not self.official


@dataclass(frozen=True)
class Cut:
    """One fold: rows of the utterances that are trained on, chosen on and tested on; `name` says what is tested."""

    name: str
    train: list[int]
    val: list[int]
    test: list[int]


def cuts(where: str, utterances: Sequence[Utterance], protocol: Protocol, testless: bool = False) -> list[Cut]:
    """The folds of a protocol, one for the official splits.

    Args:
        where: what the utterances are, for messages.
        utterances: those that can be used.
        protocol: how.
        testless: no test rows are expected, since they lie elsewhere or were not even read.

    Raises:
        DataError: a part would be empty, a group cannot be told, or there are too few groups.
        SettingsError: the protocol names a group that there is not, or validation would be cut where there is one.
    """
    rows = list(range(len(utterances)))
    if protocol.official:
        parts: dict[str | None, list[int]] = {split: [] for split in (*SPLITS, None)}
        for row in rows:
            parts[utterances[row].split].append(row)
        if protocol.val and parts["val"]:
            raise SettingsError(f"{where} has an official validation split of {len(parts['val'])}: leave --val out.")
        for split in ("train",) if testless else ("train", "test"):
            if not parts[split]:
                raise DataError(
                    f"{where} has no utterances to use in its {split} split. Folds need no official ones: see "
                    "--protocol kfold:speaker:5."
                )
        train, val = parts["train"], parts["val"]
        if not val:
            train, val = _without_val(where, utterances, train, protocol, None)
        return [Cut(OFFICIAL, train, val, parts["test"])]
    kind, group, *count = protocol.folds.split(":")
    names = [group_of(u, group, protocol.groups) for u in utterances]
    found = []
    for name, tested in _folds(where, names, group, int(count[0]) if kind == "kfold" else None):
        held = set(tested)
        train, val = _without_val(where, utterances, [r for r in rows if r not in held], protocol, group)
        found.append(Cut(name, train, val, tested))
    return found


def group_of(utterance: Utterance, group: str, declared: Mapping[str, str]) -> str:
    """The name of the group that an utterance belongs to.

    Raises:
        SettingsError: nothing is known about such a group.
        DataError: the utterance does not tell.
    """
    known = {**KNOWN_GROUPS, **declared}
    if group not in known:
        raise SettingsError(
            unknown_name("group", group, list(known)) + f" Declare it, as --group '{group}=id:^Ses[0-9]+'."
        )
    field, _, pattern = known[group].partition(":")
    text = getattr(utterance, field)
    if text is None:
        raise DataError(f"{utterance.id} has no {field}, so its {group} is not known.")
    if not pattern:
        return str(text)
    match = re.search(pattern, text)
    if match is None:
        raise DataError(
            f"{utterance.id}: the {group} is what {pattern!r} finds in the {field}, and it finds nothing in {text!r}. "
            f"Declare it, as --group '{group}=id:PATTERN'."
        )
    return match.group(1) if match.re.groups else match.group(0)


def _folds(where: str, names: Sequence[str], group: str, count: int | None) -> Iterator[tuple[str, list[int]]]:
    """Name and test rows of each fold: one per group, or `count` of about equal sizes."""
    from sklearn.model_selection import GroupKFold

    present = sorted(set(names))
    if len(present) < (count or 2):
        raise DataError(f"{where} has {len(present)} of {group}, too few for {count or 'leaving one of them out'}.")
    if count is None:
        for name in present:
            yield name, [row for row, of in enumerate(names) if of == name]
        return
    for number, (_, tested) in enumerate(GroupKFold(count).split(np.zeros(len(names)), groups=names), start=1):
        yield f"fold {number}", tested.tolist()


def _without_val(
    where: str, utterances: Sequence[Utterance], rows: list[int], protocol: Protocol, group: str | None
) -> tuple[list[int], list[int]]:
    """`rows` in two: training, and validation cut from it by group; always the same cut."""
    from sklearn.model_selection import GroupShuffleSplit

    share = VAL_SHARE
    if protocol.val:
        group, _, text = protocol.val.partition(":")
        share = float(text)
    elif group is None:
        known = [g for g in ("dialogue", "speaker") if all(getattr(utterances[r], g) is not None for r in rows)]
        if not known:
            raise DataError(
                f"{where} has no utterances to use in its val split, and neither dialogues nor speakers by which one "
                "could be cut from train. Declare a group and cut by it, as --group 'take=id:^[^_]+' --val take:0.15."
            )
        group = known[0]
    names = [group_of(utterances[r], group, protocol.groups) for r in rows]
    if len(set(names)) < 2:
        raise DataError(f"{where}: training has one {group}, so no validation part can be cut from it by {group}.")
    groups = len(set(names))
    held = min(max(round(share * groups), 1), groups - 1)
    ((train, val),) = GroupShuffleSplit(1, test_size=held, random_state=0).split(np.zeros(len(rows)), groups=names)
    return [rows[i] for i in train.tolist()], [rows[i] for i in val.tolist()]
