"""The environment variables that reach a job (training, evaluation, scoring), a server or a worker: lists of names.

A list of forbidden names cannot be complete, because anyone may invent a name for a secret. JOB_ENVIRONMENT adds names.
"""

import re
from collections.abc import Mapping

from dataops.errors import ConfigError
from dataops.redaction import is_secret_variable, remove_credentials

JOB_ENVIRONMENT = "PAIRMILL_JOB_ENVIRONMENT"
"""Environment variable with further names that reach jobs, separated by commas; each passes whatever its value is."""
_EXACT = """
PATH HOME USER LOGNAME SHELL TZ LANG LANGUAGE TMPDIR TEMP TMP XDG_CACHE_HOME XDG_CONFIG_HOME XDG_DATA_HOME
LD_LIBRARY_PATH LD_PRELOAD DYLD_LIBRARY_PATH VIRTUAL_ENV CONDA_PREFIX MALLOC_CONF _RJEM_MALLOC_CONF
MALLOC_ARENA_MAX MALLOC_TRIM_THRESHOLD_ MALLOC_MMAP_THRESHOLD_ MALLOC_TOP_PAD_
PYTHONDONTWRITEBYTECODE PYTHONFAULTHANDLER PYTHONHASHSEED PYTHONHOME PYTHONIOENCODING PYTHONMALLOC PYTHONNOUSERSITE
PYTHONPATH PYTHONPYCACHEPREFIX PYTHONTRACEMALLOC PYTHONUNBUFFERED PYTHONUSERBASE PYTHONUTF8 PYTHONWARNINGS
NVIDIA_VISIBLE_DEVICES NVIDIA_DRIVER_CAPABILITIES NVIDIA_TF32_OVERRIDE
HIP_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES GPU_DEVICE_ORDINAL HSA_OVERRIDE_GFX_VERSION
ATEN_CPU_CAPABILITY VECLIB_MAXIMUM_THREADS NUMBA_NUM_THREADS NUMBA_CACHE_DIR RAYON_NUM_THREADS
POLARS_MAX_THREADS TOKENIZERS_PARALLELISM CC CXX CPATH LIBRARY_PATH
HF_HOME HF_HUB_CACHE HF_HUB_OFFLINE HF_ENDPOINT HF_HUB_ETAG_TIMEOUT HF_HUB_DOWNLOAD_TIMEOUT
HF_HUB_DISABLE_TELEMETRY DO_NOT_TRACK SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE
HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY http_proxy https_proxy all_proxy no_proxy
PAIRMILL_HOME PAIRMILL_ELSEWHERE PAIRMILL_CACHE_BYTES PAIRMILL_SERVICE
"""
_OF_WORKERS = """
AWS_PROFILE AWS_DEFAULT_PROFILE AWS_REGION AWS_DEFAULT_REGION AWS_ENDPOINT_URL AWS_ENDPOINT_URL_S3 AWS_CONFIG_FILE
AWS_SHARED_CREDENTIALS_FILE AWS_WEB_IDENTITY_TOKEN_FILE AWS_ROLE_ARN AWS_ROLE_SESSION_NAME AWS_CA_BUNDLE AWS_MAX_ATTEMPTS
AWS_RETRY_MODE AWS_EC2_METADATA_DISABLED AWS_REQUEST_CHECKSUM_CALCULATION AWS_RESPONSE_CHECKSUM_VALIDATION
OPENLINEAGE_URL OPENLINEAGE_ENDPOINT OPENLINEAGE_DISABLED PAIRMILL_STORES PAIRMILL_GIT_COMMIT PAIRMILL_OSV_URL
RAY_ADDRESS WANDB_MODE WANDB_DIR WANDB_BASE_URL WANDB_PROJECT WANDB_ENTITY
"""
_BEGINNINGS = "LC_ CUDA_ CUBLAS_ CUDNN_ NCCL_ GLOO_ OMP_ GOMP_ KMP_ MKL_ DNNL_ ONEDNN_ OPENBLAS_ TORCH_ PYTORCH_"
_BEGINNINGS += " TORCHINDUCTOR_ TORCHDYNAMO_ TRITON_ FI_ OFI_ UCX_ RDMAV_"
NAMES = frozenset([JOB_ENVIRONMENT, *_EXACT.split()])
"""Names that reach each job. A value that is a URL with credentials does not: a proxy with a password."""
FAMILIES = tuple(_BEGINNINGS.split())
"""Beginnings of names of settings of libraries, which reach each job too, unless `is_secret_variable` names them."""
WORKER_NAMES = NAMES | frozenset(_OF_WORKERS.split())
"""Names that reach a local worker of flows, besides FAMILIES."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def select_job_environment(
    environ: Mapping[str, str], *, added: bool = True, allowed: frozenset[str] = NAMES
) -> dict[str, str]:
    """Return the variables of an environment that a job gets.

    Args:
        added: with the names in JOB_ENVIRONMENT.
        allowed: NAMES, or WORKER_NAMES for a worker.

    Raises: ConfigError if JOB_ENVIRONMENT is no list of names.
    """
    listed = environ.get(JOB_ENVIRONMENT, "") if added else ""
    names = {name for part in listed.split(",") if (name := part.strip())}
    if wrong := sorted(name for name in names if not _NAME.fullmatch(name)):
        raise ConfigError(f"{JOB_ENVIRONMENT}: {wrong[0]!r} is no name of a variable; separate names by commas")

    def passes(name: str, value: str) -> bool:
        is_allowed = (name in allowed or name.startswith(FAMILIES)) and not is_secret_variable(name)
        return name in names or (is_allowed and remove_credentials(value) == value)

    return {name: value for name, value in environ.items() if passes(name, value)}
