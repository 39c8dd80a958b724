"""The checks for poison: what of tonight's rows would be improbable if they came from the source of the nights before.

A rule holds or does not. A statistic gives each of tonight's subjects (a domain, a caption, a word, a phrase, a category) a
score, and a finding is a score whose probability, times the number of subjects, is below the share of one night and one
check of the false findings that a year may have. What is usual comes from the nights before alone. A subject that is
found does not enter the state, so that it is found again until it is released.
"""

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dataops.reasons import Reason
from dataops.web.urls import HOST, find_registrable_domain
from plugins.poison.config import CHECKS, PoisonConfig
from plugins.poison.history import DECAY, WORDS, Domain, History, hash_text

NIGHTS = 365
STATISTICS = (
    "changed_bytes", "repeated_caption", "bound_word", "host_burst", "template_flood", "share_jump", "evaluation_copies",
)  # fmt: skip
DARK = (Reason.DNS, Reason.CONNECT)
EXPIRY_NIGHTS = 35
"""An expired domain is deleted after a redemption period of 30 days and 5 days (ICANN, Expired Registration Recovery
Policy): a domain that is dark for longer may have a new owner."""
STABLE_NIGHTS, LEAST_ROWS, LEAST_IMAGES, LEAST_TESTED = 5, 5, 5, 16
SMOOTHING = 8.0
FEW_DOMAINS, RARE_ROWS, UNLIKE, SAMPLE = 3, 5.0, 0.7, 1_000
ASPECT = 0.03
"""Relative difference of two aspect ratios from which on an image was not only encoded again or scaled."""
Features = Callable[[Sequence[int]], NDArray[np.float32]]
"""Returns the features of rows, N x D."""


class Finding(NamedTuple):
    """Something unusual, with its evidence."""

    check: str
    subject: str
    """A domain or a category; for captions, words and phrases a hash."""
    rows: list[int]
    observed: float
    expected: float
    probability: float
    """That a night without a fault has it, for one subject; 0 for a rule."""
    evidence: str


class Candidate(NamedTuple):
    """A subject of a statistic."""

    subject: str
    score: float
    rows: Sequence[int]
    observed: float
    expected: float
    evidence: str
    total: int = 0
    """Number of rows that the observed ones are among."""
    tail: str = ""
    """The tail that the score belongs to; empty: that of the check."""


@dataclass
class Night:
    """The rows of one night.

    Attributes:
        rows: those that curate got, with its decisions so far and the evidence of their download.
        lost: `url` and `drop_reason` of those that filter and download dropped.
    """

    rows: pl.DataFrame
    lost: pl.DataFrame
    features: Features
    config: PoisonConfig
    history: History
    number: int = field(init=False)

    def __post_init__(self) -> None:
        self.number = self.history.night + 1
        self.kept = np.flatnonzero(self.rows["drop_reason"].is_null().to_numpy()).tolist()

    def values(self, column: str) -> list[Any]:
        """Return a column."""
        return self.rows[column].to_list()

    @cached_property
    def domains(self) -> list[str]:
        """The domain of each row."""
        return list(map(find_domain, self.values("url")))

    @cached_property
    def by_domain(self) -> dict[str, list[int]]:
        """The kept rows of each domain."""
        return _group((self.domains[row], row) for row in self.kept)

    @cached_property
    def words(self) -> list[list[str]]:
        """The words of the caption of each row."""
        return [re.findall(r"\w+", caption.casefold()) for caption in self.values("caption")]

    @cached_property
    def servers(self) -> list[str]:
        """What each answer says of its server: the domain after redirects, the form of its ETag, and its other fields."""
        names = ("final_url", "etag", "last_modified", "content_type")
        return [
            f"{find_domain(url or '')} {_form(etag or '')} {bool(modified)} {kind}"
            for url, etag, modified, kind in zip(*map(self.values, names), strict=True)
        ]

    @cached_property
    def templates(self) -> list[str]:
        """The form of the path of each URL: its folders without digits, and the extension."""
        paths = [url.partition("://")[2].partition("?")[0].split("/")[1:] for url in self.values("url")]
        return [
            "/".join([*(re.sub(r"\d+", "0", part) for part in path[:-1][:3]), path[-1].rpartition(".")[2]])
            for path in paths
        ]

    @cached_property
    def lost_by_domain(self) -> dict[str, Counter[str]]:
        """Number of lost rows by domain and drop reason."""
        found: dict[str, Counter[str]] = defaultdict(Counter)
        for url, reason in self.lost.select("url", "drop_reason").iter_rows():
            found[find_domain(url or "")][reason] += 1
        return found

    def most(self, rows: Sequence[int], values: Sequence[str]) -> int:
        """Return the hash of the value that most of the rows have; 0 if none has more than half of them."""
        [(value, number)] = Counter(values[row] for row in rows).most_common(1)
        return hash_text(value) if 2 * number > len(rows) else 0

    def top_words(self, rows: Sequence[int]) -> list[float]:
        """Return the hashes of the most frequent words of captions."""
        counts = Counter(word for row in rows for word in {*self.words[row]} if len(word) > 3)
        return [float(hash_text(word)) for word, _ in sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:8]]


