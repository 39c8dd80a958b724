"""What owners of sites say on training, in the words of their standards and in those that they write: for wishes.py.

Each case is a host with a page at `/`, which shows `/image.jpg`. It forbids the image for training, or permits it.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from dataops import plugins
from dataops.images.digests import KIND

Answer = tuple[int, Mapping[str, str], bytes]
FORBIDS, PERMITS = True, False
RSL_TYPE = "application/rsl+xml"


@dataclass(frozen=True)
class Case:
    """A host and its wish.

    Attributes:
        group: the standard, or who sends it.
        wish: what the host says, for the table.
        forbids: whether its image may be used for training.
        files: answers by path; all others are 404.
        headers: of the image and of the page.
        image_headers: of the image only.
        head: elements of the page.
        xmp: of the image.
        listed: an entry of an opt-out list that the crawler was given; `KIND:COPY` is the digest of a copy of the image,
            `KIND:OTHER` that of a copy of another one.
        copy: format, quality and scale of the copy.
    """

    group: str
    wish: str
    forbids: bool
    files: Mapping[str, Answer] = field(default_factory=dict)
    headers: tuple[tuple[str, str], ...] = ()
    image_headers: tuple[tuple[str, str], ...] = ()
    head: str = ""
    xmp: str = ""
    listed: str = ""
    copy: tuple[str, int, float] = ("JPEG", 90, 1.0)

    def image(self, number):
        pixels = np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        file = io.BytesIO()
        image = Image.fromarray(pixels).resize((160, 120), Image.Resampling.BICUBIC)
        image.save(file, "JPEG", **({"xmp": self.xmp.encode()} if self.xmp else {}))
        return file.getvalue()

    def entry(self, number, host):
        """Return the entry of an opt-out list for the host; "" without one."""
        kind, _, value = self.listed.partition(":")
        if value not in ("COPY", "OTHER"):
            return self.listed.replace("HOST", host)
        image = Image.open(io.BytesIO(self.image(number + 10_000 * (value == "OTHER"))))
        file_type, quality, scale = self.copy
        size = (round(image.width * scale), round(image.height * scale))
        file = io.BytesIO()
        image.resize(size, Image.Resampling.LANCZOS).save(file, file_type, quality=quality)
        return f"{kind}:{plugins.find(KIND, kind).compute(file.getvalue())}"

    def page(self, number):
        image = f'<img src="/image.jpg" alt="A red kite above the hill number {number} of the valley">'
        return f"<!doctype html><html><head>{self.head}</head><body>{image}</body></html>".encode()


def text_file(path, text, status=200, **headers):
    """Return the answer for a path."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return {path: (status, {"Content-Type": "text/plain", **named}, text.encode())}


def robots(group, wish, forbids, text, status=200, **headers):
    """Return a host with a robots.txt."""
    return Case(group, wish, forbids, text_file("/robots.txt", text, status, **headers))


def headed(name, group, forbids, *values):
    """Yield hosts with a header of each value."""
    for value in values:
        yield Case(group, f"{name}: {value}", forbids, headers=((name, value),))


def list_cases():
    """Return all cases, whose order and number do not depend on anything."""
    parts = (
        _robots_rules(), _robots_statuses(), _agents(), _usage(), _directives(), _metas(), _tdmrep(), _rsl(), _ai_txt(),
        _iptc(), _managers(), _lists(),
    )  # fmt: skip
    return [case for part in parts for case in part]


