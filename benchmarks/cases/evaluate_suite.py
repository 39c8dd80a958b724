"""Measure a suite of five sets with our command and with that of CLIP_benchmark 1.6.2.

The sets have the classes, prompts and images of five sets of the shipped suites, reduced by `factor` (SHAPES): a natural
shift with ImageNet's prompts, two sets with zero-shot and linear probe, two retrieval sets. The gain depends on this mix: a
suite of 50,000 images and few prompts gains little, since both tools wait for the same image tower.

The peer is its own command (`clip_benchmark.cli`) in this process, so that its imports are not timed, with `--no_amp`, for
equal numbers, and without worker processes, which at this size cost more than they save. For each set and task it loads
the model and encodes the images again. Ours is the evaluation job, which keeps features between tasks.

The peer is patched to run here. Its captioning task, which is not run, needs Java and is replaced by an empty module. Its
`accuracy` fails under numpy 2.4 and is replaced. Its linear probe refuses a CPU ("too slow"): that line is removed, and
`.cuda()` does nothing. Its probe is trained with AdamW, ours with L-BFGS to the optimum, both with a search on the
validation split: their accuracies are reported but not compared.
"""

import contextlib
import inspect
import io
import json
import sys
import tarfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks.inputs.image_server import load_photographs
from benchmarks.measure import BENCH_EXTRA, peer_imports
from dataops.process import count_cores
from tests.caption_samples import make_web_captions
from training.evaluate import EvaluateJob, run_job
from training.evaluation.suite import Suite
from training.evaluation.task import Task
from training.model.clip import CLIP
from training.model_config import ModelConfig

INSTALL = f"{BENCH_EXTRA} && pip install --no-deps clip-benchmark==1.6.2"
sys.modules.setdefault("clip_benchmark.metrics.captioning", ModuleType("captioning"))
with peer_imports(INSTALL):
    import open_clip
    from clip_benchmark import cli
    from clip_benchmark.metrics import linear_probe, zeroshot_classification

MODEL = "benchmark"
BATCH = 64
SIDE = 256
MIN_CLASSES = 5  # for top-5 accuracy
CAPTIONS = 5


@dataclass(frozen=True)
class Shape:
    """Size and kind of a set."""

    images: int
    classes: int = 0
    """Number of classes; 0: a retrieval set, with five captions per image."""
    prompts_of: str = ""
    """Name of the prompts in CLIP_benchmark's list."""
    train: int = 0
    """Number of labelled examples for the probe; one in five is used to choose its regularisation."""


SHAPES = {
    # classes and images: configs/suites/datacomp.toml and paper.toml; training examples: Radford et al. 2021, table 9
    "imagenetv2": Shape(10_000, 1000, "imagenet1k"),
    "caltech101": Shape(6085, 102, "caltech101", train=3060),
    "dtd": Shape(1880, 47, "dtd", train=3760),
    # the test splits of Karpathy and Fei-Fei 2015
    "flickr30k": Shape(1000),
    "mscoco_captions": Shape(5000),
}


