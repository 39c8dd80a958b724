"""Balancing each language over a list of its own equals slow loops over the captions, for any partitions and batches."""

import random
from collections import Counter
from fractions import Fraction
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataops.errors import ConfigError, ContractError
from dataops.kernels.hashes import uid_halves
from dataops.schema import uid
from dataops.text.balance import hash_queries, sample_pairs
from dataops.text.query_matching import compile_queries
from tasks.engine.stage import plan
from tasks.filter.config import FilterConfig
from tasks.filter.query_lists import QueryLists
from tasks.filter.report import report_html
from tasks.filter.stage import FILTER
from tests.filter_runs import filtered, kept, with_sizes

WORDS = {
    "en": ["kite", "dog", "old house", "river", "unicorn"],
    "el": ["σπίτι", "γάτα", "βουνό", "γάτα βουνό"],
    "ko": ["강아지", "바다"],
    "ru": ["дом", "река"],
}
LISTED = ["en", "el", "ko"]
BASE = {"language_candidates": list(WORDS), "dedupe": ["uid"], "language_page_weight": 0.0}


def write_lists(folder: Path) -> dict[str, str]:
    folder.mkdir(exist_ok=True)
    for name in LISTED:
        pq.write_table(pa.table({"query": WORDS[name]}), folder / f"{name}.parquet")
    return {name: str(folder / f"{name}.parquet") for name in LISTED}


def balance_of(folder: Path, **more: object) -> dict[str, Any]:
    paths = write_lists(folder)
    several = {"reference": "en", "queries": {"ko": paths["ko"], "el": paths["el"]}}
    return {"queries": paths["en"], "max_per_query": 60, "per_language": several, **more}


