"""What a server of forks imports before training jobs; each fork then looks for garbage only among its own objects."""

import gc
import importlib

for _module in ("training.train", "torch._dynamo", "torch.distributed.fsdp", "tests.job_processes", "tests.trainings"):
    importlib.import_module(_module)
gc.collect()
gc.freeze()
