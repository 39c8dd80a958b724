"""Write synthetic WAT files in Common Crawl's layout: equal bytes for equal arguments.

Each page has three records (request, response, metadata), each a gzip member, with the fields and the key order of
ia-web-commons. The distribution is that of 521 real news and blog pages: 178 links per page, of which 24 are images; 69% of
these have an alt that is not empty, 15% a title, 15% data: URLs, 57% absolute URLs, 3% dot segments, 1% spaces, fragments
or other scripts, and 1% an empty URL; two fifths of the captions are not ASCII; 23 metas, 20 head links.
"""

import gzip
import json
import random

_TEXTS = {
    "en": "the red house on hill near old river with two small boats at night photo of our team during first day in new "
    "office market street summer garden winter morning light women playing football final report",
    "de": "Blick über die Dächer der Altstadt mit Brücke während des Sommers Gebäude für Künstler größte Straße Grüne "
    "Wälder im Frühling Ausstellung zum Thema Städte",
    "ru": "вид на реку зимой новый дом в центре города фото команды первый день выставки старый мост и площадь",
    "fr": "une journée d'été à la plage le marché du village près de l'église avec des élèves et leurs professeurs",
    "ja": "東京の夜景 新しい駅 桜の花 海岸の風景 古い寺 市場 冬の朝 写真",
    "vi": "một buổi sáng mùa hè tại thành phố cũ những ngôi nhà nhỏ bên dòng sông xanh và khu chợ đêm đông đúc",
}
_WORDS = {language: text.split() for language, text in _TEXTS.items()}
_LANGUAGES = ("en", "en", "en", "de", "ru", "fr", "ja", "vi")


