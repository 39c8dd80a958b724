"""Detects the languages of captions with the detector and the page weight of the filter's config."""

from collections.abc import Sequence

import polars as pl
import pyarrow as pa

from dataops.language.detect import Detection, detect
from dataops.language.ngrams import Texts, encode_captions
from dataops.language.scripts import find_unwritten
from tasks.filter.config import FilterConfig

_BATCH = 1 << 12
"""Texts that are detected together; their probabilities (440 bytes a text) stay in the processor's cache."""


def detect_languages(rows: pl.DataFrame, config: FilterConfig) -> pl.DataFrame:
    """Detect the language of each caption, weighted with the language of its page where the config says so.

    A caption in capitals only is detected in lower case, since langdetect ignores words in capitals. A caption in a
    script that no candidate writes has no language, because a detector, or the page, would only guess.

    Returns: columns language (String), language_score (Float32), and foreign (Boolean): whether the probability of
        config.languages is less than language_min_score (false where config.languages is empty).
    """
    if config.language_page_weight:
        return _build_columns(_detect_with_pages(rows, config), config)
    distinct = rows["caption"].to_arrow().dictionary_encode()
    texts = distinct.dictionary
    batches = [texts[at : at + _BATCH] for at in range(0, max(len(texts), 1), _BATCH)]
    columns = pl.concat([_build_columns(_detect_batch(batch, config), config) for batch in batches])
    return columns[pl.Series(distinct.indices)]


def _detect_batch(captions: pa.Array, config: FilterConfig) -> Detection:
    if config.language_detector == "fasttext":
        texts = _lower_capitals(captions.to_pylist())
        return _without_unwritten(_detect(texts, config), texts, config)
    encoded = encode_captions(captions)
    found = detect(encoded, config.language_candidates, config.language_mode)
    # The other modes give no language to a caption in a script that no candidate writes.
    return _without_unwritten(found, encoded, config) if config.language_mode == "exact" else found


def _lower_capitals(texts: Sequence[str]) -> list[str]:
    return [text.lower() if text.isupper() else text for text in texts]


def _build_columns(found: Detection, config: FilterConfig) -> pl.DataFrame:
    columns = pl.DataFrame(
        {
            "language": pl.Series([*found.candidates, None], dtype=pl.String)[found.best],  # None for -1
            "language_score": pl.Series(found.scores, dtype=pl.Float32),
        }
    )
    if not config.languages:
        return columns.with_columns(foreign=pl.lit(value=False))
    return columns.with_columns(foreign=found.sum_probabilities(config.languages) < config.language_min_score)


def _detect_with_pages(rows: pl.DataFrame, config: FilterConfig) -> Detection:
    texts = _lower_capitals(rows["caption"].to_list())
    captions = rows.select("page_url").with_columns(text=pl.Series(texts, dtype=pl.String))
    pages = captions.group_by("page_url", maintain_order=True).agg(
        pl.col("text").unique(maintain_order=True).str.join(" ")
    )
    numbers = pages.select("page_url", number=pl.int_range(pl.len(), dtype=pl.UInt32))
    numbered = captions.join(numbers, on="page_url", how="left", maintain_order="left", nulls_equal=True)
    found, page_found = _detect(texts, config), _detect(pages["text"].to_list(), config)
    blended = found.blend(page_found, numbered["number"].to_numpy(), config.language_page_weight)
    return _without_unwritten(blended, texts, config)


def _without_unwritten(found: Detection, texts: Sequence[str] | Texts, config: FilterConfig) -> Detection:
    return found.without(find_unwritten(texts, config.language_candidates))


def _detect(texts: Sequence[str], config: FilterConfig) -> Detection:
    if config.language_detector == "fasttext":
        from dataops.language.fasttext import detect as detect_with_fasttext  # an optional dependency

        return detect_with_fasttext(texts, config.language_candidates)
    return detect(texts, config.language_candidates, config.language_mode)
