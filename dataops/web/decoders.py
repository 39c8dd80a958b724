"""Decodes text by the tables of the Encoding Standard, which maps more characters than Python's codecs.

Source: the Encoding Standard (encoding.spec.whatwg.org), sections 9 to 14. The differences were found by comparing all
bytes and all pairs of bytes with the Standard's indexes.
"""

import codecs
import re
from functools import lru_cache

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
    return bytes((lead, trail)).decode("cp932", "replace"), error.start + 2


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
