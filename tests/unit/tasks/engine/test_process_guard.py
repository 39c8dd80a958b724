import logging
import sys
import threading

import pytest

from tasks.engine.process_guard import guard_process
from tests.python_code import run_python

KEY = "wJalrXUtnFEMI/K7MDENG+planted"


@pytest.fixture(autouse=True)
def _secret(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEY)


@pytest.fixture
def guarded_logger(monkeypatch):
    """Return a logger of a guarded process, and the lines that a formatter makes of its records."""
    factory, hooks = logging.getLogRecordFactory(), (sys.excepthook, threading.excepthook)
    guard_process()
    guard_process()
    lines = []

    class Keep(logging.Handler):
        def emit(self, record):
            lines.append(self.format(record))

    logger = logging.getLogger("tests.secrets")
    handler = Keep()
    logger.addHandler(handler)
    yield logger, lines
    logger.removeHandler(handler)
    logging.setLogRecordFactory(factory)
    sys.excepthook, threading.excepthook = hooks


def test_guard_removes_secrets_from_message_arguments_and_traceback_of_log_records(guarded_logger):
    logger, lines = guarded_logger
    logger.warning("got %s from %s", KEY, "http://u:p@h/")
    try:
        raise KeyError(KEY)
    except KeyError:
        logger.exception("failed")
    logger.warning("%d of them", KEY)
    assert lines[0] == "got *** from http://h/"
    assert KEY not in "\n".join(lines)
    assert "KeyError: '***'" in lines[1]


def test_guard_escapes_line_ends_and_control_characters_in_log_records(guarded_logger):
    logger, lines = guarded_logger
    logger.warning("host %s", "evil\r\n2026-01-01 00:00:00 pack 1234 completed\x1b[2J\x1b]8;;http://x\x07\x9b1m\u202e")
    (line,) = lines
    assert [part[:4] for part in line.split("\n")[1:]] == ["    "]
    assert not set(line) & set("\r\x1b\x07\x9b\u202e")
    assert "\\x1b[2J" in line


def test_guard_removes_secrets_from_the_traceback_of_the_process():
    code = (
        "import os, threading\nfrom tasks.engine.process_guard import guard_process\nguard_process()\n"
        "def die(): raise ValueError(os.environ['HF_TOKEN'] + chr(27))\n"
        "t = threading.Thread(target=die); t.start(); t.join()\ndie()\n"
    )
    done = run_python(code, exit_code=1, HF_TOKEN=KEY)
    assert done.stderr.count("ValueError: ***\\x1b") == 2
    assert KEY not in done.stderr


def test_no_interrupt_reaches_the_first_process_that_a_command_starts():
    code = (
        "import multiprocessing as m, signal\nfrom concurrent.futures import ProcessPoolExecutor\n"
        "from tasks.engine.process_guard import block_interrupts\n"
        "with block_interrupts(), ProcessPoolExecutor(1, m.get_context('spawn')) as pool:\n"
        "    print(pool.submit(signal.pthread_sigmask, signal.SIG_BLOCK, []).result())\n"
    )
    assert "SIGINT" in run_python(code).stdout
