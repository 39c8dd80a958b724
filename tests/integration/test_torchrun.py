"""The exit code of a trainer under torchrun, which itself always ends with 1."""

import pytest

import tasks.engine.subprocess_job
from dataops.errors import JobFailed
from tasks.engine.subprocess_job import run_job

LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1")


def test_job_is_retryable_when_its_trainer_is_killed(tmp_path, monkeypatch):
    """As by lack of memory or pre-emption; tests/unit/tasks/engine/test_subprocess_job.py has the other exit codes."""
    monkeypatch.setattr(tasks.engine.subprocess_job, "CHECKOUT", tmp_path)
    (tmp_path / "a_trainer.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    with pytest.raises(JobFailed, match="SIGKILL") as caught:
        run_job("a_trainer", {}, tmp_path / "work", launcher=(*LAUNCHER, f"--log-dir={tmp_path / 'logs'}"))
    assert (caught.value.exit_code, caught.value.retryable) == (75, True)
