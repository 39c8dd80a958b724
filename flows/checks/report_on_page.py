"""Find the report on the checks of a dataset, and insert it into the dataset's page.

The page is a part of the snapshot, which no changed bound makes again, so the report is added when the page is read.
"""

from dataops.errors import ConfigError
from dataops.store import Store
from flows.records import read_record
from tasks.checks.report import CheckReport
from tasks.reports.page import encode_page, render

_NEXT_SECTION = b"<h2>Composition</h2>"
_END = b"</body>"


def find_report(dataset: str, store: Store) -> CheckReport | None:
    """Return the report of the newest run that checked a dataset, or None."""
    for name in sorted(store.names("runs"), key=lambda name: name.rpartition("-")[0].rpartition("-")[2], reverse=True):
        try:
            report = read_record(store, name).checks
        except ConfigError:  # `pairmill runs` reports it
            continue
        if report is not None and report.dataset == dataset and report.results:
            return report
    return None


def insert_report(page: bytes, report: CheckReport) -> bytes:
    """Return a dataset's page with a section on its checks, before the section on its composition."""
    compared = f"Compared with pack/{report.last} of the run {report.last_run}. " if report.last else ""
    note = f"{compared}{report.verdict}."
    section = encode_page(render("checks.html", note=note, rows=[list(row.values()) for row in report.rows()]))
    before = _NEXT_SECTION if _NEXT_SECTION in page else _END
    start, found, rest = page.partition(before)
    return start + section + found + rest
