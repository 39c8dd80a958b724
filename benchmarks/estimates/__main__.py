"""Plan runs of different size, make them, and compare the estimates with what the runs took.

    python -m benchmarks.estimates [--rows 10000,100000,1000000,10000000] [--only pairs,demo] [--folder FOLDER]
                                   [--write] [--quick] [--json]

Each run is planned in an empty store, and in the store of the runs before it. `ours` is the estimate and `peer` the real
value. It takes about five minutes on two idle cores. A folder that is named keeps the lists of pairs for the next time;
--write replaces the table in docs/plan.md.
"""

import signal
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from benchmarks.cases.scale_services import local_servers
from benchmarks.estimates.cases import Compared, Pipeline, demo_cases, pair_cases
from benchmarks.estimates.table import UNITS, replace_table, write_table
from benchmarks.measure import Row, finish, make_parser, make_printer, require_peers


def main() -> int:
    """Measure, and print or write the table."""
    parser = make_parser(__doc__ or "")
    parser.add_argument("--rows", default="10000,100000,1000000,10000000", help="sizes of the runs on lists of pairs")
    parser.add_argument("--only", default="pairs,demo", help="the cases to run")
    parser.add_argument("--folder", type=Path, help="folder of the lists of pairs and the stores")
    parser.add_argument("--write", action="store_true", help="replace the table in docs/plan.md")
    options = parser.parse_args()
    if options.quick:
        vars(options).update(rows="10000,40000", only="pairs")
    require_peers("wordfreq")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that its servers are stopped
    show = make_printer(options.json)
    found: list[Compared] = []
    with tempfile.TemporaryDirectory(prefix="pairmill-estimates-") as temporary, ExitStack() as stack:
        folder = Path(temporary)
        stack.enter_context(local_servers(folder))
        pipeline, lists = Pipeline(folder), (options.folder or folder).absolute()
        sizes = [int(float(size)) for size in options.rows.split(",")]
        cases = list(pair_cases(lists, sizes)) if "pairs" in options.only else []
        if "demo" in options.only:
            cases += stack.enter_context(demo_cases(folder))
        for case in cases:
            found += pipeline.measure(case, show)
    if options.write:
        replace_table(found)
    show(write_table(found))
    rows = [
        Row(
            f"{one.case}, {one.stage}, {one.quantity}, {one.basis}",
            one.estimated,
            one.real,
            "real",
            UNITS[one.quantity],
        )
        for one in found
    ]
    details = {"compared": [asdict(one) for one in found]}
    return finish("estimates", rows, ("prefect", "polars"), equal=True, as_json=options.json, details=details)


if __name__ == "__main__":
    sys.exit(main())
