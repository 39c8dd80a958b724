"""The checks of the core."""

from pydantic import BaseModel, Field, NonNegativeInt

from dataops.config import Share
from dataops.facts import ExtractFacts, PackFacts
from dataops.formatting import format_percent, format_quantity
from tasks.checks.check import Check, Figure, NotChecked, Versions
from tasks.pack.summary import LISTED

LANGUAGE_SHARE = 0.01
"""Share of a language in the last version from which on the dataset must have it too."""


def _write_share(bound: float) -> str:
    return f"{100 * bound:g}%"


class MinRows(BaseModel):
    """The key of MIN_ROWS."""

    min_rows: NonNegativeInt = 1
    """Minimum number of pairs of the dataset."""


class MaxUnreadableFiles(BaseModel):
    """The key of MAX_UNREADABLE_FILES."""

    max_unreadable_files: Share = 0.1
    """Maximum share of the source files that could not be read, where `source.max_failed_files` allows any."""


class MinSourceRows(BaseModel):
    """The key of MIN_SOURCE_ROWS."""

    min_source_rows: NonNegativeInt = 1
    """Minimum number of pairs of each source that has a name."""


class MinKeptDownload(BaseModel):
    """The key of MIN_KEPT_DOWNLOAD."""

    min_kept_download: Share = 0.3
    """Minimum share of its rows that `download` keeps: the success of the download."""


class MaxDuplicates(BaseModel):
    """The key of MAX_DUPLICATES."""

    max_duplicates: Share = 0.9
    """Maximum share of its rows that `filter` or `curate` drops as duplicates."""


class MinLanguageRows(BaseModel):
    """The key of MIN_LANGUAGE_ROWS."""

    min_language_rows: NonNegativeInt = 1
    """Minimum number of pairs of each language of `filter.languages`; if that is empty, of each language that had at
    least 1% of the last version."""


class MaxHostShare(BaseModel):
    """The key of MAX_HOST_SHARE."""

    max_host_share: Share = 0.8
    """Maximum share of the pairs that one host of images has. A dataset of a single host is not checked."""


class MinRowsRatio(BaseModel):
    """The key of MIN_ROWS_RATIO."""

    min_rows_ratio: float = Field(default=0.5, ge=0)
    """Minimum number of pairs, relative to the last version."""


def _count_rows(versions: Versions) -> Figure:
    kept = versions.now["pack"].counts.kept
    return Figure(kept, f"the dataset has {format_quantity(kept, 'pair')}")


def _find_unreadable_files(versions: Versions) -> Figure:
    facts = ExtractFacts.of(versions.now["extract"])
    failed, files = len(facts.failed_files), facts.files
    share = failed / files if files else 0.0
    text = f"{failed:,} of {format_quantity(files, 'source file')} ({format_percent(share)}) could not be read"
    return Figure(share, text)


def _find_kept(versions: Versions) -> Figure:
    counts = versions.now["download"].counts
    if not counts.input:
        raise NotChecked("download read no row")
    share = counts.kept / counts.input
    text = f"download kept {counts.kept:,} of {format_quantity(counts.input, 'row')} ({format_percent(share)})"
    return Figure(share, text)


def _find_duplicates(versions: Versions) -> Figure:
    found: list[Figure] = []
    for stage in ("filter", "curate"):
        if stage in versions.now and (rows := versions.now[stage].counts.input):
            dropped = versions.now[stage].counts.dropped
            number = sum(count for reason, count in dropped.items() if "duplicate" in reason)
            text = f"{stage} dropped {number:,} of {format_quantity(rows, 'row')} as duplicates"
            found.append(Figure(number / rows, f"{text} ({format_percent(number / rows)})"))
    if not found:
        raise NotChecked("the manifests of filter and curate were deleted")
    return max(found)


def _find_smallest_source(versions: Versions) -> Figure:
    if not (counts := versions.pack.sources):
        raise NotChecked("the sources have no names")
    return _find_smallest(counts, "source")


def _find_smallest_language(versions: Versions) -> Figure:
    if not (counts := versions.pack.languages):
        raise NotChecked("the manifest does not count it")
    wanted = list(versions.now["filter"].config.get("languages", ())) if "filter" in versions.now else []
    if not wanted and "pack" in versions.last:
        least = LANGUAGE_SHARE * versions.last["pack"].counts.kept
        before = PackFacts.of(versions.last["pack"]).languages
        wanted = [name for name, rows in before.items() if name and rows >= least]
    if len(counts) >= LISTED:  # the manifest does not list a rarer language, though the dataset may have it
        wanted = [name for name in wanted if name in counts]
    if not wanted:
        raise NotChecked("filter.languages is empty, and there is no earlier version of this name with languages")
    return _find_smallest({name: counts.get(name, 0) for name in wanted}, "language")


def _find_smallest(counts: dict[str, int], kind: str) -> Figure:
    name = min(counts, key=lambda name: (counts[name], name))
    return Figure(counts[name], f"the {kind} {name} has {format_quantity(counts[name], 'pair')}")


def _find_largest_host(versions: Versions) -> Figure:
    hosts = {name: rows for name, rows in versions.pack.hosts.items() if name and rows}
    if len(hosts) < 2:
        raise NotChecked("the dataset has a single host")
    name = max(hosts, key=lambda name: (hosts[name], name))
    share = hosts[name] / max(versions.now["pack"].counts.kept, 1)
    return Figure(share, f"the host {name} has {format_percent(share)} of the pairs")


def _find_rows_ratio(versions: Versions) -> Figure:
    if "pack" not in versions.last:
        raise NotChecked("there is no earlier version of this name")
    before, now = versions.last["pack"].counts.kept, versions.now["pack"].counts.kept
    if not before:
        raise NotChecked("the last version has no pairs")
    of = f"the {format_quantity(before, 'pair')} of the last version"
    return Figure(now / before, f"the dataset has {now / before:.2f} times {of}")


MIN_ROWS = Check(config=MinRows, needs=("pack",), figure=_count_rows, order=10)
MAX_UNREADABLE_FILES = Check(
    config=MaxUnreadableFiles, needs=("extract",), figure=_find_unreadable_files, write_bound=_write_share, order=20
)
MIN_SOURCE_ROWS = Check(config=MinSourceRows, needs=("pack",), figure=_find_smallest_source, order=30)
MIN_KEPT_DOWNLOAD = Check(
    config=MinKeptDownload, needs=("download",), figure=_find_kept, write_bound=_write_share, order=40
)
MAX_DUPLICATES = Check(config=MaxDuplicates, needs=(), figure=_find_duplicates, write_bound=_write_share, order=50)
MIN_LANGUAGE_ROWS = Check(config=MinLanguageRows, needs=("pack",), figure=_find_smallest_language, order=60)
MAX_HOST_SHARE = Check(
    config=MaxHostShare, needs=("pack",), figure=_find_largest_host, write_bound=_write_share, order=70
)
MIN_ROWS_RATIO = Check(
    config=MinRowsRatio, needs=("pack",), figure=_find_rows_ratio, write_bound="{:g}".format, order=80
)
