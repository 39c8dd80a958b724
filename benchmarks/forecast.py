"""Forecast large trainings from small ones, then make the large ones: does the forecast hold?

    python -m benchmarks.forecast [--quick] [--repeated] [--blind] [--proxies] [--json]
    python -m benchmarks.forecast --again benchmarks/results/forecast-2026-12-01.json

It reads the features that the newest training of a home (PAIRMILL_HOME) has kept: one on the demo's pairs, with both towers
frozen and without copies (docs/tutorials/experiment.md).
Four datasets are made of its pairs; with `--blind`, four others. A training learns the layers that join the towers, of two
kinds. Ladders are the metric of each of four test sets over trainings with 1/10, 1/15, 1/24, 1/40 and 1/60 of the steps of
the large one, three seeds of each: top-1 for photographs, and top-5 for emoji. Large trainings see each pair 5 times or
more; with `--repeated` 15 times or more, and overfit.

`ranking` has whether pairs of datasets that the large trainings can distinguish are in the order of the forecast.
`--again` forecasts the ladders of a file of results by today's law, without any training.

`--proxies` has the rank correlation, over eight datasets, of linear layers on frozen features with convolutional networks
trained on the pixels.
"""

import itertools
import json
import os
import tarfile
from dataclasses import astuple, dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import polars as pl
import torch
from PIL import Image
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.measure import Row, finish, make_parser
from dataops.digest import file_sha256
from dataops.home import home
from flows.records import list_runs
from plugins.experiments.forecast import fit_curve, is_determined
from training.evaluation.class_weights import compute_class_weights
from training.evaluation.encode import encode_images
from training.evaluation.sets import EvalSet
from training.model.checkpoint import load_model

SEEDS, WIDTH = 3, 256
"""Trainings of a size, and principal components of a feature."""
ONCE, REPEATED = (32, 960), (64, 1440)
"""Pairs of a step, and steps of a large training."""
RATE = 3e-3
"""Highest learning rate."""
SHARES = (60, 40, 24, 15, 10)
"""Parts of the large training that a ladder has."""
SEEN, HELD_OUT = (5, 4, 799), (5, 1, 330)
TASKS = {"twemoji-seen": SEEN, "twemoji-heldout": HELD_OUT, "openmoji-heldout": HELD_OUT, "groceries": (1, 1, 405)}
"""Of each test set, how many answers may have the right one, of how many images one is used, and the number of these."""
FORECAST, BLIND = ("all", "alt", "quarter", "noisy"), ("eighth", "noisier", "short", "long")
NEEDS = ("torch", "scipy")
SIDE, PIXEL_STEPS, PIXEL_SEEDS = 32, 400, 2
"""Side of the images that convolutional networks learn from, their steps, and trainings of a dataset."""


@dataclass(frozen=True)
class TestSet:
    """A test set as features, and its images as pixels (N, 3, SIDE, SIDE)."""

    images_NW: Tensor
    labels_N: Tensor
    classes_CD: Tensor
    pixels: Tensor


@dataclass(frozen=True)
class Pairs:
    """A dataset as features, and its images as pixels."""

    images_NW: Tensor
    texts_ND: Tensor
    pixels: Tensor

    def take(self, rows, captions=None):
        """Return the pairs at `rows`, or the images of these with the captions of `captions`."""
        return Pairs(self.images_NW[rows], self.texts_ND[rows if captions is None else captions], self.pixels[rows])


