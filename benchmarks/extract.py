"""Compare extraction: WAT with cc2dataset 1.5 and FastWARC + simdjson, HTML with lxml (benchmarks/extract_html.py).

    pip install -e '.[bench]' && pip install --no-deps cc2dataset==1.5.0
    python -m benchmarks.extract [--quick] [--json] [--file some.warc.wat.gz]

The WAT file is synthetic (tests/wat_files.py): 200,000 image links in Common Crawl's layout. Each reader runs
in its own process, in turn; the times are medians of the CPU time of that process
(`time.process_time`), which depends less on other processes than wall time.

- `wat pairs`: from the file's bytes to the pairs of cc2dataset's rule (images with an alt that is not empty) in memory.
- `wat rows`: to all rows of the stage (also titles, og:image, dropped ones) in memory: nearly twice as many.
- `wat whole stage`: to the same rows with uids, as Parquet on disk, with checksums. The peers are cc2dataset, whose pairs
  Arrow writes as Parquet with the same columns and codec (it has no titles, og:image or dropped rows: half as many rows),
  and `wat rows`, which shows what uids, Parquet and checksums cost.
- `wat whole stage, two processes`: the stage in two processes at once, in wall time.
"""

import importlib
import statistics
import sys
import tempfile
import time
import types
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np

from benchmarks.measure import BENCH_EXTRA, Row, finish, make_parser, require_peers, run_in_process
from tests.wat_files import write_wat

PEER = "cc2dataset 1.5.0"
MAX_URL = 4096
MIN_SECONDS = 0.8
"""Minimum CPU time of a measurement: a small file is read several times."""


def ours_pairs(path):
    """Return (canonical URL, unchanged alt) of the images with an alt."""
    from dataops.archives.warc import Damage
    from dataops.web.urls import Resolver
    from plugins.common_crawl.links import join_links
    from plugins.common_crawl.wat import read_wat, resolve_base_url, resolve_images, text_column

    pairs = []
    with path.open("rb") as file:
        found = (page for page in read_wat(file, MAX_URL, lambda what: None) if not isinstance(page, Damage))
        while pages := list(islice(found, 150)):
            images = join_links([page.links for page in pages])
            resolvers = [Resolver(resolve_base_url(page, MAX_URL), MAX_URL) for page in pages]
            url_of, urls, reasons, _ = resolve_images(images, resolvers)
            texts, lengths = text_column(images.text, images.bounds), np.diff(images.bounds)
            has_alt = lengths[1::3] > 0
            good = np.flatnonzero(has_alt & (reasons == 0))
            pairs += zip(urls.take(url_of[good]).to_pylist(), texts.take(3 * good + 1).to_pylist(), strict=True)
            # cc2dataset resolves an empty reference to the page; our stage drops such a row as no_url
            empty = np.flatnonzero(has_alt & (lengths[::3] == 0))
            pairs += [(resolvers[images.pages[i]].base, images.read(3 * i + 1)) for i in empty]
    return pairs


def ours_rows(path):
    """Return the numbers of rows that the stage extracts; nothing is kept or written."""
    from plugins.common_crawl.source import WatSource
    from tasks.files.find import LocalFile

    rows = []
    writer = types.SimpleNamespace(count=len, add_table=lambda table, _: rows.append(table.num_rows))
    WatSource(paths=["-"]).read(LocalFile(path.name, path), writer)
    return rows


def ours_stage(path):
    """Return counts and part digests of the extract stage's task on the file."""
    from dataops.snapshot import Draft
    from dataops.store import FolderStore
    from plugins.common_crawl.source import WatSource
    from tasks.extract.stage import FileTask, extract_file
    from tasks.files.find import LocalFile

    file = LocalFile(path.name, path)
    with tempfile.TemporaryDirectory() as folder:
        record = extract_file(
            Draft(FolderStore(Path(folder)), "extract", "0" * 16),
            FileTask(0, file, file.digest(), WatSource(paths=["-"])),
        )
    return [record.counts.model_dump(), [part.sha256 for part in record.parts]]


