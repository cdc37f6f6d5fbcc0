"""ResNet and ViT against transformers with its own image processors, a frame at a time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cache_schema.errors import SettingsError
from cache_schema.samples import Utterance
from extract.encoder import Clip, FrameRequest
from extract.encoders import resnet, vit
from extract.vision import Pixels
from extract.weights.checkpoints import Checkpoint, resolve

SIDE = {"resnet": 64, "vit": 96}
"""Pixels of the small random checkpoints."""


@pytest.fixture(params=["resnet", "vit"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def module_of(name: str) -> ModuleType:
    return {"resnet": resnet, "vit": vit}[name]


def clips(side: int, counts: tuple[int, ...] = (3, 1, 7)) -> list[Clip]:
    rng = np.random.default_rng(0)
    request = FrameRequest(5.0, "whole", side)
    frames = [rng.integers(0, 256, (n, side, side, 3)).astype(np.uint8) for n in counts]
    return [Clip(Utterance(id=str(i)), frames={request: f}) for i, f in enumerate(frames)]


def processor_of(name: str, folder: Path) -> Any:
    """transformers' own processor of the checkpoint, told that the frames have their size already."""
    from transformers import ConvNextImageProcessorPil, ViTImageProcessorPil

    kind = {"resnet": ConvNextImageProcessorPil, "vit": ViTImageProcessorPil}[name]
    return kind.from_pretrained(folder, do_resize=False)


