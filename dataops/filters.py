"""Which pairs stay: the rules on one row's text and address, and the choice among duplicates.

A rule is a named Polars expression that is true where a row is to be dropped; the first that is true, in the order of
`rules`, is the row's drop_reason. The choice among duplicates sees only hashes and ranks, and depends on no order of
rows or parts.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl
import xxhash

from dataops.captions import folded

Dedupe = Literal["uid", "pair", "url"]
DEDUPE_STEPS: tuple[Dedupe, ...] = ("uid", "pair", "url")
"""The steps in the order in which they are taken; a row's reason is `duplicate_<step>` of the first that drops it."""

SOURCE_RANK = {"alt": 0, "pair_list": 0, "aria_label": 1, "figcaption": 2, "title": 3, "og": 4, "filename": 5}
"""What is preferred among captions of one image: alt and aria-label are written to stand for it, a figcaption to go with
it, a title is a tooltip; og:title and og:description speak of the page."""
FULL_CAPTION_WORDS = 3
"""A caption of at least so many words is preferred to a shorter one, wherever it stands."""
LONG_CAPTION_WORDS = 20
"""Beyond so many words, more are not better."""

# Scripts that set no spaces between words: each letter counts as a word.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_WORD = rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+"
_IMAGE_FILE = (
    r"(?i)^[^\s/\\]+(?:[ _-][^\s/\\]+){0,3}\.(?:jpe?g|jfif|png|gif|webp|bmp|tiff?|svg|avif|heic|psd|raw|cr2|nef)$"
)
_CAMERA_FILE = (
    r"(?i)^(?:img|dsc[nf]?|dscf|pict?|p\d|mvi|mvc|pxl|gopr|dji|screenshot|image|photo|untitled)[ _-]?[\d _.()-]{2,}$"
)


@dataclass(frozen=True)
class TextBounds:
    """Bounds on captions and addresses. All are inclusive; None is no bound."""

    min_chars: int
    max_chars: int | None
    min_words: int
    max_words: int | None
    min_letter_fraction: float
    drop_file_names: bool
    max_url_chars: int | None
    blocked_extensions: tuple[str, ...]
    """Without the dot, in lower case."""


def word_count(caption: pl.Expr) -> pl.Expr:
    """Words of a caption (UInt32): set apart by white space, and each letter of a script that sets no spaces."""
    return caption.str.count_matches(_WORD)


def rules(bounds: TextBounds) -> list[tuple[str, pl.Expr]]:
    """(drop_reason, expression over `url` and `caption`) in the order in which they are asked."""
    url, caption = pl.col("url"), pl.col("caption")
    chars, words = caption.str.len_chars(), word_count(caption)
    visible = caption.str.count_matches(r"\S")
    letters = caption.str.count_matches(r"[\p{L}\p{M}]")
    asked: list[tuple[str, pl.Expr]] = []
    if bounds.max_url_chars is not None:
        asked.append(("url_too_long", url.str.len_chars() > bounds.max_url_chars))
    if bounds.blocked_extensions:
        extensions = "|".join(map(re.escape, bounds.blocked_extensions))
        asked.append(("url_extension", url.str.contains(rf"(?i)^[^?#]*\.(?:{extensions})(?:[?#]|$)")))
    asked.append(("too_short", chars < bounds.min_chars))
    asked.append(("too_few_words", words < bounds.min_words))
    if bounds.max_chars is not None:
        asked.append(("too_long", chars > bounds.max_chars))
    if bounds.max_words is not None:
        asked.append(("too_many_words", words > bounds.max_words))
    if bounds.drop_file_names:
        asked.append(("file_name", caption.str.contains(_IMAGE_FILE) | caption.str.contains(_CAMERA_FILE)))
    if bounds.min_letter_fraction > 0:
        asked.append(("few_letters", letters < visible * bounds.min_letter_fraction))
    return asked


def first_reason(asked: Sequence[tuple[str, pl.Expr]]) -> pl.Expr:
    """The name of the first rule that is true (String), null where none is."""
    named = [pl.when(rule).then(pl.lit(name)) for name, rule in asked]
    return pl.coalesce(*named, pl.lit(None, pl.String)).alias("drop_reason")


