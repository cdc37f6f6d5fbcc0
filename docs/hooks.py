"""Pages that are made from the code: one per dataset, encoder, architecture and baseline, lists of them, the commands.

mkdocs calls `on_config`, `on_files` and `on_page_markdown`. A file that is added to a registry's folder has its page,
and its place in the navigation, without another word.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.main import get_command

import cli
from extract.datasets import DATASETS
from extract.encoders import ENCODERS
from fuse.archs import ARCHS
from fuse.describe import describe, list_archs

COMMANDS = """\
# Commands

As `--help` says them. Results go to stdout, as tables or with `--json` as one JSON object; progress and logs to stderr.
Exit 0: done; 1: it could not be done, with one line that says what to do; 2: wrong usage. `--debug` shows where an
error came from.
"""
LISTS = {"datasets": DATASETS, "encoders": ENCODERS, "architectures": ARCHS}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the generated pages behind their folder's index in the navigation."""
    for section in config.nav or []:
        for pages in section.values() if isinstance(section, dict) else ():
            for folder, registry in LISTS.items():
                if f"{folder}/index.md" in pages:
                    pages += [f"{folder}/{name}.md" for name in registry.names()]
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the lists where a page asks for them."""
    for folder in LISTS:
        if (wanted := f"<!-- list: {folder} -->") in markdown:
            markdown = markdown.replace(wanted, listing(folder))
    return markdown


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
    return found | {"commands.md": command_pages()}


def listing(folder: str) -> str:
    """A table of a folder's pages, a line each."""
    if folder == "datasets":
        rows = [[f"[{name}]({name}.md)", DATASETS.load(name).SUMMARY] for name in DATASETS.names()]
        return table(["`--dataset`", "what it is"], rows)
    if folder == "encoders":
        modules = {name: ENCODERS.load(name) for name in ENCODERS.names()}
        rows = [
            [f"[{name}]({name}.md)", m.MODALITY, f"`{m.HUB.repo}`" if m.HUB else "none needed", m.SUMMARY]
            for name, m in modules.items()
        ]
        return table(["`--encoders`", "modality", "weights", "what it is"], rows)
    rows = [[f"[{arch['name']}]({arch['name']}.md)", arch.get("kind", ""), arch["summary"]] for arch in list_archs()]
    return table(["`--arch`", "", "what it is"], rows)


def command_pages() -> str:
    """Every command with its options, as `--help` has them."""
    parts = [COMMANDS]
    for path, command in leaves(get_command(cli.app), ("mer",)):
        about, _, example = inspect.cleandoc(command.help or "").partition("Example: ")
        rows = [[option_names(p), oneline(p.help or "") + defaults(p)] for p in command.params if p.name != "help"]
        shown = f"For example `{' '.join(example.split())}`\n\n" if example else ""
        about = about.replace("<", "&lt;")
        parts.append(f"## {' '.join(path)}\n\n{about}\n\n{shown}{table(['argument or option', 'meaning'], rows)}\n")
    return "\n".join(parts)


def option_names(parameter: Any) -> str:
    """How an option or an argument is written."""
    if parameter.param_type_name == "argument":
        return f"`{(parameter.metavar or parameter.name).upper()}`"
    return ", ".join(f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts))


def defaults(parameter: Any) -> str:
    """What holds where an option is not given, in brackets."""
    found = ["required"] if parameter.required else []
    found += [f"environment: `{parameter.envvar}`"] if parameter.envvar else []
    if parameter.default not in (None, "") and not isinstance(parameter.default, bool | list | tuple):
        found.append(f"default: `{parameter.default}`")
    return f" ({'; '.join(found)})" if found else ""


def leaves(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command below `command`, with the words that call it."""
    for name, below in command.commands.items():
        if hasattr(below, "commands"):
            yield from leaves(below, (*path, name))
        else:
            yield (*path, name), below


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
        f"# {listed['name']}\n\n{prose(found['paper'])}\n\n"
        f"## Inputs\n\n{inputs}\n\n## Settings\n\nSet with `--set FIELD=VALUE`.\n\n{settings}\n\n"
        f"## Training\n\n{training}\n\n## Ablations\n\n{ablations}\n\n## Size\n\n{sizes}\n"
    )


def prose(text: str) -> str:
    """A docstring as Markdown: indented blocks as they stand."""
    out: list[str] = []
    fenced = False
    for line in text.strip().splitlines():
        if line.startswith("- ") and out and out[-1].strip() and not out[-1].startswith(("- ", "  ")):
            out.append("")  # what begins a list
        if line.strip() and line.startswith("    ") != fenced:
            out += ["```", ""] if fenced else ["", "```text"]
            fenced = not fenced
        out.append(line[4:] if fenced else line.replace("<", "&lt;"))
    return "\n".join([*out, "```"] if fenced else out)


def oneline(text: str) -> str:
    """For a cell of a table."""
    return " ".join(text.split()).replace("<", "&lt;")


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *cells])
