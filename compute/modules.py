"""Parts of a model that compute the same in another way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def recast(model: Module, classes: Mapping[type[nn.Module], type[nn.Module]]) -> Module:
    """The same model, its parts of one class turned into another; parameters, their names and all else stay.

    Args:
        model: any, changed in place.
        classes: a class -> the one that takes its place, which must keep the same attributes; parts of a subclass stay
            what they are.
    """
    for part in model.modules():
        part.__class__ = classes.get(type(part), type(part))
    return model
