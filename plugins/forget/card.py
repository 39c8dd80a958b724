"""The section of a model's card about what it has forgotten."""

from dataops.formatting import format_quantity
from dataops.snapshot import Manifest
from plugins.forget.replay import ForgetFacts
from tasks.reports.page import Section


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
