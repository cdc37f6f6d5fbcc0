"""The benchmark of training runs and tells its ratios; how large they are is not tested."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench import fuse as bench
from bench.meld_like import LONGEST, make_data
from fuse.archs import complementary, hff
from fuse.nn.recurrent import LSTM


def test_every_way_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench.main(["--small", "--parts", "archs", "--archs", "cnn", "--write", str(tmp_path / "fuse.md")])
    out = capsys.readouterr().out
    assert "cnn" in {line.split()[0] for line in out.splitlines() if line}
    assert "at least" not in out, "a small run says nothing about speed"
    assert out.strip() in (tmp_path / "fuse.md").read_text("utf-8")


def test_seeds_are_measured_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    bench.main(["--small", "--parts", "seeds,whole"])
    out = capsys.readouterr().out
    assert "hff, 5 seeds of 1 epochs" in out and "hff, 5 seeds, 5 epochs" in out


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("lengths", [[4, 2, 1], [4, 4, 4]], ids=str)
def test_the_plain_lstm_says_the_same(bidirectional: bool, lengths: list[int]) -> None:
    torch.manual_seed(0)
    module, x = LSTM(3, 5, bidirectional), torch.randn(3, 4, 3)
    for mine, plain in zip(
        module(x, torch.tensor(lengths)), bench.packed(module, x, torch.tensor(lengths)), strict=True
    ):
        torch.testing.assert_close(mine, plain)


def test_the_plain_batches_hold_the_same_numbers() -> None:
    data = make_data(complementary, 6, longest=1.0)
    loader = torch.utils.data.DataLoader(bench.Padded(data), 6)
    (plain,) = bench.plain_batches(data, loader)
    own = data.batch(torch.arange(6))
    for modality, length in own.lengths.items():
        assert torch.equal(plain.lengths[modality], length)
        for row, frames in enumerate(length.tolist()):
            assert torch.equal(plain.sequences[modality][row, :frames], own.sequences[modality][row, :frames].float())
    for name, there in own.companions_there.items():
        inside = there & (torch.arange(there.shape[1]) < own.lengths["text"][:, None])
        assert torch.equal(plain.companions_there[name][:, : there.shape[1]], inside)


def test_lengths_are_melds() -> None:
    data = make_data(hff, 2000)
    seconds = data.lengths["speech"] / 100
    assert float(seconds.min()) >= 0.3 and float(seconds.max()) <= LONGEST
    assert 2.2 < float(seconds.median()) < 2.8
