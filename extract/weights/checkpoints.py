"""Where weights come from: the Hugging Face hub and its local cache, a folder, or a draw of random numbers.

`--weights` reads
    (nothing)                 the encoder's default checkpoint, from the local cache or downloaded
    DIR                       DIR/<encoder>/ where there is such a folder, else DIR itself
    random | random-small     drawn weights of the full or a small size: for trials, and said so everywhere
    hf:ORG/NAME[@REVISION]    another checkpoint of the hub
    ENCODER=..., ENCODER=...  one of the above for each encoder named, the default for the others
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cache_schema.canonical import canonical_bytes, sha256_hex
from cache_schema.errors import SettingsError, first_line
from extract.encoders import ENCODERS
from extract.weights.cache import cache_folder
from extract.weights.random_weights import MARKER, make_random_checkpoint

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""File names of weights, in order of preference; an index names the files that it is split into."""
TOKENIZER = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
PREPROCESSOR = ("preprocessor_config.json",)
PULLED = "mer-pull.json"
"""What `mer models pull` writes beside a checkpoint's files: where they are from, and their digests."""
_BOOKKEEPING = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"}
_RANDOM = {"random": "full", "random-small": "small"}


@dataclass(frozen=True)
class HubCheckpoint:
    """A checkpoint of the Hugging Face hub.

    Attributes:
        repo: its hub id, as `facebook/hubert-base-ls960`.
        licence: the terms of its weights.
        parameters: how many numbers the encoder reads of it; its file may hold the heads of other tasks too.
        assets: names of the files beside configuration and weights that the encoder reads, where they exist.
        revision: commit, tag or branch; None: the newest of the main branch. What was resolved is recorded.
    """

    repo: str
    licence: str
    parameters: int
    assets: tuple[str, ...] = ()
    revision: str | None = None


@dataclass(frozen=True)
class Checkpoint:
    """Weights and their configuration in a folder, not loaded.

    Attributes:
        encoder: which encoder they are for.
        folder: where they lie.
        asset_names: names of the other files that enter the features, where they exist.
        snapshot: the commit that was resolved, where the folder is one of the hub's cache.
        repo: the hub id, where the folder is one of the hub's cache.
    """

    encoder: str
    folder: Path
    asset_names: tuple[str, ...] = ()
    repo: str | None = None
    snapshot: str | None = None

    @cached_property
    def random(self) -> bool:
        """Whether the weights were drawn, by the marker file in the folder."""
        marker = self.folder / MARKER
        return marker.is_file() and read_json(marker).get("weights") == "random"

    @property
    def name(self) -> str | None:
        """Hub id or `random`; None for a folder of which nothing says where it is from."""
        return "random" if self.random else self.repo or self._pulled.get("repo")

    @property
    def revision(self) -> str | None:
        """The hub's commit, where it is known."""
        return self.snapshot or self._pulled.get("revision")

    @cached_property
    def _pulled(self) -> dict[str, Any]:
        """What `mer models pull` recorded of the folder; nothing, if the weights were replaced since."""
        record = self.folder / PULLED
        document = read_json(record) if record.is_file() else {}
        return document if document.get("weights_sha256") == self.weights_sha256 else {}

    @cached_property
    def config(self) -> dict[str, Any]:
        """The model's configuration.

        Raises:
            SettingsError: it is no JSON object.
        """
        return read_json(self.folder / CONFIG)

    def expect(self, model_type: str) -> None:
        """Refuse weights of another kind of model.

        Raises:
            SettingsError: the configuration's `model_type` is another.
        """
        found = self.config.get("model_type")
        if found != model_type:
            raise SettingsError(
                f"{self.encoder}: {self.folder} holds weights of a {found!r} model, and this encoder runs "
                f"{model_type!r}; name its folder with --weights {self.encoder}=DIR."
            )

    @cached_property
    def preprocessor(self) -> dict[str, Any]:
        """What `preprocessor_config.json` says.

        Raises:
            SettingsError: it is not there, or no JSON object.
        """
        path = self.folder / PREPROCESSOR[0]
        if not path.is_file():
            raise SettingsError(
                f"{self.encoder}: {self.folder} has no {path.name}, which says how inputs are normalised; "
                "copy it from where the weights come from."
            )
        return read_json(path)

    @cached_property
    def weights_sha256(self) -> str:
        """sha256 of the weights file; of the names and digests of its pieces where it is split."""
        files = weight_files(self.folder)
        digests = {file.name: file_sha256(file) for file in files}
        return next(iter(digests.values())) if len(files) == 1 else sha256_hex(canonical_bytes(digests))

    @cached_property
    def assets(self) -> dict[str, str]:
        """sha256 of each asset by name, and of the configuration without its book-keeping fields."""
        found = {name: file_sha256(self.folder / name) for name in self.asset_names if (self.folder / name).is_file()}
        facts = {key: value for key, value in self.config.items() if key not in _BOOKKEEPING}
        return {CONFIG: sha256_hex(canonical_bytes(facts)), **found}


