"""The decoders against the tables of the Encoding Standard."""

import codecs
import hashlib

import pytest

from dataops.web.charsets import MAX_REPAIRED, UNDECODED, decode, find_codec

HIGH, ANY = range(0xA1, 0xFF), range(0x40, 0xFF)
# For each codec: pairs of bytes, how many of them the Standard's indexes (July 2026) map to characters, and the sha256 of
# the lines "pair in hexadecimal, space, character". Big5 is without four pairs for slashes, of which Python has only two.
PAIRS = {
    "euc_jp": [bytes((a, b)) for a in HIGH for b in HIGH],
    "euc_jp 0212": [bytes((0x8F, a, b)) for a in HIGH for b in HIGH],
    "cp932": [bytes((a, b)) for a in (*range(0x81, 0xA0), *range(0xE0, 0xFD)) for b in ANY],
    "cp949": [bytes((a, b)) for a in range(0x81, 0xFF) for b in ANY],
    "gb18030": [bytes((a, b)) for a in range(0x81, 0xFF) for b in ANY],
    "big5hkscs": [
        pair for a in range(0x81, 0xFF) for b in ANY if (pair := bytes((a, b))).hex() not in "a1fe a240 a241 a242"
    ],
}
DIGESTS = {
    "euc_jp": (7336, "296955d8249e5d750b26aca3bf33f4273eaf4cd5ed5afbf4a4b57a1fc0b64eb6"),
    "euc_jp 0212": (6067, "7ea755ebf7a0b57a81edc01e5e36ef3a966af5dcc8d5a5a010c3481f4b3f80e6"),
    "cp932": (9604, "03382ad0127c624757fbccac3f7476f144212d682dd7eb139f69621248b89cdd"),
    "cp949": (17048, "92904e503704c0bc6ce8827c0f0123bc8cfd220c2ff977c9c618b7c9a47d8320"),
    "gb18030": (23940, "75205ae2e7eb0630f5b2bd3de5f6439cdab243447b638dc1cf60a55e0bee38e7"),
    "big5hkscs": (18590, "c2c39e1a8fe968c848d3f407b9d4b6ef7be5272fc7778efa04c21da40fd7ca92"),
}
SINGLE_BYTE = (
    "ibm866 iso-8859-2 iso-8859-3 iso-8859-4 iso-8859-5 iso-8859-6 iso-8859-7 iso-8859-8 iso-8859-8-i iso-8859-10 "
    "iso-8859-13 iso-8859-14 iso-8859-15 iso-8859-16 koi8-r koi8-u macintosh windows-874 windows-1250 windows-1251 "
    "windows-1252 windows-1253 windows-1254 windows-1255 windows-1256 windows-1257 windows-1258 x-mac-cyrillic "
    "x-user-defined"
)
SINGLE_BYTE_DIGEST = "70ea342ff9cdac3cb546206d2a8571e6c3e14f3a9856aca1442e985bf46754c1"


def digest(lines):
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@pytest.mark.parametrize("name", PAIRS)
def test_decode_maps_each_pair_as_the_standard_does(name):
    codec = name.partition(" ")[0]
    texts = {pair.hex(): decode(pair + b" ", codec) for pair in PAIRS[name]}
    mapped = [f"{pair} {text[:-1]}" for pair, text in sorted(texts.items()) if text[-1] == " " and "\ufffd" not in text]
    assert (len(mapped), digest(mapped)) == DIGESTS[name]


def test_decode_maps_each_byte_as_the_standard_does():
    tables = [f"{name} {decode(bytes(range(256)), find_codec(name) or '')}" for name in SINGLE_BYTE.split()]
    assert digest(tables) == SINGLE_BYTE_DIGEST


@pytest.mark.parametrize(
    ("data", "codec", "text"),
    [
        (b"\xad\xea\xa4\xa2\xad\xa1 \xad\xe2\xad\xb5", "euc_jp", "㈱あ① №Ⅰ"),
        (b"\xf9\xa1\xfc\xe2\xf3\xf3", "euc_jp", "纊髙齠"),
        (b"\xa1\xc1\xa1\xdd\x8f\xa2\xb7~", "euc_jp", "～－～~"),
        (b"\xa4<b>\xa4\xa2\xff\xa4", "euc_jp", "\ufffd<b>あ\ufffd\ufffd"),
        (b"100\x80 \xa3\xa0\xa8\xbc", "gb18030", "100€ \u3000ḿ"),
        (b"\xa3\xe1 \x87\x7a \xa1\x45", "big5hkscs", "€ 㡵 ‧"),
        (b"\xae\xbe", "koi8-u", "ўЎ"),
        (b"\xca\x81", "cp1255", "\u05ba\x81"),
        (b"a\xe9", "x-user-defined", "a\uf7e9"),
        (b"\x1b$B-j$\"\x1b(B <b>\x1b(I1\x1b(J\\~\x1b$@-!\x1b(B.", "iso2022_jp", "㈱あ <b>ｱ¥‾①."),
        (b"\x1b$B$", "iso2022_jp", "\ufffd"),
        (b"", "euc_jp", ""),
    ],
)  # fmt: skip
def test_decode(data, codec, text):
    assert decode(data, codec) == text


@pytest.mark.parametrize("codec", ["euc_jp", "big5hkscs", "gb18030"])
def test_decode_of_garbage_makes_no_call_for_each_byte(codec):
    repair, calls = codecs.lookup_error(f"pairmill-{codec}"), []
    codecs.register_error(f"pairmill-{codec}", lambda error: calls.append(1) or repair(error))
    try:
        assert decode(b"\xff" * (MAX_REPAIRED + 1), codec) == "\ufffd" * (MAX_REPAIRED + 1)
        assert not calls
        assert decode(b"\xff" * 7, codec) == "\ufffd" * 7
        assert len(calls) == 7
    finally:
        codecs.register_error(f"pairmill-{codec}", repair)


def test_undecoded_matches_what_decode_returns_for_bytes_without_a_character():
    assert [bool(UNDECODED.match(decode(data, "cp1252"))) for data in (b"\x81", b"\x80", b"\xe9", b"a")] == [
        True,
        False,
        False,
        False,
    ]
