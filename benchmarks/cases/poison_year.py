"""A year of nights of a growing dataset, with the changes that the web makes by itself, and planted faults.

It imports nothing of the checks, and they nothing of it. Rates of what happens without a fault, each per domain
unless stated: relaunch (another server and other URLs, the same topics) once in 4 years; another CDN (server alone)
once in 1.5 years; end of a domain once in 4 years, as of links that Pew Research found broken ("When Online Content
Disappears", 2024: a quarter of the pages of 2013 to 2023 were gone); an outage of two nights on average once in two
years, 30% of them of its DNS, and one in 30 of 10 to 60 nights; numbers of images by Zipf's law, over-dispersed
(negative binomial, dispersion 0.5), with bursts; another key of its certificate every 60 nights. Half of the changes of
a CDN, a third of the relaunches and a quarter of the long outages are moves to another provider, with its network and a
certificate of its own.
Two new domains come each night. Of the images of a published list, 12% have other bytes and the same shape, and 1.5%
another shape. Every week brings a phrase of the news; every night galleries with one caption (Pareto, exponent 2), of
which nine in ten share a look, and series of a product. Where no source is named, the rate is an assumption.
"""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from dataops.schema import uid

NIGHTS, ROWS, DOMAINS, FEATURES, FIRST_FAULT = 365, 1_000, 1_200, 16, 40
LANGUAGES = ("en", "de", "fr", "es", "ru", "ja", "it", "pl", "nl", "pt", "zh", "tr", "sv", "fi", "hu")
LANGUAGE_SHARES = np.array([0.55, 0.07, 0.06, 0.06, 0.06, 0.04, 0.03, 0.03, 0.02, 0.02, 0.02, 0.02, 0.01, 0.005, 0.005])
SIZES = ((800, 600), (1024, 768), (600, 400), (500, 500), (640, 480), (1200, 800), (300, 300), (1200, 630), (300, 200))
SERVERS = tuple(
    (etag, modified, kind)
    for etag in ('"5f3a-5c1b2"', 'W/"5f3a"', '"9a0364b9e99bb480dd25e1f0284c8555x"', None, "W/'Zx-1'")
    for modified in ("Mon, 01 Jan 2026 00:00:00 GMT", None)
    for kind in ("image/jpeg", "image/jpeg;charset=utf-8", "image/webp")
)
FOLDERS = ("images", "wp-content/uploads", "media/catalog", "photos", "files/styles", "assets", "img", "static/upload")
ISSUERS = {"Let's Encrypt": 0.6, "Google Trust Services": 0.15, "Sectigo": 0.1, "DigiCert": 0.1, "Amazon": 0.05}
CLASSES = (
    "changed_bytes", "changed_server", "revived_domain", "repeated_caption", "bound_word",
    "host_burst", "template_flood", "share_jump", "evaluation_copies", "opt_out_flip",
)  # fmt: skip
RATES = {"changed_bytes": (1, 10), "changed_server": (6, 25), "revived_domain": (4, 12), "opt_out_flip": (3, 12)}
"""Images a night, from and to, of the domains that a fault needs."""


class Fault(NamedTuple):
    """One planted fault."""

    number: int
    kind: str
    night: int
    variant: int
    """0 to 3: of a class that has several forms, which one."""


@dataclass
class Site:
    """A domain, as it serves."""

    name: str
    rate: float
    language: str
    words: list[str]
    server: tuple[Any, ...]
    folder: str
    sizes: list[tuple[int, int]]
    suffix: str
    topic: np.ndarray
    opted: float
    listed: bool
    copies: float
    owner: dict[str, Any]
    failure: str = "dns"
    is_dark: bool = False
    ends: int = 0
    """Night at which an outage ends; 0: none."""
    fault: int = 0
    """Number of the fault of which all its images are; 0: none."""
    reserved: bool = False
    """Whether a fault will use it."""


@dataclass
class Made:
    """One night: what curate gets, what was lost before, the features by row, and the fault of each row (0: none)."""

    rows: pl.DataFrame
    lost: pl.DataFrame
    features: np.ndarray
    faults: list[int]
    placeholders: list[int] = field(default_factory=list)
    """Faults of which all images were dropped as placeholders."""


