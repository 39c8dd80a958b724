"""Each declaration of rights at each place, in one web: the row of each page and image, and no forbidden request.

Each form has a host with a page at `/`, which shows `/1.png`. The site crawl and `extract` read the page, and `download`
reads the image.
"""

import gzip
import hashlib
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace

import pytest

from dataops.plugins import find
from dataops.rights.signals import list_names
from dataops.snapshot import read_parts, read_table
from dataops.store import FolderStore
from tasks.download.config import DownloadConfig
from tasks.download.opener import make_opener
from tasks.engine.stage import make, plan
from tasks.extract.stage import EXTRACT
from tasks.web.fetch_error import FetchError
from tasks.web.host_state import HostState
from tests.downloads import fetched
from tests.inline_executor import inline_context
from tests.servers.hostile_web import JUMBF, TDM, XMP, Answer, picture, served, with_chunk

pytestmark = pytest.mark.timeout(300)

AI = "/ai.txt"
KEPT, OPTED_OUT = ("archived", None, None), ("archived", "opt_out")
"""Outcome of a page, drop reason of its row, and its `page_opt_out`; the latter differs between forms."""
FORBIDDEN = ("opt_out", None, None)
"""A page that is not requested has no row."""
FREE = (None, None)
IMAGE = picture(1)


@dataclass(frozen=True)
class Form:
    """A declaration of a host, and what must follow from it.

    Attributes:
        page: outcome of the page in the crawl, drop reason of its row, and `page_opt_out`.
        image: drop reason of the image, and its opt-outs as signal and detail.
        also: further opt-outs of the image, which are only recorded.
        asked: whether the image may be requested.
        terms: paths of the terms that the download requests, too.
        page_terms: those that the crawl requests, too.
    """

    page: tuple[str, str | None, str | None] = KEPT
    image: tuple[str | None, tuple[str, str] | None] = FREE
    also: tuple[tuple[str, str], ...] = ()
    asked: bool = True
    robots: str = ""
    files: Mapping[str, Answer] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200
    body: bytes = b""
    head: str = ""
    content: bytes = IMAGE
    terms: tuple[str, ...] = ()
    page_terms: tuple[str, ...] = ()

    def answers(self, host):
        page = f'<html><head>{self.head}</head><img src="/1.png" alt="An image of {host}"></html>'.encode()
        html = {"Content-Type": "text/html"}
        robots = f"User-agent: *\n{self.robots}\n".encode()
        return {
            "/": (self.status, {**html, **self.headers}, self.body or page),
            "/1.png": (self.status, {"Content-Type": "image/png", **self.headers}, self.body or self.content),
            **({"/robots.txt": robots} if self.robots else {}),
            **self.files,
        }


def robots_form(lines, signal, detail, **more):
    """A line of robots.txt, which forbids both requests."""
    return Form(robots=lines, page=FORBIDDEN, image=("opt_out", (signal, detail)), asked=False, **more)


def header_form(name, value, directive, signal, detail, page=None):
    """A header of both responses: the page is stored and its row dropped, the image is requested and dropped."""
    return Form(headers={name: value}, page=page or (*OPTED_OUT, directive), image=("opt_out", (signal, detail)))


def page_form(head, directive, reason="opt_out"):
    """An element of the page, which concerns the rows of the page."""
    return Form(head=head, page=("archived", reason, directive))


def license_form(status, headers, *details, body=b"no"):
    """A response by which a server requires an RSL licence."""
    page = ("opt_out", None, "; ".join(f"rsl {detail}" for detail in details).replace(UNREAD, "/rsl.xml"))
    found = [("rsl", detail) for detail in details]
    terms = ("/rsl.xml",) if "Link" in headers else ()
    image = ("opt_out", found[0])
    return Form(status=status, headers=headers, body=body, page=page, image=image, also=tuple(found[1:]), terms=terms)


def terms_detail(terms, text):
    return f"{terms}; sha256:{hashlib.sha256(text).hexdigest()}"


