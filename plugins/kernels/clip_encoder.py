"""CLIP's vocabulary in compiled code, which training and evaluation use for many captions."""

import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, pre_tokenizers
from tokenizers import Tokenizer as BytePairTokenizer

from dataops.kernels.compiled import compiled
from training.model.clip_vocabulary import (
    END,
    LETTER,
    NUMBER,
    OTHER,
    START,
    VOCAB_SIZE,
    alphabet,
    build_encoder,
    clean_caption,
)

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
        letters = alphabet()
        symbols = {token: number for number, token in enumerate([*letters, *(f"{symbol}</w>" for symbol in letters)])}
        symbols |= {"".join(pair): 512 + rank for rank, pair in enumerate(merges)}
        pairs = np.array([(symbols[left], symbols[right]) for left, right in merges], np.int64)
        self._pairs, self._ranks = np.full(_PAIRS, -1), np.zeros(_PAIRS, np.int64)
        _fill_pairs(pairs[:, 0] << 16 | pairs[:, 1], self._pairs, self._ranks)
        order = sorted(range(256), key=lambda byte: chr(byte) not in letters)  # as in alphabet
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
