"""Converts pages to UTF-8 by byte-order mark, declared encodings, or detection.

Text is decoded by the tables of the Encoding Standard, which maps more characters than Python's codecs.
Source: the Encoding Standard (encoding.spec.whatwg.org), sections 9 to 14. The differences were found by comparing all
bytes and all pairs of bytes with the Standard's indexes.
"""

import codecs
import re
import struct
from collections.abc import Iterator
from functools import lru_cache

import pyarrow as pa
import webencodings
from charset_normalizer import from_bytes

MAX_REPAIRED = 100_000
"""Maximum number of undecodable places for which the tables below are searched. Text with more is not in its encoding."""

UNDECODED = re.compile("[\x80-\x84\x86-\x9f\ufffd]")
"""Matches what `decode` returns for bytes without a character: U+FFFD, and C1 controls except U+0085 (a line end)."""

# Runs of consecutive pairs of bytes that Python's big5hkscs lacks: the first pair, then the characters.
_BIG5_RUNS = (
    "877A㡵𡵓𣚞𦀡㻬 87A1𥣞㫵竼龗𤅡𨤍𣇪𠪊𣉞䌊蒄龖鐯䤰蘓墖靊鈘秐稲晠権袝瑌篅枂稬剏遆㓦珄𥶹瓆鿇垳䤯呌䄱𣚎堘穲𧭥讏䚮𦺈䆁𥶙箮"
    "𢒼鿈𢓁𢓉𢓌鿉蔄𣖻䂴鿊䓡𪷿拁灮鿋 8E69箸 8E6F簆 8E7E糎 8EAB緒 8EB4縝 8ECD者 8ED0耨 8F57菁 8F69蒨 8F6E萏 8FCB覦覩 8FFE起 "
    "906D都 907A銹 90DC靜 90F1響 91BF鼖 9244蔃 92AF兙兛兝兞 92C8鍮 92D1瑹 9447浧 94CA禛 95D9邗 9644靝 96ED瀞 96FC嬨 9B76爁 "
    "9B78矗 9B7B纇 9BC6駖 9BDE釔 9BEC惞 9BF6澶 9C42輶 9C53侻 9C62營 9C68鄄 9C6B鷰 9C77菏 9CBC尐秣 9CD0婧 9D57輋 9D5A筑 "
    "9DC4拐 9EA9恢 9EEF痹 9EFD汊 9F60鬮 9F66鼗 9FCB僭 9FD8弌 A063蠏 A077拎 A0D5瑨 A0DF煢 A0E4牐 "
    "A3C0␀␁␂␃␄␅␆␇␈␉␊␋␌␍␎␏␐␑␒␓␔␕␖␗␘␙␚␛␜␝␞␟␡€ C6CF廴 C6D3无 C6D5癶 C6D7隶 C6DE〃仝 FA5F倩 FA66偽 FABD包 FAC5卄 FAD5卿 "
    "FB48嘅 FBB8婷 FBF3幵 FBF9廐 FC4F彘 FC6C悤 FCB9撐 FCE2晴 FCF1杞 FDB7沜渝 FDBB港 FDF1煮 FE52猪 FE6F瑜 FEAA瓩 FEDD砉"
)
# The characters of Python's codecs that the Standard maps to others, and that no other bytes give. (A241 and A242 of Big5
# stay full-width slashes, as A1FE and A240; in the Standard they are small.)
_REPLACED = {
    "big5hkscs": {"•､‾∼♁☉¥¢£": "‧﹑¯～⊕⊙￥￠￡"},
    "euc_jp": {"〜‖−¢£¬": "～∥－￠￡￢"},
    "gb18030": {
        "\ue5e5\ue78d\ue78e\ue78f\ue790\ue791\ue792\ue793\ue794\ue795\ue796\ue7c7": "\u3000︐︒︑︓︔︕︖︗︘︙ḿ",
        "\ue81e\ue826\ue82b\ue82c\ue832\ue843\ue854\ue864": "龴龵龶龷龸龹龺龻",
    },
}
_TRANSLATIONS = {
    codec: str.maketrans("".join(replaced), "".join(replaced.values())) for codec, replaced in _REPLACED.items()
}
_ADDED = {"cp1255": {0xCA: "\u05ba"}, "koi8-u": {0xAE: "ў", 0xBE: "Ў"}}
_SINGLE_BYTE = frozenset(("koi8-u", "cp874", *(f"cp{n}" for n in range(1250, 1259))))
_ISO2022_JP = re.compile(rb"\x1b(\([BJI]|\$[@B])")
_HIGH = bytes(byte | 0x80 if 0x21 <= byte <= 0x7E else byte for byte in range(256))
_ROMAN = str.maketrans("\\~", "¥‾")


