"""Parts of a model in another class."""

from __future__ import annotations

import copy

import torch
from torch import nn

from compute.modules import recast


class Doubled(nn.Linear):
    """A linear layer that is none."""


class Other(nn.Linear):
    """What takes a layer's place."""


def test_parts_of_the_class_change_and_nothing_else() -> None:
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.LayerNorm(4), Doubled(4, 4), nn.Sequential(nn.Linear(4, 4), shared))
    model[0].register_forward_hook(lambda *_: None)
    state = copy.deepcopy(model.state_dict())
    assert recast(model, {nn.Linear: Other}) is model
    assert [type(part) for part in model] == [Other, nn.LayerNorm, Doubled, nn.Sequential]
    assert type(model[3][0]) is Other and model[3][1] is shared is model[0]
    assert len(shared._forward_hooks) == 1
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_several_classes_at_once_and_the_model_itself() -> None:
    model = nn.Sequential(nn.Linear(2, 2), Doubled(2, 2), nn.Dropout(0.2))
    recast(model, {nn.Linear: Doubled, Doubled: Other})
    assert [type(part) for part in model] == [Doubled, Other, nn.Dropout]
    assert type(recast(nn.Linear(2, 2), {nn.Linear: Other})) is Other
