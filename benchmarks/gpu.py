"""Check and measure training on this machine's GPU with one command.

    python -m benchmarks.gpu [--seconds 540] [--json OUT | --continue OUT] [--stages PATTERN] [--device cuda]

It needs torch and the wheels that training/ imports, no network and no other part of pairmill (docs/train/gpu.md). Each
stage runs in a process of its own with a deadline, so that a crash or a hang ends that stage only. OUT gets one JSON
line per stage, as soon as the stage has ended. A stage that was not reached is NOT RUN. The first ten stages (five
cheap gates, B/16 and B/32 compiled, a training job, the loader) end within 540 s whatever happens; --continue runs those
that an earlier run has not ended well. `--device cpu` runs all gates that mean something on a CPU, with toy models.

Exit codes: 0 every stage that this machine can run has passed; 1 a gate failed, a process crashed, or the time did not
suffice for all gates; 2 there is no such device or stage, or no such earlier run.
"""

import argparse
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from benchmarks.gpu_gates.catalogue import HERE, STAGES, Stage, run_stage
from benchmarks.gpu_gates.outcomes import FAIL, MEASURED, NOT_RUN, PASS, Outcome, Setting

DEVICE = Stage("device", f"{HERE}.environment:find_device", 30, is_gate=False)
SECONDS = 540
COLUMNS = ("model", "variant", "samples/s", "MFU", "peak GB", "to open_clip")


def run_in_process(stage, setting, seconds):
    """Run a stage in a process of its own, and end it and what it started at its deadline."""
    context = setting.processes()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=run_stage, args=(stage, setting, sender))
    process.start()
    sender.close()
    try:
        if not receiver.poll(seconds):
            late = f"did not end within {seconds:.0f} s"
            return Outcome(FAIL if stage.is_gate and seconds >= stage.seconds else NOT_RUN, late, {"reached": False})
        return receiver.recv()
    except EOFError:
        process.join()
        return Outcome(FAIL, f"its process ended with exit code {process.exitcode}, and without an outcome")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.kill()
        process.join()


def run_stages(stages, setting, seconds):
    """Run stages in turn; yield each with its outcome and its seconds."""
    end = time.monotonic() + seconds
    for stage in stages:
        started = time.monotonic()
        if end > started:
            limit = stage.seconds * (10 if setting.is_toy else 1)  # a shared CPU may be slow
            outcome = run_in_process(stage, setting, min(limit, end - started))
        else:
            outcome = Outcome(NOT_RUN, f"the {seconds:g} s of the run had passed", {"reached": False})
        yield stage, outcome, time.monotonic() - started


def find_exit_code(results):
    """Return 1 if anything failed, or a gate was not reached; else 0."""
    return int(any(o.status == FAIL or (stage.is_gate and "reached" in o.figures) for stage, o in results))


def format_table(outcomes):
    """Return the table of the timed steps."""
    timed = [o.figures for o in outcomes if o.status == MEASURED and "variant" in o.figures]
    peers = {row["model"]: row["samples_per_second"] for row in timed if row["variant"] == "open_clip"}
    lines = [COLUMNS]
    for row in sorted(timed, key=lambda row: row["model"]):
        ratio = row["samples_per_second"] / peers[row["model"]] if row["model"] in peers else None
        cells = ((row["mfu"], ".1%"), (row["peak_gb"], ".1f"), (ratio, ".2f"))
        named = row["model"], row["variant"], f"{row['samples_per_second']:,.0f}"
        lines.append((*named, *("-" if v is None else format(v, how) for v, how in cells)))
    return "\n".join("".join(cell.ljust(22) for cell in line) for line in lines)


def select_stages(pattern, earlier):
    """Return the stages to run, and those that an earlier run has ended well, with their outcomes.

    Args:
        pattern: regular expression, found in the names of the stages.
        earlier: JSON lines of an earlier run, or None.
    """
    chosen = [stage for stage in STAGES if re.search(pattern, stage.name)]
    if not chosen:
        raise ValueError(f"no stage has {pattern!r} in its name: {', '.join(stage.name for stage in STAGES)}")
    lines = map(json.loads, earlier.read_text().splitlines() if earlier else [])
    ended = {one["stage"]: Outcome(one["status"], one["message"], one["figures"]) for one in lines}
    ended = {name: outcome for name, outcome in ended.items() if outcome.status in (PASS, MEASURED)}
    good = [(stage, ended[stage.name]) for stage in chosen if stage.name in ended]
    return [stage for stage in chosen if stage.name not in ended], good


def main():
    """Run all stages and print what they found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time of the whole run")
    parser.add_argument("--json", type=Path, default=Path(os.devnull), help="file for one JSON line a stage")
    parser.add_argument("--continue", type=Path, dest="earlier", help="such a file, to which this run adds its lines")
    parser.add_argument("--stages", default="", help="regular expression: only stages in whose names it is found")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    options = parser.parse_args()
    try:
        stages, results = select_stages(options.stages, options.earlier)
    except (re.error, OSError, ValueError) as error:
        parser.error(f"--stages {options.stages!r}, --continue {options.earlier}: {error}")
    with (
        tempfile.TemporaryDirectory(prefix="pairmill-gpu-") as folder,
        (options.earlier or options.json).open("a" if options.earlier else "w") as file,
    ):

        def report(stage, outcome, seconds):
            line = {"stage": stage.name, **asdict(outcome), "seconds": round(seconds, 2)}
            file.write(json.dumps(line) + "\n")
            file.flush()
            sys.stdout.write(f"{outcome.status:<8} {stage.name:<36} {seconds:6.1f} s  {outcome.message}\n")
            sys.stdout.flush()

        setting = Setting(options.device, Path(folder))
        for stage, outcome, seconds in run_stages([DEVICE, *stages], setting, options.seconds):
            report(stage, outcome, seconds)
            if stage is DEVICE and outcome.status != MEASURED:
                return 2
            results.append((stage, outcome))
    outcomes = [outcome for _, outcome in results]
    counts = Counter(sorted(outcome.status for outcome in outcomes))
    sys.stdout.write(f"\n{format_table(outcomes)}\n\n{', '.join(f'{n} {status}' for status, n in counts.items())}\n")
    return find_exit_code(results)


if __name__ == "__main__":
    raise SystemExit(main())
