"""Runs the services of infra/compose.yaml as processes of this machine, because tests have no container engine.

Commands, environments and health checks come from the file (`docker compose config`). Only what a container provides is
replaced: host names and ports, volumes, /app, /tmp. Postgres is Debian's.
"""

import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dataops.home import CHECKOUT
from dataops.kernels.compiled import caches
from plugins.deployment import dotenv
from tests.kills.seaweed import free_port

COMPOSE = CHECKOUT / "infra/compose.yaml"
PORTS = {"postgres": 5432, "prefect": 4200, "mlflow": 5000, "s3": 8333, "worker": 8080}


def compose_command():
    """Return the command of docker compose; without it skip the test (in CI: fail, since .ci/run installs it)."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if (
            shutil.which(command[0])
            and subprocess.run([*command, "version"], capture_output=True, check=False).returncode == 0
        ):
            return command
    return skip_or_fail("docker compose", "docker-compose docker-cli")


def postgres_binaries():
    """Return the folder of initdb, postgres and psql."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    on_path = shutil.which("initdb")
    if not found and not on_path:
        return skip_or_fail("PostgreSQL", "postgresql")
    return found[-1].parent if found else Path(str(on_path)).resolve().parent


def skip_or_fail(program, packages):
    message = f"{program} is not installed, so infra/compose.yaml is not tested: apt-get install {packages}"
    pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)


