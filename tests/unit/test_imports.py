"""What every command imports loads no slow package."""

from tests.python_code import run_python

MODULES = (
    "flows.config, infra.local.services, tasks.pack.card, tasks.register.card, tasks.register.stage, training.config"
)
SLOW = {"boto3", "img2dataset", "jinja2", "matplotlib", "mlflow", "numba", "prefect", "scrapy", "torch"}


def test_modules_are_imported_without_slow_packages():
    assert run_python(f"import sys, {MODULES}; print(*sys.modules.keys() & {SLOW})").stdout.split() == []
