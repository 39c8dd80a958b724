import unicodedata

import pytest

from dataops.escaping import escape_controls, escape_markdown


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("plain – ünï 漢字\tand\nlines\r\n", "plain – ünï 漢字\tand\nlines\n"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("a\rb\x00\x7f\x9b", "a\\x0db\\x00\\x7f\\x9b"),
        ("gpj.\u202eexe\u2028\u200b", "gpj.\\u202eexe\\u2028\\u200b"),
        ("fr\u200dee \xad \u3164\u2800x\ufe0f", "fr\\u200dee \\xad \\u3164\\u2800x\\ufe0f"),
        ("hi\U000e0068\U000e0069", "hi\\U000e0068\\U000e0069"),
        ("می\u200cخواهم 👩\u200d👧 ❤\ufe0f\u200d🔥", "می\u200cخواهم 👩\u200d👧 ❤\ufe0f\u200d🔥"),
        ("1\ufe0f\u20e3", "1\ufe0f\u20e3"),
        (b"bad \xff name".decode("utf-8", "surrogateescape"), "bad \\udcff name"),
    ],
)
def test_visible_escapes_control_characters(text, safe):
    assert escape_controls(text) == safe
    safe.encode()


def test_no_format_character_stays_invisible():
    joiners = "\u200c\u200d"
    for code in range(0x110000):
        if unicodedata.category(chr(code)) in ("Cc", "Cf", "Zl", "Zp") and chr(code) not in f"\t\n{joiners}":
            assert escape_controls(f"a{chr(code)}b").isprintable(), hex(code)
            assert escape_controls(f"é{chr(code)}é").isprintable(), hex(code)


@pytest.mark.parametrize(
    "text",
    [
        *("[click](javascript:alert(1))", "![x](http://evil/p.png)", "<script>alert(1)</script>", "`code`", "**b**"),
        *("a | b", "# head", "http://evil.example/x", "www.evil.example", "~~x~~", "x\n\n# head", "&lt; \\"),
    ],
)
def test_markdown_renders_as_the_plain_text(text):
    from markdown_it import MarkdownIt

    page = MarkdownIt("gfm-like", {"linkify": False}).enable("table").render(f"| {escape_markdown(text)} |\n|:--|\n")
    for tag in ("<a", "<img", "<script", "<code", "<strong", "<h1", "<s>"):
        assert tag not in page
    assert page.count("<t") == 4  # table, thead, tr, th
