"""Forecast large trainings from small ones, then make the large ones: does the forecast hold?

    python -m benchmarks.forecast [--quick] [--repeated] [--json]

It needs the snapshots of `pairmill demo` (PAIRMILL_HOME): four datasets are made of the demo's pairs, and both towers
stay frozen, so each image and caption passes through its network once; the home keeps the features. A training learns the
layers that join them, of two kinds. Ladders are the metric of each of four test sets over trainings with 1/10, 1/15, 1/24,
1/40 and 1/60 of the steps of the large one, three seeds of each. Large trainings see each pair 15 to 60 times; with
`--repeated`, they see it 41 to 160 times, and overfit.

`ladders` has the forecast of the mean of three large trainings, its interval, whether it was determined, and what they
measured; `ranking` whether pairs of datasets that the large trainings can tell apart are in the order of the forecast;
`smallest` the rank correlation of the smallest trainings' means with those of the large ones.
"""

import itertools
import logging
import sys
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.measure import Row, finish, make_parser, make_printer
from dataops.home import home
from flows.records import list_runs
from plugins.experiments.forecast import Curve, Expected, fit_curve, is_determined
from training.evaluation.class_weights import compute_class_weights
from training.evaluation.encode import encode_images
from training.evaluation.samples import Sample
from training.evaluation.sets import EvalSet
from training.model.checkpoint import load_model

SEEDS, WIDTH, SHARDS = 3, 256, 3
"""Trainings of a size, principal components of a feature, and shards read: about 3,000 pairs."""
ONCE, REPEATED = (32, 1440), (128, 960)
"""Pairs of a step and steps of a large training: 15 epochs of all pairs, and with `--repeated` 41."""
SHARES = (60, 40, 24, 15, 10)
"""Parts of the large training that a ladder has."""
TASKS = ("twemoji-seen", "twemoji-heldout", "openmoji-heldout", "groceries")


@dataclass(frozen=True)
class TestSet:
    """A test set as features."""

    images_NW: Tensor
    labels_N: Tensor
    classes_CD: Tensor


@dataclass(frozen=True)
class Pairs:
    """A dataset as features."""

    images_NW: Tensor
    texts_ND: Tensor


def read_features(folder: Path) -> tuple[Pairs, Tensor, dict[str, TestSet]]:
    """Return the pairs of the newest demo in a home, whether each has a caption of `alt`, and the test sets.

    The folder keeps them.
    """
    cached = folder / "benchmark-forecast.pt"
    if cached.exists():
        with torch.serialization.safe_globals([Pairs, TestSet]):
            return torch.load(cached, weights_only=True)
    run = next(one for one in list_runs(folder) if one.name.startswith("demo") and one.key_of("train"))
    loaded = load_model(folder / "store" / "train" / str(run.key_of("train")))
    tests = {}
    for name in TASKS:
        data = EvalSet(kind="classification", root=folder / "demo" / "suite" / name, split="test")
        labels, images = encode(loaded, list(data.samples()))
        tests[name] = TestSet(images, labels, compute_class_weights(loaded, data.class_names(), data.templates()))
    samples, captions, sources = [], [], []
    for shard in sorted((folder / "store" / "pack" / str(run.key_of("pack"))).glob("*.tar"))[:SHARDS]:
        with tarfile.open(shard) as tar:
            found: dict[str, bytes] = {}
            for member in tar:
                if (file := tar.extractfile(member)) is not None:
                    found[member.name] = file.read()
        for name in [name for name in found if name.endswith(".jpg")]:
            samples.append(Sample(key=name, image=found[name], label=len(samples)))
            captions.append(found[name.replace(".jpg", ".txt")].decode())
            sources.append(b'"caption_source":"alt"' in found[name.replace(".jpg", ".json")])
    kept, images = encode(loaded, samples)
    with torch.no_grad():
        chunks = [captions[at : at + 64] for at in range(0, len(captions), 64)]
        texts = F.normalize(torch.cat([loaded.model.encode_text(loaded.tokenizer(chunk)) for chunk in chunks]), dim=1)
    mean = images.mean(dim=0)
    components = torch.pca_lowrank(images - mean, WIDTH, niter=2)[2]
    spread = ((images - mean) @ components).std()
    pairs = Pairs((images - mean) @ components / spread, texts[kept])
    tests = {
        name: TestSet((one.images_NW - mean) @ components / spread, one.labels_N, one.classes_CD)
        for name, one in tests.items()
    }
    found_all = pairs, torch.tensor(sources)[kept], tests
    torch.save(found_all, cached)
    return found_all


