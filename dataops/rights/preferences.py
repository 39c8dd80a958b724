"""Parse preferences on AI training: the signals content-usage and content-signal.

A statement forbids training if any of its members does, so a prohibition beside a permission holds. Spellings that the
standards call unknown (`train-ai="n"`, `Train-AI=no`, a `;` for a comma) count too.

Sources:
    Content-Usage: draft-ietf-aipref-attach-05 (header and robots.txt rule), draft-ietf-aipref-vocab-08 (`train-ai`, `y` and
        `n`, section "Combining Preferences"). Labels of earlier drafts of the vocabulary: `ai`, `genai`, `tdm`, `bots`,
        `train-genai`.
    Content-Signal: contentsignals.org; draft-romm-aipref-contentsignals-00 (`ai-train`, `yes` and `no`).
"""

import re

from dataops.rights.signals import Finding, Place, Signal, Statement

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


def find_preference(statement: Statement) -> list[Finding]:
    """Return what a statement says on training, with the member that decides, such as `train-ai=n`; [] for nothing."""
    found = [(match[1].lower(), match[2].lower()) for match in _PREFERENCE.finditer(statement.value)]
    known = [(label, value) for label, value in found if value in _VALUES]
    if any(label in _LABELS for label, _ in known):
        known = [(label, value) for label, value in known if label in _LABELS]
    decisive = min(known, key=lambda member: _VALUES[member[1]], default=None)
    return [Finding(_VALUES[decisive[1]], "=".join(decisive))] if decisive else []


def _make_signal(name: str, *spellings: str, order: int) -> Signal:
    one = (name,)
    reads: dict[Place, tuple[str, ...]] = {"header": one, "meta": one, "http-equiv": one, "robots": (name, *spellings)}
    return Signal(name=name, reads=reads, find=find_preference, order=order)


CONTENT_USAGE = _make_signal("content-usage", order=20)
CONTENT_SIGNAL = _make_signal("content-signal", "content-signals", order=21)
