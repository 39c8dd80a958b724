from tasks.checks.check import CheckReport, CheckResult


def report(**states: tuple[str, str]) -> CheckReport:
    results = [
        CheckResult.model_validate(
            {"check": name, "level": level, "state": state, "figure": 0.9, "bound": 0.8, "text": f"{name} | 90% <b>"}
        )
        for name, (state, level) in states.items()
    ]
    return CheckReport(dataset="d" * 16, last=None, last_run=None, results=results)


def test_report_lists_what_blocks_first_and_counts_the_rest():
    found = report(a=("passed", "block"), b=("failed", "warn"), c=("failed", "block"), d=("not checked", "block"))
    assert found.is_blocked
    assert found.verdict == "1 check passed; failed: c (blocks), b (warning)"
    assert [(row["check"], row["result"]) for row in found.rows()] == [
        ("c", "blocks"),
        ("b", "warning"),
        ("a", "passed"),
        ("d", "not checked"),
    ]
    message = found.describe_blocks()
    assert f"pack/{'d' * 16}" in message
    assert "c: c | 90%" in message
    assert "b | 90%" not in message
