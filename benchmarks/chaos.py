"""Kill a pipeline at random moments in each stage, and rerun it until it completes: `python -m benchmarks.chaos`.

A cycle is one run on an empty store. In each of its stages one process of the run (the command itself, a worker, the
trainer, the evaluator) or all of them are killed by SIGKILL, sometimes with empty files as after a power failure.
`pairmill rerun` is repeated until the run completes. With `--store s3` the store is in SeaweedFS, which meanwhile is killed
and started again, answers 503 or late, and whose connections are cut. Then the results are compared with an undisturbed
run: equal digests of dataset, weights and evaluation; no sample missing or duplicated; no process, temporary file,
unfinished upload or second model version left. tests/e2e/test_chaos.py runs a short version.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dataops.stages import STAGES
from dataops.store import FolderStore
from tests.kills.environment import ChaosEnvironment, chaos_environment
from tests.kills.loop import Chaos, Outcome


def run(environment: ChaosEnvironment, kills: int, seed: int, say: Callable[[str], None]) -> Outcome:
    """Run cycles until `kills` kills are done, with at most two in each stage of a cycle."""
    chaos = Chaos(environment, seed, say)
    chaos.run_undisturbed(FolderStore(environment.folder / "undisturbed"))
    say(f"undisturbed: {', '.join(f'{stage} {seconds:.1f} s' for stage, seconds in chaos.typical.items())}")
    while (left := kills - len(chaos.outcome.kills)) > 0:
        kills_by_stage = Counter(kill.stage for kill in chaos.outcome.kills)
        fewest_first = sorted([*STAGES, *STAGES], key=lambda stage: kills_by_stage[stage])
        targets = (
            fewest_first
            if left >= len(fewest_first)
            else sorted(STAGES, key=lambda stage: kills_by_stage[stage])[:left]
        )
        chaos.cycle(environment.open_store(f"store-{chaos.outcome.cycles + 1}"), targets)
        say(f"cycle {chaos.outcome.cycles} ended; {len(chaos.outcome.findings)} findings so far")
    return chaos.outcome


def report(outcome: Outcome, store: str, seed: int, seconds: float) -> dict[str, Any]:
    """Return the JSON object that each benchmark ends with, and the details of this one."""
    by_stage = Counter(kill.stage for kill in outcome.kills)
    rows = [
        {"case": f"kills {stage}", "ours": by_stage[stage], "peer": None, "peer_name": None, "unit": "kills"}
        | {"ratio": None, "limit": None, "goal": 1, "met": by_stage[stage] >= 1}
        for stage in STAGES
    ]
    return {
        "benchmark": "chaos",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("prefect", "mlflow", "img2dataset", "torch")},
        "rows": rows,
        "equal_output": not any("digest" in finding for finding in outcome.findings),
        "store": store,
        "seed": seed,
        "seconds": round(seconds),
        "cycles": outcome.cycles,
        "victims": dict(Counter(kill.victim for kill in outcome.kills)),
        "faults": dict(outcome.faults),
        "emptied_files": sum(len(kill.emptied) for kill in outcome.kills),
        "exit_codes": dict(outcome.exits),
        "swept_by_gc": dict(outcome.swept),
        "findings": outcome.findings,
        "kills": [asdict(kill) for kill in outcome.kills],
    }


def show(result: dict[str, Any]) -> None:
    """Print the report as text."""
    summary = "{} kills in {cycles} cycles, {seconds} s, seed {seed}, store {store}"
    lines = [summary.format(len(result["kills"]), **result)]
    lines += [f"  {row['case']:<16} {row['ours']:>3}" for row in result["rows"]]
    for name in ("victims", "faults", "exit_codes", "emptied_files", "swept_by_gc"):
        lines.append(f"  {name.replace('_', ' ')}: {result[name]}")
    lines.append("  equal digests, no sample missing or duplicated" if not result["findings"] else "FINDINGS")
    sys.stdout.write("\n".join([*lines, *result["findings"]]) + "\n")


def say(line: str) -> None:
    """Print a line of progress to standard error."""
    sys.stderr.write(f"{line}\n")


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--quick", action="store_true", help="8 kills, one in each stage")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--store", choices=("folder", "s3"), default="folder", help="s3: SeaweedFS, which is restarted, busy and slow"
    )
    parser.add_argument("--keep-log", type=Path, help="copy the commands' output here")
    options = parser.parse_args()
    started = time.monotonic()
    with chaos_environment(options.store, options.seed, say) as environment:
        try:
            kills = len(STAGES) if options.quick else options.kills
            outcome = run(environment, kills, options.seed, say)
        finally:
            if options.keep_log:
                options.keep_log.write_bytes((environment.folder / "chaos.log").read_bytes())
    result = report(outcome, options.store, options.seed, time.monotonic() - started)
    if options.json:
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        show(result)
    return 1 if outcome.findings else 0


if __name__ == "__main__":
    sys.exit(main())