def find_domain(url: str) -> str:
    """Return the registrable domain of a URL."""
    found = re.match(HOST, url)
    return find_registrable_domain(found[1].lower()) if found else ""


def _form(etag: str) -> str:
    return re.sub(r"[0-9A-Za-z]+", lambda part: "h" if re.fullmatch(r"[0-9a-f]+", part[0]) else "x", etag)


def _group(pairs: Iterator[tuple[str, int]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for key, row in pairs:
        found.setdefault(key, []).append(row)
    return found


def _surprise(number: float, total: float, share: float) -> float:
    """Return a lower bound of -ln P(X >= number), X binomial. Source: Hoeffding 1963, theorem 1."""
    part = number / total
    if part <= share:
        return 0.0
    rest = (1 - part) * math.log((1 - part) / (1 - share)) if part < 1 else 0.0
    return total * (part * math.log(part / share) + rest)


def _ratio(number: float, expected: float) -> float:
    return math.log((number + SMOOTHING) / (expected + SMOOTHING))


# Statistics


def _changed_bytes(night: Night) -> Iterator[Candidate]:
    """Images that are others than those that the list's publisher saw: digest and, if declared, aspect ratio differ."""
    column, bad, listed, other = night.config.digest_column, set[int](), set[int](), set[int]()
    sizes = zip(
        *map(night.values, ("declared_width", "declared_height", "original_width", "original_height")), strict=True
    )
    for row, (extra, sha256, (width, height, *own)) in enumerate(
        zip(night.values("extra"), night.values("sha256"), sizes, strict=True)
    ):
        digest = json.loads(extra).get(column) if extra else None
        if digest and sha256:
            listed.add(row)
            declared = width / height if width and height else None
            is_alike = declared is not None and abs(own[0] / own[1] / declared - 1) <= ASPECT
            if str(digest).lower() != sha256:
                other.add(row)
                if not is_alike:
                    bad.add(row)
    before = night.history.pool("changed_bytes", 0.0, 0.0)
    share = (before[0] + 1) / (before[1] + 100)
    for domain, rows in night.by_domain.items():
        if known := [row for row in rows if row in listed]:
            changed = [row for row in known if row in bad]
            text = f"{len(changed)} of {len(known)} images differ in bytes and shape from those of the list"
            score = _surprise(len(changed), len(known), share)
            differing = [row for row in known if row in other]
            yield Candidate(domain, score, differing, len(changed), share * len(known), text, len(known))


def _repeated_caption(night: Night) -> Iterator[Candidate]:
    """One caption on many images of few domains; curate has dropped near-duplicates, so the images are unlike."""
    usual = night.history.pool("repeated_caption", 0.0, 0.0)
    default = usual[0] / max(usual[1], 1)
    for caption, rows in _group((" ".join(night.words[row]), row) for row in night.kept).items():
        domains = {night.domains[row] for row in rows}
        if len(rows) >= LEAST_IMAGES and len(domains) <= FEW_DOMAINS:
            known = [one for one in map(night.history.domain, sorted(domains)) if one is not None]
            before = max((one.repeat for one in known), default=default)
            score = math.log((len(rows) + 2) / (before + 2))
            text = f"one caption on {len(rows)} unlike images of {', '.join(sorted(domains))}"
            yield Candidate(f"{hash_text(caption):012x}", score, rows, len(rows), before, text, 1)


def _bound_word(night: Night) -> Iterator[Candidate]:
    """One rare word, in captions that share nothing else, on images that look alike."""
    groups = _group((word, row) for row in night.kept for word in {*night.words[row]})
    sample: list[int] = []
    for word, rows in sorted(groups.items()):
        known = night.history.of("word").get(hash_text(word))
        if not LEAST_IMAGES <= len(rows) <= SAMPLE // 4 or (known and known[2] >= RARE_ROWS):
            continue
        others = Counter(other for row in rows for other in {*night.words[row]} - {word})
        if not others or len(others) < UNLIKE * others.total():
            continue
        sample = sample or sorted(night.kept, key=lambda row: night.rows["uid"][row])[:SAMPLE]
        score = _compare_images(night.features(rows), night.features([row for row in sample if row not in {*rows}]))
        text = f"a word of {len(rows)} captions that share no other one, on images that look alike"
        yield Candidate(f"{hash_text(word):012x}", score, rows, len(rows), known[2] if known else 0, text)


def _compare_images(group: NDArray[np.float32], others: NDArray[np.float32]) -> float:
    """Return how much more alike the images of a group are than chance has it.

    The larger of two: how many have their nearest neighbour in the group, and how far any feature's mean is from that of
    the others. The second finds a pattern in one place of images that are unlike otherwise.
    """
    mean, deviation = others.mean(0), others.std(0) + 1e-6
    group, others = (group - mean) / deviation, (others - mean) / deviation
    unit, rest = (one / (np.linalg.norm(one, axis=1, keepdims=True) + 1e-6) for one in (group, others))
    inside = unit @ unit.T
    np.fill_diagonal(inside, -2)
    near = int((inside.max(1) > (unit @ rest.T).max(1)).sum())
    number = len(group)
    neighbours = _surprise(near, number, (number - 1) / (number - 1 + len(others)))
    furthest = number * float(np.abs(group.mean(0)).max()) ** 2 / 2 - math.log(2 * group.shape[1])
    return max(neighbours, furthest, 0.0)


def _host_burst(night: Night) -> Iterator[Candidate]:
    """Many more images of a domain than it usually has, or than a new one has."""
    for domain, rows in night.by_domain.items():
        if len(rows) >= LEAST_TESTED:
            known = night.history.domain(domain)
            expected = night.history.expect("domain", domain, night.number)
            if known is not None and expected is not None:  # a burst may last for some nights, and is released once
                expected = max(expected, known.latest)
            text = f"{len(rows)} images of a {'new ' if expected is None else ''}domain"
            tail = "new_host" if expected is None else "host_burst"
            score = _ratio(len(rows), expected or 0)
            yield Candidate(domain, score, rows, len(rows), expected or 0, text, tail=tail)


def _template_flood(night: Night) -> Iterator[Candidate]:
    """A phrase of three words in many captions of several domains."""
    for phrase, rows, number in night_phrases(night):
        if number >= LEAST_TESTED:
            expected = night.history.expect("phrase", phrase, night.number) or 0.0
            domains = len({night.domains[row] for row in rows})
            text = f"one phrase in {len(rows)} captions of {domains} domains"
            yield Candidate(f"{hash_text(phrase):012x}", _ratio(number, expected), rows, number, expected, text)


def night_phrases(night: Night) -> Iterator[tuple[str, list[int], int]]:
    """Yield each phrase of several domains with its rows, and their number without the domain that has most of them."""
    groups = _group(
        (phrase, row)
        for row in night.kept
        for phrase in {" ".join(night.words[row][at : at + 3]) for at in range(len(night.words[row]) - 2)}
    )
    for phrase, rows in groups.items():
        if len(rows) > LEAST_ROWS:
            counts = Counter(night.domains[row] for row in rows)
            if len(counts) >= FEW_DOMAINS:
                yield phrase, rows, len(rows) - max(counts.values())


def _share_jump(night: Night) -> Iterator[Candidate]:
    """A language, a size or a kind of dropped image whose share of the night is far from that of other nights."""
    for category, rows in night_categories(night).items():
        total = len(night.rows) if category.startswith("dropped") else len(night.kept)
        if len(rows) >= LEAST_TESTED:
            mean, variance = _usual_share(night.history, category, total)
            expected = total / (1 + math.exp(-mean))
            step = max(_logit(len(rows), total) - mean, 0.0)
            text = f"{category} is {len(rows) / total:.1%} of the night, {expected / total:.1%} before"
            score = step**2 / 2 / (variance + 1 / max(expected, 1.0))
            chosen = [] if category.startswith("dropped") else _choose_excess(night, rows, expected / total)
            yield Candidate(category, score, chosen, len(rows), expected, text)


def night_categories(night: Night) -> dict[str, list[int]]:
    """Return the rows of each category."""
    sizes = [
        f"size {w}x{h}" for w, h in zip(night.values("original_width"), night.values("original_height"), strict=True)
    ]
    languages = [f"language {one}" for one in night.values("language")]
    found = _group((name, row) for names in (sizes, languages) for row in night.kept for name in [names[row]])
    reasons = (Reason.PLACEHOLDER, Reason.BLANK, Reason.EXACT_DUPLICATE)
    dropped = (
        (f"dropped {reason}", row) for row, reason in enumerate(night.values("drop_reason")) if reason in reasons
    )
    return found | _group(dropped)


def _logit(number: float, total: float) -> float:
    return math.log((number + 0.5) / (total - number + 0.5))


def _usual_share(history: History, category: str, total: int) -> tuple[float, float]:
    """Return the mean and the variance of the logit of a category's share; of one that is new, those of a rare one."""
    values = history.of("share").get(hash_text(category))
    if values is None or values[5] < 2:
        return _logit(1, total), 1.0
    mean = values[3] / values[5]
    spread = max(values[4] / values[5] - mean**2, 0.0) * values[5]
    return mean, (spread + 5 * 0.05) / (values[5] + 4)


def _choose_excess(night: Night, rows: Sequence[int], share: float) -> list[int]:
    """Return the rows of the domains that have most of a category beyond its usual share of theirs, up to the excess."""
    counts = Counter(night.domains[row] for row in rows)
    usual = {domain: share * (night.history.expect("domain", domain, night.number) or 0.0) for domain in counts}
    chosen, left = set[str](), len(rows) - share * len(night.kept)
    for domain in sorted(counts, key=lambda one: (usual[one] - counts[one], one)):
        if left <= 0 or counts[domain] <= usual[domain]:
            break
        chosen.add(domain)
        left -= counts[domain] - usual[domain]
    return [row for row in rows if night.domains[row] in chosen]


def _evaluation_copies(night: Night) -> Iterator[Candidate]:
    """More images of evaluation sets in a domain than others have."""
    before = night.history.pool("evaluation_copies", 0.0, 0.0)
    share = (before[0] + 1) / (before[1] + 1_000)
    overlaps = night.values("evaluation_overlap")
    for domain, rows in _group((domain, row) for row, domain in enumerate(night.domains)).items():
        found = sum(overlaps[row] is not None for row in rows)
        kept = [row for row in rows if night.rows["drop_reason"][row] is None] if found else []
        text = f"{found} of {len(rows)} images are in evaluation sets"
        yield Candidate(domain, _surprise(found, len(rows), share), kept, found, share * len(rows), text, len(rows))


# Rules


def _changed_server(night: Night) -> Iterator[Finding]:
    """A domain whose server, URLs and topics are all others than they were for several nights."""
    for domain, rows in night.by_domain.items():
        known = night.history.domain(domain)
        if known is None or len(rows) < LEAST_ROWS or known.stable < STABLE_NIGHTS:
            continue
        if _is_another(night, known, rows, both=True):
            text = f"server, URLs and words of {len(rows)} captions are others than for {known.stable:.0f} nights"
            yield Finding("changed_server", domain, rows, len(rows), 0, 0, text)


def _is_another(night: Night, known: Domain, rows: Sequence[int], *, both: bool) -> bool:
    now = [(night.most(rows, night.servers), known.server), (night.most(rows, night.templates), known.template)]
    changed = [bool(one and before and one != before) for one, before in now]
    shared = {*night.top_words(rows)} & {*known.words}
    return all(changed) and not shared if both else any(changed)


def _revived_domain(night: Night) -> Iterator[Finding]:
    """A domain that was dark until it may have expired, and now serves in another way."""
    for domain, rows in night.by_domain.items():
        known = night.history.domain(domain)
        if known is not None and known.dark_since and known.dark_nights >= FEW_DOMAINS:
            nights = night.number - known.dark_since
            if nights >= EXPIRY_NIGHTS and _is_another(night, known, rows, both=False):
                text = f"it did not resolve or accept connections for {nights:.0f} nights"
                yield Finding("revived_domain", domain, rows, nights, EXPIRY_NIGHTS, 0, text)


def _opt_out_flip(night: Night) -> Iterator[Finding]:
    """A domain that opted out on several nights, of which no image does now."""
    for domain, rows in night.by_domain.items():
        known = night.history.domain(domain)
        if known is None or known.opted < LEAST_ROWS or known.opted_nights < 3 or len(rows) < 3:
            continue
        if known.opted >= 9 * known.open and not night.lost_by_domain.get(domain, Counter())[Reason.OPT_OUT]:
            text = f"{known.opted:.0f} images opted out on {known.opted_nights:.0f} nights, and none now"
            yield Finding("opt_out_flip", domain, rows, 0, known.opted, 0, text)


_STATISTICS: dict[str, Callable[[Night], Iterator[Candidate]]] = {
    "changed_bytes": _changed_bytes,
    "repeated_caption": _repeated_caption,
    "bound_word": _bound_word,
    "host_burst": _host_burst,
    "template_flood": _template_flood,
    "share_jump": _share_jump,
    "evaluation_copies": _evaluation_copies,
}
_RULES: dict[str, Callable[[Night], Iterator[Finding]]] = {
    "changed_server": _changed_server,
    "revived_domain": _revived_domain,
    "opt_out_flip": _opt_out_flip,
}


def examine(night: Night) -> list[Finding]:
    """Return what is unusual, and add the night to its history.

    Rows of findings, other than those of the level `warn`, do not enter it.
    """
    found: list[Finding] = []
    tested: dict[str, list[Candidate]] = {}
    for check in CHECKS:
        if night.config.level_of(check) == "off":
            continue
        if check in _RULES:
            found += sorted(_RULES[check](night), key=lambda one: one.subject)
        else:
            tested[check] = list(_STATISTICS[check](night))
            found += _judge(night, check, tested[check])
    held = {row for one in found if night.config.level_of(one.check) != "warn" for row in one.rows}
    learn(night, held, tested, {(one.check, one.subject) for one in found})
    return found


def _judge(night: Night, check: str, candidates: list[Candidate]) -> list[Finding]:
    """Return the candidates that are too improbable; of several with mostly the same rows, the least probable one."""
    if night.number <= night.config.learn_nights:
        return []
    limit = night.config.false_alarms / NIGHTS / len(_STATISTICS) / max(len(candidates), 1)
    found: list[Finding] = []
    for one in sorted(candidates, key=lambda one: (-one.score, one.subject)):
        probability = night.history.probability(one.tail or check, one.score)
        if probability < limit and not any(2 * len({*one.rows} & {*other.rows}) > len(one.rows) for other in found):
            rows = list(one.rows)
            found.append(Finding(check, one.subject, rows, one.observed, one.expected, probability, one.evidence))
    return found


def accept(night: Night) -> None:
    """Add the rows of a night that were released to its history, as rows of its last night."""
    night.number = max(night.history.night, 1)
    learn(night, set(), {}, set())


def learn(night: Night, held: set[int], tested: dict[str, list[Candidate]], found: set[tuple[str, str]]) -> None:
    """Add a night to its history, without the rows that are held and the scores of what was found."""
    history = night.history
    history.night = night.number
    for check, candidates in tested.items():
        usual = [one for one in candidates if (check, one.subject) not in found and not held & {*one.rows}]
        for tail in {one.tail or check for one in usual}:
            history.learn_scores(tail, [one.score for one in usual if (one.tail or check) == tail])
        history.pool(check, sum(one.observed for one in usual), sum(one.total for one in usual))
    for category, rows in night_categories(night).items():
        total = len(night.rows) if category.startswith("dropped") else len(night.kept)
        if ("share_jump", category) not in found and len(rows) >= LEAST_ROWS:
            share = _logit(len(rows), total)
            history.count("share", category, len(rows), share, share**2, 1.0)
    for phrase, rows, number in night_phrases(night):
        if not held & {*rows}:
            history.count("phrase", phrase, number)
    words = Counter(word for row in night.kept if row not in held for word in {*night.words[row]})
    for word, number in words.items():
        history.count("word", word, number)
    _learn_domains(night, held)


def _learn_domains(night: Night, held: set[int]) -> None:
    known = night.history.of("domain")
    for domain, rows in night.by_domain.items():
        if held & {*rows}:
            continue
        values = known.get(hash_text(domain))
        one = Domain.of(values) if values else Domain(night.number, night.number)
        known[hash_text(domain)] = _update(night, one, domain, rows).values()
    for domain, reasons in night.lost_by_domain.items():
        values = known.get(hash_text(domain))
        dark, opted = sum(reasons[reason] for reason in DARK), reasons[Reason.OPT_OUT]
        if not (dark or opted):
            continue
        one = Domain.of(values) if values else Domain(night.number, night.number)
        if dark and domain not in night.by_domain:
            one.dark_since = one.dark_since or night.number
            one.dark_nights += 1
        if opted:
            one.opted, one.opted_nights = one.opted + opted, one.opted_nights + 1
        known[hash_text(domain)] = one.values()


def _update(night: Night, one: Domain, domain: str, rows: list[int]) -> Domain:
    """Return a domain with the rows of this night."""
    server, template = night.most(rows, night.servers), night.most(rows, night.templates)
    is_same = (server, template) == (one.server, one.template)
    one.stable = one.stable + 1 if is_same else 1
    one.server, one.template = server, template
    fresh = night.top_words(rows)
    one.words = (*fresh, *(word for word in one.words if word not in fresh))[:WORDS]
    captions = Counter(" ".join(night.words[row]) for row in rows)
    one.repeat = max(one.repeat, max(captions.values()))
    one.rows = one.rows * DECAY ** (night.number - one.last) + len(rows)
    one.last, one.nights, one.dark_since, one.dark_nights = night.number, one.nights + 1, 0, 0
    one.latest = len(rows)
    one.open += len(rows)
    if len(rows) >= FEW_DOMAINS and not night.lost_by_domain.get(domain, Counter())[Reason.OPT_OUT]:
        one.opted = one.opted_nights = 0  # it has permitted since, or was released
    return one