def price_form(price, headers, body=b"pay", **more):
    """A response 402, whose offer is the more exact reason than other headers."""
    licenses = [f"rsl {detail}" for signal, detail in more.get("also", ()) if signal == "rsl"]
    return Form(
        status=402,
        headers=headers,
        body=body,
        page=("payment_required", None, "; ".join([price, *licenses]).replace(UNREAD, "/rsl.xml")),
        image=("payment_required", ("payment_required", price)),
        **more,
    )


RSL = "application/rsl+xml"
NO_TOKEN = 'License error="invalid_request", error_description="A license is required, with a token"'
NO_SCOPE = 'License error="insufficient_scope"'
LINKED = {"Link": f'</rsl.xml>; rel="license"; type="{RSL}"'}
UNREAD = "/rsl.xml, which answers 404"
FREE_TERMS = b'<rsl><content url="/"><license><permits type="usage">ai-train</permits></license></content></rsl>'
PAID_TERMS = FREE_TERMS.replace(b"</license>", b'<payment type="crawl"/></license>')
FORMS = {
    # robots.txt: before any request
    "disallow": Form(robots="Disallow: /", page=("robots_denied", None, None), image=("robots", None), asked=False),
    "robots-usage": robots_form("Content-Usage: train-ai=n\nAllow: /", "content-usage", "train-ai=n"),
    "robots-signal": robots_form("Content-Signal: search=yes,ai-train=no\nAllow: /", "content-signal", "ai-train=no"),
    "robots-license": robots_form(
        "License: https://a.test/rsl.xml\nAllow: /", "rsl", "https://a.test/rsl.xml, which cannot be read (dns)"
    ),
    "robots-longest": Form(
        robots="Content-Usage: train-ai=y\nContent-Usage: /1.png train-ai=n",
        image=("opt_out", ("content-usage", "train-ai=n")),
        asked=False,
    ),
    "robots-page-only": Form(
        robots="Content-Signal: ai-train=no\nContent-Signal: /1.png ai-train=yes", page=FORBIDDEN
    ),
    "robots-agents": Form(
        robots="Disallow:\nUser-agent: GPTBot\nDisallow: /", image=("opt_out", ("robots-ai-agents", "GPTBot")), asked=False
    ),
    "robots-agents-usage": Form(
        robots="Disallow:\nUser-agent: GPTBot\nContent-Usage: train-ai=n",
        image=("opt_out", ("content-usage", "train-ai=n for GPTBot")),
        asked=False,
    ),
    "robots-license-free": Form(
        robots="License: </l.xml>\nAllow: /", files={"/l.xml": FREE_TERMS}, terms=("/l.xml",), page_terms=("/l.xml",)
    ),
    "robots-license-paid": replace(
        robots_form("License: l.xml\nAllow: /", "rsl", terms_detail("payment crawl", PAID_TERMS)),
        files={"/l.xml": PAID_TERMS},
        terms=("/l.xml",),
        page_terms=("/l.xml",),
    ),
    "robots-training": robots_form("Allow: /\nDisallowAITraining: /", "disallow-ai-training", "disallowaitraining"),
    # Files of the host: before the request of an image
    "tdmrep": Form(
        files={TDM: b'[{"location": "/", "tdm-reservation": 1, "tdm-policy": "https://a.test/"}]'},
        image=("opt_out", ("tdmrep", "/, policy https://a.test/")),
        asked=False,
    ),
    **{
        f"tdmrep-{status}": Form(
            files={TDM: (status, {}, b'[{"location": "/", "tdm-reservation": 1}]')},
            image=("opt_out", ("tdmrep", "/")),
            asked=False,
        )
        for status in (201, 202, 203, 206, 226, 299)
    },
    "tdmrep-gzip": Form(
        files={TDM: (200, {"Content-Encoding": "gzip"}, gzip.compress(b'{"location": "/", "tdm-reservation": true}'))},
        image=("opt_out", ("tdmrep", "/")),
        asked=False,
    ),
    "tdmrep-unreadable": Form(
        files={TDM: (200, {"Content-Encoding": "gzip"}, gzip.compress(b"[]" * 99)[:20])},
        image=("opt_out", ("tdmrep", "the file cannot be read: bad_encoding")),
        asked=False,
    ),
    "aitxt-203": Form(
        files={AI: (203, {}, b"User-Agent: *\nDisallow: *.png")}, image=("opt_out", ("ai-txt", "Disallow")), asked=False
    ),
    "aitxt": Form(
        files={AI: b"User-Agent: *\nDisallow: *.png"}, image=("opt_out", ("ai-txt", "Disallow")), asked=False
    ),
    # Headers: before the body
    "header-usage": header_form("Content-Usage", "search=y, train-ai=n", "content-usage", "content-usage", "train-ai=n"),
    "header-signal": header_form(
        "Content-Signal", "ai-train=no, search=yes", "content-signal", "content-signal", "ai-train=no"
    ),
    "header-rsl": replace(
        header_form("Link", LINKED["Link"], "rsl", "rsl", UNREAD),
        page=("archived", None, "rsl:http://header-rsl.test/rsl.xml"),
        terms=("/rsl.xml",),
    ),
    "header-tdm": header_form(
        "TDM-Reservation", "1", "", "tdm-reservation", "1", page=("archived", None, "tdm-reservation")
    ),
    "header-noai": header_form("X-Robots-Tag", "noai", "noai", "noai", "noai"),
    "header-noml": header_form("X-Robots-Tag", "noml", "noml", "noml", "noml"),
    "header-noimageai": header_form("X-Robots-Tag", "noimageai", "noimageai", "noimageai", "noimageai"),
    "header-noimageindex": header_form("X-Robots-Tag", "noimageindex", "noimageindex", "noimageindex", "noimageindex"),
    "header-noindex": header_form(
        "X-Robots-Tag", "noindex", "", "noindex", "noindex", page=("noindex", None, None)
    ),
    # Refusals of a server that requires an RSL licence
    "license-401": license_form(401, {"WWW-Authenticate": NO_TOKEN}, NO_TOKEN),
    "license-linked": license_form(401, {"WWW-Authenticate": NO_TOKEN, **LINKED}, UNREAD, NO_TOKEN),
    "license-inline": license_form(401, {"WWW-Authenticate": "License", "Content-Type": RSL}, "License", RSL),
    "license-403": license_form(403, {"WWW-Authenticate": NO_SCOPE}, NO_SCOPE),
    "license-403-linked": license_form(403, LINKED, UNREAD),
    "license-503": license_form(503, {"WWW-Authenticate": "License error=server_error"}, "License error=server_error"),
    "license-200": header_form("WWW-Authenticate", NO_TOKEN, "rsl", "rsl", NO_TOKEN),
    "refused": Form(
        status=401,
        headers={"WWW-Authenticate": 'Basic realm="License", license="no"'},
        body=b"no",
        page=("http_401", None, None),
        image=("http_401", None),
    ),
    "mitigated": Form(
        status=403,
        headers={"cf-mitigated": "challenge"},
        body=b"no",
        page=("opt_out", None, "bot-manager cf-mitigated: challenge"),
        image=("opt_out", ("bot-manager", "cf-mitigated: challenge")),
    ),
    "robots-mitigated": Form(
        files={"/robots.txt": (403, {"cf-mitigated": "challenge"}, b"no")},
        page=FORBIDDEN,
        image=("opt_out", ("bot-manager", "cf-mitigated: challenge")),
        asked=False,
    ),
    "robots-challenged": Form(
        files={"/robots.txt": (403, {"Content-Type": "text/html"}, b"<title>Just a moment...</title>")},
        page=FORBIDDEN,
        image=("opt_out", ("bot-manager", "challenge: <title>just a moment")),
        asked=False,
    ),
    "robots-challenged-compressed": Form(
        files={
            "/robots.txt": (
                403,
                {"Content-Type": "text/html", "Content-Encoding": "gzip"},
                gzip.compress(b"<script>window._cf_chl_opt = {}</script>"),
            )
        },
        page=FORBIDDEN,
        image=("opt_out", ("bot-manager", "challenge: _cf_chl_opt")),
        asked=False,
    ),
    "robots-challenged-200": Form(
        files={
            "/robots.txt": (
                200,
                {"Content-Type": "text/html"},
                b"<iframe>Request unsuccessful. Incapsula incident ID: 1-2</iframe>",
            )
        },
        page=FORBIDDEN,
        image=("opt_out", ("bot-manager", "challenge: incapsula incident id")),
        asked=False,
    ),
    "challenged-in-json": Form(
        status=403,
        headers={"Content-Type": "application/json"},
        body=b'{"url": "https://geo.captcha-delivery.com/captcha/"}',
        page=("opt_out", None, "bot-manager challenge: captcha-delivery.com"),
        image=("opt_out", ("bot-manager", "challenge: captcha-delivery.com")),
    ),
    "challenged": Form(
        status=403,
        headers={"Content-Type": "text/html"},
        body=b"<title>Just a moment...</title>",
        page=("opt_out", None, "bot-manager challenge: <title>just a moment"),
        image=("opt_out", ("bot-manager", "challenge: <title>just a moment")),
    ),
    "refused-403": Form(status=403, body=b"no", page=("http_403", None, None), image=("http_403", None)),
    # Elements of the page: they concern its rows, and not the image on its host
    "meta-usage": page_form('<meta name="content-usage" content="train-ai=n">', "content-usage"),
    "meta-signal": page_form('<meta name="content-signal" content="ai-train=no">', "content-signal"),
    "meta-noai": page_form('<meta name="robots" content="noai, noimageai">', "noai,noimageai"),
    "meta-noimageindex": page_form('<meta name="robots" content="noimageindex">', "noimageindex"),
    "meta-agent": page_form('<meta name="GPTBot" content="noai">', "noai"),
    "meta-tdm": page_form('<meta name="tdm-reservation" content="1">', "tdm-reservation", None),
    "link-rsl": page_form(f'<link rel="license" type="{RSL}" href="/rsl.xml">', "rsl:http://link-rsl.test/rsl.xml", None),
    "script-rsl": page_form(f'<script type="{RSL}"><rsl></rsl></script>', "rsl"),
    # Status 402, never paid
    "price": price_form("crawler-price: USD 0.01", {"crawler-price": "USD 0.01"}),
    "price-body": price_form('body: {"x402Version": 1}', {"Content-Type": "application/json"}, b'{"x402Version": 1}'),
    "price-none": price_form("no price", {}),
    "price-license": price_form(
        "no price", {"WWW-Authenticate": NO_TOKEN, **LINKED}, also=(("rsl", UNREAD), ("rsl", NO_TOKEN)), terms=("/rsl.xml",)
    ),
    "price-and-usage": price_form(
        "crawler-price: USD 1",
        {"crawler-price": "USD 1", "Content-Usage": "train-ai=n"},
        also=(("content-usage", "train-ai=n"),),
    ),
    # Marks in the image: after its body
    "iptc": Form(
        content=with_chunk(b"iTXt", XMP), image=("opt_out", ("iptc", "DMI-PROHIBITED-AIMLTRAINING"))
    ),
    "c2pa": Form(content=with_chunk(b"caBX", JUMBF), image=("opt_out", ("c2pa", "ai_training notAllowed"))),
    # A permission beside a prohibition changes nothing, and permissions alone forbid nothing
    "restrictive-wins": header_form(
        "Content-Usage", "train-ai=y, train-ai=n", "content-usage", "content-usage", "train-ai=n"
    ),
    "permitted": Form(
        robots="Content-Usage: train-ai=y\nContent-Signal: ai-train=yes,search=no",
        files={TDM: b'[{"location": "/", "tdm-reservation": 0}]', AI: b"User-Agent: *\nAllow: /"},
        headers={"Content-Usage": "train-ai=y", "Content-Signal": "ai-train=yes, ai-input=no", "TDM-Reservation": "0"},
        head='<meta name="content-usage" content="train-ai=y"><meta name="robots" content="all">',
    ),
}  # fmt: skip


