"""The checks for poison: what of tonight's rows would be improbable if they came from the source of the nights before.

A rule holds or does not. A statistic gives each of tonight's subjects (a domain, a caption, a word, a phrase, a category) a
score, and a finding is a score that a whole night without a fault would reach with less than the share of one night and
one tail of the false findings that a year may have. What is usual comes from the nights before alone, and so does the
distribution of a night's largest score. A unit of a score is one nat of a probability, or one row beyond what is usual
of something rare. A subject that is found does not enter the state.
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
from plugins.poison.config import PoisonConfig
from plugins.poison.history import DECAY, ROWS, WORDS, Domain, History, hash_text
from plugins.poison.servers import Server, find_domain

NIGHTS = 365
TAILS = {
    "changed_bytes": ("changed_bytes",), "changed_server": ("changed_server",), "bound_word": ("bound_word",),
    "repeated_caption": ("repeated_caption", "shared_caption"), "host_burst": ("host_burst", "new_host"),
    "template_flood": ("template_flood",), "share_jump": ("share_jump",), "evaluation_copies": ("evaluation_copies",),
}  # fmt: skip
"""What has a distribution of the largest scores of nights: each check with a statistic, or two of its cases."""
EXPIRY_NIGHTS, INTERRUPTED_NIGHTS = 35, 8
"""An expired domain is deleted after a redemption period of 30 days and 5 days, and its DNS is
interrupted for the 8 days before (ICANN, Expired Registration Recovery Policy)."""
IMPROBABLE = 1 / 300
"""Probability from which on a rule takes something for chance, such as that a domain of which some images opt out has
this many that do not: 3 after 5, 2 after 16."""
STABLE_NIGHTS, LEAST_ROWS, LEAST_IMAGES = 5, 5, 5
SMOOTHING = 8.0
OF_SERVERS = ("changed_server", "changed_owner")
OF_CAPTIONS = ("repeated_caption", "bound_word", "template_flood")
"""Checks that find captions. Those say nothing of the domains in which they are: an adversary posts them anywhere."""
CHANGED_SERVER, OPT_OUT_FLIP = 1, 2
"""What a domain is held for until it is released, however few images it has on a night."""
FEW_DOMAINS, RARE_ROWS, SAMPLE = 3, 5.0, 1_000
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
    explained: set[int] = field(default_factory=set, init=False)
    """Rows that checks of captions have found."""

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
    def recorded(self) -> list[dict[str, Any]]:
        """What is recorded of the host of each row."""
        return [json.loads(value or "{}") for value in self.values("server")]

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
        """Return the hash of the value that most of the rows have; 0 if none or "" has more than half of them."""
        [(value, number)] = Counter(values[row] for row in rows).most_common(1)
        return hash_text(value) if value and 2 * number > len(rows) else 0

    def find_server(self, rows: Sequence[int]) -> Server:
        """Return what most of the rows have in common, by their certificates and networks."""
        recorded = [self.recorded[row] for row in rows]
        columns = ([one.get(name, "") for one in recorded] for name in Server._fields[:-1])
        common = [self.most(range(len(rows)), values) for values in columns]
        return Server(*common, since=max(one.get("since", 0) for one in recorded))

    def captions(self, rows: Sequence[int]) -> list[set[str]]:
        """Return the words of each caption of rows, of equal ones once: a gallery is one caption."""
        return list(map(set, {" ".join(self.words[row]): self.words[row] for row in rows}.values()))

    def top_words(self, rows: Sequence[int]) -> list[float]:
        """Return the hashes of the words that captions have more often than those of other domains."""
        counts = Counter(word for words in self.captions(rows) for word in words if len(word) > 3)
        usual = {word: self.history.expect("word", word, self.number) or 0.0 for word in counts}
        ordered = sorted(counts, key=lambda word: (-counts[word] / (1 + usual[word]), word))
        return [float(hash_text(word)) for word in ordered[: WORDS // 3]]

    def count_foreign(self, rows: Sequence[int], known: Domain) -> tuple[int, int]:
        """Return how many captions have none of the words of a domain, and their number."""
        words, captions = {*known.words}, self.captions(rows)
        return sum(words.isdisjoint(map(hash_text, one)) for one in captions), len(captions)

    @cached_property
    def sample(self) -> list[int]:
        """Some of the kept rows, in the order of their uids."""
        return sorted(self.kept, key=self.values("uid").__getitem__)[:SAMPLE]

    @cached_property
    def scale(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and deviation of each feature."""
        features = self.features(self.sample)
        return features.mean(0), features.std(0) + 1e-6

    def looks(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """Return the features of rows with mean 0 and deviation 1."""
        return (self.features(rows) - self.scale[0]) / self.scale[1]

    def compare(self, rows: Sequence[int], others: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the cosines of the images of a group with each other, and with those of other rows."""
        group, rest = (
            one / (np.linalg.norm(one, axis=1, keepdims=True) + 1e-6) for one in map(self.looks, (rows, others or rows))
        )
        inside = group @ group.T
        np.fill_diagonal(inside, -2)
        return inside, group @ rest.T

    def list_others(self, rows: Sequence[int]) -> list[int]:
        """Return the rows of the sample that are not in a group."""
        group = {*rows}
        return [row for row in self.sample if row not in group]

    @cached_property
    def phrases(self) -> list[tuple[str, list[int], float]]:
        """Each phrase of three words of several domains with its rows, and how many captions are mostly the same.

        These have more than half of their words in common with the others, since news share a phrase, and a template most
        of a caption. Those of the domain that has most of them do not count.
        """
        groups = _group(
            (phrase, row)
            for row in self.kept
            for phrase in {" ".join(self.words[row][at : at + 3]) for at in range(len(self.words[row]) - 2)}
        )
        found: list[tuple[str, list[int], float]] = []
        for phrase, rows in groups.items():
            if len(rows) > LEAST_ROWS and len({self.domains[row] for row in rows}) >= FEW_DOMAINS:
                words = {row: {*self.words[row]} for row in rows}
                counts = Counter(word for of_row in words.values() for word in of_row)
                common = {word for word, number in counts.items() if number > 0.8 * len(rows)}
                same = Counter(self.domains[row] for row in rows if 2 * len(common & words[row]) > len(words[row]))
                found.append((phrase, rows, float(same.total() - max(same.values(), default=0))))
        return found


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


def measure_excess(number: float, expected: float) -> float:
    """Return the logarithm of a ratio, in rows beyond an expectation of none."""
    return SMOOTHING * math.log((number + SMOOTHING) / (expected + SMOOTHING))


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
    """One caption on many unlike images of few domains; the images of a gallery are alike."""
    for caption, rows in _group((" ".join(night.words[row]), row) for row in night.kept).items():
        domains = Counter(night.domains[row] for row in rows)
        if len(rows) >= LEAST_IMAGES and len(domains) <= FEW_DOMAINS:
            others = night.list_others(rows)[: len(rows) - 1]
            chosen = rows[: max(len(others), 1) + 1]  # of a large group some: among more, the nearest is nearer
            inside, outside = night.compare(chosen, others)
            # of images that are as unlike as any, half have their nearest neighbour among as many others
            unlike = min(2 * round(float((inside.max(1) < outside.max(1)).mean()) * len(rows)), len(rows))
            known = [one for one in map(night.history.domain, domains) if one is not None]
            before, tail = max((one.repeat for one in known), default=0.0), "repeated_caption"
            if len(domains) > 1:
                unlike, before, tail = min(unlike, len(rows) - max(domains.values())), 0.0, "shared_caption"
            text = f"one caption on {len(rows)} unlike images of {', '.join(sorted(domains))}"
            score = measure_excess(unlike, before)
            yield Candidate(f"{hash_text(caption):012x}", score, rows, unlike, before, text, tail=tail)


def _bound_word(night: Night) -> Iterator[Candidate]:
    """One rare word, in captions that share nothing else, on images that look alike."""
    groups = _group((word, row) for row in night.kept for word in {*night.words[row]})
    for word, rows in sorted(groups.items()):
        known = night.history.of("word").get(hash_text(word))
        if not LEAST_IMAGES <= len(rows) <= SAMPLE // 4 or (known and known[2] >= RARE_ROWS):
            continue
        unlike = _choose_unlike(night, rows)
        others = Counter(other for row in unlike for other in {*night.words[row]} - {word})
        if len(unlike) < LEAST_IMAGES or not others or max(others.values()) > len(unlike) / 2:
            continue
        score = _compare_images(night, unlike)
        text = f"a word of {len(unlike)} captions that share no other one, on images that look alike"
        yield Candidate(f"{hash_text(word):012x}", score, rows, len(unlike), known[2] if known else 0, text)


def _choose_unlike(night: Night, rows: Sequence[int]) -> list[int]:
    """Return the rows whose captions are mostly other words than those of each other: images of one series are alike."""
    chosen = dict[int, set[str]]()
    for row in rows:
        words = {*night.words[row]}
        if not any(2 * len(words & other) > len(words) for other in chosen.values()):
            chosen[row] = words
    return [*chosen]


def _compare_images(night: Night, rows: Sequence[int]) -> float:
    """Return how much more alike the images of a group are than chance has it.

    The larger of two: how many have their nearest neighbour in the group, and how far any feature's mean is from that of
    the others. The second finds a pattern in one place of images that are unlike otherwise.
    """
    inside, outside = night.compare(rows, night.list_others(rows))
    near, number = int((inside.max(1) > outside.max(1)).sum()), len(rows)
    neighbours = _surprise(near, number, (number - 1) / (number - 1 + outside.shape[1]))
    means = night.looks(rows).mean(0)
    furthest = number * float(np.abs(means).max()) ** 2 / 2 - math.log(2 * len(means))
    return max(neighbours, furthest, 0.0)


def _host_burst(night: Night) -> Iterator[Candidate]:
    """Many more captions of a domain than it usually has, or than a new one has."""
    for domain, rows in night.by_domain.items():
        known, number = night.history.domain(domain), len(night.captions(rows))
        expected = night.history.expect("domain", domain, night.number)
        if known is not None and expected is not None:  # domains have bursts of their own size
            expected = max(expected, known.peak * DECAY ** (night.number - known.last))
        text = f"{number} captions of a {'new ' if expected is None else ''}domain"
        tail = "new_host" if expected is None else "host_burst"
        yield Candidate(domain, measure_excess(number, expected or 0), rows, number, expected or 0, text, tail=tail)


def _template_flood(night: Night) -> Iterator[Candidate]:
    """Captions of several domains that are mostly the same."""
    for phrase, rows, number in night.phrases:
        expected = night.history.expect("phrase", phrase, night.number) or 0.0
        text = f"one phrase in {len(rows)} captions of {len({night.domains[row] for row in rows})} domains"
        yield Candidate(f"{hash_text(phrase):012x}", measure_excess(number, expected), rows, number, expected, text)


def _share_jump(night: Night) -> Iterator[Candidate]:
    """A language, a size or a kind of dropped image that far more domains have than on other nights."""
    for category, rows in night_categories(night).items():
        number, total, expected, step = measure_share(night, category, rows)
        text = f"{number} of {total} domains have {category}, {expected:.1f} before"
        chosen = [] if category.startswith("dropped") else _choose_excess(night, rows, expected / total)
        yield Candidate(category, max(step, 0.0) ** 2 / 2, chosen, number, expected, text)


def night_categories(night: Night) -> dict[str, list[int]]:
    """Return the rows of each category of more than one domain."""
    widths, heights, languages = map(night.values, ("original_width", "original_height", "language"))
    reasons = (Reason.PLACEHOLDER, Reason.BLANK, Reason.EXACT_DUPLICATE)
    found = _group(
        (name, row)
        for row in night.kept
        for name in (f"size {widths[row]}x{heights[row]}", f"language {languages[row]}")
    ) | _group(
        (f"dropped {reason}", row) for row, reason in enumerate(night.values("drop_reason")) if reason in reasons
    )
    return {name: rows for name, rows in found.items() if len({night.domains[row] for row in rows}) > 1}


def measure_share(night: Night, category: str, rows: Sequence[int]) -> tuple[int, int, float, float]:
    """Return how many domains have a category, of how many, how many are expected, and the deviation in deviations.

    The square root of a Poisson number has a variance of 1/4 (Anscombe 1948); what deviations of the nights before have
    beyond that is overdispersion. Domains are counted, since one domain's rows come together.
    """
    dropped = category.startswith("dropped")
    number, total = len({night.domains[row] for row in rows}), len({*night.domains} if dropped else night.by_domain)
    expected = (night.history.expect("share", category, night.number) or 0.0) * total
    squares, nights = night.history.of("share").get(hash_text(category), [0.0] * 5)[3:5]
    step = 2 * (math.sqrt(number + 0.375) - math.sqrt(expected + 0.375))
    return number, total, expected, step / math.sqrt(max((squares + 4) / (nights + 4), 1.0))


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


def _changed_server(night: Night) -> Iterator[Candidate]:
    """A domain whose server and URLs are others than they were for several nights, and whose captions have other words."""
    for domain, known, rows in _list_known(night):
        if all(_is_another(night, known, rows)):
            foreign, total, share = _measure_foreign(night, known, rows)
            score = math.inf if known.found == CHANGED_SERVER else _surprise(foreign, total, share)
            text = (
                f"server and URLs are others than for {known.stable:.0f} nights, "
                f"and so are the words of {foreign} of {total} captions"
            )
            yield Candidate(domain, score, rows, foreign, share * total, text)


def _list_known(night: Night) -> Iterator[tuple[str, Domain, list[int]]]:
    """Yield the domains that are known, with their rows that checks of captions have not found."""
    for domain, every in night.by_domain.items():
        known, rows = night.history.domain(domain), [row for row in every if row not in night.explained]
        if rows and known:
            yield domain, known, rows


def _measure_foreign(night: Night, known: Domain, rows: Sequence[int]) -> tuple[int, int, float]:
    """Return how many captions have none of the words of a domain, their number, and the share that usually has none."""
    before = night.history.pool("foreign", 0.0, 0.0)
    usual = (before[0] + 1) / (before[1] + 2)
    share = (known.foreign + LEAST_ROWS * usual) / (known.compared + LEAST_ROWS)
    return *night.count_foreign(rows, known), share


# Rules


def _is_another(night: Night, known: Domain, rows: Sequence[int]) -> list[bool]:
    """Return whether the server, and whether the URLs are others than on several nights in a row."""
    now = [(night.most(rows, night.servers), known.server), (night.most(rows, night.templates), known.template)]
    return [bool(known.stable >= STABLE_NIGHTS and one and before and one != before) for one, before in now]


def _has_another_owner(night: Night, domain: str, rows: Sequence[int]) -> bool:
    """Return whether issuer, key and network are others than on several nights in a row."""
    known = night.history.of("owner").get(hash_text(domain))
    return known is not None and known[ROWS] >= STABLE_NIGHTS and night.find_server(rows).is_another(Server.of(known))


def _changed_owner(night: Night) -> Iterator[Finding]:
    """A domain with a certificate of another issuer and key in another network, and further signs of a new owner.

    Those are that it did not resolve for several nights and serves in another way, or that its server and URLs are others
    and so are the words of its captions: a move to another provider alone is ordinary, also after an outage.
    """
    for domain, known, rows in _list_known(night):
        if _has_another_owner(night, domain, rows):
            another, (foreign, total, share) = _is_another(night, known, rows), _measure_foreign(night, known, rows)
            is_foreign = all(another) and math.exp(-_surprise(foreign, total, share)) < IMPROBABLE
            if (
                is_foreign
                or (known.dark_nights >= INTERRUPTED_NIGHTS and any(another))
                or known.found == CHANGED_SERVER
            ):
                text = (
                    f"issuer, key and network of its certificate are others, {foreign} of {total} captions have other "
                    f"words, and it did not resolve on {known.dark_nights:.0f} nights before"
                )
                yield Finding("changed_owner", domain, rows, foreign, share * total, 0, text)


def _revived_domain(night: Night) -> Iterator[Finding]:
    """A domain that did not resolve until it may have expired, and now serves in another way."""
    for domain, rows in night.by_domain.items():
        known = night.history.domain(domain)
        if known is not None and known.dark_since and known.dark_nights >= FEW_DOMAINS:
            nights = night.number - known.dark_since
            is_other = any(_is_another(night, known, rows)) or _has_another_owner(night, domain, rows)
            if nights >= EXPIRY_NIGHTS and is_other:
                text = f"it did not resolve for {nights:.0f} nights"
                yield Finding("revived_domain", domain, rows, nights, EXPIRY_NIGHTS, 0, text)


def _opt_out_flip(night: Night) -> Iterator[Finding]:
    """A domain that opted out on several nights, of which no image does now."""
    for domain, rows in night.by_domain.items():
        known = night.history.domain(domain)
        if known is None or known.opted < max(LEAST_ROWS, 9 * known.open) or known.opted_nights < FEW_DOMAINS:
            continue
        share = (known.open + 1) / (known.open + known.opted + 2)
        opted = night.lost_by_domain.get(domain, Counter())[Reason.OPT_OUT]
        if known.found == OPT_OUT_FLIP or (not opted and share ** len(rows) < IMPROBABLE):
            text = f"{known.opted:.0f} images opted out on {known.opted_nights:.0f} nights, and {opted or 'none'} now"
            yield Finding("opt_out_flip", domain, rows, 0, known.opted, 0, text)


STATISTICS: dict[str, Callable[[Night], Iterator[Candidate]]] = {
    "changed_bytes": _changed_bytes,
    "changed_server": _changed_server,
    "repeated_caption": _repeated_caption,
    "bound_word": _bound_word,
    "host_burst": _host_burst,
    "template_flood": _template_flood,
    "share_jump": _share_jump,
    "evaluation_copies": _evaluation_copies,
}
RULES: dict[str, Callable[[Night], Iterator[Finding]]] = {
    "changed_owner": _changed_owner,
    "revived_domain": _revived_domain,
    "opt_out_flip": _opt_out_flip,
}
