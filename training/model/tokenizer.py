"""Captions to token ids, by a byte-level byte-pair vocabulary: one learnt from the dataset's own captions, or CLIP's.

All that an encoding depends on is in tokenizer.json (the `tokenizers` library's format):
`Tokenizer` reads any byte-pair vocabulary in that format that has the three special tokens below.
CLIP's has two others, and its captions are cleaned as in training/model/clip_vocabulary.py. The
end-of-text token has the highest id: OpenAI's and open_clip's text towers read their feature at the
greatest id of a row.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as BytePairTokenizer
from torch import Tensor
from torch.nn.functional import pad

from dataops import plugins
from dataops.errors import ConfigError, ContractError
from dataops.regular_files import read_text
from training.model import clip_vocabulary

PAD, START, END = "<|pad|>", "<|startoftext|>", "<|endoftext|>"
COMPILE_AFTER = 50_000
"""Number of captions whose encoding takes as long as the import of a compiled encoder."""


class Tokenizer:
    """Texts to token ids.

    Args:
        encoder: a byte-pair tokenizer with the three special tokens.
        context_length: maximum tokens of a text; a longer one is cut, and keeps its end token.

    Raises:
        ContractError: a special token is missing or the end token is not the highest id.
    """

    kind = "byte-level-bpe"
    special_tokens = (PAD, START, END)

    def __init__(self, encoder: BytePairTokenizer, context_length: int):
        pad, _, end = self.special_tokens
        ids = [encoder.token_to_id(token) for token in self.special_tokens]
        self.vocab_size = encoder.get_vocab_size()
        if None in ids or ids[2] != self.vocab_size - 1 or ids[0] != 0:
            raise ContractError(f"tokenizer: {pad} is not 0, or {end} not the highest of {self.vocab_size} ids: {ids}")
        self.context_length = context_length
        self.pad_id, self.start_id, self.end_id = (int(number) for number in ids if number is not None)
        self._encoder = encoder
        encoder.enable_truncation(context_length)
        encoder.enable_padding(pad_id=self.pad_id, pad_token=pad)
        encoder.encode_special_tokens = True  # a caption that spells <|endoftext|> is a caption, not an end

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return ids (B, L), int64, padded to the longest of these texts."""
        if not texts:
            return torch.zeros(0, 2, dtype=torch.int64)
        rows = [encoding.ids for encoding in self._encoder.encode_batch_fast(list(texts))]
        return torch.from_numpy(np.array(rows, dtype=np.int64))

    def facts(self) -> dict[str, object]:
        """Return the `tokenizer` of model.json."""
        return {
            "kind": self.kind,
            "file": "tokenizer.json",
            "vocab_size": self.vocab_size,
            "context_length": self.context_length,
            "pad_id": self.pad_id,
            "start_id": self.start_id,
            "end_id": self.end_id,
        }

    def to_json(self) -> str:
        """Return the content of tokenizer.json."""
        return self._encoder.to_str(pretty=False)


