"""Check the dataset of a run against the last version of the same name, and complete the dataset's page.

The page is a part of the snapshot, which is made once and before its models, so the names and links of its run and the
report on its checks are added when the page is read.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from dataops.errors import ConfigError, CorruptPart, NothingLeft
from dataops.formatting import format_counts, format_quantity, rank_counts
from dataops.snapshot import Manifest, load_manifest
from dataops.stages import PAIR_STAGES
from dataops.store import Store
from flows.records import RunRecord, read_record
from tasks.checks.check import CheckReport, ChecksConfig, check_dataset
from tasks.reports.page import encode_page, render

_NEXT_SECTION = b"<h2>Composition</h2>"
_END = b"</body>"


@dataclass(frozen=True)
class LastVersion:
    """The dataset with which another one of the same name is compared."""

    run_id: str
    manifests: dict[str, Manifest]
    """By stage; a stage may be missing whose snapshot was deleted."""


def check_run(config: ChecksConfig, record: RunRecord, manifests: Mapping[str, Manifest], store: Store) -> CheckReport:
    """Check the dataset of a run.

    Args:
        manifests: of the stages up to `pack`, by stage.
    """
    last = find_last_version(record, manifests["pack"].key, store)
    return check_dataset(config, manifests, last and last.manifests, last and last.run_id)


def find_last_version(record: RunRecord, dataset: str, store: Store) -> LastVersion | None:
    """Return the dataset of the newest earlier run of the same name that has another dataset, which no check blocked
    and which did not fail before its checks.

    Args:
        dataset: key of the dataset of `record`.
    """
    names = [name for name in store.names("runs") if name.startswith(f"runs/{record.name}-")]
    for name in sorted(names, key=lambda name: (name.rpartition("-")[0], name), reverse=True):  # by time
        try:
            one = read_record(store, name)
        except ConfigError:  # `pairmill runs` reports it
            continue
        is_earlier = (one.created_at, one.run_id) < (record.created_at, record.run_id)
        is_blocked = one.checks.is_blocked if one.checks else one.state == "failed"
        if one.name != record.name or not is_earlier or is_blocked or one.key_of("pack") in (None, dataset):
            continue
        if "pack" in (manifests := _load_manifests(one, store)):
            return LastVersion(one.run_id, manifests)
    return None


def _load_manifests(record: RunRecord, store: Store) -> dict[str, Manifest]:
    found: dict[str, Manifest] = {}
    for stage in PAIR_STAGES:
        with suppress(CorruptPart):
            if (key := record.key_of(stage)) and (manifest := load_manifest(store, stage, key)) is not None:
                found[stage] = manifest
    return found


def find_report(dataset: str, store: Store) -> CheckReport | None:
    """Return the report of the newest run that checked a dataset, or None."""
    return next(iter(find_reports([dataset], store)), None)


def find_reports(datasets: Collection[str], store: Store) -> list[CheckReport]:
    """Return for each dataset that a run has checked the newest report."""
    found = dict[str, CheckReport]()
    for record in _list_records(store):
        if (one := record.checks) is not None and one.dataset in datasets and one.results:
            found.setdefault(one.dataset, one)
        if len(found) == len(datasets):
            break
    return list(found.values())


def _list_records(store: Store) -> Iterator[RunRecord]:
    """Yield the records of the runs in a store, newest first."""
    for name in sorted(store.names("runs"), key=lambda name: name.rpartition("-")[0].rpartition("-")[2], reverse=True):
        with suppress(ConfigError):  # `pairmill runs` reports it
            yield read_record(store, name)


def complete_page(page: bytes, dataset: str, store: Store) -> bytes:
    """Return a dataset's page with its config's name, links to its newest model and its run, and its checks."""
    if (report := find_report(dataset, store)) is not None:
        page = insert_report(page, report)
    runs = [record for record in _list_records(store) if record.key_of("pack") == dataset]
    return insert_links(page, dataset, next((one for one in runs if one.model_version), runs[0])) if runs else page


def insert_links(page: bytes, dataset: str, record: RunRecord) -> bytes:
    """Return a dataset's page with the name of a run's config in its title, and the links of the run."""
    named = {"model version": f"Model {record.model_version}", "run": "MLflow run", "runs": "all runs"}
    links = {named[name]: url for name, url in record.model_links.items() if name in named and url.startswith("http")}
    values = {"name": record.name, "run": record.run_id, "key": dataset, "links": links}
    heading = f"Dataset {dataset}".encode()
    start, end, rest = page.replace(heading, f"{record.name}: dataset {dataset}".encode(), 2).partition(b"</h1>\n")
    return start + end + encode_page(render("dataset_links.html", **values)) + rest


def insert_report(page: bytes, report: CheckReport) -> bytes:
    """Return a dataset's page with a section on its checks, before the section on its composition."""
    compared = f"Compared with pack/{report.last} of the run {report.last_run}. " if report.last else ""
    note = f"{compared}{report.verdict}."
    section = encode_page(render("checks.html", note=note, rows=[list(row.values()) for row in report.rows()]))
    before = _NEXT_SECTION if _NEXT_SECTION in page else _END
    start, found, rest = page.partition(before)
    return start + section + found + rest


def check_kept(manifest: Manifest) -> None:
    """Raise NothingLeft, with the rows by drop reason, if a stage over pairs kept none: the next stages have no work."""
    counts = manifest.counts
    if manifest.stage not in PAIR_STAGES or counts.kept:
        return
    reasons = format_counts(rank_counts(counts.dropped))
    because = ": its source has no row"
    if reasons:
        because = f" ({reasons}); docs/reference/drop-reasons.md has what to do about each"
    raise NothingLeft(f"{manifest.stage} keeps no row: 0 of {format_quantity(counts.input, 'row')}{because}")