def json_record(url, value):
    """Return a WAT record of a JSON value, as a gzip member."""
    return record(url, json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass"))


def record(url, body, *, kind="metadata", media="application/json"):
    """Return a WARC record as a gzip member."""
    return gzip.compress(plain_record(url, body, kind=kind, media=media), 6, mtime=0)


def plain_record(url, body, *, kind="metadata", media="application/json"):
    """Return a WARC record."""
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2026-10-20T10:00:00Z\r\n"
        "WARC-Record-ID: <urn:uuid:8829c2be-2ede-49bf-b432-b94f063c1a3b>\r\n"
        "WARC-Refers-To: <urn:uuid:de77d812-183e-4130-9fe9-d878d67bf4b5>\r\n"
        f"Content-Type: {media}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("utf-8", "surrogateescape") + body + b"\r\n\r\n"


def warcinfo():
    """Return the first record of a WAT file."""
    body = b"Software-Info: ia-web-commons.1.1.10\r\nformat: WARC File Format 1.0\r\n"
    return record("CC-MAIN.warc.wat.gz", body, kind="warcinfo", media="application/warc-fields")


def page_value(url, html, headers=None):
    """Return the JSON value of the WAT record of an HTML page."""
    response = {
        "Response-Message": {"Version": "HTTP/1.1", "Status": "200", "Reason": "OK"},
        "Headers-Length": "412",
        "Headers": headers
        or {"Content-Type": "text/html; charset=UTF-8", "Server": "nginx", "Vary": "Accept-Encoding"},
        "HTML-Metadata": html,
        "Entity-Length": "48213",
        "Entity-Digest": "sha1:3I42H3S6NNFQ2MSVX7XZKYAYSCX5QBYJ",
    }
    return _value(url, "response", {"HTTP-Response-Metadata": response})


def _value(url, kind, metadata):
    header = {"WARC-Type": kind, "WARC-Date": "2026-10-20T10:00:00Z", "Content-Length": "48625", "WARC-Target-URI": url}
    payload = {"Actual-Content-Type": f"application/http; msgtype={kind}", **metadata, "Trailing-Slop-Length": "4"}
    envelope = {"Payload-Metadata": payload, "Format": "WARC/1.0", "WARC-Header-Metadata": header}
    container = {"Filename": "CC-MAIN-20261020-00001.warc.gz", "Compressed": True, "Offset": "481"}
    return {"Container": container, "Envelope": envelope}


def write_wat(path, images, seed=0):
    """Write a file of at least `images` image links; return their number."""
    written = 0
    with path.open("wb") as out:
        out.write(warcinfo())
        for url, html in make_pages(seed):
            if written >= images:
                return written
            request = {"HTTP-Request-Metadata": {"Headers": {"Host": url.split("/")[2], "User-Agent": "CCBot/2.0"}}}
            out.write(json_record(url, _value(url, "request", request)))
            out.write(json_record(url, page_value(url, html)))
            out.write(json_record(url, _value(url, "metadata", {"WARC-Metadata-Metadata": {"Metadata-Records": []}})))
            written += sum(link["path"] == "IMG@/src" for link in html["Links"])
    raise AssertionError


def make_pages(seed):
    """Yield (URL, HTML-Metadata) of pages without end."""
    rng = random.Random(seed)
    number = 0
    while True:
        number += 1
        host = f"www.site-{rng.randrange(5000)}.example"
        words = _WORDS[rng.choice(_LANGUAGES)]
        url = f"https://{host}/{rng.choice(('news', 'blog', '2026/10', 'shop/item'))}/{_slug(rng)}-{number}.html"
        links = [_link(rng, host, words) for _ in range(int(rng.expovariate(1 / 170)) + 8)]
        yield url, {"Head": _head(rng, host, url, words), "Links": links}


def _link(rng, host, words):
    dice = rng.random()
    if dice < 0.137:
        return _image(rng, host, words)
    if dice < 0.96:
        link = {"path": "A@/href", "url": f"https://{host}/{_slug(rng)}" if dice < 0.6 else f"/{_slug(rng)}/"}
        if rng.random() < 0.25:
            link |= {"target": "_blank", "rel": rng.choice(("nofollow", "noopener noreferrer", "tag", "bookmark"))}
        return link | ({"text": _text(rng, words, 4)} if rng.random() < 0.85 else {})
    if dice < 0.985:
        return {"path": "STYLE/#text", "url": f"https://{host}/fonts/{_slug(rng)}.woff2"}
    return {"path": "FORM@/action", "url": "/search", "method": "get"}


def _image(rng, host, words):
    dice = rng.random()
    name = f"{_slug(rng)}-{rng.randrange(2000)}x{rng.randrange(2000)}.{rng.choice(('jpg', 'jpg', 'png', 'webp'))}"
    if dice < 0.15:
        url = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
    elif dice < 0.66:
        url = f"https://cdn.{host}/wp-content/uploads/2026/10/{name}" + ("?w=1024&ssl=1" if dice < 0.25 else "")
    elif dice < 0.72:
        url = f"//i.{host}/{name}"
    elif dice < 0.90:
        url = f"/media/{rng.randrange(1000)}/{name}"
    elif dice < 0.93:
        url = f"../images/{name}"
    elif dice < 0.98:
        url = f"images/{name}"
    else:
        url = rng.choice(("", "", "", f"img/{rng.choice(words)} {name}", f"./{name}", f"{name}#top"))
    link = {"path": "IMG@/src", "url": url}
    if (alt := rng.random()) < 0.84:
        link["alt"] = _text(rng, words, 6) if alt < 0.69 else ""
    if rng.random() < 0.15:
        link["title"] = link.get("alt") or _text(rng, words, 4)
    return link


def _head(rng, host, url, words):
    title, image = _text(rng, words, 8), f"https://cdn.{host}/og/{_slug(rng)}.jpg"
    metas = [
        {"name": "HTML@/lang", "content": "en-US"},
        {"name": "viewport", "content": "width=device-width, initial-scale=1"},
    ]
    metas += [{"name": "robots", "content": "index, follow, max-image-preview:large"}] if rng.random() < 0.6 else []
    shared = {"type": "article", "title": title, "url": url, "description": _text(rng, words, 22), "image": image}
    shared |= {"site_name": host, "image:width": "1200", "image:height": "630", "locale": "en_US"}
    metas += (
        [{"content": content, "property": f"og:{name}"} for name, content in shared.items()]
        if rng.random() < 0.9
        else []
    )
    metas += [
        {"name": f"twitter:{name}", "content": title} for name in ("card", "title", "site", "image", "label1", "data1")
    ]
    metas += [{"name": "generator", "content": "WordPress 6.4"}, {"content": "text/html", "http-equiv": "Content-Type"}]
    styles = [{"path": "LINK@/href", "url": f"/css/{_slug(rng)}.css?ver=6.4", "rel": "stylesheet"} for _ in range(20)]
    scripts = [{"path": "SCRIPT@/src", "url": f"/js/{_slug(rng)}.js", "type": "text/javascript"} for _ in range(15)]
    base = {"Base": f"https://{host}/"} if rng.random() < 0.09 else {}
    return {"Title": title, "Metas": metas, "Link": styles, "Scripts": scripts, **base}


def _slug(rng):
    return "-".join(rng.choice(_WORDS["en"]) for _ in range(rng.randrange(2, 6)))


def _text(rng, words, length):
    return " ".join(rng.choice(words) for _ in range(rng.randrange(1, 2 * length)))


def small_wat(name, pages=40):
    """Return a small WAT file whose captions contain its name."""
    data = warcinfo()
    for number in range(pages):
        url = f"https://{name}.example/{number}"
        links = [
            {"path": "IMG@/src", "url": f"{i}.jpg", "alt": f"picture {i} of page {number} of {name}"} for i in range(30)
        ]
        data += json_record(url, page_value(url, {"Links": links}))
    return data