def resolve_compose(env_file, *arguments):
    """Return the compose file with its variables, merges and profiles resolved."""
    command = [*compose_command(), "--env-file", str(env_file), "-f", str(COMPOSE), *(arguments or ("--profile", "*"))]
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(
        [*command, "config", "--format", "json"], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@dataclass
class Topology:
    """Services of the compose file, started and stopped one by one."""

    folder: Path
    ports: dict[str, int] = field(default_factory=lambda: {name: free_port() for name in PORTS})
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self):
        env_file = self.folder / ".env"
        text = dotenv.fill_secrets(dotenv.EXAMPLE.read_text())
        published = f"PREFECT_PORT={self.ports['prefect']}\nMLFLOW_PORT={self.ports['mlflow']}\n"
        env_file.write_text(text + published)
        self.services = resolve_compose(env_file)["services"]
        # Postgres does not run as root, and another user cannot read pytest's folders.
        self.database = Path(tempfile.mkdtemp(prefix="pairmill-postgres-"))
        self.user = "postgres" if os.geteuid() == 0 and "postgres" in {u.pw_name for u in pwd.getpwall()} else "nobody"

    def translate(self, service, words):
        """Replace the container's host names, ports and paths in a command or in values by those of this machine."""
        volume, scratch = self.folder / "volumes" / service, self.folder / "tmp" / service
        for folder in (volume, scratch):
            folder.mkdir(parents=True, exist_ok=True)
        replacements = {
            "/var/lib/pairmill": str(volume),
            "/app": str(CHECKOUT),
            "/tmp/": f"{scratch}/",
            "0.0.0.0": "127.0.0.1",
        }
        for name, port in PORTS.items():
            for host in (name, "127.0.0.1"):
                replacements |= {f"{mark}{host}:{port}": f"{mark}127.0.0.1:{self.ports[name]}" for mark in ("//", "@")}
        known = re.compile("|".join(map(re.escape, replacements)))
        port, own = re.compile(rf"(^|=){PORTS.get(service, 'none')}$"), str(self.ports.get(service))
        return [port.sub(rf"\g<1>{own}", known.sub(lambda match: replacements[match[0]], word)) for word in words]

    def environment(self, service):
        """Return the environment of the container, whose compiled functions are this user's; only PATH is kept."""
        variables = self.services[service]["environment"]
        values = dict(zip(variables, self.translate(service, [str(v) for v in variables.values()]), strict=True))
        if service == "mlflow":  # a file of the image that names a volume's path
            config = self.folder / "mlflow-auth.ini"
            config.write_text("".join(self.translate(service, [Path(values["MLFLOW_AUTH_CONFIG_PATH"]).read_text()])))
            values["MLFLOW_AUTH_CONFIG_PATH"] = str(config)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        of_user = {"XDG_CACHE_HOME": str(caches().parent)}
        return {"PATH": path, "HOME": str(self.folder), "LANG": "C.UTF-8"} | of_user | values

    def client(self):
        """Return the environment of the worker's container, which every client needs."""
        return self.environment("worker")

    def run(self, service):
        """Run a service that ends by itself."""
        log = self.folder / f"{service}.log"
        with log.open("ab") as out:
            command = self.translate(service, self.services[service]["command"])
            done = subprocess.run(
                command, env=self.environment(service), cwd=CHECKOUT, stdout=out, stderr=out, check=False
            )
        assert done.returncode == 0, log.read_text(errors="replace")[-4000:]

    def start(self, service, *more, wait=True):
        """Start a service that keeps running; with `wait`, return when its health check passes."""
        command = [*self.translate(service, self.services[service]["command"]), *more]
        self.spawn(service, command, self.environment(service), cwd=CHECKOUT)
        if wait:
            self.await_health(service)

    def spawn(self, service, command, env, *, cwd, **options):
        with (self.folder / f"{service}.log").open("ab") as out:
            self.running[service] = subprocess.Popen(
                command, env=env, cwd=cwd, stdout=out, stderr=out, start_new_session=True, **options
            )

    def await_health(self, service, patience_s=300):
        """Run the health check of the compose file until it passes."""
        test = self.services[service]["healthcheck"]["test"]
        assert test[0] == "CMD"
        command = self.translate(service, test[1:])
        if service == "postgres":
            command[0] = str(postgres_binaries() / command[0])
        deadline = time.monotonic() + patience_s
        while subprocess.run(
            command, env=self.environment(service), cwd=CHECKOUT, capture_output=True, check=False
        ).returncode:
            log = (self.folder / f"{service}.log").read_text(errors="replace")[-4000:]
            assert self.running[service].poll() is None, f"{service} ended\n{log}"
            assert time.monotonic() < deadline, f"{service} never became healthy\n{log}"
            time.sleep(0.2)

    def kill(self, service):
        """Kill the service and its children with SIGKILL."""
        process = self.running.pop(service)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def start_postgres(self):
        """Do what the image's entrypoint does: run initdb, the command of the compose file, and postgres.sql once."""
        folder, account = self.database, pwd.getpwnam(self.user)
        password = folder / "password"
        environment = self.environment("postgres") | {
            "PGPASSWORD": self.services["postgres"]["environment"]["POSTGRES_PASSWORD"]
        }
        password.write_text(environment["PGPASSWORD"])
        options = {}
        if os.geteuid() == 0:
            options = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            for path in (folder, password):
                os.chown(path, account.pw_uid, account.pw_gid)
        binaries, data = postgres_binaries(), folder / "data"
        initdb = [str(binaries / "initdb"), f"--pgdata={data}", "--username=postgres", "--auth=scram-sha-256"]
        initdb += [f"--pwfile={password}", "--encoding=UTF8", "--no-sync"]
        subprocess.run(initdb, env=environment, cwd=folder, check=True, capture_output=True, **options)
        server = [str(binaries / "postgres"), "-D", str(data), "-k", str(folder), "-c", "listen_addresses=127.0.0.1"]
        server += ["-p", str(self.ports["postgres"]), "-c", "fsync=off", *self.services["postgres"]["command"][1:]]
        self.spawn("postgres", server, environment, cwd=folder, **options)
        self.await_health("postgres")
        self.psql("--file", str(COMPOSE.with_name("postgres.sql")))

    def psql(self, *arguments, user="postgres", password=None, database="postgres"):
        environment = self.environment("postgres")
        environment["PGPASSWORD"] = password or environment["POSTGRES_PASSWORD"]
        command = [str(postgres_binaries() / "psql"), "--no-psqlrc", "--quiet", "--tuples-only", "--no-align"]
        command += [
            "--host=127.0.0.1",
            f"--port={self.ports['postgres']}",
            f"--username={user}",
            f"--dbname={database}",
        ]
        done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def start_s3(self):
        """Start SeaweedFS on free ports: it needs many, which in a container cannot be in use."""
        roles = ("master.port", "volume.port", "filer.port", "admin.port")
        more = [f"-{role}{kind}={free_port()}" for role in roles for kind in ("", ".grpc")]
        self.start("s3", *more, f"-s3.port.grpc={free_port()}", "-ip.bind=127.0.0.1")

    def stop(self):
        """Stop all services at the same time, SeaweedFS at once: it takes up to 12 s."""
        how = {"postgres": signal.SIGINT, "s3": signal.SIGKILL}
        for service, process in self.running.items():
            if process.poll() is None:
                os.killpg(process.pid, how.get(service, signal.SIGTERM))
        for process in self.running.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(self.database, ignore_errors=True)
