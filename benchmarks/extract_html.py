"""Compare the extraction of pairs from HTML, for benchmarks/extract.py: ours (Lexbor) with an extractor on lxml.

Both have the same rules, read the bytes of pages and the charset of their response, and return (URL, caption, source)
of each pair. The peer uses lxml and the standard library (urljoin, NFC); libxml2 decodes its texts. It shares the
data of our rule (the names of lazy-load attributes) and no code; it has no checks of hostile pages, licences, stand-
ins, opt-outs and bounds, and does not detect undeclared charsets. The pages are synthetic, from a seed, in the form
of a shop, a newspaper and a gallery: about 100 kB each with scripts and styles; their pairs are equal. Times are
medians of CPU time.
"""

import random
import re
import time
import unicodedata
from urllib.parse import urldefrag, urljoin

from selectolax.lexbor import LexborHTMLParser

from benchmarks.measure import Row, peer_imports, time_in_turn
from dataops.archives.warc import Page
from dataops.web.charsets import convert_to_utf8
from dataops.web.image_urls import LAZY_SRC, LAZY_SRCSET
from dataops.web.page_pairs import PageBounds
from dataops.web.pages import extract_page_pairs

with peer_imports():
    from lxml import html as lxml_html

BOUNDS = PageBounds(caption=2000, url=4096)
PEER = "lxml 6 extractor"
WORDS = "red kite old harbour small cat über garden café winter light bridge naïve river house of the on a".split()  # noqa: SIM905
_SETS = frozenset(("srcset", *LAZY_SRCSET))
_LAZY = (*LAZY_SRCSET, *LAZY_SRC)
_TEXTS = (("alt", "alt"), ("aria_label", "aria-label"), ("title", "title"))
_CANDIDATE = re.compile(r"\s*([^\s,]\S*[^\s,])(?:\s+([\d.]+)([wx]))?\s*(?:,|$)")
_NO_IMAGE = re.compile(r"\s*(?:$|#|data:|blob:|about:|javascript:)|.*\.(?:svgz?|jxl|hei[cf]|jp2|ico)(?:[?#]|$)", re.I)
_DECODED = {"", *(f"image/{kind}" for kind in ("jpeg", "jpg", "png", "webp", "gif", "avif", "bmp"))}


def ours(pages):
    """Return the pairs of each page, by dataops.web.pages."""
    found = []
    for page in pages:
        html, _ = convert_to_utf8(page.body, page.charset)
        found.append([row[:3] for row in extract_page_pairs(html, page.url, BOUNDS).pairs if row.reason is None])
    return found


def peer(pages):
    """Return the pairs of each page, by lxml."""
    return [_by_lxml(_tree(page), page.url) for page in pages]


def _tree(page):
    try:
        parser = lxml_html.HTMLParser(encoding=page.charset, huge_tree=True)
    except LookupError:
        parser = lxml_html.HTMLParser(huge_tree=True)
    return lxml_html.document_fromstring(page.body, parser=parser)


def _by_lxml(tree, page_url):
    base = next((node.get("href") for node in tree.iter("base") if node.get("href")), None)
    base = urljoin(page_url, base) if base else page_url
    found = []
    for image in tree.iter("img"):
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


def _largest(image, sources):
    """Return the URL of the largest offered image; lazy-load attributes take precedence."""
    usable = [source for source in sources if source.get("type", "") in _DECODED]
    for names in (_LAZY, ("srcset", "src")):
        offers = []
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


def _shared(metas):
    """Return each og:image with its alt; the first also with the title and the description."""
    images = {}
    values = {}
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


def _pairs(base, reference, texts):
    try:
        url = urldefrag(urljoin(base, reference.strip())).url
    except ValueError:
        return []
    if not reference.strip() or not url.startswith(("http://", "https://")):
        return []
    unique = {}
    for source, text in texts:
        unique.setdefault(" ".join(unicodedata.normalize("NFC", text).split()), source)
    return [(url, text, source) for text, source in unique.items() if text]


def make_pages(number, seed=0):
    """Return synthetic pages of a shop, a newspaper and a gallery."""
    rng = random.Random(seed)
    shapes = (_shop, _newspaper, _gallery)
    return [
        Page(f"https://site{i}.example/{i % 7}/page.html", 0, shapes[i % len(shapes)](rng).encode(), "utf-8")
        for i in range(number)
    ]


def _page(rng, body):
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


def _shop(rng):
    items = (
        f'<li class="product"><a href="/p/{i}"><img class="lazy" src="data:image/gif;base64,R0lGODlhAQABAAAAACw=" '
        f'data-src="/img/{i}.jpg?w=300&amp;v=2" width="300" height="300" alt="{_text(rng, 5)}"></a>'
        f'<h2>{_text(rng, 5)}</h2><span class="price"><bdi>9.99</bdi></span></li>'
        for i in range(60)
    )
    return _page(rng, f"<ul>{''.join(items)}</ul>")


def _newspaper(rng):
    articles = (
        f'<article><picture><source type="image/webp" srcset="/w/{i}-400.webp 400w, /w/{i}-800.webp 800w">'
        f'<img src="/w/{i}.jpg" alt="{_text(rng, 8)}" title="{_text(rng, 3)}"></picture>'
        f"<p>{_text(rng, 120)}</p><p>{_text(rng, 90)}</p></article>"
        for i in range(25)
    )
    return _page(rng, "".join(articles))


def _gallery(rng):
    figures = (
        f'<figure><img src="../g/{i}.jpg" srcset="../g/{i}.jpg 1x, ../g/{i}@2x.jpg 2x" alt="">'
        f"<figcaption>{_text(rng, 9)} <b>{_text(rng, 2)}</b></figcaption></figure>"
        for i in range(80)
    )
    return _page(rng, "".join(figures))


def _text(rng, words):
    return " ".join(rng.choices(WORDS, k=words))


def measure_html(quick):
    """Return the row of the `html` case on synthetic pages. Raises: AssertionError if their pairs differ."""
    pages, times = make_pages(60 if quick else 300), 9
    size = sum(len(page.body) for page in pages) / 1e6
    for run in (ours, peer):  # imports and compiled code
        run(pages[:3])
    mine, theirs, found, peers = time_in_turn(lambda: ours(pages), lambda: peer(pages), times, time.process_time)
    started = time.process_time()
    for page in pages:
        LexborHTMLParser(page.body)
    limit = size / (time.process_time() - started)
    assert found == peers
    return [Row("html made pages", size / mine, size / theirs, PEER, "MB/s a core", goal=2.0, limit=limit)]
