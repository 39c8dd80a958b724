from dataops.store import FolderStore
from flows.checks.report_on_page import find_report, insert_report
from flows.records import RunRecord
from tasks.checks.report import CheckReport, CheckResult


def report(text: str, dataset: str = "d" * 16) -> CheckReport:
    result = CheckResult(check="max_host_share", level="warn", state="failed", figure=0.9, bound=0.8, text=text)
    return CheckReport(dataset=dataset, last="a" * 16, last_run="run-1", results=[result])


def test_report_of_the_newest_run_that_checked_the_dataset_is_found(tmp_path):
    store = FolderStore(tmp_path)
    for hour, name, checks in (
        (1, "z", report("first")),
        (2, "a", report("second")),
        (3, "z", report("other", "e" * 16)),
        (4, "z", None),
    ):
        run_id = f"{name}-20260101T0{hour}0000-0000"
        RunRecord(run_id=run_id, name=name, created_at="", config={}, checks=checks).save(store)
    found = find_report("d" * 16, store)
    assert found is not None
    assert found.results[0].text == "second"
    assert find_report("f" * 16, store) is None


def test_report_is_inserted_before_the_composition_as_text():
    page = b"<body><h2>Sources</h2><h2>Composition</h2></body>"
    inserted = insert_report(page, report("<script>")).decode()
    assert "<script>" not in inserted
    assert inserted.index("Sources") < inserted.index("<h2>Checks</h2>") < inserted.index("&lt;script&gt;")
    assert inserted.index("&lt;script&gt;") < inserted.index("<h2>Composition</h2>")
    assert inserted.endswith("<h2>Composition</h2></body>")
    assert "Compared with pack/aaaaaaaaaaaaaaaa of the run run-1" in inserted
    assert insert_report(b"<body>old</body>", report("x")).endswith(b"</body>")
