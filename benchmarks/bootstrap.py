"""The bootstrap loop on the demo's data: train on everything, score with that model, keep the top, train again, compare.

    python -m benchmarks.bootstrap                             three seeds, six trainings of a third of the demo's length
    python -m benchmarks.bootstrap --epochs 18                 of the demo's length
    python -m benchmarks.bootstrap --seeds 1 --epochs 1        only whether it runs: one epoch teaches nothing

Needs what `pairmill demo` downloaded (PAIRMILL_HOME); its curation and its dataset are shared by all seeds, and what an
earlier call finished is taken over. Both rounds see the same number of samples, so the second, of fewer
pairs, has more epochs; `--seeds` trainings of each, round two scored by round one's model of the same seed. Here `ours` is
the second round's accuracy and `peer` the first one's: means over the seeds, each seed's own under `seeds`. No two are
told apart by less than the spread of the seeds.

Source: Gadre et al. 2023 (DataComp), section 3.2; Fang et al. 2023 (Data Filtering Networks).
"""

import argparse
import logging
import statistics
import sys
import tomllib
from dataclasses import dataclass
from typing import Any

from benchmarks.measure import Row, finish
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
    """What all rounds share."""

    context: Context
    config: RunConfig
    download: Manifest

    def trained(self, curate: dict[str, Any], epochs: int, seed: int) -> tuple[Manifest, Manifest]:
        """The packed dataset and the model of one round."""
        values = self.config.curate.model_dump() | curate
        curated = self._made(CURATE, CurateConfig.model_validate(values), 0, self.download)
        packed = self._made(PACK, self.config.pack, 0, curated, self.download)
        return packed, self._made(TRAIN, self.config.train.model_copy(update={"epochs": epochs}), seed, packed)

    def accuracies(self, packed: Manifest, model: Manifest, seed: int) -> dict[str, float]:
        """Top-1 of each classification of the demo's suite."""
        made = self._made(EVALUATE, self.config.evaluate, seed, model, packed)
        found = {task: result["metrics"].get("top1") for task, result in made.facts["metrics"].items()}
        return {task: metric["value"] for task, metric in found.items() if metric is not None}

    def _made(self, stage: Stage, config: Any, seed: int, *inputs: Manifest) -> Manifest:
        planned = plan(stage, config, seed, inputs)
        return reuse(planned, self.context) or make(planned, self.context)


def both_rounds(loop: Loop, top: float, epochs: int, seed: int) -> tuple[dict[str, float], dict[str, float], list[int]]:
    """Accuracies of the first and of the second round, and how many pairs each was trained on."""
    everything, first = loop.trained({}, epochs, seed)
    weights = loop.context.store.local(first.path("model.safetensors"))
    rule = {"score": "clip_score", "top_fraction": top}
    scored = {"scores": {"clip_score": {"model": str(weights.parent)}}, "rules": [rule]}
    best, second = loop.trained(scored, round(epochs / top), seed)
    figures = loop.accuracies(everything, first, seed), loop.accuracies(best, second, seed)
    return *figures, [everything.counts.kept, best.counts.kept]


def main() -> int:
    """Run the loop for each seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--top", type=float, default=0.5, help="share of the pairs that the second round keeps")
    parser.add_argument("--epochs", type=int, default=6, help="of the first round; configs/demo.toml has 18")
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING if given.json else logging.INFO, format="%(message)s")
    values = tomllib.loads(CONFIG.read_text("utf-8"))
    values["evaluate"] |= {"suite": str(CONFIG.parent / "suites" / "demo.toml"), "data": str(home() / "demo" / "suite")}
    config = RunConfig.model_validate(values)
    store = FolderStore(home() / "store")
    keys = sorted({name.split("/")[1] for name in store.names("download")})
    downloads = [manifest for key in keys if (manifest := find_manifest(store, "download", key))]
    if not downloads:
        parser.error(f"no finished download in {store.uri}: run `pairmill demo` first")
    newest = max(downloads, key=lambda manifest: manifest.created_at)
    loop = Loop(Context(store=store, home=home()), config, newest)
    rounds = [both_rounds(loop, given.top, given.epochs, seed) for seed in range(given.seeds)]
    rows = [
        Row(task, *(statistics.mean(made[which][task] for made in rounds) for which in (1, 0)), "everything", "top-1")
        for task in rounds[0][0]
    ]
    details = {
        "top_fraction": given.top,
        "epochs": given.epochs,
        "pairs": [made[2] for made in rounds],
        "seeds": [{"everything": first, "top": second} for first, second, _ in rounds],
    }
    return finish("bootstrap", rows, ["torch"], equal=True, as_json=given.json, details=details)


if __name__ == "__main__":
    sys.exit(main())
