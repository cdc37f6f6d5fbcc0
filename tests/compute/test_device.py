"""What --device means."""

from __future__ import annotations

import pytest
import torch

from cache_schema.errors import SettingsError
from compute.device import resolve_device


def test_a_gpu_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, meant in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert resolve_device("auto") == meant
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("meta") == "meta"


def test_a_device_that_is_not_known_or_not_there_is_one_line() -> None:
    with pytest.raises(SettingsError, match=r"no device called .cdua.\..*Did you mean 'cuda'"):
        resolve_device("cdua")
    with pytest.raises(SettingsError, match=r"The device 'cuda:99' cannot be used \(.*\); `mer doctor`"):
        resolve_device("cuda:99")
