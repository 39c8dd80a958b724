"""The end of a trainer comes through torchrun, which itself always ends with 1."""

import pytest

import tasks.job
from dataops.errors import JobFailed
from tasks.job import run_job

LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1")


@pytest.mark.parametrize(
    ("text", "exit_code", "says"),
    [
        ("import os\nos.kill(os.getpid(), 9)\n", 75, "SIGKILL"),  # out of memory, or a machine that is taken back
        ("raise SystemExit(7)\n", 1, "exit code 7"),
    ],
)
def test_a_killed_trainer_is_worth_another_try_and_a_broken_one_is_not(tmp_path, monkeypatch, text, exit_code, says):
    monkeypatch.setattr(tasks.job, "ROOT", tmp_path)
    (tmp_path / "a_trainer.py").write_text(text)
    with pytest.raises(JobFailed, match=says) as caught:
        run_job("a_trainer", {}, tmp_path / "work", launcher=(*LAUNCHER, f"--log-dir={tmp_path / 'logs'}"))
    assert (caught.value.exit_code, caught.value.retryable) == (exit_code, exit_code == 75)