def resolve(encoder: str, hub: HubCheckpoint, weights: str | None) -> Checkpoint:
    """The checkpoint that `--weights` means for one encoder.

    Args:
        encoder: the encoder's name.
        hub: its default checkpoint.
        weights: what was asked for; see the head of this file.

    Raises:
        SettingsError: the weights are not at hand; the line says what brings them.
    """
    choice = choice_for(encoder, weights)
    if choice is None:
        return _from_hub(encoder, hub)
    if choice in _RANDOM:
        return Checkpoint(encoder, _drawn(encoder, _RANDOM[choice]), hub.assets)
    if choice.startswith("hf:"):
        repo, _, revision = choice.removeprefix("hf:").partition("@")
        return _from_hub(encoder, replace(hub, repo=repo, revision=revision or None))
    return _from_folder(encoder, hub, Path(choice).expanduser())


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder, safetensors before pickles; empty where there are none, or not all."""
    for name in WEIGHTS:
        path = folder / name
        if not path.is_file():
            continue
        if path.suffix != ".json":
            return [path]
        pieces = [folder / piece for piece in sorted(set(read_json(path).get("weight_map", {}).values()))]
        if pieces and all(piece.is_file() for piece in pieces):
            return pieces
    return []


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object in a file.

    Raises:
        SettingsError: it cannot be read as one.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be read ({error}); fetch the checkpoint again.") from error
    if not isinstance(document, dict):
        raise SettingsError(f"{path} is not a JSON object; fetch the checkpoint again.")
    return document


def choice_for(encoder: str, weights: str | None) -> str | None:
    """The part of `--weights` that is for this encoder."""
    if weights is None or not re.match(r"[a-z][a-z0-9-]*=", weights):
        return weights
    chosen = {}
    for part in weights.split(","):
        name, _, choice = part.strip().partition("=")
        ENCODERS.require(name)
        if not choice:
            raise SettingsError(f"--weights: {part.strip()!r} is not of the form encoder=weights.")
        chosen[name] = choice
    return chosen.get(encoder)


def _from_folder(encoder: str, hub: HubCheckpoint, base: Path) -> Checkpoint:
    folder = base / encoder if (base / encoder).is_dir() else base
    if not folder.is_dir():
        raise SettingsError(
            f"{encoder}: there is no folder {base}. --weights takes a folder of checkpoints, hf:ORG/NAME, `random` or "
            "`random-small`."
        )
    if not (folder / CONFIG).is_file():
        raise SettingsError(
            f"{encoder}: {base} holds neither {encoder}/ nor a {CONFIG}. "
            f"`mer models pull {encoder} --to {base}` puts the files of {hub.repo} there."
        )
    if not weight_files(folder):
        raise SettingsError(
            f"{encoder}: {folder} has no {WEIGHTS[0]} or {WEIGHTS[2]}. `mer models pull {encoder} --to DIR` brings "
            f"those of {hub.repo}."
        )
    return Checkpoint(encoder, folder, hub.assets)


def in_cache(encoder: str, hub: HubCheckpoint) -> Checkpoint | None:
    """The checkpoint in the hub's local cache, where all of it is there; the network is not asked."""
    from huggingface_hub import snapshot_download

    try:  # without a pattern the client refuses a snapshot that lacks any file of the repository, wanted or not
        folder = Path(
            snapshot_download(hub.repo, revision=hub.revision, allow_patterns=[CONFIG], local_files_only=True)
        )
    except OSError:
        return None
    return Checkpoint(encoder, folder, hub.assets, hub.repo, folder.name) if _is_complete(folder, hub) else None


def _from_hub(encoder: str, hub: HubCheckpoint) -> Checkpoint:
    """From the local cache where it is complete, else downloaded."""
    from huggingface_hub import HfApi, snapshot_download

    with hub_errors(encoder, hub):
        found = in_cache(encoder, hub)
        if found is not None:
            return found
        facts = HfApi().model_info(hub.repo, revision=hub.revision)  # `list_repo_files` would try for half a minute
        wanted = wanted_files(encoder, hub, [file.rfilename for file in facts.siblings or []])
        folder = Path(snapshot_download(hub.repo, revision=hub.revision, allow_patterns=wanted))
    return Checkpoint(encoder, folder, hub.assets, hub.repo, folder.name)


@contextmanager
def hub_errors(encoder: str, hub: HubCheckpoint) -> Iterator[None]:
    """What goes wrong with the hub, as one line that says what to do."""
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        yield
    except SettingsError:
        raise
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        what = f"{hub.repo}@{hub.revision}" if hub.revision else hub.repo
        raise SettingsError(f"{encoder}: the Hugging Face hub has no {what} that may be read from here.") from error
    except Exception as error:
        raise SettingsError(f"{_not_at_hand(encoder, hub)} ({first_line(error)})") from error


def _is_complete(folder: Path, hub: HubCheckpoint) -> bool:
    """Whether a cached snapshot has what is needed; other programs may have fetched a part of it."""
    has_assets = not hub.assets or any((folder / name).is_file() for name in hub.assets)
    return (folder / CONFIG).is_file() and has_assets and bool(weight_files(folder))


def wanted_files(encoder: str, hub: HubCheckpoint, there: Sequence[str]) -> list[str]:
    """What is needed of a repository's files: configuration, assets, and weights in one form, safetensors first.

    Raises:
        SettingsError: it has no weights in a known form.
    """
    for name in WEIGHTS:
        if name in there:
            whole = Path(name.removesuffix(".index.json"))
            weights = [name] if whole.name == name else [name, f"{whole.stem}-*{whole.suffix}"]
            return [CONFIG, *hub.assets, *weights]
    raise SettingsError(f"{encoder}: {hub.repo} has no {WEIGHTS[0]} or {WEIGHTS[2]}.")


def _not_at_hand(encoder: str, hub: HubCheckpoint) -> str:
    at = f" --revision {hub.revision}" if hub.revision else ""
    return (
        f"{encoder}: {hub.repo} is not in the local Hugging Face cache and cannot be downloaded from here. "
        f"Where there is a network, `mer models pull {encoder} --to DIR{at}` makes a folder for --weights DIR; for a "
        "trial there is --weights random."
    )


def _drawn(encoder: str, size: str, seed: int = 0) -> Path:
    """The folder of drawn weights in mer's cache, made at the first call."""
    folder = cache_folder() / "random" / f"{encoder}-{size}-{seed}"
    if not (folder / MARKER).is_file():
        make_random_checkpoint(encoder, folder, size, seed)
    return folder


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
