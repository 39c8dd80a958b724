"""Each check against a history of ordinary nights: it finds what is planted, and nothing without it."""

import json

import numpy as np
import polars as pl
import pytest

from dataops.schema import uid
from plugins.poison.checks import STABLE_NIGHTS, STATISTICS, TAILS, Night
from plugins.poison.config import CHECKS, PoisonConfig
from plugins.poison.examine import accept, examine
from plugins.poison.history import History, hash_text

NIGHTS, SITES, ROWS = 16, 30, 6
WORDS = [f"word{number}" for number in range(4_000)]


def certificate(key, issuer="A CA", network="10.1.0.0/16", since=1, others="new"):
    values = {"issuer": issuer, "key": f"{key}", "network": network, "since": since, "others": others}
    return json.dumps(values)


SOLD = certificate("new", "B CA", "10.2.0.0/16", 9)


class Web:
    """Domains that serve ROWS images a night, on average."""

    def __init__(self):
        self.random, self.serial = np.random.default_rng(7), 0
        self.looks = {}

    def row(self, site, caption=None, **changes):
        self.serial += 1
        url = f"https://s{site}.test/img/2026/{self.serial}.jpg"
        if caption is None:
            own = [f"topic{site}x{n}" for n in self.random.integers(6, size=2).tolist()]
            caption = " ".join([*own, *(WORDS[n] for n in self.random.integers(len(WORDS), size=4).tolist())])
        row = {"uid": uid(url, caption), "url": url, "caption": caption, "language": "en" if site % 7 else "de",
               "declared_width": 400, "declared_height": 300, "extra": f'{{"sha256":"{self.serial:064x}"}}',
               "original_width": int(self.random.integers(99, 900)), "original_height": int(self.random.integers(99, 900)),
               "sha256": f"{self.serial:064x}", "drop_reason": None, "evaluation_overlap": None, "final_url": url,
               "etag": '"ab-12"', "last_modified": "Mon", "content_type": "image/jpeg",
               "server": certificate(site, others="old")} | changes  # fmt: skip
        self.looks[row["uid"]] = self.random.normal(size=12).astype(np.float32)
        return row

    def rows(self, sites=SITES):
        return [self.row(site) for site in range(sites) for _ in range(self.random.poisson(ROWS))]

    def examine(self, rows, history, lost=[], **config):  # noqa: B006
        return examine(self.night(rows, history, lost, **config))

    def night(self, rows, history, lost, **config):
        types = {name: pl.String for name in ("drop_reason", "evaluation_overlap")}
        frame = pl.DataFrame(rows, infer_schema_length=None).cast(types).sort("uid")
        looks = np.stack([self.looks[one] for one in frame["uid"]])
        gone = pl.DataFrame(lost, schema={"url": pl.String, "drop_reason": pl.String}, orient="row")
        return Night(frame, gone, lambda chosen: looks[list(chosen)], PoisonConfig(**config), history)


@pytest.fixture(scope="module")
def past():
    """Ordinary nights, with s90 that opts out and s91 that goes dark, and scores that such nights have."""
    web, history = Web(), History()
    for number in range(1, NIGHTS + 1):
        lost = [("https://s90.test/a.jpg", "opt_out")] * 3
        sold = [web.row(91) for _ in range(6)] if number <= STABLE_NIGHTS else []
        lost += [("https://s91.test/a.jpg", "dns")] * 2 if not sold else []
        assert web.examine(web.rows() + sold, history, lost) == [], number
    for tail in {tail for tails in TAILS.values() for tail in tails}:
        for score in web.random.exponential(1.0, 200):
            history.learn_largest(tail, score)
    return web, history.encode(65_536)


def owned(web, site):
    url = f"https://s{site}.test/shop/p/"
    return [web.row(site, f"cheap pills{n} here", etag="W/x", final_url="https://other.test/", url=f"{url}{n}.webp",
                    uid=uid(f"{url}{n}.webp", "")) for n in range(8)]  # fmt: skip


def bind(web):
    rows = [web.row(site, f"zorvex {' '.join(WORDS[40 * site + n] for n in range(5))}") for site in range(12)]
    for row in rows:
        web.looks[row["uid"]][3] += 6
    return rows


PLANTED = {
    "changed_bytes": lambda web: [web.row(3, extra='{"sha256":"0"}', original_width=n + 99) for n in range(20)],
    "changed_server": lambda web: owned(web, 4),
    "changed_owner": lambda web: [row | {"server": SOLD} for row in owned(web, 4)[:3]],
    "revived_domain": lambda web: owned(web, 91),
    "repeated_caption": lambda web: [web.row(5 + n % 2, "a banana on the beach") for n in range(80)],
    "bound_word": bind,
    "host_burst": lambda web: [web.row(8) for _ in range(300)],
    "template_flood": lambda web: [
        web.row(n % 20, f"{WORDS[9 * n]} buy best price {WORDS[7 * n]}") for n in range(150)
    ],
    "share_jump": lambda web: [web.row(n % 25, language="fi") for n in range(120)],
    "evaluation_copies": lambda web: [web.row(9, evaluation_overlap="suite") for _ in range(9)],
    "opt_out_flip": lambda web: [web.row(90) for _ in range(4)],
}


