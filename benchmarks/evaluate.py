"""Zero-shot evaluation beside CLIP_benchmark 1.6.2, on the same weights, images, classes and prompts.

python -m benchmarks.evaluate [--quick] [--json]

Needs the peer: pip install --no-deps clip-benchmark==1.6.2. The weights are random (ViT-B/32; with --quick a small ViT):
they cost what trained ones cost. `zero-shot` is one set with many classes and prompts; `suite` is five
sets, for which the peer loads the model anew each time, as its command does. Wall and processor seconds are both given.
"""

import io
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from clip_benchmark.datasets.builder import build_wds_dataset
from clip_benchmark.metrics import zeroshot_classification as peer
from open_clip.model import CLIP as OpenClip

from benchmarks.measure import Row, arguments, finish, in_turn
from benchmarks.picture_server import photographs, picture
from training.config import ModelConfig
from training.encode import place_of
from training.evaluate import evaluate
from training.model import CLIP
from training.preprocess import Preprocess
from training.suite import Suite
from training.suite_task import Task
from training.tokenizer import make_tokenizer

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


def write_sets(root: Path, sets: int, images: int, classes: int, templates: int) -> list[Task]:
    """Sets of real photographs' crops with labels drawn in turn."""
    names = [f"{word} {thing}" for word in WORDS for thing in THINGS][:classes]
    prompts = [f"a {WORDS[i % 10]} photo number {i} of a {{c}}, seen by someone." for i in range(templates)]
    photos = photographs()
    encoded = []
    for number in range(images):
        sink = io.BytesIO()
        picture(photos, number).resize((256, 256)).save(sink, "JPEG", quality=90)
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
        (folder / "classnames.txt").write_text("\n".join(names))
        (folder / "zeroshot_classification_templates.txt").write_text("\n".join(prompts))
        tasks.append(Task(name=folder.name, kind="classification", root=str(folder)))
    return tasks


class Peer:
    """CLIP_benchmark as its command runs it: the model anew for each set, one class's prompts a forward."""

    def __init__(self, card: dict[str, Any], weights: Path, preprocess: Any, tokenizer: Any):
        self.card, self.weights, self.preprocess, self.tokenizer = card, weights, preprocess, tokenizer

    def run(self, task: Task) -> tuple[float, float]:
        """Top-1 and top-5."""
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


def main() -> int:
    """Measure and print."""
    options = arguments(__doc__ or "").parse_args()
    card = SMALL if options.quick else VIT_B_32
    images, classes, templates = (200, 20, 10) if options.quick else (5000, 100, 80)
    torch.manual_seed(0)
    model = CLIP(ModelConfig.model_validate(card)).eval().requires_grad_(False)
    tokenizer = make_tokenizer("clip", (), 49408, 77)
    preprocess = Preprocess(card["vision_cfg"]["image_size"])
    ours = SimpleNamespace(model=model, tokenizer=tokenizer, preprocess=preprocess)
    with tempfile.TemporaryDirectory() as place:
        weights = Path(place) / "weights.pt"
        torch.save(model.state_dict(), weights)
        tasks = write_sets(Path(place), 5, images, classes, templates)
        theirs = Peer(card, weights, preprocess, tokenizer)
        return _report(options, Path(place), tasks, ours, theirs, images)


def _report(options: Any, place: Path, tasks: list[Task], ours: Any, theirs: Peer, images: int) -> int:
    runs = iter(range(1000))

    def evaluated(some: list[Task]) -> list[tuple[float, float]]:
        suite = Suite(name="s", tasks=tuple(some))
        found = evaluate(
            ours, suite, place / f"out{next(runs)}", checkpoint_digest="d", features=place / f"f{next(runs)}"
        )
        figures = [found[task.name]["metrics"] for task in some]
        return [(metrics["top1"]["value"], metrics["top5"]["value"]) for metrics in figures]

    rows, equal, processor = [], True, {}
    for case, some in (("zero-shot", tasks[:1]), ("suite", tasks)):
        spent: tuple[list[float], list[float]] = ([], [])
        mine = clocked(lambda some=some: evaluated(some), spent[0])
        other = clocked(lambda some=some: [theirs.run(task) for task in some], spent[1])
        times = 3 if options.quick and case == "zero-shot" else 1
        a, b, found, expected = in_turn(mine, other, times)
        equal &= found == expected
        n = images * len(some)
        name, goal = "CLIP_benchmark 1.6.2", 1 / 0.6 if case == "zero-shot" else 3.0
        rows.append(Row(f"{case} fp32", n / a, n / b, name, "images/s", goal=goal))
        processor[case] = {"ours": round(min(spent[0]), 2), "peer": round(min(spent[1]), 2)}
    details = {"processor_seconds": processor, "precision": str(place_of(ours.model)[1])}
    packages = ["torch", "open_clip_torch", "clip_benchmark"]
    return finish("evaluate", rows, packages, equal=equal, as_json=options.json, details=details)


if __name__ == "__main__":
    sys.exit(main())
