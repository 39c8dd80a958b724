"""Find what the records of a crawl hold of removed pairs: URLs in whatever spelling pages have them, images and captions.

A page writes a URL relative to itself, with HTML, JSON and percent escapes, within a srcset or a script. So all that may be
a reference is resolved as an extraction does it, and compared without any escapes. Short captions are left out: other pages
have them by chance, and the pages from which a pair was read are known (plugins/erasure/erase_records.py).
"""

import html
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from functools import partial
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from dataops.archives.http_body import BadBody, decode_body, split_response
from dataops.archives.warc import RecordFields
from dataops.web.charsets import convert_to_utf8
from dataops.web.urls import BadUrl, canonicalise_url
from plugins.erasure.text_search import TextSearch
from tasks.takedown.holders import What

ARCHIVE = ".warc.gz"
MAX_RECORD_BYTES, MAX_URL_CHARS = 1 << 30, 1 << 16
"""Maximum size of a record and of a page, decompressed; and of a URL in characters. No crawl stores larger ones."""
_ROUNDS = 5
"""How often escapes within escapes are undone: a URL in a parameter of another one, in a page within an attribute."""
_ASCII_ESCAPE = re.compile(r"\\u00([0-7][0-9A-Fa-f])")
_WORD, _TAG = re.compile(r"\w+"), re.compile(r"<[^<>]*>")
_BASE = re.compile(r"""<base\b[^<>]*?\bhref\s*=\s*["']?([^"'\s<>]+)""", re.IGNORECASE)
_REFERENCES = [
    re.compile(pattern)
    for pattern in (
        r'"([^"]*)(?=")',
        r"'([^']*)(?=')",
        r"url\(\s*([^\s\"'<>()]+)",
        r"=([^\s\"'<>`]+)",
        r"([^\s\"'<>`]+)",
        r"([^\s\"'<>`,;|=()\[\]{}\\]+)",
    )
]
"""What may be a reference: the whole of a string, of an attribute, of a word, and its parts, as in srcset and CSS."""
_OR_ALONE = r"|(?<![\w%~.@-])"
_URL_ENDS = r"(?![\w%/~+@-]|\.\w)"


class UrlSearch:
    """Searches texts and pages for URLs."""

    def __init__(self, urls: Iterable[str]):
        self._urls = {undo_escapes(url)[-1] for url in urls}
        self._by_word = defaultdict[str, set[str]](set)
        """URLs without escapes, by a word of their file name and query; "" for none: it may be referred to by `./`."""
        for url in self._urls:
            path, _, query = url.partition("?")
            words = _WORD.findall(f"{PurePosixPath(path[path.rfind('/') :]).stem} {query}")
            self._by_word[max(words, key=len, default="")].add(url)

    def is_in(self, text: str) -> bool:
        """Return whether a text is one of the URLs, or holds one."""
        plain = undo_escapes(text)[-1]
        return plain in self._urls or self._has_path(plain, self._find_words(plain), frozenset())

    def is_in_page(self, page: str, forms: Sequence[str]) -> bool:
        """Return whether a page refers to one of the URLs.

        Args:
            page: its URL.
            forms: what `undo_escapes` returns of it.
        """
        if not (words := self._find_words(f"{forms[-1]} {undo_escapes(page)[-1]}")):
            return False
        bases = [*_resolve([page], [page])]
        bases += _resolve([match for form in forms for match in _BASE.findall(form)], bases)
        if self._has_path(forms[-1], words, {undo_escapes(urlsplit(base).netloc)[-1] for base in bases}):
            return True
        references = (
            spelling
            for form in forms
            for pattern in _REFERENCES
            for reference in {*pattern.findall(form)}
            if len(reference) <= MAX_URL_CHARS
            if {"", reference[:1]} & {*words, "?"} or not words.isdisjoint(_WORD.findall(undo_escapes(reference)[-1]))
            for spelling in {reference, reference.rstrip(",;."), html.unescape(reference)}
        )
        return any(undo_escapes(url)[-1] in self._urls for url in _resolve(references, bases))

    def _find_words(self, text: str) -> Set[str]:
        """Return the words of a text without escapes by which it may refer to one of the URLs."""
        return {*_WORD.findall(text), ""} & self._by_word.keys()

    def _has_path(self, text: str, words: Set[str], hosts: Set[str]) -> bool:
        """Return whether a text without escapes has one of the URLs after any scheme, or the path of one of the hosts.

        So it is found within other URLs and in scripts too, also before a query or a fragment.
        """
        for word in words - {""}:
            for url in self._by_word[word]:
                host, slash, rest = url.partition("//")[2].partition("/")
                path = slash + rest
                before = f"(?://{re.escape(host)}{_OR_ALONE if host in hosts else ''})"
                if path in text and re.search(f"{before}{re.escape(path)}{_URL_ENDS}", text):
                    return True
        return False


class RecordSearch:
    """Searches records of a WARC file.

    Args:
        captions: long ones.
        images: as for TextSearch.
    """

    def __init__(self, urls: Iterable[str], captions: Iterable[str], images: Mapping[str, int]):
        self.urls, self._text = UrlSearch(urls), TextSearch(urls, captions, images)

    def find(self, head: bytes, block: bytes) -> set[What]:
        """Return the kinds of what a record holds.

        Args:
            head: its version line and WARC fields.
            block: its content: for a request or a response, with the HTTP head.
        """
        url = RecordFields(head).get("warc-target-uri").removeprefix("<").removesuffix(">")
        forms = undo_escapes(_read_text(block))
        plain = unicodedata.normalize("NFC", forms[-1])
        texts = [*forms, *(" ".join(_TAG.sub(gap, plain).split()) for gap in ("", " "))]
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        found: set[What] = {span.what for text in encoded for span in self._text.find(text)}
        if self.urls.is_in(url) or self.urls.is_in_page(url, forms):
            found.add("URL")
        return found


def undo_escapes(text: str) -> list[str]:
    """Return a text, and what each further removal of the escapes of HTML, JSON or URLs leaves; the last has none."""
    forms = [text]
    for _ in range(_ROUNDS):
        before = len(forms)
        for undo in (html.unescape, _undo_json, partial(unquote, errors="replace")):
            if (plain := undo(forms[-1])) != forms[-1]:
                forms.append(plain)
        if len(forms) == before:
            break
    return forms


def _undo_json(text: str) -> str:
    return _ASCII_ESCAPE.sub(lambda found: chr(int(found[1], 16)), text.replace("\\/", "/")) if "\\" in text else text


def _read_text(block: bytes) -> str:
    """Return the content of a record, without the codings of an HTTP response."""
    try:
        head, body = split_response(block)
        fields = block[: len(block) - len(body)]
        text, _ = convert_to_utf8(decode_body(head, body, MAX_RECORD_BYTES), head.charset)
    except BadBody:
        fields, (text, _) = b"", convert_to_utf8(block, None)
    return fields.decode("utf-8", "replace") + text.decode("utf-8", "replace")


def _resolve(references: Iterable[str], bases: Iterable[str]) -> Iterator[str]:
    """Yield the canonical URL of each reference that has one, relative to each base."""
    bases = [*bases]
    for reference in references:
        for base in bases:
            with suppress(BadUrl):
                yield canonicalise_url(reference, base, MAX_URL_CHARS)
