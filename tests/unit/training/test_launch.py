"""The launcher of the ranks of one machine, and how several ranks end; most ranks here are small scripts without torch."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dataops.home import CHECKOUT
from tests.job_processes import Ranks, run_job
from training import distributed, train
from training.job import KNOWN_STEPS, StuckWatch

pytestmark = pytest.mark.xdist_group("ranks")


def start(folder, number, script, **environment):
    """Start ranks that run a script; its argument is the path of the job file."""
    (folder / "rank.py").write_text(script)
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "training.launch",
        str(number),
        str(folder / "rank.py"),
        str(folder / "job.json"),
    ]
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT), **environment}
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process):
    output, _ = process.communicate()
    return process.returncode, output


def test_ranks_get_their_numbers_and_a_meeting_place_that_only_this_user_reads(tmp_path):
    tmp_path.chmod(0o755)
    script = (
        "import json, os, pathlib, sys\n"
        "place = pathlib.Path(os.environ['PAIRMILL_MEETING_FILE']).parent\n"
        "found = [dict(os.environ), oct(place.stat().st_mode), str(place.parent), sys.argv[1:]]\n"
        "pathlib.Path('rank-' + os.environ['RANK']).write_text(json.dumps(found))\n"
    )
    code, output = finish(start(tmp_path, 2, script, HAUSMEISTER="planted", WORLD_SIZE="9", MASTER_ADDR="10.0.0.7"))
    assert (code, output) == (0, "")
    ranks = [json.loads((tmp_path / f"rank-{number}").read_text()) for number in range(2)]
    for number, (environment, mode, parent, arguments) in enumerate(ranks):
        assert (environment["RANK"], environment["LOCAL_RANK"]) == (str(number), str(number))
        assert (environment["WORLD_SIZE"], environment["LOCAL_WORLD_SIZE"]) == ("2", "2")
        assert environment.keys().isdisjoint({"MASTER_ADDR", "MASTER_PORT", "HAUSMEISTER"})
        assert (mode, parent, arguments) == ("0o40700", str(tmp_path), [str(tmp_path / "job.json")])
    assert ranks[0][0]["PAIRMILL_MEETING_FILE"] == ranks[1][0]["PAIRMILL_MEETING_FILE"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rank-0", "rank-1", "rank.py"]


@pytest.mark.parametrize(
    ("end", "rest", "code", "message"),
    [
        ("sys.exit(4)", "time.sleep(600)", 4, "rank 1 of 3 ended with exit code 4"),
        ("sys.exit(75)", "time.sleep(600)", 75, "rank 1 of 3 ended with exit code 75"),
        ("os.kill(os.getpid(), 9)", "time.sleep(600)", 75, "rank 1 of 3 was killed by SIGKILL"),
        ("raise ValueError('what went wrong')", "sys.exit(1)", 1, "what went wrong"),
    ],
)
def test_launcher_ends_all_ranks_with_the_code_of_the_one_that_failed(tmp_path, end, rest, code, message):
    """Rank 0 notices the loss, as gloo does, and ends with 1; rank 2 would mostly wait for ever."""
    script = (
        "import os, pathlib, sys, time\n"
        "rank, folder = os.environ['RANK'], pathlib.Path(sys.argv[1]).parent\n"
        "(folder / f'new-{rank}').write_text(str(os.getpid()))\n"
        "os.rename(folder / f'new-{rank}', folder / f'pid-{rank}')\n"  # the others kill it once the file is there
        "while len(list(folder.glob('pid-*'))) < 3: time.sleep(0.01)\n"
        f"if rank == '2': {rest}\n"
        "if rank == '0':\n"
        "    while os.path.exists(f'/proc/{(folder / \"pid-1\").read_text()}/exe'): time.sleep(0.001)\n"
        "    sys.exit(1)\n"
        f"{end}\n"
    )
    found, output = finish(start(tmp_path, 3, script))
    assert (found, message in output) == (code, True), output
    for rank in range(3):
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / f"pid-{rank}").read_text()), 0)


def test_the_cause_is_the_code_of_the_launcher_when_its_rank_ends_last(tmp_path):
    """Rank 0 loses rank 1, which has a wrong config, and ends before it."""
    script = (
        "import os, pathlib, sys, time\n"
        "ended = pathlib.Path(sys.argv[1]).parent / 'ended'\n"
        "if os.environ['RANK'] == '0':\n"
        "    ended.touch()\n"
        "    sys.exit(75)\n"
        "while not ended.exists(): time.sleep(0.01)\n"
        "time.sleep(0.2)\n"
        "sys.exit(2)\n"
    )
    code, output = finish(start(tmp_path, 2, script))
    assert (code, "rank 1 of 2 ended with exit code 2" in output) == (2, True), output


def test_launcher_sends_its_sigterm_to_each_rank(tmp_path):
    script = (
        "import os, pathlib, signal, sys, time\n"
        "mark = lambda what: (pathlib.Path(sys.argv[1]).parent / (what + os.environ['RANK'])).touch()\n"
        "def stop(*_):\n"
        "    mark('stopped-')\n"
        "    sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "mark('ready-')\n"
        "while True: time.sleep(0.01)\n"
    )
    process = start(tmp_path, 2, script)
    while len(list(tmp_path.glob("ready-*"))) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    code, output = finish(process)
    assert code == 75, output
    assert {path.name for path in tmp_path.glob("stopped-*")} == {"stopped-0", "stopped-1"}


def sleep_for_ever():
    while True:
        time.sleep(1)


def get_stuck(path, trial, *more):
    """Take steps of two ranks, of which one sleeps for ever after the sixth; the other one notices it later."""

    def take_steps(arguments):
        distributed.join(torch.device("cpu"))
        with StuckWatch(Path(arguments[0]).parent, seconds=3.0 - trial.rank) as watch:
            for step in range(1, 8):
                if step > KNOWN_STEPS + 1 and trial.rank == 1:  # the first step that has a limit
                    sleep_for_ever()
                distributed.gather_integers([step])
                watch.end_step(step, is_limited=True)
        return 0

    train.main = take_steps
    run_job(path, trial, *more)


def test_a_rank_that_sleeps_is_named_and_all_end_with_75_and_their_stacks(tmp_path):
    assert Ranks(tmp_path / "job.json", 2, target=get_stuck).wait() == [75, 75]
    failure = json.loads((tmp_path / "failure.json").read_text())
    assert (failure["exit_code"], failure["error"]) == (75, "RanksStuck")
    assert "after step 6: the other ranks wait for rank 1 on" in failure["message"]
    stacks = [(tmp_path / "flight-records" / f"stacks-{rank}.txt").read_text() for rank in range(2)]
    assert "in sleep_for_ever" in stacks[1]
    assert "in gather_integers" in stacks[0]
