"""Compare the extraction of pairs from HTML: ours (Lexbor) with an extractor on lxml that has the same rules.

    python -m benchmarks.extract_html [--quick] [--json] [--file some.warc.gz]

Both read the bytes of pages and the charset of their response, and return (URL, caption, source) of each pair. The
peer uses lxml and the standard library (urljoin, NFC); libxml2 decodes its texts. It shares the data of our rule
(the names of lazy-load attributes) and no code; it has no checks of hostile pages, licences, stand-ins, opt-outs
and bounds, and does not detect undeclared charsets. The pages are synthetic, from a seed, in the form of a shop, a
newspaper and a gallery: about 100 kB each with scripts and styles; their pairs are equal. `--file` adds a WARC file
of real pages, and counts the pages whose pairs differ, by kind (`KINDS`). Times are medians of CPU time; MB are
pages without their content encoding.
"""

import json
import random
import re
import sys
import time
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag, urljoin

from selectolax.lexbor import LexborHTMLParser

from benchmarks.measure import Row, finish, make_parser, peer_imports, time_in_turn
from dataops.archives.warc import Page, read_pages
from dataops.web.charsets import convert_to_utf8
from dataops.web.image_urls import LAZY_SRC, LAZY_SRCSET
from dataops.web.page_pairs import PageBounds, PagePair
from dataops.web.pages import extract_page_pairs
from dataops.web.urls import BadUrl, canonicalise_url

with peer_imports():
    from lxml import html as lxml_html

Pair = tuple[str, str, str | None]
BOUNDS = PageBounds(caption=2000, url=4096)
PEER = "lxml 6 extractor"
KINDS = {
    "address": "the pairs are equal after the peer's URLs are made canonical (non-ASCII characters, spaces, hosts)",
    "unusable": "the peer has pairs that ours drops with a reason (bounds, no usable URL)",
    "stand-in": "the peer also has images in <noscript> that stand in for one that was found",
    "white space": "a text differs only in white space (figcaption: words that <br> and blocks separate)",
    "charset": "libxml2 decoded a text differently: mojibake if the page declares no charset, or late",
    "choice": "another URL of an image that offers several (libxml2 nests <source> differently)",
    "several": "more than one of these, or images and figures that one tree lacks: libxml2 repairs pages unlike browsers",
}
WORDS = "red kite old harbour small cat über garden café winter light bridge naïve river house of the on a".split()  # noqa: SIM905
_SETS = frozenset(("srcset", *LAZY_SRCSET))
_LAZY = (*LAZY_SRCSET, *LAZY_SRC)
_TEXTS = (("alt", "alt"), ("aria_label", "aria-label"), ("title", "title"))
_CANDIDATE = re.compile(r"\s*([^\s,]\S*[^\s,])(?:\s+([\d.]+)([wx]))?\s*(?:,|$)")
_NO_IMAGE = re.compile(r"\s*(?:$|#|data:|blob:|about:|javascript:)|.*\.(?:svgz?|jxl|hei[cf]|jp2|ico)(?:[?#]|$)", re.I)
_DECODED = {"", *(f"image/{kind}" for kind in ("jpeg", "jpg", "png", "webp", "gif", "avif", "bmp"))}


def ours(pages: Sequence[Page]) -> list[list[Pair]]:
    """Return the pairs of each page, by dataops.web.pages."""
    return [[row[:3] for row in _rows(page) if row.reason is None] for page in pages]


def _rows(page: Page) -> list[PagePair]:
    html, _ = convert_to_utf8(page.body, page.charset)
    return extract_page_pairs(html, page.url, BOUNDS).pairs


def peer(pages: Sequence[Page]) -> list[list[Pair]]:
    """Return the pairs of each page, by lxml."""
    return [_by_lxml(_tree(page), page.url) for page in pages]


def _tree(page: Page) -> Any:
    try:
        parser = lxml_html.HTMLParser(encoding=page.charset, huge_tree=True)
    except LookupError:
        parser = lxml_html.HTMLParser(huge_tree=True)
    return lxml_html.document_fromstring(page.body, parser=parser)


