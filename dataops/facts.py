"""The facts of each stage: what its manifest states of a snapshot beside parts and counts.

A manifest holds facts as JSON, so that one of a newer version keeps what this version does not
know. `PackFacts.of(manifest)` reads them as a typed object; unknown fields are in `further`, and a
missing required one is an error. A step of curate and a fetch hook have a model of their own, as
the attribute `facts` of the registered object.

The type of a field states where a file quotes a pair: `Quoted` is text that somebody else chose,
such as a caption, a URL or the message of an error. A takedown overwrites only such text
(plugins/erasure/quotes.py).
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from dataops import plugins
from dataops.errors import CorruptPart
from dataops.formatting import format_quantity, rank_counts
from dataops.snapshot import MANIFEST, Counts, Manifest, Record
from dataops.stages import PAIR_STAGES, StageName

QUOTES_PAIRS = "quotes pairs"
"""Mark of a type whose texts may quote a pair, also in what it contains."""
Quoted = Annotated[str, QUOTES_PAIRS]

Tally = dict[str, int]
"""Number of pairs by value; "" is no value."""
FailedFile = tuple[str, Quoted]
"""A source file that could not be read, and the error."""


class Facts(BaseModel):
    """Base class of the facts of a stage, of a step, or of a task's record."""

    model_config = ConfigDict(frozen=True, extra="allow")

    stage: ClassVar[StageName | None] = None
    """The stage whose manifests have these facts; None for those of records."""
    table: ClassVar[str | None] = None
    """The fact under which they are, for a step or a hook; None for those of the stage itself."""

    @classmethod
    def of(cls, made: Manifest | Record, table: str | None = None) -> Self:
        """Return the facts of a snapshot or of a task.

        Args:
            table: by default that of the class.

        Raises: CorruptPart that names the snapshot and the fact if a required one is missing or has another type.
        """
        table = table or cls.table
        facts = made.facts if table is None else made.facts.get(table, {})
        try:
            return cls.model_validate(facts)
        except ValidationError as error:
            where = made.path(MANIFEST) if isinstance(made, Manifest) else f"the record of {made.task}"
            places = [".".join(map(str, filter(None, (table, *one["loc"])))) for one in error.errors()[:5]]
            problems = [f"{place}: {one['msg']}" for place, one in zip(places, error.errors(), strict=False)]
            raise CorruptPart(
                f"{where} has other facts ({'; '.join(problems)}); a run with --force remakes it"
            ) from error

    def as_json(self) -> dict[str, Any]:
        """Return the facts for a manifest or a record: the fields that were given."""
        return self.model_dump(mode="json", exclude_unset=True)

    @property
    def further(self) -> Mapping[str, Any]:
        """Facts that are no fields: those of steps and hooks, and of newer versions."""
        return self.model_extra or {}


class CrawlFacts(Facts):
    """What a crawl found."""

    outcomes: Tally = {}
    """Number of URLs by outcome."""


class FilesFacts(Facts):
    """What was read of the source files."""

    files: int = 0
    read: Tally = {}
    """Number of items that were read, by kind."""
    damages: Tally = {}
    """Number of records that could not be used completely, by reason."""
    damaged: list[tuple[str, int, str]] = []
    """The first of them: the file, the offset and the reason."""
    failed_files: list[FailedFile] = []
    crawl: CrawlFacts | None = None


class ExtractedFile(Facts):
    """Facts of the record of one source file; of one that could not be read, the error as `failed`."""

    file: str
    """Value of the column `source`."""
    read: Tally = {}
    damages: Tally = {}
    damaged: list[tuple[int, str]] = []
    failed: Quoted | None = None


class SourceFacts(FilesFacts):
    """What extract read of one source."""

    name: str = ""
    """Name of the source; "" for the only one without a name."""
    kind: str = "unknown"
    license: str | None = None
    """URL of the licence that the source states for its pairs."""
    counts: Counts = Counts()

    @property
    def provenance(self) -> Literal["crawl", "public"] | None:
        """`crawl` for a crawl of our own, `public` for public data; None if the kind of source does not show it."""
        return getattr(plugins.load("sources").get(self.kind), "provenance", None)

    def describe(self) -> str:
        """Return the number of its files and its kind, with its name if it has one."""
        files = f"{format_quantity(self.files, 'source file')} of kind {self.kind}"
        return f"{files} ({self.name})" if self.name else files


