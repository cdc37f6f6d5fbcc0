"""Where weights come from, and what is said when they are not there."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cache_schema.errors import SettingsError
from extract.encoders import ENCODERS, roberta, vit
from extract.weights import checkpoints
from extract.weights.checkpoints import Checkpoint, HubCheckpoint, resolve, weight_files
from extract.weights.random_weights import make_random_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DIR with roberta/ and vit/ in it."""
    base = tmp_path_factory.mktemp("checkpoints")
    for name in ("roberta", "vit"):
        make_random_checkpoint(name, base / name, "small", seed=0)
    return base


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_folder_of_checkpoints_or_a_checkpoint(folder: Path) -> None:
    assert resolve("vit", vit.HUB, str(folder)).folder == folder / "vit"
    assert resolve("vit", vit.HUB, str(folder / "vit")).folder == folder / "vit"


def test_each_encoder_may_have_its_own(folder: Path, cache: Path) -> None:
    weights = f"roberta={folder}, vit=random-small"
    assert resolve("roberta", roberta.HUB, weights).folder == folder / "roberta"
    assert resolve("vit", vit.HUB, weights).folder.is_relative_to(cache)


def test_a_local_folder_is_known_by_its_weights_and_not_its_path(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "vit", tmp_path / "copy")
    (tmp_path / "copy" / "mer.json").unlink()
    local, drawn = (resolve("vit", vit.HUB, str(f)) for f in (tmp_path / "copy", folder))
    assert (local.name, local.random, local.revision) == (None, False, None)
    assert (drawn.name, drawn.random) == ("random", True)
    assert local.weights_sha256 == drawn.weights_sha256
    digest = hashlib.sha256((folder / "vit" / "model.safetensors").read_bytes()).hexdigest()
    assert local.weights_sha256 == digest


def test_book_keeping_in_the_configuration_does_not_count(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "vit", tmp_path, dirs_exist_ok=True)
    facts = json.loads((tmp_path / "config.json").read_text())
    before = resolve("vit", vit.HUB, str(tmp_path)).assets
    (tmp_path / "config.json").write_text(json.dumps(facts | {"transformers_version": "9"}, indent=7))
    assert resolve("vit", vit.HUB, str(tmp_path)).assets == before
    (tmp_path / "config.json").write_text(json.dumps(facts | {"num_attention_heads": 2}))
    assert resolve("vit", vit.HUB, str(tmp_path)).assets != before


def test_assets_are_the_files_that_enter(folder: Path) -> None:
    assets = resolve("roberta", roberta.HUB, str(folder)).assets
    assert {"config.json", "tokenizer.json", "tokenizer_config.json"} == set(assets)
    content = (folder / "roberta" / "tokenizer.json").read_bytes()
    assert assets["tokenizer.json"] == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("weights", ["nowhere", "roberta=nowhere"])
def test_a_folder_that_is_not_there(weights: str) -> None:
    with pytest.raises(SettingsError, match="no folder nowhere") as error:
        resolve("roberta", roberta.HUB, weights)
    assert "\n" not in str(error.value)


def test_a_folder_without_configuration_or_weights(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(SettingsError, match=r"neither vit/ nor a config\.json"):
        resolve("vit", vit.HUB, str(tmp_path))
    shutil.copy(folder / "vit" / "config.json", tmp_path)
    with pytest.raises(SettingsError, match=r"no model\.safetensors"):
        resolve("vit", vit.HUB, str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(SettingsError, match=r"config\.json cannot be read"):
        _ = resolve("vit", vit.HUB, str(tmp_path)).config


def test_safetensors_come_before_pickles_and_all_pieces_count(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    assert [f.name for f in weight_files(tmp_path)] == ["pytorch_model.bin"]
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"one")
    assert [f.name for f in weight_files(tmp_path)] == ["pytorch_model.bin"]
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"two")
    assert [f.name for f in weight_files(tmp_path)] == list(index["weight_map"].values())
    split = Checkpoint("x", tmp_path).weights_sha256
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"three")
    assert Checkpoint("x", tmp_path).weights_sha256 != split
    (tmp_path / "model.safetensors").write_bytes(b"whole")
    assert [f.name for f in weight_files(tmp_path)] == ["model.safetensors"]


