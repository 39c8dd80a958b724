"""Let a model write a caption of each kept image, as a further caption of its row.

One raw shard after the other is captioned, in the process of the run: the limits of rate and concurrency hold for the
whole run, on a cluster too, and no other process needs the key. An image without a usable text keeps its row, and the
part `recaption-*` of its shard has the reason.

Answers that any run of the store paid for are kept, one object an image::

    captions/<digest of model, version, prompt and sampling>/<first 3 digits>/<sha256 of the image in its shard>.json

An object is written as soon as the answer is there, so a killed run pays again only for the requests that were on their
way. If it is deleted, the model is asked again.
"""

import hashlib
import threading
import unicodedata
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import msgspec
import polars as pl
import pyarrow as pa

from dataops.errors import ServiceError
from dataops.formatting import format_quantity
from dataops.schema import CAPTIONS, uid
from dataops.shards.tar import read_samples
from dataops.snapshot import Draft, Record
from dataops.store import Store
from dataops.web.captions import normalise_caption
from plugins.captions.config import NAME, RecaptionConfig, RecaptionFacts
from plugins.captions.endpoint import Answer, Endpoint
from tasks.curate.config import CurateConfig
from tasks.curate.inspect_images import RawShard
from tasks.curate.stage import put_result, read_kept
from tasks.curate.step import StepOutput
from tasks.engine.stage import Work
from tasks.filter.config import FilterConfig
from tasks.filter.language import detect_languages
from tasks.web.fetch_error import FetchError

EXTRACTED_WITH = "pairmill-recaption/1"
ADDED, OVER_BUDGET = "added", "over_budget"
OUTCOMES = pa.schema([("uid", pa.string()), ("outcome", pa.string())])
"""Columns of the parts `recaption-*`: the pair, and `added` or the reason why it has no synthetic caption."""
_FAILURES_IN_A_ROW, _REFUSALS_IN_A_ROW = 20, 100
"""Images in a row that failed, after which the endpoint counts as down: all for temporary reasons, or for any."""
_TEXT_REASONS = frozenset({"empty", "too_long", "language", "same_caption"})
"""Outcomes of an image that got an answer which is not used."""
_FINE = _TEXT_REASONS | {ADDED, OVER_BUDGET}
"""Outcomes of an image that another request would not change."""


def caption_images(work: Work[CurateConfig], shards: Sequence[RawShard]) -> StepOutput:
    """Caption the kept images of all raw shards.

    Raises: ServiceError (75) if the endpoint is down, or fewer than `min_success` of the images got an answer;
        ConfigError if it refuses all requests.
    """
    config, draft, context = getattr(work.config, NAME), work.draft, work.context
    sizes = [shard.size for shard in shards]
    quotas = cut_budget(sizes, config.max_images)
    records = list[Record]()
    tasks = [f"recaption-{config.digest[:8]}-{shard.number}" for shard in shards]
    finished = draft.finished(tasks)
    for number, (shard, quota, task) in enumerate(zip(shards, quotas, tasks, strict=True)):
        records.append(finished.get(task) or draft.finish(_caption_shard(draft, shard, config, quota, task)))
        context.progress(number + 1, len(shards), "")
    outcomes = sum((Counter(record.facts["outcomes"]) for record in records), Counter[str]())
    answered = outcomes[ADDED] + sum(outcomes[reason] for reason in _TEXT_REASONS)
    asked = outcomes.total() - outcomes[OVER_BUDGET]
    if answered < config.min_success * asked:
        failed = [one for one in records if set(one.facts["outcomes"]) - _FINE]
        draft.store.delete([draft.scratch(f"{record.task}.json") for record in failed])
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in outcomes.most_common() if reason not in _FINE)
        raise ServiceError(
            f"curate.recaption: {config.endpoint} answered for {answered:,} of {format_quantity(asked, 'image')}, less "
            f"than min_success = {config.min_success:g} ({reasons}); answers are kept, and a rerun asks for the rest"
        )
    totals = sum((Counter(record.facts["totals"]) for record in records), Counter[str]())
    models = sum((Counter(record.facts["models"]) for record in records), Counter[str]())
    facts = RecaptionFacts(
        model=config.model,
        model_version=config.model_version,
        prompt=config.prompt,
        captioner=config.digest,
        outcomes=dict(sorted(outcomes.items())),
        answered_by=dict(sorted(models.items())),
        **{name: totals[name] for name in ("requests", "cached", "prompt_tokens", "completion_tokens")},
    )
    return StepOutput([part for record in records for part in record.parts], facts)


