"""Converts pages to UTF-8 by byte-order mark, declared encodings, or detection."""

import codecs
import re
import struct

import pyarrow as pa
from charset_normalizer import from_bytes

_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_META = re.compile(rb"""<meta\b[^>]{0,1024}?charset\s*=\s*["']?\s*([a-zA-Z0-9_.:-]{2,40})""", re.IGNORECASE)
_XML = re.compile(rb"""\A\s*<\?xml\b[^>]{0,256}?encoding\s*=\s*["']([a-zA-Z0-9_.:-]{2,40})""", re.IGNORECASE)
_LANGUAGE = re.compile(rb"""<html\b[^>]{0,1024}?\blang\s*=\s*["']?\s*([a-zA-Z]{2,3})\b""", re.IGNORECASE)
_COMMENT = re.compile(rb"<!--.*?-->", re.DOTALL)
_UTF16 = (
    (re.compile(rb"(?:\s\0)*<\0[!?a-zA-Z]\0"), "utf-16-le"),
    (re.compile(rb"(?:\0\s)*\0<\0[!?a-zA-Z]"), "utf-16-be"),
)
_MAX_DECLARATION_OFFSET = 4096  # bytes; the HTML Standard requires the first 1,024, many pages declare later
_DETECTION_WINDOW = 1 << 20  # bytes from which the sample for the detector is taken
_SAMPLE = 1 << 13  # bytes of text with non-ASCII characters that the detector reads
# Valid non-ASCII characters for each invalid sequence that a UTF-8 page may have (mixed encodings, truncation).
_VALID_PER_ERROR = 4
_MARKUP = re.compile(rb"[<>]")
_OFFSETS = struct.Struct("=2q")

# The encodings that browsers use for these labels. Source: the Encoding Standard (encoding.spec.whatwg.org), section 4.2.
_SUPERSETS = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "johab": "cp949",
    "big5": "big5hkscs",
    "utf-16": "utf-8",  # a page whose ASCII declaration could be read is not UTF-16
    "utf-16-le": "utf-8",
    "utf-16-be": "utf-8",
}
# Labels of the same table that are not names of a Python codec, and common misspellings.
_LABELS = {
    "unicode-1-1-utf-8": "utf-8",
    "unicode11utf8": "utf-8",
    "unicode20utf8": "utf-8",
    "x-unicode20utf8": "utf-8",
    "utf-8859-1": "utf-8",
    "uft-8": "utf-8",
    "utf": "utf-8",
    "unicode": "utf-8",
    "csgb2312": "gb18030",
    "gb_2312": "gb18030",
    "gb_2312-80": "gb18030",
    "x-gbk": "gb18030",
    "cn-big5": "big5hkscs",
    "x-x-big5": "big5hkscs",
    "x-sjis": "cp932",
    "windows-31j": "cp932",
    "x-euc-jp": "euc_jp",
    "windows-949": "cp949",
    "dos-874": "cp874",
    "windows-874": "cp874",
    "iso-8859-8-i": "iso8859-8",
    "iso-8859-8-e": "iso8859-8",
    "logical": "iso8859-8",
    "visual": "iso8859-8",
    "sun_eu_greek": "iso8859-7",
    "koi": "koi8-r",
    "koi8": "koi8-r",
    "koi8-ru": "koi8-u",
    "x-mac-cyrillic": "mac-cyrillic",
    "x-mac-ukrainian": "mac-cyrillic",
    "x-mac-roman": "mac-roman",
}
_WINDOWS = re.compile(r"(?:x-|win(?:dows)?-?|cp-?|x-cp)(125[0-8])")
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
_MULTI_BYTE = {"gb18030", "big5hkscs", "cp932", "cp949", "euc_jp", "iso2022_jp", "hz"}
_SINGLE_BYTE = {
    *(f"cp{n}" for n in (866, 874, 1250, 1251, 1252, 1253, 1254, 1255, 1256, 1257, 1258)),
    *(f"iso8859-{n}" for n in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16)),
    *("koi8-r", "koi8-u", "mac-roman", "mac-cyrillic"),
}


def find_codec(label: str | None) -> str | None:
    """Return the name of the Python codec that browsers use for a charset label; None for an unknown label."""
    if not label:
        return None
    label = label.strip().strip("\"'").lower()
    if windows := _WINDOWS.fullmatch(label):
        return f"cp{windows[1]}"
    try:
        name = codecs.lookup(_LABELS.get(label, label)).name
    except (LookupError, ValueError):
        return None
    name = _SUPERSETS.get(name, name)
    return name if name in _MULTI_BYTE or name in _SINGLE_BYTE or name == "utf-8" else None


def find_declared_charset(data: bytes) -> str | None:
    """Return the charset label that the page itself declares (meta, XML declaration), if any."""
    head = _COMMENT.sub(b"", data[:_MAX_DECLARATION_OFFSET])
    found = _XML.search(head) or _META.search(head)
    return found[1].decode("ascii") if found else None


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
        for pattern, codec in _UTF16:
            if pattern.match(data):
                return _transcode(data, codec), codec
    declared = [codec for label in (header_charset, find_declared_charset(data)) if (codec := find_codec(label))]
    is_valid = _is_valid_utf8(data)
    is_utf8 = is_valid or _is_nearly_utf8(data, "utf-8" in declared)
    if is_utf8 and not _MULTI_BYTE.intersection(declared):
        return (data if is_valid else _transcode(data, "utf-8")), "utf-8"
    codecs_to_try: list[str] = list(dict.fromkeys([*declared, *(["utf-8"] if is_utf8 or not declared else [])]))
    if codecs_to_try == ["utf-8"] and not is_utf8:
        codecs_to_try.append(_detect_codec(data))
    texts = [(_transcode(data, codec), codec) for codec in codecs_to_try]
    return min(texts, key=lambda text: text[0].count("\ufffd".encode()))


def _transcode(data: bytes, codec: str) -> bytes:
    """Return the data as UTF-8; valid UTF-8 is not copied."""
    if codec == "utf-8":
        return data if _is_valid_utf8(data) else data.decode(errors="replace").encode()
    return data.decode(codec, "replace").encode(errors="replace")


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
    """Whether the bytes are UTF-8 except for a few errors among many characters, or a truncated last character."""
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
    language = _LANGUAGE.search(data[:_MAX_DECLARATION_OFFSET])
    usual = _LEGACY.get(language[1].decode().lower(), ()) if language else ()
    usable = [codec for codec in usual if _can_decode(sample, codec)]
    if len(usable) == 1:
        return usable[0]
    best = from_bytes(sample, cp_isolation=usable or None).best()
    if best is None or "cp1252" in best.could_be_from_charset:  # cp1252 decodes the sample to the same text
        return usable[0] if usable else "cp1252"
    return find_codec(best.encoding) or "cp1252"


def _can_decode(data: bytes, codec: str) -> bool:
    """Whether the codec has a character for all bytes, except for a truncated last character."""
    try:
        codecs.getincrementaldecoder(codec)().decode(data)
    except UnicodeDecodeError:
        return False
    return True