def decode(data: bytes, codec: str) -> str:
    """Return the text of bytes in the Standard's encoding that `codec` is the nearest Python codec of.

    Undecodable bytes become U+FFFD or, in windows code pages, the control character of their value.
    """
    if codec == "iso2022_jp":
        return _decode_iso2022_jp(data)
    if codec == "x-user-defined":
        return data.decode("latin-1").translate({byte: 0xF700 + byte for byte in range(0x80, 0x100)})
    if codec in _SINGLE_BYTE:
        return codecs.charmap_decode(data, "replace", _character_table(codec))[0]  # pyright: ignore[reportArgumentType]
    if codec == "euc_jp":
        data = data.replace(b"\x8f\xa2\xb7", b"\xa1\xc1")  # a wide tilde, for which Python has an ASCII one
    text = data.decode(codec, "replace")
    if codec in _REPAIRS and 0 < text.count("\ufffd") <= MAX_REPAIRED:
        text = data.decode(codec, f"pairmill-{codec}")
    return text.translate(_TRANSLATIONS[codec]) if codec in _TRANSLATIONS else text


@lru_cache(maxsize=len(_SINGLE_BYTE))
def _character_table(codec: str) -> str:
    """Return the characters of the 256 bytes."""
    table = [bytes((byte,)).decode(codec, "replace") for byte in range(256)]
    holes = {byte: chr(byte) for byte in range(0x80, 0xA0) if table[byte] == "\ufffd"}
    for byte, character in (holes | _ADDED.get(codec, {})).items():
        table[byte] = character
    return "".join(table)


def _decode_iso2022_jp(data: bytes) -> str:
    """Decode each segment between escape sequences as ASCII, JIS-Roman, or EUC-JP with all bytes in its upper half."""
    first, *rest = _ISO2022_JP.split(data)
    texts = [first.decode("ascii", "replace")]
    for escape, segment in zip(rest[::2], rest[1::2], strict=True):
        if escape == b"(I":
            segment = segment.translate(_HIGH)
            texts.append("".join(chr(0xFEC0 + byte) if 0xA1 <= byte <= 0xDF else chr(byte) for byte in segment))
        elif escape[:1] == b"(":
            text = segment.decode("ascii", "replace")
            texts.append(text.translate(_ROMAN) if escape == b"(J" else text)
        else:
            texts.append(decode(segment.translate(_HIGH), "euc_jp"))
    return "".join(texts)


def _repair_euc_jp(error: UnicodeError) -> tuple[str, int]:
    """Decode the pair as Shift_JIS: EUC-JP has the same rows, and cp932 has the rows of NEC and IBM."""
    assert isinstance(error, UnicodeDecodeError)
    pair = error.object[error.start : error.start + 2]
    if len(pair) < 2 or not all(0xA1 <= byte <= 0xFE for byte in pair):
        return "\ufffd", error.end
    row, cell = pair[0] - 0xA1, pair[1] - 0xA1
    lead = row // 2 + (0x81 if row < 62 else 0xC1)
    trail = cell + (0x9F if row % 2 else 0x40 if cell < 63 else 0x41)
    character = bytes((lead, trail)).decode(
        "cp932", "replace"
    )  # of a pair without one, U+FFFD and perhaps its second byte
    return character if len(character) == 1 else "\ufffd", error.start + 2


