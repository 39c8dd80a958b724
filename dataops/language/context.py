"""Combines what captions, their page, their site and the declared language show about the language of each caption.

A site has one main language, whose prior is the language that its pages declare. A page is in the site's language with
probability PAGE_SHARE, and a caption in its page's language with CAPTION_SHARE; otherwise each language is equally
likely. The result is the posterior of each caption under this model. One level of the tree adds bounded evidence to the
next one, so that a few captions whose own language is clear outweigh a wrong declaration, and a foreign caption stays
foreign on any page.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

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
