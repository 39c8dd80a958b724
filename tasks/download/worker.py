"""Downloads one shard through img2dataset, in a worker process of the download stage.

Importing this module loads img2dataset, so only worker processes import it. Images are decoded in a child of the worker
(guarded_process.py): an image that ends its decoder costs one row. Three things that img2dataset does not
guarantee are guaranteed here: the order of the samples, the bytes of the tar, and that no row gets lost.

Rows are written in the order of their uids, but fetched in an order in which no host delays the shard (HostPool).
"""

import io
import logging
import math
import re
import sqlite3
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from dataops.errors import CorruptPart, JobFailed, StorageError
from dataops.facts import FetchedShard
from dataops.reasons import Reason
from dataops.rights.signals import OptOut, read_page_terms
from dataops.schema import CAPTIONS
from dataops.shards.tar import ShardWriter, list_members
from dataops.snapshot import Counts, Draft, Part, Record
from dataops.trace.targets import matching_rows
from tasks.download.config import DownloadConfig
from tasks.download.guarded_process import GuardedProcess, ServerLimits, SupervisorLost
from tasks.download.hooks import ShardHook
from tasks.download.host_turns import CpuBudget, HostPool, parse_host
from tasks.download.opener import HANDED_ON, SafeOpener, Scope, Start, make_opener
from tasks.download.outcome import (
    count_by_host,
    count_erased,
    erase_rows,
    join_outcomes,
    parse_drop_reason,
    put_parts,
    split_by,
)
from tasks.download.resizers import (
    BufferedParquetWriter,
    CheckedResizer,
    Downloader,
    FastResizer,
    GuardedResizer,
    Previews,
    compute_key,
    memory_budget,
    preview_in,
    resize_functions,
    use_pool,
)
from tasks.download.rounds import HANDED, UNIT, ShardTask, put_later_rows, read_spans, split_by_class
from tasks.engine.map_progress import report_task
from tasks.engine.scratch_folders import scratch_folder
from tasks.web.host_state import HostState, MachinePace

logger = logging.getLogger(__name__)

# The samples of img2dataset's Downloader and their table of outcomes ---------------------------------------------------


class OrderedWriter:
    """Receives samples in any order and writes them in the order of the rows, by uid: equal samples give equal bytes.

    Images that arrive early are stored in a file, which may grow to the size of the tar, so that memory is bounded.

    Args:
        keys: img2dataset's keys of the rows, in their order.
        uids: uids of the rows, which name the samples in the tar.
        failures: list that gets the errors which img2dataset would print and ignore.
        previews: receives each image and each refusal.
        early_file: an empty file for images that arrive early.
        tar: an empty file for the samples. Whoever opened both files closes them, also after an error.
        shard_id, output_folder, save_caption, oom_shard_count, schema, encode_format: as img2dataset's writers get them.
    """

    def __init__(
        self,
        keys: Sequence[str],
        uids: Sequence[str],
        failures: list[Exception],
        previews: Previews,
        early_file: BinaryIO,
        tar: BinaryIO,
        shard_id: int,
        output_folder: str,
        save_caption: bool,
        oom_shard_count: int,
        schema: object,
        encode_format: str,
    ):
        path = Path(output_folder, f"{shard_id:0{oom_shard_count}d}")
        self._tar, self._format = ShardWriter(tar), encode_format
        self._table = BufferedParquetWriter(str(path.with_suffix(".parquet")), schema, 100)
        self._rows = {key: row for row, key in enumerate(keys)}
        self._uids, self._next = uids, 0
        self._early: dict[int, tuple[tuple[int, int] | None, Any, Any]] = {}
        self._failures, self._previews, self._early_file = failures, previews, early_file
        self._kept, self._handed, self._dropped = 0, 0, Counter[str]()

    def write(self, img_str: Any, key: str, caption: Any, meta: Any) -> None:
        row = self._rows[key]
        meta["key"] = self._uids[row]
        if (reason := parse_drop_reason(meta["status"], meta["error_message"])) is None:
            self._kept += 1
        elif reason == HANDED_ON:
            self._handed += 1
        else:
            self._dropped[reason] += 1
        done = self._kept + self._handed + self._dropped.total()
        report_task(done / len(self._uids), self._kept, self._dropped)
        if img_str is not None:
            self._previews.add_kept(meta["key"], img_str)
        elif meta["status"] == "failed_to_resize":
            self._previews.add_refused(meta["key"], meta["error_message"])
        try:
            if row != self._next:
                self._early[row] = (self._store(img_str), caption, meta)
                return
            self._write(row, img_str, caption, meta)
            while self._next in self._early:
                self._write_early(self._next)
        except OSError as error:  # img2dataset would print and ignore it
            self._failures.append(error)
            raise

    def _write(self, row: int, img_str: Any, caption: Any, meta: Any) -> None:
        if img_str is not None:
            text = orjson.dumps(meta, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY)
            members = {self._format: img_str, "json": text, "txt": (caption or "").encode()}
            self._tar.write(self._uids[row], dict(sorted(members.items())))
        self._table.write(meta)
        self._next = row + 1

    def _write_early(self, row: int) -> None:
        span, caption, meta = self._early.pop(row)
        self._write(row, self._load(span), caption, meta)

    def _store(self, img_str: bytes | None) -> tuple[int, int] | None:
        """Append an image to the file, and return its offset and size."""
        if img_str is None:
            return None
        offset = self._early_file.seek(0, 2)
        self._early_file.write(img_str)
        return offset, len(img_str)

    def _load(self, span: tuple[int, int] | None) -> bytes | None:
        if span is None:
            return None
        self._early_file.seek(span[0])
        return self._early_file.read(span[1])

    def close(self) -> None:
        for row in sorted(self._early):  # rows after one that img2dataset lost
            self._write_early(row)
        self._table.close()
        self._tar.close()