DEDUPE_SCHEMA = {
    **{f"{what}_{half}": pl.UInt64 for what in DEDUPE_STEPS for half in ("high", "low")},
    "source_rank": pl.UInt8,
    "words": pl.UInt32,
    "capitals": pl.Boolean,
    "origin": pl.UInt64,
}
"""What the choice among duplicates is made by: 128-bit hashes of uid, of url with folded caption, and of url; the rank
of the caption's source, its words, whether it is in capitals only, and a hash of where the row was found."""


def dedupe_columns(rows: pl.DataFrame) -> pl.DataFrame:
    """The columns of DEDUPE_SCHEMA for rows of `pairs`."""
    urls, captions = rows["url"].to_list(), rows["caption"].to_list()
    uids = [int(u, 16) for u in rows["uid"].to_list()]
    pairs = [_hash128(f"{url}\0{folded(caption)}") for url, caption in zip(urls, captions, strict=True)]
    sources = [source or "" for source in rows["caption_source"].to_list()]
    places = rows.select("page_url", "source", "source_offset").rows()
    origins = [
        xxhash.xxh3_64_intdigest("\0".join(map(str, (caption_source, *place))).encode("utf-8", "surrogatepass"))
        for caption_source, place in zip(sources, places, strict=True)
    ]
    hashes = {"uid": uids, "pair": pairs, "url": [_hash128(url) for url in urls]}
    halves = {
        f"{what}_{half}": [(value >> shift) & 0xFFFF_FFFF_FFFF_FFFF for value in values]
        for what, values in hashes.items()
        for half, shift in (("high", 64), ("low", 0))
    }
    ranks = [SOURCE_RANK.get(source, len(SOURCE_RANK)) for source in sources]
    words = rows.select(word_count(pl.col("caption"))).to_series()
    capitals = [caption.isupper() for caption in captions]
    ranking = {"source_rank": ranks, "words": words, "capitals": capitals, "origin": origins}
    return pl.DataFrame({**halves, **ranking}, schema=DEDUPE_SCHEMA)


def _hash128(text: str) -> int:
    return xxhash.xxh3_128_intdigest(text.encode("utf-8", "surrogatepass"))


def duplicates(rows: pl.DataFrame, steps: Sequence[Dedupe]) -> pl.Series:
    """`duplicate_<step>` for each row that another one stands for, else null (String, in the order of the rows).

    Of the rows of one uid, or of one url and folded caption, one that is not in capitals stays, then that from the best
    source (SOURCE_RANK). Of the captions of one url the one stays that has FULL_CAPTION_WORDS words, then one that is not
    in capitals, then that from the best source, then the one with more words (up to LONG_CAPTION_WORDS). What is still
    equal is decided by the smallest uid, then by the smallest hash of where it was found, and at last by position, which
    can only tell apart rows that are the same in all this.

    Args:
        rows: columns of DEDUPE_SCHEMA.
        steps: those to take; in the order of DEDUPE_STEPS, whatever the order given.
    """
    by_source = [pl.col("capitals"), pl.col("source_rank")]
    best = [
        pl.col("words") < FULL_CAPTION_WORDS,
        *by_source,
        -pl.col("words").clip(upper_bound=LONG_CAPTION_WORDS).cast(pl.Int32),
    ]
    last = [pl.col("uid_high"), pl.col("uid_low"), pl.col("source_rank"), pl.col("origin"), pl.col("row")]
    left = rows.with_row_index("row")
    gone: list[pl.DataFrame] = []
    for step in DEDUPE_STEPS:
        if step in steps:
            group = [f"{step}_high", f"{step}_low"]
            order = best if step == "url" else by_source
            staying = left.sort(*order, *last).unique(group, keep="first", maintain_order=True)["row"]
            is_staying = left["row"].is_in(staying.implode())
            gone.append(left.filter(~is_staying).select("row", reason=pl.lit(f"duplicate_{step}")))
            left = left.filter(is_staying)
    reasons = pl.concat([pl.DataFrame(schema={"row": pl.UInt32, "reason": pl.String}), *gone])
    return (
        pl.DataFrame({"row": pl.int_range(rows.height, dtype=pl.UInt32, eager=True)})
        .join(reasons, on="row", how="left", maintain_order="left")
        .to_series(1)
        .alias("drop_reason")
    )
