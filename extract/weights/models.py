"""Every checkpoint that the encoders run on: what there is, fetching it, and making sure that it is what it was.

A folder that `pull` fills has a folder per encoder, each with the files that the encoder reads and `mer-pull.json`:
the hub id, the commit that was resolved, and the sha256 of every file. It is what `--weights DIR` takes, on machines
without a network too. MediaPipe's face landmarker is no encoder's checkpoint but all encoders' of faces.
"""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from cache_schema.errors import MerError, SettingsError, StoreError, first_line
from cache_schema.registry import unknown_name
from extract import faces
from extract.encoders import ENCODERS
from extract.weights.checkpoints import (
    CONFIG,
    PULLED,
    Checkpoint,
    HubCheckpoint,
    choice_for,
    file_sha256,
    hub_errors,
    in_cache,
    read_json,
    resolve,
    wanted_files,
    weight_files,
)

FACE_LANDMARKER = "face-landmarker"
FACE_LICENCE = "Apache-2.0"
FACE_PURPOSE = "MediaPipe: finds and follows faces, for `landmarks` and --crop face"

State = Literal["ok", "unrecorded", "random", "absent", "incomplete", "changed"]
BAD: tuple[State, ...] = ("incomplete", "changed")


@dataclass(frozen=True)
class Model:
    """A checkpoint, wherever it is.

    Attributes:
        name: the encoder that reads it, or `face-landmarker`.
        source: hub id or address.
        revision: the commit at hand, or the one that the encoder asks for; None: neither is known.
        licence: the terms of its weights.
        bytes: of the weights: on disk where they are at hand, else what the encoder's numbers take in 32 bits.
        purpose: what it is for.
        folder: where it lies; None where it is not at hand.
    """

    name: str
    source: str
    revision: str | None
    licence: str
    bytes: int | None
    purpose: str
    folder: Path | None


@dataclass(frozen=True)
class Verdict:
    """What became of a check.

    Attributes:
        name: of the model.
        state: ok: the digests are those recorded. unrecorded: it is whole, and nothing says what it should be.
            random: drawn weights. absent, incomplete, changed: as they say.
        detail: digest, or what is wrong and what to do.
    """

    name: str
    state: State
    detail: str


def names() -> list[str]:
    """Encoders that have weights, and the face landmarker."""
    return [name for name in ENCODERS.names() if ENCODERS.load(name).HUB is not None] + [FACE_LANDMARKER]


def chosen(asked: Sequence[str]) -> list[str]:
    """What is asked for, all of it where nothing is.

    Raises:
        SettingsError: an unknown name, or an encoder without weights.
    """
    known = names()
    for name in asked:
        if name in ENCODERS.names() and name not in known:
            raise SettingsError(f"{name} has no weights: there is nothing to fetch or to check.")
        if name not in known:
            raise SettingsError(unknown_name("model", name, known))
    return list(dict.fromkeys(asked)) or known


def listing(weights: str | None) -> list[Model]:
    """Every model, with what is at hand of it; the network is not asked.

    Args:
        weights: as `--weights`; None: the hub's local cache.

    Raises:
        SettingsError: `weights` names an encoder that there is not.
    """
    found = []
    for name in names():
        if name == FACE_LANDMARKER:
            path = faces.face_model_path()
            there = path if path.is_file() else None
            size = there.stat().st_size if there else None
            found.append(Model(name, faces.MODEL_URL, None, FACE_LICENCE, size, FACE_PURPOSE, there))
            continue
        module = ENCODERS.load(name)
        hub: HubCheckpoint = module.HUB
        at_hand = at_hand_of(name, hub, weights)
        size = 4 * hub.parameters if at_hand is None else sum(f.stat().st_size for f in weight_files(at_hand.folder))
        source = hub.repo if at_hand is None else at_hand.name or hub.repo
        revision = hub.revision if at_hand is None else at_hand.revision
        folder = None if at_hand is None else at_hand.folder
        found.append(Model(name, source, revision, hub.licence, size, module.SUMMARY, folder))
    return found


