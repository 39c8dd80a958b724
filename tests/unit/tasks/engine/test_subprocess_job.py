import os
import textwrap
from pathlib import Path

import pytest

from dataops.errors import ConfigError, JobFailed, TrainingDiverged
from tasks.engine.subprocess_job import run_job


def module(folder, name, text):
    (folder / f"{name}.py").write_text(text)
    return name


SAYS = "print('what went wrong')\nraise SystemExit({})\n"
KILLED = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n"
BROKEN = "print('  rank      : 0\\n  exitcode  : 7 (pid: 12)')\nraise SystemExit(1)\n"
APART = "raise SystemExit('torch.distributed.DistStoreError: wait timeout after 60000ms')\n"
"""Errors as torchrun writes them; tests/integration/test_torchrun.py starts the real one."""


@pytest.mark.parametrize(
    ("text", "error", "said", "exit_code"),
    [
        (SAYS.format(1), JobFailed, "what went wrong", 1),
        (SAYS.format(2), ConfigError, "what went wrong", 2),
        (SAYS.format(4), TrainingDiverged, "what went wrong", 4),
        (SAYS.format(75), JobFailed, "what went wrong", 75),
        (SAYS.format(9), JobFailed, "what went wrong", 1),
        (KILLED, JobFailed, "SIGKILL", 75),
        (BROKEN, JobFailed, "exit code 7", 1),
        (APART, JobFailed, "wait timeout", 75),
    ],
)
def test_run_job_raises_the_error_of_the_job_with_its_last_log_lines(tmp_path, text, error, said, exit_code):
    name = module(tmp_path, "bad_job", text)
    with pytest.raises(error, match=said) as caught:
        run_job(name, {}, tmp_path / "work", root=tmp_path)
    assert (caught.value.exit_code, caught.value.retryable) == (exit_code, exit_code == 75)
    assert str(tmp_path / "work" / "job.log") in str(caught.value)


def test_run_job_reads_the_exit_code_from_a_file_under_torchrun(tmp_path):
    text = "import json, sys\njson.dump({'exit_code': 4, 'message': 'step 7: nan'}, open('%s', 'w'))\nsys.exit(1)\n"
    name = module(tmp_path, "diverged_job", text % (tmp_path / "work" / "failure.json"))
    with pytest.raises(TrainingDiverged, match=r"\Astep 7: nan\n.log of python -m diverged_job: .*/job.log.\Z"):
        run_job(name, {}, tmp_path / "work", root=tmp_path)
    name = module(tmp_path, "later_job", "import sys\nsys.exit(75)\n")
    with pytest.raises(JobFailed):  # an older failure is not taken for this one's
        run_job(name, {}, tmp_path / "work", root=tmp_path)


def test_run_job_ends_the_job_when_interrupted(tmp_path):
    name = module(tmp_path, "long_job", "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(600)\n")
    pids = []

    def interrupt(line):
        pids.append(int(line))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(name, {}, tmp_path / "work", root=tmp_path, on_line=interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_a_stop_is_recorded_before_the_checkpoint_of_the_job_is_awaited(tmp_path):
    """The job ends only when it sees the file that `on_stop` writes."""
    code = """
        import pathlib, signal, sys, time
        def finish(*_):
            while not pathlib.Path("recorded").exists():
                time.sleep(0.01)
            pathlib.Path("checkpoint").touch()
            sys.exit(75)
        signal.signal(signal.SIGTERM, finish)
        print("trains", flush=True)
        time.sleep(60)
    """
    name = module(tmp_path, "training_job", textwrap.dedent(code))

    def stop(line):
        raise KeyboardInterrupt

    def record(error):
        assert isinstance(error, KeyboardInterrupt)
        Path("recorded").touch()
        raise OSError("the store is down")  # which loses no checkpoint

    with pytest.raises(KeyboardInterrupt):
        run_job(name, {}, tmp_path / "work", root=tmp_path, on_line=stop, on_stop=record)
    assert Path("checkpoint").exists()
