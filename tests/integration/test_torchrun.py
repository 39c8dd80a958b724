"""The end of a trainer comes through torchrun, which itself always ends with 1."""

import pytest

import tasks.engine.subprocess_job
from dataops.errors import JobFailed
from tasks.engine.subprocess_job import run_job

LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1")


def test_a_killed_trainer_is_worth_another_try(tmp_path, monkeypatch):
    """Out of memory, or a machine that is taken back. tests/unit/tasks/engine/test_subprocess_job.py has what a broken one is."""
    monkeypatch.setattr(tasks.engine.subprocess_job, "CHECKOUT", tmp_path)
    (tmp_path / "a_trainer.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    with pytest.raises(JobFailed, match="SIGKILL") as caught:
        run_job("a_trainer", {}, tmp_path / "work", launcher=(*LAUNCHER, f"--log-dir={tmp_path / 'logs'}"))
    assert (caught.value.exit_code, caught.value.retryable) == (75, True)
