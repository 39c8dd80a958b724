"""The drop reasons of the filter stage: those of the registered rules, and of the steps after them."""

from dataops import plugins
from dataops.filters import Rule
from dataops.schema import DropReason
from tasks.filter.added_steps import AddedStep
from tasks.lists.locations import OPT_OUT_LIST
from tasks.reports import drop_reasons

LANGUAGE, BOILERPLATE, SEEN = "language", "boilerplate", "seen"
DUPLICATE = "duplicate_"
"""Prefix of the reasons of deduplication; the rest is one of DEDUPE_STEPS."""
URL_DUPLICATE = f"{DUPLICATE}url"
NO_QUERY, BALANCED = "no_query", "balanced"

_AFTER_RULES = {
    OPT_OUT_LIST: drop_reasons.OPT_OUT_LIST,
    LANGUAGE: DropReason(
        "The caption's language is not one of `filter.languages`, or the probability is too low.",
        "`filter.language_min_score`, `filter.language_candidates`, `filter.language_page_weight`",
    ),
    BOILERPLATE: DropReason("The caption occurs too often.", "`filter.max_caption_count`"),
    SEEN: DropReason("An earlier dataset has the URL.", "`filter.seen`"),
    f"{DUPLICATE}uid": DropReason("Another row has the same URL and caption."),
    f"{DUPLICATE}pair": DropReason(
        "Another row has the same URL and caption, except for upper and lower case.", "`filter.dedupe`"
    ),
    URL_DUPLICATE: DropReason("Another row has the same URL.", "`filter.dedupe`"),
    f"{DUPLICATE}caption": DropReason("Another row has the same caption.", "`filter.dedupe`"),
}
_BALANCING = {
    NO_QUERY: DropReason("The caption matches no query.", "`filter.balance.keep_unmatched`"),
    BALANCED: DropReason(
        "No query of the caption sampled the row (offline balancing).",
        '`filter.balance.max_per_query`, or `filter.balance.mode = "online"`',
    ),
}


def describe_reasons() -> dict[str, DropReason]:
    """Return the drop reasons in the order in which the stage applies them; NAME stands for what varies."""
    rules: list[Rule] = list(plugins.load("rules").values())
    steps: list[AddedStep] = list(plugins.load("filter_steps").values())
    added = {step.reason: step.description for step in steps}
    return {rule.reason: rule.description for rule in rules} | _AFTER_RULES | added | _BALANCING
