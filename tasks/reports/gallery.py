"""Rows of a gallery: images with their captions and what is known of them (the macro `gallery` of the templates)."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

PARTS = 12
"""Number of parts of a snapshot that examples are taken from."""


def evenly_spaced(parts: Sequence[T]) -> Sequence[T]:
    """Return at most PARTS of them, evenly among all."""
    return parts[:: -(-len(parts) // PARTS) or 1]


def gallery_rows(rows: Iterable[Mapping[str, Any]], *, show_reason: bool = True) -> list[dict[str, Any]]:
    """Return the values that the gallery shows of each row.

    Args:
        rows: with `caption` and `preview` (a JPEG, or None); perhaps `url`, `drop_reason`, `original_width`,
            `original_height`.
        show_reason: whether the drop reason stands below the image.
    """
    return [
        {
            "caption": row["caption"],
            "url": row.get("url"),
            "preview": base64.b64encode(row["preview"]).decode() if row["preview"] else "",
            "drop_reason": row.get("drop_reason") if show_reason else None,
            "size": f"{row['original_width']:,} × {row['original_height']:,}" if row.get("original_width") else "",
        }
        for row in rows
    ]
