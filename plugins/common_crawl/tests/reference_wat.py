"""A slow and simple WAT extractor (warcio, json, and loops), the reference for the fast one."""

import io
import json

from warcio.archiveiterator import ArchiveIterator

from dataops.rights.signals import find_in_headers, find_in_metas
from dataops.web.captions import normalise_caption
from dataops.web.declarations import parse_language, parse_shared_images
from dataops.web.urls import BadUrl, canonicalise_url, truncate_url

MAX_CHARS, MAX_URL = 2000, 4096


def reference_rows(data, opt_out=frozenset({"noai", "noimageai", "noimageindex"})):
    """Return the rows of an undamaged file: url, caption, caption_source, reason, license, width, height, page_url,
    page_language, page_opt_out."""
    rows = []
    for record in ArchiveIterator(io.BytesIO(data)):
        if record.rec_headers.get_header("Content-Type") != "application/json":
            continue
        try:
            value = json.loads(record.content_stream().read().decode("utf-8", "replace"), strict=False)
            page = value["Envelope"]["Payload-Metadata"]["HTTP-Response-Metadata"]
            html = page["HTML-Metadata"]
            url = value["Envelope"]["WARC-Header-Metadata"]["WARC-Target-URI"]
            page_url = canonicalise_url(url, url, MAX_URL)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
        if isinstance(html, dict):
            rows += page_rows(page_url, html, page.get("Headers"), opt_out)
    return rows


def text_of(values, name):
    value = values.get(name)
    return value if isinstance(value, str) else ""


def objects(value):
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def resolve(reference, base):
    try:
        return canonicalise_url(reference, base, MAX_URL), None
    except BadUrl as bad:
        return truncate_url(reference, MAX_URL), bad.reason


def page_rows(page_url, html, headers, opt_out):
    head = html.get("Head") if isinstance(html.get("Head"), dict) else {}
    links = objects(html.get("Links"))
    base = page_url
    if text_of(head, "Base"):
        found, reason = resolve(text_of(head, "Base"), page_url)
        base = page_url if reason else found

    metas = []
    for meta in objects(head.get("Metas")):
        names = dict.fromkeys([text_of(meta, "property"), text_of(meta, "name")])
        if text_of(meta, "http-equiv").strip().lower() in ("content-usage", "content-signal"):
            names[text_of(meta, "http-equiv")] = None
        metas += [(name, text_of(meta, "content")) for name in names if name and text_of(meta, "content")]
    lower = [(name.strip().lower(), content) for name, content in metas]

    licenses, rsl = set(), set()
    for link in [*links, *objects(head.get("Link"))]:
        if text_of(link, "path") != "IMG@/src" and "license" in text_of(link, "rel").lower().split():
            found, reason = resolve(text_of(link, "url"), base)
            if text_of(link, "type").partition(";")[0].strip().lower() == "application/rsl+xml":
                rsl.add("rsl" if reason else f"rsl:{found}".replace(",", "%2C"))
            if reason is None:
                licenses.add(found)
    license = licenses.pop() if len(licenses) == 1 else None

    directives = find_in_metas(lower) | rsl
    for name, value in headers.items() if isinstance(headers, dict) else ():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str):
                for found in find_in_headers([(name.lower(), text)]):
                    signal, _, terms = found.partition(":")
                    terms, reason = resolve(terms, page_url) if terms else ("", "none")
                    directives.add(signal if reason else f"{signal}:{terms}".replace(",", "%2C"))
    language = parse_language({"lang": next((content for name, content in metas if name == "HTML@/lang"), None)})

    found_rows = []
    for link in links:
        if text_of(link, "path") == "IMG@/src":
            found, reason = resolve(text_of(link, "url"), base)
            captions = {}
            for source in ("alt", "title"):
                captions.setdefault(normalise_caption(text_of(link, source), MAX_CHARS), source)
            captions.pop("", None)
            found_rows += [(found, caption, source, reason, None, None) for caption, source in captions.items()]
            if not captions:
                found_rows.append((found, "", None, reason or "no_caption", None, None))
    for image in parse_shared_images(lower):
        found, reason = resolve(image.reference, base)
        for caption in dict.fromkeys(normalise_caption(text, MAX_CHARS) for text in image.texts):
            if caption:
                found_rows.append((found, caption, "og", reason, image.width, image.height))

    opted_out = "opt_out" if directives & opt_out else None
    page_opt_out = ",".join(sorted(directives)) or None
    return [
        (url, caption, source, reason or opted_out, license, width, height, page_url, language, page_opt_out)
        for url, caption, source, reason, width, height in found_rows
    ]