def make_datasets(pairs: Pairs, alt: Tensor) -> dict[str, Pairs]:
    """Return four datasets: all pairs, those with captions of `alt`, a quarter, and all with a third of captions wrong."""
    images, texts = pairs.images_NW, pairs.texts_ND
    generator = torch.Generator().manual_seed(0)
    quarter = torch.randperm(len(images), generator=generator)[: len(images) // 4]
    noisy = torch.arange(len(images))
    third = torch.randperm(len(images), generator=generator)[: len(images) // 3]
    noisy[third] = third.roll(1)
    return {
        "all": pairs,
        "alt": Pairs(images[alt], texts[alt]),
        "quarter": Pairs(images[quarter], texts[quarter]),
        "noisy": Pairs(images, texts[noisy]),
    }


def encode(loaded: Any, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    """Return the labels of the readable images, and the features of the frozen tower (N, W), normed to unit variance."""
    labels, features = [], []
    for batch in encode_images(loaded, samples, 32):
        assert batch.pooled_RW is not None
        labels += [one.label for one, error in zip(batch.samples, batch.errors, strict=True) if error is None]
        features.append(F.layer_norm(batch.pooled_RW, batch.pooled_RW.shape[1:]))
    return torch.tensor(labels), torch.cat(features)


def train(pairs: Pairs, kind: str, batch: int, steps: int, seed: int) -> Callable[[Tensor], Tensor]:
    """Train the layers between the towers by the contrastive loss, with a cosine schedule of their own."""
    torch.manual_seed(seed)
    width, dim = pairs.images_NW.shape[1], pairs.texts_ND.shape[1]
    layers = nn.Linear(width, dim) if kind == "linear" else _perceptron(width, dim)
    scale = nn.Parameter(torch.tensor(np.log(20.0), dtype=torch.float32))
    optimizer = torch.optim.AdamW([*layers.parameters(), scale], lr=1e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=max(steps, 2), pct_start=0.1)
    order = torch.cat([torch.randperm(len(pairs.images_NW)) for _ in range(steps * batch // len(pairs.images_NW) + 1)])
    for step in range(steps):
        rows = order[step * batch : (step + 1) * batch]
        images, texts = F.normalize(layers(pairs.images_NW[rows]), dim=1), pairs.texts_ND[rows]
        logits, targets = scale.exp().clamp(max=100) * images @ texts.T, torch.arange(len(rows))
        loss = F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return layers.eval()


def _perceptron(width: int, dim: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 384), nn.GELU(), nn.Linear(384, dim))


def measure(layers: Callable[[Tensor], Tensor], tests: Mapping[str, TestSet]) -> dict[str, float]:
    """Return the share of right images in each test set."""
    with torch.no_grad():
        answers = {name: (layers(one.images_NW) @ one.classes_CD.T).argmax(1) for name, one in tests.items()}
    return {name: float((found == tests[name].labels_N).float().mean()) for name, found in answers.items()}


def compare(
    curve: Curve | None, ladder: Mapping[int, Sequence[float]], large: Sequence[float], steps: int, chance: float
) -> dict[str, Any]:
    """Return the forecast of a ladder beside what the large trainings measured."""
    measured = float(np.mean(large))
    expected: Expected | None = curve.expect(steps, runs=len(large)) if curve else None
    known = expected is not None and is_determined(expected, chance)
    entry: dict[str, Any] = {
        "ladder": {size: [round(value, 4) for value in values] for size, values in ladder.items()},
        "large": [round(value, 4) for value in large],
        "chance": round(chance, 4),
        "determined": known,
    }
    if expected is not None:
        entry |= {name: round(getattr(expected, name), 4) for name in ("value", "low", "high")}
        entry["inside"] = expected.low <= measured <= expected.high
        entry["error"] = round(abs(expected.value - measured) / max(measured - chance, 1e-9), 4)
    return entry


def rank(entries: Mapping[tuple[str, str, str], dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each pair of datasets that the large trainings tell apart, with whether the forecast has their order."""
    found = []
    for (first, kind, task), (second, *rest) in itertools.combinations(entries, 2):
        one, other = entries[first, kind, task], entries[second, kind, task]
        if rest != [kind, task] or "value" not in one or "value" not in other:
            continue
        gap = float(np.mean(one["large"]) - np.mean(other["large"]))
        error = float(np.sqrt((np.var(one["large"], ddof=1) + np.var(other["large"], ddof=1)) / SEEDS))
        if abs(gap) > 2.78 * error:  # Student's t with 4 degrees of freedom
            is_right = (one["value"] - other["value"]) * gap > 0
            found.append(
                {"model": kind, "task": task, "pair": [first, second], "gap": round(gap, 4), "right": is_right}
            )
    return found


def main() -> int:
    """Make the ladders and the large trainings."""
    parser = make_parser(__doc__ or "")
    parser.add_argument("--repeated", action="store_true", help="more epochs, so that large trainings overfit")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    say = make_printer(options.json)
    torch.set_num_threads(1)
    batch, large = REPEATED if options.repeated else ONCE
    large //= 8 if options.quick else 1
    pairs, alt, tests = read_features(home())
    datasets = make_datasets(pairs, alt)
    sizes = [large // share for share in SHARES]
    kinds = ("linear",) if options.quick else ("linear", "perceptron")
    entries: dict[tuple[str, str, str], dict[str, Any]] = {}
    for kind, (name, dataset) in itertools.product(kinds, datasets.items()):
        runs = {
            size: [measure(train(dataset, kind, batch, size, seed), tests) for seed in range(SEEDS)]
            for size in [*sizes, large]
        }
        for task, one in tests.items():
            ladder = {size: [run[task] for run in runs[size]] for size in sizes}
            points = [(size, value) for size, values in ladder.items() for value in values]
            curve = fit_curve(*map(list, zip(*points, strict=True)))
            measured = [run[task] for run in runs[large]]
            entries[name, kind, task] = compare(curve, ladder, measured, large, 1 / len(one.classes_CD))
            say(f"{name} {kind} {task}: {entries[name, kind, task]}")
    known = [one for one in entries.values() if one["determined"]]
    ranking = rank(entries)
    inside = sum(one["inside"] for one in known)
    errors = [one["error"] for one in known]
    proxies = []
    for kind, task in itertools.product(kinds, tests):
        small = [np.mean(entries[name, kind, task]["ladder"][sizes[0]]) for name in datasets]
        proxies.append(spearmanr(small, [np.mean(entries[name, kind, task]["large"]) for name in datasets])[0])
    rows = [
        Row("large trainings in the interval", inside, len(known), "determined", "ladders", 0.95),
        Row("determined", len(known), len(entries), "all", "ladders"),
        Row("pairs in the right order", sum(one["right"] for one in ranking), len(ranking), "told apart", "pairs", 1.0),
        Row("median error", float(np.median(errors)) if errors else 1.0, 0.1, "at most", "of the value above chance"),
    ]
    details = {
        "steps": large,
        "batch": batch,
        "ladders": [{"dataset": d, "model": m, "task": t, **one} for (d, m, t), one in entries.items()],
        "ranking": ranking,
        "smallest": {"rank_correlation": [round(float(one), 3) for one in proxies]},
    }
    return finish("forecast", rows, ["torch", "scipy"], equal=True, as_json=options.json, details=details)


if __name__ == "__main__":
    sys.exit(main())
