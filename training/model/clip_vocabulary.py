"""OpenAI's vocabulary of 49,408 tokens, as open_clip's SimpleTokenizer applies it.

pairmill ships no copy of the merges: they are read from an installed package (open_clip_torch or OpenAI's clip) or the
Hub, and checked by their digest. Captions are cleaned in Python, because ftfy is, but the many that ftfy would not
change skip it. `build_encoder` merges pairs in Rust; `CompiledEncoder` gives the same ids about ten times as fast, once
numba is loaded.
"""

import gzip
import html
import json
import re
import unicodedata
from collections.abc import Sequence
from contextlib import nullcontext
from functools import lru_cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import ftfy
import numpy as np
from ftfy.badness import MOJIBAKE_CATEGORIES, is_bad
from ftfy.chardata import HTML_ENTITY_RE, LIGATURES, WIDTH_MAP
from ftfy.fixes import uncurl_quotes
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, models, pre_tokenizers, processors
from tokenizers import Tokenizer as BytePairTokenizer

from dataops.errors import ConfigError
from dataops.kernels.compiled import compiled

START, END = "<start_of_text>", "<end_of_text>"
VOCAB_SIZE = 49_408
MERGES = VOCAB_SIZE - 2 * 256 - 2
MERGES_SHA256 = "f61f2adf497e6f5357c347aeb4646fabe82f341e946de5bdec5d2858e41bef4a"
"""sha256 of the merges, one a line."""
PACKAGES = ("open_clip", "clip")
FILE = "bpe_simple_vocab_16e6.txt.gz"
HUB_FILE = ("openai/clip-vit-base-patch32", "merges.txt")
MAX_FILE_BYTES = 16 * 1024**2
"""Number of bytes that are read of the merges, unpacked: OpenAI's file has 3 million."""

PLAIN = re.compile(r"[\t\n\r -%'-~]*")
"""Text in which ftfy changes nothing that matters: printable ASCII without an ampersand."""
FIXABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u206a-\u206f\ud800-\udfff\ufeff\ufff9-\ufffc"
    + "".join(map(chr, LIGATURES | WIDTH_MAP))
    + "]"
)
"""Characters that ftfy replaces or removes wherever they are, but curly quotes and entities."""
QUOTES = re.compile("[\u02bc\u2018-\u201f]")
_ODD = "".join(
    characters
    for name, characters in MOJIBAKE_CATEGORIES.items()
    if name not in ("common", "lower_accented", "lower_common", "upper_common")
)
SUSPECT = re.compile(f"[^\\x00-\\x7f](?:(?<=[ŒœÃÂØÙЂ])|(?<=[ВГРСΒΓΞΟ])-|[{_ODD}]|(?<=[{_ODD}])[^\\x00-\\x7f])")
"""Where ftfy's `is_bad`, which takes 40 us, can find a sequence: each has one of these characters or pairs."""
# Letters and numbers of Unicode 16 to 18 that `regex`, which SimpleTokenizer uses, has and the regular expressions of
# `tokenizers` have not. Source: DerivedGeneralCategory.txt of those versions.
NEW_LETTERS = (
    r"\x{558}\x{58B}-\x{58C}\x{88F}\x{C5C}\x{CDC}\x{208F}\x{209D}-\x{209F}\x{A7CE}-\x{A7CF}\x{A7D2}\x{A7D4}\x{A7DD}"
    r"\x{A7E2}\x{A7F1}\x{AB6C}-\x{AB6D}\x{107BB}-\x{107BF}\x{10940}-\x{10959}\x{10EC5}-\x{10EC7}\x{10ED9}-\x{10EEE}"
    r"\x{11B0A}\x{11DB0}-\x{11DDB}\x{11DF1}\x{16EA0}-\x{16EB8}\x{16EBB}-\x{16ED3}\x{16FF2}-\x{16FF3}\x{187F8}-\x{187FF}"
    r"\x{18CD6}-\x{18CDA}\x{18D09}-\x{18D20}\x{18D80}-\x{18DF2}\x{18E00}-\x{19191}\x{191A0}-\x{191D2}\x{1B123}-\x{1B128}"
    r"\x{1B168}\x{1D6A6}\x{1DF1F}-\x{1DF24}\x{1DF2B}-\x{1DF81}\x{1DF90}-\x{1DF96}\x{1DFCD}-\x{1DFFF}\x{1E6C0}-\x{1E6DE}"
    r"\x{1E6E0}-\x{1E6E2}\x{1E6E4}-\x{1E6E5}\x{1E6E7}-\x{1E6ED}\x{1E6F0}-\x{1E6F4}\x{1E6FE}-\x{1E6FF}\x{2B73A}-\x{2B73F}"
    r"\x{2B81E}\x{2CEA2}-\x{2CEAD}\x{323B0}-\x{33479}\x{3D000}-\x{3FC3F}"
)
NEW_NUMBERS = r"\x{11DE0}-\x{11DE9}\x{1246F}\x{12475}-\x{1247F}\x{12550}-\x{12686}\x{16FF4}-\x{16FF6}"
LETTER, NUMBER = rf"\p{{L}}{NEW_LETTERS}", rf"\p{{N}}{NEW_NUMBERS}"
# SimpleTokenizer ignores case, which in lower-cased text matters for the long s, and for the iota below (U+0345), which
# is then neither a letter nor another character, and so is left out.
OTHER = rf"[^\s{LETTER}{NUMBER}\x{{345}}]"
WORDS = rf"<[sſ]tart_of_text>|<end_of_text>|'[sſ]|'t|'re|'ve|'m|'ll|'d|[{LETTER}]+|[{NUMBER}]|{OTHER}+"


