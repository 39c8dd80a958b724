"""One shard through img2dataset: what a worker process of the download stage does.

Importing this module loads img2dataset (and with it torch): only worker processes do. Three things that img2dataset
leaves to chance are made certain here: the order of samples, the bytes of the tar, and that no row is lost unseen.
"""

import io
import logging
import math
import os
import sys
import urllib.request
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from dataops.errors import CorruptPart, StorageError
from dataops.images import ImageRefused, read_header
from dataops.shards import read_samples
from dataops.snapshot import Counts, Draft, Record
from tasks import slices
from tasks.fetch import SafeOpener
from tasks.fetch_outcome import outcome, put_tables
from tasks.polite_opener import polite_opener
from tasks.scratch import scratch_folder

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # albumentations asks the network for updates on import
# img2dataset imports wandb, which we never call: it costs a worker half a second and leaves two temporary folders behind.
sys.modules.setdefault("wandb", ModuleType("wandb"))
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "'imghdr' is deprecated", DeprecationWarning)  # img2dataset imports it
    from img2dataset.downloader import Downloader, compute_key
    from img2dataset.resizer import Resizer
    from img2dataset.writer import WebDatasetSampleWriter

if TYPE_CHECKING:
    from tasks.download import DownloadConfig, Shard

logger = logging.getLogger(__name__)

SHARD_DIGITS = 5


def run(draft: Draft, shard: "Shard") -> Record:
    """Fetch, check and commit one shard.

    Raises: StorageError when the temporary folder could not be written; CorruptPart when tar and rows disagree.
    """
    rows = slices.read(draft.store, shard.rows)
    keys = shard_keys(shard.index, rows.num_rows, shard.config.shard_size)
    with scratch_folder("download") as folder:
        opener = polite_opener(shard.config, Path(shard.site_files or folder), shard.workers)
        name = f"{shard.index:0{SHARD_DIGITS}d}"
        tar = folder / f"{name}.tar"
        with redirect_stdout(io.StringIO()) as noise, redirect_stderr(noise):
            _fetch(rows, keys, shard, folder, opener)
        if noise.getvalue():
            logger.warning("download %s: img2dataset said: %s", shard.id, noise.getvalue()[-2000:])
        table = outcome(rows, keys, pq.read_table(folder / f"{name}.parquet"), tar.name)
        reasons = table["drop_reason"].to_pylist()
        kept = table.filter(pa.array([reason is None for reason in reasons], pa.bool_()))
        _check_tar(tar, kept["key"].to_pylist())
        parts = [draft.put_file(tar.name, tar, kept.num_rows)]
    parts += put_tables(draft, name, kept, table, opener.evidence)
    dropped_by = dict(sorted(Counter(reason for reason in reasons if reason).items()))
    counts = Counts(input=rows.num_rows, kept=kept.num_rows, dropped=dropped_by)
    fetched = sum(evidence.bytes or 0 for evidence in opener.evidence.values())
    return Record(task=shard.id, parts=parts, counts=counts, facts={"bytes": fetched})


def shard_keys(index: int, rows: int, shard_size: int) -> list[str]:
    """img2dataset's keys of the rows of a shard: the shard's number, then the row's."""
    digits = math.ceil(math.log10(shard_size))
    return [compute_key(row, index, digits, SHARD_DIGITS) for row in range(rows)]


def _fetch(rows: pa.Table, keys: Sequence[str], shard: "Shard", folder: Path, opener: SafeOpener) -> None:
    config = shard.config
    source = folder / "rows.arrow"
    with pa.ipc.new_file(str(source), rows.schema) as file:
        file.write_table(rows)
    failures: list[OSError] = []
    urllib.request.install_opener(opener)
    downloader = Downloader(
        sample_writer_class=partial(OrderedWriter, keys, failures),
        resizer=_resizer(config),
        thread_count=config.threads,
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
        user_agent_token=None,  # the opener's own header stands
        disallowed_header_directives=None,  # the opener looks before it reads the body
    )
    try:
        downloader.download_shard((shard.index, str(source)))  # calling it would swallow what this raises
    except OSError as error:
        failures.append(error)
    if failures:
        msg = f"download {shard.id}: cannot write {folder}: {failures[0]}"
        raise StorageError(msg) from failures[0]


def _resizer(config: "DownloadConfig") -> "CheckedResizer":
    return CheckedResizer(
        image_size=config.image_size,
        resize_mode=config.resize_mode,
        resize_only_if_bigger=config.resize_only_if_bigger,
        encode_quality=config.encode_quality,
        encode_format=config.encode_format,
        min_image_size=config.min_image_size,
        max_image_area=config.max_image_area,
        max_aspect_ratio=config.max_aspect_ratio,
    )


class CheckedResizer(Resizer):
    """img2dataset's Resizer, which decodes only what read_header takes for a whole image of bearable size."""

    def __call__(self, img_stream: Any, blurring_bbox_list: Any = None) -> Any:
        try:
            read_header(img_stream.getvalue(), self.max_image_area)
        except ImageRefused as refused:
            return None, None, None, None, None, str(refused)
        return super().__call__(img_stream, blurring_bbox_list)


class OrderedWriter(WebDatasetSampleWriter):
    """img2dataset's writer, which gets samples as they arrive and writes them in the order of their keys, without clocks.

    Samples that came early wait in memory: at most those that arrive while the slowest fetch lasts.
    """

    def __init__(self, keys: Sequence[str], failures: list[OSError], *args: Any):
        super().__init__(*args)
        self.tarwriter.mtime = 0
        self._keys, self._next = keys, 0
        self._early: dict[str, tuple[Any, Any, Any]] = {}
        self._failures = failures

    def write(self, img_str: Any, key: str, caption: Any, meta: Any) -> None:
        self._early[key] = (img_str, caption, meta)
        while self._next < len(self._keys) and self._keys[self._next] in self._early:
            self._write(self._keys[self._next])
            self._next += 1

    def _write(self, key: str) -> None:
        img_str, caption, meta = self._early.pop(key)
        try:
            super().write(img_str, key, caption, meta)
        except OSError as error:  # img2dataset would print it and go on
            self._failures.append(error)
            raise

    def close(self) -> None:
        for key in sorted(self._early):  # those behind a lost one
            self._write(key)
        super().close()


def _check_tar(tar: Path, keys: Sequence[str]) -> None:
    with tar.open("rb") as file:
        samples = [(key, len(members)) for key, members in read_samples(file, tar.name)]
    if samples != [(key, 3) for key in keys]:
        msg = f"{tar.name}: its {len(samples)} samples are not the {len(keys)} of its rows"
        raise CorruptPart(msg)
