"""Run calls in a SLURM job, whose script carries them: `python -m plugins.slurm.task`.

The outcome of a call is JSON in the store, in the folder of the snapshot's scratch objects: a Record, or an error.
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
from plugins.slurm.scheduler import find_states, run_command
from tasks.engine.process_guard import guard_process

logger = logging.getLogger("plugins.slurm.task")


class Stopped(BaseException):
    """SLURM ends the job soon: its time is over, it is preempted or cancelled."""


def encode_outcome(call: Callable[[], Any]) -> bytes:
    """Make a call and return its outcome as JSON, for `decode_outcome`."""
    try:
        value = call()
        return json.dumps({"record": value.model_dump(mode="json") if isinstance(value, Record) else None}).encode()
    except Exception as error:  # also a bug: the caller raises it
        logger.exception("a call failed")
        kind = next(one.__name__ for one in type(error).__mro__ if hasattr(errors, one.__name__) or one is Exception)
        found: dict[str, Any] = {"error": kind, "text": redact(str(error))}
        if isinstance(error, PairmillError):
            found |= {"exit_code": error.exit_code, "retryable": error.retryable}
        else:
            found["text"] = f"{type(error).__name__}: {found['text']}"
            found["trace"] = f"on {socket.gethostname()}:\n{redact(traceback.format_exc())}"
        return json.dumps(found).encode()


def decode_outcome(data: bytes) -> Record | None:
    """Return the record of a call, if it returned one. Raises: the error of the call."""
    found = json.loads(data)
    if "error" not in found:
        return Record.model_validate(found["record"]) if found["record"] else None
    kind = getattr(errors, found["error"], None)
    if not (isinstance(kind, type) and issubclass(kind, PairmillError)):
        failure = RuntimeError(found["text"])
        failure.add_note(str(found.get("trace")))
        raise failure
    error = kind(found["text"])
    error.exit_code, error.retryable = int(found["exit_code"]), bool(found["retryable"])
    raise error


def main() -> int:
    """Run the calls of this array task, or of this node of a training; return the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stdout)
    guard_process()
    header, *lines = sys.stdin.read().splitlines()
    batch = json.loads(header)
    store = open_store(batch["store"])
    if "elements" not in batch:
        return _run_training(batch, lines[0], store)
    number = int(os.environ["SLURM_ARRAY_TASK_ID"])
    mine = zip(batch["numbers"], lines, strict=True)
    for call, line in [*mine][number :: batch["elements"]]:
        outcome = encode_outcome(lambda line=line: _make_call(batch, line, store))
        store.put(f"{batch['folder']}/{call}.json", outcome)
    return 0


def _make_call(batch: dict[str, Any], line: str, store: Store) -> Any:
    if code_digest() != batch["code"]:
        raise ConfigError(
            f"{socket.gethostname()} has other code of pairmill, in {CHECKOUT}, than the machine of the run: all nodes "
            "need the same; if the code was changed meanwhile, run it again"
        )
    if isinstance(store, FolderStore) and not store.root.is_dir():
        raise ConfigError(
            f"{socket.gethostname()} has no folder {store.root}: all nodes must share the store at this path, or use "
            "s3://bucket/prefix"
        )
    function, arguments, named = pickle.loads(zlib.decompress(base64.b64decode(line)))  # noqa: S301
    return function(*arguments, **named)


def _run_training(batch: dict[str, Any], line: str, store: Store) -> int:
    """Run one node of a training; the error of one that fails is the outcome."""

    def stop(signum: int, frame: object) -> None:
        signal.signal(signum, signal.SIG_IGN)
        raise Stopped

    signal.signal(signal.SIGTERM, stop)
    is_first = os.environ["SLURM_PROCID"] == "0"
    try:
        outcome = encode_outcome(lambda: _make_call(batch, line, store))
    except Stopped:
        if is_first:
            _requeue(os.environ["SLURM_JOB_ID"])
        return 0  # another exit code would end the step on all nodes, before the first one has written its checkpoint
    if "error" not in json.loads(outcome):  # the snapshot is in the store
        return 0
    store.put(f"{batch['folder']}/{os.environ['SLURM_JOB_ID']}.json", outcome)
    return RETRYABLE


def _requeue(job: str) -> None:
    """Let SLURM run the job again, unless it was cancelled, or is preempted and so in the queue already."""
    state = find_states(os.environ["SLURM_JOB_NAME"]).get(job, ("",))[0]
    logger.info("stopped in state %s, with a checkpoint", state)
    if state == "RUNNING":
        run_command("scontrol", "requeue", job)


if __name__ == "__main__":
    sys.exit(main())
