"""Data on the training device: every tensor once, whatever number of splits and folds share it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from toy_corpus import load

from cache_schema.errors import SettingsError
from cache_schema.window import WINDOW_BYTES
from fuse import placement
from fuse.archs import hff
from fuse.data import Dataset, Selection, Splits
from fuse.placement import Mover, bytes_of, describe_device, named_device, on_device, window_for


def data_tensors(data: Dataset) -> list[Tensor]:
    found: list[Tensor] = []

    def note(x: Tensor) -> Tensor:
        found.append(x)
        return x

    data.to(note)
    return found


def test_a_tensor_is_moved_once(toy_store: Path) -> None:
    """`meta` stands for another device: moving there makes new tensors."""
    splits = load(toy_store, "toy", hff.PREFERS)[0]
    folds: dict[str, Selection] = {"one": splits, "two": Splits(splits.val, splits.train, splits.open_test())}
    moved = on_device(folds, torch.device("meta"))
    assert all(x.is_meta for fold in moved.values() for x in data_tensors(fold.train))
    one, two = moved["one"], moved["two"]
    assert isinstance(one, Splits) and isinstance(two, Splits)
    for modality, frames in one.train.frames.items():
        others = (one.val, one.open_test(), two.train, two.val, two.open_test())
        assert all(frames is other.frames[modality] for other in others)
        assert frames.dtype == torch.float16, "as stored"
    assert one.train.starts["text"] is two.val.starts["text"]


def test_a_tensor_that_was_moved_is_not_copied_again(monkeypatch: pytest.MonkeyPatch) -> None:
    move, x, copied = Mover(torch.device("meta")), torch.zeros(3), []
    to = Tensor.to
    monkeypatch.setattr(Tensor, "to", lambda self, *given: copied.append(self) or to(self, *given))
    assert move(x) is move(x) and len(copied) == 1


def test_the_size_counts_shared_frames_once(toy_store: Path) -> None:
    splits = load(toy_store, "toy", hff.PREFERS)[0]
    frames = sum(x.nbytes for x in splits.train.frames.values())
    small = sum(x.nbytes for part in (splits.train, splits.val, splits.open_test()) for x in data_tensors(part))
    assert bytes_of({"one": splits}) == small - 2 * frames
    assert bytes_of({"one": splits, "two": splits}) == bytes_of({"one": splits})


def test_a_cpu_has_nothing_to_describe() -> None:
    assert describe_device(torch.device("cpu")) == {}


def test_a_device_is_called_as_it_was_given_and_auto_what_it_means(monkeypatch: pytest.MonkeyPatch) -> None:
    """`meta` is there everywhere; one of several is not another of them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [named_device(device) for device in ("auto", "cpu", "meta:1")] == ["cpu", "cpu", "meta:1"]
    with pytest.raises(SettingsError):
        named_device("cdua")


def test_windows_where_the_data_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "free_memory", lambda: 1000)
    device = torch.device("cpu")
    assert window_for(600, device, None) is None and window_for(700, device, None) == WINDOW_BYTES
    assert window_for(1, device, 50) == 50
    monkeypatch.setattr(placement, "free_memory", lambda: None)
    assert window_for(10**15, device, None) is None, "where nobody knows, they are read"
    monkeypatch.undo()
    free = placement.free_memory()
    assert free is None or free > 2**20
