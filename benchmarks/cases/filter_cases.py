"""Define the sides of benchmarks/filter.py: functions that each run in their own process.

Each takes the paths of parts and returns (seconds, value to compare). The section comments name what is timed.
"""

import json
import multiprocessing
import os
import tempfile
import time
from itertools import starmap
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from benchmarks.measure import copy_speed

QUERIES = 500_000
DEDUPE_MEMORY, DEDUPE_WORKERS = 256 << 20, 2
"""Memory of a worker (by the stage's default 2 GiB), and workers: processes of ours, threads of DuckDB."""
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3041-\u309f\u30a1-\u30fa\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_LETTER = r"[^\W\d_]|[\u0300-\u036f\u3099\u309a]"  # Python's \w has no combining marks
_WORD = rf"[{UNSPACED}]|[^\s{UNSPACED}]+"


# rules: from Parquet to the kept rows


def rules_ours(paths):
    """Apply our rules to a slice of a part at a time, as the stage does."""
    from dataops.filters import evaluate_rules, first_drop_reason
    from tasks.filter.steps import SLICE_ROWS

    config, kept, before = make_rules(), [0, 0], 0
    evaluate_rules(pl.read_parquet(paths[0], n_rows=10), config)  # compile before the measurement
    started = time.perf_counter()
    for path in paths:
        for start in range(0, pq.read_metadata(path).num_rows, SLICE_ROWS):
            rows = pl.scan_parquet(path).select("url", "caption").slice(start, SLICE_ROWS).collect()
            left = first_drop_reason(evaluate_rules(rows, config)).is_null().arg_true()
            kept = [kept[0] + len(left), kept[1] + int(left.cast(pl.UInt64).sum()) + before * len(left)]
            before += rows.height
    return time.perf_counter() - started, kept


def make_rules():
    """Return rules on caption and URL length, words, extension and letters, which take one line each in pandas."""
    from tasks.filter.config import FilterConfig

    off = {"drop_file_names": False, "drop_dates_and_sizes": False, "personal": "keep", "drop_tracking": False}
    return FilterConfig(min_words=2, max_chars=120, max_repeated_fraction=None, opt_out=[], **off)


def rules_pandas(paths):
    """Apply the same rules in pandas."""
    import pandas as pd

    started = time.perf_counter()
    rows = pd.concat([pd.read_parquet(path, columns=["url", "caption"]) for path in paths], ignore_index=True)
    caption, url = rows["caption"], rows["url"]
    chars, count = caption.str.len(), caption.str.count(_WORD)
    visible, letters = caption.str.count(r"\S"), caption.str.count(_LETTER)
    dropped = (url.str.len() > 2048) | url.str.contains(r"(?i)^[^?#]*\.(?:ico|svg)(?:[?#]|$)")
    dropped |= (chars < 3) | (count < 2) | (chars > 120) | (count > 200) | (letters < visible * 0.4)
    left = np.flatnonzero(~dropped.to_numpy())
    return time.perf_counter() - started, [len(left), int(left.sum())]


def rules_limit(paths):
    """Only read the columns."""
    return _read(paths, ["url", "caption"])


def _read(paths, columns):
    started = time.perf_counter()
    for path in paths:
        pl.read_parquet(path, columns=columns)
    return time.perf_counter() - started, None


# dedupe: from Parquet to one row per URL


def dedupe_limit(paths):
    """Only read the column."""
    return _read(paths, ["url"])


def dedupe_ours(paths):
    """Deduplicate as the stage does: write keys to partitions of hashes, then read one partition at a time.

    The workers are started, and have compiled, before the measurement. An earlier row has the smaller uid, so the first
    row of each URL is kept, as in DuckDB.
    """
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(DEDUPE_WORKERS + 1)
    with (
        tempfile.TemporaryDirectory(dir=paths[0].parent) as folder,
        context.Pool(DEDUPE_WORKERS, _compile, (folder, paths[0], ready)) as pool,
    ):
        _compile(folder, paths[0], ready)
        started = time.perf_counter()
        kept = _dedupe(Path(folder), paths, [pq.read_metadata(path).num_rows for path in paths], pool.starmap)
        return time.perf_counter() - started, kept


def _compile(folder, path, ready):
    """Import and compile what a process needs, and wait until all have."""
    _dedupe(Path(folder) / str(os.getpid()), [path], [10], starmap)
    ready.wait()