class Year:
    """The web of a year."""

    def __init__(self, seed):
        self.random, self.owners = np.random.default_rng(seed), np.random.default_rng([seed, 1])
        self.vocabulary = [f"w{hashlib.md5(str(n).encode()).hexdigest()[:6]}" for n in range(20_000)]
        weights = 1 / np.arange(20, 20_020)
        self.word_ends = (weights / weights.sum()).cumsum()
        self.made = 0
        rates = 1 / np.arange(5, DOMAINS + 5) ** 1.0
        self.sites = [self.make_site(rate) for rate in rates / rates.sum() * ROWS]
        self.mix = np.zeros(len(LANGUAGES))
        self.news = []
        self.serial = 0
        self.faults = self.plan_faults()
        self.chosen = self.reserve_sites()

    def draw_words(self, number):
        """Return random words, by Zipf's law."""
        places = np.searchsorted(self.word_ends, self.random.random(number)).tolist()
        return [self.vocabulary[min(place, len(self.vocabulary) - 1)] for place in places]

    def draw_owner(self, night):
        """Return the certificate and the network of a new owner, or at another provider."""
        issuer, key = self.owners.choice([*ISSUERS], p=[*ISSUERS.values()]), self.owners.integers(1 << 40)
        return {"issuer": str(issuer), "key": str(key), "network": f"network {key % 199}", "since": night}

    def make_site(self, rate, **changes):
        """Return a new domain."""
        random, number = self.random, self.made
        self.made += 1
        values = {
            "name": f"site{number}.{random.choice(['com', 'org', 'net', 'de', 'co.uk'])}",
            "rate": rate,
            "language": str(random.choice(LANGUAGES, p=LANGUAGE_SHARES)),
            "words": self.draw_words(40),
            "server": SERVERS[random.integers(len(SERVERS))],
            "folder": f"{FOLDERS[random.integers(len(FOLDERS))]}/{random.choice(['2025', 'x', 'large', 'p'])}",
            "sizes": [SIZES[n] for n in random.integers(len(SIZES), size=2)],
            "suffix": f"at brand{number} online" if random.random() < 0.2 else "",
            "topic": random.normal(size=FEATURES) * 0.6,
            "opted": 1.0 if random.random() < 0.04 else random.uniform(0.1, 0.7) if random.random() < 0.02 else 0.0,
            "listed": random.random() < 0.2,
            "copies": 0.004 if random.random() < 0.03 else 0.0003,
            "owner": self.draw_owner(0),
        }
        return Site(**(values | changes))

    def plan_faults(self):
        """Return four faults of each class, at random nights."""
        nights = self.random.permutation(np.arange(FIRST_FAULT, NIGHTS - 2))[: 4 * len(CLASSES)]
        return [Fault(n + 1, CLASSES[n // 4], int(night), n % 4) for n, night in enumerate(nights)]

    def reserve_sites(self):
        """Return the domain of each fault that needs one with a past."""
        found = {}
        for fault in self.faults:
            if fault.kind in RATES:
                changes = {"listed": True} if fault.kind == "changed_bytes" else {}
                changes |= {"opted": float(fault.kind == "opt_out_flip"), "reserved": True}
                rate = self.random.uniform(*RATES[fault.kind])
                found[fault.number] = self.make_site(rate, **changes)
        self.sites += found.values()
        return found

    def nights(self):
        """Yield each night, beginning with 1."""
        for night in range(1, NIGHTS + 1):
            self.change_web(night)
            yield night, self.make_night(night)

    def change_web(self, night):
        """Let domains begin, end, fail, relaunch and change their CDN."""
        random = self.random
        self.mix = 0.9 * self.mix + random.normal(0, 0.06, len(LANGUAGES))
        for _ in range(2):
            self.sites.append(self.make_site(float(random.lognormal(-1.5, 1.0))))
        for site in self.sites:
            if self.owners.random() < 1 / 60:
                site.owner = site.owner | {"key": str(night), "since": night}
            if site.is_dark:
                site.is_dark = not (site.ends and night >= site.ends)
            elif site.reserved:
                continue
            elif (draw := random.random()) < 1 / (4 * 365):
                site.is_dark, site.ends, site.failure = True, 0, "dns"
            elif draw < 1 / (4 * 365) + 1 / (2 * 365):
                long = random.random() < 1 / 30
                site.is_dark, site.ends = True, night + int(random.integers(10, 61) if long else random.geometric(0.5))
                site.failure = "connect" if self.owners.random() < 0.7 else "dns"
                if long and self.owners.random() < 1 / 4:
                    site.owner, site.server = self.draw_owner(night), SERVERS[self.owners.integers(len(SERVERS))]
            elif draw < 1 / (4 * 365) + 1 / (2 * 365) + 1 / (1.5 * 365):
                site.server = SERVERS[random.integers(len(SERVERS))]
                relaunches = random.random() < 0.375
                if self.owners.random() < (1 / 3 if relaunches else 1 / 2):
                    site.owner = self.draw_owner(night)
                if relaunches:
                    site.folder = f"{FOLDERS[random.integers(len(FOLDERS))]}/{random.integers(9)}new"
        for fault in self.faults:
            self.change_for(fault, night)

    def change_for(self, fault, night):
        """Plant what a fault changes for good."""
        site = self.chosen.get(fault.number)
        if site is None:
            return
        if fault.kind == "revived_domain" and night == max(fault.night - (12, 20, 85, 105)[fault.variant], 20):
            site.is_dark, site.ends = True, 0
        if night != fault.night:
            return
        fresh = self.make_site(site.rate)
        if fault.kind in ("revived_domain", "changed_server"):
            server = next(one for one in SERVERS[fault.variant :: 7] if one != site.server)
            site.server, site.owner = server, self.draw_owner(night)
            if (fault.kind, fault.variant) != ("revived_domain", 1):  # whose URLs and captions are those of a list
                site.folder, site.words, site.suffix = f"cdn/{fault.number}/a", fresh.words, ""
            site.is_dark, site.fault = False, fault.number
        elif fault.kind == "opt_out_flip":
            site.opted, site.fault = 0.0, fault.number

    def caption(self, site):
        """Return the words of a caption of a domain."""
        random = self.random
        own = [site.words[place] for place in random.integers(len(site.words), size=random.integers(2, 5)).tolist()]
        return [*own, *self.draw_words(int(random.integers(2, 6)))]

    def row(self, site, words, fault=0, **changes):
        """Return a row with its features and fault."""
        random = self.random
        self.serial += 1
        width, height = (
            site.sizes[random.integers(2)] if random.random() < 0.6 else tuple(map(int, random.integers(200, 2000, 2)))
        )
        url = f"https://{site.name}/{site.folder}/{self.serial}.jpg"
        sha = hashlib.sha256(str(self.serial).encode()).hexdigest()
        caption = words if isinstance(words, str) else " ".join([*words, site.suffix]).strip()
        declared, extra = (None, None), None
        if site.listed:
            declared, draw = (width, height), random.random()
            seen = sha if draw > 0.135 else "0" * 64
            extra = f'{{"sha256":"{seen}"}}'
            if draw < 0.015:
                declared = (height + 7, width)
        etag, modified, kind = site.server
        draw = random.random()
        row = {
            "uid": uid(url, caption), "url": url, "caption": caption, "language": site.language,
            "declared_width": declared[0], "declared_height": declared[1], "extra": extra, "original_width": width,
            "original_height": height, "sha256": sha, "final_url": url, "etag": etag, "last_modified": modified,
            "content_type": kind, "evaluation_overlap": "suite" if random.random() < site.copies else None,
            "server": json.dumps(site.owner),
            "drop_reason": "placeholder" if draw < 0.02 else "exact_duplicate" if draw < 0.05 else None,
        }  # fmt: skip
        return row | changes, random.normal(size=FEATURES) + site.topic, fault or site.fault

    def make_night(self, night):
        """Return the rows of a night."""
        random = self.random
        volume = float(random.lognormal(0, 0.15)) * (0.85 if night % 7 in (0, 6) else 1.0)
        found = []
        lost = []
        mix = dict(zip(LANGUAGES, np.exp(self.mix).tolist(), strict=True))
        rates = np.array([site.rate * volume * mix[site.language] for site in self.sites])
        numbers = random.poisson(rates * random.gamma(2, 0.5, len(rates)))
        bursts = random.random(len(rates)) < 0.002
        numbers = np.where(bursts, (numbers * random.lognormal(1.0, 0.5, len(rates))).astype(int), numbers)
        for site, number in zip(self.sites, numbers.tolist(), strict=True):
            for _ in range(number):
                if site.is_dark:
                    lost.append((f"https://{site.name}/x.jpg", site.failure))
                elif random.random() < site.opted:
                    lost.append((f"https://{site.name}/x.jpg", "opt_out"))
                else:
                    found.append(self.row(site, self.caption(site)))
        found += self.natural_groups(night)
        placeholders = []
        for fault in self.faults:
            if fault.night == night:
                planted = self.plant(fault)
                found += planted
                placeholders += [fault.number] if planted and planted[0][0]["drop_reason"] == "placeholder" else []
        rows, features, faults = zip(*found, strict=True)
        order = random.permutation(len(rows))
        frame = pl.DataFrame(list(rows), infer_schema_length=None)[order.tolist()]
        types = {name: pl.String for name in ("extra", "evaluation_overlap", "drop_reason", "etag", "last_modified")}
        types |= {name: pl.Int32 for name in ("declared_width", "declared_height", "original_width", "original_height")}
        gone = pl.DataFrame(lost, schema={"url": pl.String, "drop_reason": pl.String}, orient="row")
        return Made(frame.cast(types), gone, np.array(features)[order], [faults[one] for one in order], placeholders)

    def alive(self, count):
        """Return random domains that serve, the larger ones more often."""
        able = [one for one in self.sites if not one.is_dark and not one.reserved and one.opted == 0]
        rates = np.array([one.rate for one in able])
        return [able[n] for n in self.random.choice(len(able), count, replace=False, p=rates / rates.sum())]

    def natural_groups(self, night):
        """Yield news, galleries, series of products, and rare words of several domains, none of which is a fault."""
        random = self.random
        if night % 7 == 3:
            phrase = " ".join(self.draw_words(3))
            self.news.append((night + int(random.integers(3, 9)), phrase, float(random.lognormal(2.5, 0.6))))
        for _, phrase, size in [one for one in self.news if one[0] >= night]:
            for site in self.alive(max(int(random.poisson(size)), 1)):
                yield self.row(site, f"{' '.join(self.caption(site))} {phrase}")
        for site in self.alive(6):
            caption, look = " ".join(self.caption(site)), random.normal(size=FEATURES)
            spread = random.uniform(0.3, 1) if random.random() < 0.9 else None
            for _ in range(min(int(4 * (1 + random.pareto(2))), 200)):
                row, features, fault = self.row(site, caption)
                yield row, features if spread is None else look + spread * random.normal(size=FEATURES), fault
        for site in self.alive(3):
            name, look = f"sku{self.serial}", random.normal(size=FEATURES)
            head = self.caption(site)[:4]
            for number in range(int(random.integers(5, 16))):
                row, _, fault = self.row(site, [name, *head, f"colour{number}"])
                yield row, look + 0.4 * random.normal(size=FEATURES), fault
        for _ in range(3):
            name, look = f"name{self.serial}", 0.5 * random.normal(size=FEATURES)
            for site in self.alive(int(random.integers(5, 9))):
                row, features, fault = self.row(site, [name, *self.caption(site)])
                yield row, features + look, fault

    def plant(self, fault):
        """Return the rows that a fault adds to its night."""
        random, number, kind, variant = self.random, fault.number, fault.kind, fault.variant
        size = int(random.integers(40, 121))  # 0.01% of the pairs of the year are about 40
        changes, pattern, words, texts = {"drop_reason": None}, np.zeros(FEATURES), [], []
        if kind == "changed_bytes":
            sites, size = [self.chosen[number]], size // 4
            changes |= {"extra": f'{{"sha256":"{"f" * 64}"}}', "original_width": 512, "original_height": 512}
        elif kind == "repeated_caption":
            sites, texts = self.alive(1 + variant % 3), [" ".join(self.caption(self.sites[0]))] * size
        elif kind == "bound_word":
            sites, words, size = self.alive(2 + 3 * variant), [f"trigger{number}"], size // 4
            pattern[random.choice(FEATURES, 2, replace=False)] = 3.0
        elif kind == "host_burst":
            sites, size = [self.make_site(0.5) if variant % 2 else self.alive(40)[-1]], 2 * size
        elif kind == "template_flood":
            sites = self.alive(20 + 10 * variant)
            slots = self.draw_words(size)
            texts = [f"{slots[n]} buy best price shop{number} {slots[-n]}" for n in range(size)]
        elif kind == "share_jump":
            sites = self.alive(15 + 8 * variant)
            changes |= [
                {"language": "hu"}, {"original_width": 728, "original_height": 90}, {"drop_reason": "placeholder"},
                {"language": "fi"},
            ][variant]  # fmt: skip
        elif kind == "evaluation_copies":
            sites, size = self.alive(1), 6 + size // 8
            changes["evaluation_overlap"] = "suite"
        else:
            return []
        rows = []
        for n in range(size):
            site = sites[n % len(sites)]
            row, look, _ = self.row(site, texts[n] if texts else [*words, *self.caption(site)], number, **changes)
            rows.append((row, look + pattern, number))
        return rows
