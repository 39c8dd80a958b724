"""The languages of captions, as the filter stage asks for them."""

from collections.abc import Sequence

import polars as pl
import pyarrow as pa

from dataops.language.detect import Detection, detect
from dataops.language.ngrams import Texts, encode_captions
from dataops.language.scripts import find_unwritten
from tasks.filter.config import FilterConfig

_BATCH = 1 << 12
"""Texts that are detected together: their probabilities in all languages (440 bytes each) stay in the processor's cache."""


def detect_languages(rows: pl.DataFrame, config: FilterConfig) -> pl.DataFrame:
    """The language of each caption, with as much of its page's language as the config says.

    A caption all in capitals is shown to the detector in lower case: it passes over words in capitals. One in a script that
    no candidate writes has no language: every detector, and its page, would only guess.

    Returns: language (String), language_score (Float32), foreign (Boolean): the probability of config.languages is less
        than language_min_score (false where all languages may stay).
    """
    if config.language_page_weight:
        return _build_columns(_detect_with_pages(rows, config), config)
    distinct = rows["caption"].to_arrow().dictionary_encode()
    texts = distinct.dictionary
    batches = [texts[at : at + _BATCH] for at in range(0, max(len(texts), 1), _BATCH)]
    answers = pl.concat([_build_columns(_detect_batch(batch, config), config) for batch in batches])
    return answers[pl.Series(distinct.indices)]


def _detect_batch(captions: pa.Array, config: FilterConfig) -> Detection:
    if config.language_detector == "fasttext":
        texts = _lower_capitals(captions.to_pylist())
        return _without_unwritten(_detect(texts, config), texts, config)
    ready = encode_captions(captions)
    found = detect(ready, config.language_candidates, config.language_mode)
    # The other modes have no language for what no candidate writes, without being told.
    return _without_unwritten(found, ready, config) if config.language_mode == "exact" else found


def _lower_capitals(texts: Sequence[str]) -> list[str]:
    return [text.lower() if text.isupper() else text for text in texts]


def _build_columns(found: Detection, config: FilterConfig) -> pl.DataFrame:
    answers = pl.DataFrame(
        {
            "language": pl.Series([*found.candidates, None], dtype=pl.String)[found.best],  # the last one for -1
            "language_score": pl.Series(found.scores, dtype=pl.Float32),
        }
    )
    if not config.languages:
        return answers.with_columns(foreign=pl.lit(value=False))
    return answers.with_columns(foreign=found.summed(config.languages) < config.language_min_score)


def _detect_with_pages(rows: pl.DataFrame, config: FilterConfig) -> Detection:
    texts = _lower_capitals(rows["caption"].to_list())
    captions = rows.select("page_url").with_columns(text=pl.Series(texts, dtype=pl.String))
    pages = captions.group_by("page_url", maintain_order=True).agg(
        pl.col("text").unique(maintain_order=True).str.join(" ")
    )
    number = pages.select("page_url", number=pl.int_range(pl.len(), dtype=pl.UInt32))
    of_page = captions.join(number, on="page_url", how="left", maintain_order="left", nulls_equal=True)[
        "number"
    ].to_numpy()
    found = _detect(texts, config)
    blended = found.blended(_detect(pages["text"].to_list(), config), of_page, config.language_page_weight)
    return _without_unwritten(blended, texts, config)


def _without_unwritten(found: Detection, texts: Sequence[str] | Texts, config: FilterConfig) -> Detection:
    return found.without(find_unwritten(texts, config.language_candidates))


def _detect(texts: Sequence[str], config: FilterConfig) -> Detection:
    if config.language_detector == "fasttext":
        from dataops.language.fasttext import detect as by_fasttext

        return by_fasttext(texts, config.language_candidates)
    return detect(texts, config.language_candidates, config.language_mode)
