"""Ends the process that decodes images in every way that an image may, and some more."""

import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from dataops.home import CHECKOUT
from dataops.process import cpu_seconds
from tasks.download.guarded_process import (
    FunctionFailed,
    GuardedProcess,
    ServerDied,
    ServerLimits,
    SupervisorLost,
)
from tests.concurrency import wait_for
from tests.python_code import run_python

MEGABYTE = 1 << 20


def echo(data):
    return data or None, [len(data), os.getpid(), os.getppid()]


def use_memory(data):
    return None, int(np.ones(int(data) * MEGABYTE, np.uint8)[-1])


def use_memory_after_a_thread(data):
    threading.Thread(target=int).start()
    while len(list(Path("/proc/self/task").iterdir())) > 1:  # it frees stacks of other threads at its end
        time.sleep(0.001)
    return use_memory(data)


def end_by(data):
    """End this process by a signal, if a file does not have that many lines; each call adds one."""
    number, path, times = data.decode().split(",")
    with Path(path).open("a+") as file:
        file.write("call\n")
        file.seek(0)
        if len(file.readlines()) <= int(times):
            os.kill(os.getpid(), int(number))
            time.sleep(60)
    return b"alive", None


def busy(data):
    while data:
        pass
    return None, None


def asleep(data):
    time.sleep(float(data))
    return None, None


