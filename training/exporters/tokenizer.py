"""Export of a vocabulary to the files that transformers reads: tokenizer.json and tokenizer_config.json."""

import json
from pathlib import Path
from typing import Any

from training.model import clip_vocabulary
from training.model.checkpoint import write_atomically
from training.model.pretrained_tokenizer import PretrainedTokenizer
from training.model.tokenizer import ClipTokenizer, Tokenizer

OPENAI_NAMES = {clip_vocabulary.START: "<|startoftext|>", clip_vocabulary.END: "<|endoftext|>"}
"""OpenAI's names of the two tokens that open_clip renamed; transformers expects these."""


def export_tokenizer(tokenizer: Tokenizer, output: Path) -> None:
    """Write both files.

    CLIP's vocabulary gets the normaliser of OpenAI's own tokenizer.json, which lower-cases and joins spaces. It has
    neither ftfy nor entities, so captions that need those get other ids. It is padded with its end token, as OpenAI's
    is.
    """
    if isinstance(tokenizer, PretrainedTokenizer):
        write_atomically(output / "tokenizer.json", tokenizer.to_json())
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": tokenizer.context_length}
        config |= {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
        write_atomically(output / "tokenizer_config.json", json.dumps(config, indent=2) + "\n")
        return
    content = json.loads(tokenizer.to_json())
    content["truncation"] = content["padding"] = None
    pad, start, end = tokenizer.special_tokens
    if isinstance(tokenizer, ClipTokenizer):
        start, end = (OPENAI_NAMES[token] for token in (start, end))
        pad = end
        _rename(content)
        spaces = {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}
        content["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFC"}, spaces, {"type": "Lowercase"}]}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": tokenizer.context_length,
        "bos_token": start,
        "eos_token": end,
        "pad_token": pad,
        "clean_up_tokenization_spaces": False,
    }
    write_atomically(output / "tokenizer.json", json.dumps(content, ensure_ascii=False))
    write_atomically(output / "tokenizer_config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def _rename(content: dict[str, Any]) -> None:
    vocabulary = content["model"]["vocab"]
    for old, new in OPENAI_NAMES.items():
        vocabulary[new] = vocabulary.pop(old)
    for token in content["added_tokens"]:
        token["content"] = OPENAI_NAMES.get(token["content"], token["content"])
    post = content["post_processor"]
    post["special_tokens"] = {
        OPENAI_NAMES[name]: {**entry, "id": OPENAI_NAMES[name], "tokens": [OPENAI_NAMES[t] for t in entry["tokens"]]}
        for name, entry in post["special_tokens"].items()
    }
    for token in (*post["single"], *post["pair"]):
        if "SpecialToken" in token:
            token["SpecialToken"]["id"] = OPENAI_NAMES[token["SpecialToken"]["id"]]
