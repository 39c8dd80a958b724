"""Run functions on foreign bytes in a child process with limits of memory and time; if it dies, the next one continues.

Decoders of images are written in C, and their input comes from the web: one image may end the process that decodes it, by
a defect of the decoder or for want of memory. So the worker that fetches a shard decodes nothing itself. It forks a
supervisor before it starts threads and opens sockets; the supervisor forks a server, waits for its end, reports that, and
forks the next one, which takes a few milliseconds and no import.

Bytes are exchanged through files in memory, and messages through pipes. Each message has PIPE_BUF bytes, so that it is
written and read wholly or not at all, whenever the server dies.
"""

import ctypes
import gc
import json
import os
import resource
import select
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

Function = Callable[[bytes], tuple[bytes | None, Any]]
"""Returns bytes, and a value for JSON, in which text has at most MAX_TEXT characters: each takes up to 6 bytes."""
MAX_TEXT = select.PIPE_BUF // 8
_POLL_MS = 200
"""Time after which a supervisor looks again whether the worker and the server live, where the system has no pidfd."""
_NEW_FILES = 8
"""Number of files that a server may open at a time, beyond those that it has at its start."""
_MAPPED, _MAPPED_PER_CORE = 1 << 30, 16 << 20
"""Bytes of address space that a server may reserve beside the memory that it uses, for stacks of threads among them."""
ATTEMPTS = 2
"""Servers that may die of one input: the first may have been killed for want of memory that another process took."""
_ARENAS = -8
"""M_ARENA_MAX of glibc's malloc.h."""
_OOM_SCORE = 200
"""The kernel ends a server before its worker when memory runs out, unless that has 20% of the memory more."""
_FINAL = {signal.SIGPROF: "CPU time", signal.SIGALRM: "time"}


class ServerDied(Exception):
    """The server died of an input. The message names the signal or the limit."""


class FunctionFailed(Exception):
    """The function raised an error, which the message names."""


class SupervisorLost(BaseException):
    """The supervisor died or is stuck, and nothing can be decoded.

    It is no Exception, since img2dataset would go on to the next image.
    """


@dataclass(frozen=True)
class ServerLimits:
    """Limits of a server.

    Attributes:
        memory: bytes that it may allocate, beyond what it has at its start, of which its heap may have some free; as
            much again in files, memfd among them, and 1 GiB more in all that it maps, shared memory among it. Linux only.
        cpu_seconds: CPU time of one call.
        seconds: time of one call, for one that waits for ever. It is long, so that an image is not dropped where other
            processes leave this one little of the processor: the same input would give another dataset there.
    """

    memory: int
    cpu_seconds: float = 20.0
    seconds: float = 600.0


