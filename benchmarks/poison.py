"""Simulated years of nights with planted faults: how many the checks hold before a training, and the false alarms.

    python -m benchmarks.poison [--seeds 1 2] [--nights 365] [--skip-backdoor] [--json]

A year (benchmarks/cases/poison_year.py) has 365 nights of about 1,200 pairs of 1,200 domains, and 40 faults of 10
classes. Each night goes through the check code of `[curate.poison]` at its defaults; the state is encoded and decoded
every tenth night. A fault is caught if at least 80% of the pairs that it brings on its night are in quarantine then. A
finding that has neither mostly pairs of a fault nor most pairs of one is a false alarm; one that comes again within a
week of the same subject counts once. Its pairs are released, as an operator would do. Bounds, for each year: 36 faults
caught and 3 false alarms. Then a backdoor is trained with and without the checks (poison_backdoor.py).
"""

import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice

import numpy as np

from benchmarks.cases.poison_year import CLASSES, Year
from benchmarks.measure import finish, make_parser, make_printer
from dataops.parquet import encode_table
from plugins.poison.checks import Night
from plugins.poison.config import PoisonConfig
from plugins.poison.examine import accept, examine
from plugins.poison.history import History

CAUGHT, MIN_CAUGHT, MAX_FALSE, AGAIN = 0.8, 36, 3, 7


def examine_made(made, history, config):
    """Return a night with its findings, and the fault of each of its rows."""
    order = made.rows.with_row_index("place").sort("uid")["place"].to_list()
    features = made.features[order].astype(np.float32)
    night = Night(made.rows[order], made.lost, lambda chosen: features[list(chosen)], config, history)
    return night, examine(night), [made.faults[place] for place in order]


def find_causes(finding, faults, planted, made):
    """Return the faults that a finding is of; none: it is a false alarm."""
    if finding.subject.startswith("dropped"):
        return made.placeholders
    mine = Counter(faults[row] for row in finding.rows)
    return [one for one, rows in mine.items() if one and (2 * rows > len(finding.rows) or 2 * rows > planted[one] > 0)]


def run_year(nights, seed):
    """Return what the checks found in a year."""
    year, config, history = Year(seed), PoisonConfig(), History()
    first = {fault.number: fault.night for fault in year.faults}
    caught = set()
    planted, held_rows, totals = Counter(), Counter(), Counter()
    alarms, last, seconds = [], {}, 0.0
    for number, made in islice(year.nights(), nights):
        started = time.process_time()
        if number % 10 == 0:  # as every run does
            history = History.decode(history.encode(config.max_known))
        night, findings, faults = examine_made(made, history, config)
        seconds += time.process_time() - started
        held = {row for one in findings for row in one.rows}
        tonight = [row for row in night.kept if first.get(faults[row]) == number]
        planted.update(faults[row] for row in tonight)
        held_rows.update(faults[row] for row in tonight if row in held)
        totals.update(
            pairs=len(night.kept), quarantined_pairs=len(held), of_no_fault=sum(not faults[row] for row in held)
        )
        for one in findings:
            causes = find_causes(one, faults, planted, made)
            caught.update(causes)
            if not causes:
                key = (one.check, one.subject)
                if number - last.get(key, -AGAIN - 1) > AGAIN:
                    alarm = {"night": number, "pairs": len(one.rows), "probability": one.probability}
                    alarms.append({**alarm, "check": one.check, "evidence": one.evidence})
                last[key] = number
                accept(night, {*one.rows})
    done = [fault for fault in year.faults if fault.night <= nights]
    stopped = {
        n: held_rows[n] >= CAUGHT * planted[n] if planted[n] else n in caught for n in (fault.number for fault in done)
    }
    kinds = {kind: [fault.number for fault in done if fault.kind == kind] for kind in CLASSES}
    return {
        "seed": seed,
        "nights": nights,
        "faults": len(done),
        "caught": sum(stopped.values()),
        "by_class": {kind: sum(stopped[n] for n in numbers) for kind, numbers in kinds.items()},
        "missed": [
            f"{fault.kind} {fault.variant}, night {fault.night}: {held_rows[fault.number]} of {planted[fault.number]} pairs"
            for fault in done
            if not stopped[fault.number]
        ],
        "false_alarms": alarms,
        **totals,
        "cpu_seconds_per_night": round(seconds / nights, 3),
        "state_bytes": len(encode_table(history.encode(config.max_known))),
    }


def main(arguments=None):
    """Run it; exit with 1 if a bound is missed."""
    parser = make_parser(__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--nights", type=int, default=365)
    parser.add_argument("--skip-backdoor", action="store_true")
    options = parser.parse_args(arguments)
    show = make_printer(options.json)
    with ProcessPoolExecutor(2) as pool:
        years = list(pool.map(partial(run_year, options.nights), options.seeds))
    for year in years:
        for label, value in year.items():
            show(f"{label}: {value}")
    missed = [
        f"seed {year['seed']}: at least {MIN_CAUGHT} faults are caught, with at most {MAX_FALSE} false alarms"
        for year in years
        if year["caught"] < MIN_CAUGHT or len(year["false_alarms"]) > MAX_FALSE
    ]
    found = {"years": years, "missed": missed}
    if not options.skip_backdoor:
        from benchmarks.cases.poison_backdoor import measure_backdoor

        found["backdoor"] = measure_backdoor(show)
    for bound in missed:
        show(f"MISSED: {bound}")
    return finish("poison", (), ("polars", "numpy"), equal=not missed, as_json=options.json, details=found)


if __name__ == "__main__":
    raise SystemExit(main())
