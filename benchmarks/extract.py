"""Extraction: WAT against cc2dataset 1.5 and warcio + json, HTML against lxml (benchmarks/extract_html.py).

    pip install -e '.[bench]' && pip install --no-deps cc2dataset==1.5.0
    python -m benchmarks.extract [--quick] [--json] [--file some.warc.wat.gz]

The WAT file is made for it (benchmarks/inputs/wat_files.py says how): 200,000 image links in Common Crawl's own layout. Each
reader runs in a process of its own, one after the other and again, so that its peak memory is its own; the times are CPU
seconds of that process (`time.process_time`), which neighbours on the machine disturb less than the clock; medians.

- `wat pairs`: the file's bytes to the pairs of cc2dataset's rule (images with an alt that is not empty) in memory.
- `wat whole stage`: to all rows (titles, og:image, dropped ones) with canonical addresses, uids, and Parquet on disk.
- `wat two processes`: two files in two processes against one after the other, by the clock; the limit is what the same
  two processes gain when they only inflate, which says what the machine's two cores are.
"""

import importlib
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.inputs.wat_files import write_wat
from benchmarks.measure import Row, arguments, finish, peak_bytes

PEER = "cc2dataset 1.5.0"
MAX_URL = 4096
LEAST_SECONDS = 0.8
"""Of CPU that a measurement takes, in as many readings as that needs."""
Pairs = list[tuple[str, str]]


def ours_pairs(path: Path) -> Pairs:
    """(canonical address, alt as it stands) of the images with an alt."""
    from dataops.archives.warc import Damage
    from dataops.archives.wat import ImageLink, read_wat, resolve_base_url
    from dataops.web.urls import Resolver

    pairs: Pairs = []
    with path.open("rb") as file:
        for page in read_wat(file, MAX_URL, lambda what: None):
            if isinstance(page, Damage):
                continue
            base = resolve_base_url(page, MAX_URL)
            images = [
                link for link in page.html.links if type(link) is ImageLink and link.alt and link.url[:5] != "data:"
            ]
            # an empty reference is the page itself to cc2dataset; our stage drops such a row as no_url
            urls, reasons = Resolver(base, MAX_URL).resolve_all([image.url or base for image in images])
            found = zip(urls, [image.alt for image in images], strict=True)
            pairs += found if not any(reasons) else [pair for pair, bad in zip(found, reasons, strict=True) if not bad]
    return pairs


def ours_stage(path: Path) -> list[Any]:
    """The parts of the extract stage's task on the file."""
    from dataops.snapshot import Draft
    from dataops.store import FolderStore
    from tasks.extract.sources.wat import WatSource
    from tasks.extract.steps import FileTask, extract_file
    from tasks.files.find import LocalFile

    file = LocalFile(path.name, path)
    with tempfile.TemporaryDirectory() as folder:
        record = extract_file(
            Draft(FolderStore(Path(folder)), "extract", "0" * 16),
            FileTask(0, file, file.digest(), WatSource(paths=["-"])),
        )
    return [record.counts.model_dump(), [part.sha256 for part in record.parts]]


def cc2dataset_pairs(path: Path) -> Pairs:
    """What its own function extracts."""
    with path.open("rb") as file:
        return [(found["url"], found["alt"]) for found in _cc2dataset()(file, "image")]


@lru_cache(maxsize=1)
def _cc2dataset() -> Any:
    """Its function, without its package's __init__ and without Spark, which the function does not use."""
    package = types.ModuleType("cc2dataset")
    spec = find_spec("cc2dataset")
    package.__path__ = list(spec.submodule_search_locations or []) if spec else []
    for name in ("pyspark", "pyspark.sql", "pyspark.sql.functions"):
        module = sys.modules.setdefault(name, types.ModuleType(name))
        module.__dict__.update(SparkContext=object, SparkSession=object, rand=object)
    sys.modules["cc2dataset"] = package
    return importlib.import_module("cc2dataset.main").extract_documents_from_wat


def warcio_pairs(path: Path) -> Pairs:
    """The obvious way."""
    from urllib.parse import urljoin

    from warcio.archiveiterator import ArchiveIterator

    pairs: Pairs = []
    with path.open("rb") as file:
        for record in ArchiveIterator(file):
            if record.rec_type != "metadata":
                continue
            envelope = json.loads(record.content_stream().read())["Envelope"]
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
    return pairs


def bare(path: Path) -> int:
    """Decompression alone."""
    from dataops.archives.gzip_members import Chunk, Window, inflate_members

    with path.open("rb") as file:
        return sum(len(chunk.data) for chunk in inflate_members(Window(file)) if isinstance(chunk, Chunk))


READERS: dict[str, Callable[[Path], Any]] = {
    reader.__name__: reader for reader in (ours_pairs, ours_stage, cc2dataset_pairs, warcio_pairs, bare)
}


def _measure(reader: str, path: str) -> dict[str, float]:
    """In a process of its own: CPU seconds of a run on the file, after one on a small file for the imports; peak memory."""
    run = READERS[reader]
    with tempfile.TemporaryDirectory() as folder:
        write_wat(Path(folder) / "warm.wat.gz", 50)
        run(Path(folder) / "warm.wat.gz")
    seconds: list[float] = []
    found: Any = None
    while sum(seconds) < LEAST_SECONDS:  # a small file is read several times
        found = None  # so that no two results are in memory
        started = time.process_time()
        found = run(Path(path))
        seconds.append(time.process_time() - started)
    count = len(found) if isinstance(found, list) else 0
    return {"cpu": statistics.median(seconds), "peak": peak_bytes(), "found": count}


