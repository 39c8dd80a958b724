"""Simulate races of variants: what they cost beside all trainings, and how often they drop the best variant.

    python -m benchmarks.race [--quick] [--json]

`cases` has the cost of a race, as a share of all trainings. For it and for one look at all trainings, by the same rule, it
has how often the best variant is dropped, how many of the worse ones are, and how often only the best is left.
"""

import numpy as np

from benchmarks.measure import Row, finish, make_parser
from plugins.experiments.comparisons import TaskScores
from plugins.experiments.race import Race

FAR, MIXED = [0.0, -0.1, -0.2, -0.3], [0.0, -0.02, -0.05, -0.1, -0.12, -0.15, -0.2, -0.3]
CASES = {
    "8 equal, 5 seeds": (5, [0.0] * 8),
    "4 far, 3 seeds": (3, FAR),
    "4 far, 5 seeds": (5, FAR),
    "4 far, 7 seeds": (7, FAR),
    "4 far, 10 seeds": (10, FAR),
    "8 mixed, 5 seeds": (5, MIXED),
    "8 mixed, 7 seeds": (7, MIXED),
    "8 mixed, 10 seeds": (10, MIXED),
}
"""Seeds, and what is added to the share of right answers of each variant; the first one is the best."""
GOAL = 0.6
CLASSES, IMAGES, OF_SEEDS, OF_CLASSES = 60, 5, 0.02, 0.05
"""Classes, images of a class, and standard deviations of the share of right answers of a training and of a class."""


def draw_scores(generator, effects, seeds):
    """Return whether each variant is right with each seed on each image (V, S, N)."""
    shape = (len(effects), seeds, CLASSES * IMAGES)
    of_classes = np.repeat(generator.normal(0, OF_CLASSES, (len(effects), 1, CLASSES)), IMAGES, axis=2)
    right = 0.5 + np.array(effects)[:, None, None] + generator.normal(0, OF_SEEDS, (*shape[:2], 1)) + of_classes
    return (generator.random(shape) < right).astype(float)


def play(scores, *, racing):
    """Return the race, and the number of trainings that it takes."""
    variants, seeds, images = scores.shape
    race, cost = Race(variants, seeds, 0.95, racing=True), 0
    classes = np.repeat(np.arange(CLASSES), IMAGES)

    def read(chosen, first):
        return [[TaskScores("", scores[list(chosen), :first], np.ones(images), classes)], []]

    for trained in range(1, seeds + 1):
        cost += len(race.active) if len(race.active) > 1 else 0
        if trained == seeds or (racing and trained > 1):
            race.take(read, trained)
    return race, cost


def main():
    """Play each case both ways on the same scores."""
    options = make_parser(__doc__).parse_args()
    races, generator, rows, details = 20 if options.quick else 400, np.random.default_rng(0), [], {}
    for case, (seeds, effects) in CASES.items():
        found = {}
        for _ in range(races):
            scores = draw_scores(generator, effects, seeds)
            for name, racing in (("race", True), ("all", False)):
                race, cost = play(scores, racing=racing)
                for what, value in (
                    ("cost", cost / scores[:, :, 0].size),
                    ("best dropped", 0 in race.dropped),
                    ("others dropped", len({*race.dropped} - {0}) / (len(effects) - 1)),
                    ("one left", race.active == [0]),
                ):
                    found.setdefault(f"{what}, {name}", []).append(float(value))
        details[case] = {name: round(float(np.mean(values)), 4) for name, values in found.items()}
        goal = None if "equal" in case else 1.0
        rows.append(Row(case, GOAL, details[case]["cost, race"], "cost", "of all trainings at most", goal))
    return finish("race", rows, ["numpy"], equal=True, as_json=options.json, details={"races": races, "cases": details})


if __name__ == "__main__":
    raise SystemExit(main())
