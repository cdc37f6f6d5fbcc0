"""The benches' clock."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from bench.clock import Clock, in_turns


def test_works_take_turns_and_the_round_that_warms_up_is_not_counted() -> None:
    done: list[str] = []
    found = in_turns({"one": lambda: done.append("one"), "other": lambda: done.append("other")}, 3)
    assert done == ["one", "other"] * 4
    assert {name: len(seconds) for name, seconds in found.items()} == {"one": 3, "other": 3}
    assert all(second >= 0 for seconds in found.values() for second in seconds)


class Invalidated:
    """Ends a capture as torch does one in which something waited for the device."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is not None:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")


def test_what_cannot_be_captured_leaves_the_rest_to_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise nothing more can be captured in the process, and no memory given back."""
    ended, streams = Mock(), list[Any]()
    for name in ("Stream", "CUDAGraph", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, Mock())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: streams.append(stream) or nullcontext())
    monkeypatch.setattr(torch.cuda, "graph", lambda *_, **__: Invalidated())
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 7))
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", ended, raising=False)
    with pytest.raises(RuntimeError, match="previous error"):
        Clock(torch.device("cuda", 1)).graph(Mock(side_effect=[None, None, None, RuntimeError("waits")]))
    ended.assert_called_once_with(1, (0, 7))
    assert len(streams) == 2, "what is current in the capture is left after it, too"
