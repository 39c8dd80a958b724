"""Which environment variables reach a job: names that are allowed, not all names but some."""

import pytest

from dataops.errors import ConfigError
from dataops.process import FAMILIES, JOB_ENVIRONMENT, WORKER_NAMES, select_job_environment

_SECRETS = """
    AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AZURE_CLIENT_SECRET AZURE_STORAGE_CONNECTION_STRING
    AZURE_STORAGE_SAS CI_JOB_JWT CLOUDFLARE_API_KEY CONSUL_HTTP_AUTH DATABASE_URL DATADOG_KEY DB_PASS DJANGO_SECRET
    DOCKER_AUTH_CONFIG GCP_SA_JSON GH_PAT GITHUB_PAT GITHUB_TOKEN GOOGLE_APPLICATION_CREDENTIALS GPG_PASSPHRASE HF_TOKEN
    HUGGING_FACE_HUB_TOKEN JWT KAGGLE_KEY KUBECONFIG MLFLOW_TRACKING_PASSWORD MLFLOW_TRACKING_TOKEN MYSQL_PWD NETRC
    NGC_API_KEY NPM_CONFIG__AUTH NVIDIA_API_KEY OPENAI_KEY PGPASSFILE PGPASSWORD PIP_INDEX_URL PREFECT_API_AUTH_STRING
    PREFECT_API_KEY PYPI_PW RABBITMQ_COOKIE REDIS_URL SENTRY_DSN SLACK_WEBHOOK SNOWFLAKE_PWD SSH_AUTH_SOCK SSH_KEY
    STRIPE_SK TF_VAR_db_password TWILIO_SID VAULT_ADDR_AND_TOKEN WANDB_API_KEY
    ACME_THING HAUSMEISTER ZUGANG clave_de_acceso X PYTHONANYWHERE_CODE PAIRMILL_SOMETHING HF_KENNWORT TORCHLIGHT
    CUDA_REGISTRY_TOKEN CUDA_KEY NCCL_PASSWORD TORCH_HUB_PAT OMP_APIKEY MKL_LOGIN LC_SECRET NVIDIA_NGC PYTORCH_AUTH
    RANK WORLD_SIZE MASTER_ADDR MASTER_PORT TORCHELASTIC_RUN_ID
"""
_NEEDED = """
    PATH HOME USER LANG LC_ALL LC_CTYPE TZ TMPDIR LD_LIBRARY_PATH LD_PRELOAD XDG_CACHE_HOME
    CUDA_VISIBLE_DEVICES CUDA_HOME CUDA_LAUNCH_BLOCKING CUDA_MPS_PIPE_DIRECTORY CUBLAS_WORKSPACE_CONFIG
    NVIDIA_VISIBLE_DEVICES NVIDIA_DRIVER_CAPABILITIES NCCL_DEBUG NCCL_SOCKET_IFNAME NCCL_P2P_DISABLE GLOO_SOCKET_IFNAME
    FI_PROVIDER UCX_TLS OFI_NCCL_PROTOCOL CC CXX TORCHINDUCTOR_CACHE_DIR TORCHINDUCTOR_FX_GRAPH_CACHE TRITON_CACHE_DIR
    OMP_NUM_THREADS OMP_WAIT_POLICY MKL_NUM_THREADS MKL_CBWR KMP_AFFINITY ATEN_CPU_CAPABILITY ONEDNN_MAX_CPU_ISA
    TORCH_HOME TORCH_NCCL_BLOCKING_WAIT TORCH_DISTRIBUTED_DEBUG PYTORCH_CUDA_ALLOC_CONF TOKENIZERS_PARALLELISM
    PYTHONHASHSEED PYTHONDONTWRITEBYTECODE PYTHONUTF8 PYTHONWARNINGS HF_HOME HF_HUB_OFFLINE SSL_CERT_FILE
    http_proxy HTTPS_PROXY no_proxy PAIRMILL_HOME PAIRMILL_ELSEWHERE PAIRMILL_SERVICE
"""
_WORDS = "TOKEN KEY API_KEY APIKEY SECRET PASSWORD PASSWD PASS AUTH CREDENTIALS PAT PWD COOKIE DSN PSK HUB_PW CERT_PEM"
SECRETS, NEEDED = _SECRETS.split(), _NEEDED.split()


def test_select_job_environment_returns_what_jobs_need_and_no_other_name():
    environ = dict.fromkeys([*SECRETS, *NEEDED], "planted")
    assert sorted(select_job_environment(environ)) == sorted(NEEDED)


@pytest.mark.parametrize("family", [*FAMILIES, "AWS_", "PAIRMILL_"])
def test_a_secret_whose_name_begins_as_a_setting_reaches_no_job_nor_worker(family):
    environ = {f"{family}{word}": "planted" for word in _WORDS.split()}
    assert select_job_environment(environ, allowed=WORKER_NAMES) == {}


def test_a_worker_gets_settings_of_flows_and_no_unlisted_name():
    settings = dict.fromkeys(["AWS_PROFILE", "AWS_REGION", "OPENLINEAGE_URL", "PAIRMILL_STORES"], "set")
    environ = dict.fromkeys([*SECRETS, *NEEDED], "planted") | settings
    assert select_job_environment(environ, allowed=WORKER_NAMES).keys() == {*NEEDED, *settings}


def test_select_job_environment_drops_urls_with_credentials():
    environ = {"HTTPS_PROXY": "http://me:planted@proxy:3128", "http_proxy": "http://proxy:3128", "HOME": "/home/me"}
    assert sorted(select_job_environment(environ)) == ["HOME", "http_proxy"]


def test_select_job_environment_adds_the_names_that_the_user_lists():
    environ = {JOB_ENVIRONMENT: " WANDB_DIR,HF_TOKEN, NOT_SET,", "WANDB_DIR": "/w", "HF_TOKEN": "planted", "OTHER": "x"}
    assert sorted(select_job_environment(environ)) == ["HF_TOKEN", JOB_ENVIRONMENT, "WANDB_DIR"]


@pytest.mark.parametrize("names", ["*", "A B", "A=1", "HF_*", "A,;B", "1A"])
def test_select_job_environment_raises_for_what_is_no_name(names):
    with pytest.raises(ConfigError, match=JOB_ENVIRONMENT):
        select_job_environment({JOB_ENVIRONMENT: names})
