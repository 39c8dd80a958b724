"""Add broken, hostile, useless and opted-out images to the site, as a real crawl finds them, a few of each kind.

Each function adds one page under /community/ (or in a folder of its own).
"""

from collections.abc import Mapping, Sequence
from itertools import count

from plugins.demo import images
from plugins.demo.draft import SiteDraft
from plugins.demo.emoji_set import Emoji, stable_hash
from plugins.demo.pages import UTF8_HEAD, escape, format_url, image_tag, to_entities

PER_KIND = 6
OPT_OUT = "noai, noimageai"


def add_oddities(
    draft: SiteDraft, published: Sequence[Emoji], pngs: Mapping[str, bytes], seed: int
) -> list[tuple[str, str]]:
    """Add all odd pages; return their (URL path, title) for the home page."""
    shuffled = sorted(published, key=lambda one: stable_hash(seed, "oddity", one.text))
    # Without skin tones, so that no oddity is dropped as a near-duplicate of another.
    plain = [one for one in shuffled if not one.toned]
    turn = count(step=PER_KIND)

    def some() -> list[Emoji]:
        """Return the next few emoji, from the start again after the last."""
        start = next(turn)
        return [plain[at % len(plain)] for at in range(start, start + min(PER_KIND, len(plain)))]

    before = len(draft.pages)
    _add_broken(draft, some(), pngs)
    _add_redirects(draft, some())
    _add_odd_urls(draft, some())
    _add_odd_captions(draft, some(), shuffled)
    _add_entities(draft, published)
    _add_malformed(draft, some())
    _add_base_href(draft, some())
    _add_mirror(draft, some(), pngs)
    _add_thumbnails(draft, some(), pngs)
    _add_odd_shapes(draft, [*some(), *some()], pngs)
    _add_opted_out_by_header(draft, some())
    _add_opted_out_by_page(draft, some())
    return [_entry(page) for page in draft.pages[before:]]


def _entry(page: str) -> tuple[str, str]:
    """Return URL path and link text of a page."""
    return page.removesuffix("index.html"), page.strip("/").removesuffix(".html").removesuffix("/index")


def _add(draft: SiteDraft, path: str, title: str, tags: Sequence[str], head: str = UTF8_HEAD) -> None:
    body = '<div class="grid">\n' + "\n".join(f"<div>{tag}</div>" for tag in tags) + "\n</div>"
    draft.add_document(path, title, body, head=head)


