"""The config of a pipeline over the small web, and the `pairmill` command with servers of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from infra.local import services
from tests.servers.databases import keep_databases, put_databases
from tests.servers.warm_commands import WarmCommands
from tests.small_web import HOST, SmallWeb

PLANTED = {
    "AWS_SECRET_ACCESS_KEY": "planted/aws+secret=key",
    "AWS_SESSION_TOKEN": "planted-aws-session-token",
    "PREFECT_API_KEY": "planted-prefect-api-key",
    "MLFLOW_TRACKING_USERNAME": "mill",
    "MLFLOW_TRACKING_PASSWORD": "planted-mlflow-password",
    "HF_TOKEN": "planted-hf-token",
    "OPENLINEAGE_API_KEY": "planted-openlineage-key",
    "DATABASE_URL": "postgresql+psycopg://mill:planted-database-password@127.0.0.1:9/mill",
}
"""Secrets in the environment of every command and server; test_secrets.py searches all written files for them."""
MODEL = Path(__file__).parent / "data" / "tiny-model.json"
"""A model that trains in seconds."""


def write_config(path, web, site, store, **tables):
    """Write a config that runs all stages in seconds.

    Args:
        site: IP address and port of the web's server.
        tables: keys that differ, by table, and `name`.
    """
    config = {
        "store": {"uri": str(store)},
        "source": {"kind": "warc", "paths": [f"{web.archive}/*.warc.gz"]},
        "filter": {"languages": ["en"], "language_min_score": 0.5, "language_page_weight": 0.8},
        "download": {"image_size": 64, "resize_mode": "border", "shard_size": 40, "host_rate": 0}
        | {"connect_to": {HOST: site}},
        "curate": {"min_side": 32},
        "pack": {"shard_size": 100},
        "train": {"model": str(MODEL), "epochs": 6, "batch_size": 64, "lr": 1e-3, "vocab_size": 600}
        | {"checkpoint_every": 5, "precision": "fp32"},
        "evaluate": {"suite": str(web.suite), "data": str(web.suite_root)},
        "register": {"model_name": "small", "floors": {"shapes-seen/top1": 0.0}},
        "execution": {"workers": 1},
    }
    lines = [f"name = {_toml(tables.pop('name', 'small'))}"]
    for table, values in config.items():
        changes = tables.pop(table, {})
        lines += [f"[{table}]", *(f"{key} = {_toml(value)}" for key, value in (values | dict(changes)).items())]
    assert not tables
    path.write_text("\n".join(lines) + "\n")
    return path


def _toml(value):
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{json.dumps(key)} = {_toml(one)}' for key, one in value.items())} }}"
    return json.dumps(value)


@contextmanager
def local_servers(home, **environment):
    """Start the servers of a home, which is that of this process meanwhile; stop them at the end."""
    saved = dict(os.environ)
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)
    os.environ |= {"PAIRMILL_HOME": str(home)} | environment
    put_databases(home)
    try:
        services.up(timeout_s=300)
        keep_databases(home)
        yield
    finally:
        services.down()
        os.environ.clear()
        os.environ.update(saved)


@dataclass(frozen=True)
class Pairmill:
    """The `pairmill` command, run as a process in its own working folder."""

    folder: Path
    web: SmallWeb
    site: str
    env: dict[str, str] = field(repr=False)
    warm: WarmCommands | None = None
    """Forks a process that runs it, where the environment fits; a new process imports all again."""

    def write_config(self, file, /, *, store=None, **tables):
        """Write a config file with its own store. One worker: with so few pairs, a second one would only take longer."""
        where = store or self.folder / f"store-{file}"
        return write_config(self.folder / f"{file}.toml", self.web, self.site, where, **tables)

    def command_line(self, *arguments):
        return [sys.executable, "-m", "flows.cli", *map(str, arguments)]

    def __call__(self, *arguments, code=0, timeout=580):
        """Run the command and check its exit code."""
        if self.warm and self.warm.fits(self.env):
            done = self.warm.run([*map(str, arguments)], self.folder, self.env, timeout)
        else:
            command = self.command_line(*arguments)
            done = subprocess.run(
                command, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=timeout
            )
        with (self.folder / "outputs.log").open("a") as log:  # test_secrets.py reads it
            log.write(done.stdout + done.stderr)
        assert done.returncode == code, (
            f"{arguments} gave {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        )
        return done

    def run_code(self, code, *arguments):
        """Run Python code with arguments where the modules of the command are imported."""
        done = self.warm.run([*map(str, arguments)], self.folder, self.env, 300, code)
        assert done.returncode == 0, done.stderr

    def json(self, *arguments, code=0):
        """Run the command with --json and return the JSON value, which must be all of standard output."""
        return json.loads(self(*arguments, "--json", code=code).stdout)

    def run_and_kill(
        self,
        *arguments,
        when,
        timeout=400,
        number=signal.SIGKILL,
        pause=0.02,
    ):
        """Start the command, wait until `when` is true, stop it, and return its exit code.

        Args:
            number: the signal. SIGINT is sent to all processes of the command, as a terminal does.
            pause: seconds between two looks.
        """
        with (self.folder / "killed.log").open("ab") as log:
            process = subprocess.Popen(
                self.command_line(*arguments),
                cwd=self.folder,
                env=self.env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                deadline = time.monotonic() + timeout
                while not when():
                    assert process.poll() is None, (self.folder / "killed.log").read_text()[-6000:]
                    assert time.monotonic() < deadline, "the condition to kill never became true"
                    time.sleep(pause)
                if number == signal.SIGINT:
                    os.killpg(process.pid, number)
                    return process.wait(timeout)
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait()
        return process.returncode
