"""TFN and LMF against each other and against their definitions."""

from __future__ import annotations

import itertools

import pytest
import torch
from batches import SOME_ABSENT, TAILS, batch, make, without_gradient

from cache_schema.errors import SettingsError
from fuse.baselines import lmf, tfn


def test_the_outer_product_is_that_of_every_triple() -> None:
    a, b, c = torch.randn(2, 3), torch.randn(2, 4), torch.randn(2, 5)
    z = tfn.outer_product([a, b, c])
    torch.testing.assert_close(z, torch.einsum("bi,bj,bk->bijk", a, b, c).flatten(1))
    for row in range(2):
        triples = [x * y * w for x, y, w in itertools.product(a[row].tolist(), b[row].tolist(), c[row].tolist())]
        torch.testing.assert_close(z[row], torch.tensor(triples))
    assert tfn.outer_product([a]) is a


def test_low_rank_fusion_is_the_linear_map_whose_weights_it_factorises() -> None:
    fusion = lmf.LowRankFusion([2, 3, 4], rank=3, outputs=5).double()
    torch.nn.init.normal_(fusion.bias)
    z = [torch.randn(6, d + 1, dtype=torch.float64) for d in (2, 3, 4)]
    one, two, three = fusion.factors
    weights = torch.einsum("r,ric,rjc,rkc->cijk", fusion.rank_weights[0], one, two, three).flatten(1)
    torch.testing.assert_close(fusion(z), tfn.outer_product(z) @ weights.T + fusion.bias)


def test_at_full_rank_low_rank_fusion_is_any_tensor_fusion() -> None:
    """Every tensor is a sum of rank-one terms, one for each pair of the first two indices at most."""
    sizes, outputs = (3, 4, 5), 2
    linear = torch.nn.Linear(3 * 4 * 5, outputs).double()
    tensor = linear.weight.detach().view(outputs, *sizes)
    fusion = lmf.LowRankFusion([n - 1 for n in sizes], rank=12, outputs=outputs).double()
    with torch.no_grad():
        fusion.rank_weights.fill_(1.0)
        fusion.bias.copy_(linear.bias)
        for factor in fusion.factors:
            factor.zero_()
        for r, (i, j) in enumerate(itertools.product(range(3), range(4))):
            fusion.factors[0][r, i] = 1.0
            fusion.factors[1][r, j] = 1.0
            fusion.factors[2][r] = tensor[:, i, j].T
    z = [torch.randn(6, n, dtype=torch.float64) for n in sizes]
    torch.testing.assert_close(fusion(z), linear(tfn.outer_product(z)))


def test_the_whole_of_lmf_is_a_tfn_with_a_linear_inference() -> None:
    model, b = make(lmf, rank=3), batch(available=SOME_ABSENT)
    z = model.network.embed(model.clean(b))  # type: ignore[operator]
    fusion = model.network.fusion
    weights = torch.einsum("r,ric,rjc,rkc->cijk", fusion.rank_weights[0], *fusion.factors).flatten(1)  # type: ignore
    torch.testing.assert_close(model(b).logits, tfn.outer_product(z) @ weights.T + fusion.bias)


@pytest.mark.parametrize("module", [lmf, tfn])
def test_an_absent_modality_leaves_its_one(module: object) -> None:
    model, b = make(module), batch(available=SOME_ABSENT)  # type: ignore[arg-type]
    z = model.network.embed(model.clean(b))  # type: ignore[operator]
    for column, vectors in enumerate(z):
        assert (vectors[:, -1] == 1).all()
        absent = ~b.available[:, column]
        assert not vectors[absent, :-1].any() and vectors[~absent, :-1].any()


def test_without_a_modality_the_product_is_that_of_the_others() -> None:
    z = [torch.randn(1, 3), torch.tensor([[0.0, 0.0, 1.0]]), torch.randn(1, 4)]
    product = tfn.outer_product(z).view(3, 3, 4)
    assert not product[:, :2].any()
    torch.testing.assert_close(product[:, 2].flatten(), tfn.outer_product([z[0], z[2]])[0])


def test_embeddings_are_an_lstm_over_text_and_a_network_over_the_mean() -> None:
    model, b = make(tfn), batch()
    embed = model.network.embed
    z = embed(b)  # type: ignore[operator]
    for row in range(5):
        x = b.sequences["text"][[row], : int(b.lengths["text"][row])]
        _, (h, _) = embed.lstm.lstm(x)  # type: ignore
        torch.testing.assert_close(z[0][row, :-1], embed.subnets["text"][1](h[0])[0])  # type: ignore
        mean = b.sequences["speech"][row, : int(b.lengths["speech"][row])].mean(dim=0)
        torch.testing.assert_close(z[1][row, :-1], embed.subnets["speech"](mean))  # type: ignore


def test_every_fusion_weight_of_lmf_is_trained() -> None:
    for modalities in (("text",), ("text", "vision"), tuple(TAILS)):
        model = make(lmf, tails={m: TAILS[m] for m in modalities}).train()
        loss = torch.nn.functional.cross_entropy(model(batch()).logits, batch().target)  # type: ignore[arg-type]
        assert without_gradient(model, loss) == []
        gradient = model.network.fusion.rank_weights.grad  # type: ignore
        assert (gradient != 0).all()


def test_the_papers_widths_can_be_set() -> None:
    changes = {"text_width": 128, "speech_width": 32, "vision_width": 32, "hidden": 128}
    model = make(tfn, **changes)
    assert model.network.inference[1].weight.shape == (128, 129 * 33 * 33)  # type: ignore


@pytest.mark.parametrize("module", [lmf, tfn])
def test_what_cannot_be_read_is_refused(module: object) -> None:
    with pytest.raises(SettingsError, match="vision has"):
        make(module, tails={"vision": (3, 8, 8)})  # type: ignore[arg-type]