def read_features(folder):
    """Return the pairs, their captions, whether each is an `alt`, and the test sets. The folder keeps them."""
    cached = folder / "benchmark-forecast.pt"
    if cached.exists():
        pairs, captions, alt, tests = torch.load(cached, weights_only=True)
        return Pairs(*pairs), captions, alt, {name: TestSet(*one) for name, one in tests.items()}
    run = next(one for one in list_runs(folder) if one.key_of("train"))
    loaded, pack = load_model(folder / "store/train" / str(run.key_of("train"))), folder / "store/pack"
    texts, images, pixels, rows = [], [], [], []
    for shard in sorted((pack / str(run.key_of("pack"))).glob("*.tar")):
        rows.append(
            pl.read_parquet(shard.with_name(f"part-{shard.stem}.parquet"), columns=["caption", "caption_source"])
        )
        kept = (folder / "features/towers").glob(f"images-{file_sha256(shard)[:16]}-*[!s].npy")
        images.append(torch.from_numpy(np.load(max(kept, key=os.path.getmtime))))  # the newest: the demo has copies too
        with tarfile.open(shard) as tar:
            files = [tar.extractfile(one) for one in tar if one.name.endswith(".jpg")]
            pixels += [shrink(Image.open(BytesIO(file.read()))) for file in files if file is not None]
    table = pl.concat(rows)
    captions = table["caption"].to_list()
    with torch.no_grad():
        for start in range(0, len(captions), 64):
            texts.append(loaded.model.encode_text(loaded.tokenizer(captions[start : start + 64])))
    features = torch.cat(images)
    features = F.layer_norm(features, features.shape[1:])
    mean = features.mean(dim=0)
    components = torch.pca_lowrank(features - mean, WIDTH, niter=2)[2]
    spread = ((features - mean) @ components).std()
    tests = {}
    for name, (_, stride, _) in TASKS.items():
        data = EvalSet(kind="classification", root=folder / "demo/suite" / name, split="test")
        samples, found, labels, shown = list(data.samples())[::stride], [], [], []
        for batch in encode_images(loaded, samples, 32):
            found.append(F.layer_norm(batch.pooled_RW, batch.pooled_RW.shape[1:]))
            labels += [one.label for one in batch.samples]
            shown += [shrink(Image.open(BytesIO(one.image))) for one in batch.samples]
        classes = compute_class_weights(loaded, data.class_names(), data.templates())
        projected = (torch.cat(found) - mean) @ components / spread
        tests[name] = TestSet(projected, torch.tensor(labels), classes, torch.stack(shown))
    pairs = Pairs((features - mean) @ components / spread, F.normalize(torch.cat(texts), dim=1), torch.stack(pixels))
    alt = torch.tensor((table["caption_source"] == "alt").to_list())
    torch.save((astuple(pairs), captions, alt, {name: astuple(one) for name, one in tests.items()}), cached)
    return pairs, captions, alt, tests


def shrink(image):
    """Return an image as (3, SIDE, SIDE), on white, from -1 to 1."""
    image = image.convert("RGBA")
    flat = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB").resize((SIDE, SIDE))
    return torch.from_numpy(np.array(flat)).permute(2, 0, 1) / 127.5 - 1