def _robots_rules():
    group = "robots.txt (RFC 9309)"
    for text in (
        "User-agent: *\nDisallow: /", "user-agent:*\ndisallow:/", "User-agent: *\r\nDisallow: /\r\n",
        "User-agent: *\rDisallow: /\r", "\ufeffUser-agent: *\nDisallow: /", "User-agent: pairmill\nDisallow: /",
        "User-agent: PairMill\nDisallow: /", "User-agent: pairmill/1.0\nDisallow: /", "User-agent:\t*\nDisallow:\t/",
        "User-agent: * # all\nDisallow: / # of it", "User-agent: *\nDisallow: /image", "User-agent: *\nDisallow: /*.jpg$",
        "User-agent: *\nDisallow: /*", "User-agent: *\nDisallow: /%69mage.jpg", "User-agent: *\nDisallow: *",
        "User-agent: a\nUser-agent: *\nDisallow: /", "User-agent: *\nAllow: /\nDisallow: /image.jpg",
        "User-agent: *\nDisallow: /image.jpg\nAllow: /", "User-agent: *\nDisallow: /x\n\nUser-agent: *\nDisallow: /image",
        "User-agent: *\nCrawl-delay: 1\nDisallow: /", "Sitemap: /s.xml\nUser-agent: *\nDisallow: /",
        "User-agent: other\nAllow: /\n\nUser-agent: pairmill\nDisallow: /\n\nUser-agent: *\nAllow: /",
        'User-agent: *\nDisallow: "/"', "**User-agent:** *\n**Disallow:** /", "User-agent: *<br>Disallow: /<br>",
        "User-agent *\nDisallow /", "User-agent: *\nDissallow: /", "User-agent: *\nDisallow: http://HOST/",
    ):  # fmt: skip
        yield robots(group, text, FORBIDS, text)
    for text in (
        "", "User-agent: *\nDisallow:", "User-agent: *\nAllow: /", "User-agent: *\nDisallow: /private",
        "User-agent: SemrushBot\nDisallow: /", "User-agent: *\nDisallow: /\n\nUser-agent: pairmill\nAllow: /",
        "User-agent: *\nDisallow: /\nAllow: /image.jpg", "User-agent: *\nDisallow: /*.jpg\nAllow: /image.jpg$",
        "User-agent: *\nDisallow: /*.png$", "User-agent: *\nDisallow: /Image", "User-agent: *\nDisallow: /image.jpg/",
        "# Disallow: /\nUser-agent: *\nAllow: /", "User-agent: *\nDisallow: https://elsewhere.test/",
        "User-agent: *\nDisallow:\n\nUser-agent: *WordPress*\nDisallow: /", "User-agent: *\nCrawl-delay: 1",
        "Disallow: /", "User-agent: *\nDisallow: /?", "Sitemap: /sitemap.xml",
    ):  # fmt: skip
        yield robots(group, text or "an empty file", PERMITS, text)


def _robots_statuses():
    group, text = "status of robots.txt (RFC 9309, 2.3.1)", "User-agent: *\nDisallow: /"
    for status in (200, 201, 202, 203, 206, 226, 299):
        yield robots(group, f"{status} with a prohibition", FORBIDS, text, status)
    for status in (500, 502, 503):
        yield robots(group, f"{status}: unreachable", FORBIDS, "", status)
    moved = {"/robots.txt": (301, {"Location": "/rules"}, b""), **text_file("/rules", text)}
    yield Case(group, "301 to a prohibition", FORBIDS, moved)
    for status in (400, 404, 410):
        yield robots(group, f"{status}: unavailable", PERMITS, "<html>not here", status)
    for status in (200, 203):
        yield robots(group, f"{status} with a permission", PERMITS, "User-agent: *\nAllow: /", status)
    yield robots(
        group, "200, a page of HTML", PERMITS, "<html><body>Welcome</body></html>", 200, Content_Type="text/html"
    )


