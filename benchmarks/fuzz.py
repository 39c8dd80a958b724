"""Fuzz all parsers of foreign bytes: only deliberate errors, CPU time and memory in proportion to the input, no crash.

    python -m benchmarks.fuzz --seconds 3600 [--seed 0] [--target NAME]... [--engine random] [--out FOLDER] [--json]
    python -m benchmarks.fuzz --target NAME --repeat FILE      # run one input that was found

Each target (benchmarks/fuzzing/targets.py) gets an equal share of the time in a process of its own. atheris guides the
inputs by coverage, where it is installed; else a corpus that grows is mutated at random. A find is written into the
folder, with what happened. The exit code is 1 if there is one.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import psutil

from benchmarks.fuzzing.engines import fuzz_at_random, fuzz_with_atheris
from benchmarks.fuzzing.runner import Find, Runner, read_current
from benchmarks.fuzzing.targets import TARGETS, find_target
from benchmarks.measure import finish, make_printer, require_peers
from dataops.home import CHECKOUT

ENGINES = ("atheris", "random")
MAX_CRASHES = 3
"""Number of inputs that end the process of a target, after which it gets no further one."""
INSTRUMENTED_SLACK = 4.0
"""Factor of the time limits for instrumented code."""
MAX_GROWTH = 3 << 30
"""Bytes of address space that the fuzzing may add to what the imports took."""
SAVED_EVERY = 50
_START_SECONDS = 300
"""Wall time that a process may take to import, and to end after its time."""


def fuzz_target(name, engine, seconds, seed, finds, max_crashes=MAX_CRASHES):
    """Fuzz one target in a process, or in several if inputs end it; return its statistics with its finds."""
    total = {"target": name, "executions": 0, "seconds": 0.0, "finds": []}
    for crashes in range(max_crashes):
        left = seconds - total["seconds"]
        with tempfile.TemporaryDirectory(prefix="pairmill-fuzz-") as folder:
            stats, error = _run_child(Path(folder), name, engine, left, seed + crashes, finds)
        total |= {
            field: max(value, total.get(field, 0)) for field, value in stats.items() if field not in ("finds", *total)
        }
        for field in ("executions", "seconds", "finds"):
            total[field] += stats.get(field, type(total[field])())
        if error is None:
            break
        total["finds"].append(error.describe(error.save(finds)))
    total["executions_per_s"] = round(total["executions"] / max(total["seconds"], 0.001), 1)
    total["seconds"] = round(total["seconds"], 1)
    return total


def _run_child(folder, name, engine, seconds, seed, finds):
    """Return the statistics of a process, and what ended it."""
    job = {"target": name, "engine": engine, "seconds": seconds, "seed": seed}
    job |= {"folder": str(folder), "finds": str(finds)}
    log = folder / "log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.fuzz", "--job", json.dumps(job)], cwd=CHECKOUT, stdout=sink, stderr=sink
        )
        try:
            code = process.wait(seconds + _START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
    stats, current = folder / "stats.json", folder / "current"
    found = json.loads(stats.read_text("utf-8")) if stats.exists() else {}
    if code == 0:
        return found, None
    if not found:
        sys.stderr.write(log.read_text("utf-8", "replace")[-3000:])
    data = read_current(current) if current.exists() else b""
    return found, Find(name, "crash", f"the process ended with code {code}", f"code {code}", data)


def run_job(job):
    """Fuzz one target in this process, and write stats.json and the finds into its folder."""
    folder, target, seconds = Path(job["folder"]), find_target(job["target"]), float(job["seconds"])
    is_guided = job["engine"] == "atheris"

    def make_runner():
        slack = INSTRUMENTED_SLACK if is_guided else 1.0
        runner = Runner(target, Path(job["finds"]), slack=slack, current=folder / "current")
        runner.warm_up()
        limit_address_space()
        return runner

    def save(runner):
        runner.save_stats(folder / "stats.json")

    if is_guided:
        fuzz_with_atheris(make_runner, job["seed"], seconds, folder, save)
    runner, end = make_runner(), time.monotonic() + seconds

    def is_over():
        if runner.stats.executions % SAVED_EVERY == 0:
            save(runner)
        return time.monotonic() > end

    fuzz_at_random(runner, job["seed"], is_over)
    save(runner)


def limit_address_space():
    """Let allocations fail that would add more than MAX_GROWTH to this process."""
    most = psutil.Process().memory_info().vms + MAX_GROWTH
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def repeat(name, path):
    """Run one input, and print what happens; return 1 if it is a find."""
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(find_target(name), Path(folder))
        runner.warm_up()
        sys.stdout.write(f"{runner.run(path.read_bytes())}\n{runner.stats}\n")
    return 1 if runner.stats.finds else 0


def main():
    """Fuzz, and print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seconds", type=float, default=60, help="time of fuzzing for all targets together, without starts"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", action="append", choices=sorted(TARGETS), help="by default all")
    parser.add_argument("--engine", choices=ENGINES, default=ENGINES[0] if find_spec("atheris") else ENGINES[1])
    parser.add_argument("--out", type=Path, default=Path("fuzz-finds"), help="folder of the finds")
    parser.add_argument("--repeat", type=Path, help="an input to run once, for one target")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--job", type=json.loads, help="used by the benchmark itself")
    options = parser.parse_args()
    if options.job:
        run_job(options.job)
        return 0
    names = options.target or list(TARGETS)
    if options.repeat:
        return repeat(names[0], options.repeat)
    if options.engine == "atheris":
        require_peers("atheris")
    show, results = make_printer(options.json), []
    for name in names:
        share = options.seconds / len(names)
        result = fuzz_target(name, options.engine, share, options.seed, options.out.absolute())
        results.append(result)
        show(
            f"{name:<18} {result['executions']:>10,} inputs, {result['executions_per_s']:>8,.0f}/s, "
            f"corpus {result.get('corpus', 0):>6,}, slowest {result.get('slowest_s_per_mb', 0):g} s/MB, "
            f"peak {result.get('peak_mb', 0):g} MB, {len(result['finds'])} finds"
        )
        for find in result["finds"]:
            show(f"  {find['kind']}: {find['what']}\n    {find['repeat']}")
    details = {"seconds": options.seconds, "seed": options.seed, "engine": options.engine, "targets": results}
    is_clean = not any(result["finds"] for result in results)
    return finish(
        "fuzz", (), ("atheris",) if options.engine == "atheris" else (),
        equal=is_clean, as_json=options.json, details=details,
    )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