def _dedupe(folder, paths, sizes, run):
    """Return the number of kept rows of the first `sizes` rows of parts, and the sum of their numbers."""
    from dataops.snapshot import Draft
    from dataops.store import FolderStore
    from tasks.engine.exchange import Step, run_step
    from tasks.filter.config import FilterConfig
    from tasks.filter.stage import plan_sizes
    from tasks.filter.steps import FilterJob, drop_duplicates

    draft, every = Draft(FolderStore(folder), "filter", "0" * 16), sum(sizes)
    planned = plan_sizes(every, DEDUPE_WORKERS, DEDUPE_MEMORY)
    slices = [
        (path, start, min(planned.batch_rows, size - start))
        for path, size in zip(paths, sizes, strict=True)
        for start in range(0, size, planned.batch_rows)
    ]
    job = FilterJob(FilterConfig(dedupe=["url"]), every, len(slices), planned.partitions, DEDUPE_MEMORY)
    list(run(_put_keys, [(draft, job, number, *where) for number, where in enumerate(slices)]))
    choices = [Step(drop_duplicates, number, job) for number in range(planned.partitions)]
    for steps in (job.exchange("keys").merge_steps(), choices, job.exchange("drop-reasons").merge_steps()):
        list(run(run_step, [(draft, step) for step in steps]))
    dropped = list(run(_count_dropped, [(draft, job, number) for number in range(len(slices))]))
    before = np.cumsum([0, *(rows for _, _, rows in slices)]).tolist()
    numbers = sum(total + first * count for (count, total), first in zip(dropped, before, strict=False))
    return [every - sum(count for count, _ in dropped), every * (every - 1) // 2 - numbers]


def _put_keys(draft, job, number, path, start, size):
    job.exchange("keys").write(draft, number, _make_url_keys(path, start, size, number), "url")


def _count_dropped(draft, job, number):
    rows = job.exchange("drop-reasons").read(draft, number)["row"]
    return len(rows), int(rows.to_numpy().sum())


def _make_url_keys(path, start, size, number):
    """Return the keys of rows of a part by URL alone."""
    from dataops.kernels.hashes import hash128
    from dataops.storage.partition_file import series_from_numpy

    urls = pl.scan_parquet(path).select("url").slice(start, size).collect()["url"]
    rows, hashes = np.arange(size, dtype=np.uint32), np.empty((2, size), np.uint64)
    for first in range(0, size, 1 << 14):  # to_arrow copies
        hashes[:, first : first + (1 << 14)] = hash128(urls.slice(first, 1 << 14).to_arrow()).T
    known = {"url": hashes[0], "url_low": hashes[1], "uid": np.uint64(number << 32) + rows, "row": rows}
    same = {"origin": np.zeros(size, np.uint64), "rank": np.zeros(size, np.uint16)}
    return pl.DataFrame({name: series_from_numpy(column) for name, column in (known | same).items()})


def dedupe_duckdb(paths):
    """Deduplicate in DuckDB, in memory, with as many threads: the first row of each URL."""
    import duckdb

    started = time.perf_counter()
    parts, before = [], 0
    for path in paths:
        parts.append(f"SELECT url, file_row_number + {before} AS n FROM read_parquet('{path}', file_row_number = true)")
        before += pq.read_metadata(path).num_rows
    with duckdb.connect(config={"threads": DEDUPE_WORKERS}) as connection:
        query = f"SELECT count(*), sum(n) FROM (SELECT min(n) AS n FROM ({' UNION ALL '.join(parts)}) GROUP BY url)"
        count, total = connection.execute(query).fetchall()[0]
    return time.perf_counter() - started, [count, int(total)]


# match: from captions in memory to the queries in each


def make_queries(folder, size=None):
    """Return words and sequences of two to four words of synthetic captions, like titles and bigrams; keep them in a file.

    Args:
        size: number of queries; None: all in the file.
    """
    from benchmarks.inputs.rows import load_words, make_texts

    file = folder / "queries.json"
    if file.is_file():
        kept = json.loads(file.read_text())
        if size in (None, len(kept)):
            return kept
    size = size or QUERIES
    found = {word.strip() for word in load_words()[0].to_pylist()}
    number, seeds = 0, np.arange(200_000, dtype=np.uint64)
    while len(found) < size + 20_000:
        runs = make_texts(seeds + np.uint64(number), 60, 2.4, 0.3, 4, language=0)
        found.update(run for run in runs.to_list() if " " in run)
        number += len(seeds)
    normal = sorted({" ".join(split_words(query)) for query in found} - {""})
    queries = [normal[i] for i in np.linspace(0, len(normal) - 1, size).astype(int)]
    file.write_text(json.dumps(queries))
    return queries


def split_words(text):
    """Split a text into the words of dataops.text.query_matching, slowly."""
    from dataops.kernels.characters import GAP, WORD, characters

    kinds = characters().kinds
    spaced = "".join(" " if kinds[ord(c)] == GAP else f" {c} " if kinds[ord(c)] == WORD else c for c in text)
    return spaced.casefold().split()


def _captions(paths):
    for path in paths:
        yield pl.read_parquet(path, columns=["caption"])["caption"]


def match_ours(paths):
    """Match with our code, from the unchanged column."""
    from dataops.text.query_matching import compile_queries, match_queries

    queries = compile_queries(make_queries(paths[0].parent))
    captions = [part.to_arrow() for part in _captions(paths)]
    match_queries(captions[0][:10], queries)
    started = time.perf_counter()
    found = [match_queries(part, queries) for part in captions]
    seconds = time.perf_counter() - started
    return seconds, [sum(len(part.values) for part in found), sum(int(part.values.to_numpy().sum()) for part in found)]


def match_ahocorasick_rs(paths):
    """Match as MetaCLIP does: an automaton, in Rust, over captions padded with spaces before the measurement."""
    from ahocorasick_rs import AhoCorasick

    automaton = AhoCorasick([f" {query} " for query in make_queries(paths[0].parent)], store_patterns=False)
    captions = _padded(paths)
    started = time.perf_counter()
    find = automaton.find_matches_as_indexes
    found = [{number for number, _, _ in find(caption, overlapping=True)} for caption in captions]
    seconds = time.perf_counter() - started
    return seconds, [sum(map(len, found)), sum(map(sum, found))]


def _padded(paths):
    return [f" {' '.join(split_words(text))} " for part in _captions(paths) for text in part.to_list()]


def match_limit(paths):
    """Only encode the captions as UTF-8."""
    captions = [part.to_list() for part in _captions(paths)]
    return sum(len(part) / copy_speed(part) for part in captions), None