def _repair_big5(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    character = _big5_added().get(error.object[error.start : error.start + 2])
    return (character, error.start + 2) if character else ("\ufffd", error.end)


@lru_cache(maxsize=1)
def _big5_added() -> dict[bytes, str]:
    added: dict[bytes, str] = {}
    for run in _BIG5_RUNS.split(" "):
        lead, first = bytes.fromhex(run[:4])
        for trail, character in enumerate(run[4:], first):
            added[bytes((lead, trail))] = character
    return added


def _repair_gb18030(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return ("€", error.start + 1) if error.object[error.start] == 0x80 else ("\ufffd", error.end)


_REPAIRS = {"euc_jp": _repair_euc_jp, "big5hkscs": _repair_big5, "gb18030": _repair_gb18030}
for _codec, _repair in _REPAIRS.items():
    codecs.register_error(f"pairmill-{_codec}", _repair)


MAX_DECLARATION_OFFSET = 4096
"""Bytes of a page that are searched for declarations. The HTML Standard requires the first 1,024; many declare later."""

REPLACEMENT = "replacement"
"""The encoding of labels whose pages browsers do not decode: the whole page is one U+FFFD."""

MULTI_BYTE = frozenset(("gb18030", "big5hkscs", "cp932", "cp949", "euc_jp", "iso2022_jp", "iso2022_kr", "hz"))
"""Codecs in which ASCII bytes are also parts of characters, or whose text may be valid UTF-8."""

# The nearest Python codecs of the Standard's encodings; dataops.web.charsets has the differences. The others have the
# Standard's names.
_CODECS = {
    "big5": "big5hkscs",
    "euc-kr": "cp949",
    "gbk": "gb18030",
    "iso-8859-8-i": "iso8859-8",
    "macintosh": "mac-roman",
    "shift_jis": "cp932",
    "utf-16be": "utf-8",  # a page whose ASCII declaration could be read is not UTF-16
    "utf-16le": "utf-8",
    "windows-874": "cp874",
    "x-mac-cyrillic": "mac-cyrillic",
    "x-user-defined": "x-user-defined",
    REPLACEMENT: REPLACEMENT,
}
# Labels outside the Standard: common misspellings, and names that other programs use.
_LABELS = {
    "utf-8859-1": "utf-8",
    "uft-8": "utf-8",
    "utf": "utf-8",
    "windows-949": "euc-kr",
    "iso-8859-8-e": "iso-8859-8",
    "koi8": "koi8-r",
    "x-mac-roman": "macintosh",
    "hz": "hz-gb-2312",
}
# Python's codecs without a label of the Standard, as the encodings that browsers use for their names.
_PYTHON_CODECS = {
    **dict.fromkeys(("ascii", "iso8859-1"), "windows-1252"),
    "iso8859-9": "windows-1254",
    "iso8859-11": "windows-874",
    "iso8859-16": "iso-8859-16",
    "cp874": "windows-874",
    "mac-roman": "macintosh",
    "mac-cyrillic": "x-mac-cyrillic",
    **dict.fromkeys(("cp932", "shift_jis_2004", "shift_jisx0213"), "shift_jis"),
    **dict.fromkeys(("euc_jp", "euc_jis_2004", "euc_jisx0213"), "euc-jp"),
    **dict.fromkeys(("iso2022_jp", *(f"iso2022_jp_{kind}" for kind in ("1", "2", "2004", "3", "ext"))), "iso-2022-jp"),
    **dict.fromkeys(("cp949", "euc_kr", "johab"), "euc-kr"),
    **dict.fromkeys(("cp950", "big5hkscs"), "big5"),
    "utf-16-le": "utf-16le",
    "utf-16-be": "utf-16be",
}
# The Standard replaces pages with these labels, because their scripts may attack. Nothing here runs scripts, and old
# archives have such pages.
_OLD_CODECS = {"hz-gb-2312": "hz", "hz": "hz", "iso-2022-kr": "iso2022_kr", "csiso2022kr": "iso2022_kr"}
_WINDOWS = re.compile(r"(?:x-|win(?:dows)?-?|cp-?|x-cp)(125[0-8])")
_SPACE = "\t\n\f\r "
# Matches a comment, a declaration, a script or style with its content, or a tag with its attributes; the groups are the
# name of a <meta> and the attributes. Quotes count only after "=".
_TAG = re.compile(
    rb"""<(?:!--(?:[^>]++|(?<!--)>)*+|[!?][^>]*+|(?:script|style)(?=[\s/>])(?:[^<]++|<(?!/s))*+"""
    rb"""|(?:(meta)(?=[\s/])|/?[a-z])((?:[^>=]++|=\s*+(?:"[^"]*+"|'[^']*+'|[^\s>]*+))*+))""",
    re.IGNORECASE,
)
_ATTRIBUTE = re.compile(rb"""([^\s/>=]++)\s*+(?:=\s*+(?:"([^"]*+)"|'([^']*+)'|([^\s>]*+)))?+""")
_CONTENT = re.compile(rb"""charset\s*+=\s*+(?:"([^"]*+)"|'([^']*+)'|([^\s;"']++))""", re.IGNORECASE)
_XML = re.compile(rb"""\A\s*+<\?xml\b[^>]{0,256}?encoding\s*+=\s*+["']([a-zA-Z0-9_.:-]{2,40})""", re.IGNORECASE)


def find_encoding(label: str) -> str | None:
    """Return the name in lower case of the Encoding Standard's encoding for a label; None for an unknown label.

    Some labels outside the Standard are known too: common misspellings, and the names of Python's codecs.
    """
    label = _normalise(label)
    if found := webencodings.lookup(_LABELS.get(label, label)):
        return found.name
    if windows := _WINDOWS.fullmatch(label):
        return f"windows-{windows[1]}"
    try:
        name = codecs.lookup(label).name
    except (LookupError, ValueError):
        return None
    known = webencodings.lookup(_PYTHON_CODECS.get(name, name))
    return known.name if known else None


def find_codec(label: str | None) -> str | None:
    """Return the name of the codec (dataops.web.charsets) that browsers use for a charset label; None if it is unknown."""
    encoding = find_encoding(label) if label else None
    if not label or encoding is None:
        return None
    if encoding == REPLACEMENT:
        return _OLD_CODECS.get(_normalise(label), REPLACEMENT)
    return _CODECS.get(encoding) or codecs.lookup(encoding).name


def find_declared_charset(data: bytes) -> str | None:
    """Return the first charset label with a known encoding that the page declares: in a meta, else in the XML declaration.

    Source: the HTML Standard, section 13.2.3.2 (prescan a byte stream to determine its encoding).
    """
    head = data[:MAX_DECLARATION_OFFSET]
    for label in _declared_labels(head):
        if codec := find_codec(label):
            return "windows-1252" if codec == "x-user-defined" else label
    return None


def _normalise(label: str) -> str:
    """Return a label in lower case, without surrounding ASCII white space and quotes; '' if it is not ASCII."""
    return label.strip(_SPACE).strip("\"'" + _SPACE).lower() if label.isascii() else ""


def _declared_labels(head: bytes) -> Iterator[str]:
    for tag in _TAG.finditer(head):
        if tag[1] and b"charset" in tag[2].lower() and (tag.end() < len(head) or len(head) < MAX_DECLARATION_OFFSET):
            yield from _labels_of_meta(tag[2])
    if found := _XML.match(head):
        yield found[1].decode("ascii")


def _labels_of_meta(text: bytes) -> Iterator[str]:
    attributes: dict[bytes, bytes] = {}
    for name, *values in _ATTRIBUTE.findall(text):
        attributes.setdefault(name.lower(), b"".join(values))
    if b"charset" in attributes:
        yield attributes[b"charset"].decode("latin-1")
    elif attributes.get(b"http-equiv", b"").lower() == b"content-type" and (
        found := _CONTENT.search(attributes.get(b"content", b""))
    ):
        yield b"".join(filter(None, found.groups())).decode("latin-1")


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
_UNDECODED = re.compile(rb"\xef\xbf\xbd|\xc2[\x80-\x84\x86-\x9f]")  # UNDECODED in UTF-8
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

    The codec is chosen in this order: by byte-order mark; by the byte pattern of UTF-16; by the
    declared encodings (HTTP header, then the page) and UTF-8; by detection if no usable encoding is
    declared. Text that is valid UTF-8 is decoded as UTF-8 even if a single-byte encoding is
    declared, because those accept any bytes. If several codecs remain, the one with the fewest
    undecodable bytes is used.
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

    The legacy codecs of the page's declared language come first, if they can decode the text.
    Without evidence for another codec the result is windows-1252, as in browsers.
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
