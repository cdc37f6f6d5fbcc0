"""KoELECTRA tokens of the transcript: one vector a token, the special ones included.

Park, "KoELECTRA: Pretrained ELECTRA Model for Korean", 2020 (the discriminator), after Clark et al., "ELECTRA:
Pre-training Text Encoders as Discriminators Rather Than Generators", ICLR 2020, arXiv:2003.10555. Width: the
model's (768 for koelectra-base-v3). What is stored, and the character offsets beside it: `extract/transcripts.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cache_schema.feature_spec import FeatureSpec, Modality
from extract.encoder import Languages, Needs
from extract.transcripts import WORD_PIECE_FORMS, TextConfig, TokenEncoder, describe_tokens, write_word_pieces
from extract.weights.checkpoints import TOKENIZER, Checkpoint, HubCheckpoint

SUMMARY = "KoELECTRA: a vector per token of a Korean transcript, with the tokens' character offsets"
MODALITY: Modality = "text"
DEFAULT_FOR: Languages = ("ko",)
HUB = HubCheckpoint(
    "monologg/koelectra-base-v3-discriminator", licence="Apache-2.0", parameters=112_330_752, assets=TOKENIZER
)
VERSION = 1
TOKENS_PER_SECOND = 4.0
"""Of Korean conversation."""


class Config(TextConfig):
    """Settings of `koelectra`."""


def describe(config: Config, checkpoint: Checkpoint) -> FeatureSpec:
    """What is stored for a transcript; errors as in `describe_tokens`."""
    return describe_tokens(
        "koelectra", "ElectraModel", "electra", WORD_PIECE_FORMS, VERSION, TOKENS_PER_SECOND, config, checkpoint
    )


def needs(config: Config, checkpoint: Checkpoint) -> Needs:
    """The transcript."""
    return Needs(text=True)


class Encoder(TokenEncoder):
    """KoELECTRA over transcripts; the arguments are those of `TokenEncoder`."""

    def __init__(self, config: Config, checkpoint: Checkpoint, device: str, budget: int | None = None) -> None:
        super().__init__("ElectraModel", "BertTokenizerFast", config, checkpoint, device, budget)


def draw(size: str, folder: Path, sentences: Sequence[str]) -> Any:
    """A KoELECTRA of random weights, its tokenizer trained on `sentences` and written to `folder`."""
    from transformers import ElectraConfig, ElectraModel

    small = size == "small"
    write_word_pieces(sentences, 1000 if small else 35000, folder, lower_case=False)
    shape = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
    config = ElectraConfig(
        vocab_size=1000 if small else 35000,
        **(
            shape
            if small
            else {"embedding_size": 768, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
        ),
    )
    return ElectraModel(config)
