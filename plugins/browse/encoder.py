"""Keep a process that encodes texts and images with a model (plugins/browse/encoder_job.py): torch is not imported here.

It starts at the first request and ends with this process. A text or an image of a user is encoded before the next batch of
a dataset's images.
"""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataops.errors import JobFailed, PairmillError
from dataops.home import CHECKOUT
from dataops.process import select_job_environment

END_SECONDS = 5.0
MAX_TEXT = 1000
"""Maximum number of characters of a text that is encoded."""


class Encoder:
    """A process that encodes with one model.

    Args:
        model: folder or file of the model.
        folder: gets the job file and the log.
    """

    def __init__(self, model: Path, folder: Path):
        self.model, self._folder = model, folder
        self._process: subprocess.Popen[str] | None = None
        self._lock, self._turn, self._waiting = threading.Lock(), threading.Condition(), 0

    def warm_up(self) -> None:
        """Load the model in a thread, so that the first request does not wait for it."""

        def load() -> None:
            with suppress(PairmillError), self._next_turn(of_user=True):  # a request reports the error
                self._start()

        threading.Thread(target=load, name="encoder", daemon=True).start()

    def encode_text(self, text: str) -> NDArray[np.float32]:
        """Return the unit-norm feature (D,) of a text."""
        return self._first({"texts": [text[:MAX_TEXT]]})

    def encode_image(self, data: bytes) -> NDArray[np.float32]:
        """Return the unit-norm feature (D,) of an image. Raises: JobFailed if it cannot be decoded."""
        return self._first({"image": base64.b64encode(data).decode()})

    def encode_shard(self, shard: Path, spans: Sequence[tuple[int, int]]) -> NDArray[np.float32]:
        """Return the features (N, D) of images of a shard, each an offset and a size; zeros for unreadable ones."""
        output = self._folder / "features.npy"
        self._ask({"shard": str(shard), "spans": list(map(list, spans)), "output": str(output)}, of_user=False)
        try:
            return np.load(output, allow_pickle=False)
        finally:
            output.unlink(missing_ok=True)

    def _first(self, request: dict[str, Any]) -> NDArray[np.float32]:
        return np.asarray(self._ask(request, of_user=True)["features"][0], np.float32)

    @contextmanager
    def _next_turn(self, *, of_user: bool) -> Iterator[None]:
        """Hold the process; a batch of a dataset waits while a request of a user does."""
        with self._turn:
            self._waiting += of_user
            if not of_user:
                self._turn.wait_for(lambda: self._waiting == 0)
        try:
            with self._lock:
                yield
        finally:
            with self._turn:
                self._waiting -= of_user
                self._turn.notify_all()

    def _ask(self, request: dict[str, Any], *, of_user: bool) -> dict[str, Any]:
        with self._next_turn(of_user=of_user):
            process = self._start()
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.flush()
                return self._read(process)
            except (OSError, ValueError) as error:
                self._end()
                raise JobFailed(f"the encoder of {self.model.name} ended (log: {self._log}): {error}") from error

    def _read(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise ValueError(self._log.read_text("utf-8", "replace").strip()[-500:] or "no answer")
        answer = json.loads(line)
        if "error" in answer:
            raise JobFailed(answer["error"])
        return answer

    @property
    def _log(self) -> Path:
        return self._folder / "encoder.log"

    def _start(self) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        job = self._folder / "encoder.json"
        job.write_text(json.dumps({"model": str(self.model), "parent_pid": os.getpid()}), "utf-8")
        environment = select_job_environment(os.environ) | {"PYTHONPATH": str(CHECKOUT), "PYTHONSAFEPATH": "1"}
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "plugins.browse.encoder_job", str(job)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="utf-8",
                env=environment,
                start_new_session=True,  # Ctrl-C reaches only this process
            )
        try:
            self._read(self._process)
        except (OSError, ValueError) as error:
            self._end()
            raise JobFailed(f"{self.model} cannot be loaded (log: {self._log}): {error}") from error
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(OSError):
            if process.stdin is not None:
                process.stdin.close()
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            process.terminate()
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def close(self) -> None:
        """End the process."""
        self._end()