class ClipTokenizer(Tokenizer):
    """OpenAI's vocabulary, with the ids that open_clip's SimpleTokenizer gives; a caption is padded with zeros.

    As in SimpleTokenizer, <start_of_text> or <end_of_text> in a caption becomes that token.
    """

    kind = "clip-bpe"
    special_tokens = ("!", clip_vocabulary.START, clip_vocabulary.END)

    def __init__(self, encoder: BytePairTokenizer, context_length: int, compile_after: int = COMPILE_AFTER):
        super().__init__(encoder, context_length)
        self._captions_left = compile_after

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return ids (B, L), int64, padded to the longest of these texts."""
        self._captions_left -= len(texts)
        if self._captions_left >= 0 or not texts or self._compiled is None:
            return self._encode(texts)
        ids, longest, unknown = self._compiled(texts)
        if unknown:
            rest = self._encode([texts[row] for row in unknown])
            longest = max(longest, rest.shape[1])
            ids[unknown] = pad(rest, (0, self.context_length - rest.shape[1])).numpy()
        return torch.from_numpy(np.ascontiguousarray(ids[:, :longest]))

    @cached_property
    def _compiled(self) -> Callable[[Sequence[str]], tuple[NDArray[np.int64], int, list[int]]] | None:
        """Ids (N, context_length), the number of ids of the longest row, and the rows whose ids are not set."""
        make = plugins.load("encoders").get(self.kind)
        return make and make(self._encoder, self.context_length)

    def _encode(self, texts: Sequence[str]) -> Tensor:
        cleaned = [clip_vocabulary.clean_caption(text) for text in texts]
        with_special = [
            row for row, text in enumerate(cleaned) if any(token in text for token in self.special_tokens[1:])
        ]
        if not with_special:
            return super().__call__(cleaned)
        plain = ["" if row in with_special else text for row, text in enumerate(cleaned)]
        rows = super().__call__(plain).tolist()
        for row in with_special:
            inner = self._encode_special(cleaned[row])[: self.context_length - 2]
            rows[row] = [self.start_id, *inner, self.end_id]
        longest = max(map(len, rows))
        return torch.tensor([row + [self.pad_id] * (longest - len(row)) for row in rows], dtype=torch.int64)

    def _encode_special(self, text: str) -> list[int]:
        special: dict[str, int] = dict(zip(self.special_tokens[1:], (self.start_id, self.end_id), strict=True))
        ids: list[int] = []
        words: list[tuple[str, tuple[int, int]]] = self._encoder.pre_tokenizer.pre_tokenize_str(text)  # pyright: ignore[reportAttributeAccessIssue]
        for word, _ in words:
            found = special.get(word)
            ids += [found] if found is not None else [token.id for token in self._encoder.model.tokenize(word)]
        return ids


def make_tokenizer(vocabulary: str, captions: Iterable[str], vocab_size: int, context_length: int) -> Tokenizer:
    """Make the tokenizer that a config names.

    Args:
        vocabulary: captions, clip, or a path: of a tokenizer.json, or of the file with the merges of CLIP's vocabulary.
        captions: see train_tokenizer; read only where the vocabulary is learnt from them.
        vocab_size: see train_tokenizer.
        context_length: see Tokenizer.

    Raises:
        ConfigError: there is no such vocabulary.
    """
    if vocabulary == "captions":
        return train_tokenizer(captions, vocab_size, context_length)
    if vocabulary == "clip":
        return ClipTokenizer(clip_vocabulary.build_encoder(clip_vocabulary.find_merges()), context_length)
    path = Path(vocabulary)
    if path.suffix in (".gz", ".txt"):
        return ClipTokenizer(clip_vocabulary.build_encoder(clip_vocabulary.read_merges(path)), context_length)
    if path.suffix != ".json" or not path.is_file():
        raise ConfigError(f"vocabulary: {vocabulary!r} is neither captions, clip, nor an existing tokenizer.json")
    return load_tokenizer(path, context_length)


def train_tokenizer(captions: Iterable[str], vocab_size: int, context_length: int) -> Tokenizer:
    """Learn merges from captions; the same captions in any order give the same vocabulary.

    Args:
        captions: the texts of training; lower-cased, composed (NFC) and stripped of surplus space here.
        vocab_size: maximum number of ids, the 256 bytes and three special tokens included; few captions give fewer.
        context_length: see Tokenizer.
    """
    encoder = BytePairTokenizer(models.BPE())
    encoder.normalizer = normalizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [normalizers.NFC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    )
    encoder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)  # pyright: ignore[reportAttributeAccessIssue]
    encoder.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 2,  # start and end come last
        special_tokens=[PAD],  # the first id
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    encoder.train_from_iterator(captions, trainer)
    encoder.add_special_tokens([AddedToken(START, special=True), AddedToken(END, special=True)])
    ends = [(token, encoder.token_to_id(token)) for token in (START, END)]
    encoder.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single=f"{START} $A {END}", special_tokens=ends
    )
    return Tokenizer(encoder, context_length)


def parse_trained_tokenizer(text: str, context_length: int) -> Tokenizer:
    """Return the tokenizer of train_tokenizer from its JSON."""
    return Tokenizer(BytePairTokenizer.from_str(text), context_length)


def load_tokenizer(path: Path, context_length: int) -> Tokenizer:
    """Read tokenizer.json.

    Raises:
        ContractError: the file is not a tokenizer that Tokenizer accepts.
    """
    try:
        encoder = BytePairTokenizer.from_str(read_text(path))
    except Exception as error:  # the Rust library raises Exception itself
        raise ContractError(f"{path} is not a tokenizer: {error}") from error
    if encoder.token_to_id(clip_vocabulary.END) == clip_vocabulary.VOCAB_SIZE - 1:
        return ClipTokenizer(encoder, context_length)
    return Tokenizer(encoder, context_length)
