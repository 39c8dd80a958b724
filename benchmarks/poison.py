"""A simulated year of nights with planted faults: how many the checks hold before a training, and the false alarms.

    python -m benchmarks.poison [--seed 1] [--nights 365] [--skip-backdoor] [--json]

The year (benchmarks/cases/poison_year.py) has 365 nights of about 1,200 pairs of 1,200 domains, and 40 faults of 10
classes. Each night goes through the check code of `[curate.poison]` at its defaults, as a Parquet table of the
columns of curate; the state is encoded and decoded every tenth night. A fault is caught if at least 80% of the pairs
that it brings on its night are in quarantine then. A finding that has neither mostly pairs of a fault nor most pairs
of one is a false alarm; one that comes again within a week of the same subject counts once. Its pairs are released,
as an operator would do. Bounds: 36 faults caught and 3 false alarms. Then a backdoor is trained with and without the
checks (poison_backdoor.py).
"""

import io
import multiprocessing
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import polars as pl

from benchmarks.cases.poison_year import CLASSES, Made, Year
from benchmarks.measure import finish, make_parser, make_printer
from dataops.parquet import encode_table
from plugins.poison.checks import Finding, Night, accept, examine
from plugins.poison.config import PoisonConfig
from plugins.poison.history import History

CAUGHT, MIN_CAUGHT, MAX_FALSE, AGAIN = 0.8, 36, 3, 7


def examine_made(made: Made, history: History, config: PoisonConfig) -> tuple[Night, list[Finding], list[int]]:
    """Return a night with its findings, and the fault of each of its rows."""
    order = made.rows.with_row_index("place").sort("uid")["place"].to_list()
    data = encode_table(made.rows[order].to_arrow())
    rows, features = pl.read_parquet(io.BytesIO(data)), made.features[order].astype(np.float32)
    night = Night(rows, made.lost, lambda chosen: features[list(chosen)], config, history)
    return night, examine(night), [made.faults[place] for place in order]


def release(night: Night, finding: Finding) -> None:
    """Let the pairs of a finding in, as `pairmill quarantine release` does."""
    rows = night.rows[sorted(finding.rows)]
    accept(Night(rows, night.lost.clear(), night.features, night.config, night.history))


def made_ahead(year: Year, nights: int) -> Iterator[tuple[int, Made]]:
    """Yield the nights of a year, which another process makes."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue(4)

    def put() -> None:
        for night in islice(year.nights(), nights):
            queue.put(night)

    process = context.Process(target=put, daemon=True)
    process.start()
    for _ in range(nights):
        yield queue.get()
    process.join()


def run_year(seed: int, nights: int, show: Any) -> dict[str, Any]:
    """Return what the checks found in a year."""
    year, config, history = Year(seed), PoisonConfig(), History()
    caught: dict[int, set[str]] = defaultdict(set)
    held_rows, planted_rows = Counter[int](), Counter[int]()
    false: dict[tuple[str, str], int] = {}
    alarms: list[dict[str, Any]] = []
    pairs, quarantined, innocent, seconds = 0, 0, 0, 0.0
    for number, made in made_ahead(year, nights):
        started = time.process_time()
        if number % 10 == 0:  # as every run does
            history = History.decode(history.encode(config.max_known))
        night, findings, faults = examine_made(made, history, config)
        seconds += time.process_time() - started
        held = {row for one in findings for row in one.rows}
        tonight = {fault.number for fault in year.faults if fault.night == number}
        for row in night.kept:
            if faults[row] in tonight:
                planted_rows[faults[row]] += 1
                held_rows[faults[row]] += row in held
        pairs, quarantined = pairs + len(night.kept), quarantined + len(held)
        innocent += sum(not faults[row] for row in held)
        for one in findings:
            mine = Counter(faults[row] for row in one.rows)
            true = [
                fault
                for fault, rows in mine.items()
                if fault and (2 * rows > len(one.rows) or 2 * rows > planted_rows[fault] > 0)
            ]
            if one.subject.startswith("dropped"):
                true = made.placeholders
            for fault in true:
                caught[fault].add(one.check)
            if not true:
                key = (one.check, one.subject)
                if number - false.get(key, -AGAIN - 1) > AGAIN:
                    alarms.append(
                        {"night": number, "check": one.check, "pairs": len(one.rows), "evidence": one.evidence}
                    )
                    show(
                        f"false alarm: night {number}, {one.check} {one.subject}: {one.evidence}, {one.probability:.1e}"
                    )
                false[key] = number
                release(night, one)
        if number % 30 == 0:
            sys.stderr.write(f"night {number}: {sum(bool(one) for one in caught.values())} faults seen\n")
    done = [fault for fault in year.faults if fault.night <= nights]
    stopped = {
        fault.number: bool(planted_rows[fault.number])
        and held_rows[fault.number] >= CAUGHT * planted_rows[fault.number]
        if planted_rows[fault.number]
        else fault.number in caught
        for fault in done
    }
    for fault in done:
        if not stopped[fault.number]:
            rows = f"{held_rows[fault.number]} of {planted_rows[fault.number]} pairs held"
            show(f"missed: {fault.kind} variant {fault.variant}, night {fault.night}: {rows}")
    return {
        "seed": seed,
        "nights": nights,
        "pairs": pairs,
        "faults": len(done),
        "caught": sum(stopped.values()),
        "by_class": {kind: sum(stopped[f.number] for f in done if f.kind == kind) for kind in CLASSES},
        "checks_by_class": {
            kind: dict(Counter(check for f in done if f.kind == kind for check in sorted(caught[f.number])))
            for kind in CLASSES
        },
        "false_alarms": alarms,
        "quarantined_pairs": quarantined,
        "of_no_fault": innocent,
        "cpu_seconds_per_night": round(seconds / nights, 3),
        "state_bytes": len(encode_table(history.encode(config.max_known))),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; exit with 1 if a bound is missed."""
    parser = make_parser(str(__doc__).partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--nights", type=int, default=365)
    parser.add_argument("--skip-backdoor", action="store_true")
    options = parser.parse_args(arguments)
    show = make_printer(options.json)
    found = run_year(options.seed, options.nights, show)
    bounds = {
        f"at least {MIN_CAUGHT} faults are caught": found["caught"] >= MIN_CAUGHT,
        f"at most {MAX_FALSE} false alarms": len(found["false_alarms"]) <= MAX_FALSE,
    }
    if not options.skip_backdoor:
        from benchmarks.cases.poison_backdoor import measure_backdoor

        found["backdoor"] = measure_backdoor(show)
    for label, value in found.items():
        show(f"{label}: {value}")
    missed = [bound for bound, held in bounds.items() if not held]
    for bound in missed:
        show(f"MISSED: {bound}")
    return finish("poison", (), ("polars", "numpy"), equal=not missed, as_json=options.json, details=found)


if __name__ == "__main__":
    sys.exit(main())
