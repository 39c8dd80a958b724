"""What a training has forgotten: the facts of its snapshot, and the section of its model's card."""

from dataops.facts import Facts
from dataops.formatting import format_quantity
from dataops.snapshot import Manifest
from tasks.reports.page import Section


class ForgetFacts(Facts):
    """Facts of a training with `[train.forget]`."""

    stage = "train"
    table = "forget"
    base: str | None = None
    """Key of the training that it replays."""
    removed: int = 0
    """Places that are empty."""
    step: int = 0
    """Step of the checkpoint from which it was replayed."""
    steps: int = 0
    """Steps of the whole training."""
    forgotten: tuple[str, ...] = ()
    """Requests whose pairs the base was trained on, and this model is as if they had never been there."""
    environments: tuple[dict[str, str], ...] = ()
    """Processor and torch of each start."""


def describe_forgotten(train: Manifest) -> list[Section]:
    """Return the section of a training that replayed another one; none for any other."""
    facts = ForgetFacts.of(train)
    if facts.base is None:
        return []
    what = (
        f"This training repeats train/{facts.base} with {format_quantity(facts.removed, 'place')} of its batches empty, "
        f"from step {facts.step:,} of {facts.steps:,}. Its weights are those of a training in which these pairs had never "
        "been."
    )
    limits = (
        "Requests that are not listed and came after the training are only out of later versions of the dataset: the "
        "weights depend on their pairs. Pretrained weights that it starts from, and copies of the first model, have "
        "forgotten nothing."
    )
    rows = [[request, "forgotten exactly"] for request in facts.forgotten]
    return [Section("Forgotten", [what, limits], ["takedown request", "state"], rows)]
