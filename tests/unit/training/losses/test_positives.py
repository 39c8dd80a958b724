"""Multi-positive targets against loops over all pairs in fp64, on one, two and three ranks."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.loss_ranks import IDENTITIES, compute_on_ranks, make_leaves
from tests.tar_files import write_tar
from tests.trainings import jpeg
from training.config import TrainConfig
from training.data.loader import Dataset, hash_caption, hash_image, load_batches
from training.data.sampling_plan import Plan
from training.losses.contrastive import Positives, contrastive_loss

KNOWN = [
    [any(a == b for a, b in zip(one, two, strict=True)) for two in IDENTITIES.tolist()] for one in IDENTITIES.tolist()
]
CASES = {
    f"{loss}-{mode}-{smoothing}": {"loss": loss, "multi_positive": mode, "label_smoothing": smoothing}
    for loss in ("softmax", "sigmoid")
    for mode in ("mask", "share")
    for smoothing in ((0.0, 0.2) if loss == "softmax" else (0.0,))
}


@pytest.fixture(scope="module")
def on_ranks(tmp_path_factory):
    """Return the result of each case by number of ranks, joined as that of one process."""
    return compute_on_ranks(tmp_path_factory.mktemp("ranks"), CASES)


def slow_loss(settings, leaves):
    """Compute the loss one pairing at a time."""
    images, texts = (F.normalize(leaf, dim=1) for leaf in leaves[:2])
    pairs, shares, smoothing = range(len(images)), settings["multi_positive"] == "share", settings["label_smoothing"]
    cosine = [[(images[i] * texts[j]).sum() for j in pairs] for i in pairs]
    total = torch.zeros((), dtype=torch.float64)
    if settings["loss"] == "sigmoid":
        for i in pairs:
            for j in pairs:
                is_label = KNOWN[i][j] if shares else i == j
                if shares or i == j or not KNOWN[i][j]:
                    logit = leaves[2].exp() * cosine[i][j] + leaves[3]
                    total = total - torch.log(torch.sigmoid(logit if is_label else -logit))
        return total / len(images)
    for matrix in (cosine, [list(column) for column in zip(*cosine, strict=True)]):
        for i in pairs:
            positives = [j for j in pairs if KNOWN[i][j]] if shares else [i]
            candidates = [j for j in pairs if shares or j == i or not KNOWN[i][j]]
            logits = {j: leaves[2].exp() * matrix[i][j] for j in candidates}
            log_sum = torch.log(sum(torch.exp(logit) for logit in logits.values()))
            for j in candidates:
                target = (1 - smoothing) * (j in positives) / len(positives) + smoothing / len(candidates)
                total = total - target * (logits[j] - log_sum)
    return total / (2 * len(images))


@pytest.mark.parametrize("name", list(CASES))
def test_value_and_gradients_equal_loops_over_all_pairs(on_ranks, name):
    leaves = make_leaves(torch.float64)
    expected = slow_loss(CASES[name], leaves)
    (3 * expected).backward()
    for ranks, results in on_ranks.items():
        found = results[name]
        assert found["loss"].item() == pytest.approx(expected.item(), rel=1e-5), ranks
        for part, leaf in zip(("images", "texts", "scale", "bias"), leaves, strict=True):
            if leaf.grad is not None:
                torch.testing.assert_close(found[part].double(), leaf.grad, rtol=1e-4, atol=1e-5, msg=f"{ranks} {part}")
        cosine = F.normalize(leaves[0], dim=1) @ F.normalize(leaves[1], dim=1).T
        assert found["image_hits"] == sum(KNOWN[i][int(row.argmax())] for i, row in enumerate(cosine))
        assert found["text_hits"] == sum(KNOWN[i][int(row.argmax())] for i, row in enumerate(cosine.T))


def test_a_logit_that_is_left_out_overflows_nothing():
    """Two pairs have one image, whose other caption fits it far better than its own."""

    images = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    texts = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    positives = Positives(torch.tensor([[1, 1], [1, 2], [3, 3]]), None, shares=False)
    outcome = contrastive_loss(images, texts, torch.tensor(5.0), positives=positives)
    outcome.loss.backward()
    assert torch.isfinite(images.grad).all()
    assert torch.isfinite(texts.grad).all()


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_the_loader_hashes_image_files_and_captions(tmp_path, cache_bytes):
    pairs = [(1, "A red cat"), (2, "a  red cat "), (1, "a cat"), (3, "a dog")]
    members = [
        (f"{n}.{kind}", data)
        for n, (image, caption) in enumerate(pairs)
        for kind, data in (("jpg", jpeg(image)), ("txt", caption.encode()))
    ]
    dataset = Dataset([write_tar(tmp_path / "0.tar", members)], 32, cache_bytes)
    config = TrainConfig(multi_positive="share", batch_size=4, epochs=2, workers=0, prompts=("a photo of {}",))
    batches = list(load_batches(dataset, Plan(4, config, 0), 1, 0, 1))
    assert len(batches) == 2
    for batch in batches:
        of_sample = dict(zip(batch.samples.tolist(), np.asarray(batch.identities_B2).tolist(), strict=True))
        assert [of_sample[n] for n in range(4)] == [[hash_image(jpeg(i)), hash_caption(c)] for i, c in pairs]
        assert of_sample[0][0] == of_sample[2][0] != of_sample[1][0]
        assert of_sample[0][1] == of_sample[1][1] != of_sample[2][1]
    plain = Plan(4, config.model_copy(update={"multi_positive": "off"}), 0)
    assert next(load_batches(dataset, plain, 1, 0, 1)).identities_B2 is None