def _by_lxml(tree: Any, page_url: str, within: str | None = None) -> list[Pair]:
    base = next((node.get("href") for node in tree.iter("base") if node.get("href")), None)
    base = urljoin(page_url, base) if base else page_url
    found: list[Pair] = []
    for image in tree.iter("img") if within is None else tree.iterfind(f".//{within}//img"):
        attributes = dict(image.attrib)
        sources, above = [], image.getparent()
        while above is not None and above.tag == "source":  # libxml2 does not know that it is a void element
            sources.insert(0, dict(above.attrib))
            above = above.getparent()
        texts = [(source, attributes.get(name, "")) for source, name in _TEXTS]
        figure = next(image.iterancestors("figure"), None)
        caption = figure.find(".//figcaption") if figure is not None else None
        if caption is not None:
            texts.append(("figcaption", caption.text_content()))
        found += _pairs(base, _largest(attributes, sources), texts)
    metas = ((node.get("property") or node.get("name") or "", node.get("content") or "") for node in tree.iter("meta"))
    for reference, texts in _shared([(name.lower(), content) for name, content in metas]):
        found += _pairs(base, reference, [("og", text) for text in texts])
    return found


def _largest(image: Mapping[str, str], sources: Sequence[Mapping[str, str]]) -> str:
    """Return the URL of the largest offered image; lazy-load attributes take precedence."""
    usable = [source for source in sources if source.get("type", "") in _DECODED]
    for names in (_LAZY, ("srcset", "src")):
        offers: list[tuple[float, float, str]] = []
        for element in (image, *usable):
            for name in names:
                if name not in element:
                    continue
                if name not in _SETS:
                    offers.append((0, 1, element[name]))
                    continue
                for url, number, unit in _CANDIDATE.findall(element[name]):
                    size = float(number) if number else 1
                    offers.append((size, 1, url) if unit == "w" else (0, size, url))
        offers = [offer for offer in offers if not _NO_IMAGE.match(offer[2])]
        if offers:
            return max(offers, key=lambda offer: offer[:2])[2]
    return image.get("src", "")


