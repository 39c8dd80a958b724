"""Check a dataset by the manifests of its stages, and against the last version of the same name.

Each check compares one figure with the bound of the same name in `[checks]`. A check whose facts are missing is
`not checked`: an earlier version of a stage may have written fewer facts, and the first dataset has no last version.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from dataops.escaping import escape_controls
from dataops.formatting import format_percent, format_quantity
from dataops.redaction import redact
from dataops.snapshot import Manifest
from dataops.stages import PAIR_STAGES
from tasks.checks.config import ChecksConfig
from tasks.checks.distances import Tally, known, kolmogorov_smirnov, largest_change, median_step
from tasks.checks.report import CheckReport, CheckResult, CheckState
from tasks.pack.summary import LENGTH_STEP, LENGTH_STEPS, LISTED, SCORE, SIDE_STEP, SIDE_STEPS, SOURCES

LANGUAGE_SHARE = 0.01
"""Share of a language in the last version from which on the dataset must have it too."""
_NO_LAST = "there is no earlier version of this name"
_NO_COUNTS = "the manifest does not count it"


class Figure(NamedTuple):
    """The value that is compared with a bound, and a sentence about it."""

    value: float
    text: str


@dataclass(frozen=True)
class Versions:
    """The manifests of a dataset and of the last version, by stage."""

    now: Mapping[str, Manifest]
    last: Mapping[str, Manifest]
    """Empty if there is no last version; stages may be missing that were deleted."""

    def facts(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Return the facts of the dataset of the last version and of this one. Raises: _NotChecked if there is none."""
        if "pack" not in self.last:
            raise _NotChecked(_NO_LAST)
        return self.last["pack"].facts, self.now["pack"].facts

    def rows(self) -> tuple[int, int]:
        """Return the numbers of pairs of the last version and of this one. Raises: as `facts`."""
        self.facts()
        return self.last["pack"].counts.kept, self.now["pack"].counts.kept


class _NotChecked(Exception):
    """A figure cannot be computed; the text is the reason."""


def check_dataset(
    config: ChecksConfig,
    now: Mapping[str, Manifest],
    last: Mapping[str, Manifest] | None = None,
    last_run: str | None = None,
) -> CheckReport:
    """Check a dataset.

    Args:
        now: the manifests of its stages, by stage; that of `pack` must be there.
        last: those of the last version of the same name, as far as they are still in the store.
        last_run: the run that made that version.
    """
    versions = Versions(now, last or {})
    results = [
        _compare(name, level, float(getattr(config, name)), find, versions)
        for name, find in CHECKS.items()
        if (level := config.level_of(name)) != "off"
    ]
    key = last["pack"].key if last else None
    return CheckReport(dataset=now["pack"].key, last=key, last_run=last_run, results=results)


def _compare(
    name: str, level: Any, bound: float, find: Callable[[Versions], Figure], versions: Versions
) -> CheckResult:
    state: CheckState = "not checked"
    try:
        figure = find(versions)
    except _NotChecked as reason:
        return CheckResult(check=name, level=level, state=state, bound=bound, text=str(reason))
    is_minimum = name.startswith("min_")
    holds = figure.value >= bound if is_minimum else figure.value <= bound
    text = escape_controls(redact(figure.text))  # it may name a host
    text = f"{text}; the {'minimum' if is_minimum else 'maximum'} is {_format_bound(name, bound)}"
    state = "passed" if holds else "failed"
    return CheckResult(check=name, level=level, state=state, figure=figure.value, bound=bound, text=text)


def _format_bound(name: str, bound: float) -> str:
    if name in _WHOLE:
        return f"{bound:,.0f}"
    return f"{bound:g}" if name in _PLAIN else f"{100 * bound:g}%"


def _count_rows(versions: Versions) -> Figure:
    kept = versions.now["pack"].counts.kept
    return Figure(kept, f"the dataset has {format_quantity(kept, 'pair')}")


def _find_unreadable_files(versions: Versions) -> Figure:
    facts = _facts_of(versions.now, "extract")
    failed, files = len(facts["failed_files"]), facts["files"]
    share = failed / files if files else 0.0
    text = f"{failed:,} of {format_quantity(files, 'source file')} ({format_percent(share)}) could not be read"
    return Figure(share, text)


