"""Job files: how a job is read, locked and ended. tasks/engine/subprocess_job.py writes them and starts the job."""

import atexit
import errno
import faulthandler
import gc
import json
import logging
import os
import platform
import re
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, Self, TextIO, TypeVar, cast

import torch
import torch.distributed as dist
from filelock import FileLock, Timeout
from pydantic import Field, PositiveInt, ValidationError, model_validator

from dataops.config import FrozenModel
from dataops.digest import canonical_json, file_sha256, text_sha256
from dataops.errors import ConfigError, PairmillError, StorageError
from dataops.kernels.without_package import skip_pandas
from dataops.process import RETRYABLE, exit_with_parent, has_gpu
from dataops.regular_files import read_bytes
from training import distributed
from training.config import TrainConfig
from training.evaluation.suite import Suite
from training.model.checkpoint import write_atomically
from training.model_config import load_model_config
from training.rendezvous import LAUNCHER_PID

logger = logging.getLogger(__name__)

# Failures of GPUs, ranks and disks: 75 for what may heal, 2 for what never does -----------------------------------------
# torch reports them as RuntimeErrors, whose text alone tells their kinds apart.

KERNEL_LOG = Path("/dev/kmsg")
RECENT_SECONDS = 600
"""Age of the oldest line of the kernel's log that may explain a failure."""
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG, errno.ESTALE}
_GPU = re.compile(
    r"\b(CUDA|HIP|cuDNN|NCCL) (driver )?error|\b(CUDNN|CUBLAS|CUSOLVER)_STATUS_|\bnccl(Unhandled|System|Internal|Remote)|"
    r"Triton Error|cudaGetDeviceCount|NVML_SUCCESS"
)
_BUG = re.compile(r"device-side assert|CUDA error: invalid argument")
"""Failures of the program, which a rerun repeats and no setting heals."""
_NEVER_HEALS = {
    r"Duplicate GPU|ncclInvalid(Usage|Argument)": (
        "give each rank a GPU of its own (train.nproc, CUDA_VISIBLE_DEVICES), and read what NCCL logs with NCCL_DEBUG=WARN"
    ),
    r"Failed to find C compiler|InvalidCxxCompiler|No working C\+\+ compiler|C\+\+ compile error": (
        "install a C compiler and its headers (gcc and libc6-dev; CC and CXX name others), or set compile = false"
    ),
    r"working triton installation|too old to be supported by the triton|out of resource:": (
        "set compile = false, or install the triton that your torch names"
    ),
    r"driver on your system is too old|driver version is insufficient|insufficient driver|cuda driver combination|"
    r"unsupported toolchain|forward compatibility|library version mismatch": (
        "update the NVIDIA driver and start the machine again, or install a torch that is built for an older CUDA "
        "(`pairmill doctor`)"
    ),
    r"no kernel image|kernel image is invalid|[nN]ot compiled with CUDA|gpu-arch|ptxas fatal|have NCCL": (
        "install the build of torch for this GPU"
    ),
    r"invalid device ordinal|No CUDA GPUs|no NVIDIA driver|no CUDA-capable device": (
        "correct CUDA_VISIBLE_DEVICES, or install the driver"
    ),
    r"cuDNN Frontend error|STATUS_(NOT_SUPPORTED|INVALID_VALUE|BAD_PARAM|\w*VERSION_MISMATCH)|find an engine|"
    r"cuDNN algorithm": (
        "set another precision, a smaller batch_size, or deterministic = false, or remove other versions of CUDA from "
        "LD_LIBRARY_PATH"
    ),
    r"shared memory (segment|object)|memory\(shm\)": "give the container a larger /dev/shm (docker run --shm-size=16g)",
}
"""Remedies of failures that come from the machine's software or the config, by the text that tells them."""
_LOST = re.compile(r"\bgloo\b|connection (closed|reset) by peer|broken pipe|socket timeout|timed out waiting", re.I)
_XID = re.compile(r"^\d+,\d+,(\d+),.*?(NVRM: Xid .*)$", re.MULTILINE)
"""Line of /dev/kmsg: its time in microseconds since boot, and the GPU's error. Source: Linux, Documentation/ABI/testing/
dev-kmsg; NVIDIA, Xid Errors."""


_OUT_OF_MEMORY = re.compile(r"out of memory|_STATUS_ALLOC_FAILED|DefaultCPUAllocator|bad_alloc", re.IGNORECASE)
"""Texts of the allocators of the device, of its libraries, and of the host."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an allocator, of the device or of the host, ran out of memory."""
    if isinstance(error, RuntimeError):
        return _OUT_OF_MEMORY.search(str(error)) is not None
    return isinstance(error, MemoryError)