def at_hand_of(name: str, hub: HubCheckpoint, weights: str | None) -> Checkpoint | None:
    """An encoder's checkpoint, if it is on this machine."""
    choice = choice_for(name, weights)
    if choice is None:
        return in_cache(name, hub)
    if choice.startswith("hf:"):
        repo, _, revision = choice.removeprefix("hf:").partition("@")
        return in_cache(name, replace(hub, repo=repo, revision=revision or None))
    try:
        return resolve(name, hub, choice)
    except SettingsError:
        return None


def pull(
    asked: Sequence[str], to: Path | None, revision: str | None = None, say: Callable[[str], None] = lambda line: None
) -> list[Model]:
    """Fetch models: into the hub's local cache, or into a folder that works without a network.

    Args:
        asked: which; empty: all.
        to: the folder; None: the cache.
        revision: commit, tag or branch, for one encoder alone; None: the one that it asks for, else the newest.
        say: called with each line that is worth showing.

    Raises:
        SettingsError: an unknown name, no network, or the hub has no such checkpoint.
        StoreError: a file arrived other than the hub says, or a folder there holds something else.
    """
    which = chosen(asked)
    if revision is not None and (len(which) != 1 or which[0] == FACE_LANDMARKER):
        raise SettingsError("--revision is of one checkpoint: name one encoder.")
    for name in which:
        if name == FACE_LANDMARKER:
            path = faces.face_model_path() if to is None else to / faces.MODEL
            _pull_file(faces.MODEL_URL, path, say)
            continue
        hub: HubCheckpoint = ENCODERS.load(name).HUB
        hub = hub if revision is None else replace(hub, revision=revision)
        if to is None:
            at = resolve(name, hub, f"{name}=hf:{hub.repo}" + (f"@{hub.revision}" if hub.revision else ""))
            say(f"{name}: {hub.repo} at {at.revision} is in {at.folder}.")
        else:
            _pull_folder(name, hub, to / name, say)
    if to is not None and FACE_LANDMARKER in which:
        say(f"Set MER_FACE_MODEL={to / faces.MODEL} where faces are looked for.")
    return [model for model in listing(None if to is None else str(to)) if model.name in which]


def _pull_folder(name: str, hub: HubCheckpoint, folder: Path, say: Callable[[str], None]) -> None:
    """A checkpoint's folder, whole or not at all; what a broken transfer left is gone on with."""
    from huggingface_hub import HfApi, snapshot_download

    if folder.exists():
        verdict = _verdict(Checkpoint(name, folder, hub.assets)) if (folder / PULLED).is_file() else None
        if verdict is None or verdict.state != "ok":
            raise StoreError(
                f"{folder} is there and is no checkpoint as it was pulled; remove it, or name another --to."
            )
        held = read_json(folder / PULLED)
        same = hub.revision in (None, held.get("revision"), held.get("asked"))
        if held.get("repo") != hub.repo or not same:
            raise StoreError(f"{folder} holds {held.get('repo')} at {held.get('revision')}; name another --to.")
        say(f"{name}: {hub.repo} at {held.get('revision')} is in {folder} already.")
        return
    making = folder.with_name(f".{folder.name}-pulling")
    with hub_errors(name, hub):
        facts = HfApi().model_info(hub.repo, revision=hub.revision, files_metadata=True)
        there = {file.rfilename: file for file in facts.siblings or []}
        wanted = wanted_files(name, hub, list(there))
        say(f"{name}: fetching {hub.repo} at {facts.sha} ...")
        snapshot_download(hub.repo, revision=facts.sha, allow_patterns=wanted, local_dir=making)
    shutil.rmtree(making / ".cache", ignore_errors=True)
    files = {}
    for path in sorted(p for p in making.rglob("*") if p.is_file()):
        digest, promised = file_sha256(path), getattr(there.get(path.name), "lfs", None)
        if promised is not None and promised.sha256 != digest:
            path.unlink()
            raise StoreError(f"{name}: {path.name} arrived damaged (sha256 {digest[:12]}); run the same command again.")
        files[path.name] = {"sha256": digest, "bytes": path.stat().st_size}
    if not weight_files(making):
        raise StoreError(f"{name}: not all weights of {hub.repo} arrived; run the same command again.")
    record = {
        "repo": hub.repo,
        "revision": facts.sha,
        "asked": hub.revision,
        "licence": hub.licence,
        "weights_sha256": Checkpoint(name, making).weights_sha256,
        "files": files,
    }
    (making / PULLED).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    making.rename(folder)
    say(f"{name}: {folder} ({sum(f.stat().st_size for f in folder.iterdir()) / 1e6:.0f} MB)")


