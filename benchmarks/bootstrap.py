"""Run the bootstrap loop on the demo's data: train on all pairs, score with this model, train on the best pairs, compare.

    python -m benchmarks.bootstrap                             three seeds, six trainings of a third of the demo's length
    python -m benchmarks.bootstrap --epochs 18                 of the demo's length
    python -m benchmarks.bootstrap --quick                     only to test it: one seed and one epoch teach nothing

It needs the download of `pairmill demo` (PAIRMILL_HOME); all seeds share its curation and dataset, and results of
earlier calls are reused. Both rounds use the same number of samples, so the second, with fewer pairs, has more
epochs. Each seed has its own first round, whose model scores the pairs of the second. `ours` is the accuracy of the
second round, `peer` that of the first: means over the seeds, with each seed under `seeds`. Differences below the
spread of the seeds mean nothing.

Source: Gadre et al. 2023 (DataComp), section 3.2; Fang et al. 2023 (Data Filtering Networks).
"""

import logging
import statistics
import sys
import tomllib
from dataclasses import dataclass
from typing import Any

from benchmarks.measure import Row, finish, make_parser
from dataops.home import CHECKOUT, home
from dataops.snapshot import Manifest, find_manifest
from dataops.store import FolderStore
from flows.config import RunConfig
from tasks.curate.config import CurateConfig
from tasks.curate.stage import CURATE
from tasks.engine.context import Context
from tasks.engine.stage import Stage, make, plan, reuse
from tasks.evaluate.stage import EVALUATE
from tasks.pack.stage import PACK
from tasks.train.stage import TRAIN

logger = logging.getLogger(__name__)

CONFIG = CHECKOUT / "configs" / "demo.toml"


@dataclass(frozen=True)
class Loop:
    """Context, config and download of all rounds."""

    context: Context
    config: RunConfig
    download: Manifest

    def train(self, curate: dict[str, Any], epochs: int, seed: int) -> tuple[Manifest, Manifest]:
        """Run one round; return the packed dataset and the model."""
        values = self.config.curate.model_dump() | curate
        curated = self._run(CURATE, CurateConfig.model_validate(values), 0, self.download)
        packed = self._run(PACK, self.config.pack, 0, curated, self.download)
        return packed, self._run(TRAIN, self.config.train.model_copy(update={"epochs": epochs}), seed, packed)

    def evaluate(self, packed: Manifest, model: Manifest, seed: int) -> dict[str, float]:
        """Return the top-1 accuracy of each classification set of the demo's suite."""
        made = self._run(EVALUATE, self.config.evaluate, seed, model, packed)
        found = {task: result["metrics"].get("top1") for task, result in made.facts["metrics"].items()}
        return {task: metric["value"] for task, metric in found.items() if metric is not None}

    def _run(self, stage: Stage, config: Any, seed: int, *inputs: Manifest) -> Manifest:
        planned = plan(stage, config, seed, inputs)
        return reuse(planned, self.context) or make(planned, self.context)


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
    parser.add_argument("--epochs", type=int, default=6, help="epochs of the first round; configs/demo.toml has 18")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.epochs = 1, 1
    logging.basicConfig(level=logging.WARNING if options.json else logging.INFO, format="%(message)s")
    values = tomllib.loads(CONFIG.read_text("utf-8"))
    values["evaluate"] |= {"suite": str(CONFIG.parent / "suites" / "demo.toml"), "data": str(home() / "demo" / "suite")}
    config = RunConfig.model_validate(values)
    store = FolderStore(home() / "store")
    keys = sorted({name.split("/")[1] for name in store.names("download")})
    downloads = [manifest for key in keys if (manifest := find_manifest(store, "download", key))]
    if not downloads:
        parser.error(f"no complete download in {store.uri}: run `pairmill demo` first")
    newest = max(downloads, key=lambda manifest: manifest.created_at)
    loop = Loop(Context(store=store, home=home()), config, newest)
    rounds = [run_rounds(loop, options.top, options.epochs, seed) for seed in range(options.seeds)]
    rows = [
        Row(task, *(statistics.mean(made[which][task] for made in rounds) for which in (1, 0)), "everything", "top-1")
        for task in rounds[0][0]
    ]
    details = {
        "top_fraction": options.top,
        "epochs": options.epochs,
        "pairs": [made[2] for made in rounds],
        "seeds": [{"everything": first, "top": second} for first, second, _ in rounds],
    }
    return finish("bootstrap", rows, ["torch"], equal=True, as_json=options.json, details=details)


if __name__ == "__main__":
    sys.exit(main())
