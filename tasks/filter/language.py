"""Detects the languages of captions with the detector of the filter's config, and with what their pages show."""

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from dataops import plugins
from dataops.language.detect import DECIMALS, Detection, find_unwritten
from tasks.filter.config import FilterConfig

# The language of a caption in its context: its page and its site -------------------------------------------------------
# A site has one main language, whose prior is the language that its pages declare. A page is in the site's language with
# probability PAGE_SHARE, and a caption in its page's language with CAPTION_SHARE; otherwise each language is equally
# likely. The result is the posterior of each caption under this model. One level of the tree adds bounded evidence to the
# next one, so that a few captions whose own language is clear outweigh a wrong declaration, and a foreign caption stays
# foreign on any page.

CAPTION_SHARE = 0.95
PAGE_SHARE = 0.9
TEMPER = 0.5
"""Exponent of a caption's likelihoods. Overlapping n-grams repeat their evidence, and so exaggerate it."""
FLOOR = 1e-8
"""Added to each likelihood: no text excludes a language."""

_ALIASES = {"cmn": "zh", "fil": "tl", "in": "id", "iw": "he", "nb": "no", "nn": "no"}
_TRADITIONAL = frozenset(("hant", "tw", "hk", "mo"))


def match_language_tag(tag: str | None, candidates: Sequence[str]) -> int:
    """Return the index of the candidate that a BCP 47 tag in lower case ("en-us") names; -1 if none."""
    primary, *others = (tag or "").split("-")
    name = _ALIASES.get(primary, primary)
    if name == "zh":
        name = "zh-cn" if _TRADITIONAL.isdisjoint(others) else "zh-tw"
    return candidates.index(name) if name in candidates else -1


def combine_evidence(
    probabilities: NDArray[np.float64],
    page_starts: NDArray[np.int64],
    site_starts: NDArray[np.int64],
    declared: NDArray[np.int64],
    declared_prior: float,
) -> NDArray[np.float64]:
    """Return the posterior of n captions over L languages (n, L).

    Args:
        probabilities: the posterior (n, L) of each caption on its own, with a flat prior; 0 for a caption without any.
            Captions of a page are consecutive and distinct, and pages of a site are consecutive.
        page_starts: index of the first caption of each page (P,).
        site_starts: index of the first page of each site (S,).
        declared: index of the language that the pages of each site declare (S,); -1 if none.
        declared_prior: probability that a site is in the language that it declares; 0 ignores the declaration.
    """
    languages = probabilities.shape[1]
    likelihoods = _scale((probabilities + FLOOR) ** TEMPER)
    captions = _bound(likelihoods, CAPTION_SHARE)
    page_sums = np.add.reduceat(captions, page_starts)
    pages = _bound(_scale(_softmax(page_sums)), PAGE_SHARE)
    prior = np.zeros((len(site_starts), languages))
    if declared_prior:
        is_declared = np.flatnonzero(declared >= 0)
        prior[is_declared] = np.log((1 - declared_prior) / max(languages - 1, 1))
        prior[is_declared, declared[is_declared]] = np.log(declared_prior)
    sites = np.add.reduceat(pages, site_starts) + prior
    of_site = _rows_of(site_starts, len(page_starts))
    page_prior = np.log(PAGE_SHARE * _softmax(sites[of_site] - pages) + (1 - PAGE_SHARE) / languages)
    of_page = _rows_of(page_starts, len(probabilities))
    caption_prior = CAPTION_SHARE * _softmax((page_prior + page_sums)[of_page] - captions)
    posterior = likelihoods * (caption_prior + (1 - CAPTION_SHARE) / languages)
    return posterior / posterior.sum(axis=1, keepdims=True)


