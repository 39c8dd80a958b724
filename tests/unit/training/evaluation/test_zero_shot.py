"""Features and zero-shot arithmetic, compared with open_clip, scikit-learn and slow, obvious code."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dataops.errors import TrainingDiverged
from tests import rounding
from tests.oracles import open_clip
from training.evaluation.class_weights import compute_class_weights
from training.evaluation.encode import encode_texts, map_in_order, normalize_features
from training.evaluation.zero_shot import rank_true_labels, select_top
from training.model.clip import CLIP
from training.model.preprocess import Preprocess
from training.model.tokenizer import train_tokenizer
from training.model_config import ModelConfig, TextConfig, VisionConfig

pytestmark = pytest.mark.xdist_group("open_clip")

NAMES = ["grinning face", "red heart", "person in lotus position", "cat", "{c} braces {0}", "flag: Åland Islands"]
TEMPLATES = ["{c}", "a drawing of {c}", "an emoji that shows {c} and nothing else at all"]


@pytest.fixture(scope="module")
def loaded():
    """Return a small CLIP with random weights and a vocabulary learnt from the names."""
    tokenizer = train_tokenizer(NAMES, 300, 77)
    text = TextConfig(context_length=77, vocab_size=tokenizer.vocab_size, width=32, heads=2, layers=2)
    vision = VisionConfig(image_size=32, layers=1, width=32, head_width=16, patch_size=16)
    torch.manual_seed(3)
    model = CLIP(ModelConfig(embed_dim=16, vision_cfg=vision, text_cfg=text)).eval()
    for block in model.transformer.resblocks:  # far from the initial near-linear state
        for parameter in block.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return SimpleNamespace(model=model, tokenizer=tokenizer, preprocess=Preprocess(32))


def padded(tokenizer, texts):
    """Tokenize to the whole context length, as open_clip does."""
    tokens = tokenizer(texts)
    return torch.nn.functional.pad(tokens, (0, 77 - tokens.shape[1]))


def test_class_weights_equal_open_clip(loaded):
    class Normalising:
        """open_clip asks its model to normalise."""

        def encode_text(self, tokens, normalize=False):
            features = loaded.model.encode_text(tokens)
            return torch.nn.functional.normalize(features, dim=-1) if normalize else features

    # one callable a template: open_clip's str.format would trip over the braces of a class name's template
    callables = [lambda name, t=t: t.replace("{c}", name) for t in TEMPLATES]
    expected_DC = open_clip().build_zero_shot_classifier(
        Normalising(), lambda texts: padded(loaded.tokenizer, texts), NAMES, callables, num_classes_per_batch=2
    )
    found = compute_class_weights(loaded, NAMES, TEMPLATES)
    rounding.assert_close(found, expected_DC.T, rounding.count_additions(loaded.model), magnitude=1)


def test_class_weights_do_not_depend_on_chunks(loaded):
    whole = compute_class_weights(loaded, NAMES, TEMPLATES)
    found = compute_class_weights(loaded, NAMES, TEMPLATES, at_once=4)
    rounding.assert_close(found, whole, rounding.count_additions(loaded.model), magnitude=1)


@pytest.mark.parametrize("most_tokens", [1, 40, 10_000])
def test_texts_in_length_batches_equal_texts_encoded_alone(loaded, most_tokens):
    texts = [t.replace("{c}", n) for n in NAMES for t in TEMPLATES] + [NAMES[1], "word " * 200, ""]
    features = encode_texts(loaded, texts, threads=2, most_tokens=most_tokens)
    with torch.inference_mode():
        one_by_one = torch.cat(
            [normalize_features(loaded.model.encode_text(padded(loaded.tokenizer, [t])), "text") for t in texts]
        )
    rounding.assert_close(features, one_by_one, rounding.count_additions(loaded.model), magnitude=1)


def test_equal_texts_have_equal_features_and_threads_change_no_bit(loaded):
    texts = [*NAMES, *NAMES[::-1]]
    features = encode_texts(loaded, texts, threads=1)
    assert torch.equal(features[: len(NAMES)], features[len(NAMES) :].flip(0))
    assert torch.equal(features, encode_texts(loaded, texts, threads=3))


def test_features_that_are_not_finite_mean_that_the_training_diverged():
    with pytest.raises(TrainingDiverged, match="text features that are not finite"):
        normalize_features(torch.tensor([[1.0, math.nan]]), "text")
    assert torch.equal(normalize_features(torch.zeros(1, 3), "text"), torch.zeros(1, 3))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("classes", [3, 40])
def test_ranks_and_top_equal_a_stable_sort(ties, classes):
    generator = np.random.default_rng(classes)
    scores = generator.integers(0, 4, (200, classes)) if ties else generator.normal(size=(200, classes))
    scores = scores.astype(np.float32)
    labels = generator.integers(0, classes, 200)
    ranks = rank_true_labels(torch.from_numpy(scores), torch.from_numpy(labels)).tolist()
    values, columns = select_top(torch.from_numpy(scores), 5)
    for row, label in enumerate(labels):
        order = sorted(range(classes), key=lambda column: (-scores[row, column], column))
        assert ranks[row] == order.index(label) + 1
        assert columns[row].tolist() == order[:5]
        assert values[row].tolist() == [float(scores[row, c]) for c in order[:5]]


def test_map_in_order_keeps_order_bounds_read_ahead_and_raises_errors():
    consumed = []

    def items():
        for i in range(50):
            consumed.append(i)
            yield i

    results = map_in_order(lambda i: i * i, items(), threads=3)
    assert [next(results) for _ in range(5)] == [0, 1, 4, 9, 16]
    assert len(consumed) <= 5 + 6 + 1
    results.close()
    assert list(map_in_order(str, range(7), threads=2)) == list("0123456")
    with pytest.raises(ZeroDivisionError):
        list(map_in_order(lambda i: 1 // i, [1, 0, 2], threads=2))
