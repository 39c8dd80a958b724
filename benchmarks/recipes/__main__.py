"""Compare the filters of DataComp's table on one pool, with equal samples seen: python -m benchmarks.recipes

    python -m benchmarks.recipes                        eight recipes, three seeds each: about 20 minutes on two cores
    python -m benchmarks.recipes --pool FOLDER          of your own shards (WebDataset: images and .txt members)
    python -m benchmarks.recipes --recipes none,clip-score --seeds 5
    python -m benchmarks.recipes --quick                only to test it: three recipes, one seed and one epoch

The pool of the demo has all pairs of its site, in 14 languages, with file names and other poor captions. A share of the
captions (--wrong) is that of the next image of the page, as on sites that are one off. Each recipe is a config of the
stages `filter` and `curate`. All recipes are trained on about equally many samples and evaluated on the same images. The
training is that of configs/demo.toml from a random layer, whose features are computed once. The model that scores
pairs and clusters images is that of the recipe `none` with seed 0.

The snapshots are in the folder --home (by default that of the demo, PAIRMILL_HOME). Results of earlier calls are reused.

Source: Gadre et al. 2023 (DataComp), section 3.2 and table 3.
"""

import logging
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.bootstrap import find_or_make
from benchmarks.measure import finish, make_parser
from benchmarks.recipes.pool import MAIN_TASK, Pool, prepare_pool
from benchmarks.recipes.recipe import change_recipe, freeze_images
from benchmarks.recipes.significance import choose_epochs
from benchmarks.recipes.table import (
    compare_recipes,
    count_epoch,
    format_table,
    list_details,
    list_rows,
    read_predictions,
)
from dataops.home import home
from dataops.snapshot import Manifest
from plugins.demo.command import CONFIG
from plugins.demo.server import running_server
from tasks.curate.config import CurateConfig
from tasks.curate.stage import CURATE
from tasks.download.stage import DOWNLOAD
from tasks.evaluate.config import EvaluateConfig
from tasks.evaluate.stage import EVALUATE
from tasks.filter.config import FilterConfig
from tasks.filter.stage import FILTER
from tasks.pack.stage import PACK
from tasks.train.stage import TRAIN

logger = logging.getLogger(__name__)

QUICK_EMOJI = 240
QUICK_RECIPES = "none,clip-score,image-clusters"
NO_FILTER: dict[str, Any] = {
    "min_chars": 1, "max_chars": None, "max_words": None, "min_letter_fraction": 0.0, "max_repeated_fraction": None,
    "drop_file_names": False, "drop_dates_and_sizes": False, "personal": "keep", "dedupe": ["uid"],
}  # fmt: skip
"""`filter` of the recipe `none`: only what must be dropped is."""
CLUSTERS = 100
Tables = Mapping[str, Any]
RECIPES: dict[str, tuple[str, Callable[[Pool, str], tuple[Tables, Tables]]]] = {
    "none": ("no filter", lambda pool, model: ({}, {})),
    "caption-length": (
        "captions of more than two words and five characters",
        lambda pool, model: ({"min_words": 3, "min_chars": 6}, {}),
    ),
    "language": (
        "captions in English",
        lambda pool, model: ({"languages": ["en"], "language_candidates": pool.config.filter.language_candidates}, {}),
    ),
    "clip-score": (
        "the best 30% by CLIP score",
        lambda pool, model: (
            {},
            {
                "scores": {"clip_score": {"model": model}},
                "rules": [{"score": "clip_score", "top_fraction": 0.3}],
            },
        ),
    ),
    "image-clusters": (
        "clusters of images with a target image",
        lambda pool, model: ({}, {"clusters": {"model": model, "count": CLUSTERS, "targets": [str(pool.targets)]}}),
    ),
    "query-balance": (
        "balanced over queries, online, at most 50 pairs of each",
        lambda pool, model: ({"balance": pool.config.filter.balance}, {}),
    ),
}
"""What each recipe is, and its changes to the tables of `filter` and `curate`."""