def _find_kept(stage: str) -> Callable[[Versions], Figure]:
    def find(versions: Versions) -> Figure:
        share = _kept_share(versions.now, stage)
        if share is None:
            raise _NotChecked(f"{stage} read no row, or its manifest was deleted")
        counts = versions.now[stage].counts
        text = f"{stage} kept {counts.kept:,} of {format_quantity(counts.input, 'row')} ({format_percent(share)})"
        return Figure(share, text)

    return find


def _kept_share(manifests: Mapping[str, Manifest], stage: str) -> float | None:
    counts = manifests[stage].counts if stage in manifests else None
    return counts.kept / counts.input if counts and counts.input else None


def _find_duplicates(versions: Versions) -> Figure:
    found: list[Figure] = []
    for stage in ("filter", "curate"):
        if stage in versions.now and (rows := versions.now[stage].counts.input):
            dropped = versions.now[stage].counts.dropped
            number = sum(count for reason, count in dropped.items() if "duplicate" in reason)
            text = f"{stage} dropped {number:,} of {format_quantity(rows, 'row')} as duplicates"
            found.append(Figure(number / rows, f"{text} ({format_percent(number / rows)})"))
    if not found:
        raise _NotChecked("the manifests of filter and curate were deleted")
    return max(found)


def _find_smallest_source(versions: Versions) -> Figure:
    counts = versions.now["pack"].facts.get(SOURCES)
    if not counts:
        raise _NotChecked("the sources have no names")
    return _find_smallest(counts, "source")


def _find_smallest_language(versions: Versions) -> Figure:
    counts = _tally(versions.now["pack"].facts, "languages")
    wanted = list(versions.now["filter"].config.get("languages", ())) if "filter" in versions.now else []
    if not wanted and "pack" in versions.last:
        least = LANGUAGE_SHARE * versions.last["pack"].counts.kept
        before = known(versions.last["pack"].facts.get("languages", {}))
        wanted = [name for name, rows in before.items() if rows >= least]
    if len(counts) >= LISTED:  # the manifest does not list a rarer language, though the dataset may have it
        wanted = [name for name in wanted if name in counts]
    if not wanted:
        raise _NotChecked("filter.languages is empty, and there is no earlier version of this name with languages")
    return _find_smallest({name: counts.get(name, 0) for name in wanted}, "language")


def _find_smallest(counts: Tally, kind: str) -> Figure:
    name = min(counts, key=lambda name: (counts[name], name))
    return Figure(counts[name], f"the {kind} {name} has {format_quantity(counts[name], 'pair')}")


def _find_largest_host(versions: Versions) -> Figure:
    hosts = known(_tally(versions.now["pack"].facts, "hosts"))
    if len(hosts) < 2:
        raise _NotChecked("the dataset has a single host")
    name = max(hosts, key=lambda name: (hosts[name], name))
    share = hosts[name] / max(versions.now["pack"].counts.kept, 1)
    return Figure(share, f"the host {name} has {format_percent(share)} of the pairs")


def _find_median(kind: str, step: int, last: int, text: str) -> Callable[[Versions], Figure]:
    def find(versions: Versions) -> Figure:
        median = median_step(_tally(versions.now["pack"].facts, kind))
        if median is None:
            raise _NotChecked(_NO_COUNTS)
        low = median * step
        return Figure(low, text.format(f"{low:,} " + (f"to {low + step - 1:,}" if median < last else "or more")))

    return find


def _find_rows_ratio(versions: Versions) -> Figure:
    before, now = versions.rows()
    if not before:
        raise _NotChecked("the last version has no pairs")
    return Figure(
        now / before,
        f"the dataset has {now / before:.2f} times the {format_quantity(before, 'pair')} of the last version",
    )