def cc2dataset_pairs(path):
    """Return the pairs that cc2dataset's own function extracts."""
    with path.open("rb") as file:
        return [(found["url"], found["alt"]) for found in _cc2dataset()(file, "image")]


def cc2dataset_written(path):
    """Write cc2dataset's pairs as our kept part: its columns, Parquet with zstd, in row groups of as many rows."""
    import pyarrow as pa

    from dataops.parquet import ROW_GROUP, encode_table
    from dataops.schema import PAIRS, conform

    names = {"alt": "caption", "cc_filename": "source"}
    with path.open("rb") as file:
        found = _cc2dataset()(file, "image")
    columns = {
        names.get(key, key): [one[key] for one in found] for key in ("uid", "url", "alt", "page_url", "cc_filename")
    }
    n = len(found)
    columns |= {"caption_source": ["alt"] * n, "extracted_with": [PEER] * n}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "part.parquet").write_bytes(encode_table(conform(pa.table(columns), PAIRS, PEER), ROW_GROUP))
    return []


@lru_cache(maxsize=1)
def _cc2dataset():
    """Return cc2dataset's function, without its package's __init__ and Spark, which the function does not use."""
    package = types.ModuleType("cc2dataset")
    spec = find_spec("cc2dataset")
    package.__path__ = list(spec.submodule_search_locations or []) if spec else []
    for name in ("pyspark", "pyspark.sql", "pyspark.sql.functions"):
        module = sys.modules.setdefault(name, types.ModuleType(name))
        module.__dict__.update(SparkContext=object, SparkSession=object, rand=object)
    sys.modules["cc2dataset"] = package
    return importlib.import_module("cc2dataset.main").extract_documents_from_wat


def fastwarc_pairs(path):
    """Return the pairs, read with FastWARC (C++) and simdjson."""
    from urllib.parse import urljoin

    import simdjson
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    pairs = []
    parser = simdjson.Parser()

    def read(content):
        """Add the pairs of a page; the parser can be used again once all that it returned is deleted."""
        envelope = parser.parse(content)
        envelope = envelope["Envelope"]
        html = envelope["Payload-Metadata"].get("HTTP-Response-Metadata", {}).get("HTML-Metadata", {})
        base = envelope["WARC-Header-Metadata"].get("WARC-Target-URI", "")
        base = urljoin(base, html.get("Head", {}).get("Base", ""))
        for link in html.get("Links", []):
            if link.get("path") == "IMG@/src" and link.get("alt"):
                try:
                    url = urljoin(base, link.get("url", ""))
                except ValueError:
                    continue
                if url.startswith(("http://", "https://")):
                    pairs.append((url, link["alt"]))

    with path.open("rb") as file:
        for record in ArchiveIterator(file, record_types=WarcRecordType.metadata):
            read(record.reader.read())
    return pairs


def bare(path):
    """Only decompress the file; return the number of bytes."""
    from dataops.archives.members import Chunk, Window, inflate_members

    with path.open("rb") as file:
        return sum(len(chunk.data) for chunk in inflate_members(Window(file)) if isinstance(chunk, Chunk))


READERS = {
    reader.__name__: reader
    for reader in (ours_pairs, ours_rows, ours_stage, cc2dataset_pairs, cc2dataset_written, fastwarc_pairs, bare)
}


def _measure(reader, path):
    """Return the CPU time and the wall time of a run on the file, after a warm-up on a small file."""
    run = READERS[reader]
    with tempfile.TemporaryDirectory() as folder:
        write_wat(Path(folder) / "warm.wat.gz", 50)
        run(Path(folder) / "warm.wat.gz")
    cpu, wall = [], []
    while sum(cpu) < MIN_SECONDS:
        started = time.process_time(), time.perf_counter()
        run(path)
        cpu.append(time.process_time() - started[0])
        wall.append(time.perf_counter() - started[1])
    return {"cpu": statistics.median(cpu), "wall": statistics.median(wall)}