class ExtractFacts(FilesFacts):
    """Facts of `extract`."""

    stage = "extract"
    sources: list[SourceFacts] = []
    """Those of each source, if the sources have names."""


class SourceRows(Facts):
    """Rows of one source that filter kept, and those that it dropped, by reason."""

    kept: int = 0
    dropped: Tally = {}


class BalancedRows(Facts):
    """Rows before and after balancing."""

    pairs: int
    unmatched: int
    kept: int
    seen: int | float
    """Mean number of pairs in an epoch."""
    unmatched_examples: list[Quoted] = []
    """Captions that no query matches."""


class BalanceFacts(BalancedRows):
    """The distribution of captions over queries, before and after balancing."""

    queries: int
    queries_found: int
    matches_before: int
    matches_after: int
    effective_before: float
    effective_after: float
    curve: list[tuple[int, int, float]] = []
    """Points (rank, before, after) over the queries in order of frequency."""
    head: list[tuple[str, int, float]] = []
    """The most frequent queries, with their captions before and after."""


class FilteredParts(Facts):
    """Facts of the record of a task of filter that writes parts."""

    balance: BalancedRows | None = None


class FilterFacts(Facts):
    """Facts of `filter`, of its kept pairs where nothing else is stated."""

    stage = "filter"
    sources: dict[str, SourceRows] = {}
    languages: Tally = {}
    lengths: Tally = {}
    hosts: Tally = {}
    captions: dict[Quoted, int] = {}
    examples: dict[str, list[Quoted]] = {}
    """Captions of dropped pairs, by reason."""
    alone: Tally = {}
    """Number of pairs that each rule alone would drop."""
    balance: BalanceFacts | None = None


class FetchedRows(Facts):
    """Facts of the records of download."""

    bytes: int
    """Bytes of the responses."""
    hosts: dict[str, Tally]
    """For each host, `rows` and the rows by drop reason."""
    erased: dict[str, Tally] = {}
    """Number of erased rows by drop reason and detail."""


class FetchedShard(FetchedRows):
    """Facts of the record of one shard."""

    seconds: float
    round: int
    """0, or the number of the round of retries."""
    again: int
    """Number of rows that are left for the next round."""
    handed: int = 0
    """Number of rows that are handed on to tasks of other hosts."""


class ReopenedShards(FetchedRows):
    """Facts of the record of a snapshot whose failed rows are fetched again."""

    shards: int
    rows: list[tuple[str, int]]
    """Parquet objects with these rows, each with its number of rows."""
    imported: dict[str, int | str] = {}
    """As in DownloadFacts."""


class DownloadFacts(Facts):
    """Facts of `download`. The further ones are those of the hooks, and erased rows by drop reason and detail."""

    stage = "download"
    shards: int
    samples: int
    bytes_fetched: int
    hosts: dict[str, Tally]
    """As in FetchedRows."""
    longest: dict[str, int] = {}
    """Number of rows of the hosts with the most rows."""
    host_rate: float = 0.0
    """Requests a second to a host; 0: no limit."""
    imported: dict[str, int | str] = {}
    """The unfinished snapshot of an older version whose shards it took over: `version`, `key` and number of `rows`."""


class CurateFacts(Facts):
    """Facts of `curate`; the further ones are those of its steps, by table."""

    stage = "curate"
    evaluation_pictures: int = 0
    """Number of images of evaluation sets."""
    evaluation_unreadable: int = 0
    evaluation_overlaps: int = 0
    """Number of training images that evaluation sets have."""


class PackFacts(Facts):
    """Facts of `pack`; the further ones `score:NAME` count the pairs by steps of a score."""

    stage = "pack"
    samples: int
    shards: int
    bytes: int
    columns: list[str] = []
    """Columns beyond those that all datasets have: further captions, and what steps of curate added."""
    languages: Tally = {}
    hosts: Tally = {}
    licenses: Tally = {}
    crawls: Tally = {}
    sizes: Tally = {}
    caption_sources: Tally = {}
    further_captions: Tally = {}
    lengths: Tally = {}
    original_sides: Tally = {}
    sources: Tally = {}
    """Number of pairs of each source, if the sources have names."""
    commitments: dict[str, Any] = {}
    """What plugins state about all rows, by plugin; that of the first version where takedowns made this one."""
    takedowns: list[str] = []
    parent: str | None = None
    """Key of the earlier version of which its takedowns made this one."""

    @property
    def scores(self) -> dict[str, Tally]:
        """Number of pairs by steps of each score, by the name of its column."""
        found = {name.partition(":"): counts for name, counts in sorted(self.further.items())}
        return {name: counts for (kind, _, name), counts in found.items() if kind == "score"}


