"""Converts pages to UTF-8 by byte-order mark, declared encodings, or detection."""

import codecs
import re
import struct

import pyarrow as pa
from charset_normalizer import from_bytes

from dataops.web.charset_labels import (
    MAX_DECLARATION_OFFSET,
    MULTI_BYTE,
    REPLACEMENT,
    find_codec,
    find_declared_charset,
    find_encoding,
)
from dataops.web.decoders import UNDECODED, decode

_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_LANGUAGE = re.compile(rb"""<html\b[^>]{0,1024}?\blang\s*=\s*["']?\s*([a-zA-Z]{2,3})\b""", re.IGNORECASE)
_UTF16 = (
    (re.compile(rb"(?:\s\0)*<\0[!?a-zA-Z]\0").match, "utf-16-le"),
    (re.compile(rb"(?:\0\s)*\0<\0[!?a-zA-Z]").match, "utf-16-be"),
)
_DETECTION_WINDOW = 1 << 20  # bytes from which the sample for the detector is taken
_SAMPLE = 1 << 13  # bytes of text with non-ASCII characters that the detector reads
# Valid non-ASCII characters for each invalid sequence that a UTF-8 page may have (mixed encodings, truncation).
_VALID_PER_ERROR = 4
_UTF16_CODECS = {"utf-16le": "utf-16-le", "utf-16be": "utf-16-be"}
_UTF16_WINDOW = 1024  # bytes with at least one NUL in a page that is UTF-16 as its response declares
_UNDECODED = re.compile(rb"\xef\xbf\xbd|\xc2[\x80-\x84\x86-\x9f]")  # dataops.web.decoders.UNDECODED in UTF-8
_MARKUP = re.compile(rb"[<>]")
_OFFSETS = struct.Struct("=2q")

# The encodings of pages in a language before UTF-8. English is missing because templates declare it for any language.
# Source: the HTML Standard, section 13.2.3.2 (suggested default encodings by locale), and other encodings of the time.
_LEGACY = {
    **dict.fromkeys(("bg", "mk", "sr", "be"), ("cp1251", "iso8859-5")),
    **dict.fromkeys(("cs", "hu", "pl", "sk", "sl", "hr", "bs", "ro", "sq"), ("cp1250", "iso8859-2")),
    **dict.fromkeys(("de", "fr", "es", "it", "pt", "nl", "sv", "da", "no", "nb", "nn", "fi", "is", "ca"), ("cp1252",)),
    **dict.fromkeys(("ar", "fa", "ur"), ("cp1256",)),
    **dict.fromkeys(("et", "lt", "lv"), ("cp1257",)),
    "ru": ("cp1251", "koi8-r", "cp866"),
    "uk": ("cp1251", "koi8-u"),
    "el": ("cp1253", "iso8859-7"),
    "he": ("cp1255",),
    "ja": ("cp932", "euc_jp"),
    "ko": ("cp949",),
    "th": ("cp874",),
    "tr": ("cp1254",),
    "vi": ("cp1258",),
    "zh": ("gb18030", "big5hkscs"),
}


