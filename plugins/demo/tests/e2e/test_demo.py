"""`pairmill demo --quick`: all stages on the demo's web, whose oddities end as dropped rows with reasons."""

import json

import pytest

from plugins.demo.build import BUILT_FILE
from tests.small_pipeline import Pairmill

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("deploy")]


def test_quick_demo_registers_a_model_and_names_the_reason_of_each_oddity(pairmill: Pairmill):
    result = pairmill.json("demo", "--quick", "--set", "train.epochs=1")
    assert result["model_version"] == "models:/pairmill-demo-quick/1"
    dropped = {stage["stage"]: stage["counts"]["dropped"] for stage in result["stages"] if "dropped" in stage["counts"]}
    built = json.loads((pairmill.folder / "home" / "demo-quick" / BUILT_FILE).read_text())
    assert dropped["extract"]["opt_out"] >= built["facts"]["opted_out_by_page"]
    assert dropped["download"]["opt_out"] >= 1
    reasons = {reason for of_stage in dropped.values() for reason in of_stage}
    expected = {"data_url", "not_http", "no_caption", "language", "duplicate_uid", "http_404", "not_an_image"}
    assert expected | {"private_address", "exact_duplicate"} <= reasons
