"""Run calls in a SLURM job, whose script carries them: `python -m plugins.slurm.task`.

The outcome of a call is JSON in the store, among the scratch objects of its snapshot: a Record, or an error.
"""

import base64
import json
import logging
import os
import pickle  # noqa: TID251  of the script of this process's own job
import signal
import socket
import sys
import traceback
import zlib
from collections.abc import Callable
from typing import Any

from dataops import errors
from dataops.errors import ConfigError, PairmillError
from dataops.home import CHECKOUT, code_digest
from dataops.process import RETRYABLE
from dataops.redaction import redact
from dataops.snapshot import Record
from dataops.store import FolderStore, Store, open_store
from plugins.slurm.scheduler import run_command
from tasks.engine.process_guard import guard_process

logger = logging.getLogger("plugins.slurm.task")
ERRORS = {"MemoryError": MemoryError} | {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, PairmillError)
}


def encode_outcome(call: Callable[[], Any]) -> bytes:
    """Make a call and return its outcome as JSON, for `decode_outcome`."""
    try:
        value = call()
        found = {"record": value.model_dump(mode="json") if isinstance(value, Record) else None}
    except Exception as error:
        logger.exception("a call failed")
        kind = next((one.__name__ for one in type(error).__mro__ if one.__name__ in ERRORS), "")
        text = str(error) if kind else f"on {socket.gethostname()}:\n{traceback.format_exc()}"
        found = {"error": kind, "text": redact(text)}
        found |= {name: getattr(error, name, None) for name in ("exit_code", "retryable")}
    return json.dumps(found).encode()


def decode_outcome(data: bytes) -> Record | Exception | None:
    """Return the record of a call, if it returned one, or its error: for a bug a RuntimeError with its traceback."""
    found = json.loads(data)
    if "error" not in found:
        return Record.model_validate(found["record"]) if found.get("record") else None
    error = ERRORS.get(found["error"], RuntimeError)(found["text"])
    vars(error).update({name: found[name] for name in ("exit_code", "retryable")})
    return error


def main(arguments: list[str]) -> int:
    """Run the calls of this array task, or of this node of a training; return the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    guard_process()
    uri, code, elements = arguments
    store = open_store(uri)
    lines = sys.stdin.read().splitlines()
    if elements == "0":
        return _run_training(lines[0], code, store)
    for line in lines[int(os.environ["SLURM_ARRAY_TASK_ID"]) :: int(elements)]:
        name, call = line.split()
        store.put(name, encode_outcome(lambda call=call: _make_call(call, code, store)))
    return 0


def _make_call(call: str, code: str, store: Store) -> Any:
    if code_digest() != code:
        raise ConfigError(
            f"{socket.gethostname()} has other code of pairmill, in {CHECKOUT}, than the machine of the run: all nodes "
            "need the same; if the code was changed meanwhile, run it again"
        )
    if isinstance(store, FolderStore) and not store.root.is_dir():
        raise ConfigError(
            f"{socket.gethostname()} has no folder {store.root}: all nodes must share the store at this path, or use "
            "s3://bucket/prefix"
        )
    function, arguments, named = pickle.loads(zlib.decompress(base64.b64decode(call)))  # noqa: S301
    return function(*arguments, **named)


def _run_training(line: str, code: str, store: Store) -> int:
    """Run one node of a training; the error of one that fails is the outcome."""

    def stop(signum: int, frame: object) -> None:
        signal.signal(signum, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    name, call = line.split()
    try:
        outcome = encode_outcome(lambda: _make_call(call, code, store))
    except KeyboardInterrupt:  # its time is nearly over, it is preempted or cancelled
        job = os.environ["SLURM_JOB_ID"]
        shown = run_command("scontrol", "--oneliner", "show", "job", job)
        # A cancelled job does not run any more. SLURM itself requeues one that ends after it was preempted.
        if os.environ["SLURM_PROCID"] == "0" and "JobState=RUNNING" in shown and "PreemptTime=None" in shown:
            run_command("scontrol", "requeue", job)
        return 0  # another exit code would end the step on all nodes, before the first one has written its checkpoint
    if isinstance(decode_outcome(outcome), Exception):
        store.put(name, outcome)
        return RETRYABLE
    return 0  # the snapshot is in the store


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