SHARD_DIGITS = 5
_ORIGIN = re.compile(r"^https?://[^/?#]*")
_SHORT_PAUSE = 5.0
"""Pauses of fewer seconds are over before another process has taken over the shard."""
_OF_PAGE = ("url", "page_url", "page_opt_out")


def download_shard(draft: Draft, task: ShardTask) -> Record:
    """Fetch, check and commit one shard.

    Raises: StorageError when the temporary folder cannot be written; CorruptPart when the tar and the rows disagree;
    JobFailed (75) when the process that decodes images cannot be started again.
    """
    try:
        with _start_decoder(task.config) as decoder, ExitStack() as stack:
            hooks = [stack.enter_context(hook.open(draft)) for hook in task.hooks]
            return _download_shard(draft, task, decoder, hooks)
    except SupervisorLost as error:
        raise JobFailed(f"download {task.id}: {error}. Rerun", exit_code=75) from error


def _download_shard(draft: Draft, task: ShardTask, decoder: GuardedProcess, hooks: Sequence[ShardHook]) -> Record:
    started = time.monotonic()
    rows = read_rows(draft, task)
    previews = Previews(partial(preview_in, decoder))
    with scratch_folder("download") as folder, open_hosts(draft, task, rows, folder, hooks) as opener:
        rows = drop_handed(rows)
        for hook in hooks:
            hook.begin(rows)
        for url, page_url, signals in zip(*(rows[name].to_pylist() for name in _OF_PAGE), strict=True):
            declared = [one for one in read_page_terms(signals, page_url) if one.signal in task.config.page_opt_out]
            opener.pages.setdefault(url, []).extend(declared)
        name = f"{task.cut.number:0{SHARD_DIGITS}d}"
        tar = folder / f"{name}.tar"
        with redirect_stdout(io.StringIO()) as output, redirect_stderr(output):
            _run_downloader(rows, task, folder, opener, previews, decoder)
        if output.getvalue():
            logger.warning("download %s: img2dataset printed: %s", task.id, output.getvalue()[-2000:])
        outcomes = pq.ParquetFile(folder / f"{name}.parquet").read()
        for hook in hooks:
            hook.end()
        joined = join_outcomes(rows, rows["uid"].to_pylist(), outcomes, tar.name)
        handed, others = split_by(joined, lambda reason: reason == HANDED_ON)
        table = erase_rows(others)
        kept = table.filter(table["drop_reason"].is_null())
        _check_tar(tar, kept["key"].to_pylist())
        parts: list[Part] = [draft.put_file(tar.name, tar, kept.num_rows)]
    retried, final = split_by_class(table, task.retry_classes)
    parts += put_parts(draft, name, kept, final, table, opener.evidence, previews.by_uid)
    facts = FetchedShard(
        bytes=sum(evidence.bytes or 0 for evidence in opener.evidence.values()),
        seconds=round(time.monotonic() - started, 3),
        round=task.round,
        again=put_later_rows(draft, "again", name, add_starts(retried, opener, opener.scope.starts)),
        handed=put_later_rows(draft, "handed", name, add_starts(handed, opener, opener.handed)),
        hosts=count_by_host(final),
        erased=count_erased(final),
    )
    return Record(task=task.id, parts=parts, counts=_count_rows(final), facts=facts.as_json())


