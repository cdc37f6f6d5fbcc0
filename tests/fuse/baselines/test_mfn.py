"""MFN against its equations, step by step."""

from __future__ import annotations

import torch
from batches import SOME_ABSENT, TAILS, batch, make, without_gradient
from refusing import captures
from torch import Tensor

from fuse.baselines import mfn
from fuse.nn.lengths import resample

SMALL = {"steps": 5, "text_width": 4, "speech_width": 3, "vision_width": 2, "memory": 6, "hidden": 7}


def lstm_step(cell: torch.nn.LSTMCell, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """One utterance's step, gate by gate (Hochreiter & Schmidhuber 1997, with the forget gate)."""
    raw = cell.weight_ih @ x + cell.bias_ih + cell.weight_hh @ h + cell.bias_hh
    i, f, g, o = raw.chunk(4)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def by_steps(network: mfn.MFN, sequences: dict[str, Tensor]) -> Tensor:
    """The logits of one utterance, of modalities on shared steps (T, D_m); those it lacks are missing."""
    h = {m: torch.zeros(s).double() for m, s in zip(network.modalities, network.sizes, strict=True)}
    c = {m: torch.zeros_like(v) for m, v in h.items()}
    u = torch.zeros(SMALL["memory"]).double()
    for t in range(SMALL["steps"]):
        before = torch.cat(list(c.values()))
        for m, x in sequences.items():
            h[m], c[m] = lstm_step(network.lstms[m], x[t], h[m], c[m])  # type: ignore[arg-type]
        both = torch.cat([before, *c.values()])
        there = torch.cat([torch.full((len(v),), m in sequences) for m, v in c.items()] * 2)
        scores = network.memory.attend(both).exp() * there
        attended = both * scores / scores.sum()
        keep, write = torch.sigmoid(network.memory.keep(attended)), torch.sigmoid(network.memory.write(attended))
        u = keep * u + write * torch.tanh(network.memory.update(attended))
    return network.classifier(torch.cat([*h.values(), u]))


def test_it_is_its_equations_step_by_step_whatever_is_absent() -> None:
    model, b = make(mfn, **SMALL), batch(available=SOME_ABSENT)
    logits = model(b).logits
    for row in range(5):
        own = {
            m: resample(b.sequences[m][[row]], b.lengths[m][[row]], SMALL["steps"])[0]
            for column, m in enumerate(TAILS)
            if SOME_ABSENT[row][column]
        }
        torch.testing.assert_close(logits[row], by_steps(model.network, own))  # type: ignore[arg-type]


def test_attention_is_a_distribution_over_the_available_memories() -> None:
    model, b = make(mfn, **SMALL), batch(available=SOME_ABSENT)
    drawn = model(b).drawn
    attention = drawn["attention"]
    assert attention.shape == (5, 5, 18)
    torch.testing.assert_close(attention.sum(dim=2), torch.ones(5, 5).double())
    speech = torch.tensor([4, 5, 6, 13, 14, 15])
    assert not attention[1][:, speech].any() and (attention[0] > 0).all()
    torch.testing.assert_close(drawn["attention_speech"], attention[..., speech].sum(dim=2).mean(dim=1))
    shares = torch.stack([drawn[f"attention_{m}"] for m in TAILS])
    torch.testing.assert_close(shares.sum(dim=0), torch.ones(5).double())


def test_every_parameter_learns_with_any_modalities() -> None:
    for modalities in (("vision",), ("text", "speech"), tuple(TAILS)):
        model = make(mfn, tails={m: TAILS[m] for m in modalities}, **SMALL, dropout=0.0).train()
        loss = torch.nn.functional.cross_entropy(model(batch()).logits, batch().target)  # type: ignore[arg-type]
        assert without_gradient(model, loss) == []


def test_a_step_can_be_captured() -> None:
    model = make(mfn, **SMALL).train()
    b = model.clean(batch(available=SOME_ABSENT))
    assert captures(lambda: model.network(b).logits.sum().backward()) > 50
