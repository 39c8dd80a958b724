"""The same figures as open_clip's model under CLIP_benchmark's procedure, on three kinds of sets, with the same weights.

CLIP_benchmark itself runs where it is installed (`pip install --no-deps clip-benchmark==1.6.2`); its formulas, written out
slowly, run everywhere.
"""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from tests.oracles import open_clip, sklearn
from tests.tar_files import write_tar
from training.evaluate import evaluate
from training.evaluation.suite import Suite
from training.evaluation.task import Task
from training.model.clip import CLIP
from training.model.preprocess import Preprocess
from training.model.tokenizer import train_tokenizer
from training.model_config import ModelConfig

pytestmark = pytest.mark.xdist_group("open_clip")

CLASSES = ["nought", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TEMPLATES = ['a photo of the number: "{c}".', "{c}", "a scan of a handwritten {c} in white on black"]
CONTEXT = 24


@pytest.fixture(scope="module")
def both():
    """Return a small model of ours, with weights far from its near-linear start, and open_clip's with the same weights."""
    tokenizer = train_tokenizer(CLASSES + TEMPLATES, 300, CONTEXT)
    card = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": tokenizer.vocab_size,
            "width": 32,
            "heads": 2,
            "layers": 2,
        },
    }
    torch.manual_seed(5)
    model = CLIP(ModelConfig.model_validate(card)).eval()
    for block in [*model.transformer.resblocks, *model.visual.transformer.resblocks]:
        for parameter in block.parameters():
            torch.nn.init.normal_(parameter, std=0.25)
    theirs = open_clip().model.CLIP(**card)
    theirs.load_state_dict(model.state_dict(), strict=True)
    ours = SimpleNamespace(model=model.requires_grad_(False), tokenizer=tokenizer, preprocess=Preprocess(32))
    return ours, theirs.eval()


@pytest.fixture(scope="module")
def digits(both):
    """Return images and labels. No two logits are so close that a processor's rounding decides which one is larger."""
    ours, theirs = both
    scans, labels = sklearn("datasets").load_digits(return_X_y=True)
    images = [Image.fromarray(scan) for scan in np.rint(scans[:100].reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)]
    logits_NC = slow_logits(theirs, padded(ours.tokenizer), [ours.preprocess(each.convert("RGB")) for each in images])
    kept = []
    for number, row_C in enumerate(logits_NC):
        gaps = torch.cat([(logits_NC[kept] - row_C).abs().flatten(), row_C.sort().values.diff()])
        if gaps.min() > 1e-4:  # with and without AVX-512 they differ by up to 2e-5
            kept.append(number)
    return [images[number] for number in kept], labels[kept].tolist()


def write(root, samples, kind):
    members = []
    for number, (image, suffix, data) in enumerate(samples):
        sink = io.BytesIO()
        image.save(sink, "PNG")
        members += [(f"{number:05d}.png", sink.getvalue()), (f"{number:05d}.{suffix}", data)]
    write_tar(root / "test/0.tar", members)
    (root / "test/nshards.txt").write_text("1")
    (root / "dataset_type.txt").write_text(kind)
    (root / "classnames.txt").write_text("\n".join(CLASSES))
    (root / "zeroshot_classification_templates.txt").write_text("\n".join(TEMPLATES))
    return Task(name=root.name, kind=kind, root=str(root))


def padded(tokenizer):
    """Pad to the whole context length, as open_clip's tokenizers do."""
    return lambda texts: F.pad(tokenizer(list(texts)), (0, CONTEXT - tokenizer(list(texts)).shape[1]))


def slow_logits(theirs, tokenize, images):
    """Compute class by class, image by image."""
    with torch.no_grad():
        weights = []
        for name in CLASSES:
            features = F.normalize(theirs.encode_text(tokenize([t.format(c=name) for t in TEMPLATES])), dim=-1)
            weights.append(features.mean(dim=0) / features.mean(dim=0).norm())
        features = torch.cat([F.normalize(theirs.encode_image(image[None]), dim=-1) for image in images])
        return 100 * features @ torch.stack(weights, dim=1)


def measured(ours, task, output):
    result = evaluate(ours, Suite(name="s", tasks=(task,)), output, checkpoint_digest="d")[task.name]
    return {name: record["value"] for name, record in result["metrics"].items()}


def clip_benchmark(part):
    return pytest.importorskip(f"clip_benchmark.metrics.{part}")


def loader(images, targets, **more):
    data = list(zip(images, targets, strict=True))
    batches = [data[start : start + 32] for start in range(0, len(data), 32)]

    class Loader(list):
        dataset = SimpleNamespace(classes=CLASSES)

    stack = more.get("stack", torch.stack)
    return Loader((torch.stack([i for i, _ in batch]), stack([t for _, t in batch])) for batch in batches)


