"""Define the targets that servers and pages write: HTTP, HTML, URLs, robots.txt and other opt-outs."""

import gzip
import zlib
from email.message import Message

from benchmarks.fuzzing.target import Limits, Parser, Target

_PAGE_URL = "https://a.example/folder/page.html?q=1"
_HEADERS = (
    b"Content-Type: text/html; charset=utf-8\r\nX-Robots-Tag: noai, otherbot: noindex\r\nTDM-Reservation: 1\r\n"
    b"Set-Cookie: a=b\r\n"
)
_HTTP_WORDS = tuple(
    b"HTTP/1.1 |200 OK\r\n|103 Early Hints\r\n|Content-Length: |Transfer-Encoding: chunked\r\n|Content-Encoding: gzip\r\n|"
    b"Content-Encoding: br, gzip\r\n|deflate|zstd|\r\n\r\n|\r\n|\n|:|; charset=|0\r\n\r\n|ffffffffffffffff\r\n|-1\r\n|;e=|"
    b"X-Robots-Tag: |\x1f\x8b\x08|\r\n ".split(b"|")
)


class _Pieces:
    """A connection that receives at most 100 bytes at a time."""

    def __init__(self, data):
        self._left = data

    def receive(self):
        size = 100 if len(self._left) < 5_000 else 60_000
        piece, self._left = self._left[:size], self._left[size:]
        return piece


def _load_http_response():
    import h11

    from dataops.rights.signals import Agents, find_header_opt_outs
    from tasks.web.connection import Response
    from tasks.web.fetch_error import FetchError

    def parse(data):
        parser = h11.Connection(h11.CLIENT, 65_536)
        parser.send(h11.Request(method="GET", target="/", headers=[("Host", "a.test")]))
        parser.send(h11.EndOfMessage())
        response, size = Response(_Pieces(data), parser), 0
        while piece := response.read(1 << 16):
            size += len(piece)
        assert size <= len(data)
        found = list(find_header_opt_outs(response.headers, Agents("pairmill", ("gptbot",)), "", ""))
        return f"{response.status} {response.length is None} {len(found)}"

    return Parser(parse, (FetchError,))


def _http_seeds():
    body = b"<html><img src=a.png alt='a red kite'></html>"
    return [
        b"HTTP/1.1 200 OK\r\n" + _HEADERS + b"Content-Length: %d\r\n\r\n" % len(body) + body,
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5;ext=1\r\n<html\r\n1\r\n>\r\n0\r\nTrailer: x\r\n\r\n",
        b"HTTP/1.0 404 Not Found\nA: b\n c\n\nbody",
        b"HTTP/1.1 204 No Content\r\n\r\n",
    ]


def _load_http_body():
    from dataops.archives.http_body import BadBody, decode_body, split_response

    def parse(data):
        head, body = split_response(data)
        decoded = decode_body(head, body, 1_000_000)
        assert len(decoded) <= 1_000_000
        return f"{head.status} {head.content_encoding} {head.transfer_encoding} {head.charset is None}"

    return Parser(parse, (BadBody,))


def _body_seeds():
    import brotli

    from dataops.archives.members import zstd

    body = b"<html><body>" + b"<p>hello</p>" * 50
    coded = {b"gzip": gzip.compress(body, mtime=0), b"deflate": zlib.compress(body), b"br": brotli.compress(body)}
    coded |= {b"zstd": zstd.compress(body), b"gzip, br": brotli.compress(gzip.compress(body, mtime=0))}
    head = b"HTTP/1.1 200 OK\r\n" + _HEADERS
    return [
        *(head + b"Content-Encoding: " + name + b"\r\n\r\n" + data for name, data in coded.items()),
        head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body),
        *_http_seeds(),
    ]


