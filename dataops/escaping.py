"""Text from the web made harmless for the place where it will stand: a terminal or log, Markdown.

HTML has html.escape; JSON, Parquet and SQL drivers escape by themselves.
"""

import re

# C0 but tab and line feed, DEL and C1 (escape sequences), line and paragraph separators, what turns or hides text
# (bidirectional controls, zero-width marks), and the surrogates that stand for undecodable bytes of a file name.
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff\ud800-\udfff]"
)
_MARKDOWN = re.compile(r"([\\`*_\[\]<>#|!~]|:(?=//)|(?<=www)\.)", re.IGNORECASE)  # the last two: bare addresses


def escape_controls(text: str) -> str:
    r"""Return the text with each control character spelt out (`\x1b`, `\u202e`); tabs and line ends stay."""
    return _CONTROL.sub(_spelt, text.replace("\r\n", "\n"))


def _spelt(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def escape_markdown(text: str) -> str:
    """Return one line that Markdown shows as it is: no link, picture, heading, table cell or HTML begins in it."""
    return _MARKDOWN.sub(r"\\\1", " ".join(escape_controls(text).split()))
