"""Filtering against what is in use: pandas for rules and dedupe, pyahocorasick for queries (as MetaCLIP does), and
datasketch and rensa for MinHash signatures.

    python -m benchmarks.filter [--quick] [--json] [--rows 5000000] [--memory]

The rows are made for it, from a seed: captions of 1 to 20 words drawn by Zipf's law from 60,000 made-up words; a tenth are
file names, a twentieth one of 200 boilerplate captions, a hundredth in capitals; addresses on 5,000 hosts of Zipf's sizes,
some of them several times. Each side of a comparison runs in a process of its own, in turn (A B A B, medians of the
clock). `--memory` adds the whole stage at 1, 4 and 20 million rows. That outputs are equal is checked in every case.
"""

import json
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from benchmarks.filter_minhash import minhash
from benchmarks.measure import Row, arguments, finish, peak_bytes
from dataops.digest import file_sha256
from dataops.schema import PAIRS, conform, uid, uid_sum

QUERIES = 500_000
PART_ROWS = 500_000
_LETTERS = "etaoinshrdlucmfwypvbgk"


def words(seed: int = 0, number: int = 60_000) -> tuple[list[str], list[float]]:
    """Made-up words, and the sums of their weights for `random.choices`."""
    chance = random.Random(seed)
    made = ["".join(chance.choices(_LETTERS, k=chance.randint(2, 9))) for _ in range(number)]
    return made, list(accumulate(1 / (rank + 1) ** 0.9 for rank in range(number)))


def write_part(path: Path, rows: int, seed: int) -> None:
    """One part of `pairs`, as extract writes it."""
    chance, numbers = random.Random(seed), np.random.default_rng(seed)
    known, weights = words()
    flat = chance.choices(known, cum_weights=weights, k=rows * 8)
    lengths = numbers.geometric(1 / 7, rows).clip(1, 20)
    starts = numbers.integers(0, len(flat) - 20, rows)
    captions = [" ".join(flat[s : s + n]).capitalize() for s, n in zip(starts.tolist(), lengths.tolist(), strict=True)]
    kinds = numbers.random(rows)
    for i in np.flatnonzero(kinds < 0.16).tolist():
        if kinds[i] < 0.1:
            captions[i] = f"IMG_{i:07d}.jpg"
        elif kinds[i] < 0.15:
            captions[i] = f"Share this page with your friends {int(kinds[i] * 4000) % 200}"
        else:
            captions[i] = captions[i].upper()
    hosts = numbers.zipf(1.3, rows) % 5000
    images = numbers.integers(0, rows * 3, rows)
    urls = [
        f"http://img{h}.example/photos/{n % 97}/picture-{n}.jpg"
        for h, n in zip(hosts.tolist(), images.tolist(), strict=True)
    ]

    table = pl.DataFrame(
        {
            "uid": [uid(u, c) for u, c in zip(urls, captions, strict=True)],
            "url": urls,
            "caption": captions,
            "caption_source": ["alt"] * rows,
            "page_url": [f"http://page{h}.example/{i // 9}" for i, h in enumerate(hosts.tolist())],
            "source": ["made up"] * rows,
            "source_offset": list(range(rows)),
        }
    )

    pq.write_table(conform(table.to_arrow(), PAIRS, "made"), path, compression="zstd", row_group_size=1 << 16)


