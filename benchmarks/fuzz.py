"""Fuzz all parsers of foreign bytes: only deliberate errors, CPU time and memory in proportion to the input, no crash.

    python -m benchmarks.fuzz --seconds 3600 [--seed 0] [--target NAME]... [--engine hypothesis] [--out FOLDER] [--json]
    python -m benchmarks.fuzz --target NAME --repeat FILE      # run one input that was found

Each target (benchmarks/fuzzing/targets.py) gets an equal share of the time in a process of its own. atheris guides the
inputs by coverage, where it is installed; else hypothesis mutates a corpus that grows. A find is written into the
folder, with what happened. The exit code is 1 if there is one.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.fuzzing.runner import Find, Runner, read_current
from benchmarks.fuzzing.targets import TARGETS, find_target
from benchmarks.measure import finish, make_printer, peer_imports
from dataops.home import CHECKOUT

ENGINES = ("atheris", "hypothesis")
MAX_CRASHES = 3
"""Number of inputs that end the process of a target, after which it gets no further one."""
_START_SECONDS = 300
"""Wall time that a process may take to import, and to end after its time."""


def fuzz_target(
    name: str, engine: str, seconds: float, seed: int, finds: Path, max_crashes: int = MAX_CRASHES
) -> dict[str, Any]:
    """Fuzz one target in a process, or in several if inputs end it; return its statistics with its finds."""
    total: dict[str, Any] = {"target": name, "executions": 0, "seconds": 0.0, "finds": []}
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


def _run_child(
    folder: Path, name: str, engine: str, seconds: float, seed: int, finds: Path
) -> tuple[dict[str, Any], Find | None]:
    """Return the statistics of a process, and what ended it."""
    job = {
        "target": name,
        "engine": engine,
        "seconds": seconds,
        "seed": seed,
        "folder": str(folder),
        "finds": str(finds),
    }
    log = folder / "log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.fuzzing.child", json.dumps(job)], cwd=CHECKOUT, stdout=sink, stderr=sink
        )
        try:
            code = process.wait(seconds + _START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
    stats, current = folder / "stats.json", folder / "current"
    found: dict[str, Any] = json.loads(stats.read_text("utf-8")) if stats.exists() else {}
    if code == 0:
        return found, None
    if not found:
        sys.stderr.write(log.read_text("utf-8", "replace")[-3000:])
    data = read_current(current) if current.exists() else b""
    return found, Find(name, "crash", f"the process ended with code {code}", f"code {code}", data)


def repeat(name: str, path: Path) -> int:
    """Run one input, and print what happens; return 1 if it is a find."""
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(find_target(name), Path(folder))
        runner.warm_up()
        outcome, find = runner.run(path.read_bytes())
    sys.stdout.write(f"{find.kind}: {find.what}\n{find.where}\n" if find else f"{outcome}\n{runner.stats}\n")
    return 1 if find else 0


def main() -> int:
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
    options = parser.parse_args()
    names = options.target or list(TARGETS)
    if options.repeat:
        return repeat(names[0], options.repeat)
    with peer_imports():
        __import__(options.engine)
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
        "fuzz", (), ("atheris", "hypothesis") if options.engine == "atheris" else ("hypothesis",),
        equal=is_clean, as_json=options.json, details=details,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
