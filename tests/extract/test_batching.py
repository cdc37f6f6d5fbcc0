"""Batches under a budget, and what becomes of those that the device's memory does not hold."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cache_schema.rows import Failed
from cache_schema.samples import Utterance
from extract.batching import Batches
from extract.encoder import Clip, Needs
from extract.encoders import ENCODERS
from extract.weights.checkpoints import Checkpoint

MODELS = ("roberta", "hubert", "vit", "resnet")


def forward_of(lengths: list[int], seen: list[list[int]], most: int | None = None) -> Callable[[list[int]], Any]:
    """A model that doubles lengths, and whose device holds no batch of more than `most`, padding included."""

    def forward(items: list[int]) -> dict[str, torch.Tensor]:
        if most is not None and max(lengths[i] for i in items) * len(items) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        seen.append(items)
        return {"values": torch.tensor([2.0 * lengths[i] for i in items])}

    return forward


@given(lengths=st.lists(st.integers(1, 40), max_size=30), budget=st.integers(1, 100), most=st.integers(1, 100))
def test_every_item_is_there_once_within_what_the_device_holds(lengths: list[int], budget: int, most: int) -> None:
    seen: list[list[int]] = []
    outcomes = {}
    for items, found in Batches(budget, "cpu").run(lengths, forward_of(lengths, seen, most)):
        for k, item in enumerate(items):
            assert item not in outcomes
            outcomes[item] = found if isinstance(found, Failed) else found["values"][k]
    assert outcomes.keys() == set(range(len(lengths)))
    for item, length in enumerate(lengths):
        assert isinstance(outcomes[item], Failed) if length > most else outcomes[item] == 2 * length
    for batch in seen:
        padded = max(lengths[i] for i in batch) * len(batch)
        assert padded <= max(budget, lengths[batch[0]])


def test_a_batch_is_taken_over_after_the_next_one_was_begun() -> None:
    seen: list[list[int]] = []
    begun = [len(seen) for _ in Batches(2, "cpu").run([1] * 6, forward_of([1] * 6, seen))]
    assert begun == [2, 3, 3]


def test_batches_after_one_that_did_not_fit_are_smaller() -> None:
    seen: list[list[int]] = []
    batches = Batches(16, "cpu")
    for _ in range(2):
        list(batches.run([1] * 16, forward_of([1] * 16, seen, most=5)))
    assert [len(batch) for batch in seen] == [4] * 8
    assert batches.budget == 4


def clips_for(needs: Needs) -> list[Clip]:
    """Three short clips and, the second, a longer one."""
    rng = np.random.default_rng(0)
    clips = []
    for number, seconds in enumerate((0.5, 2.5, 0.6, 0.5)):
        clip = Clip(Utterance(id=f"u{number}", text="so it is " * round(8 * seconds)))
        if needs.audio_hz is not None:
            clip.audio[needs.audio_hz] = rng.uniform(-0.5, 0.5, int(seconds * needs.audio_hz)).astype(np.float32)
        if needs.frames is not None and needs.frames.size is not None:
            side = needs.frames.size
            shape = (round(seconds * needs.frames.fps), side, side, 3)
            clip.frames[needs.frames] = rng.integers(0, 256, shape).astype(np.uint8)
        clips.append(clip)
    return clips


@pytest.fixture(params=MODELS)
def encoder(request: pytest.FixtureRequest, small: Callable[[str], Checkpoint]) -> tuple[Any, list[Clip]]:
    """An encoder and clips for it."""
    module: ModuleType = ENCODERS.load(request.param)
    fields = {"output_dtype": "float32"} | ({"crop": "whole"} if "crop" in module.Config.model_fields else {})
    config, checkpoint = module.Config(**fields), small(request.param)
    return module.Encoder(config, checkpoint, "cpu"), clips_for(module.needs(config, checkpoint))


def numbers_in(given: Any, named: dict[str, Any]) -> int:
    tensors = [t for t in (*given, *named.values()) if isinstance(t, torch.Tensor)]
    return tensors[0].numel()


def test_a_batch_that_memory_does_not_hold_is_halved_and_changes_nothing(encoder: tuple[Any, list[Clip]]) -> None:
    loaded, clips = encoder
    expected = list(loaded.encode(clips))
    sizes: list[int] = []
    watch = loaded.model.register_forward_pre_hook(lambda _, *given: sizes.append(numbers_in(*given)), with_kwargs=True)
    list(loaded.encode(clips))
    watch.remove()
    refused: list[int] = []

    def refuse(_: Any, given: Any, named: Any) -> None:
        if numbers_in(given, named) > max(sizes) // 2:
            refused.append(numbers_in(given, named))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    loaded.model.register_forward_pre_hook(refuse, with_kwargs=True)
    found = list(loaded.encode(clips))
    assert refused
    for row, other in zip(found, expected, strict=True):
        difference = np.linalg.norm(row["values"] - other["values"])
        assert difference <= 1e-4 * np.linalg.norm(other["values"])


def test_a_clip_that_alone_does_not_fit_fails_and_the_others_do_not(encoder: tuple[Any, list[Clip]]) -> None:
    loaded, clips = encoder
    whole_pictures = bool(clips[0].frames)
    sizes: list[int] = []
    watch = loaded.model.register_forward_pre_hook(lambda _, *given: sizes.append(numbers_in(*given)), with_kwargs=True)
    for clip in clips:
        list(loaded.encode([clip]))
    watch.remove()
    longest = 0 if whole_pictures else sorted(sizes)[-1] - 1  # a picture that does not fit is as large as any other

    def refuse(_: Any, given: Any, named: Any) -> None:
        if numbers_in(given, named) > longest:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    loaded.model.register_forward_pre_hook(refuse, with_kwargs=True)
    rows = list(loaded.encode(clips))
    failed = [index for index, row in enumerate(rows) if isinstance(row, Failed)]
    assert failed == ([0, 1, 2, 3] if whole_pictures else [1])
    assert "does not fit into the memory of cpu" in rows[1].reason