def url(name, path=""):
    return f"http://{name}.test/{path}"


@pytest.fixture(scope="module")
def web():
    with served({f"{name}.test": form.answers(name) for name, form in FORMS.items()}) as web:
        yield web


def requests(web):
    """Return the paths that were requested of each host, sorted, and forget them."""
    found = {host.removesuffix(".test"): sorted(paths) for host, paths in web.paths().items()}
    web.log.clear()
    return found


def crawl(web, folder):
    pytest.importorskip("plugins.crawl")
    store = FolderStore(folder / "store")
    site = find("sources", "site")(
        start=tuple(map(url, FORMS)), connect_to=web.connect_to(), delay=0.0, retries=0, timeout=20
    )
    context = inline_context(store, folder / "home")
    return make(plan(EXTRACT, site, 0, []), context), store


def test_pages_of_a_crawl_have_the_expected_rows_and_no_forbidden_request(web, tmp_path):
    manifest, store = crawl(web, tmp_path)
    asked = {
        name: sorted(
            [*(["/"] if form.page not in (FORBIDDEN, FORMS["disallow"].page) else []), "/robots.txt", *form.page_terms]
        )
        for name, form in FORMS.items()
    }
    assert requests(web) == asked
    index = {row["url"]: row for row in read_table(store, manifest.path("evidence-crawl.parquet")).to_pylist()}
    rows = {row["page_url"]: (None, row["page_opt_out"]) for row in read_parts(store, manifest).to_pylist()}
    for part in manifest.named("dropped-"):
        dropped = read_table(store, manifest.path(part.name)).to_pylist()
        rows |= {row["page_url"]: (row["drop_reason"], row["page_opt_out"]) for row in dropped}
    found = {
        name: (
            index[url(name)]["outcome"],
            *rows.get(url(name), (None, index[url(name)]["detail"] if form.status != 200 else None)),
        )
        for name, form in FORMS.items()
    }
    assert found == {name: form.page for name, form in FORMS.items()}
    for name, form in FORMS.items():
        if form.page == FORBIDDEN and form.image[1]:
            assert index[url(name)]["detail"].partition(",")[0] == " ".join(form.image[1]).partition(",")[0]


