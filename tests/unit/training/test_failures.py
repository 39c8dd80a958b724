"""Which failures of disks, GPUs and ranks end a job with 75, and what their messages name."""

import errno
import json
import platform
import time

import pytest
import torch
import torch.distributed as dist

from dataops.errors import StorageError
from training import job
from training.job import DeviceFailed, RankLost, explain_failure, resolve_device


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x/metrics.jsonl"), StorageError),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), StorageError),
        (FileNotFoundError(errno.ENOENT, "No such file"), None),
        (torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"), DeviceFailed),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), DeviceFailed),
        (
            RuntimeError("Unexpected error from cudaGetDeviceCount(). Did you ... Error 999: unknown error"),
            DeviceFailed,
        ),
        (RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"), DeviceFailed),
        (
            dist.DistBackendError("NCCL error in: X.cpp:1, remote process exited or there was a network error"),
            DeviceFailed,
        ),
        (dist.DistNetworkError("The client socket has timed out"), RankLost),
        (RuntimeError("[../gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:2"), RankLost),
        (RuntimeError("Timed out waiting 1800000ms for recv operation to complete"), RankLost),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), None),
        (RuntimeError("CUDA error: invalid argument"), None),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
        (ValueError("CUDA error: not torch's"), None),
    ],
)
def test_failures_of_machines_are_retryable(error, kind):
    explained = explain_failure(error)
    assert type(explained) is (type(None) if kind is None else kind)
    if explained is not None:
        assert explained.exit_code == 75
        assert "run the job again" in str(explained)


def run_failing(error, tmp_path):
    path = tmp_path / "job.json"
    path.write_text(json.dumps({"output": str(tmp_path / "out")}))

    def run(_):
        raise error

    code = job.run_command([str(path)], job.RanksJob, run)
    return code, json.loads((tmp_path / "out" / "failure.json").read_text())


@pytest.mark.parametrize(
    ("error", "cause", "remedy"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "CUDA out of memory", "lower the batch"),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might"), "CUDA error: out of memory", "nvidia-smi"),
        (MemoryError(), "MemoryError", "lower the batch size"),
        (
            dist.DistBackendError("NCCL error in: X.cpp:1, invalid usage\nncclInvalidUsage: This reflects\nLast error:\n"
            "Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 1000"), ": Duplicate GPU", "train.nproc",
        ),
        (
            dist.DistBackendError("NCCL error in: X.cpp:3, unhandled system error\nLast error:\n"
            "Error while creating shared memory segment /dev/shm/nccl-1 (size 9637888)"), "/dev/shm/nccl-1", "--shm-size",
        ),
        (RuntimeError("backend='inductor' raised:\nRuntimeError: Failed to find C compiler. Please"), "C compiler", "gcc"),
        (RuntimeError("InvalidCxxCompiler: No working C++ compiler found in cpp.cxx"), "No working C++", "compile = false"),
        (RuntimeError("Triton Error [CUDA]: device kernel image is invalid"), "kernel image is invalid", "build of torch"),
        (RuntimeError("cuDNN Frontend error: [cudnn_frontend] Error: No execution plans"), "cuDNN Frontend", "precision"),
        (RuntimeError("The NVIDIA driver on your system is too old (found version 11040)"), "too old", "update the NVIDIA"),
        (RuntimeError("CUDA error: no kernel image is available for execution"), "no kernel image", "build of torch"),
        (RuntimeError("ptxas fatal   : Value 'sm_121a' is not defined for option"), "sm_121a", "build of torch"),
        (RuntimeError("Distributed package doesn't have NCCL built in"), "have NCCL", "build of torch"),
        (RuntimeError("Cannot find a working triton installation. Either"), "triton", "compile = false"),
        (RuntimeError("cudaGetDeviceCount(). Error 804: forward compatibility was"), "Error 804", "start the mach"),
        (RuntimeError("CUDA error: the PTX was compiled with an unsupported toolchain"), "PTX", "update the NVIDIA"),
        (RuntimeError("Failed to initialize NVML: Driver/library version mismatch"), "NVML", "start the machine again"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_SUBLIBRARY_VERSION_MISMATCH"), "SUBLIBRARY", "LD_LIBRARY_PATH"),
        (RuntimeError("GET was unable to find an engine to execute this computation"), "an engine", "smaller batch_size"),
        (RuntimeError("Error 100: no CUDA-capable device is detected"), "Error 100", "CUDA_VISIBLE_DEVICES"),
        (RuntimeError("CUDA error: invalid device ordinal"), "invalid device ordinal", "CUDA_VISIBLE_DEVICES"),
        (AssertionError("Torch not compiled with CUDA enabled"), "not compiled with CUDA", "build of torch"),
    ],
)  # fmt: skip
def test_failures_that_never_heal_are_config_errors_with_a_remedy(error, cause, remedy, tmp_path):
    """They may come from anywhere in a job: placing the model, an upload, a restored checkpoint, an export."""
    code, failure = run_failing(error, tmp_path)
    assert code == failure["exit_code"] == 2
    assert cause in failure["message"]
    assert remedy in failure["message"]


