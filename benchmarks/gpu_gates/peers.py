"""Gates that compare our losses and our zero-shot classification with open_clip's."""

from importlib.util import find_spec

import torch
from torch.nn import functional as F

from benchmarks.gpu_gates.arithmetic import make_config, relative_error
from benchmarks.gpu_gates.outcomes import judge, not_run
from benchmarks.gpu_gates.sides import make_open_clip_model
from training.evaluation.class_weights import compute_class_weights
from training.losses.contrastive import contrastive_loss, sigmoid_loss
from training.model.checkpoint import LoadedModel
from training.model.clip import CLIP
from training.model.preprocess import Preprocess
from training.model.tokenizer import make_tokenizer

MISSING = "open_clip_torch is not installed"
LIMIT = 1e-5
GRADIENT_LIMIT = 1e-4
CLASS_NAMES = (
    "tench",
    "great white shark",
    "ice bear",
    "Egyptian cat",
    "café",
    "4 wheel drive",
    "traffic light",
    "Old English",
)
TEMPLATES = ("a photo of a {}.", "a blurry photo of the {}.", "{} in the wild")


def compare_losses(setting):
    """Compare value and gradients of both losses with open_clip's, over 8,192 pairs on a card."""
    if find_spec("open_clip") is None:
        return not_run(MISSING)
    from open_clip.loss import ClipLoss, SigLipLoss

    device, pairs, width = torch.device(setting.device), *((64, 16) if setting.is_toy else (8192, 512))
    torch.backends.cuda.matmul.allow_tf32 = False
    rows = 24 if setting.is_toy else 4096  # several blocks
    torch.manual_seed(0)
    features = [torch.randn(pairs, width, device=device) for _ in range(2)]
    scale, bias = torch.tensor(2.659, device=device), torch.tensor(-10.0, device=device)
    clip, siglip = ClipLoss(), SigLipLoss()
    cases = {
        "softmax": (
            lambda i, t, s, b: contrastive_loss(i, t, s, rows=rows).loss,
            lambda i, t, s, b: clip(F.normalize(i, dim=1), F.normalize(t, dim=1), s.exp()),
        ),
        "sigmoid": (
            lambda i, t, s, b: sigmoid_loss(i, t, s, b, rows=rows).loss,
            lambda i, t, s, b: siglip(F.normalize(i, dim=1), F.normalize(t, dim=1), s.exp(), b),
        ),
    }
    errors = {}
    for name, functions in cases.items():
        results = []
        for function in functions:
            leaves = [tensor.clone().requires_grad_() for tensor in (*features, scale, bias)]
            loss = function(*leaves)
            loss.backward()
            results.append([loss.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)])
        value, *gradients = (relative_error(ours, peers) for ours, peers in zip(*results, strict=True))
        errors |= {f"{name} loss": value, f"{name} gradient": max(gradients)}
    return judge(
        f"over {pairs:,} pairs: " + ", ".join(f"{name} {error:.1e}" for name, error in errors.items()),
        passed=all(error <= (LIMIT if "loss" in name else GRADIENT_LIMIT) for name, error in errors.items()),
        **errors,
    )


def compare_zero_shot(setting):
    """Compare the scores of images for the classes with those of open_clip's classifier, model and tokenizer."""
    if find_spec("open_clip") is None:
        return not_run(MISSING)
    from open_clip import build_zero_shot_classifier
    from open_clip.tokenizer import SimpleTokenizer

    device = torch.device(setting.device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    dimensions = make_config(setting).load_dimensions().with_vocab_size(49408)
    side, context_length = dimensions.vision_cfg.image_size, dimensions.text_cfg.context_length
    peer = make_open_clip_model(dimensions).to(device).eval()
    model = CLIP(dimensions).to(device).eval()
    model.load_state_dict(peer.state_dict())
    tokenizer = make_tokenizer("clip", (), 0, context_length)
    loaded = LoadedModel(model, tokenizer, Preprocess(side), dimensions, device)
    images = torch.randn(32, 3, side, side, device=device)
    with torch.no_grad():
        templates = [template.replace("{}", "{c}") for template in TEMPLATES]
        weights_CD = compute_class_weights(loaded, CLASS_NAMES, templates).to(device)
        found = F.normalize(model.encode_image(images), dim=1) @ weights_CD.T
        classifier_DC = build_zero_shot_classifier(
            peer, SimpleTokenizer(context_length=context_length), CLASS_NAMES, TEMPLATES, device=device
        )
        expected = peer.encode_image(images, normalize=True) @ classifier_DC
    error, same = float((found - expected).abs().max()), float((found.argmax(1) == expected.argmax(1)).float().mean())
    return judge(
        f"cosines differ by {error:.1e} at most (limit {LIMIT:g}); {same:.0%} of the classes are the same",
        passed=error <= LIMIT and same == 1,
        greatest_difference=error,
        same_classes=same,
    )
