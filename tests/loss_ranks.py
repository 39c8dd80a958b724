"""Losses of one small step, on any number of ranks. As a program it computes them on two and on three gloo ranks.

`python -m tests.loss_ranks FOLDER` reads cases.json in FOLDER, and writes the result of each rank into it. The ranks are
forks of one process, since an import of torch costs more than all losses.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn import functional as F

from dataops.home import CHECKOUT
from training.config import TrainConfig
from training.losses.loss import compute_loss
from training.model.clip import Outputs

PAIRS, WIDTH = 13, 6
IDENTITIES = torch.tensor(
    [[1, 1], [2, 2], [3, 3], [1, 4], [5, 2], [6, 6], [7, 7], [1, 2], [8, 8], [9, 9], [8, 8], [10, 6], [11, 11]]
)
"""Images 1 and 8 and captions 2, 6 and 8 occur several times."""
TEACHER_SCALE = 9.0


def make_teacher():
    """Return the features of another model, of another width."""
    features = torch.randn(PAIRS, 2, 4, generator=torch.Generator().manual_seed(7))
    return F.normalize(features, dim=2)


def make_leaves(dtype=torch.float32):
    """Return images, texts, log of the scale and bias."""
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.randn(2, PAIRS, WIDTH, generator=generator) * 3
    return [v.to(dtype).requires_grad_() for v in (images, texts, torch.tensor(1.2), torch.tensor(-2.0))]


def compute(settings, rank=0, ranks=1):
    """Return the loss and the hits of this rank, and the gradients of its own features, of scale and bias.

    Args:
        settings: of `[train]`.
    """
    config = TrainConfig.model_validate({"loss_rows": 4, **settings})
    counts = [PAIRS // ranks + (number < PAIRS % ranks) for number in range(ranks)]
    own = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
    images, texts, scale, bias = (leaf.detach() for leaf in make_leaves())
    leaves = [value.clone().requires_grad_() for value in (images[own], texts[own], scale, bias)]
    inputs = {"identities_B2": IDENTITIES[own], "teacher_scale": torch.tensor(TEACHER_SCALE)}
    inputs |= {"teacher_B2T": make_teacher()[own]}
    outcome = compute_loss(Outputs(*leaves), config, counts, inputs)
    (3 * outcome.loss).backward()
    values = {"loss": outcome.loss.detach(), "image_hits": outcome.image_hits, "text_hits": outcome.text_hits}
    gradients = zip(("images", "texts", "scale", "bias"), leaves, strict=True)
    return values | {name: leaf.grad for name, leaf in gradients if leaf.grad is not None}


def join_ranks(results):
    """Return the result of one process: the rows of the ranks one after the other, and the sums of all else."""
    joined = {name: [result[name] for result in results if name in result] for name in results[0]}
    return {name: torch.cat(v) if name in ("images", "texts") else torch.stack(v).sum(0) for name, v in joined.items()}


def compute_on_ranks(folder, cases):
    """Return the result of each case by number of ranks, joined as that of one process."""
    (folder / "cases.json").write_text(json.dumps(cases))
    command = [sys.executable, "-m", "tests.loss_ranks", str(folder)]
    subprocess.run(command, check=True, cwd=CHECKOUT)
    found = {1: {name: compute(settings) for name, settings in cases.items()}}
    for ranks in (2, 3):
        results = [torch.load(folder / f"{ranks}-{rank}.pt", weights_only=True) for rank in range(ranks)]
        found[ranks] = {name: join_ranks([result[name] for result in results]) for name in cases}
    return found


def main(folder):
    """Compute all cases on several ranks, and return the number of ranks that failed."""
    cases = json.loads((folder / "cases.json").read_text())
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    children = []
    for ranks in (2, 3):
        for rank in range(ranks):
            if (child := os.fork()) == 0:
                store = dist.FileStore(str(folder / f"store-{ranks}"), ranks)  # pyright: ignore[reportPrivateImportUsage]
                dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
                found = {name: compute(settings, rank, ranks) for name, settings in cases.items()}
                torch.save(found, folder / f"{ranks}-{rank}.pt")
                dist.destroy_process_group()
                os._exit(0)
            children.append(child)
    return sum(os.waitpid(child, 0)[1] != 0 for child in children)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
