"""Run `pairmill` commands in forks of one process that has imported their modules, which takes most of their time.

`python -m tests.servers.warm_commands SOCKET` is that process, and with ARGUMENTS after it a client.
"""

import atexit
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

READ_AT_START = ("PREFECT_", "MLFLOW_", "PAIRMILL_")
"""Prefixes of variables that a command reads before it is forked; one with other values is started as a new process."""
OF_WORKERS = {"PREFECT_WORKER_QUERY_SECONDS"}


class WarmCommands:
    """The client of the process."""

    def __init__(self, place, env):
        self.place, self._read = place, _of_start(env)

    def fits(self, env):
        """Return whether a command with this environment may run in the process."""
        return _of_start(env) == self._read

    def run(self, arguments, folder, env, seconds, code=None):
        """Run a command, or code with its arguments; raises TimeoutError after `seconds`."""
        request = {"arguments": arguments, "folder": str(folder), "env": dict(env), "code": code}
        with (
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
            socket.socket(socket.AF_UNIX) as connection,
        ):
            connection.settimeout(seconds)
            connection.connect(str(self.place))
            socket.send_fds(connection, [b"0"], [out.fileno(), err.fileno()])
            connection.sendall(json.dumps(request).encode())
            connection.shutdown(socket.SHUT_WR)
            code = int(connection.recv(100))
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(arguments, code, out.read().decode(), err.read().decode())


def _of_start(env):
    return {name: value for name, value in env.items() if name.startswith(READ_AT_START) and name not in OF_WORKERS}


@contextmanager
def warm_commands(env):
    """Run the process inside the `with`; the servers of the environment run already."""
    with tempfile.TemporaryDirectory(prefix="pairmill-warm-") as folder:
        place = Path(folder, "socket")
        command = [sys.executable, "-m", __name__, str(place)]
        process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        try:
            assert process.stdout.readline() == b"ready\n"
            yield WarmCommands(place, env)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def run_and_end(function):
    """Run a function and end this fork as Python ends, but free no module: that takes a quarter of a second of CPU time."""
    code = 1
    try:
        try:
            function()
            code = 0
        except SystemExit as error:
            code = error.code or 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def serve(place):
    """Fork for each request. The fork runs the command in a child of its own, and answers with its exit code."""
    from dataops import plugins
    from flows import app, cli
    from infra.local import services

    app.use_process_settings()
    for name, value in app.LOGGING.items():
        os.environ.setdefault(name, value)
    applied = services.apply_environment()
    for module in ("polars", "prefect", "mlflow", "pyarrow.parquet", "flows.pipeline"):
        importlib.import_module(module)
    for group in plugins.kinds("commands."):
        for target in plugins.targets(group).values():
            importlib.import_module(target.partition(":")[0])
    gc.freeze()  # else each fork looks for garbage in all modules at its end
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    parent = os.getppid()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(place)
        server.listen()
        server.settimeout(5)
        os.write(1, b"ready\n")
        while True:
            try:
                connection, _ = server.accept()
            except TimeoutError:
                if os.getppid() != parent:  # the tests were killed
                    return
                continue
            if os.fork() == 0:
                break
            connection.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, outputs, _, _ = socket.recv_fds(connection, 1, 2)
    request = json.loads(b"".join(iter(lambda: connection.recv(1 << 16), b"")))
    if (child := os.fork()) == 0:
        connection.close()
        for number, output in enumerate(outputs, 1):
            os.dup2(output, number)
            os.close(output)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(applied | request["env"])
        if request["code"]:
            sys.argv = ["-c", *request["arguments"]]
            run_and_end(lambda: exec(request["code"], {"__name__": "__main__"}))
        sys.modules["__main__"] = cli  # which the workers of the command import as theirs
        sys.argv = [cli.__file__, *request["arguments"]]
        sys.orig_argv = [sys.executable, "-m", "flows.cli", *request["arguments"]]
        run_and_end(cli.main)
    connection.sendall(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
    os._exit(0)


def main(place, *arguments):
    """Run the process, or a command in it."""
    if not arguments:
        return serve(place)
    done = WarmCommands(place, {}).run(arguments, Path.cwd(), os.environ, 500)
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
