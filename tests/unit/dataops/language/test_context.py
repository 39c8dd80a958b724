"""Checks the combination of evidence of captions, pages, sites and declarations."""

import numpy as np
import pytest

from tasks.filter.language import CAPTION_SHARE, FLOOR, PAGE_SHARE, TEMPER, combine_evidence


def combine_slowly(own, pages, sites, declared, declared_prior):
    """Enumerate the languages of a site, of its pages and of each caption."""
    likelihoods = (own + FLOOR) ** TEMPER
    languages = range(own.shape[1])

    def given(share, language, parent):
        return share * (language == parent) + (1 - share) / len(languages)

    def site_prior(site, language):
        if declared[site] < 0 or not declared_prior:
            return 1 / len(languages)
        return declared_prior if language == declared[site] else (1 - declared_prior) / (len(languages) - 1)

    result = np.zeros(own.shape)
    for caption in range(len(own)):
        site = sites[caption]
        for of_site in languages:
            weight = site_prior(site, of_site)
            own_page = np.zeros(len(languages))
            for page in {pages[i] for i in range(len(own)) if sites[i] == site}:
                sums = np.zeros(len(languages))
                for of_page in languages:
                    product = given(PAGE_SHARE, of_page, of_site)
                    for i in range(len(own)):
                        if pages[i] == page and i != caption:
                            product *= sum(likelihoods[i, k] * given(CAPTION_SHARE, k, of_page) for k in languages)
                    sums[of_page] = product
                if page == pages[caption]:
                    own_page = sums
                else:
                    weight *= sums.sum()
            for language in languages:
                below = sum(own_page[k] * given(CAPTION_SHARE, language, k) for k in languages)
                result[caption, language] += weight * below * likelihoods[caption, language]
    return result / result.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("declared_prior", [0.0, 0.8])
def test_combine_evidence_returns_the_posterior_of_the_model(declared_prior):
    random = np.random.default_rng(0)
    own = random.dirichlet([0.2] * 3, 9)
    own[4] = 0  # a caption without evidence
    pages, sites = np.array([0, 0, 1, 2, 2, 2, 3, 4, 4]), np.array([0, 0, 0, 1, 1, 1, 1, 2, 2])
    declared = np.array([1, -1, 2])
    starts = np.array([0, 2, 3, 6, 7]), np.array([0, 2, 4])
    found = combine_evidence(own, *starts, declared, declared_prior)
    assert found == pytest.approx(combine_slowly(own, pages, sites, declared, declared_prior), abs=1e-9)
