"""Pictures with their captions on a page: where each came from is told beside it, and nothing of it is markup."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from tasks.reports.page import short, text

T = TypeVar("T")

PARTS = 12
"""Parts of a snapshot that are looked at for examples."""
CAPTION_CHARS = 120
GALLERY = """<style>
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.2rem, 1fr)); gap: 1rem .9rem; }
figure { margin: 0; font-size: .8rem; line-height: 1.35; min-width: 0; }
figure div { height: 7rem; display: flex; align-items: center; background: var(--line); justify-content: center; }
figure img { max-height: 7rem; } figure.none div { color: var(--soft); }
figcaption { margin-top: .3rem; } figcaption small { color: var(--soft); display: block; }
figcaption span { overflow: hidden; display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 3;
overflow-wrap: anywhere; } td:first-child code { white-space: nowrap; }
</style>"""


def some(parts: Sequence[T]) -> Sequence[T]:
    """At most PARTS of them, evenly among all."""
    return parts[:: -(-len(parts) // PARTS) or 1]


def gallery(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """A heading and pictures; nothing where there is none.

    Args:
        rows: with `caption` and `preview` (a JPEG, or None); perhaps `drop_reason`, `original_width`, `original_height`.
    """
    if not rows:
        return ""
    return f"<h2>{title}</h2>{figures(rows)}"


def figures(rows: Sequence[Mapping[str, Any]]) -> str:
    """The pictures alone, as `gallery` has them."""
    return f"<div class=gallery>{''.join(map(_figure, rows))}</div>"


def _figure(row: Mapping[str, Any]) -> str:
    said = [f"<code>{text(row['drop_reason'])}</code>"] if row.get("drop_reason") else []
    if row.get("original_width"):
        said.append(f"{row['original_width']:,} × {row['original_height']:,}")
    caption = short(row["caption"], CAPTION_CHARS)
    below = f"<figcaption><span>{caption}</span><small>{' · '.join(said)}</small></figcaption>"
    if row["preview"] is None:
        return f"<figure class=none><div>no picture</div>{below}</figure>"
    data = base64.b64encode(row["preview"]).decode()
    return f'<figure><div><img alt="" src="data:image/jpeg;base64,{data}"></div>{below}</figure>'
