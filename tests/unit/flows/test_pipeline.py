from dataops.stages import STAGES
from flows.pipeline import PIPELINE


def test_pipeline_has_each_stage_once_in_order():
    assert tuple(step.stage.name for step in PIPELINE) == STAGES


def test_each_stage_reads_stages_before_it():
    for number, step in enumerate(PIPELINE):
        assert {*step.reads} <= {*STAGES[:number]}
