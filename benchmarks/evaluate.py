"""Compare zero-shot evaluation with CLIP_benchmark 1.6.2, on the same weights, images, classes and prompts.

python -m benchmarks.evaluate [--quick] [--json]

It needs the peer: pip install --no-deps clip-benchmark==1.6.2. The weights are random (ViT-B/32; with --quick a small
ViT), and cost the same as trained ones. `zero-shot` is one set: 5,000 images, 100 classes x 80 prompts. The
tests compare the results of suites, retrieval and probes. Wall time and CPU time are both reported.
"""

import io
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from PIL import Image

from benchmarks.inputs.image_server import load_photographs, make_jpeg
from benchmarks.measure import BENCH_EXTRA, Row, finish, make_parser, peer_imports, time_in_turn
from dataops.process import count_cores
from training.evaluate import evaluate
from training.evaluation.suite import Suite
from training.evaluation.task import Task
from training.model.clip import CLIP
from training.model.preprocess import Preprocess
from training.model.tokenizer import make_tokenizer
from training.model_config import ModelConfig

INSTALL = f"{BENCH_EXTRA} && pip install --no-deps clip-benchmark==1.6.2"
sys.modules.setdefault("clip_benchmark.metrics.captioning", ModuleType("captioning"))  # which needs Java
with peer_imports(INSTALL):
    from clip_benchmark.datasets.builder import build_wds_dataset
    from clip_benchmark.metrics import zeroshot_classification as peer
    from open_clip import build_zero_shot_classifier
    from open_clip.model import CLIP as OpenClip

SMALL = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "layers": 3, "width": 192, "head_width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 256, "heads": 4, "layers": 4},
}
VIT_B_32 = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
}
WORDS = ("red", "large", "old", "wooden", "tiny", "bright", "quiet", "broken", "striped", "northern")
NOUNS = ("house", "boat", "bird", "lamp", "tree", "bridge", "dog", "clock", "flower", "road")
BATCH = 64
PEER = "CLIP_benchmark 1.6.2"


