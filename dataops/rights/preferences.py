"""Parse preferences on AI training: the signals content-usage and content-signal.

A statement forbids training if any of its members does, so a prohibition beside a permission holds. Spellings that the
standards call unknown (`train-ai="n"`, `AI_Train=no`, a `;` for a comma) count too, and any value of a known label that is
no permission forbids.

Sources:
    Content-Usage: draft-ietf-aipref-attach-05 (header and robots.txt rule), draft-ietf-aipref-vocab-08 (`train-ai`, `y` and
        `n`, section "Combining Preferences"). Labels of earlier drafts of the vocabulary: `ai`, `genai`, `tdm`, `bots`,
        `train-genai`.
    Content-Signal: contentsignals.org; draft-romm-aipref-contentsignals-00 (`ai-train`, `yes` and `no`).
"""

import re

from dataops.rights.signals import PADDING, Finding, Place, Signal, Statement, normalise_key, read_flag

# Matches a label with its value: after `=` or `:` any value, after white space only one that is surely an answer.
_PREFERENCE = re.compile(
    r"(?<![\w.*?&/-])(train[-_ ]?ai|ai[-_ ]?train(?:ing)?|train[-_ ]?gen[-_ ]?ai|gen[-_ ]?ai|ai|tdm|bots)"
    r"[\"'\u2018-\u201d]{0,2}"
    r"(?:[ \t]{0,9}[=:][=:> \t]{0,9}([^\s,;=:]{0,40})"
    r"|[ \t]{1,9}(y|yes|no?|allow|allowed|disallow|deny|none|never|off)(?![\w=:-]))",
    re.IGNORECASE,
)
_LABELS = frozenset({"train-ai", "ai-train", "trainai", "aitrain", "ai-training", "aitraining"})
"""Labels of the current documents; those of earlier drafts count where a statement has none of these."""


def find_preference(statement: Statement) -> list[Finding]:
    """Return what a statement says on training, with the member that decides, such as `train-ai=n`; [] for nothing."""
    found = [
        (normalise_key(match[1]), (match[2] or match[3] or "").strip("()[]{}" + PADDING))
        for match in _PREFERENCE.finditer(statement.value)
    ]
    current = [member for member in found if member[0] in _LABELS]
    decisive = min(current or found, key=lambda member: bool(read_flag(member[1])), default=None)
    return [Finding(bool(read_flag(decisive[1])), "=".join(decisive).lower())] if decisive else []


def _make_signal(name: str, *spellings: str, order: int) -> Signal:
    reads: dict[Place, tuple[str, ...]] = {"header": (name, *spellings), "robots": (name, *spellings)}
    return Signal(name=name, reads=reads, find=find_preference, order=order)


CONTENT_USAGE = _make_signal("content-usage", order=20)
CONTENT_SIGNAL = _make_signal("content-signal", "content-signals", order=21)
