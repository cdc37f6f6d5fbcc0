"""Whole trainings are compared as the benchmark says, in small; and it would notice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench import together as bench
from bench.meld_like import SIGNAL
from bench.together import Compared, Way
from cache_schema.errors import MerError
from fuse.archs import hff


def test_every_way_is_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = bench.main(["--small", "--archs", "hff", "--write", str(tmp_path / "together.md")])
    assert [(e.ways, e.metric) for e in found] == [
        (ways, metric) for ways in (("together", "alone"), ("together", "apart")) for metric in bench.SHOWN
    ]
    text = (tmp_path / "together.md").read_text("utf-8")
    assert text in capsys.readouterr().out and "## together - apart" in text
    assert "--small --archs hff" in text, "the command is told"


def test_bf16_against_fp32(capsys: pytest.CaptureFixture[str]) -> None:
    (first, _) = bench.main(["--small", "--archs", "hff", "--precision"])
    assert first.ways == ("bf16", "fp32") and "## bf16 - fp32" in capsys.readouterr().out


@pytest.mark.parametrize(("given", "why"), [(["--count", "0"], "nothing to train on"), (["--seeds", "1"], "two seeds")])
def test_what_cannot_be_compared_is_said(given: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(given)
    assert why in capsys.readouterr().err


def test_sequences_are_shifted_as_utterances() -> None:
    text = bench.made(hff, 200, 0.5).train
    means = torch.stack([
        text.frames["text"][int(s) : int(s) + int(n)].float().mean(0)
        for s, n in zip(text.starts["text"], text.lengths["text"], strict=True)
    ])  # fmt: skip
    assert float(means.std()) == pytest.approx((bench.SHIFT**2 + SIGNAL**2 + 1 / 4) ** 0.5, rel=0.05)


def test_what_is_beyond_the_spread_is_named() -> None:
    same, better = (0.70, 0.72, 0.71), (0.80, 0.82, 0.84)
    rows = [Compared("made", name, "accuracy", ("a", "b"), same, other) for name, other in (("x", same), ("y", better))]
    text = "\n".join(bench.tables(rows))
    assert "standard deviation: y on made (accuracy)." in text and "exclude 0: y on made (accuracy) (2 rows)" in text
    assert "| made | y | accuracy | 71.00 ± 1.00 | 82.00 ± 2.00 | -11.00 |" in text


def test_a_way_that_was_not_possible_ends_the_comparison() -> None:
    splits = bench.made(hff, 40, 0.5)
    with pytest.raises(MerError, match="whole dialogues"):
        bench.trained("hff", splits, Way(True), [*bench.NARROW["hff"], "time=dialogue", "max_epochs=1"], [0, 1])