def test_images_have_the_expected_rows_and_no_forbidden_request(web, tmp_path):
    urls = [url(name, "1.png") for name in FORMS]
    reasons, evidence = fetched(tmp_path, urls, connect_to=web.connect_to(), host_rate=0)
    files = sorted(["/robots.txt", TDM, AI])
    asked = {name: sorted([*files, *form.terms, *(["/1.png"] if form.asked else [])]) for name, form in FORMS.items()}
    refused = {
        name: ["/robots.txt"] for name in FORMS if name == "disallow" or name.startswith(("robots-mit", "robots-ch"))
    }
    assert requests(web) == asked | refused
    found = {
        name: (reasons[url(name, "1.png")], [(one["signal"], one["detail"]) for one in opt_outs])
        for name in FORMS
        for opt_outs in [evidence[url(name, "1.png")]["opt_out"]]
    }
    assert found == {
        name: (form.image[0], [*filter(None, (form.image[1],)), *form.also]) for name, form in FORMS.items()
    }
    for name, form in FORMS.items():
        row = evidence[url(name, "1.png")]
        assert bool(row["fetched_at"]) == form.asked, name
        assert all(one["where"].startswith(url(name)) and one["when"] for one in row["opt_out"]), name
        is_marked = name in ("iptc", "c2pa")
        assert (row["bytes"] is not None) == (form.image[0] is None or is_marked), name  # else no body was read


