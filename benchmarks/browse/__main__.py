"""Run `python -m benchmarks.browse [--rows 1e6] [--folder FOLDER] [--write] [--quick] [--json]`.

A folder that is named keeps the dataset for the next run; --write replaces the table in docs/browse.md.
"""

import sys
import tempfile
from pathlib import Path

from benchmarks.browse.cases import measure
from benchmarks.browse.dataset import make_dataset
from benchmarks.browse.table import replace_table
from benchmarks.measure import finish, make_parser, make_printer

DIMENSIONS = 512


def main() -> int:
    """Make the dataset, measure, and print the result."""
    parser = make_parser(__doc__ or "")
    parser.add_argument("--rows", type=float, default=1e6)
    parser.add_argument("--folder", type=Path, help="keep the dataset here, or use the one that is here")
    parser.add_argument("--write", action="store_true", help="replace the table in docs/browse.md")
    options = parser.parse_args()
    rows, show = int(1e5 if options.quick else options.rows), make_printer(options.json)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        manifest, store = make_dataset(folder, rows, DIMENSIONS, show)
        found = measure(manifest, store, folder / "home", times=3, show=show)
    if options.write:
        replace_table(found, rows)
    packages = ("duckdb", "polars", "starlette", "uvicorn", "numpy")
    return finish("browse", found.rows, packages, equal=found.equal, as_json=options.json, details=found.details)


if __name__ == "__main__":
    sys.exit(main())