def clean_caption(text: str) -> str:
    """Clean a caption as SimpleTokenizer does: fixed by ftfy, entities resolved, spaces single, lower case."""
    if not PLAIN.fullmatch(text):
        straight = uncurl_quotes(text) if QUOTES.search(text) else text
        text = (
            ftfy.fix_text(text) if _is_fixable(text) or (straight is not text and _is_fixable(straight)) else straight
        )
        if "&" in text and (unescaped := html.unescape(text)) != text:
            text = html.unescape(unescaped)
        text = text.strip()
    return " ".join(text.split()).lower()


def _is_fixable(text: str) -> bool:
    """Return whether ftfy may change more of a text than its curly quotes."""
    if FIXABLE.search(text) or ("&" in text and HTML_ENTITY_RE.search(text)):
        return True
    return not text.isascii() and (
        not unicodedata.is_normalized("NFC", text) or (SUSPECT.search(text) is not None and is_bad(text))
    )


def build_encoder(merges: list[tuple[str, str]]) -> BytePairTokenizer:
    """Build the encoder of cleaned text to ids with start and end, in Rust."""
    alphabet = _alphabet()
    tokens = [*alphabet, *(f"{symbol}</w>" for symbol in alphabet), *("".join(pair) for pair in merges), START, END]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    encoder = BytePairTokenizer(
        models.BPE(vocab=vocabulary, merges=merges, continuing_subword_prefix="", end_of_word_suffix="</w>")
    )
    encoder.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    encoder.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (START, END)])
    ends = [(START, VOCAB_SIZE - 2), (END, VOCAB_SIZE - 1)]
    encoder.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single=f"{START} $A {END}", special_tokens=ends
    )
    return encoder


def _alphabet() -> list[str]:
    """Return a character for each byte: itself if it prints, else the next from U+0100 on. Source: GPT-2's encoder.py."""
    printing = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [*map(chr, printing), *(chr(256 + n) for n in range(256 - len(printing)))]


@lru_cache(maxsize=1)
def find_merges() -> list[tuple[str, str]]:
    """Read the merges from an installed package or the Hub.

    Raises: ConfigError if none has them.
    """
    for package in PACKAGES:
        spec = find_spec(package)
        if spec is not None and spec.origin is not None and (path := Path(spec.origin).with_name(FILE)).is_file():
            return read_merges(path)
    try:
        from huggingface_hub import hf_hub_download

        return read_merges(Path(hf_hub_download(*HUB_FILE)))
    except (ImportError, OSError, ValueError) as error:
        raise ConfigError(
            f"vocabulary: no package has the merges of CLIP's vocabulary, and the Hub gave none ({type(error).__name__}): "
            f'pip install open_clip_torch, or name the file: vocabulary = "path/{FILE}"'
        ) from error