def test_terms_that_a_page_names_decide_on_its_images(tmp_path):
    """`extract` writes the address of the terms into page_opt_out, and whoever permits training freely is used."""
    terms = {
        "free": FREE_TERMS,
        "paid": PAID_TERMS,
        "other-path": FREE_TERMS.replace(b'"/"', b'"/private/"'),
        "broken": b"<rsl>",
    }
    sites = {f"{name}.test": {"/l.xml": text, "/robots.txt": b""} for name, text in terms.items()}
    sites["closed.test"] = {"/l.xml": FREE_TERMS, "/robots.txt": b"User-agent: *\nDisallow: /"}
    sites["images.test"] = {f"/{name}.png": IMAGE for name in (*terms, "closed", "missing", "both", "odd", "none")}
    column = {f"{name}": f"noindex,rsl:http://{name}.test/l.xml" for name in (*terms, "closed")}
    column["missing"] = "rsl:http://free.test/missing.xml"
    column["both"] = "rsl:http://free.test/l.xml,rsl:http://paid.test/l.xml"
    column["odd"] = "rsl:urn:x,other:http://paid.test/l.xml"
    urls = {name: f"http://images.test/{name}.png" for name in (*column, "none")}
    pages = {urls[name]: value for name, value in column.items()}
    answers = {
        host: {path: (200, {"Content-Type": "image/png" if path.endswith("png") else RSL}, body)
               for path, body in files.items()}
        for host, files in sites.items()
    }  # fmt: skip
    with served(answers) as web:
        reasons, evidence = fetched(
            tmp_path, [*urls.values()], pages, connect_to=web.connect_to(), host_rate=0, opt_out=("noai",)
        )
        paths = web.paths()
    assert {name for name, url in urls.items() if reasons[url] is None} == {"free", "none"}
    assert {reasons[url] for url in urls.values()} == {None, "opt_out"}
    assert sorted(path for path in paths["images.test"] if path.endswith("png")) == ["/free.png", "/none.png"]
    assert "/l.xml" not in paths["closed.test"]
    assert sorted(path for path in paths["free.test"] if path != "/robots.txt") == ["/l.xml", "/missing.xml"]
    [permission] = evidence[urls["free"]]["permissions"]
    assert permission["signal"] == "rsl"
    assert "free of charge" in permission["detail"]
    assert evidence[urls["paid"]]["opt_out"][0]["detail"].startswith("payment crawl")


