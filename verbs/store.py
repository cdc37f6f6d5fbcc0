"""`mer store ...`: look at a feature store, check and mend it."""

from __future__ import annotations

import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cache_schema.errors import DataError
from terminal import OUT, print_json, table_of
from verbs import exchange
from verbs.options import DEFAULT_STORE, AsJson, StoredDataset, StoredFeature, StorePath, listed

if TYPE_CHECKING:
    from cache_schema.feature import Feature
    from cache_schema.store import FeatureStore
    from cache_schema.verify import Finding
    from extract.sources import Replaced

app = typer.Typer(help="Look at a feature store and check it.", no_args_is_help=True, rich_markup_mode=None)
exchange.register(app)


@app.command("ls")
def store_ls(store: StorePath = DEFAULT_STORE, as_json: AsJson = False) -> None:
    """List what a store holds: features, their samples, size and who made them.

    Example: mer store ls --store s3://lab/features
    """
    from cache_schema.store import FeatureStore

    opened = FeatureStore.open(store, mode="r")
    rows = [feature.summary() for dataset in opened.datasets() for feature in opened.features(dataset)]
    if as_json:
        print_json({"store": opened.location, "datasets": opened.datasets(), "features": rows})
        return
    table = table_of("dataset", "feature", "fingerprint", "done", "failed", "absent", "missing", "size", "made by")
    for row in rows:
        table.add_row(
            row["dataset"],
            row["feature"] + (" (random weights)" if row["random_weights"] else ""),
            row["fingerprint"][:16],
            *(str(row[k]) for k in ("done", "failed", "absent", "missing")),
            f"{row['bytes'] / 1e6:.1f} MB",
            ", ".join(row["hosts"]),
        )
    OUT.print(table)