class Resumable(PairmillError):
    """The job ended, and starting it again resumes it."""

    exit_code = RETRYABLE
    retryable = True


class DeviceFailed(Resumable):
    """A GPU or its connection to others failed."""


class RanksStuck(Resumable):
    """No step ended for long, since the ranks wait for one of them."""


class RankLost(Resumable):
    """Another rank ended, so that this one cannot continue; the other one has the cause."""


def explain_failure(error: BaseException, kernel_log: Path = KERNEL_LOG) -> PairmillError | None:
    """Return the error to end a job with: for a failure of memory, a disk, a GPU, a compiler or another rank; else None."""
    if isinstance(error, OSError):
        return _explain_disk(error)
    text, where = str(error), f"rank {distributed.rank()} on {platform.node()}"
    if is_out_of_memory(error):
        return ConfigError(
            f"out of memory on {where}, outside of a step ({_first_line(text) or 'MemoryError'}): end what else "
            'uses it (nvidia-smi), lower the batch size, or set sharding = "full" on several GPUs'
        )
    if not isinstance(error, RuntimeError | AssertionError | torch.cuda.DeferredCudaCallError) or _BUG.search(text):
        return None
    for pattern, remedy in _NEVER_HEALS.items():
        if line := next((line for line in reversed(text.splitlines()) if re.search(pattern, line)), None):
            return ConfigError(f"{where}: {line.strip()}: {remedy}")
    reason = ": ".join(_first_line(part) for part in text.split("Last error:\n"))  # the second one is NCCL's
    if "system not yet initialized" in text:
        return DeviceFailed(
            f"{where}: {reason}; start nvidia-fabricmanager of the driver's version, and run the job again"
        )
    if isinstance(error, torch.AcceleratorError | dist.DistBackendError) or _GPU.search(text):
        xids = _describe_xids(kernel_log)
        return DeviceFailed(f"the GPU of {where} failed: {reason}; {xids}; run the job again to resume it")
    if isinstance(error, dist.DistError) or _LOST.search(text):
        return RankLost(f"{where} lost another rank: {reason}; run the job again to resume it")
    return None


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def _explain_disk(error: OSError) -> StorageError | None:
    if error.errno not in _DISK:
        return None
    problem = f"{error.filename or 'the folder of the job'}: {error.strerror}"
    return StorageError(f"{problem}; make room or repair the disk, and run the job again to resume it", retryable=False)


def _describe_xids(kernel_log: Path) -> str:
    """Return the errors of GPUs that the kernel has logged lately, or where to look for them."""
    try:
        log = _read_kernel_log(kernel_log)
    except OSError:
        return f"look for 'NVRM: Xid' in the kernel's log of {platform.node()}"
    since = time.clock_gettime(time.CLOCK_MONOTONIC) - RECENT_SECONDS
    xids = [text.strip() for microseconds, text in _XID.findall(log) if int(microseconds) / 1e6 >= since]
    return "; ".join(xids[-3:]) or f"the kernel's log of {platform.node()} has no Xid"


def _read_kernel_log(path: Path) -> str:
    """Read what the log holds now: each read returns one line, and fails when there is none."""
    lines = []
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        while line := os.read(descriptor, 8192):
            lines.append(line)
    except BlockingIOError:
        pass
    finally:
        os.close(descriptor)
    return b"".join(lines).decode("utf-8", "replace")


# A stuck rank: the others would wait for it for half an hour -----------------------------------------------------------

STUCK_SECONDS = 60.0
"""Least time without a step after which a rank counts as stuck."""
STUCK_MEDIANS = 5
"""The same time as a multiple of the median time of a step."""
KNOWN_STEPS = 5
"""Steps whose time is known before any has a limit: the first ones compile and connect."""
ANSWER_SECONDS = 15
"""Time that a rank waits for what the others say of their exchanges; the steps of all end at about the same time."""


RECORDS = "flight-records"
"""Folder in a job's output with the stacks and the last exchanges of each rank that did not go on."""