def _shared(metas: Sequence[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """Return each og:image with its alt; the first also with the title and the description."""
    images: dict[str, list[str]] = {}
    values: dict[str, str] = {}
    current = None
    for name, content in metas:
        values.setdefault(name, content)
        if name in ("og:image", "og:image:url") and content:
            current = images.setdefault(content, [])
        elif name == "og:image:alt" and current is not None:
            current.append(content)
    prefix = "og" if images else "twitter"
    if not images and values.get("twitter:image"):
        images[values["twitter:image"]] = [values.get("twitter:image:alt", "")]
    for texts in list(images.values())[:1]:
        texts += [values.get(f"{prefix}:{name}") or values.get(f"og:{name}", "") for name in ("title", "description")]
    return list(images.items())


def _pairs(base: str, reference: str, texts: Sequence[tuple[str, str]]) -> list[Pair]:
    try:
        url = urldefrag(urljoin(base, reference.strip())).url
    except ValueError:
        return []
    if not reference.strip() or not url.startswith(("http://", "https://")):
        return []
    unique: dict[str, str] = {}
    for source, text in texts:
        unique.setdefault(" ".join(unicodedata.normalize("NFC", text).split()), source)
    return [(url, text, source) for text, source in unique.items() if text]


def classify_difference(page: Page, mine: list[Pair], theirs: list[Pair]) -> str | None:
    """Return the first of KINDS that explains all differences of a page, else `several`; None if the pairs are equal."""
    if mine == theirs:
        return None
    only_ours = Counter(mine) - (of_peer := Counter(map(_canonical_pair, theirs)))
    only_theirs = of_peer - Counter(mine)
    if not only_ours:
        if not only_theirs:
            return "address"
        rows = {(row.url, row.caption) for row in _rows(page) if row.reason}
        if all(not url or (url, text) in rows for url, text, _ in only_theirs):
            return "unusable"
        if not only_theirs - Counter(map(_canonical_pair, _by_lxml(_tree(page), page.url, "noscript"))):
            return "stand-in"
    for kind, form in (("white space", _unspaced), ("charset", _ascii), ("choice", _without_url)):
        if Counter(map(form, only_ours.elements())) == Counter(map(form, only_theirs.elements())):
            return kind
    return "several"


def _canonical_pair(pair: Pair) -> Pair:
    return _canonical(pair[0]), *pair[1:]


def _without_url(pair: Pair) -> Pair:
    return "", *pair[1:]


def _canonical(url: str) -> str:
    try:
        return canonicalise_url(url, url, BOUNDS.url)
    except BadUrl:
        return ""


def _unspaced(pair: Pair) -> Pair:
    return pair[0], "".join(pair[1].split()), pair[2]


def _ascii(pair: Pair) -> Pair:
    return pair[0], "".join(re.findall(r"[a-zA-Z0-9]", pair[1])), pair[2]


def make_pages(number: int, seed: int = 0) -> list[Page]:
    """Return synthetic pages of a shop, a newspaper and a gallery."""
    rng = random.Random(seed)
    shapes = (_shop, _newspaper, _gallery)
    return [
        Page(f"https://site{i}.example/{i % 7}/page.html", 0, shapes[i % len(shapes)](rng).encode(), "utf-8")
        for i in range(number)
    ]


def _page(rng: random.Random, body: str) -> str:
    title = _text(rng, 6)
    head = (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta property="og:image" content="/share/{rng.randrange(1000)}.jpg">'
        f'<meta property="og:title" content="{title}">'
        f'<meta name="robots" content="index, follow"><style>{".a{color:#fff;margin:0 auto}" * 900}</style></head><body>'
    )
    menu = "".join(f'<li class="menu-item"><a href="/c/{i}">{_text(rng, 2)}</a></li>' for i in range(150))
    script = "<script>" + "window.data.push({id:1,price:'9.99',name:'x'});if(a<b&&c>d){run();}" * 700 + "</script>"
    return (
        f'{head}<nav><ul>{menu}</ul></nav><div class="page"><div class="wrap">{body}</div></div>{script}</body></html>'
    )


def _shop(rng: random.Random) -> str:
    items = (
        f'<li class="product"><a href="/p/{i}"><img class="lazy" src="data:image/gif;base64,R0lGODlhAQABAAAAACw=" '
        f'data-src="/img/{i}.jpg?w=300&amp;v=2" width="300" height="300" alt="{_text(rng, 5)}"></a>'
        f'<h2>{_text(rng, 5)}</h2><span class="price"><bdi>9.99</bdi></span></li>'
        for i in range(60)
    )
    return _page(rng, f"<ul>{''.join(items)}</ul>")


def _newspaper(rng: random.Random) -> str:
    articles = (
        f'<article><picture><source type="image/webp" srcset="/w/{i}-400.webp 400w, /w/{i}-800.webp 800w">'
        f'<img src="/w/{i}.jpg" alt="{_text(rng, 8)}" title="{_text(rng, 3)}"></picture>'
        f"<p>{_text(rng, 120)}</p><p>{_text(rng, 90)}</p></article>"
        for i in range(25)
    )
    return _page(rng, "".join(articles))


def _gallery(rng: random.Random) -> str:
    figures = (
        f'<figure><img src="../g/{i}.jpg" srcset="../g/{i}.jpg 1x, ../g/{i}@2x.jpg 2x" alt="">'
        f"<figcaption>{_text(rng, 9)} <b>{_text(rng, 2)}</b></figcaption></figure>"
        for i in range(80)
    )
    return _page(rng, "".join(figures))


def _text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(WORDS, k=words))


def compare_pages(case: str, pages: Sequence[Page], times: int) -> tuple[list[Row], Counter[str]]:
    """Return the rows of pages, and the number of pages that differ, by kind."""
    size = sum(len(page.body) for page in pages) / 1e6
    for run in (ours, peer):  # imports and compiled code
        run(pages[:3])
    mine, theirs, found, peers = time_in_turn(lambda: ours(pages), lambda: peer(pages), times, time.process_time)
    started = time.process_time()
    for page in pages:
        LexborHTMLParser(page.body)
    limit = size / (time.process_time() - started)
    kinds = Counter(filter(None, map(classify_difference, pages, found, peers)))
    equal = len(pages) - kinds.total()
    return [
        Row(f"html {case}", size / mine, size / theirs, PEER, "MB/s a core", goal=2.0, limit=limit),
        Row(f"html {case}, equal pages", equal, len(pages), "all", "pages", goal=None if kinds else 1.0),
    ], kinds


def measure_html(quick: bool) -> list[Row]:
    """Return the rows of the `html` case on synthetic pages."""
    found, kinds = compare_pages("made pages", make_pages(60 if quick else 300), 9)
    if kinds:
        raise AssertionError(f"the pairs of synthetic pages differ: {dict(kinds)}")
    return found


def main() -> int:
    """Run the benchmark. Raises: AssertionError if the pairs of synthetic pages differ."""
    parser = make_parser(__doc__ or "")
    parser.add_argument("--file", type=Path, help="a WARC file of real pages")
    options = parser.parse_args()
    found = measure_html(options.quick)
    if options.file:
        pages = [page for page in read_pages(options.file, 50_000_000, lambda _: None) if isinstance(page, Page)]
        more, kinds = compare_pages(options.file.name, pages, 3 if options.quick else 5)
        found += more
        if not options.json:
            sys.stdout.write(f"pages that differ: {json.dumps(dict(kinds.most_common()))}\n")
    return finish("extract_html", found, ["selectolax", "lxml"], equal=True, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
