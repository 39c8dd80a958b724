"""Train and evaluate the demo with several seeds, with pretrained weights and without:

    python -m benchmarks.cases.demo_seeds [--seeds 0,1,2] [--quick] [--json]

It uses the snapshots of `pairmill demo` (PAIRMILL_HOME), makes those that are missing, and reuses models of earlier calls.
All trainings share the dataset. `ours` is configs/demo.toml, `peer` configs/demo-from-scratch.toml: means over the seeds of
the accuracy in percent, with each seed and its 99.5% interval under `runs`. --quick trains one seed for one epoch, only to
test it.
"""

import logging
import statistics
import sys
import tempfile
import tomllib
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.measure import Row, finish, make_parser
from dataops.home import home
from dataops.snapshot import Manifest
from dataops.store import FolderStore
from flows.config import RunConfig, load_config
from plugins.demo.build import build_demo_web
from plugins.demo.command import CONFIG, FROM_SCRATCH, demo_settings
from plugins.demo.server import running_server
from tasks.curate.stage import CURATE
from tasks.download.stage import DOWNLOAD
from tasks.engine.context import Context
from tasks.engine.stage import Stage, make, plan, reuse
from tasks.evaluate.stage import EVALUATE
from tasks.extract.stage import EXTRACT
from tasks.filter.stage import FILTER
from tasks.pack.stage import PACK
from tasks.train.stage import TRAIN
from training.config import TrainConfig

logger = logging.getLogger(__name__)

QUICK_EMOJI = 240
"""Number of emoji of the site with --quick."""

GOALS = {
    "twemoji-seen top1": 11,
    "twemoji-seen top5": 26,
    "twemoji-heldout top1": 10,
    "twemoji-heldout top5": 24,
    "openmoji-heldout top1": 17,
    "openmoji-heldout top5": 37,
    "groceries top1": 62,
    "groceries top5": 89,
}
"""Minimum means of configs/demo.toml, in percent."""


def list_recipes(epochs: int | None) -> dict[str, TrainConfig]:
    """Return the trainings by name."""
    tables = {path.stem: tomllib.loads(path.read_text("utf-8"))["train"] for path in (CONFIG, FROM_SCRATCH)}
    changes = {} if epochs is None else {"epochs": epochs}
    return {name: TrainConfig.model_validate(table | changes) for name, table in tables.items()}


def find_or_make(context: Context, stage: Stage, config: Any, seed: int, *inputs: Manifest) -> Manifest:
    """Return the snapshot of a stage; make it if it does not exist."""
    planned = plan(stage, config, seed, inputs)
    return reuse(planned, context) or make(planned, context)


def prepare(folder: Path, emoji: int | None) -> tuple[Context, RunConfig, Manifest]:
    """Build the demo's site of all or so many emoji, and pack its pairs, as far as the folder does not hold them."""
    web = build_demo_web(folder / "demo", limit=emoji)
    context = Context(store=FolderStore(folder / "store"), home=folder)
    with running_server(web.site) as server:
        config = load_config(FROM_SCRATCH, demo_settings(web, folder, f"127.0.0.1:{server.port}"))
        extracted = find_or_make(context, EXTRACT, config.source, 0)
        filtered = find_or_make(context, FILTER, config.filter, 0, extracted)
        downloaded = find_or_make(context, DOWNLOAD, config.download, 0, filtered)
    curated = find_or_make(context, CURATE, config.curate, 0, downloaded)
    return context, config, find_or_make(context, PACK, config.pack, 0, curated, downloaded)


def main() -> int:
    """Train and evaluate each recipe with each seed."""
    parser = make_parser(__doc__ or "")
    parser.add_argument("--seeds", default="0,1,2")
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")][: 1 if options.quick else None]
    logging.basicConfig(level=logging.WARNING if options.json else logging.INFO, format="%(message)s")
    runs: list[dict[str, Any]] = []
    with ExitStack() as stack:
        folder = home()
        if options.quick:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pairmill-seeds-")))
        context, config, packed = prepare(folder, QUICK_EMOJI if options.quick else None)
        recipes = list_recipes(1 if options.quick else None)
        for name, recipe in recipes.items():
            for seed in seeds:
                model = find_or_make(context, TRAIN, recipe, seed, packed)
                evaluation = find_or_make(context, EVALUATE, config.evaluate, seed, model, packed)
                scores = {
                    f"{task} {metric}": {key: 100 * found[key] for key in ("value", "low", "high")}
                    for task, result in evaluation.facts["metrics"].items()
                    for metric, found in result["metrics"].items()
                    if metric in ("top1", "top5")
                }
                runs.append({"recipe": name, "seed": seed, "model": model.key, "scores": scores})
                logger.info("%s, seed %d: %s", name, seed, {case: found["value"] for case, found in scores.items()})
    rows = []
    for case in runs[0]["scores"]:
        means = {
            name: statistics.mean(run["scores"][case]["value"] for run in runs if run["recipe"] == name)
            for name in recipes
        }
        goal = GOALS[case] / means["demo-from-scratch"] if case in GOALS and means["demo-from-scratch"] else None
        rows.append(Row(case, means["demo"], means["demo-from-scratch"], "from scratch", "%", goal))
    return finish("demo_seeds", rows, ["torch"], equal=True, as_json=options.json, details={"runs": runs})


if __name__ == "__main__":
    sys.exit(main())