def make_datasets(pairs, captions, alt):
    """Return eight datasets: all pairs, parts of them, and all with a third, or two thirds, of captions wrong."""
    drawn = torch.randperm(len(captions), generator=torch.Generator().manual_seed(0))
    words = torch.tensor([len(one.split()) for one in captions])

    def mix(count):
        wrong = torch.arange(len(captions))
        wrong[drawn[:count]] = drawn[:count].roll(1)
        return pairs.take(slice(None), wrong)

    return {
        "all": pairs,
        "alt": pairs.take(alt),
        "quarter": pairs.take(drawn[: len(drawn) // 4]),
        "noisy": mix(len(drawn) // 3),
        "eighth": pairs.take(drawn[: len(drawn) // 8]),
        "noisier": mix(len(drawn) * 2 // 3),
        "short": pairs.take(words <= 3),
        "long": pairs.take(words > 3),
    }


def train(pairs, kind, batch, steps, seed):
    """Train the layers of a kind by the contrastive loss, with a cosine schedule of their own; captions are frozen."""
    torch.manual_seed(seed)
    layers = KINDS[kind](pairs.images_NW.shape[1], pairs.texts_ND.shape[1])
    images_N = pairs.pixels if kind == "pixels" else pairs.images_NW
    scale = nn.Parameter(torch.tensor(np.log(20.0), dtype=torch.float32))
    optimizer = torch.optim.AdamW([*layers.parameters(), scale], lr=RATE, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=max(steps, 2), pct_start=0.1)
    order = torch.cat([torch.randperm(len(images_N)) for _ in range(steps * batch // len(images_N) + 1)])
    for step in range(steps):
        rows = order[step * batch : (step + 1) * batch]
        images, texts = F.normalize(layers(images_N[rows]), dim=1), pairs.texts_ND[rows]
        logits, targets = scale.exp().clamp(max=100) * images @ texts.T, torch.arange(len(rows))
        loss = F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return layers.eval()


def _perceptron(width, dim):
    return nn.Sequential(nn.Linear(width, 384), nn.GELU(), nn.Linear(384, dim))


def _convolutions(width, dim):
    sizes = (3, 24, 48, 96)
    blocks = [
        nn.Sequential(nn.Conv2d(one, two, 3, stride=2, padding=1), nn.BatchNorm2d(two), nn.GELU())
        for one, two in itertools.pairwise(sizes)
    ]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(96 * (SIDE // 8) ** 2, dim))


KINDS = {"linear": nn.Linear, "perceptron": _perceptron, "pixels": _convolutions}


def measure(layers, kind, tests):
    """Return the share of images in each test set with the right class among the first answers."""
    found = {}
    with torch.no_grad():
        for name, one in tests.items():
            answers = layers(one.pixels if kind == "pixels" else one.images_NW) @ one.classes_CD.T
            right = answers.topk(TASKS[name][0], dim=1).indices == one.labels_N[:, None]
            found[name] = float(right.any(dim=1).float().mean())
    return found


def compare(ladder, large, steps, batch, chance, pairs):
    """Return the forecast of a ladder, by the steps of its trainings, beside what the large trainings measured."""
    measured = float(np.mean(large))
    points = [(size * batch, value) for size, values in ladder.items() for value in values]
    curve = fit_curve(*map(list, zip(*points, strict=True)), chance=chance, pairs=pairs)
    expected = curve.expect(steps * batch, runs=len(large)) if curve else None
    known = expected is not None and is_determined(expected, chance)
    entry = {
        "ladder": {size: [round(value, 4) for value in values] for size, values in ladder.items()},
        "large": [round(value, 4) for value in large],
        "chance": round(chance, 4),
        "pairs": pairs,
        "determined": known,
    }
    if expected is not None:
        entry |= {name: round(getattr(expected, name), 4) for name in ("value", "low", "high")}
        entry["inside"] = expected.low <= measured <= expected.high
        entry["error"] = round(abs(expected.value - measured) / max(measured - chance, 1e-9), 4)
    return entry


def rank(entries):
    """Return each pair of datasets that the large trainings distinguish, with whether the forecast has their order."""
    found = []
    for (first, kind, task), (second, *rest) in itertools.combinations(entries, 2):
        one, other = entries[first, kind, task], entries[second, kind, task]
        if rest != [kind, task] or "value" not in one or "value" not in other:
            continue
        gap = float(np.mean(one["large"]) - np.mean(other["large"]))
        error = float(np.sqrt((np.var(one["large"], ddof=1) + np.var(other["large"], ddof=1)) / SEEDS))
        if abs(gap) > 2.78 * error:  # Student's t with 4 degrees of freedom
            right = (one["value"] - other["value"]) * gap > 0
            found.append({"model": kind, "task": task, "pair": [first, second], "gap": round(gap, 4), "right": right})
    return found


def find_floor(entries):
    """Return the median error of a forecast of the exact mean over seeds, and of that over seeds and test images."""
    shares = np.array([np.mean(one["large"]) for one in entries.values()])
    of_images = shares * (1 - shares) / [TASKS[task][2] for *_, task in entries]
    ratio = np.mean([np.var(one["large"], ddof=1) for one in entries.values()] / of_images)
    errors = 0.6745 * np.sqrt(of_images) / (shares - [one["chance"] for one in entries.values()])
    names = enumerate(("that of seeds alone", "that of seeds and test images"))
    return {name: float(np.median(errors) * np.sqrt(ratio / SEEDS + images)) for images, name in names}


def correlate(datasets, tests):
    """Return the rank correlation, over datasets, of linear layers on frozen features with networks on the pixels.

    The value of a dataset is the mean over test sets and seeds. The interval is a bootstrap over datasets.
    """
    kinds = {"linear": ONCE, "pixels": (64, PIXEL_STEPS)}
    values = {}
    for (name, dataset), (kind, sizes) in itertools.product(datasets.items(), kinds.items()):
        runs = [measure(train(dataset, kind, *sizes, seed), kind, tests) for seed in range(PIXEL_SEEDS)]
        values.setdefault(name, {})[kind] = round(float(np.mean([[*run.values()] for run in runs])), 4)
    table = np.array([[one[kind] for kind in kinds] for one in values.values()])
    generator = np.random.default_rng(0)
    drawn = [table[generator.integers(0, len(table), len(table))] for _ in range(2000)]
    found = [spearmanr(one).statistic for one in drawn if len(np.unique(one[:, 0])) > 2]
    ends = [round(float(one), 3) for one in np.quantile(found, [0.025, 0.975])]
    return {"values": values, "rank_correlation": round(float(spearmanr(table).statistic), 3), "interval": ends}


def backtest(datasets, tests, batch, large):
    """Return the entry of each ladder, by dataset, kind of layers and test set."""
    sizes = [large // share for share in SHARES]
    entries = {}
    for kind, name in itertools.product(("linear", "perceptron"), datasets):
        runs = {
            size: [measure(train(datasets[name], kind, batch, size, seed), kind, tests) for seed in range(SEEDS)]
            for size in [*sizes, large]
        }
        for task, one in tests.items():
            ladder = {size: [run[task] for run in runs[size]] for size in sizes}
            chance, measured = TASKS[task][0] / len(one.classes_CD), [run[task] for run in runs[large]]
            entries[name, kind, task] = compare(ladder, measured, large, batch, chance, len(datasets[name].pixels))
    return entries


def report(entries, steps, batch, *, as_json):
    """Print how many forecasts hold, and how exact they are."""
    drawn, ranking = [one for one in entries.values() if "value" in one], rank(entries)
    errors = {"median error": float(np.median([one["error"] for one in drawn] or [1.0])), **find_floor(entries)}
    rows = [
        Row(
            "large trainings in the interval",
            sum(one["inside"] for one in drawn),
            len(drawn),
            "forecast",
            "ladders",
            0.95,
        ),
        Row("pairs in the right order", sum(one["right"] for one in ranking), len(ranking), "told apart", "pairs", 1.0),
        *(Row(name, one, 0.1, "at most", "of the value above chance") for name, one in errors.items()),
    ]
    details = {
        "steps": steps,
        "batch": batch,
        "ladders": [{"dataset": d, "model": m, "task": t, **one} for (d, m, t), one in entries.items()],
        "ranking": ranking,
    }
    return finish("forecast", rows, NEEDS, equal=True, as_json=as_json, details=details)


def main():
    """Make the ladders and the large trainings, or those of proxies."""
    parser = make_parser(__doc__)
    parser.add_argument("--repeated", action="store_true", help="more epochs")
    parser.add_argument("--blind", action="store_true", help="four other datasets")
    parser.add_argument("--proxies", action="store_true", help="frozen towers as proxies")
    parser.add_argument("--again", type=Path, help="results whose ladders are forecast again")
    options = parser.parse_args()
    if options.again:
        kept = json.loads(options.again.read_text())
        steps, batch = kept["steps"], kept["batch"]
        entries = {
            (one["dataset"], one["model"], one["task"]): compare(
                {int(size): values for size, values in one["ladder"].items()},
                one["large"], steps, batch, one["chance"], one["pairs"],
            )
            for one in kept["ladders"]
        }  # fmt: skip
        return report(entries, steps, batch, as_json=options.json)
    torch.set_num_threads(1)
    pairs, captions, alt, tests = read_features(home())
    datasets = make_datasets(pairs, captions, alt)
    if options.proxies:
        found = correlate(datasets, tests)
        rows = [Row("rank correlation", found["rank_correlation"], 1.0, "at most", f"over {len(datasets)} datasets")]
        return finish("forecast_proxies", rows, NEEDS, equal=True, as_json=options.json, details=found)
    batch, large = REPEATED if options.repeated else ONCE
    large //= 8 if options.quick else 1
    chosen = {name: datasets[name] for name in (BLIND if options.blind else FORECAST)}
    entries = backtest(chosen, tests, batch, large)
    return report(entries, large, batch, as_json=options.json)


if __name__ == "__main__":
    raise SystemExit(main())
