"""Measures of public suites: average precision, association, choice, linear probe, few shots. No torch here."""

from training.evaluation.measures import Measure, Protocol

_SECTIONS = "plugins.evaluation_sets.sections"

MULTILABEL = Measure(
    ("mean_average_precision", "mean_average_precision_11_points"),
    "plugins.evaluation_sets.multilabel:classify_multilabel",
    page=f"{_SECTIONS}:find_worst_classes",
)
ASSOCIATION = Measure(
    ("jaccard",),
    "plugins.evaluation_sets.association:associate",
    ("loaded", "task", "encoded", "threads"),
    f"{_SECTIONS}:find_worst_words",
)
CHOICE = Measure(
    ("accuracy", "text_score", "image_score", "group_score"),
    "plugins.evaluation_sets.choice:choose_captions",
    ("loaded", "task", "encoded", "threads"),
    f"{_SECTIONS}:find_wrong_choices",
)
LINEAR_PROBE = Protocol(
    "plugins.evaluation_sets.linear_probe:probe",
    lambda found: {f"linear_probe_{name}": found[name] for name in ("top1", "mean_per_class")},
    f"{_SECTIONS}:describe_probe",
    order=1,
)
FEW_SHOT = Protocol(
    "plugins.evaluation_sets.linear_probe:evaluate_few_shot",
    lambda found: {f"few_shot_{each['shots']}_top1": each["top1"] for each in found},
    f"{_SECTIONS}:list_shots",
    order=2,
)
