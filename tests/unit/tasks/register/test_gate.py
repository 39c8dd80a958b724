"""Floors of the gate."""

from types import SimpleNamespace

import pyarrow as pa
import pytest

from dataops.snapshot import Draft
from dataops.store import FolderStore
from tasks.register.gate import Verdict, check_floors, judge_without_gate
from tests.manifests import build_manifest

ROWS = [
    {"key": "seen/top1", "value": 0.06},
    {"key": "held-out/R_at_1", "value": 0.1},
    {"key": "seen/nothing", "value": None},
    {"key": "seen/nan", "value": float("nan")},
]


@pytest.mark.parametrize(
    ("floors", "verdict"),
    [
        ({}, "passed"),
        ({"seen/top1": 0.06}, "passed"),  # a floor is the lowest value that passes
        ({"held-out/R@1": 0.1}, "passed"),
        ({"seen/top1": 0.061}, "refused: seen/top1 is 0.06, floor 0.061"),
        ({"seen/top1": 1, "held-out/R@1": 0.2}, "refused: held-out/R@1 is 0.1, floor 0.2; seen/top1 is 0.06, floor 1"),
        ({"seen/nothing": 0.0}, "refused: seen/nothing is no number, floor 0"),
        ({"seen/nan": 0.0}, "refused: seen/nan is nan, floor 0"),
    ],
)
def test_check_floors_refuses_each_metric_below_its_floor(floors, verdict):
    assert str(check_floors(floors, ROWS)) == verdict


def evaluation(store, key, right):
    """Return an evaluate snapshot with the predictions of some tasks, given which examples are right."""
    draft, parts = Draft(store, "evaluate", f"{key:0<16}"), []
    for task, answers in right.items():
        ranks = {"rank": [1 if answer else 2 for answer in answers]} if task != "choice" else {"is_right": answers}
        table = pa.table({"key": [str(n) for n in range(len(answers))], **ranks})
        parts.append(draft.put_table(f"predictions-{task}.parquet", table))
    return draft.commit(build_manifest(stage="evaluate", key=draft.key, parts=parts))


def metrics(**low):
    """Return metrics.json of tasks, given the lower ends of the intervals; the chance level is 0.1."""
    return {task: {"metrics": {"top1": {"value": 0.2, "low": end, "chance": 0.1}}} for task, end in low.items()}


@pytest.mark.parametrize(
    ("low", "champion", "finding", "alias"),
    [
        ({"a": 0.09, "b": 0.1}, None, "above chance on 0 of 2 tasks, so it is only a candidate", False),
        ({"a": None}, None, "above chance on 0 of 1 task, so it is only a candidate", False),
        ({}, None, "not evaluated, since evaluate.suite is not set, so it is only a candidate", False),
        ({"a": 0.11, "b": 0.09}, None, "above chance on 1 of 2 tasks", True),
        ({"a": 0.11, "b": 0.09}, 100, "above chance on 1 of 2 tasks, not worse than m version 3", True),
        ({"choice": 0.11}, 100, "above chance on 1 of 1 task, not worse than m version 3", True),
        (
            {"b": 0.11},
            100,
            "above chance on 1 of 1 task, cannot be compared with m version 3, so it is only a candidate",
            False,
        ),
        (
            {"a": 0.11, "b": 0.09},
            150,
            "above chance on 1 of 2 tasks, worse than m version 3 on a, so it is only a candidate",
            False,
        ),
    ],
)
def test_without_a_gate_only_a_model_above_chance_and_not_worse_gets_the_alias(tmp_path, low, champion, finding, alias):
    store = FolderStore(tmp_path)
    ours = evaluation(store, "ours", {"a": [n < 100 for n in range(200)], "b": [True], "choice": [True]})
    holder = None
    if champion is not None:
        theirs = evaluation(store, "theirs", {"a": [n < champion for n in range(200)], "choice": [True]})
        holder = SimpleNamespace(name="m", version="3", tags={"snapshot.evaluate": theirs.key})
    verdict = judge_without_gate(metrics(**low), store, holder, ours, 0.05)
    assert str(verdict) == verdict.sentence == f"no gate: register.floors is empty; {finding}"
    assert (verdict.passed, verdict.gets_alias) == (True, alias)
    assert len(verdict.comparisons) == (champion is not None and bool({"a", "choice"} & {*low}))
    parsed = Verdict.parse(str(verdict))
    assert (str(parsed), parsed.gets_alias) == (str(verdict), alias)