class StuckWatch:
    """Ends the job with 75 if no step ends for long, names the rank that the others wait for, and keeps all stacks.

    Active inside a `with`, and only where there are several ranks. faulthandler writes the stacks from a thread of its
    own, also those of a rank that never releases the interpreter. A thread of each rank then tells the others, through
    the store in which they met, how many exchanges it has begun: the rank that is behind, or does not answer, is the
    one.

    Args:
        output: folder of the job, of this machine.
        seconds: least time without a step.
    """

    def __init__(self, output: Path, seconds: float = STUCK_SECONDS):
        self._output, self._least = output, seconds
        self._poll = seconds / STUCK_SECONDS
        self._times: deque[float] = deque(maxlen=100)
        self._since: float | None = None
        self._armed, self._step = 0.0, 0
        self._ended, self._stuck = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="stuck", daemon=True)
        self._stacks: TextIO | None = None

    def __enter__(self) -> Self:
        if distributed.world_size() > 1:
            (self._output / RECORDS).mkdir(parents=True, exist_ok=True)
            self._stacks = (self._output / RECORDS / f"stacks-{distributed.rank()}.txt").open("w", encoding="utf-8")
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._stuck.is_set():  # another rank has ended first, and this error is the lost connection to it
            self._thread.join()
        self._ended.set()
        self.pause()
        if self._stacks is not None:
            self._stacks.close()
            if not Path(self._stacks.name).stat().st_size:
                Path(self._stacks.name).unlink()

    def end_step(self, step: int, *, is_limited: bool) -> None:
        """Note that a step has ended, from which the next one has a limit, once KNOWN_STEPS are known.

        Args:
            step: its number.
            is_limited: False: the next step waits for shards to arrive, however long that takes.
        """
        now = time.monotonic()
        if self._since is not None:
            self._times.append(now - self._since)
        self._step, self._since = step, now if is_limited else None
        if self._stacks is None or not is_limited or len(self._times) < KNOWN_STEPS:
            return
        if now - self._armed > self._poll:  # arming starts a thread
            self._armed = now
            faulthandler.dump_traceback_later(self._limit, file=self._stacks)

    def pause(self) -> None:
        """Set no limit until the next step has ended, as for a checkpoint or an evaluation."""
        self._since, self._armed = None, 0.0
        if self._stacks is not None:
            faulthandler.cancel_dump_traceback_later()

    @property
    def _limit(self) -> float:
        return max(self._least, STUCK_MEDIANS * statistics.median(self._times))

    def _run(self) -> None:
        while not self._ended.wait(self._poll):
            since = self._since if self._armed else None
            # The stacks are written before, by a limit that began at most one poll earlier.
            if since is not None and time.monotonic() - since > self._limit + self._poll:
                self._end()

    def _end(self) -> NoReturn:
        """Exchange with the other ranks how far each is, report it, and end this process."""
        self._stuck.set()
        write_flight_record(self._output / RECORDS)
        core = dist.distributed_c10d
        store, group = core._get_default_store(), cast(Any, core._get_default_group())
        own = {"exchanges": group._get_sequence_number_for_group(), "host": platform.node()}
        store.set(f"stuck/{distributed.rank()}", json.dumps(own))
        names = [f"stuck/{rank}" for rank in range(distributed.world_size())]
        deadline = time.monotonic() + ANSWER_SECONDS
        while not store.check(names) and time.monotonic() < deadline:
            time.sleep(self._poll)
        found = [json.loads(store.get(name)) if store.check([name]) else None for name in names]
        error = RanksStuck(
            f"no step ended for {self._limit:.0f} s after step {self._step:,}: {describe_stuck(found)}; the stacks of each "
            f"rank are in {self._output / RECORDS}; run the job again to resume it"
        )
        logger.error("%s", error)
        _write_failure(self._output, error)
        time.sleep(4 * self._poll)  # the others may still read the store, which ends with rank 0
        _end_process(error.exit_code)


def describe_stuck(found: Sequence[Mapping[str, Any] | None]) -> str:
    """Return which ranks the others wait for.

    Args:
        found: for each rank, the number of exchanges that it has begun, and its host; None: it does not answer.
    """
    most = max(one["exchanges"] for one in found if one is not None)
    waited = [
        f"rank {rank}" + (", which does not answer" if one is None else f" on {one['host']}")
        for rank, one in enumerate(found)
        if one is None or one["exchanges"] < most
    ]
    if not waited:
        return "all ranks have begun the same exchange, and it does not end"
    return f"the other ranks wait for {' and '.join(waited)}"


def write_flight_record(folder: Path) -> None:
    """Write NCCL's last exchanges of this rank, if it keeps them."""
    dump = getattr(getattr(torch._C, "_distributed_c10d", None), "_dump_nccl_trace", None)
    if dump is not None and torch.cuda.is_initialized():
        (folder / f"rank-{distributed.rank()}").write_bytes(dump())