def cut_budget(sizes: Sequence[int], limit: int | None) -> list[int]:
    """Return the maximum number of images of each raw shard, in proportion to its rows; all of them without a limit."""
    total = sum(sizes)
    if limit is None or limit >= total:
        return list(sizes)
    before, quotas = 0, list[int]()
    for size in sizes:
        quotas.append(limit * (before + size) // total - limit * before // total)
        before += size
    return quotas


@dataclass
class _Captioner:
    """Returns the answer for each image from the cache or from the endpoint."""

    draft: Draft
    config: RecaptionConfig
    endpoint: Endpoint
    failed_in_a_row: int = 0
    temporary_in_a_row: int = 0
    totals: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, image: bytes) -> Answer | str:
        """Return the answer for an image, or why there is none. Raises: ServiceError if the endpoint is down."""
        digest = hashlib.sha256(image).hexdigest()
        if (known := read_answer(self.draft.store, self.config, digest)) is not None:
            with self.lock:
                self.totals["cached"] += 1
            return known
        try:
            answer = self.endpoint.ask(image)
        except FetchError as error:
            with self.lock:
                self.failed_in_a_row += 1
                self.temporary_in_a_row = self.temporary_in_a_row + 1 if error.is_transient else 0
            if self.temporary_in_a_row >= _FAILURES_IN_A_ROW or self.failed_in_a_row >= _REFUSALS_IN_A_ROW:
                raise ServiceError(
                    f"curate.recaption: {self.config.endpoint} failed for {self.failed_in_a_row} images in a row, the last "
                    f"time with {error}; answers are kept, and a rerun asks for the rest"
                ) from None
            return error.reason
        with self.lock:
            self.failed_in_a_row = self.temporary_in_a_row = 0
            self.totals.update(prompt_tokens=answer.prompt_tokens, completion_tokens=answer.completion_tokens)
        put_answer(self.draft.store, self.config, digest, answer)
        return answer


_decode_answer = msgspec.json.Decoder(Answer).decode  # made before there are threads: see endpoint.py


def read_answer(store: Store, config: RecaptionConfig, image_digest: str) -> Answer | None:
    """Return the kept answer for an image; None if there is none, or a power failure broke it."""
    name = _answer_name(config, image_digest)
    try:
        return _decode_answer(store.read(name)) if store.size(name) else None
    except msgspec.MsgspecError:
        return None


def put_answer(store: Store, config: RecaptionConfig, image_digest: str, answer: Answer) -> None:
    """Write the answer for an image."""
    store.put(_answer_name(config, image_digest), msgspec.json.encode(asdict(answer)))


def _answer_name(config: RecaptionConfig, image_digest: str) -> str:
    return f"captions/{config.digest}/{image_digest[:3]}/{image_digest}.json"


def _caption_shard(draft: Draft, shard: RawShard, config: RecaptionConfig, quota: int, task: str) -> Record:
    """Caption the kept images of a raw shard; write the step's result, and the outcome of each row (OUTCOMES)."""
    rows = read_kept(draft, shard, NAME)
    kept = cast(pl.DataFrame, pl.from_arrow(rows.select(["uid", "url", "key", "caption"])))
    chosen = set(kept["uid"].sort().head(quota).to_list())
    captioner = _Captioner(draft, config, Endpoint(config, shard.image_extension))
    uid_of = {key: one for one, key in kept.select("uid", "key").iter_rows() if one in chosen}
    answers = {uid_of[key]: answer for key, answer in _ask_all(captioner, _read_images(draft, shard, set(uid_of)))}
    written = _check_texts(kept, answers, config)
    put_result(draft, shard, NAME, _add_captions(rows, written, config))
    part = draft.put_table(f"recaption-{shard.number}.parquet", pa.Table.from_pylist(written, OUTCOMES))
    models = Counter(answer.model for answer in answers.values() if isinstance(answer, Answer))
    totals = Counter(requests=captioner.endpoint.requests) + captioner.totals
    facts = {"outcomes": Counter(row["outcome"] for row in written), "models": models, "totals": totals}
    return Record(task=task, parts=[part], facts={name: dict(counts) for name, counts in facts.items()})


