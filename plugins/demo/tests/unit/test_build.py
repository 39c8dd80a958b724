import json
from urllib.parse import urljoin

import pytest
from selectolax.lexbor import LexborHTMLParser

from dataops.errors import ConfigError
from plugins.demo.archive import page_url
from plugins.demo.build import build_demo_web
from plugins.demo.emoji_set import all_wordings, fold_text, load_emoji
from plugins.demo.families import split_held_out
from plugins.demo.groceries import choose_photos, load_photos
from plugins.demo.images import image_digest, render


@pytest.fixture(scope="module")
def split(web):
    emojis = load_emoji(web.counts["emoji"])
    return split_held_out(emojis, {one.text: image_digest(render(one.openmoji_svg)) for one in emojis}, 0)


@pytest.fixture(scope="module")
def captions(web):
    """Return (URL, attribute or element, text) of each caption on the site, as an HTML parser reads it."""
    found = []
    for file in sorted(web.site.rglob("*.html")):
        page = page_url("/" + str(file.relative_to(web.site)))
        tree = LexborHTMLParser(_decoded(web, file))
        base = tree.css_first("base")
        base_url = urljoin(page, base.attributes["href"]) if base else page
        for tag in tree.css("img"):
            url = urljoin(base_url, (tag.attributes.get("src") or "").strip())
            found += [(url, kind, tag.attributes[kind]) for kind in ("alt", "title") if tag.attributes.get(kind)]
            figure = tag.parent if tag.parent and tag.parent.tag == "figure" else None
            caption = figure.css_first("figcaption") if figure else None
            if caption:
                found.append((url, "figcaption", caption.text().strip()))
    return found


def _decoded(web, file):
    rules = json.loads((web.site / "site-rules.json").read_text())
    content_type = rules["content_types"].get("/" + str(file.relative_to(web.site)), "text/html; charset=utf-8")
    charset = content_type.partition("charset=")[2] or "shift_jis"
    return file.read_bytes().decode(charset)


def test_a_build_depends_on_its_seed_and_is_reused_until_its_fingerprint_changes(web, tree, tmp_path):
    limit = web.counts["emoji"]
    first = build_demo_web(tmp_path / "web", limit=limit, workers=1)
    assert tree(first.directory) == tree(web.directory)
    inode = (first.site / "index.html").stat().st_ino
    assert build_demo_web(tmp_path / "web", limit=limit, workers=1) == first
    assert (first.site / "index.html").stat().st_ino == inode
    other = build_demo_web(tmp_path / "web", seed=1, limit=limit, workers=1)
    assert (first.site / "index.html").stat().st_ino != inode
    assert tree(other.archive) != tree(web.archive)
    assert [path.name for path in tmp_path.iterdir()] == ["web"]


def test_a_folder_with_other_files_is_an_error(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        build_demo_web(tmp_path, limit=40)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_nothing_held_out_is_on_the_site(web, captions, split):
    published, outside = split.published, (*split.held_out, *split.withheld)
    names = all_wordings(outside) - {fold_text(one.name) for one in published}
    assert [text for _, _, text in captions if fold_text(text) in names] == []
    hexcodes = {one.hexcode for one in outside}
    built = json.loads((web.directory / "built.json").read_text())
    assert hexcodes == {*built["held_out"], *built["withheld"]}
    assert split.withheld
    assert not {file.stem for file in web.site.rglob("*.*")} & hexcodes
    digests = {image_digest(file.read_bytes()) for file in web.site.rglob("*.png")}
    assert not digests & {image_digest(render(one.openmoji_svg)) for one in outside}


def test_the_shop_has_two_captions_for_each_photograph_and_none_that_is_evaluated(web, captions):
    photos = choose_photos("train", web.counts["emoji"])
    assert len(photos) == web.counts["photographs"] == 2 * 34
    for one in photos:
        found = {(kind, text) for url, kind, text in captions if url == f"{web.base_url}{one.path}"}
        assert found == {("alt", f"a photo of {one.product}"), ("figcaption", one.sentence)}
        assert (web.site / one.path.lstrip("/")).read_bytes() == one.jpeg
    train, test = ({image_digest(one.jpeg) for one in load_photos(part)} for part in ("train", "test"))
    assert (len(train), len(test), len(train & test)) == (784, 405, 0)
