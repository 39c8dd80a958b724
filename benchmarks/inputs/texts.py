"""Read real texts with known languages for benchmarks/language.py.

From PyPI: names of emoji (emoji), of countries and languages (babel), messages of a program (django).
"""

import random
import re
from collections import defaultdict
from pathlib import Path

from dataops.language.profiles import profile_names

_CODES = {
    "zh": "zh-cn",
    "zh-hans": "zh-cn",
    "zh-hant": "zh-tw",
    "nb": "no",
    "fil": "tl",
    "pt-br": "pt",
    "pt-pt": "pt",
}


def emoji_names():
    """Yield names of emoji in 14 languages."""
    import emoji

    emoji.config.load_language()
    for names in emoji.EMOJI_DATA.values():
        for code, name in names.items():
            if isinstance(name, str):
                yield code, name.strip(":").replace("_", " ")


def cldr_names():
    """Yield names of territories and languages, in the language of each profile."""
    from babel import Locale

    for code in [*(name for name in profile_names() if name not in ("no", "tl", "zh-cn", "zh-tw")), "nb", "fil"]:
        yield from _names(code, Locale.parse(code))
    yield from _names("zh", Locale.parse("zh_Hans"))
    yield from _names("zh-hant", Locale.parse("zh_Hant"))


def _names(code, locale):
    return ((code, str(name)) for name in [*locale.territories.values(), *locale.languages.values()])


def django_messages():
    """Yield Django's messages to the users of a site."""
    import django
    from babel.messages.mofile import read_mo

    for path in sorted(Path(django.__file__).parent.glob("**/locale/*/LC_MESSAGES/django.mo")):
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


def _singular(text):
    return text if isinstance(text, str) else text[0]


SOURCES = {
    "emoji names": emoji_names,
    "country names": cldr_names,
    "program messages": django_messages,
}


def read_sets():
    """Return the texts of each source."""
    return {name: _normalise(read()) for name, read in SOURCES.items()}


def sample_texts(labelled, size):
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


def _normalise(labelled):
    """Return the distinct texts with letters in a language of langdetect, under its name for the language."""
    names, found = profile_names(), set()
    for code, text in labelled:
        language = code.lower().replace("_", "-")
        language = _CODES.get(language, language)
        text = " ".join(text.split())
        if language in names and any(map(str.isalpha, text)) and not _MARKUP.search(text):
            found.add((language, text))
    return sorted(found)