def _agents():
    group = "robots.txt for AI agents"
    for agent in ("GPTBot", "CCBot", "Google-Extended", "anthropic-ai", "ClaudeBot", "Bytespider", "Applebot-Extended",
                  "meta-externalagent", "Amazonbot", "img2dataset", "LAIONDownloader", "cohere-ai"):  # fmt: skip
        yield robots(group, f"{agent} disallowed", FORBIDS, f"User-agent: {agent}\nDisallow: /")
    yield robots(group, "gptbot, in lower case", FORBIDS, "user-agent: gptbot\ndisallow: /")
    yield robots(group, "several agents of one group", FORBIDS, "User-agent: GPTBot\nUser-agent: CCBot\nDisallow: /")
    for agent in ("GPTBot", "CCBot"):
        yield robots(group, f"{agent} allowed", PERMITS, f"User-agent: {agent}\nAllow: /")
        yield robots(group, f"{agent} disallowed elsewhere", PERMITS, f"User-agent: {agent}\nDisallow: /private")
    for agent in ("Googlebot", "bingbot", "DuckDuckBot"):
        yield robots(group, f"{agent} disallowed: a search engine", PERMITS, f"User-agent: {agent}\nDisallow: /")
    ours = "User-agent: GPTBot\nDisallow: /\n\nUser-agent: pairmill\nAllow: /"
    yield robots(group, "GPTBot disallowed, we are allowed by name", PERMITS, ours)


def _usage():
    no = ("n", "no", "?0", "deny", "none", "off", "0", "never", "false", "disallow")
    for name, group, label in (
        ("Content-Usage", "Content-Usage (AIPREF)", "train-ai"),
        ("Content-Signal", "Content-Signal (Cloudflare)", "ai-train"),
    ):
        other = label.replace("-", "_")
        forbidden = [*(f"{label}={value}" for value in no), f'{label}="no"', f'"{label}"="no"', f"{label.title()}=NO",
                     f"{other}=no", f"search=yes, {label}=no", f"search=yes,{label}=n;x=1", f"{label}: no"]  # fmt: skip
        permitted = [*(f"{label}={value}" for value in ("y", "yes", "?1", "true", "allow")), f"search=no, {label}=yes",
                     "search=yes", "search=no"]  # fmt: skip
        for forbids, values in ((FORBIDS, forbidden), (PERMITS, permitted)):
            yield from headed(name, f"{group}, header", forbids, *values)
            for value in values:
                text = f"User-agent: *\n{name}: {value}\nAllow: /"
                yield robots(f"{group}, robots.txt", f"{name}: {value}", forbids, text)
    yield robots("Content-Signal (Cloudflare), robots.txt", "ai-input=no: not training", PERMITS,
                 "User-agent: *\nContent-Signal: search=yes, ai-input=no\nAllow: /")  # fmt: skip
    path = "User-agent: *\nContent-Usage: /image.jpg train-ai=n\nAllow: /"
    yield robots("Content-Usage (AIPREF), robots.txt", "for the image's path", FORBIDS, path)
    path = "User-agent: *\nContent-Usage: /other train-ai=n\nAllow: /"
    yield robots("Content-Usage (AIPREF), robots.txt", "for another path", PERMITS, path)
    for label in ("DisallowAITraining: /", "disallowaitraining: /image"):
        yield robots("DisallowAITraining", label, FORBIDS, f"User-agent: *\n{label}\nAllow: /")
    yield robots(
        "DisallowAITraining", "for another path", PERMITS, "User-agent: *\nDisallowAITraining: /other\nAllow: /"
    )


def _directives():
    tag = "X-Robots-Tag"
    yield from headed(
        tag, tag, FORBIDS, "noai", "NOAI", "noai, noimageai", "noimageai", "noml", "no-ai", '"noai"', "index, noai",
        "noimageindex", "noindex", "none", "pairmill: noai", "PAIRMILL: noai", "GPTBot: noai", "max-snippet:0, noai",
        "unavailable_after: Wed, 03 Dec 2055 13:09:53 GMT, noai", "nofollow;noai",
    )  # fmt: skip
    yield Case(tag, "index, then noai in a second field", FORBIDS, headers=((tag, "index"), (tag, "noai")))
    yield from headed(
        tag, tag, PERMITS, "all", "index, follow", "nofollow", "noarchive", "nosnippet", "notranslate",
        "max-image-preview:large", "googlebot: noindex", "unavailable_after: Wed, 03 Dec 2055 13:09:53 GMT",
    )  # fmt: skip


