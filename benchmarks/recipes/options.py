"""Train the demo's recipe with one option changed at a time: python -m benchmarks.recipes.options

    python -m benchmarks.recipes.options                           all options, three seeds: half an hour on two cores
    python -m benchmarks.recipes.options --options 'ema;distill'   some of them
    python -m benchmarks.recipes.options --quick                   only to test it: two options, one seed and one epoch

It uses the snapshots of `pairmill demo` (PAIRMILL_HOME), makes those that are missing, and reuses models of earlier calls.
`base` is configs/demo.toml from a random layer, without copies and stages (benchmarks/recipes/recipe.py). Each option is
added to it, or taken from it if its name starts with "no". The word vectors are the input vectors of the base's sentence
encoder. Two trainings do not fit it: "trained" trains the image tower from its fourth group of layers, and the other one
is compared as OPTIONS says. A dataset of another size has as many epochs as give about equally many samples. Teacher and
model of the clusters are that of configs/demo.toml with seed 0. The table compares accuracies image by image, as
benchmarks.recipes does.
"""

import logging
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.numpy import save_file

from benchmarks.bootstrap import QUICK_EMOJI, Loop, find_or_make, prepare
from benchmarks.measure import finish, make_parser
from benchmarks.recipes.pool import TASK
from benchmarks.recipes.recipe import FROZEN, Change, change_recipe, freeze_images, read_train_table
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
from plugins.demo.build import build_demo_web
from plugins.demo.command import CONFIG
from plugins.demo.server import running_server
from plugins.towers.config import TextInit
from plugins.towers.files import find_files
from tasks.curate.config import CurateConfig
from tasks.curate.stage import CURATE
from tasks.download.stage import DOWNLOAD
from tasks.evaluate.stage import EVALUATE
from tasks.extract.stage import EXTRACT
from tasks.filter.stage import FILTER
from tasks.pack.stage import PACK
from tasks.train.stage import TRAIN
from training.config import TrainConfig

logger = logging.getLogger(__name__)

QUICK_OPTIONS = "ema;distill"
TASKS = ("openmoji-heldout", "twemoji-heldout", "twemoji-seen")
BASE = "base"
FindModel = Callable[[Path], str]
"""Makes the model of a config file, and returns its folder."""


@dataclass(frozen=True)
class Option:
    """One option: its changes of the tables `filter`, `curate` and `train`, given what makes a model."""

    train: Callable[[FindModel], Change] = field(default=lambda model: {})
    curate: Callable[[FindModel], Change] = field(default=lambda model: {})
    filter: Change = field(default_factory=dict)
    against: str = BASE
    """What it is compared with."""
    epochs: int | None = None
    """Epochs of a training that takes longer than the base's; None: as many as give as many samples."""


NO_IMAGE_INIT: Change = {"image_init": None, "lock_image": False, "unlocked_image_groups": 0, "image_size": None}
TRAINED: Change = {
    "image_init": FROZEN["image_init"] | {"frozen": False},
    "lock_image": True,
    "unlocked_image_groups": 7,
    "augment": read_train_table(CONFIG)["augment"],
}


def write_word_vectors(folder: Path) -> Change:
    """Write the input vectors of the demo's sentence encoder as a matrix with its tokenizer; return their `text_init`."""
    table = read_train_table(CONFIG)["text_init"]
    files = find_files(TextInit.model_validate(table))
    with safe_open(files.weights, "numpy") as tensors:
        vectors = tensors.get_tensor("embeddings.word_embeddings.weight")
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"vectors": vectors}, folder / "vectors.safetensors")
    shutil.copyfile(str(files.tokenizer), folder / "tokenizer.json")
    return {"kind": "words", "path": str(folder), "license": files.license}


OPTIONS: dict[str, Option] = {
    "no text_init": Option(lambda model: {"text_init": None, "vocab_size": 2048}),
    "text_init.kind = words": Option(lambda model: {"text_init": write_word_vectors(home() / "options-words")}),
    "no multi_positive": Option(lambda model: {"multi_positive": "off"}),
    "projector_layers = 2": Option(
        lambda model: {"image_init": FROZEN["image_init"] | {"projector_layers": 2, "projector_width": 1024}}
    ),
    "distill": Option(lambda model: {"distill": {"model": model(CONFIG)}}),
    "ema": Option(lambda model: {"ema": 0.98}),
    "captions": Option(filter={"dedupe": ["uid", "url"], "captions_per_image": 4}),
    "trained": Option(lambda model: TRAINED, epochs=3),
    "no image_init": Option(lambda model: TRAINED | NO_IMAGE_INIT, against="trained", epochs=3),
}
"""The options by name."""


