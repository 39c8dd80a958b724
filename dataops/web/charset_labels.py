"""Finds the encoding that a page or its response declares: labels, `<meta>`, the XML declaration."""

import codecs
import re
from collections.abc import Iterator

import webencodings

MAX_DECLARATION_OFFSET = 4096
"""Bytes of a page that are searched for declarations. The HTML Standard requires the first 1,024; many declare later."""

REPLACEMENT = "replacement"
"""The encoding of labels whose pages browsers do not decode: the whole page is one U+FFFD."""

MULTI_BYTE = frozenset(("gb18030", "big5hkscs", "cp932", "cp949", "euc_jp", "iso2022_jp", "iso2022_kr", "hz"))
"""Codecs in which ASCII bytes are also parts of characters, or whose text may be valid UTF-8."""

# The nearest Python codecs of the Standard's encodings; dataops.web.decoders has the differences. The others have the
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
    """Return the name of the codec (dataops.web.decoders) that browsers use for a charset label; None if it is unknown."""
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