_PAGE = """<!doctype html><html lang=en><head><meta charset=utf-8><title>A page</title><base href="/b/">
<meta name=robots content="noimageai, max-image-preview:large"><meta property="og:image" content="/og.png">
<meta property="og:image:alt" content="the alt"><meta property="og:title" content="the title">
<link rel="license" href="https://creativecommons.org/licenses/by/4.0/"><link rel=next href="?2">
<script type="application/ld+json">{"@type":"ImageObject","contentUrl":"/x.jpg","caption":"c"}</script></head><body>
<figure id=f><a href="/full.jpg"><img src="s.jpg" srcset="a.jpg 1x, b.jpg 2x, c.jpg 400w 300h" alt="A kite over a hill"
 title="kite" width=10 height="20px" aria-labelledby="l m"></a><figcaption id=l>The <b>caption</b></figcaption></figure>
<picture><source srcset="p.avif 100w, q.avif 200w" type="image/avif"><img data-src="lazy.jpg" alt="&eacute;t"></picture>
<noscript><img src="lazy.jpg" alt="fallback"></noscript><p class="wp-caption-text" id=m>Text</p>
<amp-img src="amp.jpg" alt="amp"></amp-img><svg><image href=x></svg><math><mi><table><td><img src=//h/x></table></math>
<!-- comment --><template><img src=t></template><textarea><img></textarea><a href="x" rel=nofollow>l</a><area href=y>
<ul><li><img src="data:image/png;base64,AAAA" alt="data"><li><img loading=lazy src="../../u.png?a=b&amp;c=d#f"></ul>"""
_HTML_WORDS = tuple(
    b"<img src=x alt=y>|<figure>|<figcaption>|</figure>|<noscript>|</noscript>|<picture>|<source srcset=|<base href=|"
    b"<meta property=og:image content=|<meta name=robots content=noai>|aria-labelledby=|id=|srcset=|data-src=|<table>|<a>|"
    b"<svg>|<math>|<template>|<script>|</script>|<!--|-->|<style>|<b>|<i>|<p>|<div>|<select>|<option>|&#x|&amp;|=|\"|'|<|>|"
    b"</|<![CDATA[|]]>|\0|\xc2\xa0|\xef\xbb\xbf|<plaintext>|<font a=b>|<li>|<nobr>|<button>|<form>|<frameset>|<textarea>|"
    b"<title>|<xmp>|<amp-img src=a alt=b>| a=1|class=caption|width=99999999999 ".split(b"|")
)


def _utf8(data):
    return data.decode("utf-8", "replace").encode()


def _load_html_pairs():
    from dataops.web.markup import BadPage
    from dataops.web.page_pairs import PageBounds
    from dataops.web.pages import extract_page_pairs

    bounds = PageBounds(caption=1_000, url=2_000)

    def parse(data):
        page = extract_page_pairs(_utf8(data), _PAGE_URL, bounds, frozenset({"noai"}))
        for pair in page.pairs:
            assert len(pair.url) <= 2_000, "a URL is longer than allowed"
            assert len(pair.caption) <= 1_000, "a caption is longer than allowed"
            f"{pair.url} {pair.caption} {pair.license}".encode()
        reasons = sorted({(pair.caption_source or "", pair.reason or "") for pair in page.pairs})
        return f"{reasons} {page.language is None} {page.opt_out}"

    return Parser(parse, (BadPage,))


def _load_links():
    from dataops.web.markup import BadPage
    from plugins.crawl.links import extract_links

    def parse(data):
        links = extract_links(_utf8(data), _PAGE_URL, "pairmill", 2_000)
        return f"{sorted(links.directives)} {sorted(links.not_followed)} {bool(links.follow)}"

    return Parser(parse, (BadPage,))


def _load_charset():
    from dataops.web.charsets import convert_to_utf8

    def parse(data):
        label, _, page = data.partition(b"\n")
        text, codec = convert_to_utf8(page, label.decode("latin-1") or None)
        text.decode()
        return codec

    return Parser(parse)


def _charset_seeds():
    texts = {
        "shift_jis": "\n<html lang=ja><meta charset=x-sjis>これは日本語のページです",
        "euc_jp": "euc-jp\n<html><p>これは日本語のページです、漢字",
        "iso2022_jp": "iso-2022-jp\n<p>これは日本語のページ",
        "gb18030": "gbk\n<meta charset=gb2312><p>这是一个中文网页",
        "big5": "\n<html lang=zh><meta charset=big5><p>這是一個中文網頁",
        "euc_kr": "ks_c_5601-1987\n<p>이것은 한국어 페이지입니다",
        "cp1251": "\n<html lang=ru><p>Это страница на русском языке",
        "koi8_r": "koi8-r\n<p>Это страница",
        "cp1253": "\n<html lang=el>Αυτή είναι μια σελίδα",
        "utf-16": "\n<html><p>UTF-16 text é",
        "utf-8": "utf-8\n<meta http-equiv=content-type content='text/html; charset=utf-8'>é€😀",
    }
    return [text.encode(codec, "replace") for codec, text in texts.items()]


