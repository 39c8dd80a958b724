"""CLIP's vocabulary gives the ids of open_clip's SimpleTokenizer."""

import gzip
from functools import cache

import pytest
import torch
from ftfy.badness import MOJIBAKE_CATEGORIES, is_bad
from hypothesis import given, settings
from hypothesis import strategies as st

from dataops.errors import ConfigError
from tests.caption_samples import ENTITIES, ODD, SPECIAL, make_hostile_captions
from tests.costs import allocating
from tests.oracles import open_clip
from training.model import clip_vocabulary
from training.model.tokenizer import make_tokenizer

pytestmark = pytest.mark.xdist_group("open_clip")


@cache
def oracle():
    return open_clip().tokenizer.SimpleTokenizer()


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer("clip", [], 0, 77)


def padded(tokenizer, texts):
    tokens = tokenizer(texts)
    return torch.nn.functional.pad(tokens, (0, tokenizer.context_length - tokens.shape[1]))


def test_fuzzed_captions_get_open_clips_ids(tokenizer):
    texts = make_hostile_captions(2000, seed=3)
    unlike = (padded(tokenizer, texts) != oracle()(texts)).any(dim=1)
    assert [texts[row] for row in unlike.nonzero()[:, 0].tolist()] == []


ACCENTED = "".join(MOJIBAKE_CATEGORIES.values()).replace("-", "") + "ÂÃÎÐØÙàœŒβāвЂГВРС√≈ҐаЯ東"


@settings(max_examples=200)
@given(st.text(st.sampled_from(ACCENTED + "a-B. "), min_size=1, max_size=6))
def test_no_text_is_bad_to_ftfy_that_is_not_suspect(text):
    assert clip_vocabulary.SUSPECT.search(text) or clip_vocabulary.FIXABLE.search(text) or not is_bad(text)


@given(st.lists(st.text(st.sampled_from([*ODD, *"aA1 '-&;#<\n"])), max_size=4), st.sampled_from([*ENTITIES, *SPECIAL]))
def test_any_text_gets_open_clips_ids(tokenizer, parts, joint):
    text = joint.join(parts)
    assert padded(tokenizer, [text]).equal(oracle()([text]))


@pytest.mark.parametrize("context_length", [8, 77])
def test_long_captions_keep_their_end_token(context_length):
    clip_tokenizer = make_tokenizer("clip", [], 0, context_length)
    texts = ["word " * 100, "<start_of_text> " * 100, "a", "", "x" * 500 + " é"]
    assert padded(clip_tokenizer, texts).equal(oracle()(texts, context_length=context_length))
    assert clip_tokenizer(["a", "b c"]).shape[1] < 8


def test_the_merges_equal_openais(tmp_path, tokenizer):
    merges = clip_vocabulary.find_merges()
    path = tmp_path / "merges.txt"
    path.write_text("\n".join(["#version: 0.2", *map(" ".join, merges), ""]), "utf-8")
    assert make_tokenizer(str(path), [], 0, 77)(["a red kite"]).equal(tokenizer(["a red kite"]))
    path.write_text(path.read_text("utf-8").replace("i n\n", "n i\n", 1), "utf-8")
    with pytest.raises(ConfigError, match="other merges"):
        make_tokenizer(str(path), [], 0, 77)
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bytes(1 << 28), 1))
    with allocating(100 << 20), pytest.raises(ConfigError, match="other merges"):
        make_tokenizer(str(tmp_path / "bomb.gz"), [], 0, 77)
    packed = gzip.compress(b"#version")
    for damaged in (packed[:-9], packed[:10] + b"\xff" * 20):
        (tmp_path / "cut.gz").write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"cut\.gz"):
            make_tokenizer(str(tmp_path / "cut.gz"), [], 0, 77)
