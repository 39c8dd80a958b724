"""Parse X-Robots-Tag headers and robots metas: the signals noai, noml, noimageai, noimageindex and noindex.

Sources: developers.google.com/search/docs/crawling-indexing/robots-meta-tag (X-Robots-Tag, and `none`); noml.info;
    draft-canel-robots-ai-control (DisallowAITraining, as a directive and as a line of robots.txt).
"""

import re
from collections.abc import Iterator
from functools import lru_cache

from dataops.rights.signals import (
    ALL_STAGES,
    ANY_ROBOT,
    PADDING,
    X_ROBOTS_TAG,
    Agents,
    Finding,
    Place,
    Signal,
    Stage,
    Statement,
    normalise_key,
    read_flag,
)

_DIRECTIVES = frozenset(
    ["all", "none", "index", "follow", "noindex", "nofollow", "noarchive", "nocache", "nosnippet", "notranslate",
     "noimageindex", "noai", "noml", "noimageai", "indexifembedded", "nositelinkssearchbox", "unavailable_after"]
)  # fmt: skip
"""Words that name no agent where a colon follows."""
_SEPARATOR = re.compile("[,;]")
_LIMIT = re.compile(r"\bmax-[a-z-]{1,40}\s{0,9}[:=]\s{0,9}[^\s,;]*")
_AGENT = re.compile(r"([a-z*_][\w.*-]*)(?:/\S*)?")
_SPLIT_WORD = re.compile(r"\bno[ \t]{1,3}(?=(?:ai|ml|imageai|imageindex|index)\b)")
_WORD = re.compile(r"[a-z0-9_-]+")


def parse_robots_tag(value: str) -> Iterator[tuple[str, str]]:
    """Yield (agent, directive) of each directive of an X-Robots-Tag header or a robots meta, in lower case.

    `name:` before a directive addresses it and the following ones to an agent; directives before
    the first name address all agents ("*"). A name is one word that starts with a letter: the rest
    of a date after its comma (`unavailable_after: Wed, 03 Dec 2025 13:09:53 GMT, noai`) is none.
    Quotation marks and other separators than commas are accepted. The words of a date are yielded
    too, the values of `max-...` are not.
    """
    addressed = "*"
    for item in _SEPARATOR.split(_LIMIT.sub(" ", _SPLIT_WORD.sub("no", value.lower()))):
        name, colon, rest = item.partition(":")
        name = name.strip(PADDING)
        if colon and name not in _DIRECTIVES and (agent := _AGENT.fullmatch(name)):
            addressed, item = agent[1].rstrip("*") or "*", rest
        for word in _WORD.findall(item):
            yield addressed, word.replace("-", "").replace("_", "") or word


@lru_cache(maxsize=64)
def _addressed(agents: Agents) -> frozenset[str]:
    return frozenset({"*", agents.own.lower(), *map(str.lower, agents.others)})


def _make_signal(
    name: str, *aliases: str, order: int, robots: tuple[str, ...] = (ANY_ROBOT,), drops: frozenset[Stage] = ALL_STAGES
) -> Signal:
    """Return the signal of a directive.

    In a page it counts whichever robot it addresses, if metas for single robots are read
    (`robots`), else if it addresses all; in a response to us if it addresses all agents, ours, or
    another one whose exclusion counts.
    """

    def find(statement: Statement) -> Iterator[Finding]:
        if normalise_key(statement.name).replace("-", "") == name:  # a meta of the directive's name
            if read_flag(statement.value) is not False:
                yield Finding(False, name)
            return
        addressed = _addressed(statement.agents) if statement.agents else None if robots else ("*",)
        for agent, word in parse_robots_tag(statement.value):
            if (word == name or word in aliases) and (addressed is None or agent in addressed):
                yield Finding(False, word)

    reads: dict[Place, tuple[str, ...]] = {
        "header": (X_ROBOTS_TAG,),
        "meta": ("robots", *robots, *([name, name.replace("no", "no-", 1)] if robots else [])),
    }
    return Signal(name=name, reads=reads, find=find, order=order, drops=drops)


def find_training_rule(statement: Statement) -> Iterator[Finding]:
    """Yield what a line `DisallowAITraining: /path` or `AllowAITraining: /path` of robots.txt states on its path."""
    yield Finding(not statement.name.startswith("dis"), statement.name)


NOAI = _make_signal("noai", "disallowaitraining", order=1)
NOML = _make_signal("noml", order=1)
DISALLOW_AI_TRAINING = Signal(
    name="disallow-ai-training",
    reads={
        "robots": ("disallow-ai-training", "allow-ai-training"),
        "header": ("disallow-ai-training", "disallowaitraining"),
        "meta": ("disallow-ai-training", "disallowaitraining"),
    },
    find=find_training_rule,
    order=32,
)
NOIMAGEAI = _make_signal("noimageai", order=2)
NOIMAGEINDEX = _make_signal("noimageindex", order=3)
NOINDEX = _make_signal("noindex", "none", order=4, robots=(), drops=frozenset({"download"}))
