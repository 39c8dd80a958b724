"""What a server of forks does first: it imports, and takes steps of divided models, which fill torch's caches.

Each fork then looks for garbage only among its own objects.
"""

import gc

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from tests import job_processes  # noqa: F401
from tests.trainings import VIT, make_batch
from training import train  # noqa: F401
from training.config import TrainConfig
from training.loop.training_run import build_learner
from training.model_config import ModelConfig


def divide_model(ranks):
    """Take the step of one of several ranks, without the others."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    config = TrainConfig(precision="fp32", sharding="full")
    learner = build_learner(config, ModelConfig.model_validate(VIT), 0, torch.device("cpu"))
    images_BD, texts_BD, *_ = learner.forward(*make_batch(5, None))
    (images_BD.sum() + texts_BD.sum()).backward()
    learner.optimizer.step()
    dist.destroy_process_group()


torch.set_num_threads(1)  # no thread may run when it forks
# A build for CUDA or ROCm starts threads at the first backward pass, also without a card, and then refuses those of forks.
for _ranks in () if torch.backends.cuda.is_built() else (2, 3):
    divide_model(_ranks)
gc.collect()
gc.freeze()
