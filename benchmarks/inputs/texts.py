"""Read real texts with known languages for benchmarks/language.py.

From PyPI: names of emoji (emoji), of countries and languages (babel), messages of a program (django). Sources that are not
installed are skipped.
"""

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from dataops.language.profiles import profile_names

Labelled = list[tuple[str, str]]
"""Pairs (language, text)."""

_CODES = {
    "zh": "zh-cn",
    "zh-hans": "zh-cn",
    "zh-hant": "zh-tw",
    "nb": "no",
    "fil": "tl",
    "pt-br": "pt",
    "pt-pt": "pt",
}


class MissingSource(Exception):
    """A source is not installed; the message is the command that installs it."""


def emoji_names() -> Iterator[tuple[str, str]]:
    """Yield names of emoji in 14 languages."""
    import emoji

    emoji.config.load_language()
    for names in emoji.EMOJI_DATA.values():
        for code, name in names.items():
            if isinstance(name, str):
                yield code, name.strip(":").replace("_", " ")


def cldr_names() -> Iterator[tuple[str, str]]:
    """Yield names of territories and languages, in the language of each profile."""
    _require("babel", "pip install babel")
    from babel import Locale

    for code in [*(name for name in profile_names() if name not in ("no", "tl", "zh-cn", "zh-tw")), "nb", "fil"]:
        yield from _names(code, Locale.parse(code))
    yield from _names("zh", Locale.parse("zh_Hans"))
    yield from _names("zh-hant", Locale.parse("zh_Hant"))


def _names(code: str, locale) -> Iterator[tuple[str, str]]:
    return ((code, str(name)) for name in [*locale.territories.values(), *locale.languages.values()])


def django_messages() -> Iterator[tuple[str, str]]:
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


SOURCES = {
    "emoji names": emoji_names,
    "country names": cldr_names,
    "program messages": django_messages,
}


def read_sets() -> tuple[dict[str, Labelled], dict[str, str]]:
    """Return the texts of each installed source, and the commands that install the others."""
    sets, missing = {}, {}
    for name, read in SOURCES.items():
        try:
            sets[name] = _normalise(read())
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
