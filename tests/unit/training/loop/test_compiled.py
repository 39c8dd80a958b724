"""Compiled towers: one graph each, whatever the number of pairs and tokens, and the same bits.

torch finds the graphs; the part that would turn them into kernels is replaced by one that runs each graph as it is.
"""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainings import RESNET, VIT, make_batch
from training import sharding
from training.model.clip import CLIP, compile_towers
from training.model_config import ModelConfig
from training.train import main


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Compile by a backend that collects the names of the modules whose graphs it gets."""
    compile_function, found = torch.compile, list[str]()

    @cache
    def make_backend(name: str) -> Callable[..., Any]:
        def run_as_is(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., Any]:
            found.append(name)
            return graph.forward

        return run_as_is

    def compile_as_is(method: Any, **options: Any) -> Callable[..., Any]:
        return compile_function(method, backend=make_backend(type(method.__self__).__name__), **options)

    monkeypatch.setattr(torch, "compile", compile_as_is)
    torch._dynamo.reset()
    yield found
    torch._dynamo.reset()


@pytest.mark.timeout(180)  # the compiler's own modules take seconds to load
@pytest.mark.filterwarnings("ignore")  # of the compiler's own code
@pytest.mark.parametrize(
    ("tower", "kept", "settings", "expected"),
    [
        (VIT, (2, 2, 4), "", ["VisionTransformer", "Block"]),
        (VIT, (2, 2, 4), "recompute", ["VisionTransformer", "Block"]),
        (VIT, (2, 2, 2), "recompute, by block", ["Block"] * 3),
        (RESNET, (None, None, None), "", ["ModifiedResNet", "Block"]),
    ],
)
def test_each_tower_is_one_graph_for_all_steps(
    graphs: list[str], tower: dict[str, Any], kept: tuple[int | None, ...], settings: str, expected: list[str]
) -> None:
    """All blocks of the text tower share a graph, and an evaluation in between compiles nothing.

    By block, those of the image tower share one, which is compiled again when the number of pairs changes.
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
            images_BD, texts_BD, *_ = model(*make_batch(pairs, kept_of_step))
            (images_BD.square().sum() + texts_BD.square().sum()).backward()
            with torch.compiler.set_stance("force_eager"), torch.inference_mode():
                model.eval().encode_image(torch.zeros(3, 3, 32, 32))
                model.train()
        found.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert graphs == expected
    for name, gradient in found[0].items():
        other = found[1][name]
        assert (gradient is None) == (other is None)
        assert gradient is None or gradient.equal(other), name


@pytest.mark.usefixtures("process_state")
def test_the_config_compiles_the_towers(make_job: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[CLIP] = []
    monkeypatch.setattr(sharding, "compile_towers", lambda model, by_block: compiled.append(model))
    for is_compiled in (False, True):
        assert main([str(make_job(f"job-{is_compiled}", "vit", epochs=1, compile=is_compiled))]) == 0
        assert len(compiled) == is_compiled