def some_pairs(number: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return pairs in four languages of different sizes, with words of skewed frequency."""
    chosen, rows = random.Random(seed), []
    for i in range(number):
        language = chosen.choices(list(WORDS), (60, 25, 10, 5))[0]
        words = WORDS[language]
        taken = {words[min(int(chosen.expovariate(1.2)), len(words) - 1)] for _ in range(chosen.randint(1, 2))}
        other = {"en": "a photo of it", "el": "φωτογραφία εδώ", "ko": "사진 입니다", "ru": "фотография здесь"}[language]
        caption = " ".join([*sorted(taken), other] if chosen.random() < 0.9 else [other, other])
        url = f"http://host.example/{i}.jpg"
        rows.append({"uid": uid(url, caption), "url": url, "caption": caption, "caption_source": "alt"})
        rows[-1] |= {"page_url": f"http://p.example/{i}", "source": "made up", "source_offset": i}
    return rows


def match_slowly(caption: str, language: str) -> list[int]:
    words = f" {caption} "
    return [n for n, query in enumerate(WORDS[language] if language in LISTED else []) if f" {query} " in words]


def find_limits_slowly(rows: list[dict[str, Any]], limit: int) -> dict[str, int]:
    counts = {
        name: Counter(n for r in rows if r["language"] == name for n in match_slowly(r["caption"], name))
        for name in LISTED
    }
    english = counts["en"].values()
    share = Fraction(sum(count for count in english if count < limit), sum(english))
    limits = {"en": limit}
    for name in LISTED[1:]:
        ordered = sorted(counts[name].values())
        sums = [Fraction(sum(ordered[: n + 1]), sum(ordered)) for n in range(len(ordered))]
        limits[name] = ordered[min(range(len(ordered)), key=lambda n: abs(sums[n] - share))]
    return limits


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_stage_equals_loops_over_the_captions(tmp_path: Path, mode: str):
    rows, balance = some_pairs(700), balance_of(tmp_path / "lists", mode=mode, seed=3)
    before = kept(tmp_path / "whole", filtered(tmp_path / "whole", rows, **BASE))
    assert Counter(row["language"] for row in before).keys() == set(WORDS)
    manifest = filtered(tmp_path / mode, rows, balance=balance, **BASE)
    after = {row["uid"]: row for row in kept(tmp_path / mode, manifest)}
    limits = find_limits_slowly(before, 60)
    assert len(set(limits.values())) == 3
    counts = {
        name: Counter(n for r in before if r["language"] == name for n in match_slowly(r["caption"], name))
        for name in LISTED
    }
    expected = set()
    for row in before:
        name = row["language"]
        found = match_slowly(row["caption"], name)
        if not found:
            continue
        chances = [min(1.0, limits[name] / counts[name][n]) for n in found]
        uids, matches = uid_halves(pa.array([row["uid"]])), pa.array([list(range(len(found)))], pa.list_(pa.uint32()))
        salts = hash_queries([WORDS[name][n] for n in found], 3)
        sampled, chance = sample_pairs(uids, matches, np.array(chances), salts)
        assert chance[0] == pytest.approx(1 - prod(1 - p for p in chances))
        if sampled[0] or mode == "online":
            expected.add(row["uid"])
            assert after[row["uid"]]["query_ids"] == found, "rows of the list of the language"
            if mode == "online":
                assert after[row["uid"]]["sampling_probability"] == pytest.approx(chance[0])
    assert after.keys() == expected
    facts = {one["language"]: one for one in manifest.facts["balance"]["languages"]}
    assert list(facts) == ["en", "el", "ko"]
    assert {name: one["max_per_query"] for name, one in facts.items()} == limits
    assert {name: one["matches_before"] for name, one in facts.items()} == {
        n: sum(c.values()) for n, c in counts.items()
    }
    assert facts["en"]["queries_found"] == len(counts["en"])
    tails = {
        name: sum(n for n in counts[name].values() if n <= limits[name]) / sum(counts[name].values()) for name in LISTED
    }
    assert {name: one["tail_share"] for name, one in facts.items()} == pytest.approx(tails, abs=1e-6)
    if mode == "offline":
        left = Counter(row["language"] for row in after.values() for _ in row["query_ids"])
        assert {name: one["matches_after"] for name, one in facts.items()} == left
    page = report_html(manifest)
    assert "Limits of languages" in page
    assert all(f'<td class="name">{name}</td><td class="n">{limit:,}</td>' in page for name, limit in limits.items())


def test_output_does_not_depend_on_partitions_batches_and_slices(tmp_path: Path):
    rows, balance = some_pairs(300, 1), balance_of(tmp_path / "lists", max_per_query=20, keep_unmatched=True)
    whole = filtered(tmp_path / "whole", rows, balance=balance, **BASE)
    moved = balance_of(tmp_path / "moved", max_per_query=20, keep_unmatched=True)
    cut = filtered(tmp_path / "cut", rows, stage=with_sizes(5, 40, 40), balance=moved, **BASE)
    assert cut.key == whole.key, "the path of a list is not part of the key"
    assert cut.counts == whole.counts
    examples = {"unmatched_examples": []}  # those of each slice
    assert cut.facts["balance"] | examples == whole.facts["balance"] | examples
    one, other = (sorted(map(str, kept(tmp_path / at, m))) for at, m in (("whole", whole), ("cut", cut)))
    assert one == other


@settings(deadline=None, max_examples=30)
@given(
    rows=st.lists(
        st.tuples(
            st.lists(st.sampled_from([w for words in WORDS.values() for w in words] + ["x"]), max_size=4),
            st.sampled_from([*WORDS, None]),
        ),
        max_size=12,
    )
)
def test_match_equals_a_loop_over_the_captions(rows: list[tuple[list[str], str | None]]):
    lists = QueryLists({name: compile_queries(WORDS[name]) for name in LISTED})
    captions = pl.Series([" ".join(words) for words, _ in rows], dtype=pl.String)
    languages = pl.Series([language for _, language in rows], dtype=pl.String)
    numbers = lists.match(captions, languages)
    expected = [match_slowly(caption, str(name)) for caption, name in zip(captions, languages, strict=True)]
    assert lists.to_rows(numbers, languages).to_pylist() == expected
    assert lists.to_numbers(lists.to_rows(numbers, languages), languages).equals(numbers)
    firsts = {"en": 0, "el": 5, "ko": 9}
    assert numbers.to_pylist() == [
        [firsts[str(name)] + n for n in found] for found, name in zip(expected, languages, strict=True)
    ]


def test_key_depends_on_each_list_and_has_no_path(tmp_path: Path):
    path = tmp_path / "queries.parquet"
    pq.write_table(pa.table({"query": ["kite", "dog"]}), path)

    def key(**balance: object) -> str:
        return plan(FILTER, FilterConfig.model_validate({"balance": {"queries": str(path), **balance}}), 0, []).key

    both = {"queries": str(path), "per_language": {"queries": {"el": str(path)}}}
    assert str(tmp_path) not in str(FilterConfig.model_validate({"balance": both}).key_config())
    several = {"queries": {"el": write_lists(tmp_path / "lists")["el"]}}
    with_greek = key(per_language=several)
    pq.write_table(pa.table({"query": ["άλλο"]}), tmp_path / "lists" / "el.parquet")
    assert len({key(), with_greek, key(per_language=several), key(per_language=several | {"reference": "fr"})}) == 4


def test_a_reference_without_matches_is_an_error(tmp_path: Path):
    greek = [row for row in some_pairs(200) if "φωτογραφία" in row["caption"]]
    with pytest.raises(ContractError, match="no caption in the reference language en matches a query"):
        filtered(tmp_path / "store", greek, balance=balance_of(tmp_path / "lists"), **BASE)


@pytest.mark.parametrize(
    ("several", "more", "message"),
    [
        ({"queries": {}}, {}, "at least 1 item"),
        ({"queries": {"en": "x"}}, {}, "names a list for en, the reference"),
        ({"queries": {"xx": "x"}}, {}, "no language profile 'xx'"),
        ({"reference": "english", "queries": {"de": "x"}}, {}, "no language profile 'english'"),
        ({"queries": {"de": "x"}}, {"languages": ["en"]}, "a list for de, which `languages` drops"),
        ({"queries": {"de": "x"}, "limit": 3}, {}, "limit"),
    ],
)
def test_wrong_tables_are_refused(several: dict[str, object], more: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        FilterConfig.model_validate({"balance": {"queries": "q", "per_language": several}, **more})


def test_each_missing_list_is_a_problem(tmp_path: Path):
    paths = write_lists(tmp_path)
    several = {"queries": {"el": paths["el"], "ko": str(tmp_path / "none.parquet")}}
    config = FilterConfig.model_validate({"balance": {"queries": paths["en"], "per_language": several}})
    (problem,) = config.problems()
    assert problem.startswith("balance.per_language.queries.ko: the list of queries")
    with pytest.raises(ConfigError, match="pairmill queries build"):
        FILTER.external_inputs(config)
