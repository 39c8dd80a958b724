"""What licences state that pages declared for pairs: shares and terms, as facts. This is not legal advice.

Source: Creative Commons, "About CC Licenses", for what each element of a licence states.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from dataops.formatting import format_share
from dataops.rights.hub_licenses import name_license

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


def state_weight_facts(weights: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each term of the licences of the pretrained weights in a model.

    Args:
        weights: with `name` and `license`, as the facts of a training have them.
    """
    found = [(str(one["name"]), read_license(str(one["license"] or ""))) for one in weights]
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
