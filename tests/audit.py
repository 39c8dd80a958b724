"""Checks the installed packages for known vulnerabilities: `python -m tests.audit`, or `make audit`.

It runs pip-audit. An advisory may be accepted in tests/audit-accepted.toml, with a reason and an end date. If the
vulnerability service cannot be reached, the audit is skipped with a warning. Exit codes: 0 clean or skipped, 1 findings.
"""

import json
import os
import subprocess
import sys
import tomllib
from datetime import UTC, date, datetime
from pathlib import Path

ACCEPTED = Path(__file__).with_name("audit-accepted.toml")
_UNREACHED = ("ConnectionError", "could not connect", "Max retries exceeded", "Name or service not known", "timed out")
_BAR = "=" * 100


def read_accepted(path, today):
    """Return the reasons of the advisories that are accepted today, by id, and the problems of the file."""
    reasons, problems = {}, []
    for entry in tomllib.loads(path.read_text("utf-8")).get("accepted", []):
        advisory, reason, until = entry.get("id"), str(entry.get("reason", "")).strip(), entry.get("until")
        if not advisory or len(reason) < 20 or not isinstance(until, date):
            problems.append(
                f"{path}: {advisory or 'an entry without id'} needs id, until (a date) and a reason (20 letters)"
            )
        elif until < today:
            problems.append(f"{path}: {advisory} was accepted until {until}: review it again")
        else:
            reasons[advisory] = reason
    return reasons, problems


def list_findings(report, reasons):
    """Return one line for each vulnerability whose id and aliases are not accepted."""
    lines = []
    for package in report["dependencies"]:
        for vulnerability in package.get("vulns", []):
            if reasons.keys().isdisjoint({vulnerability["id"], *vulnerability.get("aliases", [])}):
                fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
                lines.append(f"{package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixed}")
    return lines


def main(today=None, path=ACCEPTED):
    """Audit this environment. PAIRMILL_OSV_URL may name another vulnerability service than osv.dev."""
    write = sys.stderr.write
    reasons, problems = read_accepted(path, today or datetime.now(UTC).date())
    command = [sys.executable, "-m", "pip_audit", "--skip-editable", "--format", "json"]
    command += ["--vulnerability-service", "osv", "--progress-spinner", "off", "--timeout", "15"]
    if url := os.environ.get("PAIRMILL_OSV_URL"):
        command += ["--osv-url", url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        if not problems and any(word.lower() in done.stderr.lower() for word in _UNREACHED):
            reason = f"AUDIT SKIPPED: no vulnerability service can be reached from here.\n{done.stderr.strip()[-300:]}"
            write(f"{_BAR}\n{reason}\n{_BAR}\n")
            return 0
        problems.append(f"pip-audit failed: {done.stderr.strip()[-2000:]}")
        report = {"dependencies": []}
    problems += list_findings(report, reasons)
    audited = sum("skip_reason" not in package for package in report["dependencies"])
    if not problems and not audited:
        problems.append("pip-audit found no package to audit")
    write("".join(f"{line}\n" for line in problems))
    if not problems:
        write(f"no known vulnerability in {audited} packages ({len(reasons)} accepted, see {path.name})\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
