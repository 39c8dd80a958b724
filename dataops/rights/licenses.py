"""What licences state that pages declared for pairs, as facts, and the names that the Hugging Face Hub has for them.

This is not legal advice. Source: Creative Commons, "About CC Licenses", for what each element of a licence states.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from dataops.formatting import format_share

OTHER, UNKNOWN = "other", "unknown"
_HUB_COMMONS = re.compile(
    r"https?://(?:www\.)?creativecommons\.org/(?:licenses/(by(?:-nc)?(?:-nd|-sa)?)|publicdomain/(zero))/(\d\.\d)\b.*"
)
_HUB_NAMES = frozenset(
    {
        *("cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0"),
        *("cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0"),
        *("cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "apache-2.0", "mit", "bsd-2-clause"),
        *("bsd-3-clause", "openrail", "gpl-3.0", "agpl-3.0", "mpl-2.0", "unlicense", "odc-by", "odbl", "pddl"),
    }
)
# Source: Hugging Face Hub documentation, "Licenses": https://huggingface.co/docs/hub/repositories-licenses


def name_license(license_: str) -> str | None:
    """Return the Hub's name of a licence that is given by URL or name, or None if the Hub has none for it."""
    text = license_.strip().lower()
    if found := _HUB_COMMONS.fullmatch(text):
        text = f"cc0-{found[3]}" if found[2] else f"cc-{found[1]}-{found[3]}"
    text = text.replace(" ", "-")
    return text if text in _HUB_NAMES else None


def name_declared(licenses: Iterable[str]) -> dict[str, str]:
    """Return the fields of a card for licences that web pages declare; no text of a page enters it.

    Args:
        licenses: URLs; "" is no licence.

    Returns: `license`: the one name, `unknown` if none is declared, otherwise `other` with a `license_name`.
    """
    found = {text.strip() for text in licenses}
    names = {name_license(text) for text in found}
    if not found - {""}:
        return {"license": UNKNOWN}
    if len(names) == 1 and (name := names.pop()) is not None:
        return {"license": name}
    return {"license": OTHER, "license_name": "declared-by-source" if len(found) == 1 else "several-licences"}


def name_stated(license_: str) -> dict[str, str]:
    """Return the fields of a card for the licence that an owner states, by URL, name or sentence."""
    if license_.strip().lower() in (OTHER, UNKNOWN):
        return {"license": license_.strip().lower()}
    if name := name_license(license_):
        return {"license": name}
    slug = re.sub(r"[^a-z0-9.]+", "-", license_.lower()).strip("-.")[:60]
    return {"license": OTHER, "license_name": slug or "stated-by-owner"}


OTHERS = "other licences, each rarer"
NAMED = 4
"""Maximum number of licences that a sentence names."""
_CREATIVE_COMMONS = re.compile(
    r"(?:https?://(?:www\.)?creativecommons\.org/(?:licenses|publicdomain)/|cc[ -]?(?=0|by|pd))"
    r"(?P<elements>(?:by|nc|nd|sa)(?:-(?:by|nc|nd|sa)){0,4}|zero|0|mark|pd|publicdomain)"
    r"(?:[/ -]v?(?P<version>\d\.\d))?(?![a-z0-9.]).*"
)
_DEDICATED = {
    **{"zero": "CC0", "0": "CC0", "mark": "Public Domain Mark"},
    **{"pd": "public domain", "publicdomain": "public domain"},
}
_TERMS = {
    "by": ("attribution", "copies and adaptations of these works must name their authors"),
    "nc": ("no commercial use", "a licence for commercial use of these works was not declared"),
    "nd": ("no derivatives", "a licence to share adaptations of these works was not declared"),
    "sa": ("share-alike", "adaptations of these works may be shared only under the same or a compatible licence"),
}
"""Term and fact of each element of a Creative Commons licence."""
NO_CONCLUSION = (
    "Whether such terms reach a model that is trained on the pairs, and which licence it may then have, differs by country "
    "and use; this document states no opinion on it."
)


class DeclaredLicense(NamedTuple):
    """A licence that was declared for pairs."""

    license: str
    """URL or name as declared; "" for none, OTHERS for those that the manifest does not list one by one."""
    name: str
    """Short name, such as `CC BY-SA 4.0`; the declared text where the licence is unknown."""
    terms: tuple[str, ...] | None
    """Elements of a Creative Commons licence (`by`, `nc`, `nd`, `sa`), () for the public domain; None if not read."""
    pairs: int

    @property
    def terms_text(self) -> str:
        """The terms in words."""
        if self.terms is None:
            return "none declared" if not self.license else "not read"
        return ", ".join(_TERMS[term][0] for term in self.terms) or "public domain"


