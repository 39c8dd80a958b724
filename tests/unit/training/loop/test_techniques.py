"""Techniques beyond plain CLIP: locked tower, recomputation, patch dropout, gradient cache."""

from argparse import Namespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests import rounding
from tests.trainings import VIT, run_training
from training.config import TrainConfig
from training.loop import step as step_module
from training.loop.initial_model import build_initial_model, draw_kept_patches
from training.loop.step import backward
from training.model.packing import pack_chunks
from training.model_config import ModelConfig

VIT_4 = {**VIT, "vision_cfg": {**VIT["vision_cfg"], "patch_size": 8}}
PLAIN = TrainConfig(precision="fp32")
OF_LOSS = {"identities_B2": torch.tensor([[1, 1], [2, 2], [1, 3], [4, 4], [5, 2], [6, 6], [7, 7]])}


def model_of(config, dimensions=VIT_4):
    torch.manual_seed(0)
    return build_initial_model(config, ModelConfig.model_validate(dimensions))


def batch(count=7, rows=None):
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, 299, (count, 9), generator=generator)
    tokens[:, 6] = 299
    return torch.randn(count, 3, 32, 32, generator=generator), pack_chunks(tokens, rows)


def gradients(config, kept=None):
    model = model_of(config).train()
    outcome, _ = backward(model, *batch(rows=config.grad_cache), config, kept, named=OF_LOSS)
    return float(outcome.loss.detach()), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("settings", "rows"),
    [
        ({"loss": "softmax"}, 1),
        ({"loss": "sigmoid"}, 3),
        ({"multi_positive": "share"}, 3),
        ({"loss": "sigmoid", "multi_positive": "mask"}, 7),
    ],
)
def test_grad_cache_has_the_gradient_of_the_whole_batch(settings, rows):
    settings = {"precision": "fp32", "patch_dropout": 0.5, **settings}
    config = TrainConfig.model_validate(settings)
    kept = draw_kept_patches(config, ModelConfig.model_validate(VIT_4), 0, 0, np.arange(7), 0.0)
    whole_loss, whole = gradients(config, kept)
    parts_loss, parts = gradients(TrainConfig.model_validate({**settings, "grad_cache": rows}), kept)
    additions = rounding.count_additions(model_of(config), rows=7 * 17)
    assert parts_loss == pytest.approx(whole_loss, rel=rounding.bound(additions, 1))
    assert parts.keys() == whole.keys()
    for name, gradient in whole.items():
        rounding.assert_close(parts[name], gradient, additions, name=name)


class Batches(list[tuple[Tensor, Tensor]]):
    """Batches as open_clip's loop reads them."""

    num_batches, num_samples, sampler = 3, 6, None

    def set_epoch(self, epoch):
        """Shuffle nothing."""

    @property
    def dataloader(self):
        return self


@pytest.mark.filterwarnings("ignore")  # of open_clip's imports
def test_grad_cache_is_the_accumulation_of_open_clip():
    """Its own loop passes each of three chunks; it adds the gradient of the temperature three times, we once."""
    open_clip = pytest.importorskip("open_clip")
    from open_clip_train.train import train_one_epoch  # needs open_clip

    torch.manual_seed(0)
    peer = open_clip.model.CLIP(
        **{name: VIT_4[name] for name in ("embed_dim", "vision_cfg", "text_cfg")}, output_dict=True
    )
    model = model_of(PLAIN).train()
    model.load_state_dict(peer.state_dict(), strict=True)
    generator = torch.Generator().manual_seed(1)
    images, tokens = torch.randn(6, 3, 32, 32, generator=generator), torch.zeros(6, 16, dtype=torch.int64)
    tokens[:, :7] = torch.randint(1, 299, (6, 7), generator=generator)
    tokens[:, 6] = 299
    backward(model, images, pack_chunks(tokens, 2), PLAIN.model_copy(update={"grad_cache": 2}))

    options = {"device": "cpu", "precision": "fp32", "accum_freq": 3, "batch_size": 2, "world_size": 1, "rank": 0}
    options |= dict.fromkeys(("distill", "horovod", "wandb", "distributed", "local_loss", "grad_clip_norm"))
    args = Namespace(**options, local_rank=0, skip_scheduler=True, log_local=False, log_every_n_steps=9)
    still = torch.optim.SGD(peer.parameters(), lr=0.0)
    batches = Batches(zip(images.split(2), tokens.split(2), strict=True))
    train_one_epoch(peer, {"train": batches}, open_clip.ClipLoss(), 0, still, None, None, None, args)
    for name, parameter in peer.named_parameters():
        gradient = model.get_parameter(name).grad
        expected = parameter.grad / (3 if name == "logit_scale" else 1)
        rounding.assert_close(gradient, expected, rounding.count_additions(peer, rows=6 * 17), name=name)


