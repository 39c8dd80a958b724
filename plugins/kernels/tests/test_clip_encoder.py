"""Compiled code gives the ids of CLIP's vocabulary that `tokenizers` does, which the core compares with open_clip's."""

import random
from importlib.util import find_spec

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.caption_samples import ENTITIES, ODD, SPECIAL, make_hostile_captions
from training.model.clip_vocabulary import build_encoder, find_merges
from training.model.tokenizer import ClipTokenizer

pytestmark = pytest.mark.skipif(not find_spec("open_clip"), reason="open_clip has the merges")


@pytest.fixture(scope="module")
def tokenizers():
    """Return a tokenizer, and one that uses compiled code from its first caption on."""
    return [make(77, compile_after) for compile_after in (1 << 40, 0)]


def make(context_length, compile_after):
    return ClipTokenizer(build_encoder(find_merges()), context_length, compile_after)


def find_unlike(tokenizers, texts):
    plain, compiled = (tokenizer(texts) for tokenizer in tokenizers)
    assert tokenizers[1]._compiled is not None
    assert plain.shape == compiled.shape
    return [texts[row] for row in (plain != compiled).any(dim=1).nonzero()[:, 0].tolist()]


def test_fuzzed_captions(tokenizers):
    assert find_unlike(tokenizers, make_hostile_captions(2000, seed=3)) == []


def test_words_are_forgotten_when_too_many_are_kept(tokenizers):
    draw = random.Random(0)
    texts = [" ".join(f"{draw.getrandbits(50):x}" for _ in range(9)) + "q" * (row % 300) for row in range(4000)]
    assert find_unlike(tokenizers, texts) == []  # more words than it keeps at a time
    for start in range(0, 4000, 1000):
        assert find_unlike(tokenizers, texts[start : start + 1000]) == []


@given(st.lists(st.text(st.sampled_from([*ODD, *"aA1 '-&;#<\n"])), max_size=4), st.sampled_from([*ENTITIES, *SPECIAL]))
def test_any_text(tokenizers, parts, joint):
    assert find_unlike(tokenizers, [joint.join(parts), "a \0b", joint.join(parts)]) == []


@pytest.mark.parametrize("context_length", [8, 77])
def test_long_captions(context_length):
    texts = ["word " * 100, "<start_of_text> " * 100, "a", "", "x" * 500 + " é"]
    pair = [make(context_length, compile_after) for compile_after in (1 << 40, 0)]
    assert find_unlike(pair, texts) == []
    assert pair[1](["a", "b c"]).shape[1] < 8
    assert isinstance(pair[1](texts), torch.Tensor)
