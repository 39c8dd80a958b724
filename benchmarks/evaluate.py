"""Zero-shot evaluation beside CLIP_benchmark 1.6.2, on the same weights, images, classes and prompts.

python -m benchmarks.evaluate [--quick] [--only zero-shot|suite] [--json]

Needs the peer: pip install --no-deps clip-benchmark==1.6.2. The weights are random (ViT-B/32; with --quick a small ViT):
they cost what trained ones cost. `zero-shot` is one set: 5,000 images, 100 classes x 80 prompts. `suite` is five sets of
three kinds, with probes, of which benchmarks/cases/evaluate_suite.py tells. `zero-shot bf16` is measured where the processor has
bf16 arithmetic: without, it is five times slower than fp32. Wall and processor seconds are both given.
"""

import copy
import io
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from clip_benchmark.datasets.builder import build_wds_dataset
from clip_benchmark.metrics import zeroshot_classification as peer
from open_clip.model import CLIP as OpenClip
from PIL import Image

from benchmarks.cases.evaluate_suite import Ground, compared
from benchmarks.inputs.image_server import photographs, picture
from benchmarks.measure import Row, arguments, finish, in_turn
from training.config import ModelConfig
from training.evaluate import evaluate
from training.evaluation.encode import count_cores
from training.evaluation.suite import Suite
from training.evaluation.task import Task
from training.model.clip import CLIP
from training.model.preprocess import Preprocess
from training.model.tokenizer import make_tokenizer
from training.train import resolve_precision

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
THINGS = ("house", "boat", "bird", "lamp", "tree", "bridge", "dog", "clock", "flower", "road")
BATCH = 64
ROUNDED = 1e-6  # of the peer's recall, a mean in float32
PEER = "CLIP_benchmark 1.6.2"