def read_rows(draft: Draft, task: ShardTask) -> pa.Table:
    """Return the rows of a shard in the order of their uids."""
    return read_spans(draft.store, task.cut.spans).sort_by("uid").combine_chunks()


def drop_handed(rows: pa.Table) -> pa.Table:
    """Return the rows of a shard without what only `open_hosts` reads."""
    return rows.drop_columns([name for name in (*HANDED.names, UNIT.name) if name in rows.column_names])


@contextmanager
def open_hosts(
    draft: Draft, task: ShardTask, rows: pa.Table, folder: Path, hooks: Sequence[ShardHook] = ()
) -> Iterator[SafeOpener]:
    """Return what requests the URLs of rows, inside the `with`; what is known of their hosts moves with them.

    Args:
        folder: for the state of hosts, if the task names none or its folder cannot be used on this machine.
    """
    scope, limited = _read_scope(rows, task)
    state = _open_state(task, folder)
    name, chain = draft.scratch(f"{task.cut.chain}.state"), task.cut.chain
    moved = rows["state"].drop_null().to_pylist() if "state" in rows.column_names else []
    if chain and (kept := draft.store.find(name)):
        moved.append(kept)
    origins = {origin for url in rows["url"].to_pylist() for origin in _ORIGIN.findall(scope.find_url(url))}.union(
        *map(state.load, moved)
    )

    def keep(pause: float = _SHORT_PAUSE) -> None:
        """Write what a process on another machine must know that takes over the hosts of this shard."""
        if chain and pause >= _SHORT_PAUSE:
            draft.store.put(name, state.export(origins))

    machine = MachinePace(state, task.run, keep)
    opener = make_opener(task.config, state, f"{task.run}-{task.round}", hooks, scope, machine, task.processes)
    opener.refuse(limited, Reason.HOST_LIMIT, "over download.max_host_rows")
    opener.refuse(
        rows["url"].filter(pa.array(matching_rows(rows, task.takedowns))).to_pylist(), Reason.TAKEDOWN, "by request"
    )
    with closing(opener):
        yield opener
    if task.cut.chain_shards > 1:
        keep()


def _open_state(task: ShardTask, folder: Path) -> HostState:
    """Return the state of hosts on this machine; a temporary one where its folder cannot be used."""
    try:
        return HostState(Path(task.host_state or folder))
    except (OSError, sqlite3.Error) as error:
        logger.warning("download %s: %s cannot be used for the state of hosts: %s", task.id, task.host_state, error)
        return HostState(folder)


def _read_scope(rows: pa.Table, task: ShardTask) -> tuple[Scope, list[str]]:
    """Return the hosts that a shard may request, and the URLs over the limit of their hosts."""
    if UNIT.name not in rows.column_names:
        return Scope(), []
    starts = {}
    columns = ("url", "next_url", "hops", "wait", "opt_out", "permissions")
    for url, next_url, hops, wait, *declared in zip(*(rows[name].to_pylist() for name in columns), strict=True):
        if next_url is not None:
            starts[url] = Start(
                next_url, hops, wait, *(tuple(OptOut(**one) for one in some or ()) for some in declared)
            )
    scope = Scope(None if task.alone else frozenset(rows[UNIT.name].to_pylist()), starts=starts)
    urls = rows["url"].to_pylist()
    limited = rows.filter(rows["limited"])["url"].to_pylist()
    return replace(scope, rows=Counter(parse_host(scope.find_url(url)) for url in urls)), limited


