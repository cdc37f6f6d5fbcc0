"""bf16: products in bfloat16, attention and recurrences in float32; every architecture can train in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bench.meld_like import make_data
from fuse.archs import ARCHS
from fuse.data import scales
from fuse.model import Model
from fuse.nn.attention import MultiHeadAttention
from fuse.precision import computing, cpu_has_bf16, in_fp32, resolved
from fuse.train import train_run
from fuse.training.losses import Loss

CPU = torch.device("cpu")


def test_auto_is_bf16_where_the_cpu_has_units_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for there in (False, True):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda there=there: there)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        assert cpu_has_bf16() is there
        assert resolved("auto", CPU) == ("bf16" if there else "fp32")
    assert resolved("auto", torch.device("cuda")) == "fp32"
    assert resolved("fp32", CPU) == "fp32" and resolved("bf16", torch.device("cuda")) == "bf16"


def test_products_are_in_bfloat16_and_what_is_marked_in_float32() -> None:
    layer, x = nn.Linear(8, 8), torch.randn(4, 8)

    @in_fp32
    def product(a: Tensor, pair: tuple[Tensor, Tensor]) -> Tensor:
        assert a.dtype == pair[0].dtype == torch.float32
        return a @ pair[0].T

    with computing("bf16", CPU):
        half = layer(x)
        assert half.dtype == torch.bfloat16
        assert product(half, (half, half)).dtype == torch.float32
    with computing("fp32", CPU):
        assert layer(x).dtype == torch.float32


def test_attention_reads_the_same_with_and_without_its_weights() -> None:
    attend = MultiHeadAttention(12, 3, 4)
    x, memory = torch.randn(2, 5, 12), torch.randn(2, 7, 12)
    visible = torch.rand(2, 1, 7) < 0.6
    visible[..., 0] = True
    for seen in (None, visible):
        read, weights = attend.train()(x, memory, seen)
        assert weights is None, "nothing is drawn in training"
        wanted, weights = attend.eval()(x, memory, seen)
        assert weights is not None and weights.shape == (2, 3, 5, 7)
        torch.testing.assert_close(read, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ARCHS.names())
def test_gradients_in_bf16_are_those_in_fp32_but_for_its_rounding(name: str) -> None:
    module = ARCHS.load(name)
    data = make_data(module, 6)
    torch.manual_seed(0)
    model = Model(module.build(module.Config(), data.tails, data.target), scales(data, True))
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    batch, criterion, found = data.batch(torch.arange(4)), Loss(module.TRAINING, data), {}
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        with computing(precision, CPU):  # type: ignore[arg-type]
            output = model.train()(batch)
            loss = torch.stack([criterion(output.logits, batch.target), *output.losses.values()]).sum()
        model.zero_grad()
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        assert gradient.dtype == torch.float32 and output.logits.dtype != torch.float16
        found[precision] = loss.detach().float(), gradient
    torch.testing.assert_close(found["bf16"][0], found["fp32"][0], rtol=0.05, atol=0.02)
    assert torch.cosine_similarity(found["bf16"][1], found["fp32"][1], dim=0) > 0.98


def test_a_run_records_what_it_computed_in(toy_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = ["d=12", "steps=3", "layers=1", "heads=2", "head_width=4", "speech_channels=[4]", "max_epochs=1"]
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    for asked, recorded in (("fp32", "fp32"), ("bf16", "bf16"), ("auto", "bf16")):
        words = [*small, f"precision={asked}"]
        done = train_run(toy_store, "toy", "hff", assignments=words, seeds=1, jobs=1, out=tmp_path)
        assert done.record.training["precision"] == recorded
