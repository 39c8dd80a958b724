"""Labels of encodings, and the declarations of pages, by the Encoding and HTML Standards."""

import codecs

import pytest
from webencodings.labels import LABELS

from dataops.web.charsets import MAX_DECLARATION_OFFSET, find_codec, find_declared_charset, find_encoding

# Labels of the Standard that are names of no Python codec, or of another one.


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
def test_find_declared_charset(html, label):
    assert find_declared_charset(html) == label