def read_merges(path: Path) -> list[tuple[str, str]]:
    """Read the merges in OpenAI's file, packed or not.

    Raises: ConfigError if the file is another one.
    """
    try:
        with path.open("rb") as file:
            is_packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            with gzip.open(file) if is_packed else nullcontext(file) as plain:
                text = plain.read(MAX_FILE_BYTES)
        lines = text.decode("utf-8").split("\n")[1 : MERGES + 1]
    except (OSError, EOFError, ValueError) as error:
        raise ConfigError(f"vocabulary: {path} cannot be read ({type(error).__name__}: {error})") from error
    if sha256("\n".join(lines).encode()).hexdigest() != MERGES_SHA256:
        raise ConfigError(f"vocabulary: {path} is not OpenAI's {FILE}: other merges")
    return [(pair[0], pair[1]) for pair in (line.split(" ") for line in lines)]


_GAP, _LETTER, _NUMBER, _OTHER, _UNKNOWN = range(5)  # what a code point is to WORDS
_CODES = 0x20000
"""Number of code points that CompiledEncoder knows. Those above are rare characters of Chinese."""
_PAIRS = 1 << 17
_SLOTS, _MAX_WORD = 1 << 16, 128
_KEPT_BYTES, _KEPT_IDS = 24, 16
"""Maximum numbers of bytes and ids of a word that is kept: one cache line has both."""
_SPECIAL = np.frombuffer(f"{START}{END}".encode(), np.uint8)
_SPECIAL_BOUNDS = (0, len(START), len(START) + len(END))
_BREAK, _SLOW = "\0", "\u017f"


def compile_encoder(encoder: BytePairTokenizer, context_length: int) -> "CompiledEncoder | None":
    """Return compiled code that gives the ids of an encoder, or None if the encoder is not one of `build_encoder`."""
    content = json.loads(encoder.to_str())
    merges = [(left, right) for left, right in content["model"]["merges"]]
    expected = json.loads(build_encoder(merges).to_str())
    if any(content[part] != expected[part] for part in expected.keys() - {"truncation", "padding"}):
        return None
    return CompiledEncoder(merges, context_length)


class CompiledEncoder:
    """Captions to the ids of `build_encoder`, in compiled code that keeps the ids of the words that it has seen.

    Args:
        merges: OpenAI's.
        context_length: maximum number of ids of a caption.
    """

    def __init__(self, merges: Sequence[tuple[str, str]], context_length: int):
        self._length = context_length
        self._kinds = _classify_codes()
        alphabet = _alphabet()
        symbols = {token: number for number, token in enumerate([*alphabet, *(f"{symbol}</w>" for symbol in alphabet)])}
        symbols |= {"".join(pair): 512 + rank for rank, pair in enumerate(merges)}
        pairs = np.array([(symbols[left], symbols[right]) for left, right in merges], np.int64)
        self._pairs, self._ranks = np.full(_PAIRS, -1), np.zeros(_PAIRS, np.int64)
        _fill_pairs(pairs[:, 0] << 16 | pairs[:, 1], self._pairs, self._ranks)
        order = sorted(range(256), key=lambda byte: chr(byte) not in alphabet)  # as in _alphabet
        self._symbols = np.empty(256, np.int64)
        self._symbols[order] = np.arange(256)
        # of each word: its numbers of bytes and ids, its bytes, its ids
        self._words = np.zeros((_SLOTS, 8), np.int64)
        self._used = np.zeros(1, np.int64)

    def __call__(self, texts: Sequence[str]) -> tuple[NDArray[np.int64], int, list[int]]:
        """Return ids (N, context_length), padded with zeros; the number of ids of the longest row; and the rows that it
        cannot encode, whose ids are not set.
        """
        ids, longest, rows = self._encode(texts, is_clean=False)
        if rows:
            ids[rows], size, unknown = self._encode([clean_caption(texts[row]) for row in rows], is_clean=True)
            longest, rows = max(longest, size), [rows[row] for row in unknown]
        return ids, longest, rows

    def _encode(self, texts: Sequence[str], is_clean: bool) -> tuple[NDArray[np.int64], int, list[int]]:
        joined = _BREAK.join(texts)
        if joined.count(_BREAK) != len(texts) - 1:
            joined = _BREAK.join(text.replace(_BREAK, _SLOW) for text in texts)
        encoded = bytearray(joined, "utf-8", "surrogatepass")
        size = len(encoded)
        encoded += bytes(_KEPT_BYTES)  # read, and not used
        data = np.frombuffer(encoded, np.uint8)
        ids, states = np.zeros((len(texts), self._length), np.int64), np.zeros(len(texts), np.uint8)
        tables = (self._symbols, self._pairs, self._ranks)
        # compiled code holds the lock of the interpreter, so threads can share the words
        longest = _encode(data, size, is_clean, self._kinds, tables, self._words, self._used, ids, states)
        return ids, longest, np.flatnonzero(states).tolist()


