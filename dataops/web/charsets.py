"""Text from the bytes of a page: byte-order mark, declared encodings, then what the bytes themselves say."""

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
_DECLARED_WITHIN = 4096  # the HTML Standard asks for the first 1,024 bytes; many pages are later
_LOOKED_AT = 1 << 20  # bytes from which the detector's sample is taken
_SAMPLE = 1 << 13  # bytes of text with non-ASCII characters that the detector sees
_ERRORS_ALLOWED = 4  # one unreadable sequence for so many readable ones: two encodings, or a cut, in a UTF-8 page
_MARKUP = re.compile(rb"[<>]")
_OFFSETS = struct.Struct("=2q")

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
# Labels of the same table that Python has no codec by, and some that the Web spells wrongly.
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
# What pages in a language were written with before UTF-8. English is not here: templates claim it of anything.
# Source: the HTML Standard, section 13.2.3.2 (suggested default encodings by locale), and their rivals of the time.
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
    """Name of the Python codec that browsers' reading of a charset label asks for, or None where it names none."""
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
    """The charset label that the page's own bytes declare (meta, XML declaration), if any."""
    head = _COMMENT.sub(b"", data[:_DECLARED_WITHIN])
    found = _XML.search(head) or _META.search(head)
    return found[1].decode("ascii") if found else None


def convert_to_utf8(data: bytes, header_charset: str | None) -> tuple[bytes, str]:
    """The page in valid UTF-8, and the codec that it was read with; bytes that fit no reading become U+FFFD.

    Order: byte-order mark; the shape of UTF-16; the declared encodings (HTTP header, then the page) and UTF-8, as the
    bytes allow: text that reads as UTF-8 is UTF-8 whatever single-byte encoding is declared, because those would accept
    anything, and of several readings the one with the fewest unreadable bytes wins; with nothing usable declared,
    detection.
    """
    for mark, codec in _BOMS:
        if data.startswith(mark):
            return _read(data[len(mark) :], codec), codec
    if b"\0" in data[:4]:
        for shape, codec in _UTF16:
            if shape.match(data):
                return _read(data, codec), codec
    declared = [codec for label in (header_charset, find_declared_charset(data)) if (codec := find_codec(label))]
    is_valid = _is_valid_utf8(data)
    is_utf8 = is_valid or _is_nearly_utf8(data, "utf-8" in declared)
    if is_utf8 and not _MULTI_BYTE.intersection(declared):
        return (data if is_valid else _read(data, "utf-8")), "utf-8"
    readings: list[str] = list(dict.fromkeys([*declared, *(["utf-8"] if is_utf8 or not declared else [])]))
    if readings == ["utf-8"] and not is_utf8 and (guess := _detected(data)):
        readings.append(guess)
    texts = [(_read(data, codec), codec) for codec in readings]
    return min(texts, key=lambda reading: reading[0].count("\ufffd".encode()))


def _read(data: bytes, codec: str) -> bytes:
    """The data as UTF-8. Data that is, is not copied."""
    if codec == "utf-8":
        return data if _is_valid_utf8(data) else data.decode(errors="replace").encode()
    return data.decode(codec, "replace").encode(errors="replace")


def _is_valid_utf8(data: bytes) -> bool:
    """By Arrow, which makes no text of it: five times as fast, and without up to four times the memory."""
    offsets = pa.py_buffer(_OFFSETS.pack(0, len(data)))
    text = pa.Array.from_buffers(pa.large_string(), 1, [None, offsets, pa.py_buffer(data)])
    try:
        text.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _is_nearly_utf8(data: bytes, declared: bool) -> bool:
    """Whether the bytes are UTF-8 but for few errors among many characters, and for a character that the end cut."""
    text, read = codecs.utf_8_decode(data, "replace", False)
    bad = text.count("\ufffd")
    good = len(text) - len(text.encode("ascii", "ignore")) - bad
    return _ERRORS_ALLOWED * bad <= good and (read == len(data) or good > 0 or declared)


def _detected(data: bytes) -> str:
    """The likeliest codec of undeclared bytes: of those that the page's declared language was written with, where they
    are known and can read it; else windows-1252, as in browsers, where nothing speaks for another.
    """
    telling = b"\n".join(piece for piece in _MARKUP.split(data[:_LOOKED_AT]) if not piece.isascii())[:_SAMPLE]
    language = _LANGUAGE.search(data[:_DECLARED_WITHIN])
    usual = _LEGACY.get(language[1].decode().lower(), ()) if language else ()
    usable = [codec for codec in usual if _reads(telling, codec)]
    if len(usable) == 1:
        return usable[0]
    best = from_bytes(telling, cp_isolation=usable or None).best()
    if best is None or "cp1252" in best.could_be_from_charset:  # others that read the sample alike
        return usable[0] if usable else "cp1252"
    return find_codec(best.encoding) or "cp1252"


def _reads(data: bytes, codec: str) -> bool:
    """Whether the codec has a character for all bytes, but for a character that the end cut."""
    try:
        codecs.getincrementaldecoder(codec)().decode(data)
    except UnicodeDecodeError:
        return False
    return True
