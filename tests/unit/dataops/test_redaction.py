import pickle

import pytest
from pydantic import BaseModel

from dataops.errors import JobFailed, StorageError
from dataops.redaction import is_secret_name, is_secret_variable, redact, scrub_errors

KEY = "wJalrXUtnFEMI/K7MDENG+planted"
PASSWORD = "p4ssword"
VARIABLE = "AWS_SECRET_ACCESS_KEY"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv(VARIABLE, KEY)


@pytest.mark.parametrize(
    "name",
    [
        *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING", "HF_TOKEN"),
        *("PREFECT_SERVER_API_AUTH_STRING", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "POSTGRES_PASSWORD"),
        *("token", "db.password", "api-key", "access_key", "store.secret"),
    ],
)
def test_is_secret_name_detects_secrets(name):
    assert is_secret_name(name)


_SECRET_VARIABLES = """
    OPENAI_KEY GH_PAT GITHUBPAT DB_PASS SLACK_WEBHOOK_URL JWT CI_JOB_JWT NCCL_PSK TORCH_HUB_PW CUDA_CERT_PEM PGPASSWORD
    MYSQL_PWD
    REDISCLI_AUTH SSHPASS S3_KEY KEY API_KEYS DEPLOY_KEY_2 TF_VAR_db_password dbPassword AZURE_STORAGE_CONNECTION_STRING
    SENTRY_DSN AZURE_STORAGE_SAS STRIPE_SK RABBITMQ_COOKIE VAULT_SECRET_ID AWS_ACCESS_KEY_ID NPM_CONFIG__AUTH GITHUB_TOKENS
"""


@pytest.mark.parametrize("name", _SECRET_VARIABLES.split())
def test_variables_with_names_of_secrets_are_hidden_and_reach_no_job(name, monkeypatch):
    monkeypatch.setenv(name, "planted-value")
    assert redact("it is planted-value!") == "it is ***!"
    assert is_secret_variable(name)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("http://user:p4ss@host/x", "http://host/x"),
        ("http://user:p@ss@host/x", "http://host/x"),
        ("see https://example.org/@me and a@b.org", "see https://example.org/@me and a@b.org"),
        (
            "https://b.s3.amazonaws.com/k?X-Amz-Signature=abc&x=1",
            "https://b.s3.amazonaws.com/k?X-Amz-Signature=***&x=1",
        ),
        ("https://h/?access_token=abc#t", "https://h/?access_token=***#t"),
        ("lr=0.1, token=5", "lr=0.1, token=5"),
        (f"key {KEY} there", "key *** there"),
        ("quoted wJalrXUtnFEMI%2FK7MDENG%2Bplanted", "quoted ***"),
        ("Basic d0phbHJYVXRuRkVNSS9LN01ERU5HK3BsYW50ZWQ=", "Basic ***"),
    ],
)
def test_redact_replaces_secrets(text, clean):
    assert redact(text) == clean
    assert redact(clean) == clean


def test_redact_replaces_passwords_of_urls_in_the_environment(monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgresql+psycopg://mill:corr/ect%40horse@db/mill")
    assert redact('password authentication failed: "corr/ect@horse" or corr/ect%40horse') == (
        'password authentication failed: "***" or ***'
    )


def test_redact_replaces_http_basic_credentials(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "u")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "passpass")
    assert redact("Authorization: Basic dTpwYXNzcGFzcw==") == "Authorization: Basic ***"


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [StorageError, lambda text: JobFailed(text, exit_code=75)])
def test_errors_are_redacted_and_can_be_pickled(make):
    error = make(f"cannot reach http://u:p@h with {KEY}")
    assert str(error) == "cannot reach http://h with ***"
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.exit_code) == (str(error), error.exit_code)


class Model(BaseModel):
    number: int


def chained():
    try:
        raise KeyError(KEY)
    except KeyError as error:
        raise RuntimeError("calm") from error


def nested():
    raise ExceptionGroup("several", [ValueError(KEY), OSError(2, "gone", f"/x/{KEY}")])


def wrapped():
    raise ConnectionError(RuntimeError(f"no route to http://u:{PASSWORD}@h {KEY}"))


def noted():
    error = ValueError("x")
    error.add_note(KEY)
    raise error


def raise_(error):
    raise error


@pytest.mark.parametrize(
    "leak",
    [
        *(chained, nested, wrapped, noted),
        lambda: raise_(OSError(2, "gone", f"/x/{KEY}")),
        lambda: raise_(ValueError({"a": [KEY, KEY.encode()]})),
        lambda: Model(number=KEY),
        lambda: raise_(UnicodeDecodeError("utf-8", b"", 0, 1, KEY)),
    ],
)
def test_scrub_errors_removes_secrets_from_causes_and_traceback(leak):
    import traceback

    with pytest.raises(BaseException) as caught, scrub_errors():  # noqa: PT011
        leak()
    text = "".join(traceback.format_exception(caught.value))
    assert KEY not in text
    assert PASSWORD not in text
    assert "***" in text
