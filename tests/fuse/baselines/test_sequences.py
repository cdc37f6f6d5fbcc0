"""BiLSTM, CNN and early fusion against the same mathematics of one utterance at a time."""

from __future__ import annotations

import pytest
import torch
from batches import CLASSES, SENTIMENT, SOME_ABSENT, TAILS, batch, make, without_gradient
from torch.nn import functional as F

from cache_schema.errors import SettingsError
from fuse.baselines import bilstm, cnn, early_fusion
from fuse.nn.recurrent import LSTM


def test_bilstm_ends_where_each_direction_ends() -> None:
    model, b = make(bilstm, hidden=6), batch()
    network = model.network
    assert isinstance(network, bilstm.BiLSTM)
    forwards, backwards = torch.nn.LSTM(5, 6).double(), torch.nn.LSTM(5, 6).double()
    weights = network.lstm.lstm.state_dict()
    forwards.load_state_dict({n: w for n, w in weights.items() if not n.endswith("_reverse")})
    backwards.load_state_dict({n.removesuffix("_reverse"): w for n, w in weights.items() if n.endswith("_reverse")})
    for row in range(5):
        x = b.sequences["text"][row, : int(b.lengths["text"][row])]
        h = torch.cat([forwards(x)[0][-1], backwards(x.flip(0))[0][-1]])
        torch.testing.assert_close(model(b).logits[row], network.classifier(h))


def test_states_are_zero_in_the_padding_and_of_an_empty_sequence() -> None:
    lstm = LSTM(3, 4, bidirectional=True, layers=2)
    states, final = lstm(torch.randn(3, 5, 3), torch.tensor([5, 2, 0]))
    assert states.shape == (3, 5, 8) and final.shape == (3, 8)
    assert not states[1, 2:].any() and not states[2].any() and not final[2].any()
    torch.testing.assert_close(final[1], torch.cat([states[1, 1, :4], states[1, 0, 4:]]))


def test_cnn_is_convolutions_and_the_maximum_of_each_channel() -> None:
    model, b = make(cnn, channels=(6, 7), kernel=3, hidden=5), batch()
    network = model.network
    assert isinstance(network, cnn.CNN)
    for row in range(5):
        x = b.sequences["speech"][row, : int(b.lengths["speech"][row])].T
        for layer in network.convolutions.layers:
            x = F.relu(F.conv1d(x, layer.weight, layer.bias, padding="same"))  # type: ignore
        torch.testing.assert_close(model(b).logits[row], network.classifier(x.max(dim=1).values))


def test_early_fusion_is_an_lstm_over_everything_side_by_side() -> None:
    model, b = make(early_fusion, SENTIMENT, steps=3, hidden=6), batch(available=SOME_ABSENT)
    network = model.network
    assert isinstance(network, early_fusion.EarlyFusion)
    for row, there in enumerate(SOME_ABSENT):
        parts = []
        for column, modality in enumerate(TAILS):
            x = b.sequences[modality][row, : int(b.lengths[modality][row])].T[None]
            parts.append(F.adaptive_avg_pool1d(x, 3)[0].T * there[column])
        flags = torch.tensor(there).double().expand(3, -1)
        _, (h, _) = network.lstm.lstm(torch.cat([*parts, flags], dim=1))
        torch.testing.assert_close(model(b).logits[row], network.classifier(h[0])[0])


def test_early_fusion_of_one_modality_needs_no_flag() -> None:
    model = make(early_fusion, tails={"vision": (3,)}, hidden=6)
    assert model.network.lstm.lstm.input_size == 3  # type: ignore


@pytest.mark.parametrize("module", [bilstm, cnn, early_fusion])
def test_every_parameter_learns(module: object) -> None:
    model, b = make(module, CLASSES, dropout=0.0).train(), batch()  # type: ignore[arg-type]
    assert without_gradient(model, F.cross_entropy(model(b).logits, b.target)) == []  # type: ignore[arg-type]


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(SettingsError, match="of speech; speech has"):
        make(cnn, tails={"speech": (3, 4)})
    with pytest.raises(SettingsError, match="of text"):
        bilstm.build(bilstm.Config(), {"speech": (3,)}, CLASSES)
    with pytest.raises(SettingsError, match="odd number"):
        make(cnn, kernel=2)