class GuardedProcess:
    """Calls functions in a server process inside the `with`. For one thread; start it before other threads and sockets.

    Args:
        functions: by name. The server has them as they are when it is forked.
        limits: of each server.
    """

    def __init__(self, functions: Mapping[str, Function], limits: ServerLimits):
        self._functions, self._limits, self._number = functions, limits, 0
        self.cpu_seconds = 0.0
        """CPU time of all calls; of one that ended its server, its time up to the limit."""

    def __enter__(self) -> Self:
        self._input, self._output = _memory_file("input"), _memory_file("output")
        requests, self._requests = os.pipe()
        self._answers, answers = os.pipe()
        self._supervisor = os.fork()
        if not self._supervisor:
            self._supervise(requests, answers)
        with suppress(OSError):
            os.setpgid(self._supervisor, self._supervisor)  # it does the same: one of the two is first
        os.close(requests)
        os.close(answers)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._requests)
        with suppress(EOFError, OSError):  # it reaps its server, whose CPU time counts then, and ends
            while True:
                _receive(self._answers, self._limits.cpu_seconds)
        os.close(self._answers)
        with suppress(OSError):
            os.killpg(self._supervisor, signal.SIGKILL)
            os.waitpid(self._supervisor, 0)
        os.close(self._input)
        os.close(self._output)

    def call(self, name: str, data: bytes) -> tuple[bytes | None, Any]:
        """Return what a function returns for `data`.

        Raises: ServerDied if ATTEMPTS servers died of it or one by a limit of time; FunctionFailed; SupervisorLost.
        """
        _write(self._input, data)
        for left in reversed(range(ATTEMPTS)):
            self._number, started = self._number + 1, time.monotonic()
            answer = self._ask({"number": self._number, "name": name, "size": len(data)})
            self.cpu_seconds += answer.get("cpu", min(time.monotonic() - started, self._limits.cpu_seconds))
            if "failed" in answer:
                raise FunctionFailed(answer["failed"])
            if "died" not in answer:
                size = answer["size"]
                return None if size is None else os.pread(self._output, size, 0), answer["value"]
            if not left or -answer["died"] in _FINAL:
                raise ServerDied(self._describe(answer["died"]))
        raise AssertionError

    def _ask(self, request: dict[str, object]) -> dict[str, Any]:
        """Send a request; return its answer, or that a server died. An answer to an earlier request is skipped."""
        try:
            _send(self._requests, request)
            while True:
                answer = _receive(self._answers, 2 * self._limits.seconds)  # its own timer ends a server before
                if "died" in answer or answer["number"] == request["number"]:
                    return answer
        except (EOFError, OSError) as error:
            raise SupervisorLost(f"the process that decodes images is lost: {error}") from error

    def _describe(self, code: int) -> str:
        if code >= 0:
            return f"the process that decoded it ended with exit code {code}"
        if kind := _FINAL.get(signal.Signals(-code)):
            limit = self._limits.cpu_seconds if -code == signal.SIGPROF else self._limits.seconds
            return f"it took more than {limit:g} s of {kind} to decode"
        return f"the process that decoded it was ended by {signal.Signals(-code).name}"

    def _supervise(self, requests: int, answers: int) -> NoReturn:
        code = 1
        try:
            os.setpgid(0, 0)
            gc.freeze()  # no file of the worker is closed by its object, once its number has another meaning here
            _close_files({0, 1, 2, self._input, self._output, requests, answers})
            for number in (signal.SIGTERM, signal.SIGPROF, signal.SIGALRM):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            while True:
                server = os.fork()
                if not server:
                    self._serve(requests, answers)
                code = _wait_for(server, requests)
                if not code:  # the worker has ended
                    break
                _send(answers, {"died": code})
        finally:
            os._exit(code)

    def _serve(self, requests: int, answers: int) -> NoReturn:
        try:
            _limit_memory(self._limits.memory)
            while True:
                try:
                    request = _receive(requests)
                except EOFError:
                    os._exit(0)
                data = os.pread(self._input, request["size"], 0)
                started = time.process_time()
                signal.setitimer(signal.ITIMER_PROF, self._limits.cpu_seconds)
                signal.setitimer(signal.ITIMER_REAL, self._limits.seconds)
                try:
                    answer = self._run(self._functions[request["name"]], data)
                finally:  # what printing an error takes is not the call's
                    signal.setitimer(signal.ITIMER_PROF, 0)
                    signal.setitimer(signal.ITIMER_REAL, 0)
                del data
                _send(answers, answer | {"number": request["number"], "cpu": time.process_time() - started})
        except BrokenPipeError:  # the worker was killed
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)

    def _run(self, function: Function, data: bytes) -> dict[str, Any]:
        try:
            found, value = function(data)
        except MemoryError:  # the next server may have more
            raise
        except Exception as error:
            return {"failed": f"{type(error).__name__}: {error}"[:MAX_TEXT]}
        if found is not None:
            _write(self._output, found)
        return {"size": None if found is None else len(found), "value": value}