class PretrainedWeights(Facts):
    """Weights that a training starts from. What nobody stated is ""."""

    tower: str
    """`image`, `text` or `both`."""
    name: str
    version: str = ""
    license: str = ""
    file: str = ""
    sha256: str = ""

    @property
    def full_name(self) -> str:
        """The name, with its version if it has one."""
        return f"{self.name} {self.version}".strip()


class HoldoutFacts(Facts):
    """What a training measured on pairs that it never saw."""

    pairs: int
    """Pairs that were measured."""
    kept_step: int
    """Step of the finished model."""
    ended_early: bool
    curve: list[dict[str, float]]
    """Rows with `step`, `holdout_loss` and `holdout_mean_R_at_1`, evenly thinned."""


class TrainFacts(Facts):
    """Facts of `train`."""

    stage = "train"
    final: dict[str, Any] = {}
    """The last row of the curves."""
    model: str = ""
    precision: str = ""
    processor: str = ""
    """The GPU or CPU that finished the training, on which its bits depend; "" for one of an earlier version."""
    weights: list[PretrainedWeights] = []
    holdout: HoldoutFacts | None = None
    """None if all pairs were trained on."""


class EvaluateFacts(Facts):
    """Facts of `evaluate`."""

    stage = "evaluate"
    metrics: dict[str, dict[str, Any]]
    """Results by task; empty without a suite."""


class RegisteredPages(Facts):
    """What names the pages of a registered version in MLflow."""

    model_name: str
    version: str
    run_id: str | None = None
    experiment_id: str | None = None


class RegisterFacts(RegisteredPages):
    """Facts of `register`."""

    stage = "register"
    model_uri: str
    alias: str = ""
    gate: str = ""
    tracking_uri: str = ""
    links: dict[str, str] = {}
    """URLs of pages in MLflow, by name."""


# The funnel: how many rows came into each stage, how many were kept, and why the others left --------------------------


def funnel_rows(manifests: Iterable[Manifest]) -> list[dict[str, Any]]:
    """Return one row per (stage, reason) for every stage over pairs, most frequent reason first.

    The order of `manifests` does not matter; a stage may be missing (of a run that was stopped early).

    Returns: dicts of `stage, input, kept, dropped, reason, share`. `input` and `kept` are the stage's and repeat in each
        of its rows; `dropped` is what left for this `reason`, `share` its part of `input` (0-1). A stage that dropped
        nothing has one row, with an empty reason.
    """
    rows: list[dict[str, Any]] = []
    by_stage = {manifest.stage: manifest for manifest in manifests}
    for manifest in (by_stage[stage] for stage in PAIR_STAGES if stage in by_stage):
        counts = manifest.counts
        reasons = rank_counts(counts.dropped)
        for reason, dropped in [(name, n) for name, n in reasons if n] or [("", 0)]:
            stage = {"stage": manifest.stage, "input": counts.input, "kept": counts.kept}
            rows.append({**stage, "dropped": dropped, "reason": reason, "share": dropped / max(counts.input, 1)})
    return rows


def funnel_stages(manifests: Iterable[Manifest]) -> list[dict[str, Any]]:
    """Return one row per stage: `stage, input, kept, dropped` (total) and `reasons` (`{reason: rows}`, by frequency)."""
    stages: dict[str, dict[str, Any]] = {}
    for row in funnel_rows(manifests):
        empty = {"stage": row["stage"], "input": row["input"], "kept": row["kept"], "dropped": 0, "reasons": {}}
        stage = stages.setdefault(row["stage"], empty)
        stage["dropped"] += row["dropped"]
        if row["reason"]:
            stage["reasons"][row["reason"]] = row["dropped"]
    return list(stages.values())
