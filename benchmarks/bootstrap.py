"""Run the bootstrap loop on the demo's data: train on all pairs, score with this model, train on the best pairs, compare.

    python -m benchmarks.bootstrap                             three seeds, six trainings of a third of the demo's length
    python -m benchmarks.bootstrap --epochs 18                 of the demo's length
    python -m benchmarks.bootstrap --quick                     only to test it: one seed and one epoch teach nothing

It uses the extract, filter and download snapshots of `pairmill demo` (PAIRMILL_HOME), and makes those that are missing;
with --quick it makes those of a small site in a temporary folder. All seeds share the curation and the dataset, and
results of earlier calls are reused. Both rounds use the same number of samples, so the second, with fewer pairs, has
more epochs. Each seed has its own first round, whose model scores the pairs of the second. `ours` is the accuracy of
the second round, `peer` that of the first: means over the seeds, with each seed under `seeds`. Differences below the
spread of the seeds mean nothing.

Source: Gadre et al. 2023 (DataComp), section 3.2; Fang et al. 2023 (Data Filtering Networks).
"""

import logging
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import Row, finish, make_parser
from dataops.home import home
from dataops.snapshot import Manifest
from dataops.store import FolderStore
from flows.config import RunConfig, load_config
from plugins.demo.build import build_demo_web
from plugins.demo.command import FROM_SCRATCH, demo_settings
from plugins.demo.server import running_server
from tasks.curate.config import CurateConfig
from tasks.curate.stage import CURATE
from tasks.download.stage import DOWNLOAD
from tasks.engine.context import Context
from tasks.engine.stage import Stage, make, plan, reuse
from tasks.evaluate.stage import EVALUATE
from tasks.extract.stage import EXTRACT
from tasks.filter.stage import FILTER
from tasks.pack.stage import PACK
from tasks.train.stage import TRAIN

logger = logging.getLogger(__name__)

QUICK_EMOJI = 240
"""Number of emoji of the site with --quick."""


@dataclass(frozen=True)
class Loop:
    """Context, config and download snapshot, which all rounds share."""

    context: Context
    config: RunConfig
    download: Manifest

    def train(self, curate: dict[str, Any], epochs: int, seed: int) -> tuple[Manifest, Manifest]:
        """Run one round; return the packed dataset and the model."""
        values = self.config.curate.model_dump() | curate
        config = CurateConfig.model_validate(values)
        curated = find_or_make(self.context, CURATE, config, 0, self.download)
        packed = find_or_make(self.context, PACK, self.config.pack, 0, curated, self.download)
        train = self.config.train.model_copy(update={"epochs": epochs})
        return packed, find_or_make(self.context, TRAIN, train, seed, packed)

    def evaluate(self, packed: Manifest, model: Manifest, seed: int) -> dict[str, float]:
        """Return the top-1 accuracy of each classification set of the demo's suite."""
        evaluation = find_or_make(self.context, EVALUATE, self.config.evaluate, seed, model, packed)
        metrics = {task: result["metrics"].get("top1") for task, result in evaluation.facts["metrics"].items()}
        return {task: metric["value"] for task, metric in metrics.items() if metric is not None}


def find_or_make(context: Context, stage: Stage, config: Any, seed: int, *inputs: Manifest) -> Manifest:
    """Return the snapshot of a stage; make it if it does not exist."""
    planned = plan(stage, config, seed, inputs)
    return reuse(planned, context) or make(planned, context)


def prepare(folder: Path, emoji: int | None) -> Loop:
    """Build the demo's site and download its pairs, as far as the folder does not hold them.

    Args:
        emoji: number of emoji of the site; None: all, as in `pairmill demo`.
    """
    web = build_demo_web(folder / "demo", limit=emoji)
    context = Context(store=FolderStore(folder / "store"), home=folder)
    with running_server(web.site) as server:
        config = load_config(FROM_SCRATCH, demo_settings(web, folder, f"127.0.0.1:{server.port}"))
        extracted = find_or_make(context, EXTRACT, config.source, 0)
        filtered = find_or_make(context, FILTER, config.filter, 0, extracted)
        return Loop(context, config, find_or_make(context, DOWNLOAD, config.download, 0, filtered))


def run_rounds(loop: Loop, top: float, epochs: int, seed: int) -> tuple[dict[str, float], dict[str, float], list[int]]:
    """Return the accuracies of both rounds, and the number of pairs that each was trained on."""
    everything, first = loop.train({}, epochs, seed)
    weights = loop.context.store.local(first.path("model.safetensors"))
    rule = {"score": "clip_score", "top_fraction": top}
    scored = {"scores": {"clip_score": {"model": str(weights.parent)}}, "rules": [rule]}
    best, second = loop.train(scored, round(epochs / top), seed)
    figures = loop.evaluate(everything, first, seed), loop.evaluate(best, second, seed)
    return *figures, [everything.counts.kept, best.counts.kept]


def main() -> int:
    """Run the loop for each seed."""
    parser = make_parser(__doc__ or "")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--top", type=float, default=0.5, help="share of the pairs that the second round keeps")
    parser.add_argument(
        "--epochs", type=int, default=6, help="epochs of the first round; configs/demo-from-scratch.toml has 18"
    )
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.epochs = 1, 1
    logging.basicConfig(level=logging.WARNING if options.json else logging.INFO, format="%(message)s")
    with ExitStack() as stack:
        folder = home()
        if options.quick:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pairmill-bootstrap-")))
        loop = prepare(folder, QUICK_EMOJI if options.quick else None)
        rounds = [run_rounds(loop, options.top, options.epochs, seed) for seed in range(options.seeds)]
    rows = [
        Row(task, *(statistics.mean(one[which][task] for one in rounds) for which in (1, 0)), "everything", "top-1")
        for task in rounds[0][0]
    ]
    details = {
        "top_fraction": options.top,
        "epochs": options.epochs,
        "pairs": [one[2] for one in rounds],
        "seeds": [{"everything": first, "top": second} for first, second, _ in rounds],
    }
    return finish("bootstrap", rows, ["torch"], equal=True, as_json=options.json, details=details)


if __name__ == "__main__":
    sys.exit(main())