def _classify_codes() -> NDArray[np.uint8]:
    """Return what each code point is to WORDS, by the regular expressions that `build_encoder` uses."""
    kinds = np.zeros(_CODES + 1, np.uint8)
    text = "".join(chr(code if not 0xD800 <= code <= 0xDFFF else 0) for code in range(_CODES))
    for kind, pattern in ((_LETTER, f"[{LETTER}]"), (_NUMBER, f"[{NUMBER}]"), (_OTHER, OTHER)):
        for _, (start, end) in pre_tokenizers.Split(Regex(f"{pattern}+"), "removed", invert=True).pre_tokenize_str(
            text
        ):
            kinds[start:end] = kind
    kinds[0xD800:0xE000] = kinds[ord(_SLOW)] = kinds[_CODES] = _UNKNOWN
    return kinds


@compiled(inline="always")
def _find_pair(key, pairs):
    at = (key * 2654435761 >> 20) & (_PAIRS - 1)
    while pairs[at] != key and pairs[at] >= 0:
        at = (at + 1) & (_PAIRS - 1)
    return at


@compiled()
def _fill_pairs(keys, pairs, ranks):
    for rank in range(len(keys)):
        at = _find_pair(keys[rank], pairs)
        pairs[at], ranks[at] = keys[rank], rank


@compiled(inline="always")
def _next_kind(data, at, kinds):
    """Return what the code point at a position of UTF-8 is, and the position after it."""
    code = np.int64(data[at])
    size = 1 if code < 0x80 else 2 if code < 0xE0 else 3 if code < 0xF0 else 4
    if size > 1:
        code &= 0x7F >> size
        for i in range(1, size):
            code = code << 6 | (data[at + i] & 0x3F)
    return kinds[min(code, _CODES)], at + size


@compiled()
def _find_special(data, at, end):
    """Return the index of the special token at a position, or -1."""
    for token in range(2):
        first, last = _SPECIAL_BOUNDS[token], _SPECIAL_BOUNDS[token + 1]
        size = 0
        while at + size < end and first + size < last and data[at + size] == _SPECIAL[first + size]:
            size += 1
        if first + size == last:
            return token
    return -1


@compiled(inline="always")
def _end_of_word(data, at, end, kinds):
    """Return the end of the word of WORDS that begins at a position, and what its first code point is."""
    kind, stop = _next_kind(data, at, kinds)
    if data[at] == 39 and end - stop > 0:
        one, two = data[stop], data[stop + 1] if end - stop > 1 else 0
        if one in (115, 116, 109, 100):  # 's 't 'm 'd
            return stop + 1, kind
        if (one == 114 and two == 101) or (one == 118 and two == 101) or (one == 108 and two == 108):  # 're 've 'll
            return stop + 2, kind
    while stop < end and kind in (_LETTER, _OTHER):
        following, after = _next_kind(data, stop, kinds)
        if following != kind:
            return stop, _UNKNOWN if following == _UNKNOWN else kind  # which may end a contraction
        stop = after
    return stop, kind


@compiled()
def _merge(data, at, end, tables, symbols):
    """Write the ids of a word to `symbols`, and return their number; the pair of lowest rank is merged first."""
    bytes_, pairs, ranks = tables
    count = end - at
    for i in range(count):
        symbols[i] = bytes_[data[at + i]]
    symbols[count - 1] += 256
    while count > 1:
        best, left, right = _PAIRS, 0, 0
        for i in range(count - 1):
            key = symbols[i] << 16 | symbols[i + 1]
            found = _find_pair(key, pairs)
            if pairs[found] == key and ranks[found] < best:
                best, left, right = ranks[found], symbols[i], symbols[i + 1]
        if best == _PAIRS:
            break
        size = i = 0
        while i < count:
            if i + 1 < count and symbols[i] == left and symbols[i + 1] == right:
                symbols[size] = 512 + best
                i += 2
            else:
                symbols[size] = symbols[i]
                i += 1
            size += 1
        count = size
    return count


