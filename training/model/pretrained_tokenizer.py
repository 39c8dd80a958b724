"""The vocabulary of a pretrained text tower: any tokenizer.json, or a list with a word a line.

Token 0 is padding, as in BERT. All other vocabularies have their ids raised by one for that. A word
that word vectors lack becomes 0 too, which counts for nothing.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as AnyTokenizer
from torch import Tensor

from dataops.errors import ContractError
from dataops.regular_files import read_text
from training.model.tokenizer import Tokenizer, load_tokenizer
from training.model_config import BertConfig, PretrainedTextConfig, TextConfig, WordVectorsConfig

UNKNOWN = "[UNK]"
"""Token of the words that a list lacks."""


class PretrainedTokenizer(Tokenizer):
    """Texts to token ids, by a vocabulary that has its special tokens wherever it likes.

    Args:
        encoder: the vocabulary.
        config: of the text tower.

    Raises: ContractError if the vocabulary has more tokens than the tower, or a padding token that is not 0.
    """

    def __init__(self, encoder: AnyTokenizer, config: PretrainedTextConfig):
        self._encoder, self.kind = encoder, f"pretrained-{config.network}"
        self.vocab_size, self.context_length = config.vocab_size, config.context_length
        takes_words = isinstance(config, WordVectorsConfig)
        self._shift = 0 if isinstance(config, BertConfig) else 1
        self._unknown_id = encoder.token_to_id(UNKNOWN) if takes_words else None
        ids = encoder.get_vocab(with_added_tokens=True).values()
        highest = max((one for one in ids if one != self._unknown_id), default=0)
        if highest + self._shift >= config.vocab_size:
            rows = config.vocab_size - self._shift
            raise ContractError(f"tokenizer: its highest id, {highest}, has no row in a table of {rows}")
        if isinstance(config, BertConfig) and encoder.token_to_id("[PAD]") not in (None, 0):
            raise ContractError(f"tokenizer: [PAD] is {encoder.token_to_id('[PAD]')}, not 0")
        self.pad_id, self._takes_special = 0, not takes_words
        encoder.no_padding()
        encoder.enable_truncation(config.context_length)
        encoder.encode_special_tokens = True  # a caption that spells [SEP] is a caption

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return ids (B, L), int64, padded with 0 to the longest of these texts."""
        encodings = self._encoder.encode_batch_fast(list(texts), add_special_tokens=self._takes_special)
        rows = [encoding.ids for encoding in encodings]
        ids_BL = np.zeros((len(rows), max((len(row) for row in rows), default=0) or 2), dtype=np.int64)
        for number, row in enumerate(rows):
            ids_BL[number, : len(row)] = [0 if one == self._unknown_id else one + self._shift for one in row]
        return torch.from_numpy(ids_BL)

    def facts(self) -> dict[str, object]:
        """Return the `tokenizer` of model.json."""
        return {
            "kind": self.kind,
            "file": "tokenizer.json",
            "vocab_size": self.vocab_size,
            "context_length": self.context_length,
            "pad_id": 0,
        }

    def to_json(self) -> str:
        """Return the content of tokenizer.json."""
        content = json.loads(self._encoder.to_str(pretty=False))
        return json.dumps({**content, "truncation": None, "padding": None}, ensure_ascii=False)


def load_tower_tokenizer(path: Path, config: TextConfig | PretrainedTextConfig) -> Tokenizer:
    """Read the vocabulary of a text tower: a tokenizer.json, or for word vectors a list with a word a line.

    Raises: ContractError if the file is neither, or does not fit the tower.
    """
    if isinstance(config, TextConfig):
        return load_tokenizer(path, config.context_length)
    try:
        text = read_text(path)
        encoder = build_word_tokenizer(text.splitlines()) if path.suffix == ".txt" else AnyTokenizer.from_str(text)
    except Exception as error:  # the Rust library raises Exception itself
        raise ContractError(f"{path} is no vocabulary: {error}") from error
    try:
        return PretrainedTokenizer(encoder, config)
    except ContractError as error:
        raise ContractError(f"{path}: {error}") from error


def build_word_tokenizer(words: Sequence[str]) -> AnyTokenizer:
    """Return the vocabulary of a list of words, whose numbers are their lines, from 0.

    Case is folded where no word of the list has an upper-case letter. Punctuation is split off.

    Raises: ValueError for a list with a word twice.
    """
    vocabulary = {word.strip(): number for number, word in enumerate(words)}
    if len(vocabulary) != len(words):
        raise ValueError(f"{len(words) - len(vocabulary)} words of the list are there twice")
    if UNKNOWN not in vocabulary:
        vocabulary[UNKNOWN] = len(words)
    encoder = AnyTokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    steps: list[normalizers.Normalizer] = [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " ")]
    if not any(word != word.lower() for word in words if word.strip() != UNKNOWN):
        steps.append(normalizers.Lowercase())
    encoder.normalizer = normalizers.Sequence(steps)  # pyright: ignore[reportAttributeAccessIssue]
    encoder.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    return encoder