def use_memory_file(data):
    """Fill files in memory, of which no mapping counts, until that many MB are in use."""
    with ExitStack() as stack:
        for _ in range(int(data) // 16):
            file = os.memfd_create("more")
            stack.callback(os.close, file)
            os.write(file, bytes(16 * MEGABYTE))
    return None, None


def use_one_memory_file(data):
    file = os.memfd_create("more")
    try:
        for number in range(int(data)):
            os.pwrite(file, bytes(MEGABYTE), number * MEGABYTE)
    finally:
        os.close(file)
    return None, None


def use_shared_memory(data):
    return None, len(mmap.mmap(-1, int(data) * MEGABYTE))


def cost(data):
    end = time.process_time() + float(data)
    while time.process_time() < end:
        pass
    return None, None


def fail(data):
    raise ValueError(data.decode("utf-8", "surrogatepass"))


def list_files(data):
    return None, [str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]


FUNCTIONS = {
    f.__name__: f
    for f in (
        *(echo, use_memory, use_memory_after_a_thread, use_memory_file, use_one_memory_file, use_shared_memory),
        *(end_by, busy, cost, asleep, fail, list_files),
    )
}


def guarded(memory=256, **limits):
    return GuardedProcess(FUNCTIONS, ServerLimits(memory * MEGABYTE, **limits))


def test_input_that_ends_its_server_costs_nothing_but_itself(tmp_path):
    calls = tmp_path / "calls"
    with guarded() as process:
        for number in (signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM):
            before = process.call("echo", b"")[1][1]
            calls.write_text("")
            with pytest.raises(ServerDied, match=f"was ended by {number.name}"):
                process.call("end_by", f"{int(number)},{calls},9".encode())
            assert len(calls.read_text().splitlines()) == 2, "a second server had tried"
            found, (_, pid, _) = process.call("echo", b"next")
            assert found == b"next"
            assert pid != before


def test_server_that_dies_once_or_while_idle_is_replaced(tmp_path):
    with guarded() as process:
        assert process.call("end_by", f"9,{tmp_path / 'calls'},1".encode())[0] == b"alive"
        for data in (b"one", b"two"):
            os.kill(process.call("echo", b"")[1][1], signal.SIGKILL)
            assert process.call("echo", data)[0] == data


def test_server_has_limits_of_memory_and_time():
    """In a process of its own: what the heap of this one has free would be added to the limit."""
    code = "tests.check_limits_of_memory_and_time(); tests.check_that_threads_add_nothing_to_the_limit()"
    run_python(f"import {__name__} as tests; {code}")


def check_limits_of_memory_and_time():
    with guarded(memory=100) as process:
        assert process.call("use_memory", b"60")[1] == 1
        with pytest.raises(ServerDied, match="exit code 1"):
            process.call("use_memory", b"150")
        assert process.call("use_memory", b"60")[1] == 1
    with guarded(cpu_seconds=0.3) as process:
        with pytest.raises(ServerDied, match=r"more than 0\.3 s of CPU time"):
            process.call("busy", b"for ever")
        assert process.call("echo", b"next")[0] == b"next"
    with guarded(seconds=0.5) as process, pytest.raises(ServerDied, match=r"more than 0\.5 s of time"):
        process.call("asleep", b"600")


def check_that_threads_add_nothing_to_the_limit():
    ended = threading.Event()
    threads = [threading.Thread(target=ended.wait, daemon=True) for _ in range(60)]  # stacks of 480 MB
    try:
        for thread in threads:
            thread.start()
        with guarded(memory=100) as process, pytest.raises(ServerDied, match="exit code 1"):
            process.call("use_memory_after_a_thread", b"150")
    finally:
        ended.set()


@pytest.mark.skipif(sys.platform != "linux", reason="the limits are those of Linux")
def test_files_in_memory_and_shared_memory_are_within_the_limit():
    with guarded(memory=256) as process:
        for name, fits, refused in (
            ("use_memory_file", b"64", b"512"),
            ("use_one_memory_file", b"16", b"300"),
            ("use_shared_memory", b"100", b"4000"),
        ):
            process.call(name, fits)
            with pytest.raises(FunctionFailed, match=r"OSError|ValueError"):
                process.call(name, refused)
        assert process.call("echo", b"a")[0] == b"a"


def test_any_error_text_reaches_the_worker():
    with guarded() as process:
        for text in ("\U0001f600" * 342, "\0" * 5000, '"\\' * 3000, "\ud800" * 400):
            with pytest.raises(FunctionFailed, match="ValueError"):
                process.call("fail", text.encode("utf-8", "surrogatepass"))
            assert process.call("echo", b"a")[0] == b"a"


def test_answer_that_is_too_long_is_a_failure():
    functions = {"long": lambda data: (data, "a" * int(data))}
    with GuardedProcess(functions, ServerLimits(256 * MEGABYTE)) as process:
        with pytest.raises(FunctionFailed, match="its answer of"):
            process.call("long", b"5000")
        assert process.call("long", b"100") == (b"100", "a" * 100)


def test_server_holds_no_socket_nor_file_of_its_worker(tmp_path):
    with socket.create_server(("127.0.0.1", 0)), (tmp_path / "file").open("w"), guarded() as process:
        found = process.call("list_files", b"")[1]
    assert not [name for name in found if "socket" in name or str(tmp_path) in name]


def test_cpu_time_of_a_server_counts_among_that_of_ended_children():
    before = cpu_seconds()
    with guarded() as process:
        process.call("cost", b"0.3")
    assert cpu_seconds() - before > 0.25


def has_ended(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def test_server_of_a_killed_worker_ends_at_once_and_prints_nothing():
    code = (
        "import threading, time\n"
        "from tests.unit.tasks.download.test_guarded_process import guarded\n"
        "with guarded(cpu_seconds=600, seconds=600) as process:\n"
        "    print(process.call('echo', b'')[1][1], flush=True)\n"
        "    threading.Timer(0.3, lambda: print('busy', flush=True)).start()\n"
        "    process.call('busy', b'for ever')\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=CHECKOUT) as worker:
        server = int(worker.stdout.readline())
        assert worker.stdout.readline() == "busy\n"
        worker.kill()
        wait_for(lambda: has_ended(server))
        assert worker.stderr.read() == ""


def test_server_ends_with_its_worker_and_with_its_supervisor():
    code = (
        "import time\n"
        "from tests.unit.tasks.download.test_guarded_process import guarded\n"
        "with guarded() as process:\n"
        "    print(*process.call('echo', b'')[1][1:], flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=CHECKOUT) as worker:
        pids = [int(pid) for pid in worker.stdout.readline().split()]
        worker.kill()
    wait_for(lambda: all(map(has_ended, pids)))

    with guarded() as process:
        server, supervisor = process.call("echo", b"")[1][1:]
        os.kill(supervisor, signal.SIGKILL)
        wait_for(lambda: has_ended(supervisor))
        os.kill(server, signal.SIGKILL)
        wait_for(lambda: has_ended(server))
        with pytest.raises(SupervisorLost):
            process.call("echo", b"")


@pytest.mark.parametrize("is_called", [True, False])
def test_a_supervisor_that_is_stuck_is_left_after_a_limit(is_called):
    with guarded() as process:
        server, supervisor = process.call("echo", b"")[1][1:]
        process._limits = ServerLimits(MEGABYTE, cpu_seconds=0.2, seconds=0.5)  # those of the server stay
        os.kill(supervisor, signal.SIGSTOP)
        os.kill(server, signal.SIGKILL)
        if is_called:
            with pytest.raises(SupervisorLost, match="is lost: it has not answered for 1 s"):
                process.call("echo", b"")
    assert has_ended(supervisor)
