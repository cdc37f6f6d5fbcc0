"""Pages that are made from the code: one per dataset, encoder, architecture and baseline, and lists of them.

mkdocs calls `on_files`. A file that is added to a registry's folder has its page without another word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from extract.datasets import DATASETS
from extract.encoders import ENCODERS
from fuse.describe import describe, list_archs


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def pages() -> dict[str, str]:
    """Path below docs/ -> Markdown."""
    found = {f"datasets/{name}.md": dataset(name) for name in DATASETS.names()}
    found |= {f"encoders/{name}.md": encoder(name) for name in ENCODERS.names()}
    archs = list_archs()
    found |= {f"architectures/{arch['name']}.md": architecture(arch) for arch in archs}
    return found


def dataset(name: str) -> str:
    """A dataset's page: what it is, where its files go, its defects."""
    module = DATASETS.load(name)
    return (
        f"# {name}\n\n{module.SUMMARY}\n\n## What to put where\n\n```text\n{module.LAYOUT.strip()}\n```\n\n"
        f"`ROOT` is `--root`, else `$MER_DATA/{name}`.\n\n## Provenance, counts and known defects\n\n"
        f"{prose(module.__doc__ or '')}\n"
    )


def encoder(name: str) -> str:
    """An encoder's page: its checkpoint, what it stores, every setting."""
    module = ENCODERS.load(name)
    hub = module.HUB
    weights = (
        f"`{hub.repo}` of the Hugging Face hub, {hub.parameters / 1e6:.1f} M parameters, {hub.licence}"
        if hub is not None
        else "none needed"
    )
    rows = []
    for field, info in module.Config.model_fields.items():
        default = "given by the run" if info.is_required() else f"`{info.default!r}`"
        rows.append([f"`{field}`", default, oneline(info.description or "")])
    return (
        f"# {name}\n\n{module.SUMMARY}\n\n- modality: {module.MODALITY}\n- weights: {weights}\n\n"
        f"## What it computes\n\n{prose(module.__doc__ or '')}\n\n## Settings\n\n"
        f"Set with `--set {name}.FIELD=VALUE`.\n\n{table(['setting', 'default', 'meaning'], rows)}\n"
    )


def architecture(listed: Mapping[str, Any]) -> str:
    """An architecture's page: paper, readings, inputs, settings, training, ablations, size."""
    found = describe(listed["name"])
    settings, training = (
        table(
            ["setting", "type", "default", "meaning"],
            [[f"`{s['name']}`", s["type"], f"`{s['default']!r}`", oneline(s["meaning"])] for s in found[which]],
        )
        for which in ("settings", "training")
    )
    inputs = table(
        ["modality", "features, best first", "frame in the paper"],
        [[m, ", ".join(names), str(tuple(found["inputs"].get(m, ())))] for m, names in found["modalities"].items()],
    )
    sizes = table(["block", "parameters"], [[block, f"{count:,}"] for block, count in found["parameters"].items()])
    ablations = "\n".join(f"- {name}: `{fields}`" for name, fields in found["ablations"].items()) or "None."
    return (
        f"# {listed['name']}\n\n{listed['summary']}\n\n## Paper and readings\n\n{prose(found['paper'])}\n\n"
        f"## Inputs\n\n{inputs}\n\n## Settings\n\nSet with `--set FIELD=VALUE`.\n\n{settings}\n\n"
        f"## Training\n\n{training}\n\n## Ablations\n\n{ablations}\n\n## Size\n\n{sizes}\n"
    )


def prose(text: str) -> str:
    """A docstring as Markdown: indented blocks as they stand."""
    out: list[str] = []
    fenced = False
    for line in text.strip().splitlines():
        if line.strip() and line.startswith("    ") != fenced:
            out += ["```", ""] if fenced else ["", "```text"]
            fenced = not fenced
        out.append(line[4:] if fenced else line.replace("<", "&lt;"))
    return "\n".join([*out, "```"] if fenced else out)


def oneline(text: str) -> str:
    """For a cell of a table."""
    return " ".join(text.split())


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *cells])