class Trials:
    """Makes the datasets, models and predictions of recipes, and reuses those of earlier calls."""

    def __init__(self, pool: Pool, samples: int, seeds: int):
        self.pool, self.samples, self.seeds = pool, samples, seeds

    def make_dataset(self, recipe: str, model: str) -> Manifest:
        """Return the packed dataset of a recipe."""
        pool, context = self.pool, self.pool.context
        filters, curation = RECIPES[recipe][1](pool, model)
        filtered = find_or_make(context, FILTER, FilterConfig.model_validate(NO_FILTER | dict(filters)), 0, pool.pairs)
        with running_server(pool.site) as server:
            reach = dict.fromkeys(pool.hosts, f"127.0.0.1:{server.port}")
            download = pool.config.download.model_copy(update={"connect_to": reach})
            raw = find_or_make(context, DOWNLOAD, download, 0, filtered)
        values = pool.config.curate.model_dump() | dict(curation)
        curated = find_or_make(context, CURATE, CurateConfig.model_validate(values), 0, raw)
        return find_or_make(context, PACK, pool.config.pack, 0, curated, raw)

    def train(self, packed: Manifest, epochs: int, seed: int) -> Manifest:
        """Return a model of a dataset."""
        train = change_recipe(freeze_images(CONFIG), {"epochs": epochs})
        return find_or_make(self.pool.context, TRAIN, train, seed, packed)

    def predict(self, packed: Manifest, model: Manifest) -> dict[str, pa.Table]:
        """Return the predictions of a model on each task."""
        config = EvaluateConfig(suite=self.pool.suite, data=self.pool.suite_data, contamination=False)
        found = find_or_make(self.pool.context, EVALUATE, config, 0, model, packed)
        return read_predictions(self.pool.context.store, found)

    def run(self, recipes: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return the dataset's figures and the predictions of each recipe; `none` is the first."""
        none = self.make_dataset("none", "")
        scorer = self.train(none, max(round(self.samples / count_epoch(self.pool.context.store, none)), 1), 0)
        weights = self.pool.context.store.local(scorer.path("model.safetensors")).parent
        datasets = {name: none if name == "none" else self.make_dataset(name, str(weights)) for name in recipes}
        sizes = {name: count_epoch(self.pool.context.store, packed) for name, packed in datasets.items()}
        epochs = choose_epochs(sizes, self.samples)
        results = {}
        for name, packed in datasets.items():
            seen = epochs[name] * sizes[name]
            logger.info("%s: %d pairs, %d epochs, %.0f samples", name, packed.counts.kept, epochs[name], seen)
            models = [self.train(packed, epochs[name], seed) for seed in range(self.seeds)]
            results[name] = {
                "pairs": packed.counts.kept,
                "epochs": epochs[name],
                "samples_seen": [model.facts["final"]["samples_seen"] for model in models],
                "predictions": [self.predict(packed, model) for model in models],
            }
        return results


def main() -> int:
    """Run the recipes and print the table."""
    parser = make_parser(__doc__ or "")
    parser.add_argument("--home", type=Path, help="folder of the snapshots; default: PAIRMILL_HOME")
    parser.add_argument("--pool", type=Path, help="folder of shards (WebDataset); default: the demo's site")
    parser.add_argument("--wrong", type=float, default=0.2, help="share of the demo's captions that are wrong")
    parser.add_argument("--recipes", default=",".join(RECIPES), help=f"some of {', '.join(RECIPES)}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=48_000, help="samples that each model sees, about")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.samples, options.recipes = 1, 300, QUICK_RECIPES
    names = list(dict.fromkeys(["none", *options.recipes.split(",")]))
    if unknown := [name for name in names if name not in RECIPES]:
        parser.error(f"no such recipe: {', '.join(unknown)}; there are {', '.join(RECIPES)}")
    logging.basicConfig(level=logging.WARNING if options.json else logging.INFO, format="%(message)s")
    with ExitStack() as stack:
        folder = options.home or home()
        if options.quick:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pairmill-recipes-")))
        pool = prepare_pool(folder.absolute(), options.pool, QUICK_EMOJI if options.quick else None, options.wrong)
        results = Trials(pool, options.samples, options.seeds).run(names)
    compared = compare_recipes(results, "none")
    rows = list_rows(compared, "none")
    details = {"recipes": {name: RECIPES[name][0] for name in names}, "wrong": options.wrong}
    details |= list_details(results, compared)
    if not options.json:
        sys.stdout.write(format_table(results, compared, "none", MAIN_TASK) + "\n\n")
    return finish("recipes", rows, ["torch"], equal=True, as_json=options.json, details=details)


if __name__ == "__main__":
    sys.exit(main())