def write_sets(root: Path, sets: int, images: int, classes: int, templates: int) -> list[Task]:
    """Write sets of crops of real photographs, with labels in turn."""
    names = [f"{word} {noun}" for word in WORDS for noun in NOUNS][:classes]
    prompts = [f"a {WORDS[i % 10]} photo number {i} of a {{c}}, seen by someone." for i in range(templates)]
    photos = load_photographs()
    encoded = []
    for number in range(images):
        sink = io.BytesIO()
        Image.open(io.BytesIO(make_jpeg(photos, number))).resize((256, 256)).save(sink, "JPEG", quality=90)
        encoded.append(sink.getvalue())
    tasks = []
    for index in range(sets):
        folder = root / f"set{index}"
        (folder / "test").mkdir(parents=True)
        with tarfile.open(folder / "test/0.tar", "w") as tar:
            for number, data in enumerate(encoded):
                for suffix, content in (("jpg", data), ("cls", str((number * 7 + index) % classes).encode())):
                    member = tarfile.TarInfo(f"{number:06d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        (folder / "test/nshards.txt").write_text("1")
        classnames = [f"{name} {index}" for name in names]  # no two sets share classes
        (folder / "classnames.txt").write_text("\n".join(classnames))
        (folder / "zeroshot_classification_templates.txt").write_text("\n".join(prompts))
        tasks.append(Task(name=folder.name, kind="classification", root=str(folder)))
    return tasks


class Peer:
    """CLIP_benchmark as its command runs it: it loads the model for each set, and encodes the prompts class by class.

    Args:
        batched: with open_clip's own classifier, which encodes the prompts of ten classes together.
    """

    def __init__(self, card: dict[str, Any], weights: Path, preprocess: Any, tokenizer: Any, *, batched: bool = False):
        self.card, self.weights, self.preprocess, self.tokenizer = card, weights, preprocess, tokenizer
        self.batched = batched

    def run(self, task: Task) -> tuple[float, float]:
        """Return top-1 and top-5 accuracy."""
        torch.set_num_threads(count_cores())  # our code sets it too
        model = OpenClip(**self.card)
        model.load_state_dict(torch.load(self.weights, weights_only=True))
        model.eval()
        data: Any = build_wds_dataset("set", transform=self.preprocess, split="test", data_dir=task.root)
        loader = torch.utils.data.DataLoader(data.batched(BATCH), batch_size=None, num_workers=0)
        if self.batched:
            prompts = [template.replace("{c}", "{}") for template in data.templates]
            classifier = build_zero_shot_classifier(model, self._tokenize, data.classes, prompts, 10)
        else:
            classifier = peer.zero_shot_classifier(
                model, self._tokenize, data.classes, data.templates, "cpu", amp=False
            )
        logits, target = peer.run_classification(model, classifier, loader, "cpu", amp=False)
        best = logits.topk(5).indices == target[:, None]  # its own `accuracy` fails under numpy 2.4
        return float(best[:, 0].double().mean()), float(best.any(dim=1).double().mean())

    def _tokenize(self, texts: list[str]) -> torch.Tensor:
        tokens = self.tokenizer(texts)
        return torch.nn.functional.pad(tokens, (0, 77 - tokens.shape[1]))


def count_cpu_time(work: Any, spent: list[float]) -> Any:
    """Wrap `work` so that its CPU time is appended to a list."""

    def timed() -> Any:
        before = time.process_time()
        result = work()
        spent.append(time.process_time() - before)
        return result

    return timed


@dataclass(frozen=True)
class SetSize:
    """Size of the sets of a case."""

    images: int
    classes: int
    templates: int


SIZES = {True: SetSize(200, 20, 16), False: SetSize(5000, 100, 80)}


def main() -> int:
    """Run the benchmark."""
    options = make_parser(__doc__ or "").parse_args()
    card = SMALL if options.quick else VIT_B_32
    torch.manual_seed(0)
    model = CLIP(ModelConfig.model_validate(card)).eval().requires_grad_(False)
    tokenizer = make_tokenizer("clip", (), 49408, 77)
    preprocess = Preprocess(card["vision_cfg"]["image_size"])
    ours = SimpleNamespace(model=model, tokenizer=tokenizer, preprocess=preprocess)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.pt"
        torch.save(model.state_dict(), weights)
        measured = EvaluateBenchmark(Path(folder), ours, Peer(card, weights, preprocess, tokenizer))
        measured.zero_shot(SIZES[options.quick], times=3 if options.quick else 1)
    packages = ["torch", "open_clip_torch", "clip_benchmark"]
    details = {"processor_seconds": measured.processor, "top1": measured.top1}
    return finish("evaluate", measured.rows, packages, equal=measured.equal, as_json=options.json, details=details)


@dataclass
class EvaluateBenchmark:
    """The cases and their results."""

    folder: Path
    ours: Any
    theirs: Peer
    rows: list[Row] = field(default_factory=list)
    processor: dict[str, dict[str, float]] = field(default_factory=dict)
    top1: dict[str, float] = field(default_factory=dict)
    equal: bool = True

    def zero_shot(self, size: SetSize, times: int) -> None:
        """Measure ours and the peer in turn on one set."""
        tasks = write_sets(self.folder / "zero-shot", 1, size.images, size.classes, size.templates)
        spent: tuple[list[float], list[float]] = ([], [])
        mine = count_cpu_time(lambda: self.evaluate(tasks, self.ours), spent[0])
        other = count_cpu_time(lambda: [self.theirs.run(task) for task in tasks], spent[1])
        a, b, found, expected = time_in_turn(mine, other, times)
        self.equal &= found == expected
        self.rows.append(Row("zero-shot fp32", size.images / a, size.images / b, PEER, "images/s", goal=1 / 0.6))
        theirs = self.theirs
        batched = Peer(theirs.card, theirs.weights, theirs.preprocess, theirs.tokenizer, batched=True)
        c, d, found, expected = time_in_turn(
            lambda: self.evaluate(tasks, self.ours), lambda: [batched.run(task) for task in tasks], times
        )
        self.equal &= found == expected
        batch_of_ten = "open_clip, the prompts of ten classes together"
        self.rows.append(Row("zero-shot fp32", size.images / c, size.images / d, batch_of_ten, "images/s", goal=1.0))
        self.processor["zero-shot"] = {"ours": round(min(spent[0]), 2), "peer": round(min(spent[1]), 2)}
        self.top1["zero-shot fp32"] = found[0][0]

    def evaluate(self, tasks: list[Task], loaded: Any) -> list[tuple[float, float]]:
        """Return top-1 and top-5 accuracy of each set, without cached features."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            suite, output = Suite(name="s", tasks=tuple(tasks)), Path(folder)
            found = evaluate(loaded, suite, output / "out", checkpoint_digest="d", features=output / "features")
        figures = [found[task.name]["metrics"] for task in tasks]
        return [(metrics["top1"]["value"], metrics["top5"]["value"]) for metrics in figures]


if __name__ == "__main__":
    sys.exit(main())