def _find_kept_change(versions: Versions) -> Figure:
    versions.facts()
    found: list[Figure] = []
    for stage in PAIR_STAGES:
        before, now = _kept_share(versions.last, stage), _kept_share(versions.now, stage)
        if before is not None and now is not None:
            text = f"{stage} kept {format_percent(now)} of its rows, {format_percent(before)} in the last version"
            found.append(Figure(abs(now - before), text))
    if not found:
        raise _NotChecked("no manifest of the last version's stages is left")
    return max(found)


def _find_change(kind: str, noun: str) -> Callable[[Versions], Figure]:
    def find(versions: Versions) -> Figure:
        before, now = (_tally(facts, kind) for facts in versions.facts())
        change = largest_change(before, now, versions.rows(), LISTED)
        if change is None:
            raise _NotChecked(_NO_COUNTS)
        name, was, share = change
        shares = f"{format_percent(share)} of the pairs, {format_percent(was)} in the last version"
        text = f"{noun} {name or '(none)'} has {shares}"
        return Figure(abs(share - was), text)

    return find


def _find_distance(kind: str, noun: str) -> Callable[[Versions], Figure]:
    def find(versions: Versions) -> Figure:
        before, now = (_tally(facts, kind) for facts in versions.facts())
        distance = kolmogorov_smirnov(before, now)
        if distance is None:
            raise _NotChecked(_NO_COUNTS)
        return Figure(distance, f"{noun}: the Kolmogorov-Smirnov distance to the last version is {distance:.3f}")

    return find


def _find_score_distance(versions: Versions) -> Figure:
    before, now = versions.facts()
    found: list[Figure] = []
    for kind in sorted(before.keys() & now.keys()):
        if kind.startswith("score:") and kolmogorov_smirnov(before[kind], now[kind]) is not None:
            found.append(_find_distance(kind, kind.removeprefix("score:"))(versions))
    if not found:
        raise _NotChecked(f"the two versions have no column *{SCORE} in common")
    return max(found)


def _facts_of(manifests: Mapping[str, Manifest], stage: str) -> Mapping[str, Any]:
    if stage not in manifests or not {"files", "failed_files"} <= manifests[stage].facts.keys():
        raise _NotChecked(_NO_COUNTS)
    return manifests[stage].facts


def _tally(facts: Mapping[str, Any], kind: str) -> Tally:
    if kind not in facts:
        raise _NotChecked(_NO_COUNTS)
    return facts[kind]


_FIND_LENGTH = _find_median(
    "lengths", LENGTH_STEP, LENGTH_STEPS, "the median of the captions' lengths is {} characters"
)
CHECKS: dict[str, Callable[[Versions], Figure]] = {
    "min_rows": _count_rows,
    "max_unreadable_files": _find_unreadable_files,
    "min_source_rows": _find_smallest_source,
    **{f"min_kept_{stage}": _find_kept(stage) for stage in PAIR_STAGES},
    "max_duplicates": _find_duplicates,
    "min_language_rows": _find_smallest_language,
    "max_host_share": _find_largest_host,
    "min_caption_length": _FIND_LENGTH,
    "max_caption_length": _FIND_LENGTH,
    "min_original_side": _find_median(
        "original_sides", SIDE_STEP, SIDE_STEPS, "the median of the originals' shorter sides is {} pixels"
    ),
    "min_rows_ratio": _find_rows_ratio,
    "max_rows_ratio": _find_rows_ratio,
    "max_kept_change": _find_kept_change,
    "max_drift_languages": _find_change("languages", "the language"),
    "max_drift_hosts": _find_change("hosts", "the host"),
    "max_drift_licenses": _find_change("licenses", "the licence"),
    "max_drift_caption_sources": _find_change("caption_sources", "the caption source"),
    "max_drift_lengths": _find_distance("lengths", "lengths of the captions"),
    "max_drift_original_sides": _find_distance("original_sides", "shorter sides of the originals"),
    "max_drift_scores": _find_score_distance,
}
"""The function that computes the figure of each check, by the key of its bound."""
_WHOLE = (
    "min_rows",
    "min_source_rows",
    "min_language_rows",
    "min_caption_length",
    "max_caption_length",
    "min_original_side",
)
_PLAIN = ("min_rows_ratio", "max_rows_ratio", "max_drift_lengths", "max_drift_original_sides", "max_drift_scores")
