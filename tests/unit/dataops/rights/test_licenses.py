"""Each declared term becomes a fact with the right share; unknown licences and hostile texts claim nothing."""

import pytest

from dataops.rights.licenses import (
    NO_CONCLUSION,
    OTHERS,
    list_licenses,
    list_rows,
    read_license,
    state_facts,
    state_weight_facts,
)

CC = "https://creativecommons.org/"


@pytest.mark.parametrize(
    ("license_", "name", "terms"),
    [
        (f"{CC}licenses/by/4.0/", "CC BY 4.0", ("by",)),
        ("http://www.creativecommons.org/licenses/BY-NC-SA/3.0/de/", "CC BY-NC-SA 3.0", ("by", "nc", "sa")),
        (f"{CC}licenses/by-nc-nd/2.0/legalcode.fr", "CC BY-NC-ND 2.0", ("by", "nc", "nd")),
        (f"{CC}licenses/nd-nc/1.0", "CC ND-NC 1.0", ("nd", "nc")),
        (f"{CC}licenses/by-sa", "CC BY-SA", ("by", "sa")),
        (f"{CC}publicdomain/zero/1.0/", "CC0 1.0", ()),
        (f"{CC}publicdomain/mark/1.0/", "Public Domain Mark 1.0", ()),
        ("cc-by-nc-4.0", "CC BY-NC 4.0", ("by", "nc")),
        ("CC BY 4.0", "CC BY 4.0", ("by",)),
        ("cc0-1.0", "CC0 1.0", ()),
        ("Apache-2.0", "apache-2.0", None),
        (f"{CC}licenses/sampling+/1.0/", f"{CC}licenses/sampling+/1.0/", None),
        (f"{CC}licenses/bypass/4.0/", f"{CC}licenses/bypass/4.0/", None),
        ("https://evil.example/licenses/by/4.0/", "https://evil.example/licenses/by/4.0/", None),
        ("", "", None),
    ],
)
def test_read_license_returns_name_and_terms(license_, name, terms):
    found = read_license(license_)
    assert (found.name, found.terms) == (name, terms)


COUNTS = {
    f"{CC}licenses/by-nc/4.0/": 10,
    "http://creativecommons.org/licenses/by-nc/4.0/": 2,
    "": 60,
    f"{CC}publicdomain/zero/1.0/": 1,
    "https://example.org/`own`": 20,
}


def test_facts_have_the_share_of_each_term_and_of_what_is_not_known():
    facts = state_facts(list_licenses(COUNTS, 100), 100)
    assert facts == [
        "12.0% of the pairs (12 of 100) are declared with the term `attribution` (CC BY-NC 4.0: 12): copies and "
        "adaptations of these works must name their authors.",
        "12.0% of the pairs (12 of 100) are declared with the term `no commercial use` (CC BY-NC 4.0: 12): a "
        "licence for commercial use of these works was not declared.",
        "1.0% of the pairs (1 of 100) is declared to be in the public domain (CC0 1.0: 1).",
        "27.0% of the pairs (27 of 100) are declared under licences whose terms are not read "
        f"(https://example.org/'own': 20, {OTHERS}: 7).",
        "For 60.0% of the pairs (60 of 100) no licence was declared: what their owners permit is not known.",
        NO_CONCLUSION,
    ]


def test_rows_sum_to_the_pairs_also_where_the_manifest_lists_only_the_frequent_licences():
    rows = list_rows(list_licenses(COUNTS, 100), 100)
    assert sum(int(row[2]) for row in rows) == 100
    assert rows[0] == ("none", "none declared", "60", "60.0%")
    assert rows[-1] == (OTHERS, "not read", "7", "7.0%")
    assert (f"{CC}licenses/by-nc/4.0/", "attribution, no commercial use", "12", "12.0%") in rows


def test_weights_have_the_terms_of_their_licences():
    weights = [("a", "cc-by-nc-4.0"), ("b", ""), ("c", "MIT")]
    facts = state_weight_facts(weights)
    assert any("`a`, CC BY-NC 4.0, has the term `no commercial use`" in fact for fact in facts)
    assert facts[-1] == "For the pretrained weights `b` no licence is stated."
    assert not any("`c`" in fact for fact in facts)
