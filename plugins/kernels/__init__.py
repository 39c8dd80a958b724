"""Compile the functions of the stages before the first run: `python -m plugins.kernels`.

The stages run on a few synthetic pages, rows and images, with the variants of their configs that
need further functions, so the compiled versions are those that a run needs. Each sample runs in a
process of its own, as many at a time as there are cores. dataops.kernels.compiled keeps the result
for all processes of this user.
"""

import hashlib
import importlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from dataops.errors import PairmillError
from dataops.kernels.compiled import cache_folder, distrust, open_folder
from dataops.plugins import load
from dataops.process import count_cores

_CORE_SECONDS = 88
"""CPU time of compiling everything, about."""
_DAYS_KEPT = 30
"""Time after which compiled code is deleted, which may be of other versions of the source and other processors."""
_TEXTS = (
    "A red bicycle leans against the wall", "A red bicycle leans against the walls", "Two dogs play on the beach",
    "Ein Hund spielt am Strand", "浜辺で遊ぶ犬", "IMG_2034.jpg", "12/05/2019 10:30", "Photo by Nikon D90 – Café Zürich",
    "собака играет на пляже", "MAIN STREET 12, SPRINGFIELD", "mail me@example.org", "Two dogs play on the beach",
)  # fmt: skip


def compile_page_readers(folder: Path) -> None:
    """Run `extract` on an archive of one page."""
    from tasks.extract.sources.warc import WarcSource
    from tasks.extract.stage import EXTRACT

    images = "".join(f'<img src="{i}.jpg" alt="{text}" width=300>' for i, text in enumerate(_TEXTS))
    page = f"<!doctype html><html lang=en><title>a</title><!-- b --><style>c</style>{images}</html>".encode()
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + page
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a.example/\r\nContent-Length: {len(http)}\r\n\r\n"
    )
    (folder / "a.warc").write_bytes(head.encode() + http + b"\r\n\r\n")
    _make(EXTRACT, WarcSource(paths=[str(folder / "a.warc")]), folder)


def compile_wat_readers(folder: Path) -> None:
    """Run `extract` on a WAT record of one page, where the plugin for them is installed."""
    from tasks.extract.config import SOURCE_KINDS
    from tasks.extract.stage import EXTRACT

    if "wat" not in SOURCE_KINDS:
        return
    links = [{"path": "IMG@/src", "url": f"{i}.jpg", "alt": text} for i, text in enumerate(_TEXTS)]
    response = {"HTTP-Response-Metadata": {"HTML-Metadata": {"Links": links}}}
    header = {"WARC-Target-URI": "http://a.example/"}
    body = json.dumps({"Envelope": {"Payload-Metadata": response, "WARC-Header-Metadata": header}}).encode()
    head = f"WARC/1.0\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    (folder / "a.wat").write_bytes(head.encode() + body + b"\r\n\r\n")
    _make(EXTRACT, SOURCE_KINDS["wat"].model_validate({"paths": [str(folder / "a.wat")]}), folder)


def compile_rules(folder: Path) -> None:
    """Run `filter` with its defaults, and a list of queries."""
    _filter(folder, languages=["en"])


def compile_detectors(folder: Path) -> None:
    """Run `filter` with the other way to use the captions of a page."""
    _filter(folder, languages=["en"], language_page_weight=0.8)


def compile_caption_deduplication(folder: Path) -> None:
    """Run `filter` with all rules that are off by default."""
    more: dict[str, object] = {step.table: {} for step in load("filter_steps").values()}
    _filter(folder, dedupe=["uid", "pair", "url", "caption"], max_caption_count=2, **more)


def compile_fingerprints(folder: Path) -> None:
    """Run `curate` on images of which some are near-duplicates, placeholders, or copies of evaluation images."""
    import cv2
    import numpy as np

    from dataops.schema import DOWNLOADED
    from dataops.shards.tar import ShardWriter
    from tasks.curate.config import CurateConfig
    from tasks.curate.stage import CURATE

    rng = np.random.default_rng(0)
    smooth = [cv2.resize(rng.integers(0, 256, (8, 8, 3), np.uint8), (96, 96)) for _ in range(4)]
    banner = np.full((96, 200, 3), 255, np.uint8)
    for row in range(3):
        cv2.putText(banner, "SALE 50 OFF", (4, 26 + 28 * row), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (0, 0, 0), 2)
    grey = cv2.cvtColor(smooth[2], cv2.COLOR_BGR2GRAY)
    pictures = [
        *smooth,
        smooth[0],
        cv2.resize(smooth[1], (90, 90)),
        smooth[3] // 2 + 60,
        banner,
        grey,
        banner,
        smooth[3],
    ]
    (folder / "evaluation").mkdir()
    cv2.imwrite(str(folder / "evaluation" / "copy.png"), smooth[0][8:, 8:])
    rows, tar = [], BytesIO()
    writer = ShardWriter(tar)
    for i, pixels in enumerate(pictures):
        data = cv2.imencode(".jpg" if i % 2 else ".png", pixels)[1].tobytes()
        row = _row(f"http://a.example/{i}.jpg", _TEXTS[i])
        size = {"original_width": pixels.shape[1], "original_height": pixels.shape[0]}
        rows.append({**row, **size, "key": row["uid"], "sha256": hashlib.sha256(data).hexdigest()})
        writer.write(row["uid"], {"jpg": data, "json": b"{}", "txt": b"a"})
    writer.close()
    overlap = {"paths": [str(folder / "evaluation")]}
    for number, more in enumerate(({}, {"same_caption": True, "overlap": overlap})):
        upstream = _snapshot(folder / str(number), "download", rows, DOWNLOADED, tar.getvalue())
        _make(CURATE, CurateConfig.model_validate(more), folder / str(number), upstream)