@compiled(inline="always")
def _eight_bytes(data, at, size):
    """Return up to eight bytes as a number."""
    word = np.uint64(0)
    for i in range(8):
        word |= np.uint64(data[np.uint64(at) + np.uint64(i)]) << np.uint64(8 * i)
    if size < 8:
        word &= (np.uint64(1) << np.uint64(8 * max(size, 0))) - np.uint64(1)
    return word


@compiled()
def _merge_and_keep(data, at, size, tables, words, used, row, symbols):
    """Write the ids of a word to `symbols` and, where they fit, to a row of `words`; return their number."""
    count = _merge(data, at, at + size, tables, symbols)
    if row >= 0 and count <= _KEPT_IDS and used[0] < 3 * _SLOTS // 4:
        used[0] += 1
        words[row, 0] = size | count << 8
        for i in range(3):
            words[row, 1 + i] = np.int64(_eight_bytes(data, at + 8 * i, size - 8 * i))
        for i in range(count):
            words[row, 4 + (i >> 2)] |= symbols[i] << (16 * (i & 3))
    return count


@compiled(inline="always")
def _find_word(data, at, size, words):
    """Return the row of a word in `words`, or the empty row where it belongs."""
    one = _eight_bytes(data, at, size)
    two = three = np.uint64(0)
    if size > 8:
        two, three = _eight_bytes(data, at + 8, size - 8), _eight_bytes(data, at + 16, size - 16)
    code = (one ^ (two * np.uint64(0x9E3779B97F4A7C15)) ^ (three * np.uint64(0xC2B2AE3D27D4EB4F))) * np.uint64(
        0xFF51AFD7ED558CCD
    )
    row = np.int64(code >> np.uint64(48))
    while words[row, 0] and (
        words[row, 0] & 0xFF != size
        or np.uint64(words[row, 1]) != one
        or np.uint64(words[row, 2]) != two
        or np.uint64(words[row, 3]) != three
    ):
        row = (row + 1) & (_SLOTS - 1)
    return row


@compiled()
def _encode(data, size, is_clean, kinds, tables, words, used, ids, states):
    """Write the ids of each row of `data`, which it folds to lower case, and return the most ids of a row; or write 1 to
    the row's state where it has to be cleaned first, and 2 where it cannot be encoded here.
    """
    limit = ids.shape[1] - 1
    symbols = np.empty(_MAX_WORD, np.int64)
    start = longest = 0
    if used[0] >= _SLOTS // 2:
        words[:], used[:] = 0, 0
    for row in range(len(states)):
        end, is_plain = start, True
        while end < size and data[end] != 0:
            byte = data[end]
            if 65 <= byte <= 90:
                data[end] = byte + 32
            is_plain &= (32 <= byte < 127 and byte != 38) or byte == 9 or byte == 10 or byte == 13
            end += 1
        at, count = start, 1
        ids[row, 0] = VOCAB_SIZE - 2
        start = end + 1
        if not (is_plain or is_clean):
            states[row] = 1
            continue
        while at < end and count < limit:
            if data[at] == 32:
                at += 1
                continue
            token = _find_special(data, at, end) if data[at] == 60 else -1
            if token >= 0:
                ids[row, count] = VOCAB_SIZE - 2 + token
                at += _SPECIAL_BOUNDS[token + 1] - _SPECIAL_BOUNDS[token]
                count += 1
                continue
            stop, kind = _end_of_word(data, at, end, kinds)
            if kind == _UNKNOWN or stop - at > _MAX_WORD:
                states[row] = 2
                break
            if kind != _GAP:
                number = stop - at
                found = _find_word(data, at, number, words) if number <= _KEPT_BYTES else -1
                if found >= 0 and words[found, 0]:
                    number = min(words[found, 0] >> 8, limit - count)
                    for i in range(number):
                        ids[row, count + i] = words[found, 4 + (i >> 2)] >> (16 * (i & 3)) & 0xFFFF
                else:
                    number = _merge_and_keep(data, at, number, tables, words, used, found, symbols)
                    number = min(number, limit - count)
                    for i in range(number):
                        ids[row, count + i] = symbols[i]
                count += number
            at = stop
        ids[row, count] = VOCAB_SIZE - 1
        longest = max(longest, count + 1)
    return longest
