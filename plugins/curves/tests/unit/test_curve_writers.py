"""Curves in TensorBoard's event files and in Weights & Biases' offline files, each read back."""

import json
import logging
import os
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from plugins.curves.writers import EventFiles
from tasks.train.curves import CurveFollower
from tests.python_code import run_python
from training.config import TrainConfig

SECRET = "0123456789abcdef0123456789abcdef01234567"


def work_of(home, **settings):
    return SimpleNamespace(
        config=TrainConfig.model_validate(settings),
        draft=SimpleNamespace(key="0" * 16),
        context=SimpleNamespace(home=home),
    )


def write_rows(folder, first, last):
    with (folder / "metrics.jsonl").open("a") as file:
        for step in range(first, last + 1):
            file.write(json.dumps({"step": step, "loss": 1 / step}) + "\n")


def read_events(folder):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util.tensor_util import make_ndarray

    return [
        (value.tag, event.step, float(make_ndarray(value.tensor)))
        for file in sorted(folder.glob("events.out.tfevents.*"))
        for event in EventFileLoader(str(file)).Load()
        for value in event.summary.value
    ]


def test_event_files_hold_each_row_once_over_two_attempts(tmp_path):
    job = tmp_path / "job"
    job.mkdir()
    work = work_of(tmp_path, tensorboard=str(tmp_path / "runs"))
    write_rows(job, 1, 3)
    with CurveFollower(work, job):
        pass
    write_rows(job, 4, 5)
    (job / "evidence-throughput.jsonl").write_text('{"step":2,"samples_per_second":7.0,"is_on":true}\n{"step":4')
    with CurveFollower(work, job):
        pass
    events = read_events(tmp_path / "runs" / f"train-{'0' * 16}")
    losses = [(step, value) for tag, step, value in events if tag == "train/loss"]
    assert losses == [(step, pytest.approx(1 / step)) for step in range(1, 6)]
    assert [event for event in events if event[0] != "train/loss"] == [("train/samples_per_second", 2, 7.0)]


def test_a_writer_that_fails_does_not_stop_the_training(tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(EventFiles, "__init__", fail)
    with caplog.at_level(logging.WARNING), CurveFollower(work_of(tmp_path, tensorboard=str(tmp_path)), tmp_path):
        pass
    assert "TensorBoard no longer shows this training: OSError: the disk is full" in caplog.text


def test_curves_change_no_key_and_load_no_package():
    assert TrainConfig(tensorboard="runs", wandb="a/b").key_config() == TrainConfig().key_config()
    follower = CurveFollower(work_of(Path()), Path())
    assert not follower._threads
    code = "import sys, tasks.train.stage; print(*{'wandb', 'tensorboard'} & set(sys.modules))"
    assert run_python(code).stdout.split() == []


def test_wandb_offline_writes_files_and_connects_to_nothing(tmp_path):
    """Any connection would go to this server, as a proxy or as the host of the API."""
    job = tmp_path / "job"
    job.mkdir()
    write_rows(job, 1, 3)
    connections = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        is_over = threading.Event()

        def count():
            while not is_over.is_set():
                try:
                    connections.append(server.accept())
                except TimeoutError:
                    continue

        thread = threading.Thread(target=count)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"), url)
        env = {**os.environ, **proxies, "WANDB_BASE_URL": url, "WANDB_MODE": "offline", "WANDB_API_KEY": SECRET}
        script = f"""
            import logging, types
            from pathlib import Path
            from tasks.train.curves import CurveFollower
            from training.config import TrainConfig
            logging.basicConfig(level=logging.DEBUG)
            work = types.SimpleNamespace(
                config=TrainConfig(wandb="team/pairs"), draft=types.SimpleNamespace(key="0" * 16),
                context=types.SimpleNamespace(home=Path({str(tmp_path)!r})),
            )
            with CurveFollower(work, Path({str(job)!r})):
                pass
        """
        ended = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)], env=env, capture_output=True, text=True, check=False
        )
        is_over.set()
        thread.join()
    assert ended.returncode == 0, ended.stderr
    assert "no longer shows" not in ended.stderr, ended.stderr
    assert not connections
    (written,) = (tmp_path / "wandb").rglob("*.wandb")
    assert read_losses(written) == [(step, pytest.approx(1 / step)) for step in range(1, 4)]
    texts = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]
    assert not [text for text in texts if SECRET.encode() in text]
    assert SECRET not in ended.stdout + ended.stderr


def read_losses(path):
    """Return step and loss of each history record of a small file of Weights & Biases, which is a log of LevelDB."""
    from wandb.proto import wandb_internal_pb2

    data, found = path.read_bytes()[7:], []
    while data:
        length = int.from_bytes(data[4:6], "little")
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data[7 : 7 + length])
        data = data[7 + length :]
        items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        if "train/loss" in items:
            found.append((int(items["train/step"]), items["train/loss"]))
    return found
