"""The hook of `[train.forget]`: it keeps what a later replay needs, and replays. No torch is imported here."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from dataops.config import FrozenModel
from training.step_hooks import StepHook

if TYPE_CHECKING:
    from torch import Tensor

    from dataops.snapshot import Manifest
    from dataops.store import Store
    from training.config import TrainConfig
    from training.data.loader import Dataset
    from training.data.sample_index import SampleIndex
    from training.data.sampling_plan import Plan
    from training.job import Job
    from training.model.clip import CLIP
    from training.model.tokenizer import Tokenizer


class ForgetConfig(FrozenModel):
    """`[train.forget]`: what a training keeps, so that pairs can be forgotten later (docs/rights/forget.md)."""

    checkpoints: Annotated[int, Field(ge=0, le=1000)] = 4
    """Number of checkpoints that the snapshot keeps to replay from: each is before the first visits of an equal share of
    the pairs."""
    phases: Annotated[int, Field(ge=1, le=1000)] = 1
    """Phases of the training: the shards are dealt to them, and each has all its epochs on its own shards only. What is
    computed from the data before the first step, such as `start`, reads the shards of the first phase."""
    base: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")] | None = None
    """Key of the training whose batches this one repeats, without the pairs that its dataset has no more. `pairmill forget`
    sets it."""
    from_start: bool = False
    """Replay from the first step, not from a checkpoint of `base`: the reference that a proof compares with."""


class _Forget(StepHook):
    config, table, order = ForgetConfig, "forget", 90

    def check(self, config: "TrainConfig") -> None:
        if config.dataset:
            raise ValueError("forget: a training on several datasets cannot be replayed; remove train.dataset")
        if config.shard_cache_bytes:
            raise ValueError(
                "forget: shards that arrive while training runs cannot be replayed; set shard_cache_bytes = 0"
            )
        if config.shuffle_shards and self.settings(config).phases > 1:
            raise ValueError("forget.phases: each phase shuffles all its shards together; set shuffle_shards = 0")

    def prepare_job(self, config: "TrainConfig", store: "Store", datasets: "Sequence[Manifest]", folder: Path) -> None:
        from plugins.forget.replay import prepare_job

        prepare_job(config, store, datasets, folder)

    def change_plan(self, plan: "Plan", job: "Job", index: "SampleIndex") -> "Plan":
        from plugins.forget.places import change_plan

        return change_plan(plan, job, index)

    def compute_features(
        self, job: "Job", config: "TrainConfig", model: "CLIP", tokenizer: "Tokenizer", dataset: "Dataset"
    ) -> "Callable[[Sequence[str]], Tensor] | None":
        from plugins.forget.checkpoint import place_checkpoints
        from plugins.forget.places import count_start_shards

        place_checkpoints(job, model, tokenizer)
        dataset.shards_at_start = count_start_shards(job, dataset.index)
        return None

    def facts(self, folder: Path) -> dict[str, Any]:
        from plugins.forget.replay import state_facts

        return state_facts(folder)

    def list_output(self, folder: Path) -> list[Path]:
        from plugins.forget.replay import list_output

        return list_output(folder)


FORGET = _Forget()
