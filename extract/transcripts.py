"""What the encoders over transcripts share: one vector a token, with where in the text the token's characters lie.

Rate: none, a frame is a token. Width: the model's. The special tokens that the model was trained with are included.
Sibling array `offsets`: the token's characters in the transcript, [start, end); (0, 0) for a special token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cache_schema.errors import SettingsError
from cache_schema.feature_spec import ArraySpec, FeatureSpec
from cache_schema.rows import Failed, Row
from extract.batching import Batches, budget_for, to_device
from extract.encoder import Clip, EncoderConfig
from extract.frozen import feature_spec, load, stored
from extract.weights.checkpoints import Checkpoint

WORD_PIECE_FORMS = (("tokenizer.json",), ("vocab.txt",))
"""The files of a BERT tokenizer."""


class TextConfig(EncoderConfig):
    """Settings of the encoders that read transcripts."""

    layer: int | None = Field(default=None, ge=0)
    """Transformer layer whose output is stored: 1 is the first, 0 the embeddings, None the last."""
    truncate: bool = False
    """Keep what fits of a transcript longer than the model takes; otherwise it is a recorded failure."""


def describe_tokens(
    name: str,
    model: str,
    model_type: str,
    tokenizer_forms: Sequence[Sequence[str]],
    version: int,
    tokens_per_second: float,
    config: TextConfig,
    checkpoint: Checkpoint,
) -> FeatureSpec:
    """What is stored for a transcript: values (tokens, width) and offsets (tokens, 2); pooled, values (1, width) alone.

    Args:
        name: the encoder's name.
        model: its class in transformers.
        model_type: as in the checkpoint's configuration.
        tokenizer_forms: sets of files of which one must be there: without them transformers makes a tokenizer that
            knows no word.
        version: of the encoder's code.
        tokens_per_second: of conversation, special tokens included: what segments are sized with.
        config, checkpoint: the encoder's.

    Raises:
        SettingsError: the checkpoint is of another model, has no tokenizer, or has no such layer.
    """
    checkpoint.expect(model_type)
    if not any(all((checkpoint.folder / file).is_file() for file in form) for form in tokenizer_forms):
        forms = ", nor ".join(" with ".join(form) for form in tokenizer_forms)
        raise SettingsError(f"{name}: {checkpoint.folder} has no {forms}.")
    layers = checkpoint.config["num_hidden_layers"]
    if config.layer is not None and config.layer > layers:
        raise SettingsError(f"{name}: layer = {config.layer}, and the checkpoint has {layers} layers.")
    values = ArraySpec(name="values", dtype=config.output_dtype, tail=(checkpoint.config["hidden_size"],))
    offsets = ArraySpec(name="offsets", dtype="int32", tail=(2,))
    arrays = (values, offsets) if config.pool == "none" else (values,)
    return feature_spec(name, "text", model, version, config, checkpoint, arrays, None, tokens_per_second)


class TokenEncoder:
    """A transformer over transcripts, in batches of similar length, padding masked.

    Args:
        model, tokenizer: names of their classes in transformers.
        config: the encoder's settings.
        checkpoint: its weights and tokenizer.
        device: torch device.
        budget: tokens in one batch, padding included; None: by the device.
        offset: how many of the model's positions no token can have (RoBERTa counts from its padding index on).
        options: of the model's class, as `add_pooling_layer`.
    """

    def __init__(
        self,
        model: str,
        tokenizer: str,
        config: TextConfig,
        checkpoint: Checkpoint,
        device: str,
        budget: int | None = None,
        offset: int = 0,
        **options: Any,
    ) -> None:
        import transformers

        self.config, self.device = config, device
        self.batches = Batches(budget or budget_for(device, cpu=1024, accelerator=65536), device)
        self.model = load(model, checkpoint, device, config.compute_dtype, **options)
        self.tokenizer = getattr(transformers, tokenizer).from_pretrained(checkpoint.folder, local_files_only=True)
        self.most = self.model.config.max_position_embeddings - offset

    def encode(self, clips: Sequence[Clip]) -> Iterator[Row]:
        """One row per transcript, in order; `Failed` where it is longer than the model takes."""
        if not clips:
            return
        ids, offsets = self._tokens([clip.utterance.text or "" for clip in clips])
        rows: list[Row] = [Failed(f"the transcript has {len(i)} tokens and the model takes {self.most}") for i in ids]
        readable = [index for index, own in enumerate(ids) if len(own) <= self.most]
        chosen = [ids[index] for index in readable]
        for items, found in self.batches.run(
            [len(own) for own in chosen], lambda items: {"values": self._forward([chosen[k] for k in items])}
        ):
            for k, item in enumerate(items):
                index = readable[item]
                if isinstance(found, Failed):
                    rows[index] = Failed(f"the transcript {found.reason}")
                else:
                    rows[index] = self._row(found["values"][k, : len(ids[index])], offsets[index])
        yield from rows

    def _row(self, vectors: NDArray[np.float32], offsets: Sequence[tuple[int, int]]) -> Row:
        values = stored(vectors, self.config)
        if isinstance(values, Failed):
            return values
        pooled = self.config.pool != "none"
        return {"values": values} if pooled else {"values": values, "offsets": np.asarray(offsets, np.int32)}

    def _tokens(self, texts: Sequence[str]) -> tuple[list[list[int]], list[list[tuple[int, int]]]]:
        """The ids of each transcript, and where in it the characters of each token lie."""
        found = self.tokenizer(
            texts,
            return_offsets_mapping=True,
            truncation=self.config.truncate,
            max_length=self.most if self.config.truncate else None,
            verbose=False,
        )
        return found["input_ids"], found["offset_mapping"]

    def _forward(self, ids: Sequence[list[int]]) -> Any:
        """Hidden states (batch, longest, width) of a padded batch."""
        import torch

        longest = max(map(len, ids))
        padded = torch.full((len(ids), longest), self.tokenizer.pad_token_id)
        mask = torch.zeros(len(ids), longest, dtype=torch.long)
        for row, tokens in enumerate(ids):
            padded[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        layer = self.config.layer
        out = self.model(
            to_device(padded, self.device),
            attention_mask=to_device(mask, self.device),
            output_hidden_states=layer is not None,
        )
        return out.last_hidden_state if layer is None else out.hidden_states[layer]


def write_word_pieces(sentences: Sequence[str], vocabulary: int, folder: Path, lower_case: bool) -> None:
    """Write a BERT tokenizer to `folder`, for random weights: the characters and the commonest words of `sentences`.

    The printable ASCII characters are in it, whatever the sentences hold. (The trainers of the tokenizers library give
    another vocabulary every time where counts are equal.)
    """
    from collections import Counter

    from transformers import BertTokenizerFast

    splitter = BertTokenizerFast(do_lower_case=lower_case).backend_tokenizer
    words: Counter[str] = Counter()
    for sentence in sentences:
        normal = splitter.normalizer.normalize_str(sentence)
        words.update(word for word, _ in splitter.pre_tokenizer.pre_tokenize_str(normal))
    characters = sorted({chr(code) for code in range(ord("!"), ord("~") + 1)} | set("".join(words)))
    common = sorted(words, key=lambda word: (-words[word], word))
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{c}" for c in characters), *common]
    known = {piece: number for number, piece in enumerate(dict.fromkeys(pieces[:vocabulary]))}
    BertTokenizerFast(vocab=known, do_lower_case=lower_case, model_max_length=512).save_pretrained(folder)