def _metas():
    for head in (
        '<meta name="robots" content="noai">', '<META NAME=ROBOTS CONTENT=NOAI>', "<meta name=robots content='noimageai'>",
        '<meta name="robots" content="noml">', '<meta content="index, noai" name="robots">',
        '<meta name="robots" content="noimageindex">', '<meta name="pairmill" content="noai">',
        '<meta name="GPTBot" content="noai">', '<meta http-equiv="X-Robots-Tag" content="noai">',
        '<meta http-equiv="tdm-reservation" content="1">', '<meta name="tdm-reservation" content="1">',
        '<meta name="robots" content="DisallowAITraining">', '<meta name="Content-Usage" content="train-ai=n">',
        '<meta name="content-signal" content="ai-train=no">',
    ):  # fmt: skip
        yield Case("meta elements", head, FORBIDS, head=head)
    for head in (
        '<meta name="robots" content="index, follow">', '<meta name="robots" content="nofollow">',
        '<meta name="robots" content="noarchive">', '<meta name="robots" content="max-image-preview:large">',
        '<meta name="description" content="What noai means, and who says no to it">',
        '<meta name="tdm-reservation" content="0">', '<meta name="Content-Usage" content="train-ai=y">',
        '<!-- <meta name="robots" content="noai"> -->', '<meta name="keywords" content="noai">',
    ):  # fmt: skip
        yield Case("meta elements", head, PERMITS, head=head)


def _tdmrep():
    yield from headed(
        "TDM-Reservation",
        "TDMRep, header",
        FORBIDS,
        "1",
        "true",
        "yes",
        "?1",
        "1.0",
        '"1"',
        "1; policy=https://a.test/p.json",
    )
    yield from headed("TDM-Reservation", "TDMRep, header", PERMITS, "0", "false", "no", "?0", "0; x=y")
    rule = {"location": "/", "tdm-reservation": 1}
    policy = {**rule, "tdm-policy": "https://a.test/policy.json"}
    for wish, document in (
        ("a rule", [rule]), ("true", [{**rule, "tdm-reservation": True}]), ("'1'", [{**rule, "tdm-reservation": "1"}]),
        ("an underscore", [{"location": "/", "tdm_reservation": 1}]), 
        ("capitals", [{"Location": "/", "TDM-Reservation": 1}]),
        ("no location", [{"tdm-reservation": 1}]), ("rules", {"rules": [rule]}), ("one object", rule),
        ("a policy", [policy]), ("a pattern", [{**rule, "location": "/*.jpg$"}]),
        ("the first of two", [{"location": "/image", "tdm-reservation": 1}, {**rule, "tdm-reservation": 0}]),
    ):  # fmt: skip
        yield Case("TDMRep, tdmrep.json", wish, FORBIDS, _tdmrep_file(json.dumps(document)))
    for wish, text in (
        ("a comma at the end", '[{"location": "/", "tdm-reservation": 1},]'),
        ("not JSON", "[{location: /"),
    ):
        yield Case("TDMRep, tdmrep.json", wish, FORBIDS, _tdmrep_file(text))
    yield Case("TDMRep, tdmrep.json", "status 203", FORBIDS, _tdmrep_file(json.dumps([rule]), 203))
    for wish, document in (
        ("0", [{**rule, "tdm-reservation": 0}]), ("false", [{**rule, "tdm-reservation": False}]), ("no rule", []),
        ("another location", [{**rule, "location": "/private/"}]),
        ("an exception", [{"location": "/image.jpg", "tdm-reservation": 0}, rule]),
    ):  # fmt: skip
        yield Case("TDMRep, tdmrep.json", wish, PERMITS, _tdmrep_file(json.dumps(document)))