def make_parts(folder: Path, rows: int) -> list[Path]:
    """Parts of PART_ROWS rows, made on all cores."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = [min(PART_ROWS, rows - start) for start in range(0, rows, PART_ROWS)]
    paths = [folder / f"part-{i:05d}.parquet" for i in range(len(sizes))]
    with multiprocessing.get_context("spawn").Pool() as pool:
        pool.starmap(write_part, [(path, size, i) for i, (path, size) in enumerate(zip(paths, sizes, strict=True))])
    return paths


# Each of these runs in a process of its own and returns (seconds, peak bytes, what to compare) --------------------------


def rules_ours(paths: Sequence[Path]) -> tuple[float, Any]:
    """Our rules."""
    from dataops.filters import asked_of, first_reason

    config, kept = size_rules(), 0
    started = time.perf_counter()
    for path in paths:
        rows = pl.read_parquet(path, columns=["url", "caption"])
        kept += int(first_reason(asked_of(rows, config)).is_null().sum())
    return time.perf_counter() - started, kept


def size_rules() -> Any:
    """Length of caption and address, words, extension, letters: what pandas can say in a line each."""
    from dataops.filters import RuleConfig

    off: Any = {"drop_file_names": False, "drop_dates_and_sizes": False, "personal": "keep", "drop_tracking": False}
    return RuleConfig(min_words=2, max_chars=120, max_repeated_fraction=None, opt_out=[], **off)


def rules_pandas(paths: Sequence[Path]) -> tuple[float, Any]:
    """The same in pandas."""
    import pandas as pd

    kept = 0
    started = time.perf_counter()
    for path in paths:
        rows = pd.read_parquet(path, columns=["url", "caption"])
        caption, url = rows["caption"], rows["url"]
        chars, count = caption.str.len(), caption.str.split().str.len()
        visible, letters = caption.str.count(r"\S"), caption.str.count(r"[^\W\d_]")
        gone = (url.str.len() > 2048) | url.str.contains(r"(?i)^[^?#]*\.(?:ico|svg)(?:[?#]|$)")
        gone |= (chars < 3) | (count < 2) | (chars > 120) | (count > 200) | (letters < visible * 0.4)
        kept += int((~gone).sum())
    return time.perf_counter() - started, kept


def dedupe_ours(paths: Sequence[Path]) -> tuple[float, Any]:
    """One row of each address, by hash."""
    from dataops.hashes import hash128

    started = time.perf_counter()
    hashes = np.concatenate([hash128(pl.read_parquet(p, columns=["url"])["url"].to_arrow()) for p in paths])
    frame = pl.DataFrame({"high": hashes[:, 0], "low": hashes[:, 1]}).with_row_index("row")
    kept = frame.unique(["high", "low"], keep="first", maintain_order=True)["row"]
    return time.perf_counter() - started, (len(kept), int(kept.cast(pl.Int64).sum()))


def dedupe_pandas(paths: Sequence[Path]) -> tuple[float, Any]:
    """The same in pandas."""
    import pandas as pd

    started = time.perf_counter()
    frame = pd.concat([pd.read_parquet(path, columns=["url"]) for path in paths], ignore_index=True)
    kept = frame.drop_duplicates("url", keep="first").index
    return time.perf_counter() - started, (len(kept), int(kept.to_numpy().sum()))


def query_list() -> list[str]:
    """Made-up queries of one to three words."""
    known, weights = words()
    chance = random.Random(1)
    found = set(known)
    while len(found) < QUERIES:
        found.add(" ".join(chance.choices(known, cum_weights=weights, k=chance.choice([2, 2, 3]))))
    return sorted(found)


def match_ours(paths: Sequence[Path]) -> tuple[float, Any]:
    """Our matching."""
    from dataops.query_matching import compile_queries, match

    queries = compile_queries(query_list())
    captions = [pl.read_parquet(path, columns=["caption"])["caption"].to_arrow() for path in paths]
    match(captions[0][:10], queries)
    started = time.perf_counter()
    found = [match(part, queries) for part in captions]
    seconds = time.perf_counter() - started
    return seconds, [sum(len(part.values) for part in found), sum(int(part.values.to_numpy().sum()) for part in found)]


def match_ahocorasick(paths: Sequence[Path]) -> tuple[float, Any]:
    """As MetaCLIP does it: an automaton over captions padded with spaces."""
    import ahocorasick

    automaton = ahocorasick.Automaton()
    for number, query in enumerate(query_list()):
        automaton.add_word(f" {query} ", number)
    automaton.make_automaton()
    captions = [c for path in paths for c in pl.read_parquet(path, columns=["caption"])["caption"].to_list()]
    count = total = 0
    started = time.perf_counter()
    for caption in captions:
        said = "".join(c if c.isalnum() else " " for c in caption.lower()) if not caption.isalpha() else caption.lower()
        found = {number for _, number in automaton.iter(f" {' '.join(said.split())} ")}
        count, total = count + len(found), total + sum(found)
    return time.perf_counter() - started, [count, total]


def stage(paths: Sequence[Path]) -> tuple[float, Any]:
    """The whole stage, on two processes, without balancing."""
    from dataops.snapshot import Counts, Draft, Manifest, Part, content_digest
    from dataops.store import FolderStore
    from tasks.filter import FILTER
    from tasks.filter_config import FilterConfig
    from tasks.stage import Context, make, plan

    with tempfile.TemporaryDirectory(dir=paths[0].parent) as folder:
        store = FolderStore(Path(folder))
        draft, parts = Draft(store, "extract", "0" * 16), []
        for path in paths:
            target = Path(folder) / draft.path(path.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.hardlink_to(path)
            uids = uid_sum(pq.read_table(path, columns=["uid"])["uid"].to_pylist())
            rows = pq.read_metadata(path).num_rows
            parts.append(
                Part(name=path.name, rows=rows, bytes=path.stat().st_size, sha256=file_sha256(path), uid_sum=uids)
            )
        known: dict[str, Any] = {
            "inputs": [],
            "config": {},
            "seed": 0,
            "code": {},
            "counts": Counts(),
            "facts": {},
            "created_at": "",
        }
        manifest = Manifest(
            stage="extract", stage_version=1, key="0" * 16, parts=parts, content_digest=content_digest(parts), **known
        )
        started = time.perf_counter()
        config = FilterConfig(languages=["en"], language_min_score=0.0, memory_limit_bytes=1 << 30)
        made = make(plan(FILTER, config, 0, [manifest]), Context(store=store, home=Path(folder), workers=2))
        return time.perf_counter() - started, [made.counts.input, made.counts.kept]


def _child(name: str, paths: list[str], sink: Any) -> None:
    import resource

    seconds, result = globals()[name]([Path(path) for path in paths])
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    sink.send((seconds, max(peak_bytes(), children), result))


def alone(name: str, paths: Sequence[Path]) -> tuple[float, int, Any]:
    """(seconds, peak bytes of the greatest process, result) of a function run in a process of its own."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(name, [str(path) for path in paths], sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    finally:
        process.join()