def add_starts(rows: pa.Table, opener: SafeOpener, starts: Mapping[str, Start]) -> pa.Table:
    """Return rows for a later task, with the columns of HANDED: where it begins, and what it must know of hosts."""
    values, known = list[dict[str, Any]](), set[str]()
    for url in rows["url"].to_pylist():
        start = starts.get(url)
        origin = "".join(_ORIGIN.findall(start.url if start else url))
        value: dict[str, Any] = {} if origin in known else {"state": opener.rules.export(origin)}
        known.add(origin)
        if start:
            value |= {"next_url": start.url, "hops": start.hops, "wait": start.wait}
            value |= {name: list(map(vars, getattr(start, name))) for name in ("opt_out", "permissions")}
        values.append(value)
    more = pa.Table.from_pylist(values, HANDED)
    for field in HANDED:
        rows = rows.append_column(field, more[field.name])
    return rows


def _count_rows(final: pa.Table) -> Counts:
    dropped = Counter(reason for reason in final["drop_reason"].to_pylist() if reason)
    return Counts(input=final.num_rows, kept=final.num_rows - dropped.total(), dropped=dict(sorted(dropped.items())))


def make_keys(index: int, rows: int, shard_size: int) -> list[str]:
    """Return img2dataset's keys of the rows of a shard: the index of the shard, then that of the row."""
    digits = math.ceil(math.log10(shard_size))
    return [compute_key(row, index, digits, SHARD_DIGITS) for row in range(rows)]


def _run_downloader(
    rows: pa.Table, task: ShardTask, folder: Path, opener: SafeOpener, previews: Previews, decoder: GuardedProcess
) -> None:
    config = task.config
    if CAPTIONS.name in rows.column_names:
        rows = rows.drop_columns([CAPTIONS.name])  # img2dataset would copy them into each sample
    source = folder / "rows.arrow"
    with pa.ipc.new_file(str(source), rows.schema) as file:
        file.write_table(rows)
    failures = opener.failures
    keys = make_keys(task.cut.number, rows.num_rows, config.shard_size)
    urllib.request.install_opener(opener)  # noqa: TID251  puts the safe fetch under img2dataset
    tar = folder / f"{task.cut.number:0{SHARD_DIGITS}d}.tar"
    pool = HostPool(config.threads, opener.pace, opener.scope.find_url)
    with (folder / "waiting").open("w+b") as early_file, tar.open("wb") as tar_file:
        files = (early_file, tar_file)
        downloader = Downloader(
            sample_writer_class=partial(OrderedWriter, keys, rows["uid"].to_pylist(), failures, previews, *files),
            resizer=GuardedResizer(decoder, previews, CpuBudget(pool)),
            thread_count=max(1, rows.num_rows),  # the Downloader hands out twice as many rows at a time: all of them
            save_caption=True,
            extract_exif=False,
            output_folder=str(folder),
            column_list=rows.column_names,
            timeout=config.timeout,
            number_sample_per_shard=config.shard_size,
            oom_shard_count=SHARD_DIGITS,
            compute_hash="sha256",
            verify_hash_type=None,
            encode_format=config.encode_format,
            retries=config.retries,
            user_agent_token=None,  # the opener sets the header
            disallowed_header_directives=None,  # the opener checks them before it reads the body
        )
        try:
            with use_pool(pool):
                downloader.download_shard((task.cut.number, str(source)))  # its __call__ would swallow errors
        except OSError as error:
            failures.append(error)
    if failures:
        raise StorageError(
            f"download {task.id}: cannot write {folder} or {task.host_state}: {failures[0]}"
        ) from failures[0]


def _start_decoder(config: DownloadConfig) -> GuardedProcess:
    """Return a process that resizes images within the memory that docs/data/download.md states."""
    resizer = (FastResizer if config.resize_quality == "fast" else CheckedResizer)(
        image_size=config.image_size,
        resize_mode=config.resize_mode,
        resize_only_if_bigger=config.resize_only_if_bigger,
        encode_quality=config.encode_quality,
        encode_format=config.encode_format,
        min_image_size=config.min_image_size,
        max_image_area=config.max_image_area,
        max_aspect_ratio=config.max_aspect_ratio,
    )
    memory = memory_budget(config.max_image_area, config.image_size, config.max_aspect_ratio, config.max_bytes)
    return GuardedProcess(resize_functions(resizer), ServerLimits(memory))


def _check_tar(tar: Path, keys: Sequence[str]) -> None:
    with tar.open("rb") as file:
        members = Counter(member.key for member in list_members(file, tar.name))  # in their order
    if list(members.items()) != [(key, 3) for key in keys]:
        raise CorruptPart(f"{tar.name}: its {len(members)} samples are not the {len(keys)} of its rows")
