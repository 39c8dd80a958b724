"""Compare zero-shot evaluation with CLIP_benchmark 1.6.2, on the same weights, images, classes and prompts.

python -m benchmarks.evaluate [--quick] [--json]

It needs the peer: pip install --no-deps clip-benchmark==1.6.2. The weights are random (ViT-B/32; with --quick a small
ViT), and cost the same as trained ones. `zero-shot` is one set: 5,000 images, 100 classes x 80 prompts. The
tests compare the results of suites, retrieval and probes.
"""

import io
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
from PIL import Image

from benchmarks.inputs.images import encode_jpeg, load_photographs, make_jpeg
from benchmarks.measure import BENCH_EXTRA, Row, finish, make_parser, peer_imports, time_in_turn
from dataops.process import count_cores
from tests.tar_files import write_tar
from training.evaluate import evaluate
from training.evaluation.suite import Suite
from training.evaluation.task import Task
from training.model.clip import CLIP
from training.model.preprocess import Preprocess
from training.model.tokenizer import make_tokenizer
from training.model_config import ModelConfig, load_model_config

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
WORDS = ("red", "large", "old", "wooden", "tiny", "bright", "quiet", "broken", "striped", "northern")
NOUNS = ("house", "boat", "bird", "lamp", "tree", "bridge", "dog", "clock", "flower", "road")
BATCH = 64
PEER, BATCHED = "CLIP_benchmark 1.6.2", "open_clip, the prompts of ten classes together"


def write_set(folder, images, classes, templates):
    """Write a set of crops of real photographs, with labels in turn."""
    names = [f"{word} {noun}" for word in WORDS for noun in NOUNS][:classes]
    prompts = [f"a {WORDS[i % 10]} photo number {i} of a {{c}}, seen by someone." for i in range(templates)]
    photos = load_photographs()
    (folder / "test").mkdir(parents=True)
    found = []
    for number in range(images):
        image = Image.open(io.BytesIO(make_jpeg(photos, number))).resize((256, 256))
        found += [(f"{number:06d}.jpg", encode_jpeg(image, 90)), (f"{number:06d}.cls", b"%d" % (number * 7 % classes))]
    write_tar(folder / "test/0.tar", found)
    (folder / "test/nshards.txt").write_text("1")
    (folder / "classnames.txt").write_text("\n".join(names))
    (folder / "zeroshot_classification_templates.txt").write_text("\n".join(prompts))
    return Task(name=folder.name, kind="classification", root=str(folder))


def make_peer(card, weights, preprocess, tokenizer, *, batched):
    """Return CLIP_benchmark as its command runs it: it loads the model for each set, and encodes prompts class by class.

    Args:
        batched: with open_clip's own classifier, which encodes the prompts of ten classes together.
    """

    def tokenize(texts):
        tokens = tokenizer(texts)
        return torch.nn.functional.pad(tokens, (0, 77 - tokens.shape[1]))

    def run(task):
        torch.set_num_threads(count_cores())  # our code sets it too
        model = OpenClip(**card)
        model.load_state_dict(torch.load(weights, weights_only=True))
        model.eval()
        data = build_wds_dataset("set", transform=preprocess, split="test", data_dir=task.root)
        loader = torch.utils.data.DataLoader(data.batched(BATCH), batch_size=None, num_workers=0)
        if batched:
            prompts = [template.replace("{c}", "{}") for template in data.templates]
            classifier = build_zero_shot_classifier(model, tokenize, data.classes, prompts, 10)
        else:
            classifier = peer.zero_shot_classifier(model, tokenize, data.classes, data.templates, "cpu", amp=False)
        logits, target = peer.run_classification(model, classifier, loader, "cpu", amp=False)
        best = logits.topk(5).indices == target[:, None]  # its own `accuracy` fails under numpy 2.4
        return float(best[:, 0].double().mean()), float(best.any(dim=1).double().mean())

    return run


def evaluate_set(loaded, task, folder):
    """Return top-1 and top-5 accuracy, without cached features."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        suite, output = Suite(name="s", tasks=(task,)), Path(name)
        found = evaluate(loaded, suite, output / "out", checkpoint_digest="d", features=output / "features")
    metrics = found[task.name]["metrics"]
    return metrics["top1"]["value"], metrics["top5"]["value"]


def main():
    """Run the benchmark."""
    options = make_parser(__doc__).parse_args()
    card = SMALL if options.quick else load_model_config("ViT-B-32").model_dump(include=SMALL.keys())
    images, classes, templates, times = (200, 20, 16, 3) if options.quick else (5000, 100, 80, 1)
    torch.manual_seed(0)
    model = CLIP(ModelConfig.model_validate(card)).eval().requires_grad_(False)
    tokenizer = make_tokenizer("clip", (), 49408, 77)
    preprocess = Preprocess(card["vision_cfg"]["image_size"])
    ours = SimpleNamespace(model=model, tokenizer=tokenizer, preprocess=preprocess)
    rows, top1, equal = [], 0.0, True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.save(model.state_dict(), folder / "weights.pt")
        task = write_set(folder / "set", images, classes, templates)
        for peer_name, goal in ((PEER, 1 / 0.6), (BATCHED, 1.0)):
            theirs = make_peer(card, folder / "weights.pt", preprocess, tokenizer, batched=peer_name == BATCHED)
            a, b, found, expected = time_in_turn(
                lambda: evaluate_set(ours, task, folder), lambda run=theirs: run(task), times
            )
            equal, top1 = equal and found == expected, found[0]
            rows.append(Row("zero-shot fp32", images / a, images / b, peer_name, "images/s", goal))
    packages, details = ["torch", "open_clip_torch", "clip_benchmark"], {"top1": {"zero-shot fp32": top1}}
    return finish("evaluate", rows, packages, equal=equal, as_json=options.json, details=details)


if __name__ == "__main__":
    raise SystemExit(main())