def test_classification_equals_clip_benchmark(tmp_path, both, digits):
    ours, theirs = both
    digit_images, labels = digits
    rows = [(digit, "cls", str(label).encode()) for digit, label in zip(digit_images, labels, strict=True)]
    task = write(tmp_path / "c", rows, "classification")
    found = measured(ours, task, tmp_path / "out")
    images, tokenize = [ours.preprocess(p.convert("RGB")) for p in digit_images], padded(ours.tokenizer)
    logits, target = slow_logits(theirs, tokenize, images), torch.tensor(labels)
    assert found["top1"] == float((logits.argmax(dim=1) == target).double().mean())
    assert found["top5"] == float((logits.topk(5).indices == target[:, None]).any(dim=1).double().mean())
    assert found["mean_per_class"] == pytest.approx(
        sklearn("metrics").balanced_accuracy_score(target, logits.argmax(dim=1))
    )
    assert 0.05 < found["top1"] < 0.9
    peer = clip_benchmark("zeroshot_classification")
    batches = loader(images, [torch.tensor(n) for n in labels])
    # Its `accuracy` turns arrays of one number into floats, which numpy 2.4 refuses; all before it runs.
    weights = peer.zero_shot_classifier(theirs, tokenize, CLASSES, TEMPLATES, "cpu", amp=False)
    scores, target = peer.run_classification(theirs, weights, batches, "cpu", amp=False)
    right = scores.topk(5).indices == target[:, None]
    assert found["top1"] == float(right[:, 0].double().mean())
    assert found["top5"] == float(right.any(dim=1).double().mean())


def test_multilabel_equals_clip_benchmark(tmp_path, both, digits):
    pytest.importorskip("plugins.evaluation_sets")
    ours, theirs = both
    digit_images, labels = digits
    truth = np.zeros((len(labels), 10), dtype=int)
    truth[np.arange(len(labels)), labels] = 1
    truth[np.arange(0, len(labels), 2), (np.array(labels)[::2] + 1) % 10] = 1
    rows = []
    for digit, row in zip(digit_images, truth, strict=True):
        sink = io.BytesIO()
        np.save(sink, row)
        rows.append((digit, "npy", sink.getvalue()))
    found = measured(ours, write(tmp_path / "m", rows, "multilabel"), tmp_path / "out")
    images, tokenize = [ours.preprocess(p.convert("RGB")) for p in digit_images], padded(ours.tokenizer)
    logits = slow_logits(theirs, tokenize, images)
    precisions = []
    for c in range(10):
        ranked = truth[logits[:, c].argsort(descending=True).numpy(), c]
        precisions.append(np.mean([ranked[: at + 1].mean() for at in np.flatnonzero(ranked)]))
    assert found["mean_average_precision"] == pytest.approx(np.mean(precisions), abs=1e-6)
    peer = clip_benchmark("zeroshot_classification")
    batches = loader(images, [torch.from_numpy(row) for row in truth])
    expected = peer.evaluate(theirs, batches, tokenize, CLASSES, TEMPLATES, "cpu", amp=False)
    assert found["mean_average_precision"] == pytest.approx(expected["mean_average_precision"], abs=1e-6)


def test_retrieval_equals_clip_benchmark(tmp_path, both, digits):
    ours, theirs = both
    digit_images, labels = digits
    captions = [[f"a {CLASSES[n]} number {i}", f"{CLASSES[n]} of row {i}"][: 1 + i % 2] for i, n in enumerate(labels)]
    rows = [(p, "txt", "\n".join(c).encode()) for p, c in zip(digit_images, captions, strict=True)]
    found = measured(ours, write(tmp_path / "r", rows, "retrieval"), tmp_path / "out")
    images, tokenize = [ours.preprocess(p.convert("RGB")) for p in digit_images], padded(ours.tokenizer)
    with torch.no_grad():
        texts = F.normalize(theirs.encode_text(tokenize([c for own in captions for c in own])), dim=-1)
        scores = texts @ F.normalize(theirs.encode_image(torch.stack(images)), dim=-1).T
    of = torch.tensor([i for i, own in enumerate(captions) for _ in own])
    for k in (1, 5, 10):
        image_found = (scores.topk(k, dim=1).indices == of[:, None]).any(dim=1)
        text_found = (of[scores.T.topk(k, dim=1).indices] == torch.arange(len(captions))[:, None]).any(dim=1)
        assert found[f"text_to_image_R_at_{k}"] == float(image_found.double().mean())
        assert found[f"image_to_text_R_at_{k}"] == float(text_found.double().mean())
    peer = clip_benchmark("zeroshot_retrieval")
    batches = loader(images, captions, stack=list)
    expected = peer.evaluate(theirs, batches, tokenize, "cpu", amp=False, recall_k_list=[1, 5, 10])
    for k in (1, 5, 10):
        assert found[f"text_to_image_R_at_{k}"] == pytest.approx(expected[f"image_retrieval_recall@{k}"])
        assert found[f"image_to_text_R_at_{k}"] == pytest.approx(expected[f"text_retrieval_recall@{k}"])