def _send(pipe: int, message: dict[str, object]) -> None:
    """Send a message; one that is too long becomes a failure: a part of it would be read as a whole one."""
    data = json.dumps(message, ensure_ascii=False).encode(errors="replace")
    if len(data) > select.PIPE_BUF:
        failed = f"ValueError: its answer of {len(data)} bytes is longer than {select.PIPE_BUF}"
        data = json.dumps({"failed": failed, "number": message["number"], "cpu": message["cpu"]}).encode()
    os.write(pipe, data.ljust(select.PIPE_BUF))


def _wait_for(server: int, requests: int) -> int:
    """Return the exit code of a server as soon as it has ended; kill it as soon as the worker has ended: then 0.

    Args:
        requests: the pipe of which only the worker has the other end.
    """
    poll = select.poll()
    poll.register(requests, 0)  # its end is reported all the same
    pid_file = os.pidfd_open(server) if hasattr(os, "pidfd_open") else None
    if pid_file is not None:
        poll.register(pid_file, select.POLLIN)
    try:
        while True:
            ended = {file for file, _ in poll.poll(None if pid_file is not None else _POLL_MS)}
            pid, status = os.waitpid(server, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if requests in ended:
                os.kill(server, signal.SIGKILL)
                os.waitpid(server, 0)
                return 0
    finally:
        if pid_file is not None:
            os.close(pid_file)


def _receive(pipe: int, seconds: float | None = None) -> dict[str, Any]:
    """Return the next message. Raises: EOFError; TimeoutError if none comes in time."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    if not poll.poll(seconds and 1000 * seconds):
        raise TimeoutError(f"it has not answered for {seconds:g} s")
    if not (message := os.read(pipe, select.PIPE_BUF)):
        raise EOFError("it has ended")
    return json.loads(message)


def _memory_file(name: str) -> int:
    """Return the descriptor of a file without a name, in memory if the system can do that."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(f"pairmill-{name}")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _write(file: int, data: bytes) -> None:
    """Make `data` the content of a file."""
    os.ftruncate(file, 0)
    view = memoryview(data)
    while view:
        view = view[os.pwrite(file, view, len(data) - len(view)) :]


def _close_files(kept: set[int]) -> None:
    """Close all files of this process but some: a socket or a lock of the worker must not live as long as its child.

    Their numbers then mean /dev/null: Arrow ends a forked process that cannot close the pipe that it had before the fork.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for number in {int(path.name) for path in Path("/dev/fd").iterdir()} - {null, *kept}:
        os.dup2(null, number, inheritable=False)


def _limit_memory(budget: int) -> None:
    """Limit what this process may allocate from now on. The kernel prefers to end it when memory runs out.

    Source: getrlimit(2): RLIMIT_DATA counts private writable memory since Linux 4.7, RLIMIT_AS all that is mapped,
    RLIMIT_FSIZE each file, one in memory too; proc_pid_status(5): VmData, VmSize.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_ARENAS, 1)  # else each thread reserves 64 MiB
    if sys.platform != "linux":
        return
    # The C library keeps the stacks of the worker's threads, and frees them when a thread ends here: what they took would
    # be added to the budget. A thread has ended when the kernel does not list it any more.
    threading.Thread(target=int).start()
    while len(os.listdir("/proc/self/task")) > 1:  # noqa: PTH208
        time.sleep(0.001)
    status = Path("/proc/self/status").read_text()
    data, mapped = (1024 * int(status.partition(f"{name}:")[2].split()[0]) for name in ("VmData", "VmSize"))
    used = {int(path.name) for path in Path("/proc/self/fd").iterdir()}
    free = sorted({*range(max(used) + _NEW_FILES + 2)} - used)  # the least free number is that of the next file
    for kind, limit in (
        (resource.RLIMIT_DATA, data + budget),
        (resource.RLIMIT_AS, mapped + budget + _MAPPED + _MAPPED_PER_CORE * (os.cpu_count() or 1)),
        (resource.RLIMIT_NOFILE, free[_NEW_FILES]),
        (resource.RLIMIT_FSIZE, budget // _NEW_FILES),
    ):
        hard = resource.getrlimit(kind)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE))