def _load_srcset():
    from dataops.web.image_urls import parse_srcset

    return Parser(lambda data: [candidate[1:] for candidate in parse_srcset(data.decode("utf-8", "replace"))])


def _load_urls():
    from dataops.web.urls import BadUrl, canonicalise_url, truncate_url

    def parse(data):
        reference = data.decode("utf-8", "replace")
        truncate_url(reference, 2_000).encode()
        url = canonicalise_url(reference, _PAGE_URL, 2_000)
        assert len(url) <= 2_000, "the URL is longer than allowed"
        assert canonicalise_url(url, url, 2_000) == url, f"not canonical: {url[:80]}"
        return url.partition(":")[0]

    return Parser(parse, (BadUrl,))


def _url_seeds():
    return [
        *(
            b"https://user:pw@EXAMPLE.com:443/a/../b/%7Ec?q=a b#f",
            b"//other.example/x.png",
            b"../up/./x.jpg",
            b"?q",
            b"#f",
        ),
        *("http://münchen.example/straße/日本.png?ä=ö".encode(), b"http://[2001:db8::1]:8080/", b"http:\\\\h\\p"),
        *(b"http://127.0.0.1/", b"http://0x7f.1/", b"data:image/png;base64,AA", b"mailto:a@b", b" \thttp://a.b/\n c "),
        *(b"http://xn--mnchen-3ya.example/", b"/root%2e%2e/%2E%2e/x", b"http://a.example./", b"https:x", b"http:///x"),
    ]


_AGENTS = ("GPTBot", "CCBot", "Google-Extended", "anthropic-ai")


def _load_robots():
    from dataops.rights.robots_txt import RobotsFile, decode_file
    from dataops.rights.signals import Agents

    def parse(data):
        text = decode_file(data)
        robots = RobotsFile.parse(text, ("pairmill", *_AGENTS))
        every = RobotsFile.parse(text)
        answers = [
            robots.allows(url, "pairmill") for url in (_PAGE_URL, "https://a.example/", "https://a.example/x" * 90)
        ]
        assert answers[0] == every.allows(_PAGE_URL, "pairmill"), "agents that are not asked for change the answer"
        robots.list_denied_agents(_PAGE_URL, _AGENTS, "pairmill")
        declared = robots.find_declarations(_PAGE_URL, Agents("pairmill", _AGENTS))
        opt_outs = [(signal, one.detail) for signal, one in declared if not one.permits]
        ours = {signal for signal, detail in opt_outs if " for " not in detail}
        everyone = every.find_declarations(_PAGE_URL, Agents("pairmill"))
        assert ours <= {signal for signal, one in everyone if not one.permits}, "an opt-out is lost"
        return f"{answers} {robots.crawl_delay('pairmill') is None} {[signal for signal, _ in opt_outs]}"

    return Parser(parse)


def _robots_seeds():
    file = b"""# comment\nUser-agent: *\nCrawl-delay: 1.5\nDisallow: /private/\nAllow: /private/a*.html$\n
User-agent: GPTBot\nUser-agent: CCBot/2.0\nDisallow: /\n\nUser-Agent : pairmill\r\nDisallow:/%7Ejoe/\xc3\xa9\r\nSitemap\n"""
    usage = b"""License: https://a.example/l.xml\nUser-agent: *\nContent-Usage: /folder/ train-ai=n, search=y\n
Content-Signal: search=yes,ai-train=no\nAllow: /\nUser-agent: GPTBot\nContent-Usage: *.html$ train-ai=y\n"""
    ai = b"# Spawning AI\nUser-Agent: *\nDisallow: *.jpg\nAllow: *.txt\nDisallow: /\n"
    return [ai, usage, file, b"\xef\xbb\xbf" + file, file.decode().encode("utf-16"), b"user agent gptbot disallow: /"]


def _load_tdmrep():
    from dataops.rights.robots_txt import decode_file
    from dataops.rights.tdmrep import parse_tdmrep

    def parse(data):
        rules = parse_tdmrep(decode_file(data))
        found = [rules.find(path) for path in ("/", "/folder/page.html?q=1", "/a" * 900)]
        return f"{[rule and rule.reserved for rule in found]} {len(rules).bit_length()}"

    return Parser(parse)