LOCK_SECONDS = 10
FAILURE = "failure.json"
"""File in a job's output with the exit code and message of a deliberate error: torchrun itself always exits with 1."""


class JobFile(FrozenModel):
    """The fields of every job file."""

    parent_pid: int | None = Field(default=None, gt=0)
    """Process whose end ends the job."""


Kind = TypeVar("Kind", bound=JobFile)


class RanksJob(JobFile):
    """A job that may run in several processes."""

    output: Path
    """Folder of the job, made where it is missing; a restart continues what it holds."""


class Job(RanksJob):
    """A training job."""

    train: TrainConfig
    """The `[train]` table."""
    seed: int = 0
    """Seed of the first weights, the order of samples and the augmentation."""
    shards: tuple[Path, ...]
    """WebDataset tars; their order is that of the samples' indices."""
    datasets: tuple[PositiveInt, ...] = ()
    """Number of shards of each dataset of `train.dataset`, in its order; empty: all shards are of one dataset."""
    suite: Suite | None = None
    """Suite that `train.evaluate_every` evaluates on."""
    features: Path | None = None
    """Folder that keeps computed features after the job; None: in the output, until it is done."""
    checksums: dict[str, str] = Field(default_factory=dict)
    """The sha256 that a shard must have, by its path, or by its file name where only one shard has that."""
    arriving: dict[str, int] = Field(default_factory=dict)
    """Size in bytes of each shard that arrives while training runs, by file name (training/data/shard_files.py).

    Beside each lie its .idx and its part-*.parquet from the start; the process that brings a shard compares its
    checksum."""

    @model_validator(mode="after")
    def _has_all_datasets(self) -> Self:
        if len(self.datasets) != len(self.train.dataset) or (self.datasets and sum(self.datasets) != len(self.shards)):
            raise ValueError(
                f"datasets: {len(self.datasets)} numbers with a sum of {sum(self.datasets)}, for "
                f"{len(self.train.dataset)} tables train.dataset and {len(self.shards)} shards"
            )
        return self

    def digest(self, *, placement: bool = True) -> str:
        """Return the digest of all that decides the weights: only checkpoints and models with an equal one are used.

        Args:
            placement: include what decides only the last bits of sums: device, threads, and number of ranks.

        Raises:
            ConfigError: the model's config or a shard cannot be read.
        """
        try:
            shards = [(s.name, self.arriving.get(s.name) or s.stat().st_size) for s in self.shards]
        except OSError as error:
            raise ConfigError(f"shard {error.filename}: {error.strerror}") from error
        left_out = () if placement else TrainConfig.placement_fields
        settings = {name: value for name, value in self.train.key_config().items() if name not in left_out}
        model = load_model_config(self.train.model).model_dump(mode="json")
        return text_sha256(canonical_json([settings, model, self.seed, shards]))


def prepared_folder(job: Job) -> Path:
    """Return the folder of what a start of a job computes for the next ones (training/preparation.py)."""
    return job.output / "prepared"


class Stopped(Resumable):
    """The job was asked to stop, or another one holds its output."""


def read_job(arguments: list[str], kind: type[Kind]) -> Kind:
    """Read the job file that a command line names.

    Raises: ConfigError for a wrong number of arguments, an unreadable file or invalid fields.
    """
    if len(arguments) != 1:
        raise ConfigError(f"the command takes one argument, JOB.json, and got {len(arguments)}")
    try:
        return kind.model_validate_json(read_bytes(arguments[0]))
    except OSError as error:
        raise ConfigError(f"cannot read {arguments[0]}: {error.strerror}") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'job'}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{arguments[0]}: {problems}") from error


