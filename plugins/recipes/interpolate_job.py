"""Write models whose weights lie between those of two: `python -m plugins.recipes.interpolate_job JOB.json`.

Source: Wortsman et al. 2022 (WiSE-FT), section 3.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor

from training.job import JobFile, run_command
from training.model.checkpoint import load_model, save_model
from training.model.clip import CLIP
from training.model.pretrained import load_towers


class InterpolateJob(JobFile):
    """The two models, and where those between them go."""

    base: str
    """The model before it was adapted: ours, OpenAI's or open_clip's, as `train.init` takes it."""
    tuned: Path
    """Folder of the adapted model."""
    models: dict[str, float]
    """Share of the adapted weights of each model, by its folder."""


def run_job(job: InterpolateJob) -> None:
    """Write the models. Raises: ConfigError if the weights of the base do not fit the adapted model."""
    tuned = load_model(job.tuned)
    base = CLIP(tuned.config)
    base.load_state_dict(tuned.model.state_dict())  # its temperature, where the base has none
    load_towers(base, job.base, image_only=False)
    ends = (base.state_dict(), {name: tensor.clone() for name, tensor in tuned.model.state_dict().items()})
    for folder, share in job.models.items():
        tuned.model.load_state_dict(interpolate_weights(*ends, share))
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_model(Path(folder), tuned.model, tuned.tokenizer, tuned.preprocess)


def interpolate_weights(base: dict[str, Tensor], tuned: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return the weights at a share of the way; counts, such as those of batch norms, are the adapted model's."""
    return {name: torch.lerp(base[name], one, share) if one.is_floating_point() else one for name, one in tuned.items()}


def main(arguments: list[str]) -> int:
    """Run the job file that the command line names, and return the exit code."""
    return run_command(arguments, InterpolateJob, run_job)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
