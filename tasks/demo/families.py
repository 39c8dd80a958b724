"""Emoji that show one thing (its skin tones, genders, ages, directions, and what is drawn alike), and the split by them.

Only whole families make a held-out drawing unknown: the set has 104 pairs of people that hold hands.
"""

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

from tasks.demo.emoji_set import Emoji, all_wordings, fold_text, stable_hash

HELD_OUT_FRACTION = 0.2
"""Of the families."""
_JOINER = "\u200d"
_DROPPED = {
    code: None
    for code in (
        0xFE0F,  # variation selector
        *range(0x1F3FB, 0x1F400),  # skin tones
        *(0x2640, 0x2642),  # female, male sign
        0x27A1,  # rightwards arrow, of those that face right
        *range(0x1F9B0, 0x1F9B4),  # red, curly, white hair; bald
    )
}
_PERSON = {code: 0x1F9D1 for code in (0x1F466, 0x1F467, 0x1F468, 0x1F469, 0x1F474, 0x1F475, 0x1F9D2, 0x1F9D3)}
"""Boys, girls, men, women, the old and children stand where a person may."""
_SKIN_TONE = re.compile(r"\b(?:(?:medium-)?(?:light|dark)|medium) skin tone\b")
_VARIANT = re.compile(
    r"\b(?:man|woman|men|women|person|people|boys?|girls?|child|baby|older|prince|princess|with crown|mrs|mx|santa"
    r"|(?:red|curly|white|blond) hair|bald|beard|and"
    r"|left|right|up|down|(?:up|down|left|right)wards?|facing|pointing)\b",
    re.IGNORECASE,
)
"""Words of the English names that tell the members of one family apart."""


@dataclass(frozen=True)
class Split:
    """Emoji by what becomes of them; each family is in one part, but for its plainest."""

    published: tuple[Emoji, ...]
    """On the site."""
    held_out: tuple[Emoji, ...]
    """The plainest of each family that is held out: what the model is asked about, one drawing a thing."""
    withheld: tuple[Emoji, ...]
    """The others of these families: neither on the site nor asked about."""


def split_held_out(emojis: Sequence[Emoji], pictures: Mapping[str, str], seed: int) -> Split:
    """Hold out a fifth of the families whole, by hash of their plainest emoji and the seed.

    Wordings that belong to held-out families are then taken from the published emoji, in every language, and the reverse,
    so that no held-out name is on the site. The primary English name of an emoji always stays its own.

    Args:
        emojis: the set.
        pictures: `Emoji.text` to a digest of its rendered OpenMoji picture.
        seed: enters the hash.
    """
    found = find_families(emojis, pictures)
    ordered = sorted(found, key=lambda family: stable_hash(seed, "split", family[0].text))
    chosen = {one.text for family in ordered[: round(len(found) * HELD_OUT_FRACTION)] for one in family}
    plainest = {family[0].text for family in found}
    inside = [one for one in emojis if one.text not in chosen]
    outside = [one for one in emojis if one.text in chosen]
    theirs = all_wordings(outside)
    published = tuple(_without_wordings(one, theirs) for one in inside)
    theirs = all_wordings(published)
    held_out = [_without_wordings(one, theirs) for one in outside]
    asked = tuple(one for one in held_out if one.text in plainest)
    return Split(published, asked, tuple(one for one in held_out if one.text not in plainest))


def find_families(emojis: Sequence[Emoji], pictures: Mapping[str, str]) -> list[list[Emoji]]:
    """The emoji by families, in their order; the first of a family is its plainest: without skin tone, first in Unicode.

    Two belong together where their sequences are equal but for skin tone, gender, age, hair and direction, or their names
    are ("backhand index pointing left" and "... up" are two sequences), or their pictures (St. Martin's flag is France's).

    Args:
        pictures: `Emoji.text` to a digest of its rendered OpenMoji picture.
    """
    parent: dict[Hashable, Hashable] = {}

    def root(of: Hashable) -> Hashable:
        while parent.setdefault(of, of) != of:
            parent[of] = of = parent[parent[of]]
        return of

    for one in emojis:
        for shared in (
            ("sequence", plain_sequence(one.text)),
            ("name", plain_name(one.name)),
            ("picture", pictures[one.text]),
        ):
            parent[root(shared)] = root(one.text)
    found: dict[Hashable, list[Emoji]] = {}
    for one in emojis:
        found.setdefault(root(one.text), []).append(one)
    return [sorted(family, key=lambda one: one.toned) for family in found.values()]


def plain_sequence(text: str) -> str:
    """The characters of an emoji without those that make a variant of it; of a lone sign itself, if that is all."""
    parts = (part.translate(_DROPPED).translate(_PERSON) for part in text.split(_JOINER))
    return _JOINER.join(part for part in parts if part) or text


def plain_name(name: str) -> str:
    """What a name says without the words for variants: "woman running facing right dark skin tone" is `running`."""
    return " ".join(re.findall(r"[^\W_]+|[#*!]", _VARIANT.sub(" ", _SKIN_TONE.sub(" ", name))))


def _without_wordings(one: Emoji, taken: frozenset[str]) -> Emoji:
    return replace(
        one,
        wordings=tuple(text for text in one.wordings if fold_text(text) not in taken),
        names={code: text for code, text in one.names.items() if fold_text(text) not in taken},
    )
