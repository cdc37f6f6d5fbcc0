"""RoBERTa tokens of the transcript: one vector a token, the special ones included.

Liu et al., "RoBERTa: A Robustly Optimized BERT Pretraining Approach", 2019, arXiv:1907.11692. Width: the model's (768
for roberta-base). What is stored, and the character offsets beside it: `extract/transcripts.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cache_schema.feature_spec import FeatureSpec, Modality
from extract.encoder import Languages, Needs
from extract.transcripts import TextConfig, TokenEncoder, describe_tokens
from extract.weights.checkpoints import TOKENIZER, Checkpoint, HubCheckpoint

SUMMARY = "RoBERTa: a vector per token of the transcript, with the tokens' character offsets"
MODALITY: Modality = "text"
DEFAULT_FOR: Languages = ("en",)
HUB = HubCheckpoint("FacebookAI/roberta-base", licence="MIT", parameters=124_055_040, assets=TOKENIZER)
VERSION = 1
TOKENIZER_FORMS = (("tokenizer.json",), ("vocab.json", "merges.txt"))
TOKENS_PER_SECOND = 4.0
"""Of English conversation."""


class Config(TextConfig):
    """Settings of `roberta`."""


def describe(config: Config, checkpoint: Checkpoint) -> FeatureSpec:
    """What is stored for a transcript; errors as in `describe_tokens`."""
    return describe_tokens(
        "roberta", "RobertaModel", "roberta", TOKENIZER_FORMS, VERSION, TOKENS_PER_SECOND, config, checkpoint
    )


def needs(config: Config, checkpoint: Checkpoint) -> Needs:
    """The transcript."""
    return Needs(text=True)


class Encoder(TokenEncoder):
    """RoBERTa over transcripts; the arguments are those of `TokenEncoder`."""

    def __init__(self, config: Config, checkpoint: Checkpoint, device: str, budget: int | None = None) -> None:
        used = checkpoint.config.get("pad_token_id", 1) + 1
        super().__init__(
            "RobertaModel",
            "RobertaTokenizerFast",
            config,
            checkpoint,
            device,
            budget,
            offset=used,
            add_pooling_layer=False,
        )


def draw(size: str, folder: Path, sentences: Sequence[str]) -> Any:
    """A RoBERTa of random weights, its tokenizer trained on `sentences` and written to `folder`."""
    from transformers import RobertaConfig, RobertaModel

    small = size == "small"
    _train_tokenizer(sentences, 1000 if small else 50265, folder)
    shape = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
    config = RobertaConfig(
        vocab_size=1000 if small else 50265,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        **(shape if small else {}),
    )
    return RobertaModel(config, add_pooling_layer=False)


def _train_tokenizer(sentences: Sequence[str], vocabulary: int, folder: Path) -> None:
    """A byte-level BPE, as RoBERTa's: every text has tokens, since every byte is one."""
    import json

    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import RobertaTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    learnt = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(merge) for merge in learnt["merges"]]
    RobertaTokenizerFast(vocab=learnt["vocab"], merges=merges, model_max_length=512).save_pretrained(folder)
