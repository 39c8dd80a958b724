"""The compiled code for links returns what the Python functions for one reference or caption return."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataops.web.captions import normalise_caption
from dataops.web.urls import BadUrl, Resolver, canonicalise_url, truncate_url
from plugins.common_crawl.links import join_links, normalise_captions, scan_links
from plugins.common_crawl.wat import resolve_images

PIECES = ("a", "B", "/", "//", ".", "..", ":", "?", "#", "%", "%2", "%2e", "@", "http", "https:", "HTTP://", "data:", "_-~",
          "[", "|", "é", " ", "\n", "\\", "a" * 62, ".example")  # fmt: skip
BASES = ("http://site.example/", "https://site.example:8443/a/b/c.html?q=/x/", "http://[::1]/x//y/z")
references = st.lists(st.lists(st.sampled_from(PIECES), max_size=7).map("".join), max_size=6)


def images_of(*pages, ascii_only=True):
    """Return the images of pages of (reference, alt)."""
    values = [[{"path": "IMG@/src", "url": url, "alt": alt} for url, alt in page] for page in pages]
    return join_links([scan_links(json.dumps(value, ensure_ascii=ascii_only).encode()) for value in values])


@given(references, references, st.sampled_from(BASES), st.sampled_from([40, 4096]))
def test_resolve_images_equals_canonicalise_url_for_each_reference(first, second, base, longest):
    images = images_of(*([(reference, "") for reference in page] for page in (first, second)))
    url_of, urls, reason_of, reasons = resolve_images(images, [Resolver(BASES[0], longest), Resolver(base, longest)])
    expected = []
    for reference, page in [*((one, BASES[0]) for one in first), *((one, base) for one in second)]:
        try:
            expected.append((canonicalise_url(reference, page, longest), None))
        except BadUrl as bad:
            expected.append((truncate_url(reference, longest), bad.reason))
    found = zip(urls.take(url_of).to_pylist(), [reasons[i] for i in reason_of], strict=True)
    assert list(found) == expected


captions = st.text(max_size=12) | st.text(
    st.sampled_from("a é\u0301\u1100\u1161\u11a8\u3099か\t\u00a0\u200d\ufb01"), max_size=8
)


@given(st.lists(captions, min_size=1, max_size=5), st.booleans(), st.sampled_from([6, 2000]))
def test_normalise_captions_equals_normalise_caption_for_each_text(texts, ascii_only, longest):
    images = images_of([("", text) for text in texts], ascii_only=ascii_only)
    actual = [images.read(3 * i + 1) for i in range(len(texts))]
    assert actual == texts
    for i, text in zip(*normalise_captions(images, longest), strict=True):
        actual[i // 3] = text
    assert actual == [normalise_caption(text, longest) for text in texts]


@pytest.mark.parametrize(
    "links",
    [
        b"{}",
        b"[1]",
        b'[{"path": 1}]',
        b'[{"path": "A@/href", "rel": ["license"]}]',
        b'[{"path": "IMG@/src", "alt": null}]',
        b'[{"path": "IMG@/src", "alt": "\xff"}]',
        b'[{"path": "IMG@/src", "alt": "\xc3"}]',
        b'[{"path": "IMG@/src", "alt": "\xe0\x80\x80"}]',
        b'[{"path": "IMG@/src", "alt": "\\ud800"}]',
        b'[{"path": "IMG@\\/src", "alt": "a"}]',
        b'[{"path": "IMG@/src", "\\u0061lt": "a"}]',
        b'[{"path": "IMG@/src", "alt": "\t"}]',
    ],
)
def test_scan_links_leaves_unusual_links_to_python(links):
    assert scan_links(links) is None


def test_scan_links_reads_escapes_in_any_order_of_keys_and_skips_other_values():
    links = rb"""[ {"x": {"path": ["}", {"alt": "no"}]}, "alt": "a\\\"\/\n\u00e9\uD83D\ude00", "path":"IMG@/src" ,
        "url":"u"}, {"path": "A@/href", "rel": "tag LICENSE"}, {},
        {"alt": "first", "path": "IMG@/src", "alt": "last", "n": -1.5e3}]"""
    found = scan_links(links)
    assert found.text.decode() == 'ua\\"/\né\U0001f600last'
    assert (found.images, found.has_license) == (2, True)
    assert not scan_links(b'[{"path": "A@/href", "rel": "nofollow"}]').has_license