def measure_in_processes(reader, path, processes=1):
    """Measure one reader in new interpreters at the same time; return the mean of their times."""
    with ThreadPoolExecutor(processes) as pool:
        started = [pool.submit(run_in_process, _measure, reader, path) for _ in range(processes)]
        found = [one.result()[0] for one in started]
    return {clock: statistics.fmean(one[clock] for one in found) for clock in ("cpu", "wall")}


def compare_pairs(path):
    """Return whether both find the same set of pairs with canonical URLs, and the counts of each."""
    from dataops.web.urls import BadUrl, canonicalise_url

    theirs, unusable = set(), 0
    for url, alt in cc2dataset_pairs(path):
        try:
            theirs.add((canonicalise_url(url, url, MAX_URL), alt))
        except BadUrl:
            unusable += 1
    ours = set(ours_pairs(path))
    missed = {"ours": len(ours), PEER: len(theirs), "only ours": len(ours - theirs), f"only {PEER}": len(theirs - ours)}
    return theirs == ours, missed | {f"unusable of {PEER}": unusable}


def measure_wat(path, times):
    """Return the rows of all readers on one file, whether the pairs are equal, and details."""
    runs = {reader: [] for reader in READERS}
    both = []
    for _ in range(times):
        for reader, measured in runs.items():
            measured.append(measure_in_processes(reader, path))
        both.append(measure_in_processes("ours_stage", path, 2))
    megabytes = path.stat().st_size / 1e6
    speed = {reader: megabytes / statistics.median(run["cpu"] for run in measured) for reader, measured in runs.items()}
    equal, pairs = compare_pairs(path)
    unit, peer = "MB/s a core, compressed", speed["cc2dataset_pairs"]
    one, two = (statistics.median(run["wall"] for run in measured) for measured in (runs["ours_stage"], both))
    scaled = 2 * megabytes / two, megabytes / one
    rows = [
        Row("wat pairs", speed["ours_pairs"], peer, PEER, unit, goal=2.0, limit=speed["bare"]),
        Row("wat pairs", speed["ours_pairs"], speed["fastwarc_pairs"], "FastWARC + simdjson", unit),
        Row("wat whole stage", speed["ours_stage"], peer, f"{PEER}, which writes nothing", unit, limit=speed["bare"]),
        Row("wat whole stage", speed["ours_stage"], speed["cc2dataset_written"], f"{PEER}, written", unit, 1.5),
        Row("wat whole stage, of its rows", speed["ours_stage"], speed["ours_rows"], "wat rows", unit, goal=0.75),
        Row("wat whole stage, two processes", *scaled, "one process", "MB/s", goal=1.8),
    ]
    return rows, equal, {"megabytes": round(megabytes, 1), "pairs": pairs}


def main():
    """Run the benchmark; return 1 if the pairs differ."""
    parser = make_parser(__doc__)
    parser.add_argument("--file", type=Path, help="a WAT file to read instead of the synthetic one")
    options = parser.parse_args()
    require_peers("fastwarc", "simdjson", "lxml")
    require_peers("cc2dataset", command=f"{BENCH_EXTRA} && pip install --no-deps cc2dataset==1.5.0")
    with tempfile.TemporaryDirectory() as folder:
        path = options.file or Path(folder) / "made.warc.wat.gz"
        if not options.file:
            write_wat(path, 200_000)
        rows, equal, details = measure_wat(path, 1 if options.quick else 3)
    from benchmarks import extract_html  # imported late: lxml would count in the memory of the readers

    rows += extract_html.measure_html(options.quick)
    packages = ["isal", "msgspec", "pysimdjson", "cc2dataset", "FastWARC", "pyarrow"]
    return finish("extract", rows, packages, equal=equal, as_json=options.json, details=details)


if __name__ == "__main__":
    raise SystemExit(main())
