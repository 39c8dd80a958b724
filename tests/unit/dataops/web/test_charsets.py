"""The encoding that a page is read in, from its byte-order mark, its response, itself, or detection."""

import pytest

from dataops.web.charsets import convert_to_utf8

JAPANESE = "株式会社 ㈱山田商店の新しい写真 ①番、№２ Ⅰ型と㍉とたくさんのことば"
# EUC-JP with the rows of NEC and IBM, which Python does not encode: Shift_JIS' pairs at their place in the 94 rows.


def euc_jp(text):
    """Return text in the Standard's EUC-JP."""
    encoded = bytearray()
    for character in text:
        pair = character.encode("cp932")
        if len(pair) == 2:
            lead, trail = pair
            row = 2 * (lead - (0x81 if lead < 0xA0 else 0xC1)) + (trail >= 0x9F)
            cell = trail - 0x9F if trail >= 0x9F else trail - 0x40 - (trail > 0x7F)
            pair = bytes((row + 0xA1, cell + 0xA1))
        encoded += pair
    return bytes(encoded)


@pytest.mark.parametrize(
    ("head", "header"),
    [
        ("", "EUC-JP"),
        ('<meta charset="euc-jp">', None),
        ('<meta charset="bogus"><meta charset="x-euc-jp">', None),
        ('<meta http-equiv="content-type" content="text/html;charset=x"><meta charset=cseucpkdfmtjapanese>', "none"),
        ('<html lang="ja">', None),
        ("", None),
    ],
)  # fmt: skip
def test_convert_to_utf8_reads_the_characters_of_nec_and_ibm(head, header):
    html, codec = convert_to_utf8(head.encode() + euc_jp(JAPANESE), header)
    assert (html.decode(), codec) == (head + JAPANESE, "euc_jp")


RUSSIAN = "Красный воздушный змей над холмом и рекой, старая деревня вдали"


@pytest.mark.parametrize(
    ("data", "header", "text"),
    [
        ("é".encode(), None, "é"),
        ("é".encode("utf-16"), None, "é"),
        (b"\xe9 caf\xe9", "iso-8859-1", "é café"),
        (b"\x93quoted\x94", "ISO-8859-1", "“quoted”"),  # windows-1252, as browsers read it
        ("naïve café".encode(), "iso-8859-1", "naïve café"),  # a wrong header
        (RUSSIAN.encode("cp1251"), "windows-1251", RUSSIAN),
        (b'<meta charset="koi8-r">' + RUSSIAN.encode("koi8-r"), None, '<meta charset="koi8-r">' + RUSSIAN),
        ("联通".encode("gbk"), "gb2312", "联通"),  # accidentally valid UTF-8
        ("<!-- <meta charset=koi8-r> -->é".encode("cp1252"), "windows-1252", "<!-- <meta charset=koi8-r> -->é"),
        ('<meta charset="utf-16">é'.encode(), None, '<meta charset="utf-16">é'),
        (b"\xe9", "base64", "é"),
        (b"a\xe2\x82", "utf-8", "a\ufffd"),  # truncated within a character
        ((RUSSIAN * 5).encode("cp1251"), None, RUSSIAN * 5),  # detected
        (b"", None, ""),
        ("\ufeffé".encode(), "koi8-r", "é"),
        (b'\xff\xfe<\0m\0e\0t\0a\0 \0c\0h\0a\0r\0s\0e\0t\0=\0b\0i\0g\x005\0>\0', "big5", "<meta charset=big5>"),
        (b'<meta charset="koi8-r">\xe9', "windows-1251", '<meta charset="koi8-r">й'),  # the header is first
        (b'<meta charset="bogus"><meta charset="l2">\xb1', None, '<meta charset="bogus"><meta charset="l2">ą'),
        (b'<meta charset="iso88592">\xb1', "bogus", '<meta charset="iso88592">ą'),
        (b"ab\xe9\xa1", "iso88592", "abéĄ"),
        ("text é <b>".encode("utf-16-le"), "utf-16", "text é <b>"),
        ("text é <b>".encode("utf-16-be"), "UNICODEFFFE", "text é <b>"),
        ("é".encode(), "utf-16", "é"),
        (b"<img>", "iso-2022-cn", "\ufffd"),
        ("汉字".encode("hz"), "hz-gb-2312", "汉字"),
        ("한글".encode("iso2022_kr"), "iso-2022-kr", "한글"),
        (b"caf\xe9\x81", "latin1", "café\x81"),
        (b'<meta charset="shift_jis">' + "赤い凧ぐ".encode("cp932"), "iso-8859-1", '<meta charset="shift_jis">赤い凧ぐ'),
    ],
)  # fmt: skip
def test_convert_to_utf8(data, header, text):
    assert convert_to_utf8(data, header)[0].decode() == text