def _tdmrep_file(text, status=200):
    return text_file("/.well-known/tdmrep.json", text, status, Content_Type="application/json")


def _terms(inner, url="/"):
    return f'<rsl xmlns="https://rslstandard.org/rsl"><content url="{url}"><license>{inner}</license></content></rsl>'


def _rsl():
    free = '<permits type="usage">{}</permits><payment type="free"/>'
    terms = {
        "permits ai-train, free": (PERMITS, _terms(free.format("ai-train"))),
        "permits train-ai, free": (PERMITS, _terms(free.format("train-ai"))),
        "permits all, free": (PERMITS, _terms(free.format("all"))),
        "permits search ai-train, free": (PERMITS, _terms(free.format("search ai-train"))),
        "permits ai-train, no payment named": (PERMITS, _terms('<permits type="usage">ai-train</permits>')),
        "permits search only": (FORBIDS, _terms(free.format("search"))),
        "asks for a subscription": (FORBIDS, _terms('<permits type="usage">all</permits><payment type="subscription"/>')),
        "asks for a price a crawl": (FORBIDS, _terms('<permits type="usage">all</permits><payment type="crawl"/>')),
        "asks for attribution": (FORBIDS, _terms('<permits type="usage">ai-train</permits><payment type="attribution"/>')),
        "prohibits ai-train": (FORBIDS, _terms('<prohibits type="usage">ai-train</prohibits>')),
        "prohibits all": (FORBIDS, _terms('<prohibits type="usage">all</prohibits>')),
        "permits other users only": (FORBIDS, _terms(free.format("all") + '<permits type="user">education</permits>')),
        "terms for another path": (FORBIDS, _terms(free.format("all"), "/private/")),
        "terms that cannot be read": (FORBIDS, "<rsl><content"),
        "terms in HTML": (FORBIDS, "<html>our licence</html>"),
    }  # fmt: skip
    for wish, (forbids, text) in terms.items():
        files = text_file("/license.xml", text, Content_Type=RSL_TYPE)
        line = "User-agent: *\nAllow: /\nLicense: http://HOST/license.xml\n"
        yield Case("RSL, robots.txt", wish, forbids, {**files, **text_file("/robots.txt", line)})
        link = (("Link", f'</license.xml>; rel="license"; type="{RSL_TYPE}"'),)
        yield Case("RSL, Link header of the image", wish, forbids, files, image_headers=link)
    asked = text_file("/license.xml", terms["asks for attribution"][1], Content_Type=RSL_TYPE)
    free_terms = text_file("/license.xml", terms["permits all, free"][1], Content_Type=RSL_TYPE)
    yield Case("RSL, Link header of an archived page", "asks for attribution", FORBIDS, asked, headers=link)
    yield Case("RSL, Link header of an archived page", "permits all, free", PERMITS, free_terms, headers=link)
    element = f'<link rel="license" type="{RSL_TYPE}" href="/license.xml">'
    yield Case("RSL, link element of a page", "asks for attribution", FORBIDS, asked, head=element)
    yield Case("RSL, link element of a page", "permits all, free", PERMITS, free_terms, head=element)
    yield Case("RSL, link element of a page", "terms that are missing", FORBIDS, head=element)
    for spelling in (
        "License: <http://HOST/no.xml>",
        'License: "http://HOST/no.xml"',
        "License: /no.xml",
        "license:/no.xml",
    ):
        yield robots(
            "RSL, robots.txt", f"{spelling}, which is missing", FORBIDS, f"User-agent: *\nAllow: /\n{spelling}\n"
        )
    challenge = (("WWW-Authenticate", 'License error="invalid_request"'),)
    yield Case("RSL, challenge", "WWW-Authenticate: License", FORBIDS, headers=challenge)


