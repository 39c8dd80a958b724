"""Pairs out of HTML pages: ours (Lexbor) against an extractor of lxml that knows the same rules.

Both get the bytes of pages and give (address, caption, source) of each pair. The peer is what one would write with lxml and
the standard library (urljoin, NFC), with our rule of which address an image stands for; it does without the checks against
hostile pages, licences, stand-ins and opt-outs. The pages are made here,
from a seed, in the shape of a shop, a newspaper and a gallery: about 150 kB each with scripts and styles, as pages of the
Web are. `--file` reads a WARC file of real pages instead; there libxml2 repairs broken markup otherwise than browsers do,
and the share of pages with equal pairs is told.
"""

import argparse
import json
import random
import statistics
import sys
import time
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag, urljoin

from lxml import html as lxml_html
from selectolax.lexbor import LexborHTMLParser

from dataops.charsets import utf8_page
from dataops.image_addresses import image_reference
from dataops.open_graph import shared_images
from dataops.pages import PageBounds, page_pairs
from dataops.warc import Page, read_pages

Pair = tuple[str, str, str | None]
BOUNDS = PageBounds(caption=2000, url=4096)
WORDS = "red kite old harbour small cat über garden café winter light bridge naïve river house of the on a".split()  # noqa: SIM905


def ours(pages: Sequence[Page]) -> list[list[Pair]]:
    """The pairs of each page, by dataops.pages."""
    found = []
    for page in pages:
        html, _ = utf8_page(page.body, page.charset)
        rows = page_pairs(html, page.url, BOUNDS).candidates
        found.append([(row.url, row.caption, row.caption_source) for row in rows if row.reason is None])
    return found


def peer(pages: Sequence[Page]) -> list[list[Pair]]:
    """The pairs of each page, by lxml."""
    parser = lxml_html.HTMLParser(encoding="utf-8", huge_tree=True)
    return [_by_lxml(lxml_html.document_fromstring(page.body, parser=parser), page.url) for page in pages]


def _by_lxml(tree: Any, page_url: str) -> list[Pair]:
    base = next((node.get("href") for node in tree.iter("base") if node.get("href")), None)
    base = urljoin(page_url, base) if base else page_url
    found: list[Pair] = []
    for image in tree.iter("img"):
        sources, above = [], image.getparent()
        while above is not None and above.tag == "source":  # which libxml2 does not know to hold nothing
            sources.insert(0, above.attrib)
            above = above.getparent()
        texts = [(source, image.get(name) or "") for source, name in _TEXTS]
        figure = next(image.iterancestors("figure"), None)
        caption = figure.find(".//figcaption") if figure is not None else None
        texts.append(("figcaption", caption.text_content() if caption is not None else ""))
        found += _pairs(base, image_reference(image.attrib, sources).reference, texts)
    metas = [
        ((node.get("property") or node.get("name") or "").lower(), node.get("content") or "")
        for node in tree.iter("meta")
    ]
    for image in shared_images(metas):
        found += _pairs(base, image.reference, [("og", text) for text in image.texts])
    return found


_TEXTS = (("alt", "alt"), ("aria_label", "aria-label"), ("title", "title"))


def _pairs(base: str, reference: str, texts: list[tuple[str, str]]) -> list[Pair]:
    url = urldefrag(urljoin(base, reference.strip())).url
    if not url.startswith(("http://", "https://")):
        return []
    unique: dict[str, str] = {}
    for source, text in texts:
        unique.setdefault(" ".join(unicodedata.normalize("NFC", text).split()), source)
    return [(url, text, source) for text, source in unique.items() if text]


def made_pages(number: int, seed: int = 0) -> list[Page]:
    """Pages in the shapes that the module describes."""
    chance = random.Random(seed)
    shapes = (_shop, _newspaper, _gallery)
    return [
        Page(f"https://site{i}.example/{i % 7}/page.html", 0, shapes[i % len(shapes)](chance).encode(), "utf-8")
        for i in range(number)
    ]


def _page(chance: random.Random, body: str) -> str:
    title = _text(chance, 6)
    head = (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta property="og:image" content="/share/{chance.randrange(1000)}.jpg">'
        f'<meta property="og:title" content="{title}">'
        f'<meta name="robots" content="index, follow"><style>{".a{color:#fff;margin:0 auto}" * 900}</style></head><body>'
    )
    menu = "".join(f'<li class="menu-item"><a href="/c/{i}">{_text(chance, 2)}</a></li>' for i in range(150))
    script = "<script>" + "window.data.push({id:1,price:'9.99',name:'x'});if(a<b&&c>d){run();}" * 700 + "</script>"
    return (
        f'{head}<nav><ul>{menu}</ul></nav><div class="page"><div class="wrap">{body}</div></div>{script}</body></html>'
    )