def write_sets(root: Path, sets: int, images: int, classes: int, templates: int) -> list[Task]:
    """Sets of real photographs' crops with labels drawn in turn."""
    names = [f"{word} {thing}" for word in WORDS for thing in THINGS][:classes]
    prompts = [f"a {WORDS[i % 10]} photo number {i} of a {{c}}, seen by someone." for i in range(templates)]
    photos = photographs()
    encoded = []
    for number in range(images):
        sink = io.BytesIO()
        Image.open(io.BytesIO(picture(photos, number))).resize((256, 256)).save(sink, "JPEG", quality=90)
        encoded.append(sink.getvalue())
    tasks = []
    for which in range(sets):
        folder = root / f"set{which}"
        (folder / "test").mkdir(parents=True)
        with tarfile.open(folder / "test/0.tar", "w") as tar:
            for number, data in enumerate(encoded):
                for suffix, content in (("jpg", data), ("cls", str((number * 7 + which) % classes).encode())):
                    member = tarfile.TarInfo(f"{number:06d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        (folder / "test/nshards.txt").write_text("1")
        (folder / "classnames.txt").write_text(
            "\n".join(f"{name} {which}" for name in names)
        )  # no two sets share classes
        (folder / "zeroshot_classification_templates.txt").write_text("\n".join(prompts))
        tasks.append(Task(name=folder.name, kind="classification", root=str(folder)))
    return tasks


class Peer:
    """CLIP_benchmark as its command runs it: the model anew for each set, one class's prompts a forward."""

    def __init__(self, card: dict[str, Any], weights: Path, preprocess: Any, tokenizer: Any):
        self.card, self.weights, self.preprocess, self.tokenizer = card, weights, preprocess, tokenizer

    def run(self, task: Task) -> tuple[float, float]:
        """Top-1 and top-5."""
        torch.set_num_threads(count_cores())  # whatever our threads have set for themselves
        model = OpenClip(**self.card)
        model.load_state_dict(torch.load(self.weights, weights_only=True))
        model.eval()
        data: Any = build_wds_dataset("set", transform=self.preprocess, split="test", data_dir=task.root)
        loader = torch.utils.data.DataLoader(data.batched(BATCH), batch_size=None, num_workers=0)
        classifier = peer.zero_shot_classifier(model, self._tokenize, data.classes, data.templates, "cpu", amp=False)
        logits, target = peer.run_classification(model, classifier, loader, "cpu", amp=False)
        best = logits.topk(5).indices == target[:, None]  # its own `accuracy` fails under numpy 2.4
        return float(best[:, 0].double().mean()), float(best.any(dim=1).double().mean())

    def _tokenize(self, texts: list[str]) -> torch.Tensor:
        tokens = self.tokenizer(texts)
        return torch.nn.functional.pad(tokens, (0, 77 - tokens.shape[1]))


def clocked(work: Any, spent: list[float]) -> Any:
    """`work`, with the processor seconds that it took added to a list."""

    def timed() -> Any:
        before = time.process_time()
        result = work()
        spent.append(time.process_time() - before)
        return result

    return timed


@dataclass(frozen=True)
class Size:
    """Of the sets of a case."""

    images: int
    classes: int
    templates: int


SIZES = {True: Size(200, 20, 16), False: Size(5000, 100, 80)}
FACTORS = {True: 50, False: 10}
"""The suite's sets have one in so many of the classes and images of the real ones."""
CASES = ("zero-shot", "suite")


def main() -> int:
    """Measure and print."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--only", choices=CASES, help="this case alone")
    options = parser.parse_args()
    card = SMALL if options.quick else VIT_B_32
    torch.manual_seed(0)
    model = CLIP(ModelConfig.model_validate(card)).eval().requires_grad_(False)
    tokenizer = make_tokenizer("clip", (), 49408, 77)
    preprocess = Preprocess(card["vision_cfg"]["image_size"])
    ours = SimpleNamespace(model=model, tokenizer=tokenizer, preprocess=preprocess)
    with tempfile.TemporaryDirectory() as place:
        weights = Path(place) / "weights.pt"
        torch.save(model.state_dict(), weights)
        measured = Measured(Path(place), ours, Peer(card, weights, preprocess, tokenizer))
        if options.only != "suite":
            measured.zero_shot(SIZES[options.quick], times=3 if options.quick else 1)
        if options.only != "zero-shot":
            # with --quick the text tower outweighs the image tower: that ratio says nothing of a real model's
            goal = None if options.quick else 3.0
            measured.suite(Ground(Path(place) / "suite", card, FACTORS[options.quick]), goal)
    packages = ["torch", "open_clip_torch", "clip_benchmark"]
    details = {"processor_seconds": measured.processor, "top1": measured.top1, "suite": measured.of_suite}
    return finish("evaluate", measured.rows, packages, equal=measured.equal, as_json=options.json, details=details)


@dataclass
class Measured:
    """Cases and what came out."""

    place: Path
    ours: Any
    theirs: Peer
    rows: list[Row] = field(default_factory=list)
    processor: dict[str, dict[str, float]] = field(default_factory=dict)
    top1: dict[str, float] = field(default_factory=dict)
    of_suite: dict[str, Any] = field(default_factory=dict)
    equal: bool = True

    def zero_shot(self, size: Size, times: int) -> None:
        """Ours and the peer in turn on one set."""
        tasks = write_sets(self.place / "zero-shot", 1, size.images, size.classes, size.templates)
        spent: tuple[list[float], list[float]] = ([], [])
        mine = clocked(lambda: self.evaluated(tasks, self.ours), spent[0])
        other = clocked(lambda: [self.theirs.run(task) for task in tasks], spent[1])
        a, b, found, expected = in_turn(mine, other, times)
        self.equal &= found == expected
        self.rows.append(Row("zero-shot fp32", size.images / a, size.images / b, PEER, "images/s", goal=1 / 0.6))
        self.processor["zero-shot"] = {"ours": round(min(spent[0]), 2), "peer": round(min(spent[1]), 2)}
        self.top1["zero-shot fp32"] = found[0][0]
        if resolve_precision("auto", torch.device("cpu")) == "bf16":
            self.half(tasks, size.images, b)

    def suite(self, ground: Ground, goal: float | None) -> None:
        """Each tool's commands over five sets, with and without the linear probes."""
        ground.root.mkdir()
        ground.make()
        spent: tuple[list[float], list[float]] = ([], [])
        places = [Path(tempfile.mkdtemp(dir=self.place)) for _ in range(2)]
        found, a = clocked(lambda: ground.ours(places[0]), spent[0])()
        expected, b = clocked(lambda: ground.peer(places[1]), spent[1])()
        figures = compared(found, expected)
        differ = {name: pair for name, pair in figures.items() if abs(pair[0] - pair[1]) > ROUNDED}
        self.equal &= not differ
        probes = {name: seconds for name, seconds in b.items() if name.endswith("linear_probe")}
        all_of_peer = sum(seconds for name, seconds in b.items() if name != "model loads")
        n, without = ground.images, a["zero-shot and retrieval"]
        self.rows += [
            Row("suite fp32", n / sum(a.values()), n / all_of_peer, PEER, "images/s", goal=goal),
            Row("suite fp32, no probe", n / without, n / (all_of_peer - sum(probes.values())), PEER, "images/s"),
        ]
        self.processor["suite"] = {"ours": round(spent[0][0], 2), "peer": round(spent[1][0], 2)}
        self.of_suite = {
            "images": n,
            "seconds": {side: {k: round(v, 2) for k, v in each.items()} for side, each in (("ours", a), ("peer", b))},
            "differ": differ,
            "probe_top1": {
                name: {"ours": found[task]["linear_probe_top1"]["value"], "peer": expected[name]["lp_acc1"]}
                for name in probes
                for task in [name.partition(" ")[0]]
            },
        }

    def half(self, tasks: list[Task], images: int, peer_seconds: float) -> None:
        """Ours with bf16 weights, against what the peer took."""
        model = copy.deepcopy(self.ours.model).to(torch.bfloat16)
        started = time.perf_counter()
        found = self.evaluated(tasks, SimpleNamespace(**{**vars(self.ours), "model": model}))
        seconds = time.perf_counter() - started
        self.rows.append(Row("zero-shot bf16", images / seconds, images / peer_seconds, PEER, "images/s", goal=2.5))
        self.top1["zero-shot bf16"] = found[0][0]

    def evaluated(self, tasks: list[Task], loaded: Any) -> list[tuple[float, float]]:
        """Top-1 and top-5 of each set, with nothing kept from before."""
        with tempfile.TemporaryDirectory(dir=self.place) as folder:
            suite, output = Suite(name="s", tasks=tuple(tasks)), Path(folder)
            found = evaluate(loaded, suite, output / "out", checkpoint_digest="d", features=output / "features")
        figures = [found[task.name]["metrics"] for task in tasks]
        return [(metrics["top1"]["value"], metrics["top5"]["value"]) for metrics in figures]


if __name__ == "__main__":
    sys.exit(main())