def _load_header(*names):
    """Return a parser of the value of headers that may hold an opt-out."""
    from dataops.rights.directives import parse_robots_tag
    from dataops.rights.refusals import describe_price
    from dataops.rights.robots_txt import RobotsFile
    from dataops.rights.signals import Agents, find_header_opt_outs, find_in_headers

    def parse(data):
        value = data.decode("latin-1")
        headers = Message()
        for name in names:
            headers[name] = value.translate({10: " ", 13: " "})
        found = [one.signal for one in find_header_opt_outs(headers, Agents("pairmill", _AGENTS), "", "")]
        assert len(describe_price(headers)) <= 1_000, "the price is longer than allowed"
        robots = RobotsFile.parse(f"User-agent: *\nContent-Usage: {value}")
        robots.find_declarations("http://a.test/", Agents("pairmill"))
        tags, signals = set(parse_robots_tag(value)), find_in_headers([(name.lower(), value) for name in names])
        return f"{found} {len(tags).bit_length()} {sorted(signals)}"

    return Parser(parse)


WEB_TARGETS = (
    Target("http_response", _load_http_response, _http_seeds, _HTTP_WORDS),
    Target("http_body", _load_http_body, _body_seeds, _HTTP_WORDS),
    Target("html_pairs", _load_html_pairs, lambda: [_PAGE.encode()], _HTML_WORDS, Limits(memory_per_byte=400)),
    Target("html_links", _load_links, lambda: [_PAGE.encode()], _HTML_WORDS, Limits(memory_per_byte=400)),
    Target(
        "charset", _load_charset, _charset_seeds, (b"<meta charset=", b"\x1b$B", b"\x1b(B", b"\x8f\xa2", b"\xff\xfe")
    ),
    Target(
        "srcset", _load_srcset, lambda: [b"a.jpg 1x, b.jpg 2x, c,d.jpg 400w 300h, e (x, y) 1e3x ,,f"], (b", ", b" 1w")
    ),
    Target(
        "urls", _load_urls, _url_seeds, (b"http://", b"//", b"/../", b"%2e", b"@", b":80", b"\\", b"xn--", b"?", b"[")
    ),
    Target(
        "robots_txt",
        _load_robots,
        _robots_seeds,
        (
            b"User-agent: ",
            b"Disallow: /",
            b"Allow: *",
            b"$",
            b"GPTBot\n",
            b"Content-Usage: ",
            b"Content-Signal: /",
            b"License: /",
            b" train-ai=n\n",
            b" ai-train=no\n",
        ),
    ),
    Target(
        "tdmrep",
        _load_tdmrep,
        lambda: [
            b'[{"location": "/*.jpg$", "tdm-reservation": 1, "tdm-policy": "https://a/p"},'
            b'{"location": "/", "tdm-reservation": 0}]',
            b'{"location":["/a","/b"],"tdm-reservation":"1"}',
        ],
        (b'{"location": "/', b'"tdm-reservation": 1', b"*", b"$", b"}", b"{", b"[", b'"', b"\\ud800", b"\xef\xbb\xbf"),
    ),
    Target(
        "robots_tag",
        lambda: _load_header("X-Robots-Tag", "TDM-Reservation"),
        lambda: [b"unavailable_after: Wed, 03 Dec 2025 13:09:53 GMT, noai", b"gptbot: none, max-snippet:-1", b"1"],
        (b"noai", b"noindex", b": ", b", ", b"max-image-preview:large", b"otherbot:"),
    ),
    Target(
        "ai_preferences",
        lambda: _load_header("Content-Usage", "Content-Signal", "Link", "WWW-Authenticate", "Crawler-Price"),
        lambda: [
            b"train-ai=n, search=y;a=1",
            b"search=yes, ai-train=no, use=reference",
            b'</l.xml>; rel="license"; type="application/rsl+xml"',
            b'Basic realm="a", License error="invalid_request", error_description="b"',
        ],
        (
            b"train-ai=n",
            b"ai-train=no",
            b"=",
            b"; ",
            b", ",
            b"<",
            b">",
            b"; rel=license",
            b'"',
            b"; type=application/rsl+xml",
            b"License ",
        ),
    ),
)
"""Targets of the network and the web."""
