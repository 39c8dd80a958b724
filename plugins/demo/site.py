"""Build the site: index pages by group, pages of figures with other wordings, pages in 13 more languages, and a shop.

Each published emoji is on one English index page, with its name as `alt` and its first other wording, if it has one, as
`title`. Emoji with other wordings are also on the page of their subgroup, as <figure> with <figcaption>. The odd pages are
in `oddities`.
"""

from collections.abc import Callable, Mapping, Sequence

from plugins.demo.draft import SiteDraft
from plugins.demo.emoji_set import Emoji
from plugins.demo.groceries import Photo, add_shop
from plugins.demo.oddities import add_oddities
from plugins.demo.pages import (
    STYLE_SHEET,
    UTF8_HEAD,
    UrlStyle,
    escape,
    format_links,
    format_url,
    image_tag,
    to_slug,
)

PER_PAGE = 80
TRANSLATED_GROUPS = ("Animals & Nature", "Food & Drink", "Activities")
"""Groups that are published in all languages, without skin tones: so about 45% of the site's captions are English, close
to the share that Common Crawl reports for its pages."""

ENDONYMS = {
    "ar": "العربية",
    "de": "Deutsch",
    "es": "español",
    "fa": "فارسی",
    "fr": "français",
    "id": "Bahasa Indonesia",
    "it": "italiano",
    "ja": "日本語",
    "ko": "한국어",
    "pt": "português",
    "ru": "русский",
    "tr": "Türkçe",
    "zh": "中文",
}

LEGACY_CHARSETS = {"de": ("windows-1252", True), "ja": ("shift_jis", False)}
"""Languages whose last page has an older encoding, declared in the Content-Type header (True) or only in <meta>."""

Cell = Callable[[Emoji, str, UrlStyle], str]


def build_site(published: Sequence[Emoji], pngs: Mapping[str, bytes], photos: Sequence[Photo], seed: int) -> SiteDraft:
    """Build the whole site.

    Args:
        published: emoji of the site, in order.
        pngs: rendered OpenMoji images, by `Emoji.text`.
        photos: photographs of the shop.
        seed: chooses the emoji of the odd pages.
    """
    draft = SiteDraft()
    draft.files["/style.css"] = STYLE_SHEET.encode()
    draft.files["/robots.txt"] = b"User-agent: *\nAllow: /\n"
    draft.files["/CREDITS.txt"] = (
        b"Pictures: OpenMoji (https://openmoji.org), CC BY-SA 4.0. Names: Unicode CLDR.\n"
        b"Photographs and texts of the shop: GroceryStoreDataset, (c) 2019 Marcus Klasson, MIT.\n"
    )
    for one in published:
        draft.files[one.image_path] = pngs[one.text]
    sections = {
        "Groups": _add_index_pages(draft, published),
        "Other names": _add_figure_pages(draft, published),
        "Languages": _add_translations(draft, published),
        "Shop": add_shop(draft, photos),
        "Community": add_oddities(draft, published, pngs, seed),
    }
    draft.add_document("/index.html", "Pictures for every emoji", _home_body(draft, published, sections))
    return draft


def _add_index_pages(draft: SiteDraft, published: Sequence[Emoji]) -> list[tuple[str, str]]:
    """Add `/food-drink/`, `/food-drink/2.html`, ...: the name as alt, another wording as title."""
    entries = []
    for group, members in _group_by(published, lambda one: one.group).items():
        entries.append((f"/{to_slug(group)}/", group))
        _add_pager(draft, f"/{to_slug(group)}", group, members, _index_cell)
    return entries


def _add_figure_pages(draft: SiteDraft, published: Sequence[Emoji]) -> list[tuple[str, str]]:
    """Add `/names/face-smiling/`, ...: other wordings as figcaption."""
    entries = []
    worded = [one for one in published if one.wordings]
    for subgroup, members in _group_by(worded, lambda one: one.subgroup).items():
        entries.append((f"/names/{to_slug(subgroup)}/", subgroup))
        _add_pager(draft, f"/names/{to_slug(subgroup)}", f"Names: {subgroup}", members, _figure_cell)
    return entries