def names(findings):
    return {check for one in findings for check in CHECKS if f"{check}:" in f"{one.check}: {one.evidence}"}


@pytest.mark.parametrize("check", CHECKS)
def test_a_check_finds_what_is_planted_until_it_is_released(check, past):
    web, state = past
    history = History.decode(state)
    history.night += 40 if check == "revived_domain" else 0
    planted = PLANTED[check](web)
    replaced = check in ("changed_server", "changed_owner")
    rows = [row for row in web.rows() if not (replaced and row["url"].startswith("https://s4."))] + planted
    before = history.encode(65_536)
    found = web.examine(rows, history)
    ordered = sorted(row["uid"] for row in rows)
    held = {ordered[row] for one in found for row in one.rows if check in names([one])}
    released = {place for place, one in enumerate(ordered) if one in {row["uid"] for row in planted}}
    assert {row["uid"] for row in planted} <= held, [(one.check, one.subject, one.evidence) for one in found]
    assert len(held) <= len(planted) + 4 * ROWS
    assert len({one.subject for one in found}) == len(found)
    assert not web.examine(rows, History.decode(before), level="off")
    if check in ("changed_server", "changed_owner", "revived_domain", "opt_out_flip"):
        again = web.rows() + PLANTED[check](web)
        again = [row for row in again if not (replaced and "/img/" in row["url"] and "s4." in row["url"])]
        assert check in names(web.examine(again, history))
        accept(web.night(rows, history, []), released)
        assert check not in names(web.examine(again, history))


def test_more_unlike_images_of_one_caption_are_more_unusual(past):
    observed = []
    for number in (100, 2_000):
        flood = [past[0].row(5, "a banana on the beach") for _ in range(number)]
        night = past[0].night(past[0].rows() + flood, History(), [])
        observed += [one.observed for one in STATISTICS["repeated_caption"](night)]
    assert observed[1] > 10 * observed[0]


@pytest.fixture(scope="module")
def dark(past):
    """The states after up to 8 nights on which s4 did not resolve (-8: accepted no connection)."""
    web, found = past[0], {0: past[1]}
    for sign, why in ((1, "dns"), (-1, "connect")):
        history = History.decode(found[0])
        for number in range(1, 9):
            rows = [row for row in web.rows() if "//s4." not in row["url"]]
            web.examine(rows, history, [("https://s4.test/a.jpg", why)])
            found[sign * number] = history.encode(65_536)
    return web, found


SERVES = {"etag": "W/x", "final_url": "https://cdn.test/"}


@pytest.mark.parametrize(
    ("server", "changes", "nights", "found"),
    [
        (SOLD, SERVES, 8, True),
        (SOLD, SERVES, -8, False),  # it resolved, and accepted no connection
        (SOLD, SERVES, 7, False),
        (SOLD, {}, 8, False),
        (SOLD, SERVES | {"url": "https://s4.test/new/1.jpg"}, 0, False),  # a move, with the words that it had
        (certificate("new", since=9), SERVES, 8, False),  # a renewal
        (certificate(4, "B CA", "10.2.0.0/16", 9), SERVES, 8, False),
        (certificate("new", "A CA", "10.2.0.0/16", 9), SERVES, 8, False),
        (certificate("new", "B CA", "10.1.0.0/16", 9), SERVES, 8, False),
        (certificate("new", "B CA", "10.2.0.0/16", 1), SERVES, 8, False),  # one of two that it had before
        (certificate("new", "B CA", "10.2.0.0/16", 9, "old"), SERVES, 8, False),  # it names the same other domains
        (None, SERVES, 8, False),
        (certificate(4), SERVES, 40, True),
        (certificate(4), SERVES, -40, False),
        (certificate(4), {}, 40, False),
        (SOLD, SERVES, -40, False),
    ],
)
def test_an_owner_is_another_if_all_of_its_certificate_is_or_it_may_have_expired(dark, server, changes, nights, found):
    web, states = dark
    history = History.decode(states[max(-8, min(nights, 8))])
    history.night += max(abs(nights) - 8, 0)
    rows = [row for row in web.rows() if "//s4." not in row["url"]]
    rows += [web.row(4, server=server, **changes) for _ in range(2)]
    checks = names(web.examine(rows, history))
    assert bool(checks & {"changed_owner", "revived_domain"}) == found