def compare(case: str, ours: str, peer: str, paths: Sequence[Path], times: int, goal: float) -> tuple[Row, bool, str]:
    """Ours and the peer's in turn, on the same parts."""
    measured: dict[str, list[tuple[float, int, Any]]] = {ours: [], peer: []}
    for _ in range(times):
        for name in (ours, peer):
            measured[name].append(alone(name, paths))
    rows = sum(pl.scan_parquet(path).select(pl.len()).collect().item() for path in paths)
    speed = {name: rows / sorted(run[0] for run in runs)[len(runs) // 2] for name, runs in measured.items()}
    memory = {name: max(run[1] for run in runs) / 1e6 for name, runs in measured.items()}
    equal = measured[ours][0][2] == measured[peer][0][2]
    row = Row(case, speed[ours], speed[peer], peer.partition("_")[2], "rows/s", goal)
    return (
        row,
        equal,
        f"{case}: {memory[ours]:,.0f} MB, {memory[peer]:,.0f} MB for {peer.partition('_')[2]}; equal: {equal}",
    )


def main() -> int:
    """Run the benchmark."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--memory", action="store_true", help="also the whole stage at 1, 4 and 20 million rows")
    options = parser.parse_args()
    number = 300_000 if options.quick else options.rows
    times = 1 if options.quick else 3
    say: Callable[[str], Any] = (lambda line: None) if options.json else lambda line: sys.stdout.write(line + "\n")
    with tempfile.TemporaryDirectory(prefix="pairmill-benchmark-") as folder:
        paths = make_parts(Path(folder) / "parts", number)
        few = paths[: max(1, len(paths) // 10)]
        cases: list[tuple[str, str, str, Sequence[Path], float]] = [
            ("rules", "rules_ours", "rules_pandas", paths, 6),
            ("dedupe", "dedupe_ours", "dedupe_pandas", paths, 5),
            ("match", "match_ours", "match_ahocorasick", few, 5),
        ]
        rows, equal = [], True
        for case, ours, peer, where, goal in cases:
            row, same, line = compare(case, ours, peer, where, times, goal)
            rows.append(row)
            equal &= same
            say(line)
        table, same, line = minhash(paths[0], times)
        rows, equal = rows + table, equal and same
        say(line)
        sizes = [number] if not options.memory else [1_000_000, 4_000_000, 20_000_000]
        for size in sizes:
            parts = paths if size == number else make_parts(Path(folder) / str(size), size)
            seconds, peak, result = alone("stage", parts)
            speed = f"{size / seconds:,.0f} rows/s, greatest process {peak / 1e6:,.0f} MB"
            say(f"whole stage, {size:,} rows: {speed}; in and kept {json.dumps(result)}")
            rows.append(Row(f"stage {size}", size / seconds, 200_000, "the goal", "rows/s", 1))
    packages = ["polars", "pandas", "pyahocorasick", "numba", "datasketch", "rensa"]
    return finish("filter", rows, packages, equal=equal, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
