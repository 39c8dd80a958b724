"""What every command imports loads no slow package."""

import pytest

from tests.python_code import run_python


@pytest.mark.parametrize(
    ("modules", "slow"),
    [
        ("flows.config, tasks.register.stage", "torch mlflow prefect numba matplotlib img2dataset scrapy"),
        ("infra.local.services", "prefect mlflow torch boto3"),
        ("tasks.pack.card, tasks.register.card", "jinja2"),
        ("training.config", "torch"),
    ],
)
def test_modules_are_imported_without_slow_packages(modules, slow):
    assert run_python(f"import sys, {modules}; print(*sys.modules.keys() & set({slow.split()}))").stdout.split() == []
