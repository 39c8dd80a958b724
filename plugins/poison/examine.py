"""Examines a night for poison, and learns from what was not found and from what was released."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from dataops.reasons import Reason
from plugins.poison.checks import (
    CHANGED_SERVER,
    FEW_DOMAINS,
    NIGHTS,
    OF_CAPTIONS,
    OF_SERVERS,
    OPT_OUT_FLIP,
    RULES,
    STABLE_NIGHTS,
    STATISTICS,
    TAILS,
    Candidate,
    Finding,
    Night,
    measure_share,
    night_categories,
)
from plugins.poison.config import CHECKS, PoisonConfig
from plugins.poison.history import DECAY, ROWS, WORDS, Domain, History, hash_text
from plugins.poison.servers import Server


def examine(night: Night) -> list[Finding]:
    """Return what is unusual, and add the night to its history.

    Rows of findings, other than those of the level `warn`, do not enter it.
    """
    found: list[Finding] = []
    tested: dict[str, list[Candidate]] = {}
    for check in sorted(CHECKS, key=OF_SERVERS.__contains__):  # which are after those of captions
        if night.config.level_of(check) == "off":
            continue
        if check in RULES:
            found += sorted(RULES[check](night), key=lambda one: one.subject)
        else:
            tested[check] = list(STATISTICS[check](night))
            found += _judge(night, check, tested[check])
        night.explained = {row for one in found if one.check in OF_CAPTIONS for row in one.rows}
    held = {row for one in found if night.config.level_of(one.check) != "warn" for row in one.rows}
    learn(night, held, tested, {(one.check, one.subject) for one in found})
    return _merge(found, night.config)


def _merge(found: Sequence[Finding], config: PoisonConfig) -> list[Finding]:
    """Return one finding for each subject and level: what several checks find of a domain on a night is one event.

    It is of the least probable check, and its evidence names the others.
    """
    merged: dict[tuple[str, str], Finding] = {}
    for one in sorted(found, key=lambda one: one.probability):
        first = merged.setdefault(event := (one.subject, config.level_of(one.check)), one)
        if first is not one:
            rows, text = sorted({*first.rows, *one.rows}), f"{first.evidence}; {one.check}: {one.evidence}"
            merged[event] = first._replace(rows=rows, evidence=text)
    return [*merged.values()]


def find_limit(config: PoisonConfig) -> float:
    """Return the share of one night and one tail of the false findings of a year."""
    return config.false_alarms / NIGHTS / sum(map(len, TAILS.values()))


def _judge(night: Night, check: str, candidates: list[Candidate]) -> list[Finding]:
    """Return the candidates that are too improbable; of several with mostly the same rows, the least probable one."""
    if night.number <= night.config.learn_nights:
        return []
    limit = find_limit(night.config)
    found: list[Finding] = []
    for one in sorted(candidates, key=lambda one: (-one.score, one.subject)):
        probability = night.history.probability(one.tail or check, one.score)
        if probability < limit and not any(2 * len({*one.rows} & {*other.rows}) > len(one.rows) for other in found):
            rows = list(one.rows)
            found.append(Finding(check, one.subject, rows, one.observed, one.expected, probability, one.evidence))
    return found


def accept(night: Night, released: set[int]) -> None:
    """Add rows of a night that were released to its history, as rows of its last night, and how unusual they were.

    A score that most rows of which are released is one that nights without a fault have, so it belongs to its tail.

    Args:
        night: the whole night, with whose images those of the released rows are compared.
    """
    history, usual = night.history, dict[str, list[Candidate]]()
    night.number = history.night = max(history.night, 1)
    _mark_found(history, {night.domains[row] for row in released}, 0)
    for check, statistic in STATISTICS.items():
        usual[check] = [one for one in statistic(night) if 2 * len(released & {*one.rows}) > len(one.rows)]
        for one in usual[check]:
            history.raise_largest(one.tail or check, one.score)
            history.pool(check, one.observed, one.total)
    for one in usual["share_jump"]:
        history.count("share", one.subject, one.observed / len(night.by_domain), 0.0, 0.0)
    alone = replace(night, lost=night.lost.clear())
    alone.number, alone.kept = night.number, sorted(released)
    _learn_rows(alone, set(), usual)


def learn(night: Night, held: set[int], tested: dict[str, list[Candidate]], found: set[tuple[str, str]]) -> None:
    """Add a night to its history, without the rows that are held and the scores of what was found."""
    history = night.history
    history.night = night.number
    for check, candidates in tested.items():
        usual = [one for one in candidates if (check, one.subject) not in found and not held & {*one.rows}]
        if night.number > night.config.learn_nights / 2:
            for tail in TAILS[check]:
                scores = [one.score for one in usual if (one.tail or check) == tail]
                history.learn_largest(tail, max(scores, default=0.0))
        history.pool(check, sum(one.observed for one in usual), sum(one.total for one in usual))
    for category, rows in night_categories(night).items():
        # a dropped image cannot be released, so its finding counts as usual from then on
        if category.startswith("dropped") or ("share_jump", category) not in found:
            number, total, _, step = measure_share(night, category, rows)
            is_new = hash_text(category) not in history.of("share")
            history.count("share", category, number / total, 0.0 if is_new else min(step**2, 9.0), float(not is_new))
    _learn_rows(night, held, tested)
    for code, names in ((CHANGED_SERVER, OF_SERVERS), (OPT_OUT_FLIP, ("opt_out_flip",))):
        _mark_found(history, {subject for check, subject in found if check in names}, code)


def _mark_found(history: History, domains: set[str], code: int) -> None:
    """State for what domains that are known are held until they are released; 0: nothing."""
    for domain in domains:
        if (known := history.domain(domain)) is not None:
            history.of("domain")[hash_text(domain)] = replace(known, found=code).values()


def _learn_rows(night: Night, held: set[int], tested: dict[str, list[Candidate]]) -> None:
    """Add the phrases, words and domains of a night, without those of the rows that are held."""
    history = night.history
    for phrase, rows, number in night.phrases:
        if not held & {*rows}:
            history.count("phrase", phrase, number)
    words = Counter(word for row in night.kept if row not in held for word in {*night.words[row]})
    for word, number in words.items():
        history.count("word", word, number)
    repeats = {
        night.domains[row]: one.observed
        for one in tested.get("repeated_caption", ())
        for row in one.rows
        if row not in held
    }
    _learn_domains(night, held, repeats)


def _learn_domains(night: Night, held: set[int], repeats: dict[str, float]) -> None:
    known = night.history.of("domain")
    for domain, rows in night.by_domain.items():
        if held & {*rows}:
            continue
        values = known.get(hash_text(domain))
        one = Domain.of(values) if values else Domain(night.number, night.number)
        known[hash_text(domain)] = _update(night, one, domain, rows, repeats.get(domain, 0)).values()
        if (server := night.find_server(rows)).issuer:
            _learn_owner(night.history, domain, server)
    for domain, reasons in night.lost_by_domain.items():
        values = known.get(hash_text(domain))
        dark, opted = reasons[Reason.DNS] and not reasons[Reason.CONNECT], reasons[Reason.OPT_OUT]
        if not (dark or opted):
            continue
        one = Domain.of(values) if values else Domain(night.number, night.number)
        if dark and domain not in night.by_domain:
            one.dark_since = one.dark_since or night.number
            one.dark_nights += 1
        if opted:
            one.opted, one.opted_nights = one.opted + opted, one.opted_nights + 1
        known[hash_text(domain)] = one.values()


def _learn_owner(history: History, domain: str, server: Server) -> None:
    """Count one more night with this owner, if issuer, key or network is the same."""
    known = history.of("owner").get(hash_text(domain), [0.0] * 8)
    nights = known[ROWS] + 1 if server.shares(Server.of(known)) else 1.0
    history.of("owner")[hash_text(domain)] = [history.night, history.night, nights, *server]


def _update(night: Night, one: Domain, domain: str, rows: list[int], repeat: float) -> Domain:
    """Return a domain with the rows of this night."""
    server, template = night.most(rows, night.servers), night.most(rows, night.templates)
    is_same = (server, template) == (one.server, one.template)
    one.stable = one.stable + 1 if is_same else 1
    one.server, one.template = server, template
    foreign, number = night.count_foreign(rows, one)
    if one.nights >= STABLE_NIGHTS:
        one.foreign, one.compared = one.foreign + foreign, one.compared + number
        night.history.pool("foreign", foreign, number)
    fresh = night.top_words(rows)
    again = [word for word in fresh if word in one.words]
    kept = [*again, *(word for word in one.words if word not in again)]
    half, new = WORDS // 2, [word for word in fresh if word not in again]
    one.words = (*kept[:half], *new, *kept[half:])[:WORDS]  # those that come again outlast those that came once
    one.repeat, one.found = max(one.repeat, repeat), 0
    decay = DECAY ** (night.number - one.last)
    one.rows, one.peak = one.rows * decay + number, max(one.peak * decay, number)
    one.last, one.nights, one.dark_since, one.dark_nights = night.number, one.nights + 1, 0, 0
    one.open += len(rows)
    if len(rows) >= FEW_DOMAINS and not night.lost_by_domain.get(domain, Counter())[Reason.OPT_OUT]:
        one.opted = one.opted_nights = 0  # it has permitted since, or was released
    return one
