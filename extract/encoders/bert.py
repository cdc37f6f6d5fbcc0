"""BERT tokens of the transcript: one vector a token, the special ones included.

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding", NAACL 2019,
arXiv:1810.04805. Width: the model's (768 for bert-base-uncased). What is stored, and the character
offsets beside it: `extract/transcripts.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cache_schema.feature_spec import FeatureSpec, Modality
from extract.encoder import Languages, Needs
from extract.transcripts import WORD_PIECE_FORMS, TextConfig, TokenEncoder, describe_tokens, write_word_pieces
from extract.weights.checkpoints import TOKENIZER, Checkpoint, HubCheckpoint

SUMMARY = "BERT: a vector per token of the transcript, with the tokens' character offsets"
MODALITY: Modality = "text"
DEFAULT_FOR: Languages = ()
HUB = HubCheckpoint("google-bert/bert-base-uncased", licence="Apache-2.0", parameters=108_891_648, assets=TOKENIZER)
VERSION = 1
TOKENS_PER_SECOND = 4.0
"""Of English conversation."""


class Config(TextConfig):
    """Settings of `bert`."""


def describe(config: Config, checkpoint: Checkpoint) -> FeatureSpec:
    """What is stored for a transcript; errors as in `describe_tokens`."""
    return describe_tokens(
        "bert", "BertModel", "bert", WORD_PIECE_FORMS, VERSION, TOKENS_PER_SECOND, config, checkpoint
    )


def needs(config: Config, checkpoint: Checkpoint) -> Needs:
    """The transcript."""
    return Needs(text=True)


class Encoder(TokenEncoder):
    """BERT over transcripts; the arguments are those of `TokenEncoder`."""

    def __init__(self, config: Config, checkpoint: Checkpoint, device: str, budget: int | None = None) -> None:
        super().__init__("BertModel", "BertTokenizerFast", config, checkpoint, device, budget, add_pooling_layer=False)


def draw(size: str, folder: Path, sentences: Sequence[str]) -> Any:
    """A BERT of random weights, its tokenizer trained on `sentences` and written to `folder`."""
    from transformers import BertConfig, BertModel

    small = size == "small"
    write_word_pieces(sentences, 1000 if small else 30522, folder, lower_case=True)
    shape = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
    config = BertConfig(vocab_size=1000 if small else 30522, **(shape if small else {}))
    return BertModel(config, add_pooling_layer=False)