def _ai_txt():
    for text in ("User-Agent: *\nDisallow: /", "User-Agent: *\nDisallow: *.jpg", "user-agent: *\ndisallow: /*.jpg",
                 "# Spawning AI\nUser-Agent: *\nDisallow: *.jpg\nDisallow: *.png"):  # fmt: skip
        yield Case("ai.txt (Spawning)", text, FORBIDS, text_file("/ai.txt", text))
    for text in ("User-Agent: *\nAllow: /", "User-Agent: *\nDisallow: *.mp3", "User-Agent: *\nDisallow:"):
        yield Case("ai.txt (Spawning)", text, PERMITS, text_file("/ai.txt", text))
    status = text_file("/ai.txt", "User-Agent: *\nDisallow: /", 203)
    yield Case("ai.txt (Spawning)", "status 203 with a prohibition", FORBIDS, status)


def _iptc():
    syntax = 'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
    packet = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF {syntax}>{{}}</rdf:RDF></x:xmpmeta>'
    plus = 'xmlns:plus="http://ns.useplus.org/ldf/xmp/1.0/"'
    vocabulary = "http://ns.useplus.org/ldf/vocab/"
    for forbids, values in (
        (FORBIDS, ("DMI-PROHIBITED", "DMI-PROHIBITED-AIMLTRAINING", "DMI-PROHIBITED-GENAIMLTRAINING",
                   "DMI-PROHIBITED-EXCEPTSEARCHENGINEINDEXING", "DMI-PROHIBITED-SEECONSTRAINT",
                   "DMI-PROHIBITED-SEEEMBEDDEDRIGHTSEXPR", "DMI-PROHIBITED-NEWVALUE")),
        (PERMITS, ("DMI-ALLOWED", "DMI-UNSPECIFIED")),
    ):  # fmt: skip
        for value in values:
            for form in (
                f'<rdf:Description {plus} plus:DataMining="{vocabulary}{value}"/>',
                f"<rdf:Description {plus}><plus:DataMining>{vocabulary}{value}</plus:DataMining></rdf:Description>",
            ):
                yield Case("IPTC Data Mining", form.partition("DataMining")[2], forbids, xmp=packet.format(form))


def _managers():
    group = "refusals of bot managers, for robots.txt"
    challenge = "<html><title>Just a moment...</title><script src='/cdn-cgi/challenge-platform/x'></script>"
    for status, headers in (
        (403, {"cf-mitigated": "challenge"}),
        (503, {"cf-mitigated": "block"}),
        (403, {}),
        (429, {}),
    ):
        answer = (status, {"Content-Type": "text/html", **headers}, challenge.encode())
        yield Case(group, f"{status} {headers or 'with a challenge in the page'}", FORBIDS, {"/robots.txt": answer})


def _lists():
    group = "opt-out lists"
    for entry in ("HOST", "*.HOST", "http://HOST/*", "http://HOST/image.jpg", "https://HOST/image.jpg",
                  "HTTP://HOST/image.jpg", "http://HOST/image.jpg\t2026-01-01", "http://HOST/image.jpg 2026",
                  "HOST\t2026-01-01", "HOST # a letter"):  # fmt: skip
        yield Case(group, entry, FORBIDS, listed=entry)
    copies = [("JPEG", 40, 1.0), ("WEBP", 60, 1.0), ("PNG", 90, 0.5), ("JPEG", 80, 0.5), ("JPEG", 85, 2.0)]
    for kind in ("phash", "pdq"):
        for copy in copies:
            wish = f"{kind} of a copy: {copy[0]} of quality {copy[1]}, {copy[2]:g} times the size"
            yield Case("copies of listed images", wish, FORBIDS, listed=f"{kind}:COPY", copy=copy)
        yield Case("copies of listed images", f"{kind} of another image", PERMITS, listed=f"{kind}:OTHER")
    for entry in ("http://HOST/other.jpg", "other.HOST", "http://HOST/image.jpg?size=2", "# HOST"):
        yield Case(group, entry, PERMITS, listed=entry)
