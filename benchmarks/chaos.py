"""Kill a pipeline at random moments in each stage, and rerun it until it completes: `python -m benchmarks.chaos`.

A cycle is one run on an empty store. In each of its stages one process of the run (the command itself, a worker, the
trainer, the evaluator) or all of them are killed by SIGKILL, sometimes with empty files as after a power failure.
`pairmill rerun` is repeated until the run completes. With `--store s3` the store is in SeaweedFS, which meanwhile is killed
and started again, answers 503 or late, and whose connections are cut. Then the results are compared with an undisturbed
run: equal digests of dataset, weights and evaluation; no sample missing or duplicated; no process, temporary file,
unfinished upload or second model version left. tests/e2e/test_chaos.py runs a short version.
"""

import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from benchmarks.measure import Row, finish, make_parser
from dataops.stages import STAGES
from dataops.store import FolderStore
from tests.kills.environment import chaos_environment
from tests.kills.loop import Chaos


def run(environment, kills, seed, say):
    """Run cycles until `kills` kills are done, with at most two in each stage of a cycle."""
    chaos = Chaos(environment, seed, say)
    chaos.run_undisturbed(FolderStore(environment.folder / "undisturbed"))
    say(f"undisturbed: {', '.join(f'{stage} {seconds:.1f} s' for stage, seconds in chaos.typical.items())}")
    while (left := kills - len(chaos.outcome.kills)) > 0:
        kills_by_stage = Counter(kill.stage for kill in chaos.outcome.kills)
        stages = STAGES * (2 if left >= 2 * len(STAGES) else 1)
        targets = sorted(stages, key=kills_by_stage.__getitem__)[:left]
        chaos.cycle(environment.open_store(f"store-{chaos.outcome.cycles + 1}"), targets)
        say(f"cycle {chaos.outcome.cycles} ended; {len(chaos.outcome.findings)} findings so far")
    return chaos.outcome


def say(line):
    """Print a line of progress to standard error."""
    sys.stderr.write(f"{line}\n")


def main():
    """Run the benchmark; exit with 1 if anything was found."""
    parser = make_parser(__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="8 with --quick, one in each stage")
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
    by_stage = Counter(kill.stage for kill in outcome.kills)
    details = {
        "store": options.store,
        "seed": options.seed,
        "seconds": round(time.monotonic() - started),
        "cycles": outcome.cycles,
        "victims": Counter(kill.victim for kill in outcome.kills),
        "faults": outcome.faults,
        "emptied_files": sum(len(kill.emptied) for kill in outcome.kills),
        "exit_codes": outcome.exits,
        "swept_by_gc": outcome.swept,
        "findings": outcome.findings,
        "kills": [asdict(kill) for kill in outcome.kills],
    }
    rows = [Row(f"kills {stage}", by_stage[stage], 1, "at least", "kills", goal=1) for stage in STAGES]
    packages = ("prefect", "mlflow", "img2dataset", "torch")
    return finish("chaos", rows, packages, equal=not outcome.findings, as_json=options.json, details=details)


if __name__ == "__main__":
    raise SystemExit(main())