def _read_images(draft: Draft, shard: RawShard, keys: set[str]) -> Iterator[tuple[str, bytes]]:
    if keys:
        with draft.store.open(shard.tar) as file:
            for key, members in read_samples(file, shard.tar):
                if key in keys:
                    yield key, members[shard.image_extension]


def _ask_all(captioner: _Captioner, images: Iterator[tuple[str, bytes]]) -> Iterator[tuple[str, Answer | str]]:
    """Yield the answer for each image, by its key. Equal images that are close to each other are asked for once."""
    waiting = deque[tuple[str, Future[Answer | str]]]()
    asked = dict[bytes, Future[Answer | str]]()
    most = 2 * captioner.config.concurrency
    with ThreadPoolExecutor(captioner.config.concurrency, thread_name_prefix="recaption") as pool:
        try:
            for key, image in images:
                digest = hashlib.sha256(image).digest()
                if digest not in asked:
                    asked[digest] = pool.submit(captioner.answer, image)
                waiting.append((key, asked[digest]))
                while len(waiting) > most:
                    first, future = waiting.popleft()
                    yield first, future.result()
                if len(asked) > 4 * most:
                    asked = {one: future for one, future in asked.items() if not future.done()}
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            captioner.endpoint.pace.stopped.set()
            pool.shutdown(cancel_futures=True)


def _check_texts(kept: pl.DataFrame, answers: dict[str, Answer | str], config: RecaptionConfig) -> list[dict[str, Any]]:
    """Return `uid` and `outcome` of each kept row, and `caption`, `language` and `language_score`; None if not usable."""
    rows = list[dict[str, Any]]()
    for one, own in kept.select("uid", "caption").iter_rows():
        answer = answers.get(one, OVER_BUDGET)
        text = normalise_caption(answer.text, 4 * config.max_chars) if isinstance(answer, Answer) else ""
        if isinstance(answer, str):
            outcome = answer
        elif not text:
            outcome = "empty"
        elif len(text) > config.max_chars:
            outcome = "too_long"
        else:
            outcome = "same_caption" if _fold(text) == _fold(own) else ADDED
        row = {"uid": one, "outcome": outcome, "language": None, "language_score": None}
        rows.append({**row, "caption": text if outcome == ADDED else None})
    added = [row for row in rows if row["outcome"] == ADDED]
    detected = _detect([row["caption"] for row in added], config)
    for row, (language, score, is_foreign) in zip(added, detected.iter_rows(), strict=True):
        row |= (
            {"outcome": "language", "caption": None} if is_foreign else {"language": language, "language_score": score}
        )
    return rows


def _fold(caption: str) -> str:
    return " ".join(unicodedata.normalize("NFC", caption.casefold()).split())


def _detect(captions: Sequence[str], config: RecaptionConfig) -> pl.DataFrame:
    rows = pl.DataFrame({"caption": captions}, schema={"caption": pl.String})
    rows = rows.with_columns(page_url=pl.lit(None, pl.String), page_language=pl.lit(None, pl.String))
    found = detect_languages(rows, FilterConfig(languages=config.languages, language_page_weight=0))
    return found.select("language", "language_score", "foreign")


def _add_captions(rows: pa.Table, written: Sequence[dict[str, Any]], config: RecaptionConfig) -> pa.Table:
    """Return the column `captions` of the rows, with their synthetic captions."""
    model = f"{EXTRACTED_WITH} {config.model_name}"
    has_captions = CAPTIONS.name in rows.column_names
    before = rows[CAPTIONS.name].to_pylist() if has_captions else [None] * rows.num_rows
    captions = list[list[dict[str, Any]] | None]()
    for new, url, further in zip(written, rows["url"].to_pylist(), before, strict=True):
        if new["caption"] is None:
            captions.append(further)
            continue
        item = {name: new[name] for name in ("caption", "language", "language_score")}
        item |= {"uid": uid(url, new["caption"]), "caption_source": "synthetic", "extracted_with": model}
        captions.append([*(further or ()), item])
    return pa.table({CAPTIONS.name: pa.array(captions, CAPTIONS.type)})
