"""Repeat tests while the cores are busy, and print those that failed: python -m benchmarks.flaky tests/unit --times 5.

Exits with 1 if a test failed. Other options go to pytest.
"""

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree


def keep_busy():
    """Use one core until this process is ended."""
    while True:
        pass


def report(line):
    """Print a line between the output of pytest."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def run_once(tests, options):
    """Run the tests; return the number of those that ran, and the names of those that failed."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "results.xml")
        command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", f"--junitxml={results}"]
        ended = subprocess.run([*command, *options, *tests], check=False)
        if not results.exists():
            raise SystemExit(f"pytest ended with exit code {ended.returncode} and without a report")
        cases = list(ElementTree.parse(results).iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    return len(cases), [f"{case.get('classname')}::{case.get('name')}" for case in failed]


def main():
    """Run the tests several times, and print how often each failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tests", nargs="+", help="files, folders or names of tests")
    parser.add_argument("--times", type=int, default=5, help="number of runs, one after another")
    parser.add_argument(
        "--busy", type=int, default=os.cpu_count(), help="number of processes that use a core all the time"
    )
    arguments, options = parser.parse_known_args()
    failures = Counter()
    load = [multiprocessing.Process(target=keep_busy, daemon=True) for _ in range(arguments.busy)]
    for process in load:
        process.start()
    try:
        for number in range(1, arguments.times + 1):
            started = time.monotonic()
            count, failed = run_once(arguments.tests, options)
            failures.update(failed)
            seconds = time.monotonic() - started
            report(f"run {number} of {arguments.times}: {count} tests, {len(failed)} failed, {seconds:.0f} s")
    finally:
        for process in load:
            process.kill()
    for name, times in failures.most_common():
        report(f"failed {times} of {arguments.times} times: {name}")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