@pytest.mark.parametrize(("pairs", "by_chunks"), [([7, 4], True), ([4, 7], True), ([4, 4], False)])
def test_all_ranks_use_the_gradient_cache_or_none(monkeypatch, pairs, by_chunks):
    """A rank whose own share fits must join the others, which would wait for it in another exchange."""
    used = []
    monkeypatch.setattr(step_module, "backward_by_chunks", lambda *arguments: used.append(len(arguments[2])))
    config = TrainConfig(precision="fp32", grad_cache=4)
    backward(model_of(config).train(), *batch(4), config, pairs_of_ranks=pairs)
    assert used == ([1] if by_chunks else [])


def test_grad_checkpointing_changes_no_bit():
    plain, again = gradients(PLAIN), gradients(PLAIN.model_copy(update={"grad_checkpointing": True}))
    assert plain[0] == again[0]
    assert all(again[1][name].equal(gradient) for name, gradient in plain[1].items())


def test_grad_checkpointing_keeps_fewer_bytes():
    """Count the bytes that autograd keeps for the backward pass."""

    def kept_bytes(config):
        model, sizes = model_of(config).train(), {}

        def pack(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            images, (texts,) = batch(64)
            outputs = model(images, texts)
        assert outputs.image_features_BD.requires_grad
        return sum(sizes.values())

    assert kept_bytes(PLAIN.model_copy(update={"grad_checkpointing": True})) < 0.4 * kept_bytes(PLAIN)


def test_patches_are_drawn_anew_for_each_sample_and_epoch_and_all_seen_at_the_end():
    config, dimensions = TrainConfig(patch_dropout=0.5, unmasked_tail=0.1), ModelConfig.model_validate(VIT_4)
    first = draw_kept_patches(config, dimensions, 0, 0, np.arange(50), 0.9)
    assert first.shape == (50, 8)
    assert (first.diff(dim=1) > 0).all()
    assert set(first.flatten().tolist()) == set(range(16))
    alone = draw_kept_patches(config, dimensions, 0, 0, np.array([31]), 0.1)
    assert first[31:32].equal(alone)
    other = draw_kept_patches(config, dimensions, 0, 1, np.arange(50), 0.1)
    assert not first.equal(other)
    every = draw_kept_patches(config, dimensions, 0, 0, np.arange(50), 0.91)
    assert every.equal(torch.arange(16).expand(50, -1))
    assert draw_kept_patches(PLAIN, dimensions, 0, 0, np.arange(50), 0.0) is None


def test_a_locked_training_is_resumed_to_the_same_bits(make_job, tmp_path):
    assert run_training(make_job("start", epochs=1)) == 0
    settings = {
        "init": str(tmp_path / "start"),
        "vocabulary": str(tmp_path / "start" / "tokenizer.json"),
        "lock_image": True,
        "lock_text": True,
        "unlocked_text_groups": 2,
        "patch_dropout": 0.5,
        "loss": "sigmoid",
        "grad_cache": 4,
        "checkpoint_every": 3,
    }
    whole, cut = (make_job(name, epochs=2, **settings) for name in ("whole", "cut"))
    assert run_training(whole) == run_training(cut) == 0
    for name in ("model.safetensors", "done.json"):
        (tmp_path / "cut" / name).unlink()
    assert run_training(cut) == 0
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert first == second
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("start", "whole"))
    block = {f"transformer.resblocks.1.{name}" for name in ("attn.in_proj_weight", "mlp.c_fc.bias")}
    changed = {name for name, tensor in before.items() if not tensor.equal(after[name])}
    assert block | {"text_projection", "logit_scale"} <= changed
    assert all(name.startswith(("transformer.resblocks.1.", "text_", "logit_", "ln_final")) for name in changed)
