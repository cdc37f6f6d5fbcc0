"""RoBERTa, BERT and KoELECTRA against transformers called plainly, and their offsets against the text."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_schema.errors import SettingsError
from cache_schema.rows import Failed
from cache_schema.samples import Utterance
from extract.encoder import Clip
from extract.encoders import ENCODERS, roberta
from extract.transcripts import TokenEncoder
from extract.weights.checkpoints import Checkpoint, resolve

TEXTS = ("Why would you do that?", "ok", "I am so happy today, you know! " * 5, "Ünïcödé and 😀 and 한국어", "“quoted”")


@pytest.fixture(scope="module", params=["roberta", "bert", "koelectra"])
def checkpoint(request: pytest.FixtureRequest, small: Callable[[str], Checkpoint]) -> Checkpoint:
    return small(request.param)


@pytest.fixture(scope="module")
def of_roberta(small: Callable[[str], Checkpoint]) -> Checkpoint:
    return small("roberta")


def encoder(checkpoint: Checkpoint, **values: object) -> TokenEncoder:
    module = ENCODERS.load(checkpoint.encoder)
    config = module.Config.parse({"output_dtype": "float32", **values}, checkpoint.encoder)
    made: TokenEncoder = module.Encoder(config, checkpoint, "cpu")
    return made


def clips(*texts: str) -> list[Clip]:
    return [Clip(Utterance(id=str(i), text=text)) for i, text in enumerate(texts)]


SPECIAL = re.compile("<(s|/s|pad|unk|mask)>")
"""Written out in a text, these are read as what they are."""


def near(found: np.ndarray, expected: np.ndarray) -> bool:
    return found.shape == expected.shape and bool(np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected))


@pytest.mark.parametrize("layer", [None, 0, 1, 2])
def test_equals_transformers(checkpoint: Checkpoint, layer: int | None) -> None:
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(checkpoint.folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
    for text, row in zip(TEXTS, encoder(checkpoint, layer=layer).encode(clips(*TEXTS)), strict=True):
        with torch.no_grad():
            out = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        expected = out.last_hidden_state if layer is None else out.hidden_states[layer]
        assert near(row["values"], expected[0].numpy())


def test_offsets_point_at_the_characters_of_each_token(checkpoint: Checkpoint) -> None:
    text = "I am so happy!"
    (row,) = encoder(checkpoint).encode(clips(text))
    assert row["offsets"].dtype == np.int32
    assert row["offsets"][0].tolist() == row["offsets"][-1].tolist() == [0, 0]
    pieces = [text[start:end] for start, end in row["offsets"][1:-1]]
    assert "".join(pieces) == text.replace(" ", "")
    assert all(piece and piece == piece.strip() for piece in pieces)


@settings(max_examples=40, deadline=None)
@given(text=st.text(min_size=1, max_size=60).filter(lambda t: t.strip() and not SPECIAL.search(t)))
def test_every_text_has_tokens_and_offsets_within_it(of_roberta: Checkpoint, text: str) -> None:
    ids, offsets = tokens_of(encoder_once(of_roberta), text)
    assert len(ids) == len(offsets) >= 3
    assert 3 not in ids  # <unk>
    assert (offsets[:, 0] <= offsets[:, 1]).all()
    assert offsets.max() <= len(text)
    assert (np.diff(offsets[1:-1], axis=0) >= 0).all()


_made: dict[str, TokenEncoder] = {}


def tokens_of(encoder: TokenEncoder, text: str) -> tuple[list[int], np.ndarray]:
    ids, offsets = encoder._tokens([text])
    return ids[0], np.array(offsets[0])


def encoder_once(checkpoint: Checkpoint) -> TokenEncoder:
    return _made.setdefault(str(checkpoint.folder), encoder(checkpoint))


def test_too_long_a_transcript_fails_and_the_others_do_not(checkpoint: Checkpoint) -> None:
    before, failed, after = encoder(checkpoint).encode(clips("short", "word " * 2000, "shorter"))
    assert isinstance(failed, Failed)
    assert "512" in failed.reason
    assert len(before["values"]) < 10 > len(after["values"])


def test_truncation_is_by_choice(checkpoint: Checkpoint) -> None:
    text = "word " * 2000
    (row,) = encoder(checkpoint, truncate=True).encode(clips(text))
    assert len(row["values"]) == len(row["offsets"]) == 512
    assert row["offsets"][-1].tolist() == [0, 0]


def test_a_layer_that_is_not_there_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(SettingsError, match="2 layers"):
        module = ENCODERS.load(checkpoint.encoder)
        module.describe(module.Config(layer=3), checkpoint)


def test_a_checkpoint_without_a_tokenizer_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """transformers would make one that knows no word, and every text would have the same two tokens."""
    shutil.copytree(checkpoint.folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.txt").unlink(missing_ok=True)
    module = ENCODERS.load(checkpoint.encoder)
    bare = resolve(checkpoint.encoder, module.HUB, str(tmp_path))
    with pytest.raises(SettingsError, match="tokenizer"):
        module.describe(module.Config(), bare)


def test_the_older_tokenizer_files_give_the_same_tokens(of_roberta: Checkpoint, tmp_path: Path) -> None:
    shutil.copytree(of_roberta.folder, tmp_path, dirs_exist_ok=True)
    learnt = json.loads((tmp_path / "tokenizer.json").read_text())["model"]
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.json").write_text(json.dumps(learnt["vocab"]))
    merges = [" ".join(pair) for pair in learnt["merges"]]
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    older = resolve("roberta", roberta.HUB, str(tmp_path))
    assert {"vocab.json", "merges.txt"} <= set(roberta.describe(roberta.Config(), older).assets)
    for text in TEXTS:
        (ids, offsets), (other_ids, other_offsets) = (tokens_of(encoder_once(c), text) for c in (of_roberta, older))
        assert ids == other_ids
        assert np.array_equal(offsets, other_offsets)


def test_the_layer_is_in_the_fingerprint(checkpoint: Checkpoint) -> None:
    module = ENCODERS.load(checkpoint.encoder)
    prints = {module.describe(module.Config(layer=layer), checkpoint).fingerprint() for layer in (None, 0, 1)}
    assert len(prints) == 3


def test_pooled_tokens_are_one_vector_without_offsets(checkpoint: Checkpoint) -> None:
    module = ENCODERS.load(checkpoint.encoder)
    rows = list(encoder(checkpoint).encode(clips(*TEXTS)))
    for pool, pooled in (("mean", lambda v: v.mean(axis=0)), ("first", lambda v: v[0])):
        spec = module.describe(module.Config(pool=pool), checkpoint)
        assert [array.name for array in spec.arrays] == ["values"]
        for row, whole in zip(encoder(checkpoint, pool=pool).encode(clips(*TEXTS)), rows, strict=True):
            assert row.keys() == {"values"}
            assert near(row["values"][0], pooled(whole["values"]))
            assert len(row["values"]) == 1


def test_an_upper_case_name_keeps_its_offsets_in_an_uncased_model(small: Callable[[str], Checkpoint]) -> None:
    text = "RACHEL left; Élodie stayed."
    (row,) = encoder(small("bert")).encode(clips(text))
    pieces = [text[start:end] for start, end in row["offsets"][1:-1]]
    assert "".join(pieces) == text.replace(" ", "")