def test_pickled_weights_are_read_as_tensors_only(folder: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    shutil.copytree(folder / "vit", tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    config = vit.Config(crop="whole")
    pickled = vit.Encoder(config, resolve("vit", vit.HUB, str(tmp_path)), "cpu")
    plain = vit.Encoder(config, resolve("vit", vit.HUB, str(folder)), "cpu")
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(tensor, pickled.model.state_dict()[name])

    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({**tensors, "trap": Trap()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(SettingsError, match="cannot be loaded"):
        vit.Encoder(config, resolve("vit", vit.HUB, str(tmp_path)), "cpu")
    assert not (tmp_path / "sprung").exists()


def test_missing_weights_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    shutil.copytree(folder / "vit", tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(
        {k: v for k, v in tensors.items() if "cls_token" not in k}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(SettingsError, match="cls_token"):
        vit.Encoder(vit.Config(crop="whole"), resolve("vit", vit.HUB, str(tmp_path)), "cpu")
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(SettingsError, match="cannot be loaded"):
        vit.Encoder(vit.Config(crop="whole"), resolve("vit", vit.HUB, str(tmp_path)), "cpu")


def hub_cache(root: Path, repo: str, source: Path, commit: str) -> None:
    """What the hub's client leaves behind after a download."""
    base = root / f"models--{repo.replace('/', '--')}"
    shutil.copytree(source, base / "snapshots" / commit)
    (base / "snapshots" / commit / "mer.json").unlink()
    (base / "refs").mkdir()
    (base / "refs" / "main").write_text(commit)


def test_the_local_hub_cache_is_used_and_its_commit_recorded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    commit = "".join("0123456789abcdef"[i % 16] for i in range(40))
    hub_cache(tmp_path, "org/tiny-vit", folder / "vit", commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    import huggingface_hub

    real = huggingface_hub.snapshot_download
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: real(*a, cache_dir=tmp_path, **k))
    hub = HubCheckpoint("org/tiny-vit", licence="none", parameters=0, assets=checkpoints.PREPROCESSOR)
    found = resolve("vit", hub, None)
    assert (found.name, found.revision, found.random) == ("org/tiny-vit", commit, False)
    assert resolve("vit", vit.HUB, "hf:org/tiny-vit").folder == found.folder
    assert resolve("vit", vit.HUB, f"vit=hf:org/tiny-vit@{commit}").revision == commit
    spec = vit.describe(vit.Config(crop="whole"), found)
    assert (spec.checkpoint, spec.revision) == ("org/tiny-vit", commit)


def test_offline_and_not_cached_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    real = huggingface_hub.snapshot_download
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: real(*a, cache_dir=tmp_path, **k))
    with pytest.raises(SettingsError, match="mer models pull roberta --to DIR") as error:
        resolve("roberta", roberta.HUB, None)
    assert "--weights" in str(error.value) and "\n" not in str(error.value)


def test_random_weights_are_made_once_in_the_cache(cache: Path) -> None:
    first = resolve("vit", vit.HUB, "random-small")
    stamp = (first.folder / "model.safetensors").stat().st_mtime_ns
    again = resolve("vit", vit.HUB, "random-small")
    assert again.folder == first.folder and first.folder.is_relative_to(cache)
    assert (first.folder / "model.safetensors").stat().st_mtime_ns == stamp
    assert [p.name for p in (cache / "random").iterdir()] == [first.folder.name]
    assert vit.describe(vit.Config(crop="whole"), first).random_weights


def test_loading_says_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    encoder = vit.Encoder(vit.Config(crop="whole"), resolve("vit", vit.HUB, str(folder)), "cpu")
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert not encoder.model.training
    assert not any(p.requires_grad for p in encoder.model.parameters())
    assert np.isfinite(float(next(encoder.model.parameters()).sum()))


def test_what_a_download_asks_for(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Configuration, assets and the preferred weights, not the same weights in four formats."""
    import huggingface_hub

    asked: list[str] = []

    def snapshot(repo: str, revision: str | None, allow_patterns: list[str] | None = None, **options: bool) -> str:
        if options.get("local_files_only"):
            raise FileNotFoundError
        asked.extend(allow_patterns or [])
        return str(folder / "vit")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    there = ["config.json", "pytorch_model.bin", "tf_model.h5", "model.safetensors", "preprocessor_config.json"]

    def facts(*_: Any, **__: Any) -> SimpleNamespace:
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in there])

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", facts)
    resolve("vit", vit.HUB, None)
    assert asked == ["config.json", "preprocessor_config.json", "model.safetensors"]
    asked.clear()
    there.remove("model.safetensors")
    there += ["pytorch_model.bin.index.json"]
    there.remove("pytorch_model.bin")
    resolve("vit", vit.HUB, None)
    assert asked[2:] == ["pytorch_model.bin.index.json", "pytorch_model-*.bin"]
    there.clear()
    with pytest.raises(SettingsError, match=r"has no model\.safetensors"):
        resolve("vit", vit.HUB, None)


def with_head(name: str, folder: Path) -> dict[str, np.ndarray]:
    """Save the model under a task head, as the hub has most of them; returns the bare model's weights."""
    import transformers

    torch_class = {
        "roberta": transformers.RobertaForMaskedLM,
        "vit": transformers.ViTForImageClassification,
        "resnet": transformers.ResNetForImageClassification,
        "hubert": transformers.HubertForCTC,
    }[name]
    config = transformers.AutoConfig.from_pretrained(folder)
    model = torch_class(config)
    model.save_pretrained(folder)
    return {k: v.numpy() for k, v in model.base_model.state_dict().items()}


@pytest.mark.parametrize("name", ["roberta", "vit", "resnet", "hubert"])
def test_a_checkpoint_with_a_head_gives_its_model(name: str, tmp_path: Path) -> None:
    module = ENCODERS.load(name)
    make_random_checkpoint(name, tmp_path, "small", seed=0)
    expected = with_head(name, tmp_path)
    config = module.Config.parse({"crop": "whole"} if name in ("vit", "resnet") else {}, name)
    encoder = module.Encoder(config, resolve(name, module.HUB, str(tmp_path)), "cpu")
    found = {k: v.numpy() for k, v in encoder.model.state_dict().items()}
    assert found
    assert all(np.array_equal(found[k], expected[k]) for k in found)


def test_hubert_as_the_hub_has_it(tmp_path: Path) -> None:
    """facebook/hubert-base-ls960 is a pickle whose weight norm has the names of older torch versions."""
    import torch
    from safetensors.torch import load_file

    make_random_checkpoint("hubert", tmp_path, "small", seed=0)
    module = ENCODERS.load("hubert")
    plain = module.Encoder(module.Config(), resolve("hubert", module.HUB, str(tmp_path)), "cpu").model.state_dict()
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    old = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    renamed = {}
    for key, tensor in tensors.items():
        for new, older in old.items():
            key = key.replace(new, older)
        renamed[key] = tensor
    assert any(key.endswith("weight_g") for key in renamed)
    torch.save(renamed, tmp_path / "pytorch_model.bin")
    found = module.Encoder(module.Config(), resolve("hubert", module.HUB, str(tmp_path)), "cpu").model.state_dict()
    assert all(torch.equal(found[key], plain[key]) for key in plain)