def read_license(license_: str, pairs: int = 0) -> DeclaredLicense:
    """Return name and terms of a licence that is given by URL or name."""
    text = " ".join(license_.split())
    if found := _CREATIVE_COMMONS.fullmatch(text.lower()):
        elements, version = found["elements"], found["version"]
        if elements in _DEDICATED:
            return DeclaredLicense(license_, " ".join(filter(None, (_DEDICATED[elements], version))), (), pairs)
        name = " ".join(filter(None, ("CC", elements.upper(), version)))
        return DeclaredLicense(license_, name, tuple(elements.split("-")), pairs)
    return DeclaredLicense(license_, name_license(text) or text, None, pairs)


def list_licenses(counts: Mapping[str, int], pairs: int) -> list[DeclaredLicense]:
    """Return the declared licences, most frequent first; spellings of one URL that differ in its scheme count as one.

    Args:
        counts: pairs by licence, as the facts of a dataset have them; "" is none.
        pairs: of the dataset. Those that are not in `counts` have licences too rare to be listed.
    """
    merged = Counter[str]()
    for license_, count in counts.items():
        merged[re.sub(r"^http://(?=(www\.)?creativecommons\.org/)", "https://", license_)] += int(count)
    found = [read_license(license_, count) for license_, count in merged.items()]
    found.sort(key=lambda one: (-one.pairs, one.license))
    rest = pairs - merged.total()
    return [*found, DeclaredLicense(OTHERS, OTHERS, None, rest)] if rest > 0 else found


def list_rows(licenses: Sequence[DeclaredLicense], pairs: int) -> list[tuple[str, str, str, str]]:
    """Return a row for each licence: the licence as declared, its terms, its pairs, and their share."""
    return [
        (one.license or "none", one.terms_text, f"{one.pairs:,}", format_share(one.pairs, pairs)) for one in licenses
    ]


ROW_TITLES = ("licence", "declared terms", "pairs", "share")


def state_facts(licenses: Sequence[DeclaredLicense], pairs: int) -> list[str]:
    """Return a sentence for each term that was declared for some pairs, and for pairs whose terms are unknown."""
    return [*_state_terms(licenses, pairs), *([NO_CONCLUSION] if licenses else [])]


def _state_terms(licenses: Sequence[DeclaredLicense], pairs: int) -> Iterator[str]:
    for term, (title, fact) in _TERMS.items():
        if found := [one for one in licenses if one.terms is not None and term in one.terms]:
            yield f"{_count(found, pairs)} declared with the term `{title}` ({_name(found)}): {fact}."
    if found := [one for one in licenses if one.terms == ()]:
        yield f"{_count(found, pairs)} declared to be in the public domain ({_name(found)})."
    if found := [one for one in licenses if one.terms is None and one.license]:
        yield f"{_count(found, pairs)} declared under licences whose terms are not read ({_name(found)})."
    if found := [one for one in licenses if not one.license]:
        yield f"For {_share(found, pairs)} no licence was declared: what their owners permit is not known."


def state_weight_facts(weights: Iterable[tuple[str, str]]) -> list[str]:
    """Return a sentence for each term of the licences of the pretrained weights in a model.

    Args:
        weights: name and licence of each; "" if none is stated.
    """
    found = [(name, read_license(license_)) for name, license_ in weights]
    sentences = [
        f"The licence of the pretrained weights `{_plain(name)}`, {_plain(one.name)}, has the term "
        f"`{_TERMS[term][0]}`: {_TERMS[term][1]}."
        for name, one in found
        for term in one.terms or ()
    ]
    return sentences + [
        f"For the pretrained weights `{_plain(name)}` no licence is stated." for name, one in found if not one.license
    ]


def _share(found: Sequence[DeclaredLicense], pairs: int) -> str:
    count = sum(one.pairs for one in found)
    return f"{format_share(count, max(pairs, 1))} of the pairs ({count:,} of {pairs:,})"


def _count(found: Sequence[DeclaredLicense], pairs: int) -> str:
    return f"{_share(found, pairs)} {'is' if sum(one.pairs for one in found) == 1 else 'are'}"


def _name(found: Sequence[DeclaredLicense]) -> str:
    by_name = Counter[str]()
    for one in found:
        by_name[_plain(one.name)] += one.pairs
    named = by_name.most_common(NAMED)
    more = len(by_name) - len(named)
    listed = ", ".join(f"{name}: {count:,}" for name, count in named)
    return listed + (f", and {more:,} more" if more else "")


def _plain(text: str) -> str:
    """Return a text of a page without the back quotes that begin code, in at most 80 characters."""
    return text.replace("`", "'")[:80]
