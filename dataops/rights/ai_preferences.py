"""Parses preferences on AI training: Content-Usage, Content-Signal, and links to RSL licences.

A statement forbids training if any of its members does, so a prohibition beside a permission holds. Spellings that the
standards call unknown (`train-ai="n"`, `Train-AI=no`, a `;` for a comma) count too.

Sources:
    Content-Usage: draft-ietf-aipref-attach-05 (header and robots.txt rule), draft-ietf-aipref-vocab-08 (`train-ai`, `y` and
        `n`, section "Combining Preferences"). Labels of earlier drafts of the vocabulary: `ai`, `genai`, `tdm`, `bots`,
        `train-genai`.
    Content-Signal: contentsignals.org; draft-romm-aipref-contentsignals-00 (`ai-train`, `yes` and `no`).
    RSL: rslstandard.org/rsl (version 1.0), rslstandard.org/guide/robots-txt, rslstandard.org/guide/http.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from dataops.rights.path_patterns import PathPatterns, count_octets

PreferenceField = Literal["content_usage", "content_signal"]
PREFERENCE_FIELDS: dict[str, PreferenceField] = {"content-usage": "content_usage", "content-signal": "content_signal"}
"""Signals by the name of their header, `<meta>` and robots.txt line, in lower case."""
RSL_TYPE = "application/rsl+xml"
MAX_DETAIL_CHARS = 1_000
"""Maximum length of the evidence that is kept of a signal, in characters."""

_PREFERENCE = re.compile(
    r"(?<![\w.*-])(train-ai|ai-train|train-genai|genai|ai|tdm|bots)[ \t]{0,9}[=:][ \t]{0,9}[\"']?"
    r"(\?[01]|[a-z]{1,10})(?![\w-])",
    re.IGNORECASE,
)
_LABELS = frozenset({"train-ai", "ai-train"})
"""Labels of the current documents; those of earlier drafts count where a statement has none of these."""
_VALUES = {"n": False, "no": False, "?0": False, "false": False, "disallow": False, "disallowed": False} | {
    "y": True, "yes": True, "?1": True, "true": True, "allow": True, "allowed": True
}  # fmt: skip
# Matches one link with its parameters, up to the next one.
_LINK = re.compile(r"<([^<>]{1,4096})>([^<]{0,4096})")
_REL = re.compile(r";\s{0,9}rel\s{0,9}=\s{0,9}(?:\"([^\"]{0,200})|'([^']{0,200})|([^\s;,\"']{1,200}))", re.IGNORECASE)
_TYPE = re.compile(r";\s{0,9}type\s{0,9}=\s{0,9}[\"']?\s{0,9}application/rsl\+xml(?![\w.+-])", re.IGNORECASE)


class Preference(NamedTuple):
    """What a statement says on training."""

    permits: bool
    detail: str
    """The member that decides, for example `train-ai=n`."""


def parse_preference(statement: str) -> Preference | None:
    """Return the preference on training of a Content-Usage or Content-Signal; None if there is none."""
    found = [(match[1].lower(), match[2].lower()) for match in _PREFERENCE.finditer(statement)]
    known = [(label, value) for label, value in found if value in _VALUES]
    if any(label in _LABELS for label, _ in known):
        known = [(label, value) for label, value in known if label in _LABELS]
    decisive = min(known, key=lambda member: _VALUES[member[1]], default=None)
    return Preference(_VALUES[decisive[1]], "=".join(decisive)) if decisive else None


def find_prohibition(statement: str) -> str | None:
    """Return the member of a Content-Usage or Content-Signal that forbids training, or None."""
    preference = parse_preference(statement)
    return None if preference is None or preference.permits else preference.detail


def find_rsl_link(header: str) -> str | None:
    """Return the URL of the first RSL licence in a `Link` header, or None."""
    for match in _LINK.finditer(header):
        rels = (value for found in _REL.findall(match[2]) for value in found)
        if _TYPE.search(match[2]) and any("license" in rel.lower().split() for rel in rels):
            return match[1].strip()[:MAX_DETAIL_CHARS]
    return None


def is_rsl_type(media_type: str | None) -> bool:
    """Return whether the `type` of a link is that of RSL."""
    return (media_type or "").partition(";")[0].strip().lower() == RSL_TYPE


class UsageRule(NamedTuple):
    """One Content-Usage or Content-Signal line of a robots.txt."""

    field: PreferenceField
    permits: bool
    pattern: str
    detail: str


def parse_usage_rule(field: PreferenceField, value: str) -> UsageRule | None:
    """Return the rule in the value of a robots.txt line: a statement, or a path and a statement.

    A line that states nothing on training is None: it neither forbids nor lifts a prohibition of a shorter path.
    """
    pattern = "/"
    if value.startswith(("/", "*")):
        pattern, _, value = value.replace("\t", " ").partition(" ")
    preference = parse_preference(value)
    return preference and UsageRule(field, preference.permits, pattern, preference.detail)


class UsageRules:
    """The rules of one field that apply to an agent: the longest match counts, of equally long ones a prohibition."""

    def __init__(self, rules: Iterable[UsageRule]):
        ordered = sorted(set(rules), key=lambda rule: (-count_octets(rule.pattern), rule.permits, rule.pattern))
        self._details = [rule.detail for rule in ordered]
        self._permitted = PathPatterns(_rank(ordered, permits=True), permits=True)
        self._forbidden = PathPatterns(_rank(ordered, permits=False), permits=False)

    def estimate_work(self, path: str) -> int:
        return self._permitted.estimate_work(path) + self._forbidden.estimate_work(path)

    def find(self, path: str) -> str | None:
        """Return the detail of the rule that forbids training on a path with its query, or None."""
        forbidden = self._forbidden.find(path)
        if forbidden is None:
            return None
        permitted = self._permitted.find(path)
        return self._details[forbidden] if permitted is None or forbidden < permitted else None


def _rank(ordered: list[UsageRule], *, permits: bool) -> Iterator[tuple[int, str]]:
    return ((i, rule.pattern) for i, rule in enumerate(ordered) if rule.permits == permits)