def test_a_failure_of_nccl_is_named_with_its_cause():
    text = "NCCL error in: X.cpp:3, unhandled system error\nncclSystemError: X\nLast error:\nConnect to 10.0.0.2<4"
    assert "unhandled system error: Connect to 10.0.0.2<4;" in str(explain_failure(dist.DistBackendError(text)))


def test_a_failed_gpu_is_named_with_its_xid(tmp_path):
    now = int(time.clock_gettime(time.CLOCK_MONOTONIC) * 1e6)
    old, new = now - 3_600_000_000, now - 1_000_000
    (tmp_path / "kmsg").write_text(
        f"3,11,{old},-;NVRM: Xid (PCI:0000:17:00): 31, pid=2, an older one\n"
        f"6,12,{new},-;usb 1-1: new device\n"
        f"3,13,{new},-;NVRM: Xid (PCI:0000:3b:00): 79, pid=7, GPU has fallen off the bus.\n"
    )
    error = RuntimeError("CUDA error: unspecified launch failure\nCompile with TORCH_USE...")
    message = str(explain_failure(error, tmp_path / "kmsg"))
    assert message.startswith(f"the GPU of rank 0 on {platform.node()} failed: CUDA error: unspecified launch failure;")
    assert "NVRM: Xid (PCI:0000:3b:00): 79, pid=7, GPU has fallen off the bus." in message
    assert "older" not in message
    assert "look for 'NVRM: Xid'" in str(explain_failure(RuntimeError("CUDA error: unknown error"), tmp_path / "none"))


def test_a_lost_rank_does_not_hide_the_cause(tmp_path):
    def end(error):
        code, failure = run_failing(error, tmp_path)
        return code, failure["error"]

    lost = RuntimeError("Connection closed by peer")
    assert end(lost) == (75, "RankLost")
    assert end(RuntimeError("CUDA error: unknown error")) == (75, "DeviceFailed")
    assert end(lost) == (75, "DeviceFailed")
    with pytest.raises(RuntimeError, match="a bug"):
        end(RuntimeError("a bug"))


@pytest.fixture
def gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)


@pytest.mark.usefixtures("gpus")
def test_more_ranks_than_gpus_are_a_config_error(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(
        job.ConfigError, match=r"3 ranks need 3 GPUs of this machine, and torch sees 2: set train\.nproc = 2"
    ):
        resolve_device("auto")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert resolve_device("cuda") == torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("cause", "kind", "message"),
    [
        (
            "The NVIDIA driver on your system is too old (found version 11040)",
            job.ConfigError,
            "update the NVIDIA driver",
        ),
        ("CUDA error: system not yet initialized", DeviceFailed, "nvidia-fabricmanager"),
        ("Torch not compiled with CUDA enabled", job.ConfigError, 'set device = "cpu"'),
    ],
)
def test_auto_is_the_cpu_only_where_nothing_speaks_of_a_gpu(monkeypatch, cause, kind, message):
    def fail():
        raise RuntimeError(cause)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", fail)
    monkeypatch.setattr(job, "has_gpu", lambda: False)
    assert resolve_device("auto") == resolve_device("cpu", "nproc = 2") == torch.device("cpu")
    for reason in ("nproc = 2", "a work pool"):
        with pytest.raises(kind, match=message):
            resolve_device("auto", reason)
    monkeypatch.setattr(job, "has_gpu", lambda: True)
    with pytest.raises(kind, match=message):
        resolve_device("auto")
    assert resolve_device("cpu") == torch.device("cpu")
