"""Compares dataops.language.detect with langdetect, on the names of emoji in 14 languages."""

import math
import unicodedata
from collections import defaultdict
from pathlib import Path

import emoji
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory
from langdetect.lang_detect_exception import LangDetectException
from langdetect.utils.ngram import NGram

from dataops.language.detect import detect, encode_captions, find_unwritten, load_scripts, remove_addresses
from dataops.language.profiles import normalise_letters, profile_names

CODES = {"zh": "zh-cn"}


def detect_all(texts, candidates=None, **options):
    return detect(pa.array(texts, pa.string()), candidates, **options)


def emoji_names(number=510):
    """(language, name) of emoji names of 12 characters or more, evenly over the languages that langdetect knows."""
    emoji.config.load_language()
    by_language = defaultdict(list)
    for names in emoji.EMOJI_DATA.values():
        for code, name in names.items():
            if CODES.get(code, code) in profile_names() and isinstance(name, str):
                text = unicodedata.normalize("NFC", name.strip(":").replace("_", " "))
                if len(text) >= 12 or code in ("zh", "ja", "ko"):
                    by_language[CODES.get(code, code)].append(text)
    each = number // len(by_language) + 1
    return [
        (code, text)
        for code, texts in sorted(by_language.items())
        for text in sorted(set(texts))[:: max(1, len(set(texts)) // each)][:each]
    ]


@pytest.fixture(scope="module")
def factory():
    """langdetect with its profiles in our order: its own is that of the folder's listing, which rounding errors follow."""
    detector_factory = DetectorFactory()
    detector_factory.load_json_profile(
        [(Path(PROFILES_DIRECTORY) / name).read_text("utf-8") for name in profile_names()]
    )
    return detector_factory


def langdetect_answer(factory, text):
    factory.set_seed(0)
    detector = factory.create()
    detector.append(text)
    try:
        return detector.detect()
    except LangDetectException:
        return None


def test_normalise_letters_equals_langdetect():
    letters = normalise_letters()
    differ = [c for c in range(0xFFFF) if not 0xD800 <= c < 0xE000 and ord(NGram.normalize(chr(c))) != letters[c]]
    assert differ == []


def ngrams_by_langdetect(factory, text):
    detector = factory.create()
    detector.append(text)
    detector.cleaning_text()
    return detector._extract_ngrams()


@pytest.mark.parametrize(
    "text",
    [
        "A photo of NASA's rocket, see https://nasa.gov/x?y=1#z or mail a.b@c-d.org",
        "Mặt trời mọc, trời sa\u0323ch A\u0302\u0301",
        "猫の写真 Katze 高鐵 ㄅㄆㄇ 한국어",
        "Straße  und\u00a0Häuser — «Wien»",
        "ABBA abBA BBab",
        "кот cat dog mouse",
        "𝔘nicode 🐶 dog",
        "ștefan țară",
        " a ",
        "",
    ],
)
def test_detect_gives_the_naive_bayes_posterior_of_langdetects_ngrams(factory, text):
    """Sum over langdetect's own n-grams of the text, among the languages that write one of its scripts."""
    scripts, written = load_scripts()
    own = np.bitwise_or.reduce([int(scripts[ord(letter)]) for letter in text] or [0])
    writes = (written & own != 0) | (own == 0)
    grams = ngrams_by_langdetect(factory, text)
    order = [factory.langlist.index(name) for name in profile_names()]
    logs = sum(
        (np.log(np.array(factory.word_lang_prob_map[g]) + 0.5 / 10_000)[order] for g in grams), np.zeros(len(order))
    )
    found = detect_all([text], rounded=False)
    if not grams:
        assert found.labels == [None]
        assert found.scores.tolist() == [0.0]
    else:
        expected = np.where(writes, np.exp(logs - logs[writes].max()), 0)
        assert np.abs(found.probabilities[0] - expected / expected.sum()).max() < 0.01


def test_a_text_in_a_script_that_no_candidate_writes_has_no_language():
    thai = pa.array(["สีขาว", "a", "กข กค"])
    found = detect(thai, ["en", "de"])
    assert [label is None for label in found.labels] == [True, False, True]
    assert found.probabilities.sum(axis=1).tolist() == [0.0, 1.0, 0.0]
    assert find_unwritten(thai, ["en", "de"]).tolist() == [True, False, True]
    cleared = detect(thai).without(np.array([True, False, True]))
    assert [label is None for label in cleared.labels] == [True, False, True]


def test_detect_is_more_accurate_than_langdetect_for_chinese_and_not_worse_for_others(factory):
    codes, texts = zip(*emoji_names(800), strict=True)
    assert len(set(codes)) >= 12
    right = defaultdict(list)
    for code, text, ours in zip(codes, texts, detect_all(list(texts)).labels, strict=True):
        right[code].append((ours == code, langdetect_answer(factory, text) == code))
    for code, pairs in right.items():
        gained, lost = pairs.count((True, False)), pairs.count((False, True))
        assert lost - gained <= 2 * math.sqrt(gained + lost), (code, gained, lost)  # what chance may do to pairs
    assert np.mean([ours - theirs for ours, theirs in right["zh-cn"]]) > 0.15


@given(st.lists(st.text(st.one_of(st.sampled_from("aZÉǅ@:/ ı\u0301Ấ"), st.characters(exclude_categories=["Cs"])))))
def test_encode_captions_equals_python_without_addresses_and_in_lower_case(texts):
    texts = [*texts, "ALL IN CAPITALS", "see http://a.org/b", "A\u0301", "a@b.org", "İSTANBUL"]
    column = encode_captions(pa.array(["x", *texts])[1:])
    slow = [remove_addresses(text.lower() if text.isupper() else text) for text in texts]
    assert column.letters.tolist() == [ord(letter) for text in slow for letter in text]
    assert np.diff(column.starts).tolist() == [len(text) for text in slow]
    assert encode_captions(pa.array([], pa.string())).starts.tolist() == [0]


def test_detect_gives_the_same_for_any_batch():
    texts = [text for _, text in emoji_names()[:40]] + ["", "the end " * 100_000]
    together = detect_all(texts)
    for i, text in enumerate(texts):
        alone = detect_all([text])
        assert alone.labels == together.labels[i : i + 1]
        assert (alone.probabilities[0] == together.probabilities[i]).all()
    assert detect_all([]).labels == []