@dataclass
class SuiteFiles:
    """The files of the sets, the model and the results."""

    root: Path
    card: dict[str, Any]
    factor: int
    tasks: list[Task] = field(default_factory=list)
    images: int = 0
    """Number of images of all splits, each counted once."""

    def make(self) -> None:
        """Write the sets and an open_clip model with random weights."""
        photos = load_photographs()
        for name, shape in SHAPES.items():
            self.tasks.append(self._set(name, shape, photos))
        torch.manual_seed(0)
        weights = CLIP(ModelConfig.model_validate(self.card)).state_dict()
        model = self.root / "model"
        model.mkdir()
        (model / "open_clip_config.json").write_text(json.dumps({"model_cfg": self.card, "preprocess_cfg": {}}))
        save_file(weights, model / "open_clip_model.safetensors")
        torch.save(weights, self.root / "weights.pt")
        (self.root / f"{MODEL}.json").write_text(json.dumps(self.card))
        open_clip.add_model_config(self.root / f"{MODEL}.json")

    def _set(self, name: str, shape: Shape, photos: list[Image.Image]) -> Task:
        # Under the real name the peer would use its own list of classes instead of the set's.
        folder = self.root / f"some-{name}"
        splits = {"test": shape.images // self.factor}
        if not shape.classes:
            texts = iter(make_web_captions(CAPTIONS * splits["test"], len(self.tasks)))
            self._shard(folder / "test", splits["test"], 0, photos, texts)
            (folder / "dataset_type.txt").write_text("retrieval")
            return Task(name=name, kind="retrieval", root=str(folder))
        classes = max(MIN_CLASSES, round(shape.classes / self.factor))
        if shape.train:
            train = shape.train // self.factor
            splits |= {"train": train - train // 5, "val": train // 5}
        for split, count in splits.items():
            self._shard(folder / split, count, classes, photos)
        (folder / "classnames.txt").write_text("\n".join(_lists("classnames")["imagenet1k"][:classes]))
        (folder / "zeroshot_classification_templates.txt").write_text(
            "\n".join(_lists("zeroshot_classification_templates")[shape.prompts_of])
        )
        probe: Any = {"train_split": "train", "val_split": "val", "protocols": ("linear_probe",)} if shape.train else {}
        return Task(name=name, kind="classification", root=str(folder), **probe)

    def _shard(
        self, folder: Path, count: int, classes: int, photos: list[Image.Image], texts: Iterator[str] | None = None
    ) -> None:
        folder.mkdir(parents=True)
        (folder / "nshards.txt").write_text("1")
        with tarfile.open(folder / "0.tar", "w") as tar:
            for number in range(count):
                image = _crop(photos, self.images)
                if texts is None:  # the colour depends on the class, for the probe to learn
                    text = str(self.images * 7 % classes)
                    colour = Image.new("RGB", image.size, f"hsl({360 * int(text) // classes},90%,50%)")
                    image = Image.blend(image, colour, 0.4)
                else:
                    text = "\n".join(next(texts) for _ in range(CAPTIONS))
                sink = io.BytesIO()
                image.save(sink, "JPEG", quality=90)
                for suffix, data in (("jpg", sink.getvalue()), ("cls" if classes else "txt", text.encode())):
                    member = tarfile.TarInfo(f"{number:06d}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
                self.images += 1

    def ours(self, output: Path) -> tuple[dict[str, Any], dict[str, float]]:
        """Return metrics by task, and seconds of the tasks without probes, and of the probes as a second job."""
        plain = [task.model_copy(update={"protocols": ()}) for task in self.tasks]
        probed = [task for task in self.tasks if task.protocols]
        found, seconds = {}, {}
        for name, tasks in (("zero-shot and retrieval", plain), ("linear probe", probed)):
            started = time.perf_counter()
            job = EvaluateJob(
                checkpoint=self.root / "model",
                suite=Suite(name="s", tasks=tuple(tasks)),
                output=output / name.partition(" ")[0],
                features=output / "features",
            )
            found |= run_job(job)
            seconds[name] = time.perf_counter() - started
        return {name: result["metrics"] for name, result in found.items()}, seconds

    def peer(self, output: Path) -> tuple[dict[str, Any], dict[str, float]]:
        """Return metrics by task and protocol, and seconds of each, of which `model loads` are a part."""
        found, seconds, loads = {}, {}, []
        torch.set_num_threads(count_cores())  # as benchmarks/evaluate.py does
        with _patched_peer(loads):
            for task in self.tasks:
                kinds = ["zeroshot_retrieval" if task.kind == "retrieval" else "zeroshot_classification"]
                for kind in [*kinds, *task.protocols]:
                    started = time.perf_counter()
                    found[f"{task.name} {kind}"] = self._command(task, kind, output)
                    seconds[f"{task.name} {kind}"] = time.perf_counter() - started
        return found, {**seconds, "model loads": sum(loads)}

    def _command(self, task: Task, kind: str, output: Path) -> dict[str, float]:
        result = output / f"{task.name}-{kind}.json"
        options: dict[str, Any] = {
            "dataset": f"wds/some-{task.name}",
            "dataset_root": task.root,
            "task": kind,
            "model": MODEL,
            "pretrained": self.root / "weights.pt",
            "output": result,
            "batch_size": BATCH,
            "num_workers": 0,
            "feature_root": output / "features",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        arguments += ["--recall_k", "1", "5", "10"] if kind == "zeroshot_retrieval" else []
        arguments += ["--val_split", "val"] if kind == "linear_probe" else []
        with mock.patch.object(sys, "argv", ["clip_benchmark", "eval", *arguments, "--no_amp", "--quiet"]):
            cli.main()
        return json.loads(result.read_text())["metrics"]


def _crop(photos: list[Image.Image], number: int) -> Image.Image:
    rng = np.random.default_rng(number)
    photo = photos[int(rng.integers(len(photos)))]
    x, y = (int(rng.integers(extent - SIDE + 1)) for extent in photo.size)
    return photo.crop((x, y, x + SIDE, y + SIDE))


def _lists(name: str) -> dict[str, list[str]]:
    return json.loads((files("clip_benchmark") / "datasets" / f"en_{name}.json").read_text())


def compute_accuracy(output: torch.Tensor, target: torch.Tensor, topk: tuple[int, ...] = (1,)) -> list[float]:
    """Replace the peer's function, which converts an array of one number to a float, an error in numpy 2.4."""
    best = output.topk(max(topk), 1, True, True)[1] == target.view(-1, 1)
    return [float(best[:, :k].sum()) / len(target) for k in topk]


@contextlib.contextmanager
def _patched_peer(loads: list[float]) -> Iterator[None]:
    """Patch the peer to run on a CPU; append the seconds of each of its model loads to `loads`."""
    load_clip = cli.load_clip

    def timed(**options: Any) -> Any:
        started = time.perf_counter()
        loaded = load_clip(**options)
        loads.append(time.perf_counter() - started)
        return loaded

    source = inspect.getsource(linear_probe.evaluate)
    refusal = "    assert device == 'cuda'"
    assert refusal in source
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        enter(contextlib.redirect_stdout(io.StringIO()))
        enter(contextlib.redirect_stderr(io.StringIO()))
        enter(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # about pin_memory without a GPU
        for module in (linear_probe, zeroshot_classification):
            enter(mock.patch.object(module, "accuracy", compute_accuracy))
        enter(mock.patch.object(linear_probe, "evaluate"))
        exec(source.replace(refusal, "    assert True"), linear_probe.__dict__)
        for kind in (torch.nn.Module, torch.Tensor):
            enter(mock.patch.object(kind, "cuda", lambda self: self))
        enter(mock.patch.object(cli, "load_clip", timed))
        yield


def pair_metrics(ours: dict[str, Any], peer: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Return each metric that must be equal, as (ours, peer)."""
    pairs = {}
    for name, shape in SHAPES.items():
        mine = {metric: record["value"] for metric, record in ours[name].items()}
        if shape.classes:
            theirs = peer[f"{name} zeroshot_classification"]
            names = {"top1": "acc1", "top5": "acc5", "mean_per_class": "mean_per_class_recall"}
        else:
            theirs = peer[f"{name} zeroshot_retrieval"]
            ways = {"image_to_text": "text_retrieval_recall", "text_to_image": "image_retrieval_recall"}
            names = {f"{way}_R_at_{k}": f"{theirs_way}@{k}" for way, theirs_way in ways.items() for k in (1, 5, 10)}
        pairs |= {f"{name}/{metric}": (mine[metric], theirs[other]) for metric, other in names.items()}
    return pairs
