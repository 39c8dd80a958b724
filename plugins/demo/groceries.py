"""The photographs of the demo's shop: fruit and vegetables in Swedish supermarkets, with the shop's names and sentences.

Source: Klasson, Zhang and Kjellström, "A Hierarchical Grocery Store Image Dataset with Visual and Semantic Labels", WACV
2019, MIT licence (in each archive): 784 photographs for training and 405 others for evaluation, of the same 34 kinds,
scaled to 112 pixels.
"""

import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from plugins.demo.draft import SiteDraft
from plugins.demo.pages import escape, format_url, image_tag, to_slug

FOLDER = Path(__file__).parent / "data"
PER_KIND = 2
"""Photographs of each kind in a demo with a limit."""


@dataclass(frozen=True)
class Photo:
    """One photograph."""

    name: str
    """File name, unique in its part."""
    kind: str
    """English name of its kind."""
    product: str
    """Name of the product, such as "Golden Delicious apple"."""
    sentence: str
    """What the shop says about the product."""
    jpeg: bytes

    @property
    def path(self) -> str:
        """Path of the photograph on the site."""
        return f"/shop/photos/{self.name}"


CREDIT = (
    'Photographs and texts: <a href="https://github.com/marcusklasson/GroceryStoreDataset">GroceryStoreDataset</a>, '
    '© 2019 Marcus Klasson. License: <a rel="license" href="https://opensource.org/license/mit">MIT</a>'
)


@cache
def load_names() -> dict[str, list[str]]:
    """Return the names of the kinds by language, in the same order; we wrote those in other languages than English."""
    lines = (FOLDER / "grocery-names.tsv").read_text("utf-8").splitlines()
    columns = zip(*(line.split("\t") for line in lines), strict=True)
    return {language: names for language, *names in columns}


@cache
def load_photos(part: Literal["train", "test"]) -> tuple[Photo, ...]:
    """Return the photographs of a part, in the order of its archive."""
    with tarfile.open(FOLDER / f"grocery-{part}.tar") as archive:
        files = {entry.name: file.read() for entry in archive if (file := archive.extractfile(entry)) is not None}
    rows = [json.loads(line) for line in files["labels.jsonl"].decode().splitlines()]
    return tuple(
        Photo(row["image"], row["label"], product, sentence, files[row["image"]])
        for row in rows
        for product, sentence in [row["captions"]]
    )


def choose_photos(part: Literal["train", "test"], limit: int | None) -> tuple[Photo, ...]:
    """Return the photographs of a part: all, or if there is a limit the first PER_KIND of each kind."""
    photos = load_photos(part)
    if limit is None:
        return photos
    kinds = [one.kind for one in photos]
    return tuple(one for number, one in enumerate(photos) if kinds[:number].count(one.kind) < PER_KIND)


def add_shop(draft: SiteDraft, photos: Sequence[Photo]) -> list[tuple[str, str]]:
    """Add a page for each product, `/shop/golden-delicious-apple/`; return (URL path, title) of each.

    A photograph has "a photo of" the product as `alt`, and the shop's sentence as <figcaption>.
    """
    entries = []
    for product in dict.fromkeys(one.product for one in photos):
        shown = [one for one in photos if one.product == product]
        page, style = f"/shop/{to_slug(product)}/index.html", draft.next_style()
        figures = []
        for one in shown:
            draft.files[one.path] = one.jpeg
            tag = image_tag(format_url(one.path, page, style), f"a photo of {product}")
            figures.append(f"<figure>\n  {tag}\n  <figcaption>{escape(one.sentence)}</figcaption>\n</figure>")
        body = f'<p>{escape(shown[0].sentence)}</p>\n<div class="grid">\n' + "\n".join(figures) + "\n</div>"
        draft.add_document(page, product, body, credit=CREDIT)
        entries.append((page.removesuffix("index.html"), product))
    return entries