def _add_translations(draft: SiteDraft, published: Sequence[Emoji]) -> list[tuple[str, str]]:
    entries = []
    shown = [one for one in published if one.group in TRANSLATED_GROUPS and not one.toned]
    for language, endonym in ENDONYMS.items():
        for group, members in _group_by(shown, lambda one: one.group).items():
            named = [one for one in members if language in one.names]
            if named:
                folder = f"/{language}/{to_slug(group)}"
                entries.append((f"{folder}/", f"{endonym}: {group}"))
                _add_pager(draft, folder, f"{group} – {endonym}", named, _translated_cell(language), language)
        if language in LEGACY_CHARSETS and draft.pages[-1].startswith(f"/{language}/"):
            _recode_last_page(draft, *LEGACY_CHARSETS[language])
    return entries


def _add_pager(
    draft: SiteDraft, folder: str, title: str, members: Sequence[Emoji], cell: Cell, language: str = "en"
) -> None:
    """Distribute `members` over numbered pages."""
    pages = [members[start : start + PER_PAGE] for start in range(0, len(members), PER_PAGE)]
    names = ["index.html", *(f"{number}.html" for number in range(2, len(pages) + 1))]
    for number, (name, shown) in enumerate(zip(names, pages, strict=True), start=1):
        page, style = f"{folder}/{name}", draft.next_style()
        cells = "\n".join(cell(one, page, style) for one in shown)
        pager = format_links([(other.replace("index.html", "./"), str(at)) for at, other in enumerate(names, start=1)])
        body = f'<div class="grid">\n{cells}\n</div>\n{pager if len(names) > 1 else ""}'
        shown_title = title if number == 1 else f"{title} ({number})"
        draft.add_document(page, shown_title, body, language=language)


def _index_cell(one: Emoji, page: str, style: UrlStyle) -> str:
    tag = image_tag(
        format_url(one.image_path, page, style),
        one.name,
        title=one.wordings[0] if one.wordings else None,
        more=' width="96" height="96" loading="lazy"',
    )
    return f'<div>{tag}<div class="name">{escape(one.name)}</div></div>'


def _figure_cell(one: Emoji, page: str, style: UrlStyle) -> str:
    tag = image_tag(format_url(one.image_path, page, style), one.name)
    return f"<figure>\n  {tag}\n  <figcaption>{escape(one.wordings[-1])}</figcaption>\n</figure>"


def _translated_cell(language: str) -> Cell:
    def cell(one: Emoji, page: str, style: UrlStyle) -> str:
        name = one.names[language]
        tag = image_tag(format_url(one.image_path, page, style), name)
        return f'<div>{tag}<div class="name">{escape(name)}</div></div>'

    return cell


def _recode_last_page(draft: SiteDraft, charset: str, in_header: bool) -> None:
    """Write the last page in another encoding, as old pages are."""
    path = draft.pages[-1]
    text = draft.files[path].decode().replace(UTF8_HEAD, "" if in_header else f'<meta charset="{charset}">\n')
    draft.files[path] = text.encode(charset, errors="xmlcharrefreplace")
    draft.content_types[path] = f"text/html; charset={charset}" if in_header else "text/html"


def _home_body(draft: SiteDraft, published: Sequence[Emoji], sections: Mapping[str, list[tuple[str, str]]]) -> str:
    intro = f"<p>{len(published):,} pictures on {len(draft.pages) + 1:,} pages, in {len(ENDONYMS) + 1} languages.</p>"
    return "\n".join([intro, *(f"<h2>{name}</h2>\n{format_links(entries)}" for name, entries in sections.items())])


def _group_by(emojis: Sequence[Emoji], key: Callable[[Emoji], str]) -> dict[str, list[Emoji]]:
    """Return the groups in order of first appearance."""
    groups: dict[str, list[Emoji]] = {}
    for one in emojis:
        groups.setdefault(key(one), []).append(one)
    return groups
