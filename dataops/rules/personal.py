"""Drop or mask captions with personal data: mail and web addresses, telephone numbers, streets with a house number.

The patterns find the usual forms only; they do not prove that a caption has no personal data.
"""

from typing import Any, Literal

import polars as pl

from dataops.config import StageConfig
from dataops.filters import Rule

MASK = "<private>"

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
PATTERNS: dict[str, str] = {
    "email": rf"(?i)\b[a-z0-9._%+-]{{1,64}}@(?:{_LABEL}\.)+[a-z]{{2,24}}\b",
    "web_address": rf"(?i)\b(?:https?://|www\.)[^\s<>]{{3,}}|\b(?:{_LABEL}\.)+(?:com|org|net|info|biz)\b(?:/[^\s<>]*)?",
    # With a country code, in North American groups, or after a word for telephone.
    "phone": r"\+\d{1,3}[ ()./-]{0,2}(?:\d[ ()./-]{0,2}){6,12}\d\b"
    r"|\(?\b\d{3}\)?[ .-]\d{3}[ .-]\d{4}\b"
    r"|(?i:\b(?:tel|phone|fon|fax|mobile|mobil|telefon|tél|call)\b[.:]{0,2} {0,2})\(?\+?(?:\d[ ()./-]{0,2}){5,14}\d\b",
    "street": r"\b\d{1,5} (?:[A-Z][\w'.-]+ ){1,3}(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr)\b"
    r"|\b[A-Z]\w+(?:straße|strasse|str\.|weg|gasse|platz|allee) \d{1,4}[a-z]?\b",
}
"""Patterns of personal data, for Rust's regex crate (which Polars uses)."""

_ANY = "|".join(f"(?:{pattern})" for pattern in PATTERNS.values())


class Personal(StageConfig):
    """The key of PERSONAL."""

    personal: Literal["keep", "drop", "mask"] = "drop"
    """Captions with an e-mail address, a URL, a telephone number or a street address: `drop` drops them as personal, `mask`
    replaces what was found with "<private>". The row keeps its uid."""


PERSONAL = Rule(
    reason="personal",
    meaning="The caption holds an e-mail address, a URL, a telephone number or a street address.",
    remedy='`filter.personal = "mask"` keeps the row without them',
    config=Personal,
    drops=lambda config: pl.col("caption").str.contains(_ANY) if config.personal == "drop" else None,
    may=lambda _: pl.col("caption_may_be_personal"),
    order=68,
)


def mask_personal_data(caption: pl.Expr) -> pl.Expr:
    """Replace each match of PATTERNS in a caption by MASK."""
    return caption.str.replace_all(_ANY, MASK)


def kept_caption(config: Any) -> pl.Expr:
    """Return the caption as the output of the filter has it: with personal data masked if `personal` is `mask`."""
    return mask_personal_data(pl.col("caption")) if config.personal == "mask" else pl.col("caption")