def _scale(likelihoods: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the likelihoods with the mean 1 in each row."""
    return likelihoods / likelihoods.mean(axis=1, keepdims=True)


def _bound(likelihoods: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """Return the log evidence for the language of the level above, to which the text belongs with probability `share`."""
    return np.log(share * likelihoods + (1 - share))


def _softmax(logarithms: NDArray[np.float64]) -> NDArray[np.float64]:
    exponentials = np.exp(logarithms - logarithms.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def _rows_of(starts: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """Return the index of the group of each of `total` consecutive members."""
    return np.repeat(np.arange(len(starts)), np.diff(starts, append=total))


BATCH = 1 << 12
"""Texts that are detected together; their probabilities (440 bytes a text) stay in the processor's cache."""
SITE_CAPTIONS = 1 << 13
"""Maximum number of captions of a site that are evidence for each other, which bounds memory (440 bytes a caption)."""
_CAPTION = ["site", "page", "caption"]


def detect_languages(
    rows: pl.DataFrame, config: FilterConfig, batch: int = BATCH, site_captions: int = SITE_CAPTIONS
) -> pl.DataFrame:
    """Detect the language of each caption, with what its page shows unless the config excludes that.

    A caption in a script that no candidate writes has no language, because a detector, or the page, would only guess.

    Args:
        rows: columns caption, page_url and page_language.
        batch: number of texts that are detected together.
        site_captions: maximum number of captions of a site that are evidence for each other.

    Returns: columns language (String), language_score (Float32), and foreign (Boolean): whether the probability of
        config.languages is less than language_min_score (false where config.languages is empty).
    """
    if config.language_page_weight:
        return _build_columns(_detect_with_pages(rows, config, config.language_page_weight), config)
    if config.language_page_weight is None and rows["page_url"].null_count() < rows.height:
        return _detect_in_context(rows, config, batch, site_captions)
    return _detect_alone(rows["caption"], config, batch)


def _detect_alone(captions: pl.Series, config: FilterConfig, batch: int) -> pl.DataFrame:
    distinct = captions.to_arrow().dictionary_encode()
    texts = distinct.dictionary
    batches = [texts[at : at + batch] for at in range(0, max(len(texts), 1), batch)]
    columns = pl.concat([_build_columns(_detect(texts, config), config) for texts in batches])
    return columns[pl.Series(distinct.indices)]


def _detect_in_context(rows: pl.DataFrame, config: FilterConfig, batch: int, site_captions: int) -> pl.DataFrame:
    """Detect the language of each caption with the evidence of its page, its site and the declared language.

    The pages of one host that declare the same language are a site. A caption without a page has its own evidence only.
    """
    numbered = rows.with_columns(
        site=pl.struct(pl.col("page_url").str.extract(r"^[^/]*//([^/?#]*)"), "page_language").rank("dense"),
        page=pl.col("page_url").rank("dense"),
    )
    distinct = numbered.unique(_CAPTION, maintain_order=True).sort("site", "page", maintain_order=True)
    distinct = distinct.with_columns(block=pl.int_range(pl.len()).over("site") // site_captions)
    sizes = distinct.group_by("site", "block", maintain_order=True).len()["len"].to_list()
    on_pages = [_detect_sites(sites, config) for sites in _cut_batches(distinct, sizes, batch)]
    columns = pl.concat([distinct.select(_CAPTION), pl.concat(on_pages)], how="horizontal")
    found = numbered.select(_CAPTION).join(columns, on=_CAPTION, how="left", maintain_order="left", nulls_equal=True)
    found = found.drop(_CAPTION)
    without_page = rows["page_url"].is_null().arg_true()
    if len(without_page):
        alone = _detect_alone(rows["caption"][without_page], config, batch)
        found = pl.DataFrame({c.name: c.scatter(without_page, alone[c.name]) for c in found.iter_columns()})
    return found


def _cut_batches(distinct: pl.DataFrame, sizes: Sequence[int], batch: int) -> Iterator[pl.DataFrame]:
    """Yield consecutive rows of whole groups of these sizes, at least `batch` of them at a time."""
    start = size = 0
    for i, group in enumerate(sizes):
        size += group
        if size >= batch or i + 1 == len(sizes):
            yield distinct[start : start + size]
            start, size = start + size, 0


def _detect_sites(captions: pl.DataFrame, config: FilterConfig) -> pl.DataFrame:
    """Detect the languages of the distinct captions of some sites, in the order of the sites and their pages."""
    texts = captions["caption"].to_arrow().dictionary_encode()
    found = _detect(texts.dictionary, config, rounded=False)
    own = found.probabilities[texts.indices.to_numpy()]
    keys = captions.select("site", "block", "page")
    page_starts = _group_starts(keys)
    site_starts = _group_starts(keys[page_starts].select("site", "block"))
    tags = captions["page_language"][page_starts][site_starts].to_list()
    declared = np.array([match_language_tag(tag, found.candidates) for tag in tags])
    combined = combine_evidence(own, page_starts, site_starts, declared, config.language_declared_prior)
    combined[own.sum(axis=1) == 0] = 0
    best = np.where(own.sum(axis=1) > 0, combined.argmax(axis=1), -1)
    return _build_columns(Detection(found.candidates, best, np.round(combined, DECIMALS)), config)


def _group_starts(keys: pl.DataFrame) -> NDArray[np.int64]:
    """Return the index of the first row of each run of equal rows."""
    is_start = pl.any_horizontal(pl.all().ne_missing(pl.all().shift())) | (pl.int_range(pl.len()) == 0)
    return np.flatnonzero(keys.select(is_start).to_series().to_numpy())


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


def _detect_with_pages(rows: pl.DataFrame, config: FilterConfig, weight: float) -> Detection:
    texts = [text.lower() if text.isupper() else text for text in rows["caption"].to_list()]
    captions = rows.select("page_url").with_columns(text=pl.Series(texts, dtype=pl.String))
    # A caption without a page is a page of its own.
    captions = captions.with_columns(pl.col("page_url").fill_null("\0" + pl.col("text")))
    pages = captions.group_by("page_url", maintain_order=True).agg(
        pl.col("text").unique(maintain_order=True).str.join(" ")
    )
    numbers = pages.select("page_url", number=pl.int_range(pl.len(), dtype=pl.UInt32))
    numbered = captions.join(numbers, on="page_url", how="left", maintain_order="left", nulls_equal=True)
    own = captions["text"].to_arrow()
    found, page_found = _detect(own, config), _detect(pages["text"].to_arrow(), config)
    blended = found.blend(page_found, numbered["number"].to_numpy(), weight)
    return blended.without(find_unwritten(own, config.language_candidates))


def _detect(captions: pa.Array, config: FilterConfig, *, rounded: bool = True) -> Detection:
    detect = plugins.find("detectors", config.language_detector)
    return detect(captions, config.language_candidates, rounded=rounded)
