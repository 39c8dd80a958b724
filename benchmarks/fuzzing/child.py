"""Fuzz one target: the process that `benchmarks.fuzz` starts for each.

    python -m benchmarks.fuzzing.child '{"target": ..., "engine": ..., "seconds": ..., "seed": ..., "folder": ...}'

It writes stats.json and the finds into the folder. It ends with another code than 0 if an input ended it.
"""

import json
import resource
import sys
import time
from pathlib import Path

from benchmarks.fuzzing.engines import fuzz_with_atheris, fuzz_with_hypothesis
from benchmarks.fuzzing.runner import Runner
from benchmarks.fuzzing.targets import find_target

INSTRUMENTED_SLACK = 4.0
"""Factor of the time limits for instrumented code."""
MAX_GROWTH = 3 << 30
"""Bytes of address space that the fuzzing may add to what the imports took."""


def limit_address_space() -> None:
    """Let allocations fail that would add more than MAX_GROWTH to this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MAX_GROWTH
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def main() -> None:
    """Fuzz."""
    job = json.loads(sys.argv[1])
    folder, target, seconds = Path(job["folder"]), find_target(job["target"]), float(job["seconds"])
    is_guided = job["engine"] == "atheris"

    def make_runner() -> Runner:
        slack = INSTRUMENTED_SLACK if is_guided else 1.0
        runner = Runner(target, Path(job["finds"]), slack=slack, current=folder / "current")
        runner.warm_up()
        limit_address_space()
        return runner

    if is_guided:
        fuzz_with_atheris(
            make_runner, job["seed"], seconds, folder, lambda runner: runner.save_stats(folder / "stats.json")
        )
    runner = make_runner()
    started = time.monotonic()

    def is_over() -> bool:
        runner.save_stats(folder / "stats.json")
        return time.monotonic() - started > seconds

    fuzz_with_hypothesis(runner, job["seed"], is_over)
    runner.save_stats(folder / "stats.json")


if __name__ == "__main__":
    main()
