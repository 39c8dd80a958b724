"""Group emoji into families, and hold out whole families for evaluation.

A family shows one thing in different skin tones, genders, ages and directions, or with equal drawings. A held-out image
is unknown to the model only if its whole family is held out: the set has 104 pairs of people that hold hands.
"""

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

from plugins.demo.emoji_set import Emoji, all_wordings, fold_text, stable_hash

HELD_OUT_FRACTION = 0.2
"""Share of the families that is held out."""
_JOINER = "\u200d"
_DROPPED = {
    code: None
    for code in (
        0xFE0F,  # variation selector
        *range(0x1F3FB, 0x1F400),  # skin tones
        *(0x2640, 0x2642),  # female, male sign
        0x27A1,  # rightwards arrow, of emoji that face right
        *range(0x1F9B0, 0x1F9B4),  # red, curly, white hair; bald
    )
}
_PERSON = {code: 0x1F9D1 for code in (0x1F466, 0x1F467, 0x1F468, 0x1F469, 0x1F474, 0x1F475, 0x1F9D2, 0x1F9D3)}
"""Boys, girls, men, women, children and old people are replaced by a person."""
_SKIN_TONE = re.compile(r"\b(?:(?:medium-)?(?:light|dark)|medium) skin tone\b")
_VARIANT = re.compile(
    r"\b(?:man|woman|men|women|person|people|boys?|girls?|child|baby|older|prince|princess|with crown|mrs|mx|santa"
    r"|(?:red|curly|white|blond) hair|bald|beard|and"
    r"|left|right|up|down|(?:up|down|left|right)wards?|facing|pointing)\b",
    re.IGNORECASE,
)
"""Words of the English names that distinguish the members of a family."""


@dataclass(frozen=True)
class Split:
    """Emoji by use: a family is published, or it is held out and, except for its plainest emoji, withheld."""

    published: tuple[Emoji, ...]
    """Emoji on the site."""
    held_out: tuple[Emoji, ...]
    """Plainest emoji of each held-out family, which the model is evaluated on."""
    withheld: tuple[Emoji, ...]
    """Other emoji of these families, neither on the site nor in an evaluation set."""


def split_held_out(emojis: Sequence[Emoji], digests: Mapping[str, str], seed: int) -> Split:
    """Hold out a fifth of the families, by hash of their plainest emoji and the seed.

    Wordings of held-out families are then removed from the published emoji, in all languages, and the reverse, so that no
    held-out name is on the site. The primary English name of an emoji is never removed.

    Args:
        digests: digest of the rendered OpenMoji image, by `Emoji.text`.
    """
    found = find_families(emojis, digests)
    ordered = sorted(found, key=lambda family: stable_hash(seed, "split", family[0].text))
    chosen = {one.text for family in ordered[: round(len(found) * HELD_OUT_FRACTION)] for one in family}
    plainest = {family[0].text for family in found}
    inside = [one for one in emojis if one.text not in chosen]
    outside = [one for one in emojis if one.text in chosen]
    wordings = all_wordings(outside)
    published = tuple(_without_wordings(one, wordings) for one in inside)
    wordings = all_wordings(published)
    outside = [_without_wordings(one, wordings) for one in outside]
    held_out = tuple(one for one in outside if one.text in plainest)
    return Split(published, held_out, tuple(one for one in outside if one.text not in plainest))


def find_families(emojis: Sequence[Emoji], digests: Mapping[str, str]) -> list[list[Emoji]]:
    """Return the families, in order; the first of a family is its plainest: without skin tone, first in Unicode.

    Two emoji are in one family if their sequences are equal except for skin tone, gender, age, hair and direction, or their
    names are ("backhand index pointing left" and "... up" are two sequences), or their images are (St. Martin's flag is
    that of France).

    Args:
        digests: digest of the rendered OpenMoji image, by `Emoji.text`.
    """
    parent: dict[Hashable, Hashable] = {}

    def root(node: Hashable) -> Hashable:
        while parent.setdefault(node, node) != node:
            parent[node] = node = parent[parent[node]]
        return node

    for one in emojis:
        for shared in (
            ("sequence", plain_sequence(one.text)),
            ("name", plain_name(one.name)),
            ("image", digests[one.text]),
        ):
            parent[root(shared)] = root(one.text)
    found: dict[Hashable, list[Emoji]] = {}
    for one in emojis:
        found.setdefault(root(one.text), []).append(one)
    return [sorted(family, key=lambda one: one.toned) for family in found.values()]


def plain_sequence(text: str) -> str:
    """Return the characters of an emoji without those of its variant, or all characters if no other is left."""
    parts = (part.translate(_DROPPED).translate(_PERSON) for part in text.split(_JOINER))
    return _JOINER.join(part for part in parts if part) or text


def plain_name(name: str) -> str:
    """Return a name without the words for variants: "woman running facing right dark skin tone" is `running`."""
    return " ".join(re.findall(r"[^\W_]+|[#*!]", _VARIANT.sub(" ", _SKIN_TONE.sub(" ", name))))


def _without_wordings(one: Emoji, removed: frozenset[str]) -> Emoji:
    return replace(
        one,
        wordings=tuple(text for text in one.wordings if fold_text(text) not in removed),
        names={code: text for code, text in one.names.items() if fold_text(text) not in removed},
    )