def plainly(name: str, folder: Path, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """transformers' model behind transformers' own processor."""
    from transformers import ResNetModel, ViTModel

    inputs = processor_of(name, folder)(list(frames), return_tensors="pt")
    with torch.no_grad():
        if name == "vit":
            return (
                ViTModel.from_pretrained(folder, add_pooling_layer=False)
                .eval()(**inputs)
                .last_hidden_state[:, 0]
                .numpy()
            )
        return ResNetModel.from_pretrained(folder).eval()(**inputs).last_hidden_state.mean((2, 3)).numpy()


def features(name: str, checkpoint: Checkpoint, side: int) -> list[NDArray[np.float32]]:
    module = module_of(name)
    config = module.Config(crop="whole", output_dtype="float32")
    assert module.needs(config, checkpoint).frames == FrameRequest(5.0, "whole", side)
    return [row["values"] for row in module.Encoder(config, checkpoint, "cpu", budget=4).encode(clips(side))]


def assert_near(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    assert found.shape == expected.shape
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)


def test_equals_transformers(name: str, small: Callable[[str], Checkpoint]) -> None:
    checkpoint = small(name)
    for found, clip in zip(features(name, checkpoint, SIDE[name]), clips(SIDE[name]), strict=True):
        (frames,) = clip.frames.values()
        assert_near(found, plainly(name, checkpoint.folder, frames))


PREPROCESSORS = [
    {"size": 64, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "do_normalize": True},
    {"size": {"height": 64, "width": 64}, "image_mean": [0.1, 0.5, 0.9], "image_std": [1.0, 0.5, 0.25]},
    {"size": {"shortest_edge": 64}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 0.01},
    {"size": 64, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_normalize": False},
    {"size": 64, "image_mean": [100.0] * 3, "image_std": [50.0] * 3, "do_rescale": False},
]


@pytest.mark.parametrize("said", PREPROCESSORS)
def test_every_form_of_preprocessing_equals_transformers(
    name: str, said: dict[str, Any], small: Callable[[str], Checkpoint], tmp_path: Path
) -> None:
    shutil.copytree(small(name).folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    checkpoint = resolve(name, module_of(name).HUB, str(tmp_path))
    (frames,) = clips(64, (5,))[0].frames.values()
    expected = processor_of(name, tmp_path)(list(frames), return_tensors="np")["pixel_values"]
    assert_near(Pixels.of(checkpoint).tensor(frames, "cpu", torch.float32).numpy(), expected)


def test_a_preprocessor_without_a_size_is_refused(small: Callable[[str], Checkpoint], tmp_path: Path) -> None:
    shutil.copytree(small("vit").folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(SettingsError, match="size"):
        Pixels.of(resolve("vit", vit.HUB, str(tmp_path)))
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(SettingsError, match="preprocessor_config"):
        Pixels.of(resolve("vit", vit.HUB, str(tmp_path)))


@pytest.mark.parametrize("budget", [1, 2, 3, 5, 11, 100])
def test_rows_come_one_per_clip_whatever_the_budget(small: Callable[[str], Checkpoint], budget: int) -> None:
    config = resnet.Config(crop="whole", output_dtype="float32")
    counts = (3, 1, 1, 7, 2)
    whole = list(resnet.Encoder(config, small("resnet"), "cpu", budget=1000).encode(clips(64, counts)))
    rows = list(resnet.Encoder(config, small("resnet"), "cpu", budget=budget).encode(clips(64, counts)))
    assert [len(row["values"]) for row in rows] == list(counts)
    for row, other in zip(rows, whole, strict=True):
        assert_near(row["values"], other["values"])


def test_the_frame_rate_is_in_the_spec(name: str, small: Callable[[str], Checkpoint]) -> None:
    module = module_of(name)
    five, ten = (module.describe(module.Config(crop="whole", fps=fps), small(name)) for fps in (5.0, 10.0))
    assert (five.rate_hz, ten.rate_hz) == (5.0, 10.0)
    assert five.fingerprint() != ten.fingerprint()
    assert five.values.tail == ({"resnet": 256, "vit": 128}[name],)


def vit_rows(checkpoint: Checkpoint, **values: object) -> list[Any]:
    config = vit.Config.parse({"crop": "whole", "output_dtype": "float32", **values}, "vit")
    spec = vit.describe(config, checkpoint)
    rows = list(vit.Encoder(config, checkpoint, "cpu", budget=4).encode(clips(SIDE["vit"])))
    assert all({a.name: a.tail for a in spec.arrays} == {n: x.shape[1:] for n, x in row.items()} for row in rows)
    return rows


@pytest.mark.parametrize("grid", [1, 3, 4, 6])
def test_vit_patches_are_averaged_to_a_grid(small: Callable[[str], Checkpoint], grid: int) -> None:
    """Each cell is the mean of the patches whose stretch of rows and columns it covers, as torch cuts them."""
    from transformers import ViTModel

    checkpoint = small("vit")
    model = ViTModel.from_pretrained(checkpoint.folder, add_pooling_layer=False).eval()
    for row, clip in zip(vit_rows(checkpoint, tokens="grid", grid=grid), clips(SIDE["vit"]), strict=True):
        (frames,) = clip.frames.values()
        with torch.no_grad():
            tokens = model(**processor_of("vit", checkpoint.folder)(list(frames), return_tensors="pt"))
        hidden = tokens.last_hidden_state.numpy()
        patches = hidden[:, 1:].reshape(len(frames), 6, 6, -1)
        cuts = [(i * 6 // grid, -(-(i + 1) * 6 // grid)) for i in range(grid)]
        cells = [patches[:, a:b, c:d].mean(axis=(1, 2)) for a, b in cuts for c, d in cuts]
        assert_near(row["values"], np.stack([hidden[:, 0], *cells], axis=1))


def test_vit_attention_is_the_class_tokens(small: Callable[[str], Checkpoint]) -> None:
    from transformers import ViTModel

    checkpoint = small("vit")
    model = ViTModel.from_pretrained(checkpoint.folder, add_pooling_layer=False, attn_implementation="eager").eval()
    plain = vit_rows(checkpoint)
    for row, other, clip in zip(vit_rows(checkpoint, attention=True), plain, clips(SIDE["vit"]), strict=True):
        (frames,) = clip.frames.values()
        with torch.no_grad():
            inputs = processor_of("vit", checkpoint.folder)(list(frames), return_tensors="pt")
            last = model(**inputs, output_attentions=True).attentions[-1]
        assert_near(row["attention"], last[:, :, 0, 1:].mean(dim=1).numpy())
        assert (row["attention"].sum(axis=1) < 1).all()
        assert_near(row["values"], other["values"])


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_vit_layers(small: Callable[[str], Checkpoint], layer: int) -> None:
    from transformers import ViTModel

    checkpoint = small("vit")
    model = ViTModel.from_pretrained(checkpoint.folder, add_pooling_layer=False).eval()
    for row, clip in zip(vit_rows(checkpoint, layer=layer), clips(SIDE["vit"]), strict=True):
        (frames,) = clip.frames.values()
        with torch.no_grad():
            inputs = processor_of("vit", checkpoint.folder)(list(frames), return_tensors="pt")
            states = model(**inputs, output_hidden_states=True).hidden_states
        assert_near(row["values"], states[layer][:, 0].numpy())


@pytest.mark.parametrize("wrong", [{"layer": 3}, {"tokens": "grid", "grid": 8}])
def test_what_the_vit_does_not_have_is_refused(small: Callable[[str], Checkpoint], wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"2 layers|6 x 6 patches"):
        vit.describe(vit.Config(crop="whole", **wrong), small("vit"))
