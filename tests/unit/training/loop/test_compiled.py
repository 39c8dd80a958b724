"""Compiled towers: one graph each, whatever the number of pairs and tokens, and the same bits.

torch finds the graphs; the part that would turn them into kernels is replaced by one that runs each graph as it is.
"""

from functools import cache

import pytest
import torch

from tests.trainings import RESNET, VIT, make_batch
from training.model import clip
from training.model.clip import CLIP, compile_towers
from training.model_config import ModelConfig


@pytest.fixture
def graphs(monkeypatch):
    """Compile by a backend that collects the names of the modules whose graphs it gets."""
    compile_function, found = torch.compile, []

    @cache
    def make_backend(name):
        def run_as_is(graph, inputs):
            found.append(name)
            return graph.forward

        return run_as_is

    def compile_as_is(function, **options):
        name = type(function.__self__).__name__ if hasattr(function, "__self__") else function.__name__.strip("_")
        return compile_function(function, backend=make_backend(name), **options)

    monkeypatch.setattr(torch, "compile", compile_as_is)
    _forget_graphs()
    yield found
    _forget_graphs()


def _forget_graphs():
    torch._dynamo.reset()
    clip.compile_function.cache_clear()


@pytest.mark.timeout(180)  # the compiler's own modules take seconds to load
@pytest.mark.filterwarnings("ignore")  # of the compiler's own code
@pytest.mark.parametrize(
    ("tower", "kept", "settings", "expected"),
    [
        (VIT, (2, 2, 4), "recompute", ["VisionTransformer", "embed", "Block"]),
        (VIT, (2, 2, 2), "by block, images", ["Block", "Block"]),
        (RESNET, (None, None, None), "images", ["ModifiedResNet"]),
    ],
)
def test_each_tower_is_one_graph_for_all_steps(graphs, tower, kept, settings, expected):
    """All blocks of the text tower share a graph, and an evaluation in between compiles nothing.

    By block, those of the image tower share one, which is compiled again when the number of pairs changes. The text tower
    is the same in all cases, so only the first has texts.
    """
    dimensions = ModelConfig.model_validate({**tower, "text_cfg": {**tower["text_cfg"], "layers": 3}})
    found = []
    for is_compiled in (False, True):
        torch.manual_seed(0)
        model = CLIP(dimensions).train()
        model.set_grad_checkpointing("recompute" in settings)
        if is_compiled:
            compile_towers(model, by_block="by block" in settings)
        for pairs, kept_of_step in zip((5, 6, 9), kept, strict=True):
            images, texts, kept_BK = make_batch(pairs, kept_of_step)
            loss = model.encode_image(images, kept_BK).square().sum()
            if "images" not in settings:
                loss = loss + model.encode_text(texts).square().sum()
            loss.backward()
            with torch.compiler.set_stance("force_eager"), torch.inference_mode():
                model.eval().encode_image(torch.zeros(3, 3, 32, 32))
                model.train()
        found.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert graphs == expected
    for name, gradient in found[0].items():
        other = found[1][name]
        assert (gradient is None) == (other is None)
        assert gradient is None or gradient.equal(other), name