def in_process(reader: str, path: Path) -> dict[str, float]:
    """The measurement of one reader, in a fresh interpreter."""
    command = [sys.executable, "-m", "benchmarks.extract", "--measure", reader, "--file", str(path)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def same_pairs(path: Path) -> tuple[bool, dict[str, int]]:
    """Whether ours and cc2dataset's are the same set, once its addresses are canonical; and how many each has."""
    from dataops.web.urls import BadUrl, canonicalise_url

    theirs, unusable = set(), 0
    raw = cc2dataset_pairs(path)
    for url, alt in raw:
        try:
            theirs.add((canonicalise_url(url, url, MAX_URL), alt))
        except BadUrl:
            unusable += 1
    ours = set(ours_pairs(path))
    missed = {"ours": len(ours), PEER: len(theirs), "only ours": len(ours - theirs), f"only {PEER}": len(theirs - ours)}
    return theirs == ours, missed | {f"unusable of {PEER}": unusable}


def two_processes(path: Path, times: int) -> dict[str, float]:
    """How many times faster two files are read by two processes than by one, and why not twice: what the machine makes of
    two processes that only inflate (`limit`), the CPU seconds of a reading alone and beside another, and the seconds of one
    alone in which it waits (for the disk, mostly).
    """
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(_warm, range(2), chunksize=1)
        gain, beside, alone = _gain(pool, "ours_stage", path, times)
        limit, _, _ = _gain(pool, "bare", path, times)
    cpu, wall = (statistics.median(run[i] for run in alone) for i in range(2))
    cpu_beside = statistics.median(run[0] for run in beside)
    return {"gain": gain, "limit": limit, "cpu": cpu, "cpu beside another": cpu_beside, "waits": max(0.0, wall - cpu)}


Run = tuple[float, float]
"""CPU seconds and seconds of one reading."""


def _gain(pool: Any, reader: str, path: Path, times: int) -> tuple[float, list[Run], list[Run]]:
    """The median gain of two processes, and the readings beside another one and alone."""
    gains: list[float] = []
    beside: list[Run] = []
    alone: list[Run] = []
    for _ in range(times):
        started = time.perf_counter()
        beside += pool.starmap(_timed, [(reader, path)] * 2, chunksize=1)
        both = time.perf_counter() - started
        started = time.perf_counter()
        alone += [pool.apply(_timed, (reader, path)) for _ in range(2)]
        gains.append((time.perf_counter() - started) / both)
    return statistics.median(gains), beside, alone


def _timed(reader: str, path: Path) -> Run:
    cpu, wall = time.process_time(), time.perf_counter()
    READERS[reader](path)
    return time.process_time() - cpu, time.perf_counter() - wall


def _warm(_: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_wat(Path(folder) / "warm.wat.gz", 50)
        ours_stage(Path(folder) / "warm.wat.gz")
        time.sleep(1)  # so that each process gets one


def wat_rows(path: Path, times: int) -> tuple[list[Row], bool, dict[str, Any]]:
    """The rows of all readers on one file."""
    runs: dict[str, list[dict[str, float]]] = {reader: [] for reader in READERS}
    for _ in range(times):
        for reader, measured in runs.items():
            measured.append(in_process(reader, path))
    megabytes = path.stat().st_size / 1e6
    speed = {reader: megabytes / statistics.median(run["cpu"] for run in measured) for reader, measured in runs.items()}
    links = {reader: measured[0]["found"] for reader, measured in runs.items()}
    peaks = {reader: max(run["peak"] for run in measured) / 1e6 for reader, measured in runs.items()}
    equal, pairs = same_pairs(path)
    unit, peer = "MB/s a core, compressed", speed["cc2dataset_pairs"]
    of = links["ours_pairs"] / megabytes
    two = two_processes(path, times)
    rows = [
        Row("wat pairs", speed["ours_pairs"], peer, PEER, unit, goal=2.0, limit=speed["bare"]),
        Row("wat pairs, links", speed["ours_pairs"] * of, peer * of, PEER, "pairs/s a core"),
        Row("wat pairs, warcio", speed["ours_pairs"], speed["warcio_pairs"], "warcio 1.8.1 + json", unit),
        Row("wat whole stage", speed["ours_stage"], peer, f"{PEER}, which writes nothing", unit, limit=speed["bare"]),
        Row("wat peak memory", 1 / peaks["ours_stage"], 1 / peaks["cc2dataset_pairs"], PEER, "1/MB"),
        Row("wat two processes", two["gain"], 1.0, "one process", "times", goal=1.8, limit=two["limit"]),
    ]
    return (
        rows,
        equal,
        {
            **{"megabytes": round(megabytes, 1), "pairs": pairs, "peak MB": {k: round(v) for k, v in peaks.items()}},
            "two processes": {name: round(value, 3) for name, value in two.items()},
        },
    )


def main() -> int:
    """Run and print; 1 where the pairs differ."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--file", type=Path, help="a WAT file to read in place of the made one")
    parser.add_argument("--measure", choices=sorted(READERS), help="run one reader on the file, for its process")
    given = parser.parse_args()
    if given.measure:
        sys.stdout.write(json.dumps(_measure(given.measure, str(given.file))))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        path = given.file or Path(folder) / "made.warc.wat.gz"
        if not given.file:
            write_wat(path, 15_000 if given.quick else 200_000)
        rows, equal, told = wat_rows(path, 1 if given.quick else 3)
    if find_spec("benchmarks.extract_html"):
        rows += importlib.import_module("benchmarks.extract_html").rows(given.quick)  # which fails where pairs differ
    packages = ["isal", "msgspec", "fastwarc", "pysimdjson", "cc2dataset", "warcio", "pyarrow"]
    return finish("extract", rows, packages, equal=equal, as_json=given.json, details=told)


if __name__ == "__main__":
    sys.exit(main())