def compile_tokenizer(folder: Path) -> None:
    """Encode a caption with CLIP's vocabulary, of one merge, that training and evaluation use for many captions."""
    from plugins.kernels.clip_encoder import CompiledEncoder

    CompiledEncoder([("a", "b")], 77)(_TEXTS)


def import_commands(folder: Path) -> None:
    """Import what a run imports: uv leaves their modules to be compiled at the first import."""
    for module in ("flows.commands.run", "flows.pipeline"):
        importlib.import_module(module)


SAMPLES: tuple[Callable[[Path], None], ...] = (
    compile_fingerprints, compile_rules, compile_caption_deduplication, compile_detectors, compile_page_readers,
    compile_wat_readers, compile_tokenizer, import_commands,
)  # fmt: skip
"""All samples; the one that takes longest comes first."""


def compile_all(samples: Sequence[Callable[[Path], None]] = SAMPLES) -> None:
    """Compile the functions that samples call, by default those of all stages.

    Raises: PairmillError if they cannot be kept.
    """
    folder = cache_folder()
    if not open_folder(folder):
        remedy = "each run compiles the functions of the stages; set NUMBA_CACHE_DIR to a folder of your own"
        raise PairmillError(f"{folder} {distrust(folder) or 'cannot be made'}: {remedy}")
    for entry in folder.iterdir():  # those of other versions of the code, and of other processors
        if entry.stat().st_mtime < time.time() - _DAYS_KEPT * 86_400:
            entry.unlink(missing_ok=True)
    processes = min(count_cores(), len(samples)) or 1
    with ProcessPoolExecutor(processes, get_context("spawn"), max_tasks_per_child=1) as pool:
        for done in as_completed([pool.submit(_run_sample, sample) for sample in samples]):
            done.result()


def _run_sample(sample: Callable[[Path], None]) -> None:
    with tempfile.TemporaryDirectory(prefix="pairmill-kernels-") as folder:
        sample(Path(folder))


def _filter(folder: Path, **config: object) -> None:
    import polars as pl

    from dataops.schema import PAIRS
    from tasks.filter.config import FilterConfig
    from tasks.filter.stage import FILTER

    folder.mkdir(exist_ok=True)
    pl.DataFrame({"query": ["red bicycle", "dog", "beach"]}).write_parquet(folder / "queries.parquet")
    balance = {"queries": str(folder / "queries.parquet"), "keep_unmatched": True}
    rows = [_row(f"http://a.example/image-{i}.jpg", text) for i, text in enumerate(_TEXTS)]
    upstream = _snapshot(folder, "extract", rows, PAIRS)
    _make(FILTER, FilterConfig.model_validate({**config, "balance": balance}), folder, upstream)


def _row(url: str, caption: str) -> dict[str, Any]:
    from dataops.schema import uid

    page = {"page_url": "http://a.example/", "page_language": "en"}
    return {"uid": uid(url, caption), "url": url, "caption": caption, **page}


def _snapshot(folder: Path, stage: str, rows: list[dict[str, object]], schema: object, tar: bytes | None = None) -> Any:
    """Write a snapshot of these rows, as the input of a stage, and return its manifest."""
    import pyarrow as pa

    from dataops.snapshot import Counts, Draft, Manifest, content_digest
    from dataops.store import open_store

    draft = Draft(open_store(str(folder / "store")), stage, "0" * 16)
    parts = [draft.put_table("part-00000.parquet", pa.Table.from_pylist(rows, schema))]
    parts += [draft.put_bytes("00000.tar", tar)] if tar else []
    made = {"stage_version": 0, "inputs": [], "config": {"encode_format": "jpg"}, "seed": 0, "code": {}}
    counts = Counts(input=len(rows), kept=len(rows))
    digest = content_digest(parts)
    return draft.commit(
        Manifest(stage=stage, key=draft.key, parts=parts, counts=counts, content_digest=digest, created_at="", **made)
    )


def _make(stage: Any, config: Any, folder: Path, *upstream: Any) -> None:
    from dataops.store import open_store
    from tasks.engine.context import Context
    from tasks.engine.stage import make, plan

    store = open_store(str(folder / "store"))
    with ThreadPoolExecutor(1) as pool:  # in this process, whose compiled code is kept
        make(plan(stage, config, 0, upstream, store), Context(store, folder, workers=1, pool=pool))


def main() -> None:
    """Compile, and print what is done and how long it took."""
    cores = min(count_cores(), len(SAMPLES))
    sys.stderr.write(f"Compiling the functions of the stages for this processor into {cache_folder()} ")
    sys.stderr.write(f"(about {_CORE_SECONDS // cores} s on {cores} cores; nothing is downloaded).\n")
    started = time.monotonic()
    compile_all()
    sys.stderr.write(f"compiled in {time.monotonic() - started:.0f} s\n")
