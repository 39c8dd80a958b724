"""Text from the web made harmless for the place where it will stand: a terminal or log, Markdown.

HTML has html.escape; JSON, Parquet and SQL drivers escape by themselves.
"""

import re

# C0 but tab and line feed, DEL and C1 (escape sequences), line and paragraph separators, the surrogates that stand for
# undecodable bytes of a file name, and what turns or hides text: the format characters and those that Unicode's
# Default_Ignorable_Code_Point says are not displayed, blank letters among them. Joiners (U+200C, U+200D) and variation
# selectors stay where scripts and emoji need them: behind a character beyond ASCII.
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5"
    "\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164\ud800-\udfff\ufe00-\ufe0d\ufeff\uffa0\ufff0-\ufffb"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
    "|(?<![\x80-\u200b\u200e-\ufe0d\ufe0f-\U0010ffff])[\u200c\u200d]"
    "|(?<![\x80-\u200b\u200e-\ufe0d\ufe10-\U0010ffff])[\ufe0e\ufe0f](?!\u20e3)"
)
_MARKDOWN = re.compile(r"([\\`*_\[\]<>#|!~]|:(?=//)|(?<=www)\.)", re.IGNORECASE)  # the last two: bare addresses


def escape_controls(text: str) -> str:
    r"""Return the text with each control character spelt out (`\x1b`, `\u202e`); tabs and line ends stay."""
    return _CONTROL.sub(_spelt, text.replace("\r\n", "\n"))


def _spelt(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def escape_markdown(text: str) -> str:
    """Return one line that Markdown shows as it is: no link, picture, heading, table cell or HTML begins in it."""
    return _MARKDOWN.sub(r"\\\1", " ".join(escape_controls(text).split()))