class OptionTrials:
    """Makes the dataset, the models and the predictions of each option."""

    def __init__(self, loop: Loop, epochs: int, seeds: int, quick_emoji: int | None):
        self.loop, self.epochs, self.seeds, self.quick_emoji = loop, epochs, seeds, quick_emoji
        self.recipe = freeze_images(CONFIG)

    def run(self, names: list[str]) -> dict[str, dict[str, Any]]:
        """Return the dataset's figures and the predictions of each option."""
        base = self.make_dataset(self.loop.download, {})
        whole = partial(self.train_whole, packed=base)
        datasets = {name: base if name == BASE else self.choose_dataset(OPTIONS[name], whole) for name in names}
        sizes = {name: count_epoch(self.loop.context.store, packed) for name, packed in datasets.items()}
        epochs = choose_epochs(sizes, round(self.epochs * sizes[BASE]))
        results = {}
        for name, packed in datasets.items():
            option = Option() if name == BASE else OPTIONS[name]
            count = min(option.epochs or epochs[name], epochs[name])
            recipe = change_recipe(self.recipe, option.train(whole) | {"epochs": count})
            trained = [find_or_make(self.loop.context, TRAIN, recipe, seed, packed) for seed in range(self.seeds)]
            results[name] = {
                "pairs": packed.counts.kept,
                "epochs": count,
                "samples_seen": [model.facts["final"]["samples_seen"] for model in trained],
                "predictions": [self.predict(packed, model, seed) for seed, model in enumerate(trained)],
            }
            logger.info("%s: %d models are trained and evaluated", name, len(trained))
        return results

    def train_whole(self, path: Path, packed: Manifest) -> str:
        """Return the folder of the model that a config trains with seed 0."""
        changes = {} if self.quick_emoji is None else {"epochs": 1}
        model = find_or_make(
            self.loop.context, TRAIN, TrainConfig.model_validate(read_train_table(path) | changes), 0, packed
        )
        return str(self.loop.context.store.local(model.path("model.safetensors")).parent)

    def choose_dataset(self, option: Option, model: FindModel) -> Manifest:
        """Return the dataset of an option."""
        download = self.download(option.filter) if option.filter else self.loop.download
        return self.make_dataset(download, option.curate(model))

    def download(self, changes: Change) -> Manifest:
        """Return the images of another filter."""
        context, config = self.loop.context, self.loop.config
        web = build_demo_web(context.home / "demo", limit=self.quick_emoji)
        with running_server(web.site) as server:
            values = {name: f"127.0.0.1:{server.port}" for name in config.download.connect_to}
            extracted = find_or_make(context, EXTRACT, config.source, 0)
            filters = config.filter.model_validate(config.filter.model_dump() | changes)
            filtered = find_or_make(context, FILTER, filters, 0, extracted)
            reach = config.download.model_copy(update={"connect_to": values})
            return find_or_make(context, DOWNLOAD, reach, 0, filtered)

    def make_dataset(self, download: Manifest, changes: Change) -> Manifest:
        """Return a packed dataset of downloaded images."""
        context, config = self.loop.context, self.loop.config
        values = CurateConfig.model_validate(config.curate.model_dump() | changes)
        curated = find_or_make(context, CURATE, values, 0, download)
        return find_or_make(context, PACK, config.pack, 0, curated, download)

    def predict(self, packed: Manifest, model: Manifest, seed: int) -> dict[str, Any]:
        """Return the predictions of a model on each task."""
        context = self.loop.context
        suite = context.home / "options-suite.toml"
        suite.write_text('name = "options"\n' + "".join(TASK.format(name=task) for task in TASKS), "utf-8")
        config = self.loop.config.evaluate.model_copy(update={"suite": suite, "contamination": False})
        found = find_or_make(context, EVALUATE, config, seed, model, packed)
        return read_predictions(context.store, found)


def main() -> int:
    """Run the options and print the table."""
    parser = make_parser(__doc__ or "")
    parser.add_argument("--options", default=";".join(OPTIONS), help=f"some of {'; '.join(OPTIONS)}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20, help="epochs of the base")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.epochs, options.options = 1, 1, QUICK_OPTIONS
    chosen = options.options.split(";")
    if unknown := [name for name in chosen if name not in OPTIONS]:
        parser.error(f"no such option: {'; '.join(unknown)}; there are {'; '.join(OPTIONS)}")
    names = list(dict.fromkeys([BASE, *(OPTIONS[name].against for name in chosen), *chosen]))
    logging.basicConfig(level=logging.WARNING if options.json else logging.INFO, format="%(message)s")
    with ExitStack() as stack:
        folder, emoji = home(), None
        if options.quick:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pairmill-options-")))
            emoji = QUICK_EMOJI
        results = OptionTrials(prepare(folder, emoji), options.epochs, options.seeds, emoji).run(names)
    compared = compare_recipes(results, BASE, {name: OPTIONS[name].against for name in names[1:]})
    rows, details = list_rows(compared, BASE), list_details(results, compared)
    if not options.json:
        sys.stdout.write(format_table(results, compared, BASE, TASKS[0]) + "\n\n")
    return finish("options", rows, ["torch"], equal=True, as_json=options.json, details=details)


if __name__ == "__main__":
    sys.exit(main())
