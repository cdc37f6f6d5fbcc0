"""What an architecture is, as plain data: what `mer fuse archs` and `mer fuse show` print."""

from __future__ import annotations

import ast
from dataclasses import asdict
from typing import Any

from cache_schema.samples import Target
from cache_schema.settings import Spec
from fuse.archs import ARCHS

EXAMPLE = Target(
    name="emotion",
    kind="classification",
    classes=("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise"),
)


def list_archs() -> list[dict[str, str]]:
    """Name, kind (architecture or baseline) and first sentence of each; imports none of them."""
    found = []
    for name in ARCHS.names():
        head = ast.get_docstring(ast.parse(ARCHS.path(name).read_text("utf-8"))) or ""
        found.append({"name": name, "kind": ARCHS.part(name).kind, "summary": head.partition("\n")[0]})
    return found


def describe(arch: str) -> dict[str, Any]:
    """All there is to know about an architecture before training it.

    Returns:
        arch; paper, the head of its file; modalities, with the features preferred for each; companions, each as
        `fuse.arch.Companion` has it; settings and training, each a list of name, type, default and meaning; ablations;
        parameters by block and in all, counted for `inputs`, the paper's shapes, and seven classes.
    """
    module = ARCHS.load(arch)
    network = module.build(module.Config(), module.INPUTS, EXAMPLE)
    blocks = {name: sum(p.numel() for p in block.parameters()) for name, block in network.named_children()}
    return {
        "arch": arch,
        "paper": module.__doc__,
        "modalities": {modality: list(names) for modality, names in module.PREFERS.items()},
        "companions": {name: asdict(companion) for name, companion in getattr(module, "COMPANIONS", {}).items()},
        "settings": fields(module.Config()),
        "training": fields(module.TRAINING),
        "ablations": module.ABLATIONS,
        "inputs": {modality: list(tail) for modality, tail in module.INPUTS.items()},
        "parameters": {name: count for name, count in blocks.items() if count}
        | {"all": sum(p.numel() for p in network.parameters())},
    }


def fields(spec: Spec) -> list[dict[str, Any]]:
    """Name, type, default and meaning of each field, with this instance's values as the defaults."""
    values = spec.model_dump(mode="json")
    types = type(spec).model_json_schema()["properties"]
    return [
        {"name": name, "type": _type_name(types[name]), "default": values[name], "meaning": facts.description}
        for name, facts in type(spec).model_fields.items()
    ]


def _type_name(schema: dict[str, Any]) -> str:
    """A type in words: its choices, or its JSON name with its limits."""
    if "anyOf" in schema:
        return " | ".join(_type_name(choice) for choice in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(str(choice) for choice in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    if schema.get("type") == "array":
        return f"list of {_type_name(schema.get('items', {'type': 'value'}))}"
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[key]}" for key, sign in signs.items() if key in schema]
    return " ".join([str(schema.get("type", "value")), *limits])
