"""Parse preferences on AI training: the signals content-usage and content-signal.

A statement forbids training if any of its members does, so a prohibition beside a permission holds.
Spellings that the standards call unknown (`train-ai="n"`, `AI_Train=no`, a `;` for a comma) count
too, and any value of a known label that is no permission forbids.

Sources:
    Content-Usage: draft-ietf-aipref-attach-05 (header and robots.txt rule), draft-ietf-aipref-vocab-08 (`train-ai`, `y` and
        `n`, section "Combining Preferences"). Labels of earlier drafts of the vocabulary: `ai`, `genai`, `tdm`, `bots`,
        `train-genai`.
    Content-Signal: contentsignals.org; draft-romm-aipref-contentsignals-00 (`ai-train`, `yes` and `no`).
"""

import re

from dataops.rights.signals import PADDING, X_ROBOTS_TAG, Finding, Place, Signal, Statement, normalise_key, read_flag

# Matches a label with its value: after `=` or `:` any value, after white space only one that is surely an answer.
_PREFERENCE = re.compile(
    r"(?<![\w.*?&/-])(train[-_ ]?ai|ai[-_ ]?train(?:ing)?|train[-_ ]?gen[-_ ]?ai|gen[-_ ]?ai|ai|tdm|bots"
    r"|all|automated[-_ ]?processing|foundation[-_ ]?model[-_ ]?production)"
    r"[\"'\u2018-\u201d]{0,2}"
    r"(?:[ \t]{0,9}[=:][=:> \t]{0,9}([^\s,;=:]{0,40})"
    r"|[ \t]{1,9}(y|yes|no?|allow|allowed|disallow|deny|none|never|off)(?![\w=:-]))",
    re.IGNORECASE,
)
_LABELS = frozenset({"train-ai", "ai-train", "trainai", "aitrain", "ai-training", "aitraining"})
"""Labels of the current documents; those of earlier drafts count where a statement has none of these."""
_MEMBER_END = re.compile("[,;]")
_REFUSALS = frozenset({"deny", "none", "never", "disallow", "disallowed"})


def find_preference(statement: Statement) -> list[Finding]:
    """Return what a statement says on training, with the member that decides, such as `train-ai=n`; [] for nothing."""
    name, text = normalise_key(statement.name), statement.value
    found = [
        (normalise_key(match[1]), (match[2] or match[3] or "").strip("()[]{}" + PADDING))
        for match in _PREFERENCE.finditer(f"{name}={text.strip()}" if name in _LABELS else text)
    ]
    if name == X_ROBOTS_TAG:
        found = [member for member in found if member[0] in _LABELS]
    elif not found and (words := list(filter(_is_bare_refusal, map(normalise_key, _MEMBER_END.split(text))))):
        return [Finding(False, words[0])]
    current = [member for member in found if member[0] in _LABELS]
    decisive = min(current or found, key=lambda member: bool(read_flag(member[1])), default=None)
    return [Finding(bool(read_flag(decisive[1])), "=".join(decisive).lower())] if decisive else []


def _is_bare_refusal(word: str) -> bool:
    """Return whether a member without a value forbids: `no-ai-train`, `n`, and a label alone, which permits nothing."""
    return word.removeprefix("no-") in _LABELS or word in _REFUSALS or read_flag(word) is False


def _make_signal(name: str, *spellings: str, order: int) -> Signal:
    names = (name, *spellings, f"x-{name}")
    reads: dict[Place, tuple[str, ...]] = {"header": (*names, X_ROBOTS_TAG), "robots": names}
    return Signal(name=name, reads=reads, find=find_preference, order=order)


CONTENT_USAGE = _make_signal("content-usage", "train-ai", order=20)
CONTENT_SIGNAL = _make_signal("content-signal", "content-signals", "ai-train", "ai-training", order=21)
