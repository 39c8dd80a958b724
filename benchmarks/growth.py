"""What a year of runs leaves on the disk, and how long the lists of 500 runs take.

    python -m benchmarks.growth [--quick] [--json]

Runs a tiny config 50 times (5 with --quick), each with another seed, so that no stage is reused, and measures how much the
databases of Prefect and MLflow, the logs, the home's other folders and the store have grown by a run: until `filter`, and
three times until `register`. Then the record of a run is copied 500 times, and `runs`, `show` and `status` are called. The
peer is the bound.
"""

import contextlib
import io
import os
import subprocess
import sys
import time

import psutil

from benchmarks.measure import Row, finish, make_parser, make_printer
from dataops.process import cpu_seconds
from infra.local import services
from tasks.engine.scratch_folders import scratch_folder
from tests.small_pipeline import local_servers, write_config
from tests.small_web import build_small_web, serve_site

BOUNDS = {"prefect": 1e6, "mlflow": 0.5e6, "logs": 0.2e6, "home": 0.2e6, "artefacts": 1e6}
"""Bytes that a run may add; its artefacts also the weights of its model, which MLflow keeps once."""
LISTED, SECONDS = 500, 2.0


def sizes(home):
    """Return the bytes of what grows in a home, by name."""
    found = dict.fromkeys(BOUNDS, 0)
    for path in home.rglob("*"):
        if not path.is_file():
            continue
        name = path.relative_to(home).as_posix()
        database = next((one for one in ("prefect", "mlflow") if name.startswith(f"services/{one}/{one}.db")), None)
        kind = database or ("logs" if path.name.startswith("log") else "home")
        found["artefacts" if "/mlflow/artifacts/" in f"/{name}" else kind] += path.stat().st_size
    return found


def grow(home, config, until, seeds):
    """Run the config once for each seed, and return the bytes by which a run has grown what it leaves; the first is not
    counted.
    """
    from flows.commands.run import run

    before = {}
    for seed in seeds:
        with contextlib.redirect_stdout(io.StringIO()):
            code = run(config, set_=(f"seed={seed}",), until=until, json=True)
        if code:
            raise SystemExit(f"the run with seed {seed} ended with {code}")
        before = before or sizes(home)
    after = sizes(home)
    return {name: (after[name] - before[name]) / (len(seeds) - 1) for name in before}


def cpu_of(command, *arguments):
    """Return the CPU seconds of a command."""
    started = cpu_seconds()
    subprocess.run([sys.executable, "-m", "flows.cli", command, *arguments], check=True, stdout=subprocess.DEVNULL)
    return cpu_seconds() - started


def main():
    """Run the benchmark and return its exit code."""
    arguments = make_parser(__doc__).parse_args()
    say, rows = make_printer(arguments.json), []
    with scratch_folder("growth") as folder:
        web = build_small_web(folder / "web")
        with local_servers(folder / "home"), serve_site(web) as site:
            config = write_config(folder / "small.toml", web, site, folder / "store")
            for until, number in (("filter", 5 if arguments.quick else 50), (None, 0 if arguments.quick else 3)):
                if number:
                    grown = grow(folder / "home", config, until, range(number + 1))
                    say(f"until {until or 'register'}: {grown}")
                    models = (folder / "store" / "train").glob("*/model.safetensors")
                    weights = max((path.stat().st_size for path in models), default=0)
                    bounds = BOUNDS | {"artefacts": BOUNDS["artefacts"] + weights}
                    rows += [
                        Row(f"{name}, until {until or 'register'}", grown[name], bound, "bound", "bytes a run")
                        for name, bound in bounds.items()
                    ]
            records = folder / "store" / "runs"
            first = min(records.iterdir())
            for number in range(LISTED):
                name = f"{first.stem[:-4]}{number:04x}"
                (records / f"{name}.json").write_text(first.read_text().replace(first.stem, name))
            os.environ |= services.client_environment()
            for command in (("runs",), ("show", "--store", str(folder / "store")), ("status",)):
                seconds = min(cpu_of(*command) for _ in range(3))
                rows.append(Row(f"{command[0]} of {LISTED} runs", seconds, SECONDS, "bound", "CPU s"))
            say(f"at {time.strftime('%H:%M')}, load {psutil.getloadavg()[0]:.0f}")
    equal = all(row.ours <= row.peer for row in rows)
    return finish("growth", rows, ["prefect", "mlflow"], equal=equal, as_json=arguments.json)


if __name__ == "__main__":
    raise SystemExit(main())
