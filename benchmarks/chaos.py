"""Kills a pipeline at random moments in every stage until it is through, again and again: `python -m benchmarks.chaos`.

A cycle is one run on an empty store. In each of its stages some process of the run dies by SIGKILL (the command itself, a
worker, torchrun, the trainer, the evaluator) or all of them do, with or without what a lost power supply leaves behind:
files of no length. `pairmill rerun` goes on until the run completes. Then everything is compared with an undisturbed run:
one dataset digest, one weights digest, one evaluation digest; no sample lost or doubled; no process, temporary file or
second model version left. tests/e2e/test_chaos.py runs a short one.
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

from benchmarks.kills.ground import Ground, ground
from benchmarks.kills.loop import Chaos, Outcome
from dataops.stages import STAGES


def run(ground: Ground, kills: int, seed: int, say: Callable[[str], None]) -> Outcome:
    """Cycles until so many kills are made; at most two in each stage of a cycle."""
    chaos = Chaos(ground, seed, say)
    chaos.undisturbed(ground.folder / "peace")
    say(f"undisturbed: {', '.join(f'{stage} {seconds:.1f} s' for stage, seconds in chaos.typical.items())}")
    while (left := kills - len(chaos.outcome.kills)) > 0:
        made = Counter(kill.stage for kill in chaos.outcome.kills)
        fewest_first = sorted([*STAGES, *STAGES], key=lambda stage: made[stage])
        targets = fewest_first if left >= len(fewest_first) else sorted(STAGES, key=lambda stage: made[stage])[:left]
        chaos.cycle(ground.folder / f"store-{chaos.outcome.cycles + 1}", targets)
        say(f"cycle {chaos.outcome.cycles} ended; {len(chaos.outcome.findings)} findings so far")
    return chaos.outcome


def report(outcome: Outcome, seed: int, seconds: float) -> dict[str, Any]:
    """The JSON object that every benchmark ends with, and what is particular to this one."""
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
        "seed": seed,
        "seconds": round(seconds),
        "cycles": outcome.cycles,
        "victims": dict(Counter(kill.victim for kill in outcome.kills)),
        "emptied_files": sum(len(kill.emptied) for kill in outcome.kills),
        "exit_codes": dict(outcome.exits),
        "swept_by_gc": dict(outcome.swept),
        "findings": outcome.findings,
        "kills": [asdict(kill) for kill in outcome.kills],
    }


def show(result: dict[str, Any]) -> None:
    """The report for people."""
    lines = [f"{len(result['kills'])} kills in {result['cycles']} cycles, {result['seconds']} s, seed {result['seed']}"]
    lines += [f"  {row['case']:<16} {row['ours']:>3}" for row in result["rows"]]
    for name in ("victims", "exit_codes", "emptied_files", "swept_by_gc"):
        lines.append(f"  {name.replace('_', ' ')}: {result[name]}")
    lines.append("  one digest, no sample lost or doubled" if not result["findings"] else "FINDINGS")
    sys.stdout.write("\n".join([*lines, *result["findings"]]) + "\n")


def say(line: str) -> None:
    """Tell a line as it happens."""
    sys.stderr.write(f"{line}\n")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--quick", action="store_true", help="8 kills, one in each stage")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep-log", type=Path, help="copy the commands' output here")
    arguments = parser.parse_args()
    started = time.monotonic()
    with ground() as prepared:
        try:
            outcome = run(
                prepared,
                len(STAGES) if arguments.quick else arguments.kills,
                arguments.seed,
                say,
            )
        finally:
            if arguments.keep_log:
                arguments.keep_log.write_bytes((prepared.folder / "chaos.log").read_bytes())
    result = report(outcome, arguments.seed, time.monotonic() - started)
    if arguments.json:
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        show(result)
    return 1 if outcome.findings else 0


if __name__ == "__main__":
    sys.exit(main())
