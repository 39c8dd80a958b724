"""Text from the bytes of a page: byte-order mark, declared encodings, then what the bytes themselves say."""

import codecs
import re

from charset_normalizer import from_bytes

_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_META = re.compile(rb"""<meta\b[^>]{0,1024}?charset\s*=\s*["']?\s*([a-zA-Z0-9_.:-]{2,40})""", re.IGNORECASE)
_XML = re.compile(rb"""\A\s*<\?xml\b[^>]{0,256}?encoding\s*=\s*["']([a-zA-Z0-9_.:-]{2,40})""", re.IGNORECASE)
_COMMENT = re.compile(rb"<!--.*?-->", re.DOTALL)
_DECLARED_WITHIN = 4096  # the HTML Standard asks for the first 1,024 bytes; many pages are later
_SAMPLE = 1 << 16
_ERRORS_ALLOWED = 4  # one unreadable sequence for so many readable ones: two encodings, or a cut, in a UTF-8 page

# What browsers read under these labels. Source: the Encoding Standard (encoding.spec.whatwg.org), section 4.2.
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
_MULTI_BYTE = {"gb18030", "big5hkscs", "cp932", "cp949", "euc_jp", "iso2022_jp", "hz"}
_SINGLE_BYTE = {
    *(f"cp{n}" for n in (866, 874, 1250, 1251, 1252, 1253, 1254, 1255, 1256, 1257, 1258)),
    *(f"iso8859-{n}" for n in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16)),
    *("koi8-r", "koi8-u", "mac-roman", "mac-cyrillic"),
}


def codec_of(label: str | None) -> str | None:
    """Name of the Python codec that browsers' reading of a charset label asks for, or None where it names none."""
    if not label:
        return None
    try:
        name = codecs.lookup(label.strip().strip("\"'").lower()).name
    except (LookupError, ValueError):
        return None
    name = _SUPERSETS.get(name, name)
    return name if name in _MULTI_BYTE or name in _SINGLE_BYTE or name == "utf-8" else None


def declared_in(data: bytes) -> str | None:
    """The charset label that the page's own bytes declare (meta, XML declaration), if any."""
    head = _COMMENT.sub(b"", data[:_DECLARED_WITHIN])
    found = _XML.search(head) or _META.search(head)
    return found[1].decode("ascii") if found else None


def decode_page(data: bytes, header_charset: str | None) -> tuple[str, str]:
    """The text of a page and the codec it was read with; bytes that fit no reading become U+FFFD.

    Order: byte-order mark; the declared encodings (HTTP header, then the page) and UTF-8, as the bytes allow: text that
    reads as UTF-8 is UTF-8 whatever single-byte encoding is declared, because those would accept anything, and of
    several readings the one with the fewest unreadable bytes wins; with nothing usable declared, detection.
    """
    for mark, codec in _BOMS:
        if data.startswith(mark):
            return data[len(mark) :].decode(codec, "replace"), codec
    declared = [codec for label in (header_charset, declared_in(data)) if (codec := codec_of(label))]
    is_utf8 = _is_utf8(data, "utf-8" in declared)
    multi = [codec for codec in declared if codec in _MULTI_BYTE]
    if is_utf8 and not multi:
        return data.decode("utf-8", "replace"), "utf-8"
    readings: list[str] = list(dict.fromkeys([*declared, *(["utf-8"] if is_utf8 or not declared else [])]))
    if readings == ["utf-8"] and not is_utf8 and (guess := _detected(data)):
        readings.append(guess)
    texts = [(data.decode(codec, "replace"), codec) for codec in readings]
    return min(texts, key=lambda reading: reading[0].count("\ufffd"))


def _is_utf8(data: bytes, declared: bool) -> bool:
    """Whether the bytes are UTF-8: but for few errors among many characters, and for a character that the end cut."""
    text, read = codecs.utf_8_decode(data, "replace", False)
    bad = text.count("\ufffd")
    good = sum(not c.isascii() for c in text) - bad if not text.isascii() else 0
    return _ERRORS_ALLOWED * bad <= good and (read == len(data) or good > 0 or declared)


def _detected(data: bytes) -> str:
    """The likeliest codec of undeclared bytes: windows-1252, as in browsers, where nothing speaks for another."""
    best = from_bytes(data[:_SAMPLE]).best()
    return (codec_of(best.encoding) if best else None) or "cp1252"
