"""Encoders that make exactly the features of a given specification: the same code, settings, weights and other files.

What a model was trained on is known by its fingerprint. Features of other clips are worth something to that model only
if they have the same one; here it is computed again from the checkpoint at hand and compared, before anything runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import ModuleType

from cache_schema.errors import SettingsError
from cache_schema.feature_spec import FeatureSpec
from cache_schema.store import FeatureStore
from extract.encoder import EncoderConfig, Needs
from extract.encoders import ENCODERS
from extract.pipeline import Job
from extract.weights.cache import cache_folder
from extract.weights.checkpoints import Checkpoint, HubCheckpoint, choice_for, resolve


@dataclass(frozen=True)
class Match:
    """An encoder that makes the features of `spec`; its weights are not loaded."""

    module: ModuleType
    config: EncoderConfig
    checkpoint: Checkpoint | None
    spec: FeatureSpec

    @property
    def needs(self) -> Needs:
        """What is to be decoded for it."""
        needs: Needs = self.module.needs(self.config, self.checkpoint)
        return needs

    def job(self, store: FeatureStore, dataset: str) -> Job:
        """Its features of a dataset of the store."""
        writer = store.writer(dataset, self.spec)
        return Job(self.spec.feature, self.module, self.config, self.checkpoint, self.spec, self.needs, writer)


def match(spec: FeatureSpec, weights: str | None, model: str) -> Match:
    """The encoder that makes the features of `spec` from the weights at hand.

    Args:
        spec: of features that there are, in a store or behind a trained model.
        weights: as `--weights` has them; None: the checkpoint that the specification names.
        model: what was trained on them, for errors.

    Raises:
        SettingsError: the features were imported, or what is at hand would make other ones; says what differs.
    """
    name = spec.feature
    if name not in ENCODERS.names():
        raise SettingsError(
            f"{model} reads {name} as {spec.modality}, which no encoder of mer makes: it was imported, so it cannot be "
            "made of other clips."
        )
    module = ENCODERS.load(name)
    config = module.Config.parse(spec.full_settings or spec.settings, f"{model}: settings of {name}")
    checkpoint = None if module.HUB is None else _checkpoint(spec, module.HUB, weights, model)
    if checkpoint is not None and checkpoint.weights_sha256 != spec.weights_sha256:
        raise SettingsError(
            f"{name}: {checkpoint.folder} holds other weights (sha256 {checkpoint.weights_sha256[:12]}) than {model} "
            f"was trained on (sha256 {(spec.weights_sha256 or '')[:12]}{_called(spec)}). Name those with "
            f"--weights {name}=DIR."
        )
    found: FeatureSpec = module.describe(config, checkpoint)
    if found.fingerprint() != spec.fingerprint():
        raise SettingsError(
            f"{name}: what is at hand makes other features than {model} was trained on; "
            f"{'; '.join(_differing(found, spec))}."
        )
    return Match(module, config, checkpoint, spec)


def _checkpoint(spec: FeatureSpec, hub: HubCheckpoint, weights: str | None, model: str) -> Checkpoint:
    name = spec.feature
    if choice_for(name, weights) is not None:
        return resolve(name, hub, weights)
    if spec.random_weights:
        drawn = [resolve(name, hub, size) for size in _drawn_before(name)]
        same = [checkpoint for checkpoint in drawn if checkpoint.weights_sha256 == spec.weights_sha256]
        if same:
            return same[0]
        raise SettingsError(
            f"{name}: {model} was trained on random weights that are not in mer's cache: name the folder that "
            f"`mer extract` had with --weights {name}=DIR, or give --weights random or random-small as it did."
        )
    if spec.checkpoint is None:
        raise SettingsError(
            f"{name}: {model} was trained on weights out of a folder (sha256 {(spec.weights_sha256 or '')[:12]}); "
            f"name it with --weights DIR or --weights {name}=DIR."
        )
    return resolve(name, replace(hub, repo=spec.checkpoint, revision=spec.revision), None)


def _drawn_before(name: str) -> Iterator[str]:
    """The sizes of random weights that mer's cache has of an encoder."""
    for choice, size in (("random-small", "small"), ("random", "full")):
        if (cache_folder() / "random" / f"{name}-{size}-0").is_dir():
            yield choice


def _called(spec: FeatureSpec) -> str:
    if spec.random_weights:
        return ", random ones"
    return "" if spec.checkpoint is None else f", {spec.checkpoint}" + (f"@{spec.revision}" if spec.revision else "")


def _differing(found: FeatureSpec, spec: FeatureSpec) -> Sequence[str]:
    """What of two specifications is not the same, as phrases."""
    mine, theirs = found.model_dump(mode="json"), spec.model_dump(mode="json")
    phrases = []
    for field in mine:
        if field in ("full_settings", "checkpoint", "revision") or mine[field] == theirs[field]:
            continue
        if field == "assets":
            names = sorted(set(mine[field]) | set(theirs[field]))
            other = [n for n in names if mine[field].get(n) != theirs[field].get(n)]
            phrases.append(f"{', '.join(other)} beside the weights: fetch the files that it was trained with")
        elif field == "version":
            phrases.append(
                f"the encoder's version is {found.version} and was {spec.version}: train again, or use its mer"
            )
        else:
            phrases.append(f"{field} is {mine[field]!r} and was {theirs[field]!r}")
    return phrases