def log_to_stderr() -> None:
    """Log lines with the time of day, as tasks/engine/subprocess_job.py reads them."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")


def run_process(main: Callable[[list[str]], int]) -> NoReturn:
    """Run the command of a job as this process, and end it with the exit code.

    A process that aborts writes the stacks of its threads, those of native code too. A rank ends
    without the destructors of native libraries, since a thread of them that still runs then would
    abort it, though its work is done.
    """
    torch._C._set_print_stack_traces_on_fatal_signal(True)
    faulthandler.enable()  # after torch's handler, which it calls, also when Python has ended
    code = main(sys.argv[1:])
    if "RANK" in os.environ:
        atexit._run_exitfuncs()  # which ends the processes of its loader
        _end_process(code)
    sys.exit(code)


def _end_process(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def run_command(arguments: list[str], kind: type[Kind], run: Callable[[Kind], object]) -> int:
    """Run the job file that a command line names, and return the exit code of dataops/errors.py."""
    log_to_stderr()
    skip_pandas()
    job: Kind | None = None
    try:
        job = read_job(arguments, kind)
        for pid in (job.parent_pid, os.environ.get(LAUNCHER_PID)):
            if pid:
                exit_with_parent(int(pid))
        run(job)
    except PairmillError as error:
        logger.error("%s", error)
        return _report(job, error)
    except Exception as error:
        if (explained := explain_failure(error)) is None:
            raise
        logger.error("%s", explained, exc_info=error)
        return _report(job, explained)
    finally:
        gc.collect()  # a model's hold on the process group must end before the group does, or gloo aborts or hangs
        distributed.leave()
    return 0


def _report(job: JobFile | None, error: PairmillError) -> int:
    """Write failure.json, unless the error only follows from that of another rank, and return the exit code."""
    if isinstance(job, RanksJob):
        _write_failure(job.output, error)
    return error.exit_code


def _write_failure(output: Path, error: PairmillError) -> None:
    if isinstance(error, RankLost) and (output / FAILURE).exists():
        return
    failure = {"exit_code": error.exit_code, "error": type(error).__name__, "message": str(error)}
    with suppress(OSError):
        output.mkdir(parents=True, exist_ok=True)
        write_atomically(output / FAILURE, json.dumps(failure))


def resolve_device(requested: str, why_gpu: str | None = None) -> torch.device:
    """Return the device of this rank; `auto` is CUDA if torch sees it, and the CPU only where nothing points to a GPU.

    Args:
        why_gpu: what points to a GPU, beside the device files of its driver.

    Raises: ConfigError if something points to a GPU that torch cannot use, or if it sees fewer GPUs than this machine has
        ranks; DeviceFailed if the GPUs are still starting.
    """
    is_there = torch.cuda.is_available()
    why_gpu = "cuda is requested" if requested == "cuda" else why_gpu or ("/dev/nvidia is there" if has_gpu() else None)
    if requested not in ("auto", "cuda") or not (is_there or why_gpu):
        return torch.device("cpu" if requested == "auto" else requested)
    ranks, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if not is_there:
        raise _explain_no_cuda(why_gpu or "")
    if ranks > gpus:
        raise ConfigError(
            f"nproc: {ranks} ranks need {ranks} GPUs of this machine, and torch sees {gpus}: set train.nproc = {gpus}, "
            "or let the job see more GPUs (CUDA_VISIBLE_DEVICES, or `gpus` of its work pool)"
        )
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def _explain_no_cuda(reason: str) -> PairmillError:
    """Return why torch cannot use a GPU although something indicates one."""
    try:
        torch.cuda.init()
        found = f"torch {torch.__version__} sees no CUDA device"
    except Exception as error:
        explained = explain_failure(error)
        if isinstance(explained, DeviceFailed):
            return explained
        found = str(explained or error)
    return ConfigError(f'device: {reason}, but torch can use no GPU: {found}; to use the CPU, set device = "cpu"')


@contextmanager
def lock_output(output: Path, timeout: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold the lock of the output folder; rank 0 does so for all.

    Raises: Stopped if another trainer holds it for `timeout` seconds; ConfigError if the folder cannot be written.
    """
    with ExitStack() as held:
        problem = None
        if distributed.rank() == 0:
            try:
                output.mkdir(parents=True, exist_ok=True)
                held.enter_context(FileLock(output / ".lock", timeout=timeout))
                (output / FAILURE).unlink(missing_ok=True)
            except Timeout:
                problem = f"another trainer holds {output}"
            except OSError as error:
                raise ConfigError(f"output {output}: {error.strerror}") from error
        problem = distributed.broadcast_from_first(problem)
        if problem is not None:
            raise Stopped(problem)
        yield


def is_done(output: Path, digest: str) -> bool:
    """Return whether this job has ended: done.json is its own, and every file has the digest that it lists."""
    ended = False
    if distributed.rank() == 0 and (output / "done.json").exists():
        with suppress(ValueError):  # a power failure can leave it empty
            done = json.loads((output / "done.json").read_text("utf-8"))
            ended = done["job"] == digest and all(
                (output / name).exists() and file_sha256(output / name) == sha256
                for name, sha256 in done["files"].items()
            )
    return distributed.broadcast_from_first(ended)