def convert_to_utf8(data: bytes, header_charset: str | None) -> tuple[bytes, str]:
    """Return the page in valid UTF-8, and the codec that it was decoded with; undecodable bytes become U+FFFD.

    The codec is chosen in this order: by byte-order mark; by the byte pattern of UTF-16; by the declared encodings (HTTP
    header, then the page) and UTF-8; by detection if no usable encoding is declared. Text that is valid UTF-8 is decoded
    as UTF-8 even if a single-byte encoding is declared, because those accept any bytes. If several codecs remain, the
    one with the fewest undecodable bytes is used.
    """
    for mark, codec in _BOMS:
        if data.startswith(mark):
            return _transcode(data[len(mark) :], codec), codec
    if b"\0" in data[:4]:
        for starts_as, codec in _UTF16:
            if starts_as(data):
                return _transcode(data, codec), codec
    encoding = find_encoding(header_charset) if header_charset else None
    if encoding in _UTF16_CODECS and b"\0" in data[:_UTF16_WINDOW]:
        return _transcode(data, _UTF16_CODECS[encoding]), _UTF16_CODECS[encoding]
    declared = [codec for label in (header_charset, find_declared_charset(data)) if (codec := find_codec(label))]
    if declared[:1] == [REPLACEMENT]:
        return "\ufffd".encode(), REPLACEMENT
    declared = [codec for codec in declared if codec != REPLACEMENT]
    is_valid = _is_valid_utf8(data)
    is_utf8 = is_valid or _is_nearly_utf8(data, "utf-8" in declared)
    if is_utf8 and not MULTI_BYTE.intersection(declared):
        return (data if is_valid else _transcode(data, "utf-8")), "utf-8"
    codecs_to_try: list[str] = list(dict.fromkeys([*declared, *(["utf-8"] if is_utf8 or not declared else [])]))
    if codecs_to_try == ["utf-8"] and not is_utf8:
        codecs_to_try.append(_detect_codec(data))
    texts = [(_transcode(data, codec), codec) for codec in codecs_to_try]
    return min(texts, key=lambda text: len(_UNDECODED.findall(text[0]))) if len(texts) > 1 else texts[0]


def _transcode(data: bytes, codec: str) -> bytes:
    """Return the data as UTF-8; valid UTF-8 is not copied."""
    if codec == "utf-8":
        return data if _is_valid_utf8(data) else data.decode(errors="replace").encode()
    return decode(data, codec).encode(errors="replace")


def _is_valid_utf8(data: bytes) -> bool:
    # Arrow creates no string: this is five times as fast as decoding, and saves up to four times the memory.
    offsets = pa.py_buffer(_OFFSETS.pack(0, len(data)))
    text = pa.Array.from_buffers(pa.large_string(), 1, [None, offsets, pa.py_buffer(data)])
    try:
        text.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _is_nearly_utf8(data: bytes, declared: bool) -> bool:
    """Return whether the bytes are UTF-8 except for a few errors among many characters, or a truncated last character."""
    text, read = codecs.utf_8_decode(data, "replace", False)
    bad = text.count("\ufffd")
    good = len(text) - len(text.encode("ascii", "ignore")) - bad
    return _VALID_PER_ERROR * bad <= good and (read == len(data) or good > 0 or declared)


def _detect_codec(data: bytes) -> str:
    """Return the most likely codec of bytes without a declared encoding.

    The legacy codecs of the page's declared language come first, if they can decode the text. Without evidence for
    another codec the result is windows-1252, as in browsers.
    """
    texts = _MARKUP.split(data[:_DETECTION_WINDOW])
    sample = b"\n".join(text for text in texts if not text.isascii())[:_SAMPLE]
    language = _LANGUAGE.search(data[:MAX_DECLARATION_OFFSET])
    usual = _LEGACY.get(language[1].decode().lower(), ()) if language else ()
    usable = [codec for codec in usual if _can_decode(sample, codec)]
    if len(usable) == 1:
        return usable[0]
    best = from_bytes(_without_added_characters(sample), cp_isolation=usable or None).best()
    if best is None or "cp1252" in best.could_be_from_charset:  # cp1252 decodes the sample to the same text
        return usable[0] if usable else "cp1252"
    return find_codec(best.encoding) or "cp1252"


def _without_added_characters(sample: bytes) -> bytes:
    """Return EUC-JP without the characters of NEC and IBM, which Python's codec lacks; other bytes unchanged."""
    is_euc_jp = "\ufffd" in sample.decode("euc_jp", "replace")[:-2] and _can_decode(sample, "euc_jp")
    return decode(sample, "euc_jp").encode("euc_jp", "ignore") if is_euc_jp else sample


def _can_decode(data: bytes, codec: str) -> bool:
    """Return whether the codec has a character for all bytes, except for a truncated last character."""
    text = decode(data, codec)
    return not UNDECODED.search(text, 0, max(0, len(text) - 2))