def _add_broken(draft: SiteDraft, shown: Sequence[Emoji], pngs: Mapping[str, bytes]) -> None:
    """Add broken links (404), an error page with status 200, and a truncated PNG."""
    tags = []
    for one in shown:
        missing, moved, cut = (f"/img/{kind}/{one.hexcode}.png" for kind in ("old", "moved", "partial"))
        tags += [image_tag(path, one.name) for path in (missing, moved, cut)]
        draft.files[moved] = b"<!DOCTYPE html>\n<title>Moved</title>\n<p>This picture has moved.</p>\n"
        draft.content_types[moved] = "text/html; charset=utf-8"
        draft.files[cut] = pngs[one.text][: len(pngs[one.text]) // 2]
    _add(draft, "/community/archive-2019.html", "Archive 2019", tags)


def _add_redirects(draft: SiteDraft, shown: Sequence[Emoji]) -> None:
    """Add redirects to the image, and to targets that a fetcher must refuse: loopback, cloud metadata, a file, itself."""
    tags = []
    for one in shown:
        path = f"/latest/{one.hexcode}.png"
        draft.redirects[path] = one.image_path
        tags.append(image_tag(path, one.name))
    hostile = {
        "redirect_to_loopback": "http://127.0.0.1:9/admin.png",
        "redirect_to_metadata": "http://169.254.169.254/latest/meta-data/",
        "redirect_to_file": "file:///etc/hostname",
        "redirect_loop": "/go/redirect_loop.png",
    }
    for (kind, target), one in zip(hostile.items(), shown, strict=False):
        path = f"/go/{kind}.png"
        draft.redirects[path] = target
        tags.append(image_tag(path, one.name))
    _add(draft, "/community/latest.html", "Latest pictures", tags)


def _add_odd_urls(draft: SiteDraft, shown: Sequence[Emoji]) -> None:
    """Add URLs that are not http(s), an empty one, and an <img> without one."""
    gif = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
    tags = []
    for one in shown:
        image = f"img/{one.hexcode}.png"
        written = (gif, "javascript:void(0)", f"ftp://openmoji.pairmill.test/{image}", f"file:///var/www/{image}", "")
        tags += [
            *(image_tag(url, one.name) for url in written),
            f'<img alt="{escape(one.name)}" data-src="{one.image_path}">',
        ]
    _add(draft, "/community/placeholders.html", "Placeholders", tags)


def _add_odd_captions(draft: SiteDraft, shown: Sequence[Emoji], others: Sequence[Emoji]) -> None:
    """Add captions that are empty, a file name, far too long, or a script (as escaped text)."""
    stuffed = ", ".join(one.name for one in others[:200])
    tags = []
    for number, one in enumerate(shown):
        photo = f"IMG_{2034 + number}.png"
        captions = ("", " \n\t ", photo, f"{one.name}: {stuffed}", f"<script>alert(1)</script> {one.name}", None)
        tags += [image_tag(one.image_path, caption) for caption in captions]
    _add(draft, "/community/uploads.html", "Uploads", tags)


def _add_entities(draft: SiteDraft, published: Sequence[Emoji]) -> None:
    """Add names with non-ASCII characters as references: pi&ntilde;ata, doctor&rsquo;s, &nbsp;."""
    shown = [
        one for one in published if " " in one.name and to_entities(one.name) != one.name.replace(" ", "&nbsp;", 1)
    ]
    tags = [f'<img src="{one.image_path}" alt="{to_entities(one.name)}">' for one in shown[:PER_KIND]]
    _add(draft, "/community/typography.html", "Typography", tags)


def _add_malformed(draft: SiteDraft, shown: Sequence[Emoji]) -> None:
    """Add a malformed page that browsers display: open tags, unquoted or single-quoted attributes, stray end tags."""
    rows = []
    for number, one in enumerate(shown):
        path, name = one.image_path, escape(one.name)
        forms = (
            f"<li><IMG SRC={path} ALT='{name}'><p>{name}",
            f'<td><img alt="{name}" src="{path}" alt="second alt is ignored"</td></div>',
            f'<b><i><img src = "\n{path}\n" alt = "{name}" ></b></i>',
        )
        rows.append(forms[number % len(forms)])
    page = "<title>Guest book</title>\n<body bgcolor=white>\n<ul>\n" + "\n".join(rows) + "\n<!-- the rest is lost"
    draft.add_page("/community/guest-book.html", page)


def _add_base_href(draft: SiteDraft, shown: Sequence[Emoji]) -> None:
    """Add URLs that resolve against <base>, not against the page."""
    tags = [image_tag(f"{one.hexcode}.png", one.name) for one in shown]
    _add(draft, "/community/print/sheet.html", "Print sheet", tags, head=UTF8_HEAD + '<base href="/img/">\n')


def _add_mirror(draft: SiteDraft, shown: Sequence[Emoji], pngs: Mapping[str, bytes]) -> None:
    """Add the same bytes under other URLs."""
    tags = []
    for one in shown:
        path = f"/mirror/{one.hexcode}.png"
        draft.files[path] = pngs[one.text]
        tags.append(image_tag(path, one.name))
    _add(draft, "/community/mirror.html", "Mirror", tags)


def _add_thumbnails(draft: SiteDraft, shown: Sequence[Emoji], pngs: Mapping[str, bytes]) -> None:
    """Add the same images, rescaled and encoded as JPEG, WebP and PNG."""
    kinds: tuple[tuple[images.Format, str, int], ...] = (("JPEG", "jpg", 96), ("WEBP", "webp", 80), ("PNG", "png", 72))
    page, tags = "/community/gallery.html", []
    for number, one in enumerate(shown):
        kind, extension, size = kinds[number % len(kinds)]
        path = f"/thumbs/{one.hexcode}.{extension}"
        draft.files[path] = images.recode(pngs[one.text], kind, size)
        tags.append(image_tag(format_url(path, page, "relative"), one.name))
    _add(draft, page, "Gallery", tags)


def _add_odd_shapes(draft: SiteDraft, shown: Sequence[Emoji], pngs: Mapping[str, bytes]) -> None:
    """Add a 1 x 1 tracking pixel and a very wide banner."""
    draft.files["/pixel.png"] = images.recode(pngs[shown[0].text], "PNG", 1)
    draft.files["/img/banner.png"] = images.make_banner([pngs[one.text] for one in shown], 48)
    names = ", ".join(one.name for one in shown)
    tags = [image_tag("/img/banner.png", names, more=' class="banner"'), image_tag("/pixel.png", shown[0].name)]
    draft.add_document("/community/index.html", "Community", "\n".join(tags))


def _add_opted_out_by_header(draft: SiteDraft, shown: Sequence[Emoji]) -> None:
    """Add images whose responses have X-Robots-Tag, which only a fetcher sees."""
    draft.headers["/members/"] = {"X-Robots-Tag": OPT_OUT}
    tags = []
    for one in shown:
        path = f"/members/{one.hexcode}.png"
        draft.files[path] = images.render(one.openmoji_svg, 128)
        tags.append(image_tag(path, one.name))
    _add(draft, "/community/members.html", "Members", tags)


def _add_opted_out_by_page(draft: SiteDraft, shown: Sequence[Emoji]) -> None:
    """Add images on a page that opts out by <meta name=robots>."""
    tags = []
    for one in shown:
        path = f"/sketchbook/img/{one.hexcode}.png"
        draft.files[path] = images.render(one.openmoji_svg, 112)
        tags.append(image_tag(path, one.name))
    meta = f'{UTF8_HEAD}<meta name="robots" content="{OPT_OUT}">\n'
    _add(draft, "/sketchbook/index.html", "Sketchbook", tags, head=meta)
