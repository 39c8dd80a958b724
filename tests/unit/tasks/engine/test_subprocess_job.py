import os
import textwrap
from pathlib import Path

import pytest

from dataops.errors import ConfigError, JobFailed, TrainingDiverged
from tasks.engine.subprocess_job import run_job


def module(folder, name, text):
    (folder / f"{name}.py").write_text(text)
    return name


@pytest.mark.parametrize(
    ("code", "error", "exit_code", "retryable"),
    [
        (1, JobFailed, 1, False),
        (2, ConfigError, 2, False),
        (4, TrainingDiverged, 4, False),
        (75, JobFailed, 75, True),
        (9, JobFailed, 1, False),
    ],
)
def test_run_job_raises_the_error_of_the_exit_code_with_the_last_log_lines(tmp_path, code, error, exit_code, retryable):
    name = module(tmp_path, f"bad_job_{code}", f"import sys\nprint('what went wrong')\nsys.exit({code})\n")
    with pytest.raises(error, match="what went wrong") as caught:
        run_job(name, {}, tmp_path / "work", root=tmp_path)
    assert (caught.value.exit_code, caught.value.retryable) == (exit_code, retryable)
    assert str(tmp_path / "work" / "job.log") in str(caught.value)


def test_run_job_reads_the_exit_code_from_a_file_under_torchrun(tmp_path):
    text = "import json, sys\njson.dump({'exit_code': 4, 'message': 'step 7: nan'}, open('%s', 'w'))\nsys.exit(1)\n"
    name = module(tmp_path, "diverged_job", text % (tmp_path / "work" / "failure.json"))
    with pytest.raises(TrainingDiverged, match=r"\Astep 7: nan\n.log of python -m diverged_job: .*/job.log.\Z"):
        run_job(name, {}, tmp_path / "work", root=tmp_path)
    name = module(tmp_path, "later_job", "import sys\nsys.exit(75)\n")
    with pytest.raises(JobFailed):  # an older failure is not taken for this one's
        run_job(name, {}, tmp_path / "work", root=tmp_path)


def test_run_job_raises_an_error_that_is_not_retryable_when_a_torchrun_job_is_broken(tmp_path):
    """Read the error as torchrun writes it; tests/integration/test_torchrun.py starts the real one."""
    name = module(tmp_path, "broken", "print('  rank      : 0\\n  exitcode  : 7 (pid: 12)')\nraise SystemExit(1)\n")
    with pytest.raises(JobFailed, match="exit code 7") as caught:
        run_job(name, {}, tmp_path / "work", root=tmp_path)
    assert (caught.value.exit_code, caught.value.retryable) == (1, False)
    name = module(
        tmp_path, "apart", "raise SystemExit('torch.distributed.DistStoreError: wait timeout after 60000ms')\n"
    )
    with pytest.raises(JobFailed, match="wait timeout") as caught:
        run_job(name, {}, tmp_path / "work", root=tmp_path)
    assert caught.value.exit_code == 75


def test_run_job_raises_a_retryable_error_when_the_job_is_killed(tmp_path):
    name = module(tmp_path, "killed_job", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    with pytest.raises(JobFailed, match="SIGKILL") as caught:
        run_job(name, {}, tmp_path / "work", root=tmp_path)
    assert caught.value.exit_code == 75


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
