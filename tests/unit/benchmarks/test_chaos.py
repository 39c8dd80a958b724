"""Test the report of benchmarks/chaos.py."""

import json
from collections import Counter

from benchmarks import chaos
from benchmarks.kills.loop import Kill, Outcome
from dataops.stages import STAGES


def test_report_counts_kills_faults_and_exit_codes(capsys):
    kills = [Kill(stage, "main", 1.0) for stage in STAGES] + [Kill("pack", "all, power lost", 2.0, ("pack/k/a",))]
    outcome = Outcome(kills, Counter({"0": 2, "-9": 9}), 1, [], faults=Counter({"503": 7, "restart": 2}))
    result = chaos.report(outcome, "s3", 2, 61.4)
    assert (result["store"], result["seed"], result["faults"]) == ("s3", 2, {"503": 7, "restart": 2})
    assert {row["case"]: row["ours"] for row in result["rows"]}["kills pack"] == 2
    assert result["equal_output"]
    assert json.loads(json.dumps(result))["kills"][-1]["emptied"] == ["pack/k/a"]
    chaos.show(result)
    shown = capsys.readouterr().out
    assert "9 kills in 1 cycles, 61 s, seed 2, store s3" in shown
    assert "faults: {'503': 7, 'restart': 2}" in shown


def test_report_with_another_digest_does_not_claim_equal_output(capsys):
    outcome = Outcome(findings=["store-1: pack: digest a is not b"])
    result = chaos.report(outcome, "folder", 0, 1)
    assert not result["equal_output"]
    chaos.show(result)
    assert "FINDINGS\nstore-1: pack: digest a is not b" in capsys.readouterr().out