@app.command("show")
def store_show(
    dataset: StoredDataset,
    feature: StoredFeature,
    utterance: Annotated[str | None, typer.Argument(help="An utterance's id: it is drawn over time.")] = None,
    store: StorePath = DEFAULT_STORE,
    root: Annotated[Path | None, typer.Option(help="The data root, to draw the clip's sound and pictures too.")] = None,
    out: Annotated[Path | None, typer.Option(help="The picture: .png, .svg or .pdf; default by the id.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show a feature's full specification, provenance, and each failure with its reason; or one utterance over time.

    Example: mer store show meld hubert dia0_utt0 --root /data/MELD.Raw --out dia0_utt0.png
    """
    from cache_schema.store import FeatureStore

    found = FeatureStore.open(store, mode="r").feature(dataset, *_name_and_fingerprint(feature))
    if utterance is not None:
        _show_utterance(store, dataset, found, utterance, root, out, as_json)
        return
    document = {
        **found.summary(),
        "spec": found.spec.model_dump(mode="json"),
        "failures": found.failures(),
        "absences": found.absences(),
        "digest": found.digest(),
    }
    if as_json:
        print_json(document)
        return
    for key, value in document.items():
        if isinstance(value, dict):
            OUT.print(f"{key}:" + ("" if value else " none"), style="bold")
            for inner, what in value.items():
                OUT.print(f"  {inner}: {what}")
        else:
            OUT.print(f"{key}: {value}")


def _show_utterance(
    store: str, dataset: str, feature: Feature, id_: str, root: Path | None, out: Path | None, as_json: bool
) -> None:
    from cache_schema.registry import unknown_name
    from extract.view.utterance import draw_utterance

    if id_ not in feature.samples.numbers:
        raise DataError(f"{dataset}: " + unknown_name("utterance", id_, feature.samples.ids))
    path = out or Path(f"{dataset}-{re.sub('[^A-Za-z0-9._-]', '_', id_)}.png")
    draw_utterance(store, dataset, feature, id_, root, path)
    arrays = {name: f"{array.dtype} {array.shape}" for name, array in feature.read(id_).items()}
    if as_json:
        print_json({"dataset": dataset, "utterance": id_, "arrays": arrays, "plot": str(path)})
        return
    for name, what in arrays.items():
        OUT.print(f"{feature.name} {name}: {what}")
    OUT.print(f"Plot: {path}")


@app.command("plot")
def store_plot(
    dataset: StoredDataset,
    feature: StoredFeature,
    store: StorePath = DEFAULT_STORE,
    by: Annotated[
        str, typer.Option(help="What colours the points: label, speaker, split, dialogue or a target; one panel each.")
    ] = "label,speaker,split",
    method: Annotated[str, typer.Option(help="pca, tsne, or umap where umap-learn is installed.")] = "pca",
    out: Annotated[Path | None, typer.Option(help="The picture: .png, .svg or .pdf; default by the feature.")] = None,
    as_json: AsJson = False,
) -> None:
    """Draw a feature's utterances as points in a plane, and say what their nearest neighbours give away.

    Each utterance is the mean over its frames. Where the nearest neighbour is often of the same speaker or split, a
    model can use that instead of the emotion.

    Example: mer store plot meld hubert --method tsne --by label,speaker --out hubert.png
    """
    from cache_schema.errors import SettingsError
    from cache_schema.registry import unknown_name
    from extract.view.projection import METHODS, project

    chosen = next((known for known in METHODS if known == method), None)
    if chosen is None:
        raise SettingsError(unknown_name("method", method, list(METHODS)))
    name, fingerprint = _name_and_fingerprint(feature)
    path = out or Path(f"{dataset}-{name}-{method}.png")
    told = project(store, dataset, name, fingerprint, list(dict.fromkeys(listed(by))), chosen, path)
    if as_json:
        print_json({"dataset": dataset, "feature": feature, "plot": str(path), "nearest": [asdict(n) for n in told]})
        return
    table = table_of("by", "kinds", "nearest neighbour is the same", "by chance")
    for n in told:
        shares = (f"{n.same:.1%}", f"{n.chance:.1%}") if n.kinds else ("no utterance has one", "")
        table.add_row(n.by, str(n.kinds), *shares)
    OUT.print(table)
    OUT.print(f"Plot: {path}")


@app.command("card")
def store_card(
    dataset: StoredDataset,
    store: StorePath = DEFAULT_STORE,
    as_json: AsJson = False,
) -> None:
    """Print a dataset's card: terms, contents, features, what it lacks, what it is not for. Markdown.

    The same card lies in the store as cards/DATASET.md, as of the last extraction.

    Example: mer store card meld
    """
    from cache_schema.store import FeatureStore
    from extract.card import data_card

    text = data_card(FeatureStore.open(store, mode="r"), dataset)
    if as_json:
        print_json({"dataset": dataset, "card": text})
    else:
        OUT.print(text)


@app.command("verify")
def store_verify(
    store: StorePath = DEFAULT_STORE,
    dataset: Annotated[str | None, typer.Option("--dataset", help="Only this dataset.")] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte and compare its sha256.")] = False,
    media: Annotated[
        Path | None, typer.Option(help="Data root of --dataset: compare its files with those that were extracted.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a store: documents, digests and sizes; with --deep the sha256 of every file.

    With --dataset NAME --media ROOT it says which clips were replaced since they were extracted.

    Example: mer store verify --dataset meld --deep
    """
    from cache_schema.store import FeatureStore
    from cache_schema.verify import verify

    if media is not None and dataset is None:
        raise typer.BadParameter("which dataset's files are these? Name it with --dataset.", param_hint="--media")
    opened = FeatureStore.open(store, mode="r")
    findings = verify(opened, dataset=dataset, deep=deep)
    damage = [f for f in findings if f.damage]
    others = _replaced(opened, media, dataset)
    if as_json:
        document = {"store": opened.location, "deep": deep, "findings": [f.as_json() for f in findings]}
        print_json(document | ({} if media is None else {"replaced": [r.as_json() for r in others]}))
    else:
        for other in others:
            OUT.print(str(other))
        for finding in findings:
            OUT.print(str(finding))
        if not damage:
            OUT.print(f"{opened.location}: intact ({'every byte read' if deep else 'documents and sizes'}).")
    if damage:
        raise DataError(
            f"{opened.location}: {len(damage)} damaged. `mer store repair{' --deep' if deep else ''}` drops them; "
            "`mer extract` then recomputes only those."
        )
    if others:
        raise DataError(
            f"{media}: {len(others)} files were replaced since they were extracted. `mer extract --retry-replaced` "
            "extracts them again; or put the former files back."
        )


def _replaced(store: FeatureStore, root: Path | None, dataset: str | None) -> list[Replaced]:
    """The files below the data root that are not those that were extracted; none without a root."""
    from extract.sources import replaced

    if root is None:
        return []
    if not root.is_dir():
        raise DataError(f"The data root {root} is not a folder.")
    return list(replaced(store, root, dataset))


@app.command("repair")
def store_repair(
    store: StorePath = DEFAULT_STORE,
    dataset: Annotated[str | None, typer.Option("--dataset", help="Only this dataset.")] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte and compare its sha256.")] = False,
    as_json: AsJson = False,
) -> None:
    """Drop what `mer store verify` finds damaged, so that `mer extract` computes that again and nothing else.

    Example: mer store repair --dataset meld
    """
    from cache_schema.repair import repair

    _print_findings(store, repair(_writable(store), dataset=dataset, deep=deep), "dropped", as_json)


@app.command("gc")
def store_gc(
    store: StorePath = DEFAULT_STORE,
    older_than_hours: Annotated[
        float, typer.Option("--older-than-hours", min=0, help="Leave younger leftovers: their writer may be at work.")
    ] = 48.0,
    as_json: AsJson = False,
) -> None:
    """Remove what interrupted writers left behind.

    Example: mer store gc
    """
    from cache_schema.repair import gc

    _print_findings(store, gc(_writable(store), older_than_hours), "removed", as_json)


@app.command("rm")
def store_rm(
    dataset: StoredDataset,
    feature: StoredFeature,
    store: StorePath = DEFAULT_STORE,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove a feature from the store, for everybody who shares it.

    Example: mer store rm meld hubert@1a2b3c4d
    """
    from cache_schema.repair import remove_feature

    opened = _writable(store)
    name, fingerprint = _name_and_fingerprint(feature)
    folder = opened.feature_folder(dataset, name, fingerprint)
    if not yes:
        typer.confirm(f"Remove {folder} from {opened.location}?", abort=True, err=True)
    remove_feature(opened, dataset, name, fingerprint)
    OUT.print(f"Removed {folder}.")


Ids = Annotated[list[str] | None, typer.Argument(help="The samples' ids.")]
IdsFile = Annotated[Path | None, typer.Option("--from", help="A file with more ids, one a line; - is stdin.")]


@app.command("delete-samples")
def store_delete_samples(
    dataset: StoredDataset,
    ids: Ids = None,
    ids_from: IdsFile = None,
    store: StorePath = DEFAULT_STORE,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete samples from a dataset, for everybody who shares the store; all other samples keep their features.

    A deleted sample is in no listing, no training and no extraction any more, and `mer extract` does not bring it
    back; `mer store restore-samples` does. Its bytes stay in the files that hold it together with others: to have
    them gone, remove the dataset's features (`mer store rm`) and extract into a new store.

    Example: mer store delete-samples meld train/dia0_utt0
    """
    opened = _writable(store)
    wanted = _ids(ids, ids_from)
    if not yes:
        typer.confirm(f"Delete {len(wanted)} samples of {dataset} from {opened.location}?", abort=True, err=True)
    OUT.print(f"Deleted {opened.delete_samples(dataset, wanted)} samples of {dataset}.")


@app.command("restore-samples")
def store_restore_samples(
    dataset: StoredDataset,
    ids: Ids = None,
    ids_from: IdsFile = None,
    store: StorePath = DEFAULT_STORE,
) -> None:
    """Bring deleted samples back; `mer extract` then computes their features again.

    Example: mer store restore-samples meld train/dia0_utt0
    """
    restored = _writable(store).restore_samples(dataset, _ids(ids, ids_from))
    OUT.print(f"Restored {restored} samples of {dataset}; their features are missing until `mer extract` runs.")


def _ids(given: list[str] | None, file: Path | None) -> list[str]:
    """The ids of the command line and of the file, each once."""
    listed = list(given or [])
    if file is not None:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        listed += [line.strip() for line in text.splitlines() if line.strip()]
    if not listed:
        raise typer.BadParameter("name at least one sample, or a file of ids with --from.", param_hint="IDS")
    return list(dict.fromkeys(listed))


def _writable(path: str) -> FeatureStore:
    """A store that is there already, opened for changes."""
    from cache_schema.store import FeatureStore

    FeatureStore.open(path, mode="r")
    return FeatureStore.open(path, mode="a")


def _print_findings(store: str, findings: list[Finding], done: str, as_json: bool) -> None:
    if as_json:
        print_json({"store": store, done: [f.as_json() for f in findings]})
        return
    for finding in findings:
        OUT.print(str(finding))
    OUT.print(f"{store}: {len(findings)} {done}.")


def _name_and_fingerprint(text: str) -> tuple[str, str | None]:
    name, _, fingerprint = text.partition("@")
    return name, fingerprint or None
