"""Labels of encodings, and the declarations of pages, by the Encoding and HTML Standards."""

import codecs

import pytest
from webencodings.labels import LABELS

from dataops.web.charsets import MAX_DECLARATION_OFFSET, find_codec, find_declared_charset, find_encoding

# Labels of the Standard that are names of no Python codec, or of another one.
EXPECTED = {
    "iso88591": "cp1252", "latin1": "cp1252", "us-ascii": "cp1252", "iso-8859-1": "cp1252", "l5": "cp1254",
    "iso88599": "cp1254", "iso88592": "iso8859-2", "iso88598": "iso8859-8", "iso-8859-8-i": "iso8859-8",
    "csiso88598e": "iso8859-8", "logical": "iso8859-8", "visual": "iso8859-8", "iso-8859-6-e": "iso8859-6",
    "csiso88596i": "iso8859-6", "iso885915": "iso8859-15", "csisolatin9": "iso8859-15", "iso885911": "cp874",
    "tis-620": "cp874", "dos-874": "cp874", "mac": "mac-roman", "csmacintosh": "mac-roman", "x-mac-roman": "mac-roman",
    "x-mac-ukrainian": "mac-cyrillic", "cseuckr": "cp949", "ksc_5601": "cp949", "iso-ir-149": "cp949", "korean": "cp949",
    "ks_c_5601-1989": "cp949", "windows-949": "cp949", "cseucpkdfmtjapanese": "euc_jp", "x-euc-jp": "euc_jp",
    "ms932": "cp932", "windows-31j": "cp932", "sjis": "cp932", "csiso2022jp": "iso2022_jp", "gb2312": "gb18030",
    "chinese": "gb18030", "iso-ir-58": "gb18030", "big5-hkscs": "big5hkscs", "cn-big5": "big5hkscs", "koi": "koi8-r",
    "koi8-ru": "koi8-u", "866": "cp866", "unicode-1-1-utf-8": "utf-8", "ucs-2": "utf-8", "unicodefffe": "utf-8",
    "utf-16": "utf-8", "csunicode": "utf-8", "x-user-defined": "x-user-defined", "replacement": "replacement",
    "iso-2022-cn-ext": "replacement", "iso-2022-kr": "iso2022_kr", "hz-gb-2312": "hz", "uft-8": "utf-8",
    "win-1251": "cp1251", "cp-1250": "cp1250", "x-cp1252": "cp1252", "\"utf-8\"": "utf-8", "utf_8": "utf-8",
    "euc_jis_2004": "euc_jp", "cp950": "big5hkscs", "hz": "hz", "johab": "cp949",
    "bogus": None, "": None, "base64": None, "rot13": None, "cp037": None, "utf-7": None, "utf-8\0": None,
    "\u212aoi8-r": None, "x" * 10_000: None,
}  # fmt: skip


@pytest.mark.parametrize("label", EXPECTED)
def test_find_codec(label: str):
    assert find_codec(label) == EXPECTED[label]


def test_find_codec_has_all_labels_of_the_standard_in_any_case_and_between_spaces():
    assert (len(LABELS), len(set(LABELS.values()))) == (228, 40)
    for label, encoding in LABELS.items():
        assert find_encoding(f"\t\n\f\r {label.upper()} ") == encoding, label
        assert find_codec(label.title()) is not None, label
    with pytest.raises(LookupError):
        codecs.lookup("iso88592")  # so the table is necessary


@pytest.mark.parametrize(
    ("html", "label"),
    [
        (b'<meta charset="bogus"><meta charset="iso8859-2">', "iso8859-2"),
        (b'<meta charset=""><meta charset=iso88592>', "iso88592"),
        (b"<META CHARSET = 'KOI8-R' />", "KOI8-R"),
        (b"<meta/charset='koi8-r'/>", "koi8-r"),
        (b'<meta http-equiv="Content-Type" content="text/html; charset=bogus"><meta charset=koi8-r>', "koi8-r"),
        (b"<meta content=\"text/html; CHARSET = 'koi8-r'; x\" http-equiv=CONTENT-type>", "koi8-r"),
        (b'<meta http-equiv=content-type content="text/html;charset=koi8-r;x=y">', "koi8-r"),
        (b'<meta content="text/html; charset=koi8-r">', None),
        (b'<meta name="description" content="with charset=koi8-r"><meta charset="euc-jp">', "euc-jp"),
        (b'<meta charset="koi8-r" charset="euc-jp">', "koi8-r"),
        (b'<meta charset="x-user-defined">', "windows-1252"),
        (b'<!-- > <meta charset="koi8-r"> --><meta charset="euc-jp">', "euc-jp"),
        (b'<!--><meta charset="koi8-r">', "koi8-r"),
        (b'<!-- <meta charset="koi8-r">', None),
        (b'<div title=\'<meta charset="koi8-r">\'><meta charset="euc-jp">', "euc-jp"),
        (b"<p it's><script>x = '<meta charset=koi8-r>' + \"</p\" + '<a b=\"'</script><meta charset=euc-jp>", "euc-jp"),
        (b"<style>a{b:'<meta charset=koi8-r>'}</style><meta charset=euc-jp>", "euc-jp"),
        (b"<?php x ?><!doctype html><metal charset=koi8-r><meta charset=euc-jp>", "euc-jp"),
        (b'<?xml version="1.0" encoding="koi8-r"?><html>', "koi8-r"),
        (b'<?xml version="1.0" encoding="koi8-r"?><meta charset="euc-jp">', "euc-jp"),
        (b'<?xml version="1.0" encoding="koi8-r"?><meta charset="bogus">', "koi8-r"),
        (b" " * (MAX_DECLARATION_OFFSET - 17) + b"<meta charset=iso-8859-15>", None),  # not cut to iso-8859-1
        (b"<meta charset", None),
        (b"", None),
    ],
)
def test_find_declared_charset(html: bytes, label: str | None):
    assert find_declared_charset(html) == label


@pytest.mark.parametrize(
    "piece",
    [b"<", b"<!--", b"<meta ", b"<meta charset=", b"<meta x='", b"=\"", b"<a ='", b"<script>", b"<script><", b"-", b"<?"],
)  # fmt: skip
def test_find_declared_charset_ends_on_repeated_pieces(piece: bytes):
    assert find_declared_charset(piece * MAX_DECLARATION_OFFSET) is None