def _pull_file(url: str, path: Path, say: Callable[[str], None]) -> None:
    if path.is_file():
        say(f"{FACE_LANDMARKER}: {path} is there already.")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    making = path.with_name(f".{path.name}-pulling")
    try:
        with urllib.request.urlopen(url, timeout=60) as answer, making.open("wb") as file:
            shutil.copyfileobj(answer, file)
    except OSError as error:
        raise SettingsError(f"{FACE_LANDMARKER}: {url} cannot be fetched from here ({first_line(error)}).") from error
    digest = file_sha256(making)
    if digest != faces.MODEL_SHA256:
        making.unlink()
        raise StoreError(
            f"{FACE_LANDMARKER}: {url} arrived damaged (sha256 {digest[:12]}); run the same command again."
        )
    making.rename(path)
    say(f"{FACE_LANDMARKER}: {path} ({path.stat().st_size / 1e6:.1f} MB), sha256 {digest}")


def verify(asked: Sequence[str], weights: str | None) -> list[Verdict]:
    """Whether what is at hand is whole, and is what was fetched.

    Args:
        asked: which; empty: all.
        weights: as `--weights`; None: the hub's local cache.

    Raises:
        SettingsError: an unknown name.
    """
    found = []
    for name in chosen(asked):
        if name == FACE_LANDMARKER:
            found.append(_face_verdict(faces.face_model_path()))
            continue
        hub: HubCheckpoint = ENCODERS.load(name).HUB
        try:
            at_hand = at_hand_of(name, hub, weights)
            absent = Verdict(name, "absent", f"{hub.repo} is not at hand; `mer models pull {name}`")
            found.append(absent if at_hand is None else _verdict(at_hand))
        except MerError as error:
            found.append(Verdict(name, "incomplete", first_line(error)))
    return found


def _face_verdict(path: Path) -> Verdict:
    """By the digest of the file that MediaPipe hands out."""
    if not path.is_file():
        return Verdict(FACE_LANDMARKER, "absent", f"{path} is not there; `mer models pull {FACE_LANDMARKER}`")
    digest = file_sha256(path)
    if digest == faces.MODEL_SHA256:
        return Verdict(FACE_LANDMARKER, "ok", f"{path}, sha256 {digest}")
    return Verdict(FACE_LANDMARKER, "unrecorded", f"{path} is not the file of {faces.MODEL_URL}, sha256 {digest}")


def _verdict(at_hand: Checkpoint) -> Verdict:
    """By the record of the pull, or by the hub's own digests: its cache names large files by their sha256."""
    name, again = at_hand.encoder, f"fetch it again with `mer models pull {at_hand.encoder}`"
    if at_hand.random:
        return Verdict(name, "random", "drawn weights, for trials only")
    record = at_hand.folder / PULLED
    if record.is_file():
        expected = {file: facts["sha256"] for file, facts in read_json(record).get("files", {}).items()}
    else:
        blobs = {file.name: file.resolve().name for file in at_hand.folder.iterdir() if file.is_symlink()}
        expected = {file: blob for file, blob in blobs.items() if len(blob) == 64}
    missing = [file for file in dict.fromkeys((CONFIG, *expected)) if not (at_hand.folder / file).is_file()]
    if missing or not weight_files(at_hand.folder):
        return Verdict(name, "incomplete", f"{at_hand.folder} lacks {', '.join(missing) or 'weights'}; {again}")
    changed = [file for file, digest in expected.items() if file_sha256(at_hand.folder / file) != digest]
    if changed:
        return Verdict(name, "changed", f"{', '.join(changed)} in {at_hand.folder} is not what was fetched; {again}")
    pickled = any(file.suffix == ".bin" for file in weight_files(at_hand.folder))
    form = ", pickled: read as tensors only" if pickled else ""
    weights_known = all(file.name in expected for file in weight_files(at_hand.folder))
    known = f"at {at_hand.revision}" if at_hand.revision else "nothing is recorded of where it is from"
    state: State = "ok" if weights_known else "unrecorded"
    return Verdict(name, state, f"{at_hand.name or at_hand.folder} {known}, sha256 {at_hand.weights_sha256}{form}")