def _shop(chance: random.Random) -> str:
    items = (
        f'<li class="product"><a href="/p/{i}"><img class="lazy" src="data:image/gif;base64,R0lGODlhAQABAAAAACw=" '
        f'data-src="/img/{i}.jpg?w=300&amp;v=2" width="300" height="300" alt="{_text(chance, 5)}"></a>'
        f'<h2>{_text(chance, 5)}</h2><span class="price"><bdi>9.99</bdi></span></li>'
        for i in range(60)
    )
    return _page(chance, f"<ul>{''.join(items)}</ul>")


def _newspaper(chance: random.Random) -> str:
    articles = (
        f'<article><picture><source type="image/webp" srcset="/w/{i}-400.webp 400w, /w/{i}-800.webp 800w">'
        f'<img src="/w/{i}.jpg" alt="{_text(chance, 8)}" title="{_text(chance, 3)}"></picture>'
        f"<p>{_text(chance, 120)}</p><p>{_text(chance, 90)}</p></article>"
        for i in range(25)
    )
    return _page(chance, "".join(articles))


def _gallery(chance: random.Random) -> str:
    figures = (
        f'<figure><img src="../g/{i}.jpg" srcset="../g/{i}.jpg 1x, ../g/{i}@2x.jpg 2x" alt="">'
        f"<figcaption>{_text(chance, 9)} <b>{_text(chance, 2)}</b></figcaption></figure>"
        for i in range(80)
    )
    return _page(chance, "".join(figures))


def _text(chance: random.Random, words: int) -> str:
    return " ".join(chance.choices(WORDS, k=words))


def measured(case: str, pages: Sequence[Page], times: int) -> dict[str, Any]:
    """One row of the benchmark's result; MB are of decoded pages."""
    size = sum(len(page.body) for page in pages) / 1e6
    seconds: dict[str, list[float]] = {"ours": [], "peer": [], "limit": []}
    parse: Callable[[Sequence[Page]], list[Any]] = lambda pages: [LexborHTMLParser(page.body) for page in pages]  # noqa: E731
    results: dict[str, Any] = {}
    for _ in range(times):
        for name, run in (("ours", ours), ("peer", peer), ("limit", parse)):
            started = time.process_time()
            results[name] = run(pages)
            seconds[name].append(time.process_time() - started)
        results.pop("limit")
    speed = {name: size / statistics.median(of) for name, of in seconds.items()}
    equal = [a == b for a, b in zip(results["ours"], results["peer"], strict=True)]
    ratio = speed["ours"] / speed["peer"]
    return {
        **{
            "case": case,
            "ours": round(speed["ours"], 1),
            "peer": round(speed["peer"], 1),
            "peer_name": "lxml extractor",
        },
        **{
            "unit": "MB/s",
            "ratio": round(ratio, 2),
            "limit": round(speed["limit"], 1),
            "goal": 2.0,
            "met": ratio >= 2.0,
        },
        **{"pairs": sum(map(len, results["ours"])), "equal_pages": sum(equal), "pages": len(pages)},
    }


def rows(quick: bool) -> list[dict[str, Any]]:
    """The rows of the `html` case on pages made here, for benchmarks.extract."""
    return [measured("html made pages", made_pages(60 if quick else 300), 3 if quick else 7)]


def main() -> int:
    """Print the rows as JSON; 1 where made pages do not give equal pairs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer pages")
    parser.add_argument("--file", type=Path, help="a WARC file of real pages")
    given = parser.parse_args()
    found = rows(given.quick)
    equal = all(row["equal_pages"] == row["pages"] for row in found)
    if given.file:
        pages = [page for page in read_pages(given.file, 50_000_000, lambda _: None) if isinstance(page, Page)]
        found.append(measured(f"html {given.file.name}", pages, 3))
    sys.stdout.write(json.dumps({"rows": found, "equal_output": equal}, indent=1) + "\n")
    return 0 if equal else 1


if __name__ == "__main__":
    raise SystemExit(main())
