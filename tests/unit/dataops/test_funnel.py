from dataops.facts import funnel_rows
from dataops.snapshot import Counts
from tests.manifests import build_manifest


def manifest(stage, counts):
    return build_manifest(stage, counts=counts)


FILTER = manifest("filter", Counts(input=100, kept=60, dropped={"too_short": 10, "language": 20, "a": 10, "never": 0}))
EXTRACT = manifest("extract", Counts(input=100, kept=100))
TRAIN = manifest("train", Counts(input=60, kept=60))


def test_funnel_has_one_row_per_reason_most_frequent_first():
    rows = funnel_rows([TRAIN, FILTER, EXTRACT])
    assert [(r["stage"], r["reason"], r["dropped"], r["share"]) for r in rows] == [
        ("extract", "", 0, 0.0),
        ("filter", "language", 20, 0.2),
        ("filter", "a", 10, 0.1),
        ("filter", "too_short", 10, 0.1),
    ]
    assert {(r["input"], r["kept"]) for r in rows[1:]} == {(100, 60)}
