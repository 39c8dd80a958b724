"""Checks the scripts of texts and languages."""

import unicodedata

import pyarrow as pa
import pytest
from fontTools.unicodedata import script

from dataops.language.detect import OTHER, detect, find_unwritten, load_scripts


def test_load_scripts_has_one_bit_for_each_unicode_script():
    """Check that exactly the letters of a script have its bit, by fontTools' copy of Unicode's table of scripts."""
    scripts, written = load_scripts()
    letters = [chr(c) for c in range(0x40000) if unicodedata.category(chr(c)) in ("Lu", "Ll", "Lt", "Lo")]
    letters = [c for c in letters if unicodedata.normalize("NFKC", c) == c and _named_by_script(c)]
    bits, names = {}, {}
    for letter in letters:
        bits.setdefault(script(letter), set()).add(int(scripts[ord(letter)]))
        names.setdefault(int(scripts[ord(letter)]), set()).add(script(letter))
    assert [name for name, found in bits.items() if len(found) > 1] == []
    assert [found for bit, found in names.items() if bit != OTHER and len(found - {"Zyyy"}) > 1] == []
    assert {"Latn", "Cyrl", "Arab", "Thai"} <= set(bits)
    assert not scripts[[ord(c) for c in " 1-.\u0301\U0001f436"]].any()
    assert (written > OTHER).all(), "each language writes something"


def _named_by_script(letter):
    """Return whether the name of a letter begins with its script; the few other letters are in no profile."""
    return unicodedata.name(letter, "TURNED").split()[0] not in ("TURNED", "ROMAN", "HENTAIGANA")


@pytest.mark.parametrize(
    ("text", "candidates", "expected"),
    [
        ("สีขาว", ["en", "de"], True),
        ("iPhone สีขาว", ["en", "de"], False),
        ("iPhone 15", ["th", "ja"], True),
        ("ﾊﾝｶｸ", ["ja", "en"], False),
        ("ＡＢＣ", ["ja", "en"], False),
        ("Հայաստան", None, True),
        ("12345 🐶!", ["en", "de"], False),
        ("", ["en", "de"], False),
        ("กข http://x.example/en", ["en", "de"], True),
        ("ก" * 20_000 + "a", ["en", "de"], True),
    ],
)
def test_find_unwritten_finds_texts_without_a_candidates_script(text, candidates, expected):
    assert find_unwritten(pa.array(["a", text, "ก"]), candidates).tolist()[1] is expected
    if expected:
        found = detect(pa.array([text]), candidates)
        assert found.labels == [None]
        assert not found.probabilities.any()