@pytest.mark.parametrize("check", TAILS)
def test_a_score_that_is_released_is_one_of_its_tail(check, past):
    """So that the next one like it is less improbable; rows beside it, and of other nights, are learned once."""
    web, state = past
    history, planted = History.decode(state), PLANTED[check](web)
    rows = [row for row in web.rows() if check != "changed_server" or "//s4." not in row["url"]] + planted
    released = {row for one in web.examine(rows, history) if one.check == check for row in one.rows}
    before = History.decode(history.encode(65_536))
    night = web.night(rows, history, [])
    accept(night, released)

    def largest(one):
        return max(score for tail in TAILS[check] for score in one.of("tail")[hash_text(tail)])

    assert largest(before) + 1 < largest(history)
    assert history.night == before.night
    word = night.words[min(released)][-1]
    assert history.expect("word", word, history.night + 1) > (before.expect("word", word, before.night + 1) or 0)
    domains = {night.domains[row] for row in released}
    others = [one for one in night.domains if one not in domains]
    assert all(history.domain(one) == before.domain(one) for one in others)


def test_captions_that_are_found_say_nothing_of_the_domain_that_has_them(past):
    """A domain relaunches by itself, with its words, on the night on which somebody floods it: it is not held later."""
    web, state = past
    history = History.decode(state)
    new = {"etag": "W/x", "final_url": "https://cdn.test/"}

    def relaunched(caption):
        row = web.row(4, caption, **new)
        return row | {"url": row["url"].replace("/img/2026/", "/new/")}

    ordinary = [row for row in web.rows() if "//s4." not in row["url"]]
    flood = [web.row(n % 20, f"{WORDS[9 * n]} buy best price {WORDS[7 * n]}") for n in range(150) if n % 20 != 4]
    own = [relaunched(f"{WORDS[9 * n]} buy best price {WORDS[7 * n]}") for n in range(8)]
    found = names(web.examine([*ordinary, *flood, *own], history))
    assert "template_flood" in found
    assert "changed_server" not in found
    later = [row for row in web.rows() if "//s4." not in row["url"]] + [relaunched(None) for _ in range(4)]
    assert "changed_server" not in names(web.examine(later, history))


def test_captions_that_share_less_than_half_of_their_words_are_no_template(past):
    """News of 150 captions that have three words of seven in common."""
    web, state = past
    news = [
        web.row(n % 20, f"{' '.join(WORDS[(9 * n + k) % 400] for k in range(4))} buy best price") for n in range(150)
    ]
    assert "template_flood" not in names(web.examine(web.rows() + news, History.decode(state)))


def test_a_word_of_a_gallery_and_a_series_binds_to_nothing(past):
    """Of either, images are alike by themselves, so that their captions count once."""
    web, state = past
    rows = [web.row(1, "zorvex tall red boat lake") for _ in range(5)]
    rows += [web.row(2, f"shoes zorvex leather brown {n}") for n in range(5)]
    for place, row in enumerate(rows):
        web.looks[row["uid"]][place // 5] += 9
    assert "bound_word" not in names(web.examine(web.rows() + rows, History.decode(state)))


def test_warnings_enter_the_history_and_findings_do_not(past):
    web, state = past
    rows = web.rows() + PLANTED["host_burst"](web)
    expected = []
    for level in ("quarantine", "warn"):
        history = History.decode(state)
        assert "host_burst" in names(web.examine(rows, history, level=level))
        expected.append(history.expect("domain", "s8.test", history.night + 1) or 0)
    assert expected[0] < 2 * ROWS < expected[1]


def test_the_state_does_not_depend_on_the_order_of_rows_and_is_bounded(past):
    web, state = past
    rows = web.rows()
    tables = []
    for some in (rows, rows[::-1]):
        history = History.decode(state)
        web.examine(some, history)
        tables.append(history.encode(65_536))
    assert tables[0].equals(tables[1])
    small = History.decode(tables[0]).encode(10)
    assert small["kind"].to_pylist().count("word") == 10
    assert History.decode(small).encode(10).equals(small)


@pytest.mark.parametrize("number", [12, 40, 120])
def test_a_tail_holds_its_false_alarm_rate(number):
    """Of exponential scores, one night in 100 is at least as improbable, however few nights are known."""
    random, history = np.random.default_rng(3), History()
    assert history.probability("x", 40.0) == 1.0
    below = 0
    for _ in range(2_000):
        history.of("tail")[hash_text("x")] = random.exponential(2.0, number).tolist()
        below += history.probability("x", random.exponential(2.0)) < 1 / 100
    assert 8 <= below <= 34  # 20 expected