def test_only_the_configured_signals_drop_images(web, tmp_path):
    shown = {
        name: form for name, form in FORMS.items() if form.image[0] == "opt_out" and not name.startswith("license")
    }
    names = {form.image[1][0]: name for name, form in shown.items() if form.image[1]}
    signals = list_names("download")
    assert set(names) == set(signals)
    for chosen in ((), *((signal,) for signal in signals)):
        config = DownloadConfig(connect_to=web.connect_to(), host_rate=0, opt_out=chosen)
        dropped = []
        with closing(make_opener(config, HostState(tmp_path / "".join(chosen)))) as opener:
            for signal, name in names.items():
                try:
                    opener.open(url(name, "1.png"))
                except FetchError as error:
                    dropped += [(signal, "opt_out")] if error.reason == "opt_out" else []
            recorded = {one.signal for evidence in opener.evidence.values() for one in evidence.opt_out}
        assert dropped == [(signal, "opt_out") for signal in chosen]
        is_read = {"tdmrep", "ai-txt"} & set(chosen)
        assert recorded == set(signals) - {"tdmrep", "ai-txt"} | is_read
        asked = {path for _, _, path in web.log}
        assert (TDM in asked, AI in asked) == ("tdmrep" in chosen, "ai-txt" in chosen)
        web.log.clear()
